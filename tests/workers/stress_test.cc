// Everything at once, many thousand rounds: accepted == ran + dropped in every one of them, and
// every thread that ever ran was joined. Orders come from a seed that a failure prints;
// --seed=N or IWORKER_SEED=N in the environment (--test_env) repeats it.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/serial_worker.h"
#include "workers/team.h"
#include "workers/testing/counting_thread_factory.h"
#include "workers/testing/failing_thread_factory.h"
#include "workers/testing/gate.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace workers {
namespace {

using test::CountingThreadFactory;
using test::FailingThreadFactory;
using test::Gate;

constexpr int kRounds = 10'000;
constexpr int kProducers = 3;

uint32_t Seed() {
  const char* given = std::getenv("IWORKER_SEED");
  return given != nullptr ? static_cast<uint32_t>(std::strtoul(given, nullptr, 10))
                          : std::random_device()();
}

// What happened to the works of one round.
struct Tally {
  std::atomic<int> accepted = 0;
  std::atomic<int> ran = 0;
  std::atomic<int> destroyed = 0;  // accepted works whose captures are gone
  std::atomic<int> thrown = 0;
  std::atomic<int> told = 0;
  std::atomic<int> dropped = 0;
};

// The worker of one round. Producers hold references; the last to let go destroys it, often a
// work in its own destructor.
template <typename Worker>
struct Shared {
  ~Shared() {
    worker = nullptr;
    if (gone != nullptr) gone->Open();
  }
  std::unique_ptr<Worker> worker;
  Gate* gone = nullptr;
};

// The capture of every work: counts its destruction, and sometimes calls back from there.
class Probe {
 public:
  enum class Last { kNothing, kDo, kQuit };
  Probe(Tally& tally, std::shared_ptr<Shared<IWorker>> shared, Last last)
      : tally_(&tally), shared_(std::move(shared)), last_(last) {}
  Probe(Probe&& other) noexcept
      : tally_(std::exchange(other.tally_, nullptr)),
        shared_(std::move(other.shared_)),
        last_(other.last_),
        refused_(other.refused_) {}
  ~Probe();

  void Refused() { refused_ = true; }
  Tally& tally() { return *tally_; }

 private:
  Tally* tally_;
  std::shared_ptr<Shared<IWorker>> shared_;  // dropped last: may destroy the worker right here
  Last last_;
  bool refused_ = false;
};

struct TestWork {
  std::unique_ptr<Probe> probe;
  bool throws;
  void operator()() && {
    probe->tally().ran.fetch_add(1);
    if (throws) {
      probe->tally().thrown.fetch_add(1);
      throw std::runtime_error("stress");
    }
  }
};

// Gives one work. A refused one is still the caller's.
void GiveOne(Tally& tally, const std::shared_ptr<Shared<IWorker>>& shared, bool throws,
             Probe::Last last) {
  auto probe = std::make_unique<Probe>(tally, shared, last);
  Probe* const raw = probe.get();
  tally.accepted.fetch_add(1);  // before it can run, so that the sums are right at any time
  Work work = TestWork{std::move(probe), throws};
  if (shared->worker->Do(std::move(work)).ok()) return;
  tally.accepted.fetch_sub(1);
  ASSERT_TRUE(work != nullptr);
  raw->Refused();
}

Probe::~Probe() {
  if (tally_ == nullptr) return;
  if (!refused_) tally_->destroyed.fetch_add(1);
  if (!refused_ && last_ == Last::kDo) GiveOne(*tally_, shared_, false, Last::kNothing);
  if (last_ == Last::kQuit) shared_->worker->Quit().IgnoreError();
}

// The producers live through all rounds; a round is a function that each of them runs.
class Producers {
 public:
  explicit Producers(int count) {
    for (int i = 0; i < count; ++i) workers_.push_back(*ThreadWorker::Create());
  }
  // Runs f(0) ... f(count - 1) at once and waits for all.
  void Run(const std::function<void(int)>& f) {
    Gate go;
    std::vector<Gate> done(workers_.size());
    for (size_t i = 0; i < workers_.size(); ++i) {
      ASSERT_TRUE(workers_[i]
                      ->Do([&, i] {
                        go.Wait();
                        f(static_cast<int>(i));
                        done[i].Open();
                      })
                      .ok());
    }
    go.Open();
    for (Gate& gate : done) gate.Wait();
  }

