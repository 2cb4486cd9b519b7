// How serial workers end: Quit, destruction and Release, in every order with their base, their
// group and their items.

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
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
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/serial_worker.h"
#include "workers/team.h"
#include "workers/testing/gate.h"
#include "workers/testing/manual_clock.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace workers {
namespace {

using test::Gate;
using SerialEnd = SerialOnMemory;

constexpr absl::Duration kBound = absl::Seconds(60);  // where a fault would be a hang

std::unique_ptr<Team> PoolOf(int threads) { return *MakePool({.limits = {.soft_limit = threads}}); }

// Quits `base` and waits until its accepted items, slices included, have run.
void Finish(ThreadWorker& base) {
  ASSERT_TRUE(base.Quit().ok());
  ASSERT_TRUE(base.Join(kBound).ok());
}

// --- destruction ------------------------------------------------------------------------------

TEST(SerialWorker, DestructionWaitsForAcceptedItems) {
  auto base = *ThreadWorker::Create();
  SerialGroup group(*base, {.quantum_items = 2});
  int ran = 0;
  {
    SerialWorker worker(group);
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(worker.Do([&] { ++ran; }).ok());
  }
  EXPECT_EQ(ran, 100);
}

TEST(SerialWorker, DestroyedInItsOwnItemItRunsTheAcceptedOnes) {
  auto base = *ThreadWorker::Create();
  std::vector<int> log;
  SerialGroup group(*base);
  auto worker = std::make_unique<SerialWorker>(group);
  SerialWorker* const raw = worker.get();
  Gate begin;
  ASSERT_TRUE(raw->Do([&] { begin.Wait(); }).ok());
  ASSERT_TRUE(raw->Do([&, own = std::move(worker)]() mutable {
                   EXPECT_TRUE(own->Do([&] { log.push_back(3); }).ok());
                   log.push_back(1);
                   own = nullptr;
                 })
                  .ok());
  ASSERT_TRUE(raw->Do([&] { log.push_back(2); }).ok());
  begin.Open();
  Finish(*base);
  EXPECT_THAT(log, testing::ElementsAre(1, 2, 3));
}

// The items that are left behind get slices of their own: they do not hold the base either.
TEST_F(SerialEnd, DestroyedInItsOwnItemItKeepsTheQuantum) {
  MakeGroupOfQuantum(2);
  auto hot = std::make_unique<SerialWorker>(*group_);
  SerialWorker cold(*group_);
  bool in_scope = true;
  const IWorker* const address = hot.get();
  ASSERT_TRUE(hot->Do([&] {
                   hot = nullptr;
                   log_.push_back("hot1");
                 })
                  .ok());
  for (int i = 2; i <= 5; ++i) {
    ASSERT_TRUE(hot->Do([&, i] {
                     log_.push_back("hot" + std::to_string(i));
                     in_scope = WorkerScope::RunsIn(*address);
                   })
                    .ok());
  }
  Submit(cold, "cold");
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("hot1", "hot2", "cold", "hot3", "hot4", "hot5"));
  EXPECT_FALSE(in_scope);
}

// Where such a slice is refused, destroyed, or thrown away with an exception.
TEST_F(SerialEnd, TheSlicesOfADestroyedWorkerLoseNothingEither) {
  for (Answer answer : kAnswers) {
    SCOPED_TRACE(static_cast<int>(answer));
    ReportLog reports;
    int ran = 0;
    ScriptedBase base;
    auto group =
        std::make_unique<SerialGroup>(base, SerialOptions{.quantum_items = 1,
                                                          .quantum_time = absl::InfiniteDuration(),
                                                          .on_error = reports.handler()});
    // Two of one group, so that a slice of the one must not be taken for one of the other.
    std::unique_ptr<SerialWorker> workers[2];
    for (auto& worker : workers) {
      worker = std::make_unique<SerialWorker>(*group);
      ASSERT_TRUE(worker
                      ->Do([&worker, &ran] {
                        worker = nullptr;
                        ++ran;
                      })
                      .ok());
      for (int i = 0; i < 4; ++i) ASSERT_TRUE(worker->Do([&ran] { ++ran; }).ok());
    }
    base.answer = [&](int) { return answer; };
    base.StepToTheEnd();
    base.Drop();
    EXPECT_EQ(ran + reports.dropped(), 10);
    EXPECT_EQ(reports.dropped(), answer == Answer::kTakeAndAccept ? 8 : 0);
  }
}

