#include "reactor/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reactor/coroutine.h"
#include "reactor/deferred.h"
#include "reactor/event_reactor.h"
#include "reactor/failure.h"
#include "reactor/reactor.h"
#include "workers/context.h"
#include "workers/internal/sync.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/team.h"
#include "workers/testing/gate.h"
#include "workers/thread_pool.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace reactor {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using workers::Context;
using workers::ContextScope;
using workers::CreateMemoryWorker;
using workers::IsAlreadyQuit;
using workers::MemoryWorker;
using workers::Performed;
using workers::Team;
using workers::ThreadWorker;
using workers::Work;
using workers::test::Gate;

constexpr workers::ContextKey<std::string> kUser("user");

// Counts what of it is alive, and where the last one died.
struct Tally {
  std::atomic<int> alive = 0;
  std::atomic<std::thread::id> died_in = std::thread::id();
};
class Counted {
 public:
  explicit Counted(Tally& tally) : tally_(&tally) { tally.alive.fetch_add(1); }
  Counted(Counted&& other) noexcept : tally_(std::exchange(other.tally_, nullptr)) {}
  Counted& operator=(Counted&&) = delete;
  ~Counted() {
    if (tally_ == nullptr) return;
    tally_->died_in.store(std::this_thread::get_id());
    tally_->alive.fetch_sub(1);
  }

 private:
  Tally* tally_;
};

void Step(MemoryWorker& worker) {
  while (worker.performer() == Performed::kRan) {
  }
}
void Do(workers::IWorker& worker, Work work) {
  const absl::Status status = worker.Do(std::move(work));
  EXPECT_TRUE(status.ok()) << status;
}

// A home and a worker that are stepped by hand.
class DeferToWorkerTest : public testing::Test {
 protected:
  // Calls f in a work of the home.
  void AtHome(std::function<void()> f) {
    Do(*home_.worker, [f] { f(); });
    Step(home_);
  }
  // The status that comes of f.
  template <typename F>
  absl::StatusOr<std::optional<Failure>> FailureOf(F f) {
    std::optional<Failure> got;
    bool fired = false;
    AtHome([&] {
      DeferToWorker(*home_.worker, *other_.worker, std::move(f))
          .AddErrback([&](const Failure& failure) {
            got = failure;
            return failure;
          })
          .AddBoth([&](const auto&) { fired = true; })
          .Detach();
    });
    Step(other_);
    Step(home_);
    EXPECT_TRUE(fired);
    return got;
  }

  MemoryWorker home_ = CreateMemoryWorker("home");
  MemoryWorker other_ = CreateMemoryWorker("other");
};

TEST_F(DeferToWorkerTest, RunsThereAndFiresAtHome) {
  int got = 0;
  bool ran = false;
  AtHome([&] {
    DeferToWorker(*home_.worker, *other_.worker,
                  [&] {
                    ran = workers::WorkerScope::RunsIn(*other_.worker);
                    return 7;
                  })
        .AddCallback([&](int value) {
          EXPECT_TRUE(workers::WorkerScope::RunsIn(*home_.worker));
          got = value;
        })
        .Detach();
  });
  EXPECT_FALSE(ran);
  Step(other_);
  EXPECT_TRUE(ran);
  EXPECT_EQ(got, 0);
  Step(home_);
  EXPECT_EQ(got, 7);
}

TEST_F(DeferToWorkerTest, WhatItReturnsIsUnwrapped) {
  workers::IExclusiveWorker& home = *home_.worker;
  workers::IWorker& other = *other_.worker;
  std::string log;
  AtHome([&] {
    Deferred<void> nothing = DeferToWorker(home, other, [] {});
    Deferred<void> status = DeferToWorker(home, other, [] { return absl::NotFoundError("a"); });
    Deferred<int> ok = DeferToWorker(home, other, [] { return absl::StatusOr<int>(1); });
    Deferred<int> result =
        DeferToWorker(home, other, [] { return Result<int>(absl::NotFoundError("b")); });
    Deferred<int> deferred = DeferToWorker(home, other, [] { return Succeed(2); });
    Deferred<std::unique_ptr<int>> move_only =
        DeferToWorker(home, other, [] { return std::make_unique<int>(3); });
    std::move(nothing).AddCallback([&] { log += "void "; }).Detach();
    std::move(status).AddErrback([&](const Failure& f) { log += f.status().message(); }).Detach();
    std::move(ok).AddCallback([&](int i) { log += std::to_string(i); }).Detach();
    std::move(result)
        .AddErrback([&](const Failure& f) {
          log += f.status().message();
          return 0;
        })
        .Detach();
    std::move(deferred).AddCallback([&](int i) { log += std::to_string(i); }).Detach();
    std::move(move_only)
        .AddCallback([&](std::unique_ptr<int> i) { log += std::to_string(*i); })
        .Detach();
  });
  Step(other_);
  Step(home_);
  EXPECT_EQ(log, "void a1b23");
}

TEST_F(DeferToWorkerTest, AnExceptionComesBackAsItIs) {
  const std::exception_ptr thrown = std::make_exception_ptr(std::runtime_error("oh"));
  const auto failure = *FailureOf([thrown]() -> int { std::rethrow_exception(thrown); });
  ASSERT_TRUE(failure.has_value());
  EXPECT_EQ(failure->exception(), thrown);
}

TEST_F(DeferToWorkerTest, TheCallersContextTravelsWithTheCall) {
  std::string there, back;
  AtHome([&] {
    ContextScope scope(Context::Current().With(kUser, "ann"));
    DeferToWorker(*home_.worker, *other_.worker, [&] {
      there = kUser.Get() == nullptr ? "none" : *kUser.Get();
    }).AddCallback([&] {
        back = kUser.Get() == nullptr ? "none" : *kUser.Get();
      }).Detach();
  });
  Step(other_);
  Step(home_);
  EXPECT_EQ(there, "ann");
  EXPECT_EQ(back, "ann");
}

