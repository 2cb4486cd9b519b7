#include "workers/serial_worker.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/clock.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/team.h"
#include "workers/testing/gate.h"
#include "workers/testing/manual_clock.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace workers {
namespace {

using test::Gate;
using test::ManualClock;

std::unique_ptr<Team> PoolOf(int threads) { return *MakePool({.limits = {.soft_limit = threads}}); }

// A base that a test holds in its hands.
class SerialOnMemory : public testing::Test {
 protected:
  void MakeGroup(SerialOptions options = {.quantum_time = absl::InfiniteDuration()},
                 Clock* clock = nullptr) {
    group_.emplace(*base_.worker, std::move(options), clock);
  }
  void Give(SerialWorker& worker, std::string entry) {
    ASSERT_TRUE(worker.Do([this, entry = std::move(entry)] { log_.push_back(entry); }).ok());
  }
  void StepToTheEnd() {
    while (base_.performer() == Performed::kRan) {
    }
  }

  std::vector<std::string> log_;
  std::vector<std::string> errors_;
  ErrorHandler record_ = [this](const ErrorReport& report) {
    errors_.push_back(std::string(report.worker) + ": " + std::string(report.status.message()) +
                      " " + std::to_string(report.dropped));
  };
  MemoryWorker base_ = CreateMemoryWorker("base");
  std::optional<SerialGroup> group_;
};

TEST_F(SerialOnMemory, TakesOneTurnForAllThatIsWaiting) {
  MakeGroup();
  SerialWorker worker(*group_);
  Give(worker, "a");
  Give(worker, "b");
  EXPECT_EQ(base_.performer.queued(), 1u);
  EXPECT_THAT(log_, testing::IsEmpty());
  EXPECT_EQ(base_.performer(), Performed::kRan);
  EXPECT_THAT(log_, testing::ElementsAre("a", "b"));
  EXPECT_EQ(base_.performer(), Performed::kIdle);  // it holds nothing while it has nothing to do
}

TEST_F(SerialOnMemory, GivesTheBaseBackAfterAQuantumOfWorks) {
  MakeGroup({.quantum_items = 2});
  SerialWorker hot(*group_);
  SerialWorker cold(*group_);
  for (int i = 1; i <= 5; ++i) Give(hot, "hot" + std::to_string(i));
  Give(cold, "cold");
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("hot1", "hot2", "cold", "hot3", "hot4", "hot5"));
}

TEST_F(SerialOnMemory, GivesTheBaseBackAfterAQuantumOfTime) {
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
  Give(cold, "cold");
  StepToTheEnd();
  // After 6 ms there is some left, after 12 ms there is not: a work is never interrupted.
  EXPECT_THAT(log_, testing::ElementsAre("hot1", "hot2", "cold", "hot3", "hot4"));
}

TEST_F(SerialOnMemory, AWorkerWithoutWorkGetsNoTurn) {
  MakeGroup({.quantum_items = 2});
  SerialWorker worker(*group_);
  Give(worker, "a");
  Give(worker, "b");
  EXPECT_EQ(base_.performer(), Performed::kRan);
  EXPECT_EQ(base_.performer.queued(), 0u);
  Give(worker, "c");
  EXPECT_EQ(base_.performer.queued(), 1u);
  StepToTheEnd();
}

TEST_F(SerialOnMemory, WhatIsGivenInsideAWorkRunsInTheSameTurn) {
  MakeGroup();
  SerialWorker worker(*group_);
  ASSERT_TRUE(worker
                  .Do([&] {
                    Give(worker, "inner");
                    log_.push_back("outer");
                  })
                  .ok());
  EXPECT_EQ(base_.performer(), Performed::kRan);
  EXPECT_THAT(log_, testing::ElementsAre("outer", "inner"));
}

