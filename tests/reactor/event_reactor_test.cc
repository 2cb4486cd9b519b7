#include "reactor/event_reactor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reactor/deferred.h"
#include "reactor/poll_poller.h"
#include "workers/internal/sync.h"
#include "workers/testing/counting_thread_factory.h"
#include "workers/testing/gate.h"
#include "workers/worker_scope.h"

namespace reactor {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using workers::IsAlreadyQuit;
using workers::Work;
using workers::test::Gate;

std::unique_ptr<EventReactor> New(EventReactorOptions options = {}) {
  options.handle_signals = false;  // tests of signals say otherwise
  auto reactor = EventReactor::Create(std::move(options));
  EXPECT_TRUE(reactor.ok()) << reactor.status();
  return *std::move(reactor);
}

// Reports, as text, from any thread.
class Reports {
 public:
  workers::ErrorHandler handler() {
    return [this](const workers::ErrorReport& report) {
      workers::internal::MutexLock lock(mutex_);
      all_.push_back(std::string(report.status.message()) +
                     (report.dropped > 0 ? " " + std::to_string(report.dropped) : ""));
    };
  }
  std::vector<std::string> all() const {
    workers::internal::MutexLock lock(mutex_);
    return all_;
  }

 private:
  mutable workers::internal::Mutex mutex_;
  std::vector<std::string> all_;
};

void Call(EventReactor& reactor, Work work) {
  const absl::Status status = reactor.CallFromThread(std::move(work));
  EXPECT_TRUE(status.ok()) << status;
}
DelayedCall Later(EventReactor& reactor, absl::Duration delay, Work work) {
  auto call = reactor.CallLater(delay, std::move(work));
  EXPECT_TRUE(call.ok()) << call.status();
  return call.value_or(DelayedCall());
}
void Stop(EventReactor& reactor) { EXPECT_TRUE(reactor.Stop().ok()); }
void RunToTheEnd(EventReactor& reactor) {
  const absl::Status status = reactor.Run();
  EXPECT_TRUE(status.ok()) << status;
}
TriggerId Trigger(EventReactor& reactor, EventPhase phase, SystemEvent event,
                  std::function<void()> f) {
  return *reactor.AddSystemEventTrigger(phase, event, [f] {
    f();
    return Succeed();
  });
}

// --- calls from threads -------------------------------------------------------------------------

TEST(EventReactor, CallsRunInTheThreadOfRunInsideAWorkOfTheLoop) {
  auto reactor = New();
  EXPECT_FALSE(reactor->InReactorThread());
  bool inside = false;
  bool in_scope = false;
  const auto loop = reactor->worker();
  std::thread::id thread;
  Call(*reactor, [&] {
    inside = reactor->InReactorThread();
    in_scope = workers::WorkerScope::RunsIn(*loop);
    thread = std::this_thread::get_id();
    Stop(*reactor);
  });
  std::thread runner([&] { RunToTheEnd(*reactor); });
  const std::thread::id runner_id = runner.get_id();
  runner.join();
  EXPECT_TRUE(inside);
  EXPECT_TRUE(in_scope);
  EXPECT_EQ(thread, runner_id);
  EXPECT_FALSE(reactor->InReactorThread());
}

// The loop has nothing else that could end its sleep.
TEST(EventReactor, ACallFromAnotherThreadWakesTheLoop) {
  auto reactor = New();
  Gate running;
  ASSERT_TRUE(reactor->CallWhenRunning([&] { running.Open(); }).ok());
  std::thread other([&] {
    running.Wait();
    for (int i = 0; i < 100; ++i) {
      Gate ran;
      Call(*reactor, [&] { ran.Open(); });
      ran.Wait();
    }
    Stop(*reactor);
  });
  RunToTheEnd(*reactor);
  other.join();
}

// The original loops for ever, or starves the rest.
TEST(EventReactor, ACallThatGivesItselfAnewStarvesNobody) {
  auto reactor = New({.calls_per_turn = 1});
  bool other = false;
  std::function<void()> again = [&] { Call(*reactor, again); };
  again();
  Call(*reactor, [&] { other = true; });
  Later(*reactor, absl::Milliseconds(1), [&] { Stop(*reactor); });
  ASSERT_TRUE(reactor->CallWhenRunning([] {}).ok());
  // The last one is given while the queue is being closed, and refused.
  again = [&] {
    const absl::Status status = reactor->CallFromThread(again);
    EXPECT_TRUE(status.ok() || IsAlreadyQuit(status));
  };
  RunToTheEnd(*reactor);
  EXPECT_TRUE(other);
}

TEST(EventReactor, AFloodOfCallsLeavesTurnsToTimers) {
  auto reactor = New({.calls_per_turn = 10});
  int calls_before_timer = -1;
  int calls = 0;
  for (int i = 0; i < 10'000; ++i) Call(*reactor, [&] { ++calls; });
  Later(*reactor, absl::ZeroDuration(), [&] {
    calls_before_timer = calls;
    Stop(*reactor);
  });
  RunToTheEnd(*reactor);
  EXPECT_LE(calls_before_timer, 10);
  EXPECT_EQ(calls, 10'000);  // what was taken runs, also when it is to stop
}

// R6: the original makes one system call per call.
TEST(EventReactor, R6_CallsWhileTheLoopIsAwakeWakeItAtMostOnce) {
  auto reactor = New();
  Gate held;
  Gate release;
  int ran = 0;
  Call(*reactor, [&] {
    held.Open();
    release.Wait();
  });
  std::thread other([&] {
    held.Wait();
    const int64_t before = reactor->statistics().wakeups;
    for (int i = 0; i < 20'000; ++i) Call(*reactor, [&] { ++ran; });
    EXPECT_LE(reactor->statistics().wakeups - before, 10);
    Call(*reactor, [&] { Stop(*reactor); });
    release.Open();
  });
  RunToTheEnd(*reactor);
  other.join();
  EXPECT_EQ(ran, 20'000);
  EXPECT_LE(reactor->statistics().wakeups, 10);
  EXPECT_EQ(reactor->statistics().calls, 20'002);
}

TEST(EventReactor, WhatIsTakenWhileItStopsRunsAndWhatIsRefusedDoesNot) {
  for (int round = 0; round < 20; ++round) {
    auto reactor = New();
    std::atomic<int> accepted = 0;
    std::atomic<int> ran = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&] {
        while (reactor->CallFromThread([&] { ran.fetch_add(1); }).ok()) accepted.fetch_add(1);
      });
    }
    Later(*reactor, absl::Microseconds(200), [&] { Stop(*reactor); });
    RunToTheEnd(*reactor);
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(ran.load(), accepted.load());
  }
}

TEST(EventReactor, DestroyedWithoutARunItDropsCountsAndReports) {
  Reports reports;
  auto reactor = New({.on_error = reports.handler()});
  auto token = std::make_shared<int>();
  for (int i = 0; i < 3; ++i) Call(*reactor, [token] { FAIL(); });
  DelayedCall call = Later(*reactor, absl::Seconds(1), [token] { FAIL(); });
  Trigger(*reactor, EventPhase::kAfter, SystemEvent::kStartup, [token] { FAIL(); });
  SignalTrigger trigger = reactor->MakeSignalTrigger([token] { FAIL(); });
  int ended = 0;
  ASSERT_TRUE(reactor->WatchEnd([&] { ++ended; }).ok());
  const auto loop = reactor->worker();
  reactor = nullptr;
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_EQ(ended, 1);
  EXPECT_THAT(reports.all(),
              ElementsAre(AllOf(HasSubstr("the reactor was destroyed"), HasSubstr(" 4"))));
  // Handles are as good as before, and say so.
  EXPECT_TRUE(IsAlreadyQuit(loop->Do([] { FAIL(); })));
  EXPECT_TRUE(absl::IsFailedPrecondition(loop->Quit()));
  EXPECT_FALSE(trigger.Trigger());
  EXPECT_FALSE(call.active());
  EXPECT_TRUE(absl::IsFailedPrecondition(call.Cancel()));
}

// Whoever has a trigger mostly removes it at his end, and the trigger may be what keeps him.
TEST(EventReactor, DestroyedItsTriggersMayRemoveThemselves) {
  struct Service {
    ~Service() { removed.set_value(reactor->RemoveSystemEventTrigger(id)); }
    EventReactor* reactor;
    TriggerId id = 0;
    std::promise<absl::Status> removed;
  };
  auto reactor = New();
  auto service = std::make_shared<Service>();
  service->reactor = reactor.get();
  auto removed = service->removed.get_future();
  Service& raw = *service;
  raw.id = Trigger(*reactor, EventPhase::kBefore, SystemEvent::kShutdown,
                   [service = std::move(service)] { FAIL(); });
  Trigger(*reactor, EventPhase::kBefore, SystemEvent::kShutdown, [] { FAIL(); });
  reactor = nullptr;
  EXPECT_TRUE(absl::IsNotFound(removed.get()));
}

TEST(EventReactor, DestroyedWithoutARunItCountsWhatWaitsForTheStartup) {
  Reports reports;
  auto reactor = New({.on_error = reports.handler()});
  ASSERT_TRUE(reactor->CallWhenRunning([] { FAIL(); }).ok());
  reactor = nullptr;
  EXPECT_THAT(reports.all(),
              ElementsAre(AllOf(HasSubstr("the reactor was destroyed"), HasSubstr(" 1"))));
}

// --- run and stop -------------------------------------------------------------------------------

// R9: in the original nobody notices until something else ends the sleep.
TEST(EventReactor, WhatHoldsDeferredsOfTheLoopMayOutliveRun) {
  auto reactor = *EventReactor::Create();
  struct {
    Deferred<int> waits, cancelled;
    std::optional<Promise<int>> promise;
  } service;
  std::string seen;
  ASSERT_TRUE(reactor
                  ->CallFromThread([&] {
                    for (Deferred<int>* one : {&service.waits, &service.cancelled}) {
                      auto [deferred, promise] = MakeDeferred<int>();
                      *one = std::move(deferred).AddErrback([&seen](const Failure& failure) {
                        seen += failure.status().message();
                        return 0;
                      });
                      service.promise = std::move(promise);
                      if (one == &service.waits) service.promise.reset();
                    }
                    reactor->Stop().IgnoreError();
                  })
                  .ok());
  ASSERT_TRUE(reactor->Run().ok());
  seen.clear();
  service.cancelled.Cancel();
  EXPECT_EQ(seen, "the Deferred was cancelled");
  service.promise.reset();
  service.waits = {};
}

TEST(EventReactor, R9_StopFromAnotherThreadWakesTheLoop) {
  auto reactor = New();
  Gate running;
  ASSERT_TRUE(reactor->CallWhenRunning([&] { running.Open(); }).ok());
  std::thread other([&] {
    running.Wait();
    Stop(*reactor);
  });
  RunToTheEnd(*reactor);
  other.join();
}

TEST(EventReactor, RunsAgainAfterItReturned) {
  auto reactor = New();
  int timers = 0;
  Later(*reactor, absl::Hours(1), [] {});
  for (int round = 0; round < 5; ++round) {
    std::vector<std::string> log;
    ASSERT_TRUE(reactor
                    ->CallWhenRunning([&] {
                      log.push_back("running");
                      Later(*reactor, absl::ZeroDuration(), [&] {
                        ++timers;
                        Call(*reactor, [&] {
                          log.push_back("call");
                          Stop(*reactor);
                        });
                      });
                    })
                    .ok());
    std::thread([&] { RunToTheEnd(*reactor); }).join();  // in another thread each time
    EXPECT_THAT(log, ElementsAre("running", "call"));
    EXPECT_FALSE(reactor->running());
    EXPECT_TRUE(IsAlreadyQuit(reactor->CallFromThread([] {})));
  }
  EXPECT_EQ(timers, 5);
  EXPECT_EQ(reactor->delayed_calls().size(), 1u);  // kept for the next Run
  EXPECT_TRUE(reactor->delayed_calls()[0].Cancel().ok());
}

TEST(EventReactor, SeveralReactorsEachInItsThread) {
  auto a = New({.name = "a"});
  auto b = New({.name = "b"});
  int turns = 0;
  // Back and forth.
  std::function<void()> in_a;
  std::function<void()> in_b = [&] {
    EXPECT_TRUE(b->InReactorThread());
    EXPECT_FALSE(a->InReactorThread());
    Call(*a, in_a);
  };
  in_a = [&] {
    EXPECT_TRUE(a->InReactorThread());
    EXPECT_FALSE(b->InReactorThread());
    if (++turns < 100) return Call(*b, in_b);
    Stop(*b);
    Stop(*a);
  };
  Call(*b, in_b);
  std::thread thread([&] { RunToTheEnd(*a); });
  RunToTheEnd(*b);
  thread.join();
  EXPECT_EQ(turns, 100);
}

TEST(EventReactor, AFailingPollerEndsRunWithItsWords) {
  class Failing final : public Poller {
   public:
    absl::StatusOr<PollToken> Add(int, Interest) override { return 1; }
    absl::Status Change(PollToken, Interest) override { return absl::OkStatus(); }
    void Remove(PollToken) override {}
    bool IsCurrent(PollToken) const override { return true; }
    absl::Status Wait(absl::Duration, std::vector<Ready>& ready) override {
      ready.clear();
      return absl::InternalError("no waiting today");
    }
  };
  Reports reports;
  auto reactor = New(
      {.create_poller = [] { return std::make_unique<Failing>(); }, .on_error = reports.handler()});
  Trigger(*reactor, EventPhase::kAfter, SystemEvent::kShutdown, [] {});
  EXPECT_EQ(reactor->Run().message(), "no waiting today");
  EXPECT_THAT(reports.all(), ElementsAre("no waiting today"));
}

TEST(EventReactor, WrongOptionsAndNoDescriptorLeftAreErrors) {
  EXPECT_TRUE(absl::IsInvalidArgument(EventReactor::Create({.calls_per_turn = 0}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      EventReactor::Create({.pool = {.min_threads = 3, .max_threads = 2}}).status()));
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none = {0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status status = EventReactor::Create().status();
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

// --- time ---------------------------------------------------------------------------------------

// The sleep is as long as the first timer says, whatever was moved or cancelled meanwhile: the
// far timer would hold it up for hours.
TEST(EventReactor, TheSleepFollowsResetDelayAndCancel) {
  auto reactor = New();
  DelayedCall soon;
  DelayedCall far = Later(*reactor, absl::Hours(5), [&] { Stop(*reactor); });
  DelayedCall cancelled = Later(*reactor, absl::Milliseconds(1), [] { FAIL(); });
  Later(*reactor, absl::ZeroDuration(), [&] {
    EXPECT_TRUE(cancelled.Cancel().ok());
    EXPECT_TRUE(far.Delay(-absl::Hours(5) + absl::Milliseconds(1)).ok());
    EXPECT_TRUE(far.Reset(absl::Milliseconds(1)).ok());
  });
  RunToTheEnd(*reactor);
  // A timer costs the turn that waits for it, and not many that come too early.
  EXPECT_LE(reactor->statistics().turns, 10);
}

TEST(EventReactor, ATimerOfAnotherThreadsCallIsNotSleptOver) {
  auto reactor = New();
  Gate running;
  ASSERT_TRUE(reactor->CallWhenRunning([&] { running.Open(); }).ok());
  std::thread other([&] {
    running.Wait();
    Call(*reactor, [&] { Later(*reactor, absl::Milliseconds(1), [&] { Stop(*reactor); }); });
  });
  RunToTheEnd(*reactor);
  other.join();
}

// --- events and triggers ------------------------------------------------------------------------

// R8: in the original a Deferred that never fires blocks the shutdown for ever.
TEST(EventReactor, R8_APhaseHasATimeout) {
  for (SystemEvent event : {SystemEvent::kStartup, SystemEvent::kShutdown}) {
    Reports reports;
    auto reactor = New({.on_error = reports.handler(),
                        .startup_timeout = absl::Milliseconds(2),
                        .shutdown_timeout = absl::Milliseconds(2)});
    Promise<void> never;
    ASSERT_TRUE(reactor
                    ->AddSystemEventTrigger(EventPhase::kBefore, event,
                                            [&] {
                                              auto [deferred, promise] = MakeDeferred<void>();
                                              never = std::move(promise);
                                              return std::move(deferred);
                                            })
                    .ok());
    bool ended = false;
    Trigger(*reactor, EventPhase::kAfter, SystemEvent::kShutdown, [&] {
      ended = true;
      never.Callback().IgnoreError();
    });
    ASSERT_TRUE(reactor->CallWhenRunning([&] { Stop(*reactor); }).ok());
    RunToTheEnd(*reactor);
    EXPECT_TRUE(ended);
    EXPECT_THAT(reports.all(), ElementsAre(HasSubstr("1 Deferreds of triggers before")));
  }
}

// --- the pool -----------------------------------------------------------------------------------

TEST(EventReactor, ThePoolIsStartedAndEndedWithTheLoop) {
  workers::test::CountingThreadFactory factory;
  auto reactor =
      New({.pool = {.min_threads = 1, .max_threads = 10, .pool = {.factory = &factory}}});
  auto pool = reactor->thread_pool();
  ASSERT_TRUE(pool.ok());
  EXPECT_EQ(factory.started(), 0);
  EXPECT_EQ((*pool)->max(), 10);
  EXPECT_EQ(*reactor->thread_pool(), *pool);
  Gate worked;
  ASSERT_TRUE(reactor->CallInThread([&] { worked.Open(); }).ok());
  EXPECT_EQ(factory.started(), 0);  // it waits for the loop
  ASSERT_TRUE(reactor
                  ->CallWhenRunning([&] {
                    EXPECT_GE(factory.started(), 1);
                    worked.Wait();
                    Stop(*reactor);
                  })
                  .ok());
  RunToTheEnd(*reactor);
  EXPECT_EQ(factory.started(), factory.joined());
  EXPECT_TRUE(IsAlreadyQuit(reactor->CallInThread([] {})));
}

TEST(EventReactor, APoolThatIsMadeWhileTheLoopRunsIsStartedAtOnceAndEndedWithIt) {
  workers::test::CountingThreadFactory factory;
  auto reactor = New({.pool = {.min_threads = 0, .max_threads = 2, .pool = {.factory = &factory}}});
  ASSERT_TRUE(reactor
                  ->CallWhenRunning(
                      [&] { EXPECT_TRUE(reactor->CallInThread([&] { Stop(*reactor); }).ok()); })
                  .ok());
  RunToTheEnd(*reactor);
  EXPECT_EQ(factory.started(), 1);
  EXPECT_EQ(factory.joined(), 1);
}

TEST(EventReactor, ByDefaultThePoolHasUpToTenThreadsAndItsNameIsTheReactors) {
  auto reactor = New({.name = "web"});
  auto pool = reactor->thread_pool();
  ASSERT_TRUE(pool.ok());
  EXPECT_EQ((*pool)->min(), 0);
  EXPECT_EQ((*pool)->max(), 10);
  EXPECT_THAT((*pool)->DumpStats(), testing::StartsWith("web-pool: "));
}

TEST(EventReactor, EachRunHasItsPool) {
  auto reactor = New();
  for (int round = 0; round < 3; ++round) {
    Gate ran;
    ASSERT_TRUE(reactor
                    ->CallWhenRunning([&] {
                      EXPECT_TRUE(reactor->CallInThread([&] { ran.Open(); }).ok());
                      ran.Wait();
                      Stop(*reactor);
                    })
                    .ok());
    RunToTheEnd(*reactor);
  }
}

TEST(EventReactor, ThePoolIsResizedBeforeRunIdleAndBusyAndNotAfterwards) {
  Gate release;
  Gate first;
  Gate second;
  auto reactor = New({.pool = {.min_threads = 1, .max_threads = 10}});
  EXPECT_TRUE(reactor->SuggestThreadPoolSize(5).ok());  // there is none yet
  EXPECT_EQ((*reactor->thread_pool())->max(), 5);
  EXPECT_TRUE(reactor->SuggestThreadPoolSize(4).ok());  // it does not run
  EXPECT_EQ((*reactor->thread_pool())->max(), 4);
  EXPECT_TRUE(absl::IsInvalidArgument(reactor->SuggestThreadPoolSize(0)));
  ASSERT_TRUE(reactor
                  ->CallWhenRunning([&] {
                    EXPECT_TRUE(reactor->SuggestThreadPoolSize(1).ok());
                    EXPECT_TRUE(reactor
                                    ->CallInThread([&] {
                                      first.Open();
                                      release.Wait();
                                    })
                                    .ok());
                    EXPECT_TRUE(reactor->CallInThread([&] { second.Open(); }).ok());
                    first.Wait();
                    EXPECT_FALSE(second.IsOpen());                        // the only thread is busy
                    EXPECT_TRUE(reactor->SuggestThreadPoolSize(2).ok());  // and gets company
                    second.Wait();
                    release.Open();
                    Stop(*reactor);
                  })
                  .ok());
  RunToTheEnd(*reactor);
  EXPECT_TRUE(IsAlreadyQuit(reactor->SuggestThreadPoolSize(3)));
}

TEST(EventReactor, WorkOfThePoolOfAReactorThatNeverRanIsDroppedAndReported) {
  Reports reports;
  auto reactor = New({.on_error = reports.handler()});
  ASSERT_TRUE(reactor->CallInThread([] { FAIL(); }).ok());
  reactor = nullptr;
  EXPECT_THAT(reports.all(), ElementsAre(HasSubstr(" 1")));
}

// R5: the original joins its pool on the reactor thread, the loop standing still: a work that
// waits for the loop waits for ever.
TEST(EventReactor, R5_ThePoolIsDrainedWhileTheLoopTurns) {
  auto reactor = New();
  Gate working;
  Gate stopping;
  bool answered = false;
  ASSERT_TRUE(reactor
                  ->CallWhenRunning([&] {
                    EXPECT_TRUE(reactor
                                    ->CallInThread([&] {
                                      working.Open();
                                      stopping.Wait();
                                      Gate answer;
                                      Call(*reactor, [&] { answer.Open(); });
                                      answer.Wait();
                                      Call(*reactor, [&] { answered = true; });  // a result
                                    })
                                    .ok());
                    working.Wait();
                    Stop(*reactor);
                  })
                  .ok());
  absl::Status refused;
  bool before_during = false;
  ASSERT_TRUE(reactor
                  ->WatchEnd([&] {
                    refused = reactor->CallInThread([] {});
                    stopping.Open();
                  })
                  .ok());
  Trigger(*reactor, EventPhase::kDuring, SystemEvent::kShutdown, [&] { before_during = answered; });
  RunToTheEnd(*reactor);
  EXPECT_TRUE(before_during);
  EXPECT_TRUE(IsAlreadyQuit(refused));
}

TEST(EventReactor, APoolThatIsStuckIsReportedAndLeft) {
  Reports reports;
  workers::test::CountingThreadFactory factory;
  auto reactor = New({.pool = {.min_threads = 0, .max_threads = 1, .pool = {.factory = &factory}},
                      .on_error = reports.handler(),
                      .pool_timeout = absl::Milliseconds(3)});
  Gate working;
  Gate release;
  ASSERT_TRUE(reactor
                  ->CallWhenRunning([&] {
                    EXPECT_TRUE(reactor
                                    ->CallInThread([&] {
                                      working.Open();
                                      release.Wait();
                                    })
                                    .ok());
                    EXPECT_TRUE(reactor->CallInThread([] { FAIL(); }).ok());
                    working.Wait();
                    Stop(*reactor);
                  })
                  .ok());
  RunToTheEnd(*reactor);
  EXPECT_THAT(reports.all(),
              ElementsAre(HasSubstr("the reactor stopped before the pool was done 1"),
                          HasSubstr("the pool has not ended in time")));
  EXPECT_EQ(reactor->statistics().dropped, 1);
  reactor = nullptr;
  release.Open();
  factory.Finish();
  EXPECT_EQ(factory.started(), factory.joined());
}

// A watcher takes another one back, whose turn has not come.
TEST(EventReactor, AWatcherOfTheEndThatIsUnwatchedByAnotherWatcherIsNotCalled) {
  for (const bool by_destruction : {false, true}) {
    auto reactor = New();
    EventReactor& r = *reactor;
    std::vector<uint64_t> ids;
    int called = 0;
    for (int i = 0; i < 3; ++i) {
      ids.push_back(*r.WatchEnd([&] {
        ++called;
        for (const uint64_t id : ids) r.UnwatchEnd(id);
      }));
    }
    if (!by_destruction) {
      ASSERT_TRUE(r.CallWhenRunning([&] { r.Stop().IgnoreError(); }).ok());
      EXPECT_TRUE(r.Run().ok());
    }
    reactor = nullptr;
    EXPECT_EQ(called, 1);
  }
}

// A watcher that was taken back by another thread while the one before it ran.
TEST(EventReactor, AWatcherOfTheEndThatIsUnwatchedByAThreadBeforeItsTurnIsNotCalled) {
  auto reactor = New();
  Gate first;
  Gate gone;
  ASSERT_TRUE(reactor
                  ->WatchEnd([&] {
                    first.Open();
                    gone.Wait();
                  })
                  .ok());
  bool called = false;
  const uint64_t second = *reactor->WatchEnd([&] { called = true; });
  std::thread other([&] {
    first.Wait();
    reactor->UnwatchEnd(second);
    gone.Open();
  });
  ASSERT_TRUE(reactor->CallWhenRunning([&] { reactor->Stop().IgnoreError(); }).ok());
  EXPECT_TRUE(reactor->Run().ok());
  other.join();
  EXPECT_FALSE(called);
}

// --- signals ------------------------------------------------------------------------------------

class EventReactorSignals : public testing::Test {
 protected:
  EventReactorSignals() {
    for (size_t i = 0; i < std::size(kAll); ++i) {
      sigaction(kAll[i], nullptr, &before_[i]);
      signal(kAll[i], SIG_DFL);
    }
  }
  ~EventReactorSignals() override {
    for (size_t i = 0; i < std::size(kAll); ++i) sigaction(kAll[i], &before_[i], nullptr);
  }
  static std::unique_ptr<EventReactor> New(EventReactorOptions options = {}) {
    return *EventReactor::Create(std::move(options));
  }
  static bool IsDefault(int signal) {
    struct sigaction now;
    sigaction(signal, nullptr, &now);
    return now.sa_handler == SIG_DFL;
  }

  static constexpr int kAll[] = {SIGINT, SIGTERM, SIGHUP};

 private:
  struct sigaction before_[3];
};

TEST_F(EventReactorSignals, EachStopsItAndTheHandlersArePutBack) {
  for (int signal : kAll) {
    auto reactor = New();
    bool default_before = false;
    bool default_during = true;
    Trigger(*reactor, EventPhase::kBefore, SystemEvent::kStartup,
            [&] { default_before = IsDefault(signal); });
    Trigger(*reactor, EventPhase::kDuring, SystemEvent::kStartup,
            [&] { default_during = IsDefault(signal); });
    Call(*reactor, [signal] { raise(signal); });
    const absl::Status status = reactor->Run();
    EXPECT_TRUE(absl::IsCancelled(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr("stopped by SIG"));
    EXPECT_TRUE(default_before);
    EXPECT_FALSE(default_during);
    EXPECT_TRUE(IsDefault(signal));
  }
}

TEST_F(EventReactorSignals, OneStopsEveryRunningReactorThatHandlesSignals) {
  auto a = New();
  auto b = New();
  Gate a_runs;
  Gate b_runs;
  ASSERT_TRUE(a->CallWhenRunning([&] { a_runs.Open(); }).ok());
  ASSERT_TRUE(b->CallWhenRunning([&] { b_runs.Open(); }).ok());
  absl::Status a_ended;
  std::thread thread([&] { a_ended = a->Run(); });
  std::thread killer([&] {
    a_runs.Wait();
    b_runs.Wait();
    kill(getpid(), SIGTERM);
  });
  EXPECT_TRUE(absl::IsCancelled(b->Run()));
  thread.join();
  killer.join();
  EXPECT_TRUE(absl::IsCancelled(a_ended));
  EXPECT_TRUE(IsDefault(SIGTERM));
}

TEST_F(EventReactorSignals, ASecondOneEndsAllWaiting) {
  Reports reports;
  auto reactor = New({.on_error = reports.handler()});
  Promise<void> never;
  ASSERT_TRUE(reactor
                  ->AddSystemEventTrigger(EventPhase::kBefore, SystemEvent::kShutdown,
                                          [&] {
                                            auto [deferred, promise] = MakeDeferred<void>();
                                            never = std::move(promise);
                                            Later(*reactor, absl::ZeroDuration(),
                                                  [] { raise(SIGINT); });
                                            return std::move(deferred);
                                          })
                  .ok());
  bool ended = false;
  Trigger(*reactor, EventPhase::kAfter, SystemEvent::kShutdown, [&] {
    ended = true;
    never.Callback().IgnoreError();
  });
  Call(*reactor, [] { raise(SIGINT); });
  EXPECT_TRUE(absl::IsCancelled(reactor->Run()));
  EXPECT_TRUE(ended);
}

TEST_F(EventReactorSignals, ToldOtherwiseItHandlesNone) {
  auto reactor = New({.handle_signals = false});
  Call(*reactor, [&] {
    for (int signal : kAll) EXPECT_TRUE(IsDefault(signal));
    Stop(*reactor);
  });
  RunToTheEnd(*reactor);
}

TEST_F(EventReactorSignals, ATriggerIsCalledFromASignalHandlerAndCoalesces) {
  static const SignalTrigger* in_handler;
  static std::atomic<int> told;
  told = 0;
  auto reactor = New();
  int runs = 0;
  SignalTrigger trigger = reactor->MakeSignalTrigger([&] {
    EXPECT_TRUE(reactor->InReactorThread());
    if (++runs == 2) Stop(*reactor);
  });
  in_handler = &trigger;
  struct sigaction action = {};
  struct sigaction before;
  action.sa_handler = [](int) {
    errno = 5;
    if (in_handler->Trigger() && errno == 5) told.fetch_add(1);
  };
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  Call(*reactor, [] {
    for (int i = 0; i < 100; ++i) raise(SIGUSR1);
  });
  Later(*reactor, absl::Milliseconds(2), [&] {
    EXPECT_EQ(runs, 1);
    raise(SIGUSR1);
  });
  RunToTheEnd(*reactor);
  sigaction(SIGUSR1, &before, nullptr);
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(told.load(), 101);
  EXPECT_FALSE(trigger.Trigger());  // it has stopped
}

TEST(EventReactor, ATriggerWakesTheLoopFromAnyThreadAndItsWorkMayThrow) {
  Reports reports;
  auto reactor = New({.on_error = reports.handler()});
  Gate running;
  int runs = 0;
  SignalTrigger trigger = reactor->MakeSignalTrigger([&] {
    ++runs;
    Stop(*reactor);
    throw std::runtime_error("boom");
  });
  ASSERT_TRUE(reactor->CallWhenRunning([&] { running.Open(); }).ok());
  std::thread other([&] {
    running.Wait();
    EXPECT_TRUE(trigger.Trigger());
  });
  RunToTheEnd(*reactor);
  other.join();
  EXPECT_EQ(runs, 1);
  EXPECT_THAT(reports.all(), ElementsAre("std::runtime_error: boom"));
}

TEST(EventReactor, ATriggerThatIsGoneRunsNoMoreAndItsWorkIsDestroyedByTheLoop) {
  auto reactor = New();
  auto token = std::make_shared<int>();
  {
    SignalTrigger first = reactor->MakeSignalTrigger([token] { FAIL(); });
    EXPECT_TRUE(first.Trigger());
    SignalTrigger second = reactor->MakeSignalTrigger([token] { FAIL(); });
    first = std::move(second);
  }
  EXPECT_EQ(token.use_count(), 3);
  Later(*reactor, absl::Milliseconds(1), [&] {
    EXPECT_EQ(token.use_count(), 1);
    Stop(*reactor);
  });
  RunToTheEnd(*reactor);
}

// --- descriptors --------------------------------------------------------------------------------

// One end of a pair of sockets that are watched.
class Watched : public IReadDescriptor, public IWriteDescriptor {
 public:
  Watched() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    fd_ = fds[0];
    peer_ = fds[1];
  }
  ~Watched() override {
    Close();
    close(peer_);
  }
  void Send() { EXPECT_EQ(write(peer_, "x", 1), 1); }
  void Receive() {
    char byte;
    EXPECT_EQ(read(fd_, &byte, 1), 1);
  }
  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }

  int fd() const override {
    ++asked_;
    return fd_;
  }
  absl::Status DoRead() override {
    ++reads_;
    return on_read_ ? on_read_() : absl::OkStatus();
  }
  absl::Status DoWrite() override {
    ++writes_;
    return on_write_ ? on_write_() : absl::OkStatus();
  }
  void ConnectionLost(absl::Status why) override {
    lost_.push_back(why);
    if (on_lost_) on_lost_();
  }

  std::function<absl::Status()> on_read_;
  std::function<absl::Status()> on_write_;
  std::function<void()> on_lost_;
  int fd_;
  int peer_;
  int reads_ = 0;
  int writes_ = 0;
  mutable int asked_ = 0;
  std::vector<absl::Status> lost_;
};

class EventReactorDescriptors : public testing::TestWithParam<bool> {
 protected:
  EventReactorDescriptors() {
    EventReactorOptions options;
    options.on_error = reports_.handler();
    if (GetParam()) options.create_poller = [] { return std::make_unique<PollPoller>(); };
    reactor_ = New(std::move(options));
  }
  // Stops the loop when it has had `turns` more turns.
  void StopIn(int turns) {
    if (turns == 0) return Stop(*reactor_);
    Later(*reactor_, absl::ZeroDuration(), [this, turns] { StopIn(turns - 1); });
  }
  void AddReader(Watched& d) { EXPECT_TRUE(reactor_->AddReader(d).ok()); }
  void AddWriter(Watched& d) { EXPECT_TRUE(reactor_->AddWriter(d).ok()); }

  Reports reports_;
  std::unique_ptr<EventReactor> reactor_;
};

TEST_P(EventReactorDescriptors, ABytesFromAnotherThreadEndsTheSleep) {
  Watched d;
  Gate running;
  ASSERT_TRUE(reactor_->CallWhenRunning([&] { running.Open(); }).ok());
  d.on_read_ = [&] {
    d.Receive();
    return reactor_->Stop();
  };
  AddReader(d);
  std::thread other([&] {
    running.Wait();
    d.Send();
  });
  RunToTheEnd(*reactor_);
  other.join();
}

TEST_P(EventReactorDescriptors, RemoveAllReturnsAllAndNotTheLoopsOwn) {
  Watched reader;
  Watched writer;
  AddReader(reader);
  AddWriter(writer);
  EXPECT_THAT(reactor_->RemoveAll(),
              ElementsAre(static_cast<IDescriptor*>(&reader), static_cast<IDescriptor*>(&writer)));
  EXPECT_THAT(reactor_->RemoveAll(), IsEmpty());
  std::thread other;
  ASSERT_TRUE(reactor_
                  ->CallWhenRunning([&] {
                    other = std::thread([&] { Call(*reactor_, [&] { Stop(*reactor_); }); });
                  })
                  .ok());
  RunToTheEnd(*reactor_);  // can still be woken
  other.join();
  EXPECT_EQ(writer.writes_, 0);
}

// What it had is gone, and what it has now is another's: it is watched no more, and is told.
TEST_P(EventReactorDescriptors, WhatCannotBeWatchedAnewIsTold) {
  Watched d;
  Watched other;
  AddReader(other);
  AddReader(d);
  d.Close();
  d.fd_ = other.fd_;
  EXPECT_TRUE(absl::IsAlreadyExists(reactor_->AddWriter(d)));
  StopIn(2);
  RunToTheEnd(*reactor_);
  d.fd_ = -1;
  ASSERT_EQ(d.lost_.size(), 1u);
  EXPECT_TRUE(absl::IsFailedPrecondition(d.lost_[0])) << d.lost_[0];
}

TEST_P(EventReactorDescriptors, RemovingWhatIsNotThereIsOkAlsoWhereItIsClosed) {
  Watched d;
  AddReader(d);
  d.Close();
  EXPECT_TRUE(reactor_->RemoveWriter(d).ok());
  EXPECT_TRUE(reactor_->RemoveReader(d).ok());
}

TEST_P(EventReactorDescriptors, RegularFilesAreAlwaysReady) {
  std::string path = testing::TempDir() + "/event_reactor_test.XXXXXX";
  Watched d;
  d.Close();
  d.fd_ = mkstemp(path.data());
  ASSERT_GE(d.fd_, 0);
  unlink(path.c_str());
  d.on_read_ = [&] { return d.reads_ == 3 ? reactor_->RemoveReader(d) : absl::OkStatus(); };
  d.on_write_ = [&] {
    if (d.writes_ < 5) return absl::OkStatus();
    Stop(*reactor_);
    return reactor_->RemoveWriter(d);
  };
  AddReader(d);
  AddWriter(d);
  RunToTheEnd(*reactor_);
  EXPECT_EQ(d.reads_, 3);
  EXPECT_EQ(d.writes_, 5);
}

// As many as a server may have: what it costs grows with their number, and not with its square.
TEST(EventReactor, AtTheEndAHundredThousandDescriptorsAreToldInTheirOrder) {
  class Idle final : public Poller {
   public:
    absl::StatusOr<PollToken> Add(int fd, Interest) override { return MakePollToken(1, fd + 1); }
    absl::Status Change(PollToken, Interest) override { return absl::OkStatus(); }
    void Remove(PollToken) override {}
    bool IsCurrent(PollToken) const override { return true; }
    absl::Status Wait(absl::Duration, std::vector<Ready>& ready) override {
      ready.clear();
      return absl::OkStatus();
    }
  };
  class Numbered final : public IReadDescriptor {
   public:
    Numbered(int fd, std::vector<int>& lost) : fd_(fd), lost_(lost) {}
    int fd() const override { return fd_; }
    absl::Status DoRead() override { return absl::OkStatus(); }
    void ConnectionLost(absl::Status) override { lost_.push_back(fd_); }

   private:
    const int fd_;
    std::vector<int>& lost_;
  };
  constexpr int kCount = 100'000;
  std::vector<int> lost;
  std::vector<std::unique_ptr<Numbered>> all;
  auto reactor = New({.create_poller = [] { return std::make_unique<Idle>(); }});
  for (int fd = 0; fd < kCount; ++fd) {
    all.push_back(std::make_unique<Numbered>(fd, lost));
    ASSERT_TRUE(reactor->AddReader(*all.back()).ok());
  }
  Call(*reactor, [&] { Stop(*reactor); });
  RunToTheEnd(*reactor);
  EXPECT_EQ(lost.size(), static_cast<size_t>(kCount));
  EXPECT_TRUE(std::is_sorted(lost.begin(), lost.end()));
}

INSTANTIATE_TEST_SUITE_P(Epoll, EventReactorDescriptors, testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Poll, EventReactorDescriptors, testing::Values(true));

// --- misuse -------------------------------------------------------------------------------------

// What only the reactor thread may call, called in another.
void MisuseEach(EventReactor& reactor, DelayedCall& call,
                const std::function<void(const char*, std::function<absl::Status()>)>& each) {
  static Watched d;
  each("EventReactor::CallLater",
       [&] { return reactor.CallLater(absl::Seconds(1), [] {}).status(); });
  each("EventReactor::CallWhenRunning", [&] { return reactor.CallWhenRunning([] {}); });
  each("EventReactor::AddSystemEventTrigger", [&] {
    return reactor
        .AddSystemEventTrigger(EventPhase::kAfter, SystemEvent::kShutdown, [] { return Succeed(); })
        .status();
  });
  each("EventReactor::RemoveSystemEventTrigger",
       [&] { return reactor.RemoveSystemEventTrigger(1); });
  each("EventReactor::AddReader", [&] { return reactor.AddReader(d); });
  each("EventReactor::AddWriter", [&] { return reactor.AddWriter(d); });
  each("EventReactor::RemoveReader", [&] { return reactor.RemoveReader(d); });
  each("EventReactor::RemoveWriter", [&] { return reactor.RemoveWriter(d); });
  each("DelayedCall::Cancel", [&] { return call.Cancel(); });
  each("DelayedCall::Reset", [&] { return call.Reset(absl::Seconds(1)); });
  each("DelayedCall::Delay", [&] { return call.Delay(absl::Seconds(1)); });
}

TEST(EventReactorDeathTest, TheWrongThreadIsDetectedInEveryBuild) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Reports reports;
  auto reactor = New({.name = "web", .on_error = reports.handler()});
  DelayedCall call = Later(*reactor, absl::Hours(1), [] {});
  Gate running;
  ASSERT_TRUE(reactor->CallWhenRunning([&] { running.Open(); }).ok());
  std::thread thread([&] { RunToTheEnd(*reactor); });
  running.Wait();
  MisuseEach(*reactor, call, [&](const char* method, std::function<absl::Status()> misuse) {
#ifdef NDEBUG
    const absl::Status status = misuse();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << method;
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr("web: "), HasSubstr(method), HasSubstr("was called on thread"),
                      HasSubstr("the reactor runs on thread")));
#else
    EXPECT_DEATH(misuse().IgnoreError(),
                 std::string("web: ") + method +
                     " was called on thread .*, and the reactor runs on thread ");
#endif
  });
#ifdef NDEBUG
  EXPECT_THAT(reactor->delayed_calls(), IsEmpty());
  EXPECT_THAT(reactor->RemoveAll(), IsEmpty());
  EXPECT_FALSE(call.active());
  EXPECT_EQ(reports.all().size(), 3u);
#else
  EXPECT_DEATH(reactor->delayed_calls(), "web: EventReactor::delayed_calls was called on thread");
  EXPECT_DEATH(reactor->RemoveAll(), "web: EventReactor::RemoveAll was called on thread");
  EXPECT_DEATH(call.active(), "web: DelayedCall::active was called on thread");
#endif
  Stop(*reactor);
  thread.join();
  EXPECT_TRUE(call.Cancel().ok());  // there is no reactor thread now
}

TEST(EventReactorDeathTest, DiesWhenItIsDestroyedWhileItRuns) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // the child of a mere fork may not run it
  auto reactor = New({.name = "web"});
  // Only the child of the death test runs it.
  ASSERT_TRUE(reactor->CallWhenRunning([&] { reactor = nullptr; }).ok());
  EXPECT_DEATH(reactor->Run().IgnoreError(), "web: the reactor is destroyed while it runs");
}

TEST(EventReactorDeathTest, DiesOfATriggerWithoutWork) {
  auto reactor = New();
  EXPECT_DEATH(reactor->MakeSignalTrigger(nullptr), "the work is empty");
}

TEST(EventReactor, InTheChildOfAForkEverythingIsRefused) {
  auto reactor = New();
  const SignalTrigger trigger = reactor->MakeSignalTrigger([] {});
  const pid_t child = fork();
  if (child == 0) {
    const bool refused =
        !trigger.Trigger() && absl::IsFailedPrecondition(reactor->CallFromThread([] {})) &&
        absl::IsFailedPrecondition(reactor->CallInThread([] {})) &&
        absl::IsFailedPrecondition(reactor->Run()) && absl::IsFailedPrecondition(reactor->Stop()) &&
        absl::IsFailedPrecondition(reactor->CallLater(absl::Seconds(1), [] {}).status());
    reactor = nullptr;
    _exit(refused ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(reactor->statistics().wakeups, 0);
}

}  // namespace
}  // namespace reactor
