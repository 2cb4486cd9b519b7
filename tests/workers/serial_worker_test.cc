#include "workers/serial_worker.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/workers/serial_on_memory.h"
#include "workers/clock.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/team.h"
#include "workers/testing/gate.h"
#include "workers/testing/manual_clock.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace workers {
namespace {

using test::Gate;
using test::ManualClock;
using SerialSlices = SerialOnMemory;

std::unique_ptr<Team> PoolOf(int threads) { return *MakePool({.limits = {.soft_limit = threads}}); }

TEST_F(SerialSlices, OneSliceRunsAllItemsThatWait) {
  MakeGroup();
  SerialWorker worker(*group_);
  Submit(worker, "a");
  Submit(worker, "b");
  EXPECT_EQ(base_.performer.queued(), 1u);
  EXPECT_THAT(log_, testing::IsEmpty());
  EXPECT_EQ(base_.performer(), Performed::kRan);
  EXPECT_THAT(log_, testing::ElementsAre("a", "b"));
  EXPECT_EQ(base_.performer(), Performed::kIdle);  // an idle worker holds nothing
}

TEST_F(SerialSlices, ASliceEndsAfterAQuantumOfItems) {
  MakeGroupOfQuantum(2);
  SerialWorker hot(*group_);
  SerialWorker cold(*group_);
  for (int i = 1; i <= 5; ++i) Submit(hot, "hot" + std::to_string(i));
  Submit(cold, "cold");
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("hot1", "hot2", "cold", "hot3", "hot4", "hot5"));
}

TEST_F(SerialSlices, ASliceEndsAfterAQuantumOfTime) {
  ManualClock clock;
  MakeGroup({.quantum_items = 1000, .quantum_time = absl::Milliseconds(10)}, &clock);
  SerialWorker hot(*group_);
  SerialWorker cold(*group_);
  for (int i = 1; i <= 4; ++i) {
    ASSERT_TRUE(hot.Do([&, i] {
                     log_.push_back("hot" + std::to_string(i));
                     clock.Advance(absl::Milliseconds(6));
                   })
                    .ok());
  }
  Submit(cold, "cold");
  StepToTheEnd();
  // After 6 ms some of the quantum is left, after 12 ms none: an item is never interrupted.
  EXPECT_THAT(log_, testing::ElementsAre("hot1", "hot2", "cold", "hot3", "hot4"));
}

TEST_F(SerialSlices, AWorkerWithoutItemsHasNoSlice) {
  MakeGroupOfQuantum(2);
  SerialWorker worker(*group_);
  Submit(worker, "a");
  Submit(worker, "b");
  EXPECT_EQ(base_.performer(), Performed::kRan);
  EXPECT_EQ(base_.performer.queued(), 0u);
  Submit(worker, "c");
  EXPECT_EQ(base_.performer.queued(), 1u);
  StepToTheEnd();
}

TEST_F(SerialSlices, AnItemSubmittedInsideAnItemRunsInTheSameSlice) {
  MakeGroup();
  SerialWorker worker(*group_);
  ASSERT_TRUE(worker
                  .Do([&] {
                    Submit(worker, "inner");
                    log_.push_back("outer");
                  })
                  .ok());
  EXPECT_EQ(base_.performer(), Performed::kRan);
  EXPECT_THAT(log_, testing::ElementsAre("outer", "inner"));
}

TEST_F(SerialSlices, ErrorsCarryTheNameOfTheGroup) {
  MakeGroup({.name = "connection", .on_error = reports_.handler()});
  SerialWorker worker(*group_);
  ASSERT_TRUE(worker.Do([] { throw std::runtime_error("boom"); }).ok());
  Submit(worker, "next");
  StepToTheEnd();
  EXPECT_THAT(reports_.lines(), testing::ElementsAre("connection: std::runtime_error: boom 0"));
  EXPECT_THAT(log_, testing::ElementsAre("next"));
  EXPECT_TRUE(worker.Quit().ok());
  EXPECT_EQ(worker.Do([] {}).message(), "connection has already quit");
}

// --- fairness -------------------------------------------------------------------------------