TEST_F(DeferToWorkerTest, ADeferredThatItReturnsIsWaitedFor) {
  std::optional<Promise<int>> promise;
  int got = 0;
  AtHome([&] {
    DeferToWorker(*home_.worker, *other_.worker, [&] {
      auto [deferred, made] = MakeDeferred<int>();
      promise = std::move(made);
      return std::move(deferred);
    }).AddCallback([&](int value) {
        got = value;
      }).Detach();
  });
  Step(other_);
  Step(home_);
  EXPECT_EQ(got, 0);
  Do(*other_.worker, [&] { EXPECT_TRUE(promise->Callback(5).ok()); });
  Step(other_);
  EXPECT_EQ(got, 0);
  Step(home_);
  EXPECT_EQ(got, 5);
}

TEST_F(DeferToWorkerTest, ADeferredThatItReturnsAndNobodyFiresIsAborted) {
  std::optional<Promise<int>> promise;
  absl::Status got;
  AtHome([&] {
    DeferToWorker(*home_.worker, *other_.worker, [&] {
      auto [deferred, made] = MakeDeferred<int>(*other_.worker);
      promise = std::move(made);
      return std::move(deferred);
    }).AddBoth([&](Result<int> result) {
        got = result.status();
      }).Detach();
  });
  Step(other_);
  EXPECT_TRUE(other_.worker->Quit().ok());
  promise.reset();  // elsewhere, and its home refuses to be told: the chain is destroyed unrun
  Step(home_);
  EXPECT_TRUE(absl::IsAborted(got)) << got;
}

TEST_F(DeferToWorkerTest, DroppedUnrunItIsAbortedAtHome) {
  Tally tally;
  absl::Status got;
  AtHome([&] {
    DeferToWorker(*home_.worker, *other_.worker, [counted = Counted(tally)] { ADD_FAILURE(); })
        .AddBoth([&](Result<void> result) {
          EXPECT_TRUE(workers::WorkerScope::RunsIn(*home_.worker));
          got = result.status();
        })
        .Detach();
  });
  EXPECT_EQ(other_.performer.Drop(), 1u);
  EXPECT_EQ(tally.alive, 0);
  EXPECT_TRUE(got.ok());
  Step(home_);
  EXPECT_TRUE(absl::IsAborted(got)) << got;
}

TEST_F(DeferToWorkerTest, DroppedByAnotherThreadItIsAbortedAtHome) {
  absl::Status got;
  AtHome([&] {
    DeferToWorker(*home_.worker, *other_.worker, [] {
    }).AddBoth([&](Result<void> result) {
        got = result.status();
      }).Detach();
  });
  std::thread([performer = std::move(other_.performer)]() mutable { performer.Drop(); }).join();
  Step(home_);
  EXPECT_TRUE(absl::IsAborted(got)) << got;
}

TEST_F(DeferToWorkerTest, WhatIsRefusedIsAFailedDeferredWithThatStatus) {
  EXPECT_TRUE(other_.worker->Quit().ok());
  Tally tally;
  const auto failure = *FailureOf([counted = Counted(tally)] {});
  ASSERT_TRUE(failure.has_value());
  EXPECT_TRUE(IsAlreadyQuit(failure->status())) << failure->status();
  EXPECT_EQ(tally.alive, 0);
}

TEST_F(DeferToWorkerTest, RefusedElsewhereItBelongsToItsHome) {
  EXPECT_TRUE(other_.worker->Quit().ok());
  Deferred<int> deferred = DeferToWorker(*home_.worker, *other_.worker, [] { return 1; });
  absl::Status got;
  AtHome([&] {
    std::move(deferred).AddBoth([&](Result<int> result) { got = result.status(); }).Detach();
  });
  EXPECT_TRUE(IsAlreadyQuit(got)) << got;
}

TEST_F(DeferToWorkerTest, WhatATeamRefusesIsAFailedDeferredToo) {
  auto pool = *workers::MakePool({});
  EXPECT_TRUE(pool->Quit().ok());
  Tally tally;
  absl::Status got;
  AtHome([&] {
    DeferToWorker(*home_.worker, *pool, [counted = Counted(tally)] {
    }).AddBoth([&](Result<void> result) {
        got = result.status();
      }).Detach();
  });
  EXPECT_TRUE(IsAlreadyQuit(got)) << got;
  EXPECT_EQ(tally.alive, 0);
}

// Nothing hangs and nothing leaks: the leak checker sees the rest.
TEST_F(DeferToWorkerTest, AResultThatTheHomeRefusesIsDroppedOnItsThread) {
  Tally tally;
  std::optional<Deferred<Counted>> deferred;
  absl::Status got;
  AtHome([&] {
    deferred = DeferToWorker(*home_.worker, *other_.worker, [&] { return Counted(tally); });
  });
  Do(*home_.worker, [&] {
    std::move(*deferred).AddBoth([&](Result<Counted> result) { got = result.status(); }).Cancel();
  });
  EXPECT_TRUE(home_.worker->Quit().ok());
  std::thread::id thread;
  std::thread other([&] {
    thread = std::this_thread::get_id();
    Step(other_);
  });
  other.join();
  EXPECT_EQ(tally.alive, 0);
  EXPECT_EQ(tally.died_in.load(), thread);
  EXPECT_TRUE(got.ok());
  Step(home_);
  EXPECT_TRUE(absl::IsCancelled(got)) << got;
}

TEST_F(DeferToWorkerTest, AResultThatTheHomeDropsIsDestroyed) {
  Tally tally;
  absl::Status got;
  std::optional<Deferred<void>> deferred;
  AtHome([&] {
    deferred = DeferToWorker(*home_.worker, *other_.worker, [&] {
                 return Counted(tally);
               }).AddBoth([&](Result<Counted> result) { got = result.status(); });
  });
  Step(other_);
  EXPECT_EQ(tally.alive, 1);
  EXPECT_EQ(home_.performer.Drop(), 1u);
  EXPECT_EQ(tally.alive, 0);
  Step(home_);  // it is told of the end of the Promise
  EXPECT_TRUE(absl::IsAborted(got)) << got;
  AtHome([&] { deferred.reset(); });
}

