// Forces the races of the calls between threads: for every point at which the first thread can be
// stopped, the second runs to its end there.

#include "tests/interleaving.h"

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "reactor/deferred.h"
#include "reactor/event_reactor.h"
#include "reactor/failure.h"
#include "reactor/testing/memory_reactor.h"
#include "reactor/threads.h"
#include "workers/internal/sync.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/team.h"
#include "workers/testing/gate.h"
#include "workers/worker.h"

namespace reactor {
namespace {

using workers::Interleaving;
using workers::MemoryWorker;
using workers::Performed;
using workers::Work;
using workers::test::Gate;

// Counts what of it is alive.
class Counted {
 public:
  explicit Counted(std::atomic<int>& alive) : alive_(&alive) { alive.fetch_add(1); }
  Counted(Counted&& other) noexcept : alive_(std::exchange(other.alive_, nullptr)) {}
  Counted& operator=(Counted&&) = delete;
  ~Counted() {
    if (alive_ != nullptr) alive_->fetch_sub(1);
  }

 private:
  std::atomic<int>* alive_;
};

void Step(MemoryWorker& worker) {
  while (worker.performer() == Performed::kRan) {
  }
}
void Do(workers::IWorker& worker, Work work) { ASSERT_TRUE(worker.Do(std::move(work)).ok()); }

// --- a DeferToWorker on two workers that are stepped by hand --------------------------------

// One call between the two, and what became of it.
struct Call {
  explicit Call(workers::IWorker* run_on = nullptr) {
    Do(*home.worker, [this, run_on] {
      deferred = DeferToWorker(*home.worker, run_on != nullptr ? *run_on : *other.worker,
                               [this, capture = Counted(alive)] {
                                 ran.fetch_add(1);
                                 return Counted(alive);
                               })
                     .AddBoth([this](Result<Counted> result) { got.push_back(result.status()); });
    });
    Step(home);
  }
  void Cancel() {
    Do(*home.worker, [this] { deferred->Cancel(); });
    Step(home);
  }
  // When both threads have ended.
  void Check() {
    Step(other);
    Step(home);
    Do(*home.worker, [this] { deferred.reset(); });
    Step(home);
    EXPECT_EQ(got.size(), 1u);
    EXPECT_LE(ran, 1);
    EXPECT_EQ(alive, 0);
  }