TEST_F(SerialOnMemory, ReportsByItsName) {
  MakeGroup({.name = "connection", .on_error = record_});
  SerialWorker worker(*group_);
  ASSERT_TRUE(worker.Do([] { throw std::runtime_error("boom"); }).ok());
  Give(worker, "next");
  StepToTheEnd();
  EXPECT_THAT(errors_, testing::ElementsAre("connection: std::runtime_error: boom 0"));
  EXPECT_THAT(log_, testing::ElementsAre("next"));
  EXPECT_TRUE(worker.Quit().ok());
  EXPECT_EQ(worker.Do([] {}).message(), "connection has already quit");
}

// --- the end --------------------------------------------------------------------------------

TEST(SerialWorker, DestroyedInItsOwnWorkItRunsWhatWasTaken) {
  auto base = *ThreadWorker::Create();
  std::vector<int> log;
  {
    SerialGroup group(*base);
    auto worker = std::make_unique<SerialWorker>(group);
    SerialWorker* const raw = worker.get();
    Gate begin;
    Gate gone;
    ASSERT_TRUE(raw->Do([&] { begin.Wait(); }).ok());
    ASSERT_TRUE(raw->Do([&, own = std::move(worker)]() mutable {
                     EXPECT_TRUE(own->Do([&] { log.push_back(3); }).ok());
                     log.push_back(1);
                     own = nullptr;
                     gone.Open();
                   })
                    .ok());
    ASSERT_TRUE(raw->Do([&] { log.push_back(2); }).ok());
    begin.Open();
    gone.Wait();
  }  // the group waits for the turn that has lost its worker
  EXPECT_THAT(log, testing::ElementsAre(1, 2, 3));
}

TEST(SerialWorker, DestructionWaitsForWhatWasTaken) {
  auto base = *ThreadWorker::Create();
  SerialGroup group(*base, {.quantum_items = 2});
  int ran = 0;
  {
    SerialWorker worker(group);
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(worker.Do([&] { ++ran; }).ok());
  }
  EXPECT_EQ(ran, 100);
}

TEST(SerialWorker, Hazard4_ForcedUnwindingLosesNothing) {
  auto base = *ThreadWorker::Create();
  SerialGroup group(*base);
  std::vector<std::string> log;
  {
    SerialWorker worker(group);
    Gate begin;
    ASSERT_TRUE(worker.Do([&] { begin.Wait(); }).ok());
    ASSERT_TRUE(worker.Do([] { pthread_exit(nullptr); }).ok());
    ASSERT_TRUE(worker.Do([&] { log.push_back("taken"); }).ok());
    begin.Open();
  }
  EXPECT_THAT(log, testing::ElementsAre("taken"));
}

// The pool quits, now or in the end, under a thousand that are loaded: nothing lost, nothing hangs.
TEST(SerialWorker, APoolMayQuitUnderAThousandLoadedOnes) {
  for (bool now : {false, true}) {
    std::atomic<int> ran = 0;
    std::atomic<int64_t> dropped = 0;
    const ErrorHandler on_error = [&](const ErrorReport& report) { dropped += report.dropped; };
    auto pool = *MakePool({.limits = {.soft_limit = 2}, .on_error = on_error});
    Gate begin;
    int taken = 0;
    {
      SerialGroup group(*pool, {.quantum_items = 2, .on_error = on_error});
      std::vector<std::unique_ptr<SerialWorker>> workers;
      Gate held[2];
      for (Gate& gate : held) {
        ASSERT_TRUE(pool->Do([&] {
                          gate.Open();
                          begin.Wait();
                        })
                        .ok());
      }
      for (Gate& gate : held) gate.Wait();
      for (int i = 0; i < 1000; ++i) {
        workers.push_back(std::make_unique<SerialWorker>(group));
        for (int n = 0; n < 5; ++n) {
          ASSERT_TRUE(workers[i]->Do([&] { ++ran; }).ok());
          ++taken;
        }
      }
      if (now) {
        EXPECT_EQ(pool->QuitNow(), 1000);  // a turn of each, and with it its works
      } else {
        ASSERT_TRUE(pool->Quit().ok());
      }
      begin.Open();
    }
    pool = nullptr;
    EXPECT_EQ(ran + dropped, taken);
    EXPECT_EQ(dropped, now ? taken : 0);
  }
}