TEST_F(SerialEnd, ADroppedSliceOfADestroyedWorkerIsReported) {
  MakeGroupOfQuantum(1);
  auto worker = std::make_unique<SerialWorker>(*group_);
  ASSERT_TRUE(worker->Do([&] { worker = nullptr; }).ok());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(worker->Do([] { FAIL(); }).ok());
  EXPECT_EQ(base_.performer(), Performed::kRan);
  EXPECT_EQ(base_.performer.Drop(), 1u);
  EXPECT_THAT(reports_.lines(),
              testing::ElementsAre("serial: accepted work items were dropped without running: the "
                                   "worker below destroyed the time slice 3"));
}

// Hazard 4.
TEST(SerialWorker, ForcedUnwindingLosesNothing) {
  auto base = *ThreadWorker::Create();
  SerialGroup group(*base);
  std::vector<std::string> log;
  {
    SerialWorker worker(group);
    Gate begin;
    ASSERT_TRUE(worker.Do([&] { begin.Wait(); }).ok());
    ASSERT_TRUE(worker.Do([] { pthread_exit(nullptr); }).ok());
    ASSERT_TRUE(worker.Do([&] { log.push_back("accepted"); }).ok());
    begin.Open();
  }
  EXPECT_THAT(log, testing::ElementsAre("accepted"));
}

// --- Release ----------------------------------------------------------------------------------

// D4. The item that runs is held until Release has returned.
TEST(SerialWorker, ReleaseDoesNotWait) {
  auto base = *ThreadWorker::Create();
  SerialGroup group(*base, {.quantum_items = 2});
  auto worker = std::make_unique<SerialWorker>(group);
  Gate running;
  Gate released;
  int ran = 0;
  std::weak_ptr<int> captured;
  {
    auto capture = std::make_shared<int>();
    captured = capture;
    ASSERT_TRUE(worker
                    ->Do([&] {
                      running.Open();
                      released.Wait();
                    })
                    .ok());
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(worker->Do([&, capture] { ++ran; }).ok());
  }
  running.Wait();
  SerialWorker::Release(std::move(worker));
  EXPECT_EQ(worker, nullptr);
  released.Open();
  Finish(*base);
  EXPECT_EQ(ran, 5);
  EXPECT_TRUE(captured.expired());
}

// Its accepted items keep the quantum and their order, as before.
TEST_F(SerialEnd, AReleasedWorkerKeepsTheQuantum) {
  MakeGroupOfQuantum(2);
  auto hot = std::make_unique<SerialWorker>(*group_);
  SerialWorker cold(*group_);
  SerialWorker* const address = hot.get();
  for (int i = 1; i <= 5; ++i) {
    ASSERT_TRUE(hot->Do([this, i, address] {
                     EXPECT_TRUE(WorkerScope::RunsIn(*address));
                     log_.push_back("hot" + std::to_string(i));
                   })
                    .ok());
  }
  Submit(cold, "cold");
  SerialWorker::Release(std::move(hot));
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("hot1", "hot2", "cold", "hot3", "hot4", "hot5"));
}

TEST_F(SerialEnd, InsideItsOwnItemAReleasedWorkerIsThereAndHasQuit) {
  MakeGroup();
  auto worker = std::make_unique<SerialWorker>(*group_);
  SerialWorker* const raw = worker.get();
  ASSERT_TRUE(raw->Do([&] {
                   SerialWorker::Release(std::move(worker));
                   EXPECT_TRUE(IsAlreadyQuit(raw->Do([] { FAIL(); })));
                   EXPECT_TRUE(IsAlreadyQuit(raw->Quit()));
                   EXPECT_TRUE(WorkerScope::RunsIn(*raw));
                   log_.push_back("1");
                 })
                  .ok());
  Submit(*raw, "2");
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("1", "2"));
}