  MemoryWorker home = workers::CreateMemoryWorker("home");
  MemoryWorker other = workers::CreateMemoryWorker("other");
  std::atomic<int> alive = 0;
  std::atomic<int> ran = 0;
  std::optional<Deferred<void>> deferred;
  std::vector<absl::Status> got;
};

TEST(ThreadsInterleaving, CancelAtEachPointOfTheCall) {
  int finished = 0, cancelled = 0;
  for (int point = 0;; ++point) {
    Call call;
    Interleaving schedule(point);
    schedule.Run([&] { Step(call.other); }, [&] { call.Cancel(); });
    call.Check();
    ASSERT_EQ(call.got.size(), 1u);
    (call.got[0].ok() ? finished : cancelled)++;
    if (!schedule.reached()) break;
  }
  EXPECT_GT(finished, 0);
  EXPECT_GT(cancelled, 0);
}

TEST(ThreadsInterleaving, TheCallAtEachPointOfCancel) {
  for (int point = 0;; ++point) {
    Call call;
    Interleaving schedule(point);
    schedule.Run([&] { call.Cancel(); }, [&] { Step(call.other); });
    call.Check();
    EXPECT_TRUE(absl::IsCancelled(call.got[0]) || call.got[0].ok()) << call.got[0];
    if (!schedule.reached()) break;
  }
}

TEST(ThreadsInterleaving, CancelAtEachPointOfADrop) {
  int aborted = 0, cancelled = 0;
  for (int point = 0;; ++point) {
    Call call;
    Interleaving schedule(point);
    schedule.Run([&] { call.other.performer.Drop(); }, [&] { call.Cancel(); });
    call.Check();
    EXPECT_EQ(call.ran, 0);
    (absl::IsAborted(call.got[0]) ? aborted : cancelled)++;
    if (!schedule.reached()) break;
  }
  EXPECT_GT(aborted, 0);
  EXPECT_GT(cancelled, 0);
}

// The result meets a home that quits.
TEST(ThreadsInterleaving, TheEndOfTheHomeAtEachPointOfTheCall) {
  for (int point = 0;; ++point) {
    Call call;
    Do(*call.home.worker, [&] { call.deferred.reset(); });  // stands behind the result, or before
    Interleaving schedule(point);
    schedule.Run([&] { Step(call.other); },
                 [&] {
                   Step(call.home);
                   EXPECT_TRUE(call.home.worker->Quit().ok());
                 });
    Step(call.home);
    EXPECT_LE(call.got.size(), 1u);
    EXPECT_EQ(call.ran, 1);
    EXPECT_EQ(call.alive, 0);
    if (!schedule.reached()) break;
  }
}

// The worker of a team becomes free when the call in the backlog is cancelled.
TEST(ThreadsInterleaving, AFreeWorkerAtEachPointOfCancel) {
  for (int point = 0;; ++point) {
    auto pool = *workers::MakePool({.limits = {.soft_limit = 1}});
    Gate busy, go;
    Do(*pool, [&] {
      busy.Open();
      go.Wait();
    });
    busy.Wait();
    Call call(pool.get());
    {
      Interleaving schedule(point);
      schedule.Run([&] { call.Cancel(); },
                   [&] {
                     go.Open();
                     Gate behind;
                     Do(*pool, [&] { behind.Open(); });
                     behind.Wait();
                   });
      EXPECT_TRUE(pool->Quit().ok());
      EXPECT_TRUE(pool->Join().ok());
      if (!schedule.reached()) point = -2;
    }
    call.Check();
    const workers::TeamStatistics now = pool->statistics();
    EXPECT_EQ(now.accepted, now.completed + now.withdrawn);
    if (point == -2) break;
  }
}

// --- a BlockingCallFromThread and a running loop --------------------------------------------

class Running {
 public:
  Running()
      : reactor_(*EventReactor::Create(
            {.on_error = [](const workers::ErrorReport&) {}, .handle_signals = false})),
        thread_([this] {
          EXPECT_TRUE(reactor_->CallWhenRunning([this] { started_.Open(); }).ok());
          EXPECT_TRUE(reactor_->Run().ok());
        }) {
    started_.Wait();
  }
  ~Running() { Stop(); }
  EventReactor& operator*() { return *reactor_; }
  EventReactor* operator->() { return reactor_.get(); }
  // Waits until the loop has done what it was given.
  void Settle() {
    Gate done;
    EXPECT_TRUE(reactor_->CallFromThread([&] { done.Open(); }).ok());
    done.Wait();
  }
  void Stop() {
    if (!thread_.joinable()) return;
    reactor_->Stop().IgnoreError();
    thread_.join();
  }