TEST_F(DeferToWorkerTest, CancelledWhileItIsQueuedItNeverRunsAndIsDestroyedAtOnce) {
  Tally tally;
  absl::Status got;
  AtHome([&] {
    auto deferred = DeferToWorker(*home_.worker, *other_.worker, [counted = Counted(tally)] {
                      ADD_FAILURE();
                    }).AddBoth([&](Result<void> result) { got = result.status(); });
    EXPECT_EQ(tally.alive, 1);
    deferred.Cancel();
    EXPECT_EQ(tally.alive, 0);
    EXPECT_TRUE(absl::IsCancelled(got)) << got;
  });
  Step(other_);  // a shell
  Step(home_);
  EXPECT_TRUE(absl::IsCancelled(got)) << got;
}

TEST_F(DeferToWorkerTest, CancelledWhenItsResultIsOnTheWayItIsCancelled) {
  Tally tally;
  std::optional<Deferred<void>> deferred;
  std::vector<absl::Status> got;
  AtHome([&] {
    deferred = DeferToWorker(*home_.worker, *other_.worker, [&] {
                 return Counted(tally);
               }).AddBoth([&](Result<Counted> result) { got.push_back(result.status()); });
  });
  Do(*home_.worker, [&] { deferred->Cancel(); });
  Step(other_);  // the result stands behind the Cancel
  EXPECT_EQ(tally.alive, 1);
  Step(home_);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_TRUE(absl::IsCancelled(got[0])) << got[0];
  EXPECT_EQ(tally.alive, 0);
  AtHome([&] { deferred.reset(); });
}

TEST_F(DeferToWorkerTest, CancelledWhileItRunsItIsAskedToStopAndItsLateResultDiesWhereItCame) {
  Tally tally;
  Gate running, stopped;
  absl::Status got;
  std::thread::id thread;
  std::optional<Deferred<void>> deferred;
  auto worker = *ThreadWorker::Create();
  AtHome([&] {
    deferred = DeferToWorker(*home_.worker, *worker, [&](std::stop_token stop) {
                 thread = std::this_thread::get_id();
                 std::stop_callback on_stop(stop, [&] { stopped.Open(); });
                 running.Open();
                 stopped.Wait();
                 EXPECT_TRUE(stop.stop_requested());
                 return Counted(tally);
               }).AddBoth([&](Result<Counted> result) { got = result.status(); });
  });
  running.Wait();
  AtHome([&] {
    deferred->Cancel();
    EXPECT_TRUE(absl::IsCancelled(got)) << got;
    deferred.reset();
  });
  EXPECT_TRUE(worker->Quit().ok());
  EXPECT_TRUE(worker->Join().ok());
  EXPECT_EQ(tally.alive, 0);
  EXPECT_EQ(tally.died_in.load(), thread);
  Step(home_);
}

// It is counted as withdrawn, and does not stand in the backlog any more.
TEST_F(DeferToWorkerTest, CancelledInTheBacklogOfATeamItIsNotCounted) {
  auto pool = *workers::MakePool({.limits = {.soft_limit = 1}});
  Gate go, begun;
  Do(*pool, [&] {
    begun.Open();
    go.Wait();
  });
  begun.Wait();
  Tally tally;
  AtHome([&] {
    Deferred<void> deferred = DeferToWorker(*home_.worker, *pool, [counted = Counted(tally)] {
                                ADD_FAILURE();
                              }).AddErrback([](const Failure& failure) {
      EXPECT_TRUE(absl::IsCancelled(failure.status()));
    });
    EXPECT_EQ(pool->statistics().backlogged, 1);
    deferred.Cancel();
    EXPECT_EQ(tally.alive, 0);
    EXPECT_EQ(pool->statistics().backlogged, 0);
    EXPECT_EQ(pool->statistics().withdrawn, 1);
  });
  go.Open();
  EXPECT_TRUE(pool->Quit().ok());
  EXPECT_TRUE(pool->Join().ok());
  EXPECT_EQ(pool->statistics().completed, 1);
}

TEST_F(DeferToWorkerTest, AThreadThatEndsByForceInsideItFailsItWithAborted) {
  for (const bool in_team : {false, true}) {
    absl::Status got;
    Gate told;
    auto worker = *ThreadWorker::Create();
    auto pool = *workers::MakePool({});
    workers::IWorker& run_on = in_team ? static_cast<workers::IWorker&>(*pool) : *worker;
    auto home = *ThreadWorker::Create();
    Do(*home, [&] {
      DeferToWorker(*home, run_on, [] { pthread_exit(nullptr); })
          .AddBoth([&](Result<void> result) {
            got = result.status();
            told.Open();
          })
          .Detach();
    });
    told.Wait();
    EXPECT_TRUE(absl::IsAborted(got)) << got;
  }
}

// --- with a reactor -----------------------------------------------------------------------------

std::unique_ptr<EventReactor> New(EventReactorOptions options = {}) {
  options.handle_signals = false;
  auto reactor = EventReactor::Create(std::move(options));
  EXPECT_TRUE(reactor.ok()) << reactor.status();
  return *std::move(reactor);
}

// Runs a reactor in a thread of its own.
class Running {
 public:
  explicit Running(EventReactorOptions options = {}) : Running(New(std::move(options))) {}
  explicit Running(std::unique_ptr<EventReactor> reactor)
      : reactor_(std::move(reactor)), thread_([this] {
          Gate& started = started_;
          EXPECT_TRUE(reactor_->CallWhenRunning([&started] { started.Open(); }).ok());
          EXPECT_TRUE(reactor_->Run().ok());
        }) {
    started_.Wait();
  }
  ~Running() { Stop(); }

  EventReactor& operator*() { return *reactor_; }
  EventReactor* operator->() { return reactor_.get(); }