// The same while they run, and while another thread gives them more: one of the works has the
// pool quit.
TEST(SerialWorker, APoolMayQuitInTheMiddleOfAThousandLoadedOnes) {
  for (bool now : {false, true}) {
    std::atomic<int> accepted = 0;
    std::atomic<int> refused = 0;
    std::atomic<int> ran = 0;
    std::atomic<int> gone = 0;
    std::atomic<int64_t> dropped = 0;
    auto pool = PoolOf(2);
    Gate begin;
    Gate quit;
    {
      SerialGroup group(*pool, {.quantum_items = 2, .on_error = [&](const ErrorReport& report) {
                                  dropped += report.dropped;
                                }});
      std::vector<std::unique_ptr<SerialWorker>> workers;
      for (int i = 0; i < 1000; ++i) workers.push_back(std::make_unique<SerialWorker>(group));
      const auto give = [&](SerialWorker& worker) {
        std::shared_ptr<void> probe(nullptr, [&](void*) { ++gone; });
        const absl::Status taken = worker.Do([&, probe = std::move(probe)] {
          if (++ran != 500) return;
          if (now) {
            pool->QuitNow();
          } else {
            EXPECT_TRUE(pool->Quit().ok());
          }
          quit.Open();
        });
        EXPECT_TRUE(taken.ok() || IsAlreadyQuit(taken)) << taken;
        ++(taken.ok() ? accepted : refused);
      };
      for (int i = 0; i < 2; ++i) ASSERT_TRUE(pool->Do([&] { begin.Wait(); }).ok());
      for (auto& worker : workers) {
        for (int n = 0; n < 5; ++n) give(*worker);
      }
      std::thread producer([&] {
        for (auto& worker : workers) give(*worker);
        quit.Wait();
        for (auto& worker : workers) give(*worker);
      });
      begin.Open();
      producer.join();
    }
    pool = nullptr;
    EXPECT_EQ(accepted, ran + dropped);
    EXPECT_EQ(gone, accepted + refused);
    EXPECT_GE(accepted, 5000);
    EXPECT_GE(ran, 500);
    if (!now) {
      EXPECT_EQ(dropped, 0);
    }
  }
}

// --- fork -----------------------------------------------------------------------------------

TEST(SerialWorker, Hazard8_InTheChildOfAForkEveryCallIsFailedPrecondition) {
  Gate held;
  Gate release;  // its thread is held while the process forks
  auto base = *ThreadWorker::Create();
  std::optional<SerialGroup> group;
  group.emplace(*base);
  auto busy = std::make_unique<SerialWorker>(*group);
  auto idle = std::make_unique<SerialWorker>(*group);
  ASSERT_TRUE(busy->Do([&] {
                    held.Open();
                    release.Wait();
                  })
                  .ok());
  held.Wait();
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(30);  // a child that hangs is a failure, not a hang of the test
    for (auto* worker : {&busy, &idle}) {
      const auto failed = [](const absl::Status& status) {
        return absl::IsFailedPrecondition(status) && !IsAlreadyQuit(status);
      };
      Work work = [] {};
      if (!failed((*worker)->Do(std::move(work))) || work == nullptr) _exit(1);
      if (!failed((*worker)->Quit())) _exit(2);
      *worker = nullptr;  // returns
    }
    group.reset();
    _exit(0);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  release.Open();
  EXPECT_TRUE(idle->Do([] {}).ok());  // the parent's does not notice
}

// --- fairness -------------------------------------------------------------------------------

