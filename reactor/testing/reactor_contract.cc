#include "reactor/testing/reactor_contract.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "gmock/gmock.h"
#include "workers/thread_factory.h"
#include "workers/worker_scope.h"

namespace {

using ::reactor::Deferred;
using ::reactor::DelayedCall;
using ::reactor::EventPhase;
using ::reactor::Fail;
using ::reactor::IDescriptor;
using ::reactor::Interest;
using ::reactor::IReactorCore;
using ::reactor::IReactorTime;
using ::reactor::IReadDescriptor;
using ::reactor::IWriteDescriptor;
using ::reactor::MakeDeferred;
using ::reactor::Promise;
using ::reactor::Succeed;
using ::reactor::SystemEvent;
using ::reactor::TriggerId;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::workers::IsAlreadyQuit;
using ::workers::Work;
using ::workers::internal::MutexLock;

template <typename R>
void Call(R& reactor, Work work) {
  const absl::Status status = reactor.CallFromThread(std::move(work));
  EXPECT_TRUE(status.ok()) << status;
}
template <typename R>
DelayedCall Later(R& reactor, absl::Duration delay, Work work) {
  auto call = reactor.CallLater(delay, std::move(work));
  EXPECT_TRUE(call.ok()) << call.status();
  return call.value_or(DelayedCall());
}
template <typename R>
void Stop(R& reactor) {
  EXPECT_TRUE(reactor.Stop().ok());
}
template <typename R>
void RunToTheEnd(R& reactor) {
  const absl::Status status = reactor.Run();
  EXPECT_TRUE(status.ok()) << status;
}
template <typename R>
TriggerId Trigger(R& reactor, EventPhase phase, SystemEvent event, std::function<void()> f) {
  return *reactor.AddSystemEventTrigger(phase, event, [f] {
    f();
    return Succeed();
  });
}

// Runs `f(0)` ... `f(count - 1)`, each on a thread of its own, and waits for all.
void OnThreads(int count, const std::function<void(int)>& f) {
  std::vector<std::unique_ptr<workers::Thread>> threads;
  for (int i = 0; i < count; ++i) {
    auto thread =
        workers::DefaultThreadFactory().Start({.name = "contract-test"}, [&f, i] { f(i); });
    ASSERT_TRUE(thread.ok()) << thread.status();
    threads.push_back(*std::move(thread));
  }
  for (auto& thread : threads) thread->Join();
}

// One end of a pair of sockets that are watched.
class Watched : public IReadDescriptor, public IWriteDescriptor {
 public:
  using SetReady = std::function<void(IDescriptor&, Interest)>;