  // Calls f in the loop, and waits for it.
  void Do(std::function<void()> f) {
    Gate done;
    EXPECT_TRUE(reactor_
                    ->CallFromThread([&] {
                      f();
                      done.Open();
                    })
                    .ok());
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

TEST(DeferToThread, ItsResultComesBackInTheLoop) {
  Running reactor;
  Gate done;
  reactor.Do([&] {
    DeferToThread(*reactor,
                  [&reactor, add = 2] {
                    EXPECT_FALSE(reactor->InReactorThread());
                    return 40 + add;
                  })
        .AddCallback([&](int value) {
          EXPECT_TRUE(reactor->InReactorThread());
          EXPECT_EQ(value, 42);
          done.Open();
        })
        .Detach();
  });
  done.Wait();
}

TEST(DeferToThread, ItsExceptionComesBackInTheLoop) {
  Running reactor;
  Gate done;
  reactor.Do([&] {
    DeferToThread(*reactor, []() -> int { throw std::runtime_error("oh"); })
        .AddErrback([&](const Failure& failure) {
          EXPECT_THROW(failure.Throw(), std::runtime_error);
          done.Open();
          return 0;
        })
        .Detach();
  });
  done.Wait();
}

TEST(DeferToThread, AFailureAfterASuccessComesBackToo) {
  Running reactor;
  Gate done;
  reactor.Do([&] {
    DeferToThread(*reactor, [] { return 1; })
        .AddCallback([&](int) {
          return DeferToThread(*reactor, [] { return absl::NotFoundError("gone"); });
        })
        .AddErrback([&](const Failure& failure) {
          EXPECT_TRUE(absl::IsNotFound(failure.status()));
          done.Open();
        })
        .Detach();
  });
  done.Wait();
}

TEST(DeferToThread, InAPoolOfYoursResultsAndFailuresComeBackToo) {
  auto pool = *workers::ThreadPool::Create({.min_threads = 0, .max_threads = 1});
  ASSERT_TRUE(pool->Start().ok());
  Running reactor;
  Gate done;
  reactor.Do([&] {
    DeferToThreadPool(*reactor, *pool, [] { return 7; })
        .AddCallback([&](int value) {
          EXPECT_EQ(value, 7);
          return DeferToThreadPool(*reactor, *pool, [] { return absl::NotFoundError("gone"); });
        })
        .AddErrback([&](const Failure& failure) {
          EXPECT_TRUE(absl::IsNotFound(failure.status()));
          done.Open();
        })
        .Detach();
  });
  done.Wait();
  EXPECT_EQ(pool->statistics().completed, 2);
}

// It is marked idle before its result is delivered.
TEST(DeferToThread, CallsThatFollowOneAnotherNeedOneThread) {
  Running reactor;
  Gate done;
  constexpr int kCalls = 1000;
  std::function<Deferred<void>(int)> next = [&](int left) -> Deferred<void> {
    return DeferToThread(*reactor, [] {}).AddCallback([&, left] {
      return left == 1 ? Succeed() : next(left - 1);
    });
  };
  reactor.Do([&] { next(kCalls).AddCallback([&] { done.Open(); }).Detach(); });
  done.Wait();
  reactor.Do([&] {
    const workers::TeamStatistics now = (*reactor->thread_pool())->statistics();
    EXPECT_EQ(now.workers_created, 1);
    EXPECT_EQ(now.completed, kCalls);
  });
}

TEST(DeferToThread, ACoroutineAwaitsIt) {
  Running reactor;
  Gate done;
  reactor.Do([&] {
    [](Running& reactor, Gate& done) -> Deferred<void> {
      int sum = 0;
      for (int i = 0; i < 10; ++i) sum += co_await DeferToThread(*reactor, [i] { return i; });
      EXPECT_EQ(sum, 45);
      done.Open();
    }(reactor, done)
                                            .Detach();
  });
  done.Wait();
}

// Elsewhere it goes by way of the loop, whose the Deferred is.
TEST(DeferToThread, AnyThreadMayCallIt) {
  Running reactor;
  Gate done;
  Deferred<int> deferred = DeferToThread(*reactor, [] { return 1; });
  reactor.Do([&] { std::move(deferred).AddCallback([&](int) { done.Open(); }).Detach(); });
  done.Wait();
}

TEST(DeferToThread, GivenBeforeRunItWaitsForIt) {
  auto reactor = New();
  std::atomic<bool> ran = false;
  Deferred<void> deferred = DeferToThread(*reactor, [&] { ran = true; });
  EXPECT_FALSE(ran);
  bool stopped = false;
  ASSERT_TRUE(reactor
                  ->CallFromThread([&] {
                    std::move(deferred)
                        .AddCallback([&] {
                          EXPECT_TRUE(ran);
                          stopped = reactor->Stop().ok();
                        })
                        .Detach();
                  })
                  .ok());
  EXPECT_TRUE(reactor->Run().ok());
  EXPECT_TRUE(stopped);
}

// Twisted's testCallBeforeStartupUnexecuted: nothing runs, and nothing hangs.
TEST(DeferToThread, WithoutARunItNeverRuns) {
  Tally tally;
  auto reactor = New({.on_error = [](const workers::ErrorReport&) {}});
  Deferred<void> deferred = DeferToThread(*reactor, [counted = Counted(tally)] { ADD_FAILURE(); });
  ASSERT_TRUE(reactor->CallFromThread([kept = std::move(deferred)] {}).ok());
  reactor = nullptr;
  EXPECT_EQ(tally.alive, 0);
}

TEST(DeferToThread, AfterTheEndItIsAlreadyQuitAndBelongsToTheCaller) {
  Running reactor;
  reactor.Stop();
  absl::Status got;
  Tally tally;
  DeferToThread(*reactor, [counted = Counted(tally)] {
  }).AddBoth([&](Result<void> result) {
      got = result.status();
    }).Detach();
  EXPECT_TRUE(IsAlreadyQuit(got)) << got;
  EXPECT_EQ(tally.alive, 0);
}

// Results of calls in flight at the Stop are delivered before Run returns.
TEST(DeferToThread, R2_WhatRunsAtTheStopIsDelivered) {
  Running reactor;
  Gate running, go;
  std::atomic<bool> delivered = false;
  reactor.Do([&] {
    DeferToThread(*reactor, [&] {
      running.Open();
      go.Wait();
      return 1;
    }).AddCallback([&](int) {
        delivered = true;
      }).Detach();
  });
  running.Wait();
  EXPECT_TRUE(reactor->Stop().ok());
  go.Open();
  reactor.Stop();
  EXPECT_TRUE(delivered);
}

// The thread was stuck when the loop ended: the loop is no more, and its result goes nowhere.
TEST(DeferToThread, R2_WhatComesAfterTheEndIsDroppedOnItsThread) {
  Tally tally;
  Gate running, go, dropped;
  std::thread::id thread;
  struct Late {
    std::unique_ptr<Gate, void (*)(Gate*)> opens;  // last
    Counted counted;
  };
  {
    Running reactor(EventReactorOptions{.on_error = [](const workers::ErrorReport&) {},
                                        .pool_timeout = absl::ZeroDuration()});
    reactor.Do([&] {
      DeferToThread(*reactor, [&] {
        thread = std::this_thread::get_id();
        running.Open();
        go.Wait();
        return Late{{&dropped, [](Gate* gate) { gate->Open(); }}, Counted(tally)};
      }).AddBoth([](Result<Late>) {
          ADD_FAILURE();
        }).Detach();
    });
    running.Wait();
    reactor.Stop();
  }
  go.Open();
  dropped.Wait();
  EXPECT_EQ(tally.alive, 0);
  EXPECT_EQ(tally.died_in.load(), thread);
}

// --- CallMultipleInThread -----------------------------------------------------------------------

using Calls = std::vector<absl::AnyInvocable<absl::Status() &&>>;

TEST(CallMultipleInThread, RunsThemInOrderInOneThread) {
  Running reactor;
  Gate done;
  std::vector<int> order;
  std::vector<std::thread::id> threads;
  Calls calls;
  for (int i = 0; i < 10; ++i) {
    calls.push_back([&, i] {
      order.push_back(i);
      threads.push_back(std::this_thread::get_id());
      return absl::OkStatus();
    });
  }
  reactor.Do([&] {
    CallMultipleInThread(*reactor, std::move(calls)).AddCallback([&] { done.Open(); }).Detach();
  });
  done.Wait();
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
  EXPECT_EQ(std::count(threads.begin(), threads.end(), threads[0]), 10);
}

TEST(CallMultipleInThread, R3_StopsAtTheFirstErrorAndSaysWhich) {
  Running reactor;
  const std::exception_ptr thrown = std::make_exception_ptr(std::runtime_error("oh"));
  for (const bool throws : {false, true}) {
    Gate done;
    std::vector<int> ran;
    Calls calls;
    calls.push_back([&] {
      ran.push_back(0);
      return absl::OkStatus();
    });
    calls.push_back([&]() -> absl::Status {
      ran.push_back(1);
      if (throws) std::rethrow_exception(thrown);
      return absl::NotFoundError("no row");
    });
    calls.push_back([&] {
      ran.push_back(2);
      return absl::OkStatus();
    });
    reactor.Do([&] {
      CallMultipleInThread(*reactor, std::move(calls))
          .AddErrback([&](const Failure& failure) {
            const CallError* const error = CallError::From(failure);
            ASSERT_NE(error, nullptr);
            EXPECT_EQ(error->index(), 1u);
            EXPECT_THAT(std::string(failure.status().message()), HasSubstr("call 1 of 3: "));
            if (throws) {
              EXPECT_EQ(error->failure().exception(), thrown);
            } else {
              EXPECT_EQ(error->failure().status(), absl::NotFoundError("no row"));
              EXPECT_TRUE(absl::IsNotFound(failure.status()));
            }
          })
          .AddBoth([&](Result<void>) { done.Open(); })
          .Detach();
    });
    done.Wait();
    EXPECT_THAT(ran, ElementsAre(0, 1));
  }
}

TEST(CallMultipleInThread, AnEmptyCallIsInvalidArgumentAndNoCallsAreFine) {
  Running reactor;
  Gate done;
  reactor.Do([&] {
    Calls calls(1);
    CallMultipleInThread(*reactor, std::move(calls))
        .AddErrback([&](const Failure& failure) {
          EXPECT_TRUE(absl::IsInvalidArgument(failure.status())) << failure.status();
          return CallMultipleInThread(*reactor, {});
        })
        .AddCallback([&] { done.Open(); })
        .Detach();
  });
  done.Wait();
}

TEST(CallMultipleInThread, CancelStopsBetweenTwoCalls) {
  Running reactor;
  Gate running, go, destroyed;
  Calls calls;
  calls.push_back([&] {
    running.Open();
    go.Wait();
    return absl::OkStatus();
  });
  calls.push_back([last = std::unique_ptr<Gate, void (*)(Gate*)>(
                       &destroyed, [](Gate* gate) { gate->Open(); })] {
    ADD_FAILURE();
    return absl::OkStatus();
  });
  std::optional<Deferred<void>> deferred;
  reactor.Do([&] {
    deferred =
        CallMultipleInThread(*reactor, std::move(calls)).AddErrback([](const Failure& failure) {
          EXPECT_TRUE(absl::IsCancelled(failure.status()));
        });
  });
  running.Wait();
  reactor.Do([&] {
    deferred->Cancel();
    deferred.reset();
  });
  go.Open();
  destroyed.Wait();
}

// --- BlockingCallFromThread ---------------------------------------------------------------------

TEST(BlockingCall, ReturnsTheValueOfTheCallOrOfADeferredThatHasFired) {
  Running reactor;
  const absl::StatusOr<int> value = BlockingCallFromThread(*reactor, [&] {
    EXPECT_TRUE(reactor->InReactorThread());
    return 1;
  });
  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ(*value, 1);
  EXPECT_EQ(*BlockingCallFromThread(*reactor, [] { return Succeed(2); }), 2);
  const absl::Status nothing = BlockingCallFromThread(*reactor, [] {});
  EXPECT_TRUE(nothing.ok()) << nothing;
  EXPECT_EQ(**BlockingCallFromThread(*reactor, [] { return std::make_unique<int>(3); }), 3);
}

TEST(BlockingCall, ReturnsTheValueOfADeferredThatFiresLater) {
  Running reactor;
  const auto value = BlockingCallFromThread(*reactor, [&] {
    auto [deferred, promise] = MakeDeferred<int>();
    EXPECT_TRUE(reactor
                    ->CallFromThread([promise = std::move(promise)]() mutable {
                      EXPECT_TRUE(promise.Callback(4).ok());
                    })
                    .ok());
    return std::move(deferred);
  });
  EXPECT_EQ(*value, 4);
  EXPECT_EQ(
      *BlockingCallFromThread(*reactor, [&] { return DeferToThread(*reactor, [] { return 5; }); }),
      5);
}

TEST(BlockingCall, ReturnsTheStatusAndThrowsTheVeryException) {
  Running reactor;
  const std::exception_ptr thrown = std::make_exception_ptr(std::runtime_error("oh"));
  const auto caught = [&](auto f) {
    try {
      BlockingCallFromThread(*reactor, f).IgnoreError();
    } catch (...) {
      return std::current_exception();
    }
    return std::exception_ptr();
  };
  EXPECT_EQ(BlockingCallFromThread(*reactor, [] { return absl::NotFoundError("a"); }),
            absl::NotFoundError("a"));
  EXPECT_EQ(BlockingCallFromThread(*reactor, [] { return Fail<void>(absl::NotFoundError("b")); }),
            absl::NotFoundError("b"));
  EXPECT_EQ(caught([&] { std::rethrow_exception(thrown); }), thrown);
  EXPECT_EQ(caught([&] { return Fail<void>(Failure(thrown)); }), thrown);
  EXPECT_EQ(
      caught([&] { return DeferToThread(*reactor, [&] { std::rethrow_exception(thrown); }); }),
      thrown);
}

TEST(BlockingCall, TheCallersContextTravelsWithIt) {
  Running reactor;
  ContextScope scope(Context::Current().With(kUser, "ann"));
  EXPECT_EQ(*BlockingCallFromThread(*reactor, [] { return *kUser.Get(); }), "ann");
}

TEST(BlockingCall, R1_OnTheReactorThreadItIsFailedPreconditionAtOnce) {
  Running reactor;
  reactor.Do([&] {
    const absl::Status status = BlockingCallFromThread(*reactor, [] { ADD_FAILURE(); });
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  });
}

TEST(BlockingCall, R1_WhereTheReactorDoesNotRunItIsUnavailableAtOnce) {
  auto reactor = New();
  Tally tally;
  const absl::Status status =
      BlockingCallFromThread(*reactor, [counted = Counted(tally)] { ADD_FAILURE(); });
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(tally.alive, 0);
}

TEST(BlockingCall, R1_WithATimeoutTheRunIsWaitedFor) {
  auto reactor = New();
  Tally tally;
  const absl::Status status = BlockingCallFromThread(
      *reactor, [counted = Counted(tally)] { ADD_FAILURE(); }, absl::Milliseconds(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_EQ(tally.alive, 0);  // and it does not run when the reactor does

  absl::StatusOr<int> value = 0;
  std::thread caller(
      [&] { value = BlockingCallFromThread(*reactor, [] { return 1; }, absl::Hours(1)); });
  std::thread stopper([&] {
    caller.join();
    EXPECT_TRUE(reactor->Stop().ok());
  });
  EXPECT_TRUE(reactor->Run().ok());
  stopper.join();
  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ(*value, 1);
}

TEST(BlockingCall, R1_WhenTheReactorHasStoppedItIsUnavailable) {
  Running reactor;
  reactor.Stop();
  for (const absl::Duration timeout : {absl::Hours(1), absl::InfiniteDuration()}) {
    const absl::Status status = BlockingCallFromThread(*reactor, [] { ADD_FAILURE(); }, timeout);
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  }
}

// A Deferred of the loop that nobody fires; its Promise dies when it is cancelled.
class Unfired {
 public:
  explicit Unfired(EventReactor& reactor) : reactor_(reactor) {}
  Deferred<void> Make() {
    auto [deferred, promise] = MakeDeferred<void>([this](Promise<void>&) {
      EXPECT_TRUE(reactor_.InReactorThread());
      cancelled_ = true;
      promise_ = Promise<void>();
    });
    promise_ = std::move(promise);
    return std::move(deferred);
  }
  bool cancelled() const { return cancelled_; }

 private:
  EventReactor& reactor_;
  Promise<void> promise_;
  bool cancelled_ = false;
};

// Twisted #10124: the pool's thread waits for the loop, and the loop's end for the thread.
TEST(BlockingCall, R1_AReactorThatStopsReleasesWhoWaitsAndCancelsTheDeferred) {
  Running reactor;
  Gate waits;
  Unfired unfired(*reactor);
  absl::Status got;
  ASSERT_TRUE(reactor
                  ->CallInThread([&] {
                    got = BlockingCallFromThread(*reactor, [&] {
                      waits.Open();
                      return unfired.Make();
                    });
                  })
                  .ok());
  waits.Wait();
  reactor.Stop();
  EXPECT_TRUE(absl::IsUnavailable(got)) << got;
  EXPECT_TRUE(unfired.cancelled());
}

TEST(BlockingCall, R1_OneGivenDuringTheShutdownIsUnavailable) {
  Running reactor;
  Gate running, go;
  absl::Status got;
  ASSERT_TRUE(reactor
                  ->CallInThread([&] {
                    running.Open();
                    go.Wait();
                    got = BlockingCallFromThread(*reactor, [] { ADD_FAILURE(); });
                  })
                  .ok());
  running.Wait();
  ASSERT_TRUE(reactor->WatchEnd([&] { go.Open(); }).ok());
  reactor.Stop();
  EXPECT_TRUE(absl::IsUnavailable(got)) << got;
}

TEST(BlockingCall, R1_AReactorThatIsDestroyedReleasesWhoWaits) {
  // It tells when it was given the call.
  class Told final : public IReactorThreads {
   public:
    Told(EventReactor& reactor, Gate& given) : reactor_(reactor), given_(given) {}
    absl::Status CallFromThread(Work&& work) override {
      return reactor_.CallFromThread(std::move(work));
    }
    absl::Status CallInThread(Work&& work) override {
      return reactor_.CallInThread(std::move(work));
    }
    absl::Status SuggestThreadPoolSize(int max) override {
      return reactor_.SuggestThreadPoolSize(max);
    }
    absl::StatusOr<workers::ThreadPool*> thread_pool() override { return reactor_.thread_pool(); }
    bool InReactorThread() const override { return reactor_.InReactorThread(); }
    bool running() const override { return reactor_.running(); }
    std::shared_ptr<workers::IExclusiveWorker> worker() override {
      class Worker final : public workers::IExclusiveWorker {
       public:
        Worker(std::shared_ptr<workers::IExclusiveWorker> loop, Gate& given)
            : loop_(std::move(loop)), given_(given) {}
        absl::Status Do(Work&& work) override {
          const absl::Status status = loop_->Do(std::move(work));
          given_.Open();
          return status;
        }
        absl::Status Quit() override { return loop_->Quit(); }

       private:
        const std::shared_ptr<workers::IExclusiveWorker> loop_;
        Gate& given_;
      };
      return std::make_shared<Worker>(reactor_.worker(), given_);
    }
    absl::StatusOr<uint64_t> WatchEnd(std::function<void()> ended) override {
      return reactor_.WatchEnd(std::move(ended));
    }
    void UnwatchEnd(uint64_t id) override { reactor_.UnwatchEnd(id); }

   private:
    EventReactor& reactor_;
    Gate& given_;
  };
  auto reactor = New({.on_error = [](const workers::ErrorReport&) {}});
  Gate given;
  Told told(*reactor, given);
  Tally tally;
  absl::Status got;
  std::thread caller([&] {
    got =
        BlockingCallFromThread(told, [counted = Counted(tally)] { ADD_FAILURE(); }, absl::Hours(1));
  });
  given.Wait();
  reactor = nullptr;
  caller.join();
  EXPECT_TRUE(absl::IsUnavailable(got)) << got;
  EXPECT_EQ(tally.alive, 0);
}

// (A time that was up before the call began proves nothing: once more.)
TEST(BlockingCall, WhenTheTimeIsUpTheDeferredIsCancelledOnTheReactorThread) {
  Running reactor;
  bool began = false;  // the loop's
  for (absl::Duration timeout = absl::Milliseconds(5); !began; timeout *= 2) {
    Unfired unfired(*reactor);
    const absl::Status status = BlockingCallFromThread(
        *reactor,
        [&] {
          began = true;
          return unfired.Make();
        },
        timeout);
    EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    reactor.Do([&] { EXPECT_EQ(unfired.cancelled(), began); });
  }
}

// The call runs while the time is up: what comes of it dies on the reactor thread.
TEST(BlockingCall, AResultAfterTheTimeIsDropped) {
  Running reactor;
  Tally tally;
  bool began = false;  // the loop's
  for (absl::Duration timeout = absl::Milliseconds(5); !began; timeout *= 2) {
    Gate go;
    const auto result = BlockingCallFromThread(
        *reactor,
        [&] {
          began = true;
          go.Wait();
          return Counted(tally);
        },
        timeout);
    EXPECT_TRUE(absl::IsDeadlineExceeded(result.status())) << result.status();
    go.Open();
    reactor.Do([] {});  // behind it
    EXPECT_EQ(tally.alive, 0);
  }
}

// Its moves on the reactor thread are counted; the one of a given number takes until `until`.
struct Moves {
  std::thread::id thread = {};
  int count = 0;
  int slow = 0;
  absl::Duration until = {};
  absl::Duration slow_since = {};
};
class Slow {
 public:
  explicit Slow(Moves& moves) : moves_(&moves) {}
  Slow(Slow&& other) noexcept : moves_(other.moves_) {
    if (std::this_thread::get_id() != moves_->thread || ++moves_->count != moves_->slow) return;
    moves_->slow_since = workers::internal::SteadyNow();
    while (workers::internal::SteadyNow() <= moves_->until) std::this_thread::yield();
  }

 private:
  Moves* moves_;
};

// The result has come, and is being put down, when the time is up: it counts.
TEST(BlockingCall, AResultThatIsBeingPutDownWhenTheTimeIsUpCounts) {
  Running reactor;
  const auto call = [&](Moves& moves, absl::Duration timeout) {
    return BlockingCallFromThread(
        *reactor,
        [&moves] {
          moves.thread = std::this_thread::get_id();
          return Slow(moves);
        },
        timeout);
  };
  Moves all;
  ASSERT_TRUE(call(all, absl::InfiniteDuration()).ok());
  for (absl::Duration timeout = absl::Milliseconds(5);; timeout *= 2) {
    const absl::Duration up = workers::internal::SteadyNow() + timeout;  // at the earliest
    // The last move is that into the place where the caller takes it from.
    Moves moves{.slow = all.count, .until = up + absl::Milliseconds(5)};
    const auto result = call(moves, timeout);
    reactor.Do([] {});
    if (moves.count == all.count && moves.slow_since < up) {
      EXPECT_TRUE(result.ok()) << result.status();
      break;
    }
  }
}

// --- who waits in a pool ------------------------------------------------------------------------

TEST(BlockedWorkers, ThirtyWaitForTheThirtyFirst) {
  Running reactor(EventReactorOptions{.pool = {.min_threads = 0, .max_threads = 30}});
  constexpr int kWaiters = 30;
  std::vector<Promise<void>> waiting;  // the loop's
  std::vector<Gate> done(kWaiters);
  std::atomic<int> released = 0;
  Gate all_wait;
  for (Gate& gate : done) {
    ASSERT_TRUE(reactor
                    ->CallInThread([&] {
                      const absl::Status status = BlockingCallFromThread(*reactor, [&] {
                        auto [deferred, promise] = MakeDeferred<void>();
                        waiting.push_back(std::move(promise));
                        if (waiting.size() == kWaiters) all_wait.Open();
                        return std::move(deferred);
                      });
                      EXPECT_TRUE(status.ok()) << status;
                      released.fetch_add(1);
                      gate.Open();
                    })
                    .ok());
  }
  all_wait.Wait();
  reactor.Do([&] {
    DeferToThread(*reactor, [] {})
        .AddCallback([&] {
          for (Promise<void>& promise : waiting) EXPECT_TRUE(promise.Callback().ok());
          waiting.clear();
        })
        .Detach();
  });
  for (Gate& gate : done) gate.Wait();
  EXPECT_EQ(released, kWaiters);
}

TEST(BlockedWorkers, EachOfThirtyWaitsForACallInTheSamePool) {
  Running reactor(EventReactorOptions{.pool = {.min_threads = 0, .max_threads = 30}});
  std::vector<Gate> done(30);
  for (Gate& gate : done) {
    ASSERT_TRUE(reactor
                    ->CallInThread([&] {
                      const auto value = BlockingCallFromThread(
                          *reactor, [&] { return DeferToThread(*reactor, [] { return 1; }); });
                      EXPECT_TRUE(value.ok()) << value.status();
                      gate.Open();
                    })
                    .ok());
  }
  for (Gate& gate : done) gate.Wait();
}

std::unique_ptr<Team> HardPool(int threads) {
  return *workers::MakePool({.name = "hard", .limits = {.hard_limit = threads}});
}

TEST(BlockedWorkers, AtTheHardLimitAWaitForTheOwnBacklogIsFailedPreconditionAtOnce) {
  Running reactor;
  auto pool = HardPool(1);
  Gate done;
  absl::Status got;
  Tally tally;
  Do(*pool, [&] {
    got = BlockingCallFromThread(*reactor, [&] {
      return DeferToWorker(*reactor->worker(), *pool,
                           [counted = Counted(tally)] { ADD_FAILURE(); });
    });
    done.Open();
  });
  done.Wait();
  EXPECT_TRUE(absl::IsFailedPrecondition(got)) << got;
  EXPECT_THAT(
      std::string(got.message()),
      AllOf(HasSubstr("hard: "), HasSubstr("BlockingCallFromThread"), HasSubstr("DeferToWorker")));
#ifndef NDEBUG
  EXPECT_THAT(std::string(got.message()),
              AllOf(HasSubstr("BlockingCallFromThread (at "), HasSubstr("DeferToWorker (at ")));
#endif
  reactor.Do([] {});
  EXPECT_EQ(tally.alive, 0);  // it was cancelled
  EXPECT_TRUE(pool->Quit().ok());
  EXPECT_TRUE(pool->Join().ok());
  EXPECT_EQ(pool->statistics().withdrawn, 1);
}

// What it waits for is not what it waited for at first.
TEST(BlockedWorkers, AtTheHardLimitACallbackThatWaitsForTheOwnBacklogIsFoundToo) {
  Running reactor;
  auto pool = HardPool(1);
  for (const bool coroutine : {false, true}) {
    Gate done;
    absl::Status got;
    Do(*pool, [&] {
      got = BlockingCallFromThread(*reactor, [&]() -> Deferred<void> {
        const auto there = [&] { return DeferToWorker(*reactor->worker(), *pool, [] {}); };
        if (!coroutine) return DeferToThread(*reactor, [] {}).AddCallback(there);
        return [](Running& reactor, std::function<Deferred<void>()> there) -> Deferred<void> {
          co_await DeferToThread(*reactor, [] {});
          co_await there();
        }(reactor, there);
      });
      done.Open();
    });
    done.Wait();
    EXPECT_TRUE(absl::IsFailedPrecondition(got)) << got;
  }
}

TEST(BlockedWorkers, APoolThatIsMerelyBusyIsNeverFailed) {
  Running reactor;
  auto pool = HardPool(2);
  Gate go, busy, done;
  Do(*pool, [&] {
    busy.Open();
    go.Wait();
  });
  busy.Wait();
  absl::Status got;
  Gate given;
  Do(*pool, [&] {
    got = BlockingCallFromThread(*reactor, [&] {
      auto deferred = DeferToWorker(*reactor->worker(), *pool, [] {});
      EXPECT_EQ(pool->statistics().backlogged, 1);
      EXPECT_TRUE(reactor->CallFromThread([&] { given.Open(); }).ok());
      return deferred;
    });
    done.Open();
  });
  given.Wait();  // the wait was looked at, and goes on
  EXPECT_FALSE(done.IsOpen());
  go.Open();
  done.Wait();
  EXPECT_TRUE(got.ok()) << got;
}

// The last one is told; then there is a worker for the other one's.
TEST(BlockedWorkers, OfTwoThatFillAPoolOneIsToldAndTheOtherGetsItsResult) {
  Running reactor;
  auto pool = HardPool(2);
  Gate both_run;
  std::atomic<int> run = 0;
  std::vector<absl::Status> got(2);
  std::vector<Gate> done(2);
  for (int i = 0; i < 2; ++i) {
    Do(*pool, [&, i] {
      if (run.fetch_add(1) == 1) both_run.Open();
      both_run.Wait();
      got[i] = BlockingCallFromThread(
          *reactor, [&] { return DeferToWorker(*reactor->worker(), *pool, [] {}); });
      done[i].Open();
    });
  }
  for (Gate& gate : done) gate.Wait();
  EXPECT_EQ(got[0].ok() + got[1].ok(), 1) << got[0] << " " << got[1];
  EXPECT_TRUE(absl::IsFailedPrecondition(got[0].ok() ? got[1] : got[0]));
}

// A wait for another pool's backlog is none of its own.
TEST(BlockedWorkers, AWaitForAnotherPoolIsNotFailed) {
  Running reactor;
  auto pool = HardPool(1);
  auto other = HardPool(1);
  Gate go, busy, given, done;
  Do(*other, [&] {
    busy.Open();
    go.Wait();
  });
  busy.Wait();
  absl::Status got;
  Do(*pool, [&] {
    got = BlockingCallFromThread(*reactor, [&] {
      auto deferred = DeferToWorker(*reactor->worker(), *other, [] {});
      EXPECT_TRUE(reactor->CallFromThread([&] { given.Open(); }).ok());
      return deferred;
    });
    done.Open();
  });
  given.Wait();
  EXPECT_FALSE(done.IsOpen());
  go.Open();
  done.Wait();
  EXPECT_TRUE(got.ok()) << got;
}

}  // namespace
}  // namespace reactor