// Gives each of `hot_workers` 10,000 works, and then a cold one its only work, on a base of one
// thread. Returns how many of the hot ones' works ran before it.
int WorksBeforeACold(IWorker& base, int hot_workers, SerialOptions options, Clock* clock,
                     const std::function<void()>& hot_work) {
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
                        hot_work();
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

// One hot worker with 10,000 works on a base of one thread: a cold one runs within a quantum.
TEST(SerialWorker, AColdWorkerWaitsForOneQuantumOfAHotOne) {
  const SerialOptions options = {.quantum_items = 64, .quantum_time = absl::InfiniteDuration()};
  auto thread = *ThreadWorker::Create();
  EXPECT_LE(WorksBeforeACold(*thread, 1, options, nullptr, [] {}), 64);
  auto pool = PoolOf(1);
  EXPECT_LE(WorksBeforeACold(*pool, 1, options, nullptr, [] {}), 64);
}

// The same by time: after 10 ms of works that take 1 ms each.
TEST(SerialWorker, AColdWorkerWaitsForOneQuantumOfTimeOfAHotOne) {
  ManualClock clock;
  auto pool = PoolOf(1);
  const int before = WorksBeforeACold(
      *pool, 1,
      {.quantum_items = std::numeric_limits<int>::max(), .quantum_time = absl::Milliseconds(10)},
      &clock, [&] { clock.Advance(absl::Milliseconds(1)); });
  EXPECT_LE(before, 11);  // the quantum, and the longest single work
}

// And with many that are hot, for one quantum of each.
TEST(SerialWorker, AColdWorkerWaitsForOneQuantumOfEachHotOne) {
  auto pool = PoolOf(1);
  const int before = WorksBeforeACold(
      *pool, 10, {.quantum_items = 8, .quantum_time = absl::InfiniteDuration()}, nullptr, [] {});
  EXPECT_LE(before, 10 * 8);
}

// --- cost -----------------------------------------------------------------------------------

TEST(SerialWorker, IsAtMost56Bytes) { EXPECT_LE(sizeof(SerialWorker), 56u); }

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
// The memory of this process that is in the machine's, in bytes.
int64_t ResidentBytes() {
  int64_t total = 0;
  int64_t resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(SerialWorker, AMillionOfThemCostAtMost70BytesEach) {
  constexpr int kMillion = 1'000'000;
  MemoryWorker base = CreateMemoryWorker();
  SerialGroup group(*base.worker);
  std::vector<std::unique_ptr<SerialWorker>> workers(kMillion);  // not counted
  malloc_trim(0);
  const size_t before = mallinfo2().uordblks;
  const int64_t resident = ResidentBytes();
  for (auto& worker : workers) worker = std::make_unique<SerialWorker>(group);
  EXPECT_LE((mallinfo2().uordblks - before) / kMillion, 70u);
  EXPECT_LE((ResidentBytes() - resident) / kMillion, 70);
  EXPECT_GE((ResidentBytes() - resident) / kMillion, 32);  // it is measured
}
#endif

// 10,000 of them over two threads, round robin from two producers, each in its order.
void ExpectTenThousandKeepTheirOrder(IWorker& base) {
  constexpr int kWorkers = 10'000;
  constexpr int kWorks = 20;
  SerialGroup group(base);
  std::vector<int> last(kWorkers, -1);  // each is its worker's
  std::atomic<int> disorder = 0;
  {
    std::vector<std::unique_ptr<SerialWorker>> workers;
    for (int i = 0; i < kWorkers; ++i) workers.push_back(std::make_unique<SerialWorker>(group));
    std::vector<std::thread> producers;
    for (int half = 0; half < 2; ++half) {
      producers.emplace_back([&, half] {
        for (int n = 0; n < kWorks; ++n) {
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
  EXPECT_EQ(std::count(last.begin(), last.end(), kWorks - 1), kWorkers);
}

// A base of two threads: hands its works out in turn.
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