 private:
  std::vector<std::unique_ptr<ThreadWorker>> workers_;
};

// One producer's part of a round: works at random, a quit at random.
void Produce(Tally& tally, std::shared_ptr<Shared<IWorker>> shared, uint32_t seed,
             bool may_hold_last) {
  std::minstd_rand random(seed);
  const int works = static_cast<int>(random() % 8);
  const int quit_after = static_cast<int>(random() % 16);
  for (int i = 0; i < works; ++i) {
    if (i == quit_after) shared->worker->Quit().IgnoreError();
    const auto last = static_cast<Probe::Last>(random() % 3);
    GiveOne(tally, shared, random() % 4 == 0, random() % 4 == 0 ? last : Probe::Last::kNothing);
  }
  if (!may_hold_last) return;
  shared = nullptr;
}

void ExpectNothingLost(const Tally& tally) {
  ASSERT_EQ(tally.accepted, tally.ran + tally.dropped);
  ASSERT_EQ(tally.accepted, tally.destroyed);
  ASSERT_EQ(tally.thrown, tally.told);
}

TEST(Stress, ThreadWorkersLoseNothing) {
  const uint32_t seed = Seed();
  SCOPED_TRACE(testing::Message() << "IWORKER_SEED=" << seed);
  std::seed_seq seeds{seed};
  std::vector<uint32_t> round_seeds(kRounds);
  seeds.generate(round_seeds.begin(), round_seeds.end());
  CountingThreadFactory counting;
  FailingThreadFactory factory(counting);
  Producers producers(kProducers);
  int failed_starts = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::minstd_rand random(round_seeds[round]);
    Tally tally;
    Gate ended;
    if (random() % 8 == 0) factory.FailNext(1);
    auto shared = std::make_shared<Shared<IWorker>>();
    const auto create = [&] {
      return ThreadWorker::Create(
          {.factory = &factory,
           .on_error = [&tally](const ErrorReport&) { tally.told.fetch_add(1); },
           .on_exit = [&ended] { ended.Open(); }});
    };
    auto worker = create();
    if (!worker.ok()) {  // a thread that cannot be started: an error, and the next one can
      ++failed_starts;
      worker = create();
    }
    ASSERT_TRUE(worker.ok()) << worker.status();
    shared->worker = *std::move(worker);
    producers.Run([&, shared_by_all = std::move(shared)](int i) {
      Produce(tally, shared_by_all, round_seeds[round] + static_cast<uint32_t>(i), true);
    });
    // The function above is gone, and with it the last reference that is not in a work. The
    // worker ends when its works have let go of it, on whatever thread that is.
    ended.Wait();
    ExpectNothingLost(tally);
    if (testing::Test::HasFatalFailure()) FAIL() << "round " << round;
  }
  EXPECT_GT(failed_starts, 0);
  counting.Finish();
  EXPECT_EQ(counting.started(), kRounds);
  EXPECT_EQ(counting.joined(), counting.started());
  EXPECT_GT(counting.orphaned(), 0);  // some did die on their own thread
  RecordProperty("orphaned", std::to_string(counting.orphaned()));
}

TEST(Stress, LockWorkersLoseNothing) {
  const uint32_t seed = Seed();
  SCOPED_TRACE(testing::Message() << "IWORKER_SEED=" << seed);
  Producers producers(kProducers);
  for (int round = 0; round < kRounds; ++round) {
    Tally tally;
    auto shared = std::make_shared<Shared<IWorker>>();
    shared->worker = std::make_unique<LockWorker>(
        LockWorkerOptions{.on_error = [&tally](const ErrorReport&) { tally.told.fetch_add(1); }});
    producers.Run([&](int i) {
      Produce(tally, shared, seed + static_cast<uint32_t>(round * kProducers + i), false);
    });
    ExpectNothingLost(tally);
    if (testing::Test::HasFatalFailure()) FAIL() << "round " << round;
  }
}