  explicit Watched(SetReady set_ready) : set_ready_(std::move(set_ready)) {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    fd_ = fds[0];
    peer_ = fds[1];
  }
  ~Watched() override {
    Close();
    close(peer_);
  }
  void TellReady() { set_ready_(*this, {.read = unread_ > 0, .write = true}); }
  void Send() {
    EXPECT_EQ(write(peer_, "x", 1), 1);
    ++unread_;
    TellReady();
  }
  void Receive() {
    char byte;
    EXPECT_EQ(read(fd_, &byte, 1), 1);
    --unread_;
    TellReady();
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

  const SetReady set_ready_;
  std::function<absl::Status()> on_read_;
  std::function<absl::Status()> on_write_;
  std::function<void()> on_lost_;
  int fd_;
  int peer_;
  int unread_ = 0;
  int reads_ = 0;
  int writes_ = 0;
  mutable int asked_ = 0;
  std::vector<absl::Status> lost_;
};

template <typename R>
void AddReader(R& reactor, Watched& d) {
  d.TellReady();
  EXPECT_TRUE(reactor.AddReader(d).ok());
}
template <typename R>
void AddWriter(R& reactor, Watched& d) {
  d.TellReady();
  EXPECT_TRUE(reactor.AddWriter(d).ok());
}

}  // namespace

ReactorContract::Reactor* ReactorContract::New() {
  reactor_ = nullptr;
  {
    MutexLock lock(mutex_);
    errors_.clear();
  }
  reactor_ = std::make_unique<Reactor>(GetParam()([this](const workers::ErrorReport& report) {
    MutexLock lock(mutex_);
    errors_.push_back(std::string(report.status.message()) +
                      (report.dropped > 0 ? " " + std::to_string(report.dropped) : ""));
  }));
  return reactor_.get();
}

std::vector<std::string> ReactorContract::errors() const {
  MutexLock lock(mutex_);
  return errors_;
}

void ReactorContract::SetReady(IDescriptor& d, Interest ready) {
  if (reactor_->parts().set_ready) reactor_->parts().set_ready(d, ready);
}

void ReactorContract::StopIn(int turns) {
  if (turns == 0) return Stop(*reactor_);
  Later(*reactor_, absl::ZeroDuration(), [this, turns] { StopIn(turns - 1); });
}

// --- the loop -----------------------------------------------------------------------------------

TEST_P(ReactorContract, CallsAreNotRunBeforeRunAndThenInTheirOrder) {
  Reactor* const reactor = New();
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) Call(*reactor, [&order, i] { order.push_back(i); });
  Call(*reactor, [&] { Stop(*reactor); });
  EXPECT_THAT(order, IsEmpty());
  RunToTheEnd(*reactor);
  EXPECT_EQ(order.size(), 1000u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_P(ReactorContract, ACallFromADelayedCallRunsInTheNextTurn) {
  Reactor* const reactor = New();
  bool ran = false;
  Later(*reactor, absl::ZeroDuration(), [&] {
    Call(*reactor, [&] {
      ran = true;
      Stop(*reactor);
    });
    EXPECT_FALSE(ran);
  });
  RunToTheEnd(*reactor);
  EXPECT_TRUE(ran);
}

TEST_P(ReactorContract, AThrowingCallIsReportedAndTheNextRuns) {
  Reactor* const reactor = New();
  Call(*reactor, [] { throw std::runtime_error("boom"); });
  Later(*reactor, absl::ZeroDuration(), [] { throw std::runtime_error("bang"); });
  Later(*reactor, absl::ZeroDuration(), [&] { Stop(*reactor); });
  RunToTheEnd(*reactor);
  EXPECT_THAT(errors(), testing::UnorderedElementsAre("std::runtime_error: boom",
                                                      "std::runtime_error: bang"));
}

// R2, R4: in the original they are queued for ever.
TEST_P(ReactorContract, R4_AfterRunEveryEntryPointIsAlreadyQuit) {
  Reactor* const reactor = New();
  Call(*reactor, [&] { Stop(*reactor); });
  RunToTheEnd(*reactor);
  Work work = [] { FAIL(); };
  EXPECT_TRUE(IsAlreadyQuit(reactor->CallFromThread(std::move(work))));
  EXPECT_TRUE(work != nullptr);
  EXPECT_TRUE(IsAlreadyQuit(reactor->CallInThread(std::move(work))));
  EXPECT_TRUE(work != nullptr);
  EXPECT_TRUE(IsAlreadyQuit(reactor->CallLater(absl::Seconds(1), std::move(work)).status()));
  EXPECT_TRUE(work != nullptr);
  EXPECT_TRUE(IsAlreadyQuit(reactor->SuggestThreadPoolSize(3)));
  EXPECT_TRUE(IsAlreadyQuit(reactor->thread_pool().status()));
  EXPECT_TRUE(IsAlreadyQuit(reactor->WatchEnd([] {}).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(reactor->Stop()));
}

TEST_P(ReactorContract, ClosingTheQueueIsTheLastActOfRun) {
  Reactor* const reactor = New();
  bool ran = false;
  absl::Status late;
  Trigger(*reactor, EventPhase::kAfter, SystemEvent::kShutdown, [&] {
    Call(*reactor, [&] {
      ran = true;
      late = reactor->CallFromThread([] { FAIL(); });
    });
  });
  Call(*reactor, [&] { Stop(*reactor); });
  RunToTheEnd(*reactor);
  EXPECT_TRUE(ran);
  EXPECT_TRUE(IsAlreadyQuit(late)) << late;
}

TEST_P(ReactorContract, TheLoopAsAWorkerTakesWorkButCannotBeQuit) {
  Reactor* const reactor = New();
  const auto loop = reactor->worker();
  EXPECT_TRUE(absl::IsInvalidArgument(loop->Do(nullptr)));
  EXPECT_TRUE(absl::IsFailedPrecondition(loop->Quit()));
  ASSERT_TRUE(loop->Do([&] { Stop(*reactor); }).ok());
  RunToTheEnd(*reactor);
}

TEST_P(ReactorContract, StopWhenItDoesNotRunOrWasStoppedIsAnError) {
  Reactor* const reactor = New();
  EXPECT_TRUE(absl::IsFailedPrecondition(reactor->Stop()));
  Call(*reactor, [&] {
    Stop(*reactor);
    EXPECT_TRUE(absl::IsFailedPrecondition(reactor->Stop()));
  });
  Trigger(*reactor, EventPhase::kDuring, SystemEvent::kShutdown,
          [&] { EXPECT_TRUE(absl::IsFailedPrecondition(reactor->Stop())); });
  RunToTheEnd(*reactor);
  EXPECT_TRUE(absl::IsFailedPrecondition(reactor->Stop()));
}

TEST_P(ReactorContract, TriggersRunByPhaseInTheirOrderAndRunningFollows) {
  Reactor* const reactor = New();
  std::vector<std::string> log;
  const auto note = [&](std::string name) {
    return [&log, &reactor, name] { log.push_back(name + (reactor->running() ? " running" : "")); };
  };
  for (const char* n : {"1", "2"}) {
    const std::string number = n;
    Trigger(*reactor, EventPhase::kAfter, SystemEvent::kShutdown, note("after shutdown " + number));
    Trigger(*reactor, EventPhase::kDuring, SystemEvent::kShutdown,
            note("during shutdown " + number));
    Trigger(*reactor, EventPhase::kBefore, SystemEvent::kShutdown,
            note("before shutdown " + number));
    Trigger(*reactor, EventPhase::kAfter, SystemEvent::kStartup, note("after startup " + number));
    Trigger(*reactor, EventPhase::kDuring, SystemEvent::kStartup, note("during startup " + number));
    Trigger(*reactor, EventPhase::kBefore, SystemEvent::kStartup, note("before startup " + number));
  }
  Call(*reactor, [&] {
    Stop(*reactor);
    log.push_back("stop");  // triggers do not run inside Stop
  });
  RunToTheEnd(*reactor);
  EXPECT_THAT(log, ElementsAre("before startup 1", "before startup 2", "during startup 1 running",
                               "during startup 2 running", "after startup 1 running",
                               "after startup 2 running", "stop", "before shutdown 1 running",
                               "before shutdown 2 running", "during shutdown 1",
                               "during shutdown 2", "after shutdown 1", "after shutdown 2"));
}

TEST_P(ReactorContract, TriggersRunOnce) {
  Reactor* const reactor = New();
  int runs = 0;
  Trigger(*reactor, EventPhase::kDuring, SystemEvent::kStartup, [&] { ++runs; });
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(reactor->CallWhenRunning([&] { Stop(*reactor); }).ok());
    RunToTheEnd(*reactor);
  }
  EXPECT_EQ(runs, 1);
}

TEST_P(ReactorContract, ARemovedTriggerDoesNotRunAlsoWhenAnotherRemovesIt) {
  Reactor* const reactor = New();
  const TriggerId a = Trigger(*reactor, EventPhase::kDuring, SystemEvent::kStartup, [] { FAIL(); });
  TriggerId c = 0;
  const TriggerId b = Trigger(*reactor, EventPhase::kDuring, SystemEvent::kStartup, [&] {
    EXPECT_TRUE(reactor->RemoveSystemEventTrigger(c).ok());
    EXPECT_TRUE(absl::IsNotFound(reactor->RemoveSystemEventTrigger(b)));  // it runs
  });
  c = Trigger(*reactor, EventPhase::kDuring, SystemEvent::kStartup, [] { FAIL(); });
  EXPECT_TRUE(reactor->RemoveSystemEventTrigger(a).ok());
  EXPECT_TRUE(absl::IsNotFound(reactor->RemoveSystemEventTrigger(a)));
  EXPECT_TRUE(absl::IsNotFound(reactor->RemoveSystemEventTrigger(12345)));
  EXPECT_TRUE(absl::IsInvalidArgument(
      reactor->AddSystemEventTrigger(EventPhase::kDuring, SystemEvent::kStartup, {}).status()));
  ASSERT_TRUE(reactor->CallWhenRunning([&] { Stop(*reactor); }).ok());
  RunToTheEnd(*reactor);
}

TEST_P(ReactorContract, AFailingTriggerIsReportedAndTheOthersRun) {
  Reactor* const reactor = New();
  std::string log;
  for (EventPhase phase : {EventPhase::kBefore, EventPhase::kDuring, EventPhase::kAfter}) {
    ASSERT_TRUE(
        reactor
            ->AddSystemEventTrigger(phase, SystemEvent::kShutdown,
                                    []() -> Deferred<void> { throw std::runtime_error("thrown"); })
            .ok());
    ASSERT_TRUE(
        reactor
            ->AddSystemEventTrigger(phase, SystemEvent::kShutdown,
                                    [] { return Fail<void>(absl::InternalError("returned")); })
            .ok());
    Trigger(*reactor, phase, SystemEvent::kShutdown, [&] { log += 'x'; });
  }
  ASSERT_TRUE(reactor->CallWhenRunning([&] { Stop(*reactor); }).ok());
  RunToTheEnd(*reactor);
  EXPECT_EQ(log, "xxx");
  EXPECT_THAT(errors(),
              ElementsAre("std::runtime_error: thrown", "returned", "std::runtime_error: thrown",
                          "returned", "std::runtime_error: thrown", "returned"));
}

// For startup and shutdown alike: `during` waits for what `before` returned, and the loop turns.
TEST_P(ReactorContract, DuringWaitsForTheDeferredsOfBefore) {
  for (SystemEvent event : {SystemEvent::kStartup, SystemEvent::kShutdown}) {
    Reactor* const reactor = New();
    std::vector<std::string> log;
    for (int i = 1; i <= 2; ++i) {
      ASSERT_TRUE(reactor
                      ->AddSystemEventTrigger(EventPhase::kBefore, event,
                                              [&, i] {
                                                auto [deferred, promise] = MakeDeferred<void>();
                                                Later(
                                                    *reactor, absl::Milliseconds(i),
                                                    [&log, promise = std::move(promise)]() mutable {
                                                      log.push_back("fired");
                                                      EXPECT_TRUE(promise.Callback().ok());
                                                    });
                                                return std::move(deferred);
                                              })
                      .ok());
    }
    Trigger(*reactor, EventPhase::kDuring, event, [&] { log.push_back("during"); });
    ASSERT_TRUE(reactor->CallWhenRunning([&] { Stop(*reactor); }).ok());
    RunToTheEnd(*reactor);
    EXPECT_THAT(log, ElementsAre("fired", "fired", "during"));
  }
}

TEST_P(ReactorContract, StopEndsTheWaitOfAStartup) {
  Reactor* const reactor = New();
  Promise<void> never;
  ASSERT_TRUE(reactor
                  ->AddSystemEventTrigger(EventPhase::kBefore, SystemEvent::kStartup,
                                          [&] {
                                            auto [deferred, promise] = MakeDeferred<void>();
                                            never = std::move(promise);
                                            Call(*reactor, [&] { Stop(*reactor); });
                                            return std::move(deferred);
                                          })
                  .ok());
  Trigger(*reactor, EventPhase::kAfter, SystemEvent::kShutdown,
          [&] { never.Callback().IgnoreError(); });
  RunToTheEnd(*reactor);
}

TEST_P(ReactorContract, CallWhenRunningRunsInOrderAfterTheStartupAndAtOnceWhileItRuns) {
  Reactor* const reactor = New();
  std::string log;
  ASSERT_TRUE(reactor->CallWhenRunning([&] { log += 'a'; }).ok());
  ASSERT_TRUE(reactor
                  ->CallWhenRunning([&] {
                    log += 'b';
                    EXPECT_TRUE(
                        reactor->CallWhenRunning([&] { log += 'd'; }).ok());  // the startup goes on
                  })
                  .ok());
  ASSERT_TRUE(reactor->CallWhenRunning([&] { log += 'c'; }).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(reactor->CallWhenRunning(nullptr)));
  Call(*reactor, [&] {
    EXPECT_TRUE(reactor->CallWhenRunning([&] { log += 'e'; }).ok());
    log += 'f';
    Stop(*reactor);
  });
  RunToTheEnd(*reactor);
  EXPECT_EQ(log, "abcdef");
}

TEST_P(ReactorContract, DeferredsOfTheLoopAreAtHomeInAllThatRunsThere) {
  Reactor* const reactor = New();
  Promise<int> promise;
  int result = 0;
  Call(*reactor, [&] {
    auto [deferred, its_promise] = MakeDeferred<int>();
    promise = std::move(its_promise);
    std::move(deferred)
        .AddCallback([&](int value) {
          result = value;
          Stop(*reactor);
        })
        .Detach();
    Later(*reactor, absl::ZeroDuration(), [&] { EXPECT_TRUE(promise.Callback(7).ok()); });
  });
  RunToTheEnd(*reactor);
  EXPECT_EQ(result, 7);
}

// --- threads and the pool ------------------------------------------------------------------------

TEST_P(ReactorContract, CallsOfEachThreadRunInItsOrderOnTheLoop) {
  Reactor* const reactor = New();
  std::vector<std::vector<int>> order(4);
  bool all_inside = true;
  OnThreads(4, [&](int thread) {
    for (int i = 0; i < 1000; ++i) {
      Call(*reactor, [&, thread, i] {
        order[static_cast<size_t>(thread)].push_back(i);
        all_inside &= reactor->InReactorThread();
      });
    }
  });
  Call(*reactor, [&] { Stop(*reactor); });
  RunToTheEnd(*reactor);
  for (const std::vector<int>& one : order) {
    EXPECT_EQ(one.size(), 1000u);
    EXPECT_TRUE(std::is_sorted(one.begin(), one.end()));
  }
  EXPECT_TRUE(all_inside);
  EXPECT_FALSE(reactor->InReactorThread());
}

TEST_P(ReactorContract, AllThatRunsOnTheLoopIsWorkOfItsWorker) {
  Reactor* const reactor = New();
  const auto loop = reactor->worker();
  int inside = 0;
  const auto look = [&] {
    if (workers::WorkerScope::InnermostExclusive() == loop.get()) ++inside;
  };
  Watched d([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  d.on_write_ = [&] {
    look();
    return reactor->RemoveWriter(d);
  };
  AddWriter(*reactor, d);
  Trigger(*reactor, EventPhase::kBefore, SystemEvent::kStartup, look);
  Trigger(*reactor, EventPhase::kAfter, SystemEvent::kShutdown, look);
  ASSERT_TRUE(reactor->CallWhenRunning(look).ok());
  ASSERT_TRUE(reactor->WatchEnd(look).ok());
  Call(*reactor, look);
  Later(*reactor, absl::ZeroDuration(), look);
  StopIn(3);
  RunToTheEnd(*reactor);
  EXPECT_EQ(inside, 7);
}

TEST_P(ReactorContract, WhatIsRefusedIsLeftAsItWas) {
  Reactor* const reactor = New();
  EXPECT_TRUE(absl::IsInvalidArgument(reactor->CallFromThread(nullptr)));
  EXPECT_TRUE(absl::IsInvalidArgument(reactor->CallInThread(nullptr)));
  EXPECT_TRUE(absl::IsInvalidArgument(reactor->CallLater(absl::Seconds(1), nullptr).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(reactor->WatchEnd(nullptr).status()));
  auto token = std::make_shared<int>();
  Work work = [token] { FAIL(); };
  EXPECT_TRUE(
      absl::IsInvalidArgument(reactor->CallLater(absl::Seconds(-1), std::move(work)).status()));
  EXPECT_TRUE(work != nullptr);
  EXPECT_EQ(token.use_count(), 2);
}

TEST_P(ReactorContract, WorkOfThePoolRunsOffTheLoopAndItsCallComesBack) {
  Reactor* const reactor = New();
  bool off = false;
  bool back = false;
  ASSERT_TRUE(reactor
                  ->CallInThread([&] {
                    off = !reactor->InReactorThread();
                    Call(*reactor, [&] {
                      back = reactor->InReactorThread();
                      Stop(*reactor);
                    });
                  })
                  .ok());
  EXPECT_FALSE(off);  // not before Run
  RunToTheEnd(*reactor);
  EXPECT_TRUE(off);
  EXPECT_TRUE(back);
}

TEST_P(ReactorContract, WhatThePoolHasTakenRunsBeforeRunReturnsAndSoDoItsCalls) {
  Reactor* const reactor = New();
  workers::internal::Atomic<int> ran = 0;
  int came = 0;
  ASSERT_TRUE(reactor->SuggestThreadPoolSize(2).ok());
  absl::Status late;
  Call(*reactor, [&] {
    for (int i = 0; i < 20; ++i) {
      EXPECT_TRUE(reactor
                      ->CallInThread([&] {
                        ran.fetch_add(1);
                        Call(*reactor, [&] { ++came; });
                      })
                      .ok());
    }
    Stop(*reactor);
  });
  Trigger(*reactor, EventPhase::kDuring, SystemEvent::kShutdown, [&] {
    EXPECT_EQ(ran.load(), 20);
    EXPECT_EQ(came, 20);
    late = reactor->CallInThread([] { FAIL(); });
  });
  RunToTheEnd(*reactor);
  EXPECT_TRUE(IsAlreadyQuit(late)) << late;
}

// Results and triggers that come when it has ended still may have it.
TEST_P(ReactorContract, ThePoolIsThereUntilTheEndOfRunAndRefuses) {
  Reactor* const reactor = New();
  std::vector<absl::Status> late;
  workers::IWorker* pool = nullptr;
  const auto give = [&] { late.push_back(pool->Do([] { FAIL(); })); };
  ASSERT_TRUE(reactor
                  ->CallWhenRunning([&] {
                    pool = *reactor->thread_pool();
                    Stop(*reactor);
                  })
                  .ok());
  Trigger(*reactor, EventPhase::kDuring, SystemEvent::kShutdown, give);
  Trigger(*reactor, EventPhase::kAfter, SystemEvent::kShutdown, [&] {
    give();
    Call(*reactor, give);
  });
  RunToTheEnd(*reactor);
  ASSERT_EQ(late.size(), 3u);
  for (const absl::Status& status : late) EXPECT_TRUE(IsAlreadyQuit(status)) << status;
}

TEST_P(ReactorContract, ThePoolIsResized) {
  Reactor* const reactor = New();
  ASSERT_TRUE(reactor->SuggestThreadPoolSize(3).ok());
  auto pool = reactor->thread_pool();
  ASSERT_TRUE(pool.ok());
  EXPECT_EQ((*pool)->max(), 3);
  ASSERT_TRUE(reactor->SuggestThreadPoolSize(4).ok());
  EXPECT_EQ((*pool)->max(), 4);
  EXPECT_TRUE(absl::IsInvalidArgument(reactor->SuggestThreadPoolSize(-1)));
  EXPECT_EQ((*pool)->max(), 4);
}

TEST_P(ReactorContract, WatchersOfTheEndAreCalledOnceUnlessTheyAreGone) {
  Reactor* const reactor = New();
  int called = 0;
  int gone = 0;
  ASSERT_TRUE(reactor->WatchEnd([&] { ++called; }).ok());
  const auto id = reactor->WatchEnd([&] { ++gone; });
  ASSERT_TRUE(id.ok());
  reactor->UnwatchEnd(*id);
  reactor->UnwatchEnd(*id);
  ASSERT_TRUE(reactor->CallWhenRunning([&] { Stop(*reactor); }).ok());
  Trigger(*reactor, EventPhase::kBefore, SystemEvent::kShutdown, [&] { EXPECT_EQ(called, 0); });
  Trigger(*reactor, EventPhase::kDuring, SystemEvent::kShutdown, [&] { EXPECT_EQ(called, 1); });
  RunToTheEnd(*reactor);
  EXPECT_EQ(called, 1);
  EXPECT_EQ(gone, 0);
}

// --- the end ------------------------------------------------------------------------------------

TEST_P(ReactorContract, DestroyedWithoutARunItDropsCountsAndReports) {
  Reactor* const reactor = New();
  auto token = std::make_shared<int>();
  for (int i = 0; i < 3; ++i) Call(*reactor, [token] { FAIL(); });
  DelayedCall call = Later(*reactor, absl::Seconds(1), [token] { FAIL(); });
  Trigger(*reactor, EventPhase::kAfter, SystemEvent::kStartup, [token] { FAIL(); });
  int ended = 0;
  ASSERT_TRUE(reactor->WatchEnd([&] { ++ended; }).ok());
  const auto loop = reactor->worker();
  Destroy();
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_EQ(ended, 1);
  EXPECT_THAT(errors(),
              ElementsAre(testing::AllOf(HasSubstr("the reactor was destroyed"), HasSubstr(" 4"))));
  // Handles are as good as before, and say so.
  EXPECT_TRUE(IsAlreadyQuit(loop->Do([] { FAIL(); })));
  EXPECT_FALSE(call.active());
  EXPECT_TRUE(absl::IsFailedPrecondition(call.Cancel()));
}

TEST_P(ReactorContract, WorkOfThePoolOfAReactorThatNeverRanIsDropped) {
  Reactor* const reactor = New();
  auto token = std::make_shared<int>();
  ASSERT_TRUE(reactor->CallInThread([token] { FAIL(); }).ok());
  Destroy();
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_THAT(errors(), testing::Contains(HasSubstr(" 1")));
}

TEST_P(ReactorContract, RunsAgainAfterItReturnedWithTheTimersThatWereLeft) {
  Reactor* const reactor = New();
  DelayedCall kept = Later(*reactor, absl::Hours(1), [] { FAIL(); });
  for (int round = 0; round < 3; ++round) {
    std::string log;
    ASSERT_TRUE(reactor
                    ->CallWhenRunning([&] {
                      log += 'r';
                      Call(*reactor, [&] { log += 'c'; });
                      EXPECT_TRUE(reactor
                                      ->CallInThread([&] {
                                        Call(*reactor, [&] {
                                          log += 'p';
                                          Stop(*reactor);
                                        });
                                      })
                                      .ok());
                    })
                    .ok());
    RunToTheEnd(*reactor);
    EXPECT_EQ(log, "rcp");
    EXPECT_FALSE(reactor->running());
    EXPECT_TRUE(kept.active());
    EXPECT_TRUE(IsAlreadyQuit(reactor->CallFromThread([] {})));
  }
  EXPECT_TRUE(kept.Cancel().ok());
}

TEST_P(ReactorContract, R10_RunInsideRunAndInAnotherThreadIsAnError) {
  Reactor* const reactor = New();
  Call(*reactor, [&] {
    EXPECT_TRUE(absl::IsFailedPrecondition(reactor->Run()));
    OnThreads(1, [&](int) { EXPECT_TRUE(absl::IsFailedPrecondition(reactor->Run())); });
    Stop(*reactor);
  });
  RunToTheEnd(*reactor);
}

TEST_P(ReactorContract, TheWrongThreadIsDetectedInEveryBuild) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Reactor* const reactor = New();
  DelayedCall call = Later(*reactor, absl::Hours(1), [] {});
  Watched d([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  const std::vector<std::pair<std::string, std::function<absl::Status()>>> misuses = {
      {"CallLater", [&] { return reactor->CallLater(absl::Seconds(1), [] {}).status(); }},
      {"CallWhenRunning", [&] { return reactor->CallWhenRunning([] {}); }},
      {"AddSystemEventTrigger",
       [&] {
         return reactor
             ->AddSystemEventTrigger(EventPhase::kAfter, SystemEvent::kShutdown,
                                     [] { return Succeed(); })
             .status();
       }},
      {"RemoveSystemEventTrigger", [&] { return reactor->RemoveSystemEventTrigger(1); }},
      {"AddReader", [&] { return reactor->AddReader(d); }},
      {"AddWriter", [&] { return reactor->AddWriter(d); }},
      {"RemoveReader", [&] { return reactor->RemoveReader(d); }},
      {"RemoveWriter", [&] { return reactor->RemoveWriter(d); }},
      {"DelayedCall::Cancel", [&] { return call.Cancel(); }}};
  Call(*reactor, [&] {
    for (const auto& [method, misuse] : misuses) {
      absl::Status status;
      const auto elsewhere = [&] { OnThreads(1, [&](int) { status = misuse(); }); };
#ifdef NDEBUG
      elsewhere();
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << method;
      EXPECT_THAT(status.message(), HasSubstr(method + " was called on thread"));
#else
      EXPECT_DEATH(elsewhere(), method + " was called on thread");
#endif
    }
    Stop(*reactor);
  });
  RunToTheEnd(*reactor);
  EXPECT_TRUE(call.Cancel().ok());  // there is no reactor thread now
}

// --- descriptors --------------------------------------------------------------------------------

TEST_P(ReactorContract, AReaderIsCalledWhileThereIsSomethingToRead) {
  Reactor* const reactor = New();
  Watched d([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  d.Send();
  d.Send();
  d.on_read_ = [&] {
    d.Receive();
    return absl::OkStatus();
  };
  AddReader(*reactor, d);
  AddReader(*reactor, d);  // again is nothing
  StopIn(5);
  RunToTheEnd(*reactor);
  EXPECT_EQ(d.reads_, 2);
  EXPECT_EQ(d.writes_, 0);
}

TEST_P(ReactorContract, AWriterIsCalledAgainAndAgainUntilItIsRemoved) {
  Reactor* const reactor = New();
  Watched d([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  d.on_write_ = [&] {
    if (d.writes_ == 3) {
      EXPECT_TRUE(reactor->RemoveWriter(d).ok());
    }
    return absl::OkStatus();
  };
  AddWriter(*reactor, d);
  StopIn(10);
  RunToTheEnd(*reactor);
  EXPECT_EQ(d.writes_, 3);
  EXPECT_THAT(d.lost_, IsEmpty());
}

TEST_P(ReactorContract, OneObjectReadsAndWritesAndStopsOneOfThem) {
  Reactor* const reactor = New();
  Watched d([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  d.Send();
  AddReader(*reactor, d);
  AddWriter(*reactor, d);
  d.on_write_ = [&] { return reactor->RemoveWriter(d); };
  d.on_read_ = [&] {
    if (d.reads_ == 4) {
      EXPECT_TRUE(reactor->RemoveReader(d).ok());
    }
    return absl::OkStatus();
  };
  StopIn(8);
  RunToTheEnd(*reactor);
  EXPECT_EQ(d.writes_, 1);
  EXPECT_EQ(d.reads_, 4);
}

TEST_P(ReactorContract, WhoReturnsAnErrorIsLetGoAndTold) {
  Reactor* const reactor = New();
  Watched reads([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  Watched writes([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  Watched throws([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  reads.Send();
  throws.Send();
  reads.on_read_ = [] { return absl::DataLossError("read"); };
  writes.on_write_ = [] { return absl::DataLossError("write"); };
  throws.on_read_ = []() -> absl::Status { throw std::runtime_error("boom"); };
  AddReader(*reactor, reads);
  AddWriter(*reactor, reads);
  AddWriter(*reactor, writes);
  AddReader(*reactor, throws);
  StopIn(5);
  RunToTheEnd(*reactor);
  EXPECT_EQ(reads.reads_, 1);
  EXPECT_EQ(reads.writes_, 0);
  EXPECT_THAT(reads.lost_, ElementsAre(absl::DataLossError("read")));
  EXPECT_THAT(writes.lost_, ElementsAre(absl::DataLossError("write")));
  ASSERT_EQ(throws.lost_.size(), 1u);
  EXPECT_EQ(throws.lost_[0].message(), "std::runtime_error: boom");
  EXPECT_THAT(errors(), ElementsAre("std::runtime_error: boom"));
}

// Both are told ready by the same wait; the first one to be called removes the other.
TEST_P(ReactorContract, WhatACallbackRemovesIsNotCalledInTheSameTurn) {
  Reactor* const reactor = New();
  Watched a([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  auto b =
      std::make_unique<Watched>([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  a.Send();
  b->Send();
  int calls = 0;
  a.on_read_ = [&] {
    ++calls;
    if (b != nullptr) {
      EXPECT_TRUE(reactor->RemoveReader(*b).ok());
    }
    b = nullptr;
    return reactor->RemoveReader(a);
  };
  b->on_read_ = [&] {
    ++calls;
    EXPECT_TRUE(reactor->RemoveReader(a).ok());
    return reactor->RemoveReader(*b);
  };
  AddReader(*reactor, a);
  AddReader(*reactor, *b);
  StopIn(5);
  RunToTheEnd(*reactor);
  EXPECT_EQ(calls, 1);
}

TEST_P(ReactorContract, AnObjectMayBeDestroyedInItsOwnCallback) {
  Reactor* const reactor = New();
  auto d =
      std::make_unique<Watched>([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  d->Send();
  d->on_read_ = [&] {
    const absl::Status removed = reactor->RemoveReader(*d);
    d->Close();
    reactor->CallFromThread([&] { d = nullptr; }).IgnoreError();
    return removed;
  };
  AddReader(*reactor, *d);
  AddWriter(*reactor, *d);
  EXPECT_TRUE(reactor->RemoveWriter(*d).ok());
  StopIn(5);
  RunToTheEnd(*reactor);
  EXPECT_EQ(d, nullptr);
}

// In one turn: the old one is removed and closed, and its number comes back with something to read.
TEST_P(ReactorContract, ANumberThatComesBackInACallbackIsNotTakenForTheOld) {
  Reactor* const reactor = New();
  Watched first([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  Watched old([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  Watched fresh([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  first.Send();
  old.Send();
  const int number = old.fd_;
  bool replaced = false;
  const auto replace = [&] {
    if (std::exchange(replaced, true)) return absl::OkStatus();
    EXPECT_TRUE(reactor->RemoveReader(old).ok());
    EXPECT_TRUE(reactor->RemoveReader(first).ok());
    old.Close();
    EXPECT_EQ(dup2(fresh.fd_, number), number);
    close(std::exchange(fresh.fd_, number));
    AddReader(*reactor, fresh);  // has nothing to read
    return absl::OkStatus();
  };
  first.on_read_ = replace;
  old.on_read_ = replace;
  AddReader(*reactor, first);
  AddReader(*reactor, old);
  StopIn(5);
  RunToTheEnd(*reactor);
  EXPECT_EQ(first.reads_ + old.reads_, 1);
  EXPECT_EQ(fresh.reads_, 0);
}

// Somebody closes without removing, and another object gets the number.
TEST_P(ReactorContract, AReplacedDescriptorDeliversNothingToItsOldOwner) {
  Reactor* const reactor = New();
  Watched old([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  Watched fresh([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  const int number = old.fd_;
  AddReader(*reactor, old);
  old.Close();
  EXPECT_EQ(dup2(fresh.fd_, number), number);
  close(std::exchange(fresh.fd_, number));
  fresh.Send();
  AddReader(*reactor, fresh);
  StopIn(5);
  RunToTheEnd(*reactor);
  EXPECT_EQ(old.reads_, 0);
  EXPECT_GE(fresh.reads_, 1);
  ASSERT_EQ(old.lost_.size(), 1u);
  EXPECT_TRUE(absl::IsFailedPrecondition(old.lost_[0]));
}

TEST_P(ReactorContract, AnObjectThatSaysMinusOneIsLetGo) {
  Reactor* const reactor = New();
  Watched d([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  d.Send();
  const int duplicate = dup(d.fd_);
  AddReader(*reactor, d);
  d.on_read_ = [&] {
    // The file stays open elsewhere, and goes on to be ready.
    d.Close();
    return absl::OkStatus();
  };
  StopIn(5);
  RunToTheEnd(*reactor);
  EXPECT_EQ(d.reads_, 1);
  ASSERT_EQ(d.lost_.size(), 1u);
  EXPECT_TRUE(absl::IsFailedPrecondition(d.lost_[0])) << d.lost_[0];
  close(duplicate);
}

TEST_P(ReactorContract, WhatCannotBeWatchedIsAnError) {
  Reactor* const reactor = New();
  Watched closed([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  closed.Close();
  EXPECT_TRUE(absl::IsInvalidArgument(reactor->AddReader(closed)));
  EXPECT_TRUE(absl::IsInvalidArgument(reactor->AddWriter(closed)));
  EXPECT_TRUE(reactor->RemoveReader(closed).ok());
  Watched d([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  Watched other([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  AddReader(*reactor, d);
  const int own = std::exchange(other.fd_, d.fd_);
  EXPECT_TRUE(absl::IsAlreadyExists(reactor->AddReader(other)));
  other.fd_ = own;
  EXPECT_TRUE(reactor->RemoveReader(d).ok());
}

TEST_P(ReactorContract, RemovalDoesNotAskForTheNumber) {
  Reactor* const reactor = New();
  Watched d([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  AddReader(*reactor, d);
  AddWriter(*reactor, d);
  const int asked = d.asked_;
  EXPECT_TRUE(reactor->RemoveReader(d).ok());
  EXPECT_TRUE(reactor->RemoveReader(d).ok());
  EXPECT_TRUE(reactor->RemoveWriter(d).ok());
  EXPECT_EQ(d.asked_, asked);
}

// One throws, one destroys another, one adds itself again: the rest still hears of the end.
TEST_P(ReactorContract, AtTheEndEachThatIsLeftIsToldOnce) {
  Reactor* const reactor = New();
  Watched throws([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  Watched destroys([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  auto destroyed =
      std::make_unique<Watched>([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  Watched adds([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  Watched last([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  absl::Status added;
  throws.on_lost_ = [] { throw std::runtime_error("boom"); };
  destroys.on_lost_ = [&] {
    EXPECT_TRUE(reactor->RemoveReader(*destroyed).ok());
    destroyed = nullptr;
  };
  adds.on_lost_ = [&] { added = reactor->AddReader(adds); };
  for (Watched* d : {&throws, &destroys, destroyed.get(), &adds, &last}) AddReader(*reactor, *d);
  AddWriter(*reactor, last);
  last.on_write_ = [&] { return reactor->RemoveWriter(last); };
  Trigger(*reactor, EventPhase::kBefore, SystemEvent::kShutdown,
          [&] { EXPECT_THAT(last.lost_, IsEmpty()); });
  bool told_before_during = false;
  Trigger(*reactor, EventPhase::kDuring, SystemEvent::kShutdown,
          [&] { told_before_during = last.lost_.size() == 1; });
  StopIn(3);
  RunToTheEnd(*reactor);
  for (const Watched* d : {&throws, &destroys, &adds, &last}) {
    ASSERT_EQ(d->lost_.size(), 1u);
    EXPECT_TRUE(absl::IsUnavailable(d->lost_[0]));
  }
  EXPECT_EQ(destroyed, nullptr);
  EXPECT_TRUE(IsAlreadyQuit(added));
  EXPECT_TRUE(told_before_during);
  EXPECT_THAT(errors(), ElementsAre("std::runtime_error: boom"));
}

TEST_P(ReactorContract, TimersCallsAndDescriptorsTakeTurns) {
  Reactor* const reactor = New();
  Watched d([this](IDescriptor& one, Interest ready) { SetReady(one, ready); });
  AddWriter(*reactor, d);  // always ready
  int timers = 0;
  int calls = 0;
  std::function<void()> call = [&] {
    if (++calls < 50) Call(*reactor, call);
  };
  std::function<void()> timer = [&] {
    if (++timers == 50) return Stop(*reactor);
    Later(*reactor, absl::ZeroDuration(), timer);
  };
  call();
  timer();
  RunToTheEnd(*reactor);
  EXPECT_EQ(timers, 50);
  EXPECT_GE(calls, 40);
  EXPECT_GE(d.writes_, 40);
}

// --- time ---------------------------------------------------------------------------------------

reactor::test::TimeParts reactor::test::TimeOf(ReactorParts reactor) {
  IReactorTime* const time = reactor.time;
  IReactorCore* const core = reactor.core;
  return {.owner = std::move(reactor.owner), .time = time, .pass = [time, core](absl::Duration d) {
            ::Later(*time, d, [core] { ::Stop(*core); });
            RunToTheEnd(*core);
          }};
}

DelayedCall ReactorTimeContract::Later(absl::Duration delay, Work work) {
  return ::Later(*parts_.time, delay, std::move(work));
}

TEST_P(ReactorTimeContract, CallsRunInTheOrderOfTheirTimesAndNotBefore) {
  std::string order;
  const absl::Duration begin = Now();
  const auto note = [&](char name, int milliseconds) {
    return [&, name, milliseconds] {
      EXPECT_GE(Now() - begin, absl::Milliseconds(milliseconds));
      order += name;
    };
  };
  Later(absl::Milliseconds(3), note('d', 3));
  Later(absl::Milliseconds(1), note('a', 1));
  const DelayedCall second = Later(absl::Milliseconds(2), note('b', 2));
  Later(second.time() - Now(), note('c', 2));
  EXPECT_EQ(order, "");
  Pass(absl::Milliseconds(10));
  EXPECT_EQ(order, "abcd");
}

TEST_P(ReactorTimeContract, ADelayOfZeroIsALaterTurn) {
  std::string order;
  Later(absl::ZeroDuration(), [&] {
    Later(absl::ZeroDuration(), [&] { order += 'c'; });
    order += 'b';
  });
  order += 'a';
  Pass(absl::Milliseconds(10));
  EXPECT_EQ(order, "abc");
}

TEST_P(ReactorTimeContract, WrongDelaysAreInvalidAndLeaveTheWork) {
  IReactorTime& time = *parts_.time;
  for (const absl::Duration delay : {-absl::Nanoseconds(1), absl::InfiniteDuration()}) {
    Work work = [] {};
    EXPECT_TRUE(absl::IsInvalidArgument(time.CallLater(delay, std::move(work)).status()));
    EXPECT_TRUE(work);
  }
  EXPECT_TRUE(absl::IsInvalidArgument(time.CallLater(absl::ZeroDuration(), nullptr).status()));
}

TEST_P(ReactorTimeContract, CallsAreCancelledResetAndDelayed) {
  std::string order;
  auto token = std::make_shared<int>();
  DelayedCall cancelled = Later(absl::Milliseconds(1), [token] { FAIL(); });
  DelayedCall reset = Later(absl::Hours(1), [&] { order += 'b'; });
  DelayedCall delayed = Later(absl::ZeroDuration(), [&] { order += 'c'; });
  Later(absl::ZeroDuration(), [&] {
    order += 'a';
    EXPECT_TRUE(cancelled.Cancel().ok());
    EXPECT_EQ(token.use_count(), 1);
    EXPECT_TRUE(reset.Reset(absl::ZeroDuration()).ok());
    EXPECT_TRUE(reset.active());
  });
  EXPECT_TRUE(delayed.Delay(absl::Milliseconds(20)).ok());
  Pass(absl::Milliseconds(30));
  EXPECT_EQ(order, "abc");
}

TEST_P(ReactorTimeContract, AHandleTellsWhatBecameOfItsCall) {
  DelayedCall called = Later(absl::ZeroDuration(), [] {});
  DelayedCall cancelled = Later(absl::ZeroDuration(), [] {});
  DelayedCall waiting = Later(absl::Hours(1), [] {});
  EXPECT_TRUE(cancelled.Cancel().ok());
  Pass(absl::Milliseconds(1));
  EXPECT_FALSE(called.active());
  EXPECT_THAT(std::string(called.Cancel().message()), HasSubstr("already called"));
  EXPECT_FALSE(cancelled.active());
  EXPECT_THAT(std::string(cancelled.Cancel().message()), HasSubstr("already cancelled"));
  EXPECT_TRUE(waiting.active());
  Destroy();
  EXPECT_FALSE(waiting.active());
  EXPECT_THAT(std::string(waiting.Cancel().message()), HasSubstr("gone"));
}

TEST_P(ReactorTimeContract, AThrowingCallIsReportedAndTheNextRuns) {
  bool ran = false;
  Later(absl::ZeroDuration(), [] { throw std::runtime_error("boom"); });
  Later(absl::ZeroDuration(), [&] { ran = true; });
  Pass(absl::Milliseconds(1));
  EXPECT_TRUE(ran);
  EXPECT_THAT(errors_, ElementsAre("std::runtime_error: boom"));
}

TEST_P(ReactorTimeContract, WhatWaitsAtItsEndIsDestroyedAndReported) {
  auto token = std::make_shared<int>();
  Later(absl::Seconds(1), [token] { FAIL(); });
  Later(absl::Seconds(1), [token] { FAIL(); });
  Destroy();
  EXPECT_EQ(token.use_count(), 1);
  ASSERT_EQ(errors_.size(), 1u);
  EXPECT_THAT(errors_[0], testing::EndsWith(" 2"));
}