// Whether a worker is destroyed shows in who keeps the base alive.
class SerialOwner : public testing::Test {
 protected:
  SerialOwner() {
    auto base = std::make_shared<ScriptedBase>();
    base_ = base;
    group_.emplace(base, SerialOptions{.quantum_items = 1,
                                       .quantum_time = absl::InfiniteDuration(),
                                       .on_error = reports_.handler()});
    worker_ = std::make_unique<SerialWorker>(*group_);
    group_.reset();
  }
  std::shared_ptr<ScriptedBase> base() { return base_.lock(); }

  ReportLog reports_;
  std::weak_ptr<ScriptedBase> base_;
  std::optional<SerialGroup> group_;
  std::unique_ptr<SerialWorker> worker_;
};

TEST_F(SerialOwner, AnIdleWorkerIsDestroyedByRelease) {
  EXPECT_FALSE(base_.expired());
  SerialWorker::Release(std::move(worker_));
  EXPECT_TRUE(base_.expired());
  SerialWorker::Release(nullptr);
}

TEST_F(SerialOwner, AReleasedWorkerIsDestroyedAfterItsLastItem) {
  auto held = base();
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(worker_->Do([] {}).ok());
  SerialWorker::Release(std::move(worker_));
  EXPECT_TRUE(held->Step());
  EXPECT_EQ(held.use_count(), 2);
  EXPECT_TRUE(held->Step());
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(SerialOwner, AReleasedWorkerIsDestroyedWhateverTheBaseDoes) {
  for (Answer answer : kAnswers) {
    SCOPED_TRACE(static_cast<int>(answer));
    auto held = std::make_shared<ScriptedBase>();
    int ran = 0;
    const int64_t dropped_before = reports_.dropped();
    {
      SerialGroup group(held, {.quantum_items = 1,
                               .quantum_time = absl::InfiniteDuration(),
                               .on_error = reports_.handler()});
      worker_ = std::make_unique<SerialWorker>(group);
    }
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(worker_->Do([&ran] { ++ran; }).ok());
    held->answer = [&](int n) { return n == 1 ? answer : Answer::kAccept; };
    SerialWorker::Release(std::move(worker_));
    held->StepToTheEnd();
    EXPECT_EQ(held.use_count(), 1);
    EXPECT_EQ(ran + reports_.dropped() - dropped_before, 3);
  }
}

TEST_F(SerialOwner, AReleasedWorkerWhoseSliceIsDestroyedIsDestroyedToo) {
  auto held = base();
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(worker_->Do([] { FAIL(); }).ok());
  SerialWorker::Release(std::move(worker_));
  held->Drop();
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_EQ(reports_.dropped(), 2);
}

// Inside the base's Do, before its answer: whatever that is, Release does not wait.
TEST_F(SerialOwner, AWorkerMayBeReleasedWhileItsBaseIsAsked) {
  for (Answer answer : {Answer::kAccept, Answer::kFull, Answer::kQuit, Answer::kThrow}) {
    auto held = std::make_shared<ScriptedBase>();
    {
      SerialGroup group(held, {.quantum_items = 1,
                               .quantum_time = absl::InfiniteDuration(),
                               .on_error = reports_.handler()});
      worker_ = std::make_unique<SerialWorker>(group);
    }
    int ran = 0;
    held->answer = [&](int) { return answer; };
    held->before_answer = [&] {
      for (int i = 0; i < 2; ++i) EXPECT_TRUE(worker_->Do([&ran] { ++ran; }).ok());
      SerialWorker::Release(std::move(worker_));
    };
    EXPECT_EQ(worker_->Do([&ran] { ++ran; }).ok(), answer == Answer::kAccept);
    held->StepToTheEnd();
    EXPECT_EQ(ran, answer == Answer::kAccept ? 3 : 2);
    EXPECT_EQ(held.use_count(), 1);
  }
}

// --- the order of destruction -----------------------------------------------------------------

// D2. Everything that can go before something else. kItems: the accepted items run.
enum class Step { kItems, kBase, kGroup, kWorker };

// Calls `f` with every order of the four.
void ForEachOrder(const std::function<void(const std::vector<Step>&)>& f) {
  std::vector<Step> order = {Step::kItems, Step::kBase, Step::kGroup, Step::kWorker};
  do {
    std::string name;
    for (Step step : order) name += "IBGW"[static_cast<int>(step)];
    SCOPED_TRACE(name);
    f(order);
  } while (std::next_permutation(order.begin(), order.end()));
}

bool IsBefore(const std::vector<Step>& order, Step a, Step b) {
  return std::find(order.begin(), order.end(), a) < std::find(order.begin(), order.end(), b);
}

// The group owns the base, and "the base" is the test's reference. Three items, one a slice: so
// slices submit slices after each step.
TEST(SerialOrder, AGroupThatOwnsItsBaseMayGoInAnyOrder) {
  ForEachOrder([](const std::vector<Step>& order) {
    MemoryWorker memory = CreateMemoryWorker("base");
    std::shared_ptr<IWorker> base = std::move(memory.worker);
    const std::weak_ptr<IWorker> alive = base;
    std::optional<SerialGroup> group;
    group.emplace(base, SerialOptions{.quantum_items = 1});
    auto worker = std::make_unique<SerialWorker>(*group);
    int ran = 0;
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(worker->Do([&] { ++ran; }).ok());
    for (Step step : order) {
      switch (step) {
        case Step::kItems:
          for (int i = 0; i < 3; ++i) EXPECT_EQ(memory.performer(), Performed::kRan);
          EXPECT_EQ(ran, 3);
          break;
        case Step::kBase:
          base = nullptr;
          break;
        case Step::kGroup:
          group.reset();
          break;
        case Step::kWorker:
          EXPECT_TRUE(worker->Do([&] { ++ran; }).ok());  // still accepts, whatever went before
          SerialWorker::Release(std::move(worker));
          break;
      }
    }
    while (memory.performer() == Performed::kRan) {
    }
    EXPECT_EQ(ran, 4);
    EXPECT_TRUE(alive.expired());
  });
}

// The base is the user's: it goes after the group, as the contract says, and in any order with the
// worker and the items. A MemoryWorker is the worst case: its items run after its destruction.
TEST(SerialOrder, ABaseMayGoAnywhereAfterItsGroup) {
  ForEachOrder([](const std::vector<Step>& order) {
    if (IsBefore(order, Step::kBase, Step::kGroup)) return;
    MemoryWorker memory = CreateMemoryWorker("base");
    std::optional<SerialGroup> group;
    group.emplace(*memory.worker, SerialOptions{.quantum_items = 1});
    auto worker = std::make_unique<SerialWorker>(*group);
    int ran = 0;
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(worker->Do([&] { ++ran; }).ok());
    for (Step step : order) {
      switch (step) {
        case Step::kItems:
          while (memory.performer() == Performed::kRan) {
          }
          EXPECT_EQ(ran, 3);
          break;
        case Step::kBase:
          memory.worker = nullptr;
          break;
        case Step::kGroup:
          group.reset();
          break;
        case Step::kWorker:
          if (!group.has_value()) {
            EXPECT_TRUE(IsAlreadyQuit(worker->Do([] { FAIL(); })));
            EXPECT_TRUE(worker->Quit().ok());
          }
          SerialWorker::Release(std::move(worker));
          break;
      }
    }
    EXPECT_EQ(ran, 3);
  });
}

// The same on threads, where the item runs while the others go: it is held at a gate. `destroys`:
// the worker is destroyed, and not released, and so waits for it.
template <typename MakeBase>
void ExpectAnyOrderOnThreads(MakeBase make_base, bool owns, bool destroys) {
  ForEachOrder([&](const std::vector<Step>& order) {
    if (!owns && IsBefore(order, Step::kBase, Step::kGroup)) return;
    std::shared_ptr<IWorker> base = make_base();
    std::optional<SerialGroup> group;
    if (owns) {
      group.emplace(base, SerialOptions{.quantum_items = 1});
    } else {
      group.emplace(*base, SerialOptions{.quantum_items = 1});
    }
    auto worker = std::make_unique<SerialWorker>(*group);
    Gate running;
    Gate go;
    Gate all;
    std::atomic<int> ran = 0;
    ASSERT_TRUE(worker
                    ->Do([&] {
                      running.Open();
                      go.Wait();
                      ++ran;
                    })
                    .ok());
    ASSERT_TRUE(worker->Do([&] { ++ran; }).ok());
    ASSERT_TRUE(worker
                    ->Do([&] {
                      ++ran;
                      all.Open();
                    })
                    .ok());
    running.Wait();
    std::vector<std::thread> opener;  // where a step waits for the items
    const auto open_soon = [&] {
      if (opener.empty()) opener.emplace_back([&] { go.Open(); });
    };
    for (Step step : order) {
      switch (step) {
        case Step::kItems:
          go.Open();
          break;
        case Step::kBase:
          if (!owns) open_soon();
          base = nullptr;
          break;
        case Step::kGroup:
          group.reset();
          break;
        case Step::kWorker:
          if (destroys) {
            open_soon();
            worker = nullptr;
          } else {
            SerialWorker::Release(std::move(worker));
          }
          break;
      }
    }
    all.Wait();
    for (std::thread& thread : opener) thread.join();
    EXPECT_EQ(ran, 3);
  });
}

TEST(SerialOrder, OnAThreadAnyOrderLosesNothing) {
  const auto make = [] { return std::shared_ptr<IWorker>(*ThreadWorker::Create()); };
  for (bool owns : {false, true}) {
    for (bool destroys : {false, true}) ExpectAnyOrderOnThreads(make, owns, destroys);
  }
}

TEST(SerialOrder, OnAPoolAnyOrderLosesNothing) {
  const auto make = [] { return std::shared_ptr<IWorker>(PoolOf(2)); };
  for (bool owns : {false, true}) {
    for (bool destroys : {false, true}) ExpectAnyOrderOnThreads(make, owns, destroys);
  }
}

// On a worker that is itself a strand.
TEST(SerialOrder, OnASerialWorkerAnyOrderLosesNothing) {
  auto thread = *ThreadWorker::Create();
  SerialGroup lower(*thread, {.quantum_items = 1});
  const auto make = [&] { return std::make_shared<SerialWorker>(lower); };
  for (bool owns : {false, true}) {
    for (bool destroys : {false, true}) ExpectAnyOrderOnThreads(make, owns, destroys);
  }
}

// A LockWorker cannot be destroyed inside its own item. So a base that the items themselves
// release lives until the Do that runs them has returned.
TEST(SerialOrder, ABaseIsNotDestroyedInsideItsDo) {
  auto base = std::make_shared<LockWorker>();
  std::weak_ptr<LockWorker> alive = base;
  auto group = std::make_unique<SerialGroup>(std::move(base), SerialOptions{.quantum_items = 1});
  auto worker = std::make_unique<SerialWorker>(*group);
  SerialWorker* const raw = worker.get();
  int ran = 0;
  EXPECT_TRUE(raw->Do([&] {
                   EXPECT_TRUE(raw->Do([&] { ++ran; }).ok());
                   EXPECT_TRUE(raw->Do([&] { ++ran; }).ok());
                   group = nullptr;
                   worker = nullptr;
                 })
                  .ok());
  EXPECT_EQ(ran, 2);
  EXPECT_TRUE(alive.expired());
}

// Nothing of a group is left when it and its workers are gone, whoever goes last.
TEST(SerialOrder, AWorkerMayOutliveItsGroup) {
  auto base = *ThreadWorker::Create();
  auto group = std::make_unique<SerialGroup>(*base);
  SerialWorker worker(*group);
  group = nullptr;
  EXPECT_TRUE(IsAlreadyQuit(worker.Do([] { FAIL(); })));
  EXPECT_TRUE(worker.Quit().ok());
  EXPECT_TRUE(IsAlreadyQuit(worker.Quit()));
}

// B1, for a group: a worker that is fed forever ends when its group is gone.
TEST_F(SerialEnd, AWorkerThatIsFedForeverEndsWithItsGroup) {
  MakeGroupOfQuantum(2);
  SerialWorker worker(*group_);
  int runs = 0;
  std::function<void()> again = [&] {
    if (++runs < 100'000) worker.Do([&] { again(); }).IgnoreError();
    if (runs == 3) group_.reset();
  };
  ASSERT_TRUE(worker.Do([&] { again(); }).ok());
  StepToTheEnd();
  EXPECT_LE(runs, 5);
}

// Nor does it touch the clock after its group.
TEST_F(SerialEnd, TheClockIsNotReadWhenTheGroupIsGone) {
  auto clock = std::make_unique<test::ManualClock>();
  MakeGroup({.quantum_items = 2, .quantum_time = absl::Hours(1)}, clock.get());
  auto worker = std::make_unique<SerialWorker>(*group_);
  for (int i = 1; i <= 6; ++i) Submit(*worker, std::to_string(i));
  EXPECT_EQ(base_.performer(), Performed::kRan);
  group_.reset();
  clock = nullptr;
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("1", "2", "3", "4", "5", "6"));
}

TEST(SerialGroupDeathTest, DiesWithoutABase) {
  EXPECT_DEATH(SerialGroup(std::shared_ptr<IWorker>()), "SerialGroup: the base is null");
}

// --- a pool that quits ------------------------------------------------------------------------

// QuitNow or Quit of a pool under a thousand loaded workers: nothing is lost, nothing hangs.
TEST(SerialWorker, APoolMayQuitUnderAThousandLoadedOnes) {
  for (bool now : {false, true}) {
    std::atomic<int> ran = 0;
    std::atomic<int64_t> dropped = 0;
    const ErrorHandler on_error = [&](const ErrorReport& report) { dropped += report.dropped; };
    auto pool = *MakePool({.limits = {.soft_limit = 2}, .on_error = on_error});
    Gate begin;
    int accepted = 0;
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
          ++accepted;
        }
      }
      if (now) {
        EXPECT_EQ(pool->QuitNow(), 1000);  // a slice of each, and with it its items
      } else {
        ASSERT_TRUE(pool->Quit().ok());
      }
      begin.Open();
    }
    pool = nullptr;
    EXPECT_EQ(ran + dropped, accepted);
    EXPECT_EQ(dropped, now ? accepted : 0);
  }
}

// The same while they run, and while another thread submits more: one of the items quits the pool.
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
      const auto submit = [&](SerialWorker& worker) {
        std::shared_ptr<void> probe(nullptr, [&](void*) { ++gone; });
        const absl::Status status = worker.Do([&, probe = std::move(probe)] {
          if (++ran != 500) return;
          if (now) {
            pool->QuitNow();
          } else {
            EXPECT_TRUE(pool->Quit().ok());
          }
          quit.Open();
        });
        EXPECT_TRUE(status.ok() || IsAlreadyQuit(status)) << status;
        ++(status.ok() ? accepted : refused);
      };
      for (int i = 0; i < 2; ++i) ASSERT_TRUE(pool->Do([&] { begin.Wait(); }).ok());
      for (auto& worker : workers) {
        for (int n = 0; n < 5; ++n) submit(*worker);
      }
      std::thread producer([&] {
        for (auto& worker : workers) submit(*worker);
        quit.Wait();
        for (auto& worker : workers) submit(*worker);
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

}  // namespace
}  // namespace workers