// Submits 10,000 items to each of `hot_workers` workers and then one to a cold worker, on a base of
// one thread. Returns how many items of the hot workers ran before that one.
int ItemsBeforeACold(IWorker& base, int hot_workers, SerialOptions options, Clock* clock,
                     const std::function<void()>& hot_item) {
  SerialGroup group(base, std::move(options), clock);
  std::vector<std::unique_ptr<SerialWorker>> hot;
  SerialWorker cold(group);
  int hot_ran = 0;
  int before_cold = -1;
  Gate given;
  for (int i = 0; i < hot_workers; ++i) {
    hot.push_back(std::make_unique<SerialWorker>(group));
    EXPECT_TRUE(hot[i]->Do([&] { given.Wait(); }).ok());
    for (int n = 0; n < 10'000; ++n) {
      EXPECT_TRUE(hot[i]
                      ->Do([&] {
                        ++hot_ran;
                        hot_item();
                      })
                      .ok());
    }
  }
  Gate done;
  EXPECT_TRUE(cold.Do([&] {
                    before_cold = hot_ran;
                    done.Open();
                  })
                  .ok());
  given.Open();
  done.Wait();
  hot.clear();
  EXPECT_EQ(hot_ran, 10'000 * hot_workers);
  return before_cold;
}

// One hot worker with 10,000 items on a base of one thread: the item of a cold one waits for one
// quantum.
TEST(SerialWorker, AColdWorkerWaitsForOneQuantumOfAHotOne) {
  const SerialOptions options = {.quantum_items = 64, .quantum_time = absl::InfiniteDuration()};
  auto thread = *ThreadWorker::Create();
  EXPECT_LE(ItemsBeforeACold(*thread, 1, options, nullptr, [] {}), 64);
  auto pool = PoolOf(1);
  EXPECT_LE(ItemsBeforeACold(*pool, 1, options, nullptr, [] {}), 64);
}

// The same by time: after 10 ms of items that take 1 ms each.
TEST(SerialWorker, AColdWorkerWaitsForOneQuantumOfTimeOfAHotOne) {
  ManualClock clock;
  auto pool = PoolOf(1);
  const int before = ItemsBeforeACold(
      *pool, 1,
      {.quantum_items = std::numeric_limits<int>::max(), .quantum_time = absl::Milliseconds(10)},
      &clock, [&] { clock.Advance(absl::Milliseconds(1)); });
  EXPECT_LE(before, 11);  // the quantum, and the longest single item
}

// And with many that are hot, for one quantum of each.
TEST(SerialWorker, AColdWorkerWaitsForOneQuantumOfEachHotOne) {
  auto pool = PoolOf(1);
  const int before = ItemsBeforeACold(
      *pool, 10, {.quantum_items = 8, .quantum_time = absl::InfiniteDuration()}, nullptr, [] {});
  EXPECT_LE(before, 10 * 8);
}

// --- cost -----------------------------------------------------------------------------------

TEST(SerialWorker, IsAtMost56Bytes) { EXPECT_LE(sizeof(SerialWorker), 56u); }

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
// The resident memory of this process, in bytes.
int64_t ResidentBytes() {
  int64_t total = 0;
  int64_t resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(SerialWorker, AMillionOfThemCostAtMost64BytesEach) {
  constexpr int kMillion = 1'000'000;
  MemoryWorker base = CreateMemoryWorker();
  SerialGroup group(*base.worker);
  std::vector<std::unique_ptr<SerialWorker>> workers(kMillion);  // not counted
  malloc_trim(0);
  const size_t before = mallinfo2().uordblks;
  const int64_t resident = ResidentBytes();
  for (auto& worker : workers) worker = std::make_unique<SerialWorker>(group);
  EXPECT_LE((mallinfo2().uordblks - before) / kMillion, 64u);
  EXPECT_LE((ResidentBytes() - resident) / kMillion, 64);
  EXPECT_GE((ResidentBytes() - resident) / kMillion, 32);  // it is measured
}

// B6. What remains are the spare nodes that the group keeps, and not the burst.
TEST(SerialWorker, TheMemoryOfABurstIsGivenBackAfterIt) {
  constexpr int kBurst = 1'000'000;
  MemoryWorker base = CreateMemoryWorker();
  SerialGroup group(*base.worker);
  SerialWorker worker(group);
  const size_t before = mallinfo2().uordblks;
  int ran = 0;
  for (int i = 0; i < kBurst; ++i) ASSERT_TRUE(worker.Do([&ran] { ++ran; }).ok());
  EXPECT_GE(mallinfo2().uordblks - before, kBurst * 48u);  // it is measured
  while (base.performer() == Performed::kRan) {
  }
  EXPECT_EQ(ran, kBurst);
  EXPECT_LE(mallinfo2().uordblks - before, size_t{2} << 20);
}
#endif

// 10,000 of them over two threads, round robin from two producers, each in its order.
void ExpectTenThousandKeepTheirOrder(IWorker& base) {
  constexpr int kWorkers = 10'000;
  constexpr int kItems = 20;
  SerialGroup group(base);
  std::vector<int> last(kWorkers, -1);  // each is its worker's
  std::atomic<int> disorder = 0;
  {
    std::vector<std::unique_ptr<SerialWorker>> workers;
    for (int i = 0; i < kWorkers; ++i) workers.push_back(std::make_unique<SerialWorker>(group));
    std::vector<std::thread> producers;
    for (int half = 0; half < 2; ++half) {
      producers.emplace_back([&, half] {
        for (int n = 0; n < kItems; ++n) {
          for (int i = half; i < kWorkers; i += 2) {
            EXPECT_TRUE(workers[i]
                            ->Do([&, i, n] {
                              if (last[i] != n - 1) ++disorder;
                              last[i] = n;
                            })
                            .ok());
          }
        }
      });
    }
    for (std::thread& producer : producers) producer.join();
  }
  EXPECT_EQ(disorder, 0);
  EXPECT_EQ(std::count(last.begin(), last.end(), kItems - 1), kWorkers);
}

// A base of two threads, which get the items alternately.
class TwoThreads final : public IWorker {
 public:
  absl::Status Do(Work&& work) override {
    return threads_[next_.fetch_add(1) % 2]->Do(std::move(work));
  }
  absl::Status Quit() override { return absl::OkStatus(); }

 private:
  std::atomic<unsigned> next_ = 0;
  std::unique_ptr<ThreadWorker> threads_[2] = {*ThreadWorker::Create(), *ThreadWorker::Create()};
};

TEST(SerialWorker, TenThousandOverTwoThreadsKeepTheirOrder) {
  TwoThreads threads;
  ExpectTenThousandKeepTheirOrder(threads);
  auto pool = PoolOf(2);
  ExpectTenThousandKeepTheirOrder(*pool);
}

}  // namespace
}  // namespace workers