 private:
  std::unique_ptr<EventReactor> reactor_;
  Gate started_;
  std::thread thread_;
};

// Its time is up at once; the loop comes in at each point.
TEST(ThreadsInterleaving, TheResultAtEachPointOfATimeout) {
  for (int point = 0;; ++point) {
    std::atomic<int> alive = 0;
    Running reactor;
    Interleaving schedule(point);
    schedule.Run(
        [&] {
          const auto result = BlockingCallFromThread(
              *reactor, [&alive, capture = Counted(alive)] { return Counted(alive); },
              absl::ZeroDuration());
          EXPECT_TRUE(result.ok() || absl::IsDeadlineExceeded(result.status())) << result.status();
        },
        [&] { reactor.Settle(); });
    reactor.Settle();
    EXPECT_EQ(alive, 0);
    if (!schedule.reached()) break;
  }
}

// The loop stops; the call's result, a Deferred's, comes from the loop, too.
TEST(ThreadsInterleaving, TheEndOfTheReactorAtEachPointOfACall) {
  for (int point = 0;; ++point) {
    std::atomic<int> alive = 0;
    Running reactor;
    Interleaving schedule(point);
    schedule.Run(
        [&] {
          const auto result = BlockingCallFromThread(*reactor, [&, capture = Counted(alive)] {
            return DeferToThread(*reactor, [&alive] { return Counted(alive); });
          });
          EXPECT_TRUE(result.ok() || absl::IsUnavailable(result.status()) ||
                      workers::IsAlreadyQuit(result.status()))
              << result.status();
        },
        [&] { EXPECT_TRUE(reactor->Stop().ok()); });
    reactor.Stop();
    EXPECT_EQ(alive, 0);
    if (!schedule.reached()) break;
  }
}

// The reactor is destroyed as soon as its Run has returned, where the caller may still be about to
// leave.
TEST(ThreadsInterleaving, TheDestructionOfTheReactorAtEachPointOfACall) {
  for (int point = 0;; ++point) {
    auto reactor = *EventReactor::Create(
        {.on_error = [](const workers::ErrorReport&) {}, .handle_signals = false});
    std::atomic<int> alive = 0;
    Gate ended;
    std::thread runner([&] {
      EXPECT_TRUE(reactor->Run().ok());
      ended.Open();
    });
    Interleaving schedule(point);
    schedule.Run(
        [&, r = reactor.get()] {
          const auto result = BlockingCallFromThread(
              *r,
              [r, capture = Counted(alive)] {
                EXPECT_TRUE(r->Stop().ok());
                return 1;
              },
              absl::Hours(1));
          EXPECT_TRUE(result.ok()) << result.status();
        },
        [&] {
          // If the call was given, the loop ends without us. If not, its thread has to go on.
          const absl::Duration until = workers::internal::SteadyNow() + absl::Milliseconds(20);
          while (!ended.IsOpen() && workers::internal::SteadyNow() < until) {
            std::this_thread::yield();
          }
          ended.Wait();
          runner.join();
          reactor = nullptr;
        });
    EXPECT_EQ(alive, 0);
    if (!schedule.reached()) break;
  }
}

// The time of a wait is up while the loop asks its team whether it makes sense.
TEST(ThreadsInterleaving, TheLookAtAWaitAtEachPointOfATimeout) {
  for (int point = 0;; ++point) {
    Running reactor;
    auto pool = *workers::MakePool({.limits = {.hard_limit = 1}});
    std::optional<Interleaving> schedule(point);
    Gate given, done;
    absl::Status got;
    Do(*pool, [&] {
      given.Wait();  // that Do may need a lock of the first
      schedule->AsFirst([&] {
        got = BlockingCallFromThread(
            *reactor, [&] { return DeferToWorker(*reactor->worker(), *pool, [] {}); },
            absl::ZeroDuration());
      });
      done.Open();
    });
    given.Open();
    schedule->AsSecond([&] { reactor.Settle(); });
    done.Wait();
    EXPECT_TRUE(absl::IsFailedPrecondition(got) || absl::IsDeadlineExceeded(got)) << got;
    const bool reached = schedule->reached();
    EXPECT_TRUE(pool->Quit().ok());
    EXPECT_TRUE(pool->Join().ok());
    reactor.Stop();
    schedule.reset();
    if (!reached) break;
  }
}

// --- the loop ---------------------------------------------------------------------------------

// Two trigger at once, and the loop ends: who is told true is run.
TEST(Interleaving, ATriggerThatSaysTrueRuns) {
  for (int point = 0;; ++point) {
    SCOPED_TRACE(point);
    auto reactor = *EventReactor::Create({.handle_signals = false});
    int runs = 0;
    SignalTrigger trigger = reactor->MakeSignalTrigger([&] { ++runs; });
    bool second_told = false;
    ASSERT_TRUE(reactor
                    ->AddSystemEventTrigger(EventPhase::kAfter, SystemEvent::kShutdown,
                                            [&] {
                                              second_told = trigger.Trigger();
                                              return Succeed();
                                            })
                    .ok());
    ASSERT_TRUE(reactor->CallFromThread([&] { EXPECT_TRUE(reactor->Stop().ok()); }).ok());
    Interleaving schedule(point);
    schedule.Run([&] { trigger.Trigger(); }, [&] { EXPECT_TRUE(reactor->Run().ok()); });
    EXPECT_TRUE(second_told);
    EXPECT_GE(runs, 1);
    if (!schedule.reached()) break;
  }
}

// Holds one thread where it has made the pool for all, and not yet started it.
class BeforeTheStart final : public workers::internal::SyncObserver {
 public:
  BeforeTheStart() { workers::internal::sync_observer.store(this); }
  ~BeforeTheStart() override { workers::internal::sync_observer.store(nullptr); }