// A pool that grows, shrinks, fails to start threads, is poked and quits, now or later, while
// producers give it work; in the end it dies, often in one of its own works.
TEST(Stress, PoolsLoseNothing) {
  const uint32_t seed = Seed();
  SCOPED_TRACE(testing::Message() << "IWORKER_SEED=" << seed);
  CountingThreadFactory counting;
  FailingThreadFactory factory(counting);
  Producers producers(kProducers);
  for (int round = 0; round < kRounds; ++round) {
    std::minstd_rand random(seed + static_cast<uint32_t>(round) * 7919);
    Tally tally;
    if (random() % 4 == 0) factory.FailNext(1);
    const int most = static_cast<int>(random() % 3) + 1;
    auto pool = *MakePool({.limits = {.soft_limit = most, .hard_limit = 4},
                           .factory = &factory,
                           .on_error = [&tally](const ErrorReport& report) {
                             tally.dropped.fetch_add(static_cast<int>(report.dropped));
                             if (report.exception != nullptr) tally.told.fetch_add(1);
                           }});
    Team* const team = pool.get();
    auto shared = std::make_shared<Shared<IWorker>>();
    shared->worker = std::move(pool);
    Gate gone;
    shared->gone = &gone;
    producers.Run([&, all = std::move(shared)](int i) {
      const uint32_t mine = seed + static_cast<uint32_t>(round * kProducers + i);
      std::minstd_rand own(mine);
      for (int n = static_cast<int>(own() % 4); n > 0; --n) {
        switch (own() % 8) {
          case 0:
            team->Grow(1).IgnoreError();
            break;
          case 1:
            team->Shrink(1).IgnoreError();
            break;
          case 2:
            team->Shrink().IgnoreError();
            break;
          case 3:
            team->Grow(0).IgnoreError();
            break;
          case 4:
            tally.dropped.fetch_add(static_cast<int>(team->QuitNow()));
            break;
          default:
            Produce(tally, all, own(), false);
        }
        const TeamStatistics now = team->statistics();
        ASSERT_EQ(now.idle + now.busy + now.starting + now.ending, now.live);
        ASSERT_LE(now.live, 4);
      }
    });
    // Where works hold the last references, the pool dies on one of its own threads.
    gone.Wait();
    while (counting.joined() < counting.started()) {
      if (counting.Reap() == 0) std::this_thread::yield();
    }
    ExpectNothingLost(tally);
    if (testing::Test::HasFatalFailure()) FAIL() << "round " << round;
  }
  EXPECT_EQ(counting.joined(), counting.started());
}

// Serial workers on a pool that quits under them, and that die in their own works.
TEST(Stress, SerialWorkersLoseNothing) {
  const uint32_t seed = Seed();
  SCOPED_TRACE(testing::Message() << "IWORKER_SEED=" << seed);
  Producers producers(kProducers);
  for (int round = 0; round < kRounds; ++round) {
    std::minstd_rand random(seed + static_cast<uint32_t>(round) * 7919);
    Tally tally;
    const ErrorHandler on_error = [&tally](const ErrorReport& report) {
      tally.dropped.fetch_add(static_cast<int>(report.dropped));
      if (report.exception != nullptr) tally.told.fetch_add(1);
    };
    auto base = *MakePool({.limits = {.soft_limit = 2}, .on_error = on_error});
    {
      SerialGroup group(*base, {.quantum_items = 2, .on_error = on_error});
      auto shared = std::make_shared<Shared<IWorker>>();
      shared->worker = std::make_unique<SerialWorker>(group);
      Gate gone;
      shared->gone = &gone;
      const bool base_quits = random() % 4 == 0;
      producers.Run([&, all = std::move(shared)](int i) {
        if (i == 0 && base_quits) base->Quit().IgnoreError();
        Produce(tally, all, seed + static_cast<uint32_t>(round * kProducers + i), false);
      });
      gone.Wait();
    }
    base = nullptr;
    ExpectNothingLost(tally);
    if (testing::Test::HasFatalFailure()) FAIL() << "round " << round;
  }
}

// The performer steps, drops and is destroyed while the producers are at it.
TEST(Stress, MemoryWorkersLoseNothing) {
  const uint32_t seed = Seed();
  SCOPED_TRACE(testing::Message() << "IWORKER_SEED=" << seed);
  Producers producers(kProducers + 1);
  for (int round = 0; round < kRounds; ++round) {
    Tally tally;
    auto shared = std::make_shared<Shared<IWorker>>();
    MemoryWorker memory = CreateMemoryWorker("memory", [&tally](const ErrorReport& report) {
      tally.dropped.fetch_add(static_cast<int>(report.dropped));
      if (report.exception != nullptr) tally.told.fetch_add(1);
    });
    shared->worker = std::move(memory.worker);
    producers.Run([&](int i) {
      const uint32_t mine = seed + static_cast<uint32_t>(round * (kProducers + 1) + i);
      if (i < kProducers) return Produce(tally, shared, mine, false);
      std::minstd_rand random(mine);
      MemoryPerformer performer = std::move(memory.performer);
      for (int steps = static_cast<int>(random() % 32); steps > 0; --steps) {
        if (random() % 16 == 0) {
          tally.dropped.fetch_add(static_cast<int>(performer.Drop()));
        } else {
          performer();
        }
      }
    });
    ExpectNothingLost(tally);
    if (testing::Test::HasFatalFailure()) FAIL() << "round " << round;
  }
}

}  // namespace
}  // namespace workers