  void At(workers::internal::SyncOp op, const void* object) override {
    if (std::this_thread::get_id() != held.load()) return;
    if (op == workers::internal::SyncOp::kLock && reactor_ == nullptr) reactor_ = object;
    if (op != workers::internal::SyncOp::kUnlocked || object != reactor_) return;
    if (++unlocked_ != 2) return;
    reached.Open();
    go_on.Wait();
  }

  std::atomic<std::thread::id> held = std::thread::id();
  Gate reached;
  Gate go_on;

 private:
  const void* reactor_ = nullptr;  // its lock
  int unlocked_ = 0;
};

TEST(Interleaving, WhatAPoolTookThatNobodyHasStartedRunsBeforeTheEnd) {
  BeforeTheStart schedule;
  auto reactor = *EventReactor::Create({.handle_signals = false});
  std::atomic<bool> ran = false;
  std::thread other;
  ASSERT_TRUE(reactor
                  ->CallWhenRunning([&] {
                    other = std::thread([&] {
                      schedule.held.store(std::this_thread::get_id());
                      reactor->thread_pool().status().IgnoreError();
                    });
                    schedule.reached.Wait();
                    EXPECT_TRUE(reactor->CallInThread([&] { ran.store(true); }).ok());
                    EXPECT_TRUE(reactor->Stop().ok());
                  })
                  .ok());
  EXPECT_TRUE(reactor->Run().ok());
  EXPECT_TRUE(ran.load());
  schedule.go_on.Open();
  other.join();
}

TEST(Interleaving, TheSameInTheMemoryReactor) {
  BeforeTheStart schedule;
  test::MemoryReactor reactor;
  ASSERT_TRUE(reactor.Start().ok());
  std::thread other([&] {
    schedule.held.store(std::this_thread::get_id());
    reactor.thread_pool().status().IgnoreError();
  });
  schedule.reached.Wait();
  bool ran = false;
  EXPECT_TRUE(reactor.CallInThread([&] { ran = true; }).ok());
  EXPECT_TRUE(reactor.Stop().ok());
  reactor.Settle();
  EXPECT_FALSE(reactor.running());
  EXPECT_TRUE(ran);
  schedule.go_on.Open();
  other.join();
}

template <typename R>
void OneAfterTheOther(const std::function<std::unique_ptr<R>()>& make) {
  for (int point = 0;; ++point) {
    SCOPED_TRACE(point);
    auto reactor = make();
    int max = -1;
    const auto run = [&] {
      ASSERT_TRUE(reactor
                      ->CallWhenRunning([&] {
                        max = (*reactor->thread_pool())->max();
                        EXPECT_TRUE(reactor->Stop().ok());
                      })
                      .ok());
      EXPECT_TRUE(reactor->Run().ok());
    };
    ASSERT_TRUE(reactor->thread_pool().ok());
    Interleaving schedule(point);
    schedule.Run([&] { EXPECT_TRUE(reactor->SuggestThreadPoolSize(5).ok()); },
                 [&] { EXPECT_TRUE(reactor->SuggestThreadPoolSize(8).ok()); });
    run();
    const int first = max;
    run();
    EXPECT_EQ(max, first);
    if (!schedule.reached()) break;
  }
}

// The pool of the next Run is as large as that of this one.
TEST(Interleaving, TwoSizesOfThePoolComeOneAfterTheOther) {
  OneAfterTheOther<EventReactor>([] { return *EventReactor::Create({.handle_signals = false}); });
  OneAfterTheOther<test::MemoryReactor>([] { return std::make_unique<test::MemoryReactor>(); });
}

// A pool that ends meanwhile refuses the call, and does not go away under it.
TEST(Interleaving, ACallInThreadWhileTheMemoryReactorStops) {
  for (int point = 0;; ++point) {
    SCOPED_TRACE(point);
    test::MemoryReactor reactor;
    ASSERT_TRUE(reactor.Start().ok());
    ASSERT_TRUE(reactor.thread_pool().ok());
    bool taken = false;
    bool ran = false;
    Interleaving schedule(point);
    schedule.Run([&] { taken = reactor.CallInThread([&] { ran = true; }).ok(); },
                 [&] {
                   EXPECT_TRUE(reactor.Stop().ok());
                   reactor.Settle();
                 });
    reactor.Settle();
    EXPECT_FALSE(reactor.running());
    EXPECT_EQ(ran, taken);
    if (!schedule.reached()) break;
  }
}

}  // namespace
}  // namespace reactor
