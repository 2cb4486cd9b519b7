// Races of reactor/threads.h, each forced.

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reactor/deferred.h"
#include "reactor/event_reactor.h"
#include "reactor/reactor.h"
#include "reactor/threads.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/testing/gate.h"
#include "workers/thread_pool.h"
#include "workers/worker.h"

namespace reactor {
namespace {

using workers::Work;
using workers::test::Gate;

std::unique_ptr<EventReactor> New() {
  auto reactor = EventReactor::Create({.handle_signals = false});
  EXPECT_TRUE(reactor.ok()) << reactor.status();
  return *std::move(reactor);
}

// A reactor's way in, with something in between.
class Between : public IReactorThreads {
 public:
  explicit Between(EventReactor& reactor) : reactor_(reactor) {}

  absl::Status CallFromThread(Work&& work) override {
    return reactor_.CallFromThread(std::move(work));
  }
  absl::Status CallInThread(Work&& work) override { return reactor_.CallInThread(std::move(work)); }
  absl::Status SuggestThreadPoolSize(int max) override {
    return reactor_.SuggestThreadPoolSize(max);
  }
  absl::StatusOr<workers::ThreadPool*> thread_pool() override { return reactor_.thread_pool(); }
  bool InReactorThread() const override { return reactor_.InReactorThread(); }
  bool running() const override { return reactor_.running(); }
  std::shared_ptr<workers::IExclusiveWorker> worker() override { return reactor_.worker(); }
  absl::StatusOr<uint64_t> WatchEnd(std::function<void()> ended) override {
    auto id = reactor_.WatchEnd(ended);
    watcher = std::move(ended);
    if (after_watch) after_watch();
    return id;
  }
  void UnwatchEnd(uint64_t id) override { reactor_.UnwatchEnd(id); }

  std::function<void()> after_watch;
  std::function<void()> watcher;  // the last, as the loop has it while it calls it

 private:
  EventReactor& reactor_;
};

// The reactor releases who waits while the caller has only just said that it will.
TEST(BlockingCallForced, TheReactorStopsJustAfterTheWaitIsAnnounced) {
  auto reactor = New();
  Between between(*reactor);
  Gate released;
  Gate returned;
  between.after_watch = [&] {
    EXPECT_TRUE(reactor->Stop().ok());
    released.Wait();
  };
  ASSERT_TRUE(reactor
                  ->AddSystemEventTrigger(EventPhase::kDuring, SystemEvent::kShutdown,
                                          [&] {
                                            released.Open();
                                            returned.Wait();
                                            return Succeed();
                                          })
                  .ok());
  bool ran = false;
  absl::Status status;
  std::thread caller;
  ASSERT_TRUE(reactor
                  ->CallWhenRunning([&] {
                    caller = std::thread([&] {
                      status = BlockingCallFromThread(between, [&ran] { ran = true; });
                      returned.Open();
                    });
                  })
                  .ok());
  EXPECT_TRUE(reactor->Run().ok());
  caller.join();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_FALSE(ran);
}

// The same, and the queue is closed when the call comes to it.
TEST(BlockingCallForced, TheReactorEndsJustAfterTheWaitIsAnnounced) {
  auto reactor = New();
  Between between(*reactor);
  Gate ended;
  between.after_watch = [&] {
    EXPECT_TRUE(reactor->Stop().ok());
    ended.Wait();
  };
  absl::Status status;
  std::thread caller;
  ASSERT_TRUE(reactor
                  ->CallWhenRunning([&] {
                    caller = std::thread(
                        [&] { status = BlockingCallFromThread(between, [] { FAIL(); }); });
                  })
                  .ok());
  EXPECT_TRUE(reactor->Run().ok());
  ended.Open();
  caller.join();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

// The same, while the loop is about to call the watcher: what was not called is destroyed by its
// caller, whose stack it may be about.
TEST(BlockingCallForced, WhatIsRefusedIsDestroyedBeforeItReturns) {
  auto reactor = New();
  Between between(*reactor);
  Gate ended;
  between.after_watch = [&] {
    EXPECT_TRUE(reactor->Stop().ok());
    ended.Wait();
  };
  const auto token = std::make_shared<int>();
  absl::Status status;
  std::thread caller;
  ASSERT_TRUE(reactor
                  ->CallWhenRunning([&] {
                    caller = std::thread(
                        [&] { status = BlockingCallFromThread(between, [token] { FAIL(); }); });
                  })
                  .ok());
  EXPECT_TRUE(reactor->Run().ok());
  ended.Open();
  caller.join();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(token.use_count(), 1);
}

// --- stop callbacks on the cancelling thread ----------------------------------------------------

// The stop_callback of a call that runs comes back: cancels again, adds, destroys.
TEST(DeferToThreadForced, AStopCallbackMayComeBackToTheDeferred) {
  for (const int way : {0, 1, 2}) {
    auto reactor = New();
    Gate running;
    Gate stopped;
    std::optional<Deferred<int>> deferred;
    std::optional<absl::Status> got;
    std::thread::id stop_thread;
    ASSERT_TRUE(reactor
                    ->CallWhenRunning([&] {
                      deferred = DeferToThread(*reactor, [&](std::stop_token stop) {
                        std::stop_callback callback(stop, [&] {
                          stop_thread = std::this_thread::get_id();
                          if (way == 0) deferred->Cancel();
                          if (way == 1) deferred.reset();
                          if (way == 2) {
                            std::move(*deferred)
                                .AddBoth([&](Result<int> result) { got = result.status(); })
                                .Detach();
                            deferred.reset();
                          }
                        });
                        running.Open();
                        stopped.Wait();
                        return 1;
                      });
                    })
                    .ok());
    std::thread other([&] {
      running.Wait();
      EXPECT_TRUE(reactor
                      ->CallFromThread([&] {
                        deferred->Cancel();
                        stopped.Open();
                        if (deferred.has_value()) {
                          std::move(*deferred)
                              .AddBoth([&](Result<int> result) { got = result.status(); })
                              .Detach();
                          deferred.reset();
                        }
                        EXPECT_TRUE(reactor->Stop().ok());
                      })
                      .ok());
    });
    EXPECT_TRUE(reactor->Run().ok());
    other.join();
    EXPECT_EQ(stop_thread, std::this_thread::get_id());
    if (way != 1) {
      ASSERT_TRUE(got.has_value());
      EXPECT_TRUE(absl::IsCancelled(*got)) << *got;
    }
  }
}

// The captures of a queued call are destroyed by Cancel, and come back.
TEST(DeferToThreadForced, CapturesThatDieInCancelMayComeBackToTheDeferred) {
  auto home = workers::CreateMemoryWorker("home");
  auto other = workers::CreateMemoryWorker("other");
  std::optional<Deferred<int>> deferred;
  struct Back {
    explicit Back(std::optional<Deferred<int>>* deferred) : deferred(deferred) {}
    Back(Back&& from) noexcept : deferred(std::exchange(from.deferred, nullptr)) {}
    ~Back() {
      if (deferred == nullptr || !deferred->has_value()) return;
      (*deferred)->Cancel();
      deferred->reset();
    }
    std::optional<Deferred<int>>* deferred;
  };
  ASSERT_TRUE(home.worker
                  ->Do([&] {
                    deferred = DeferToWorker(*home.worker, *other.worker,
                                             [back = Back(&deferred)] { return 1; });
                    deferred->Cancel();
                    EXPECT_FALSE(deferred.has_value());
                  })
                  .ok());
  home.performer();
  other.performer();
  home.performer();
}

// FAULTS A2: an item of a full pool waits for an item that runs on another worker of the pool, and
// that one for an item in the backlog. The wait that would close the circle is refused.
TEST(BlockingCall, ThatClosesACircleThroughAFullPoolIsRefused) {
  auto reactor = New();
  Gate running;
  ASSERT_TRUE(reactor->CallWhenRunning([&] { running.Open(); }).ok());
  std::thread loop([&] { EXPECT_TRUE(reactor->Run().ok()); });
  running.Wait();
  auto pool = *workers::MakePool({.name = "two", .limits = {.hard_limit = 2}});
  const std::shared_ptr<workers::IExclusiveWorker> home = reactor->worker();
  std::vector<absl::Status> results(3);
  const std::function<void(size_t)> nest = [&](size_t level) {
    if (level == results.size()) return;
    results[level] = BlockingCallFromThread(*reactor, [&, level] {
      return DeferToWorker(*home, *pool, [&, level] { nest(level + 1); });
    });
  };
  Gate done;
  ASSERT_TRUE(pool->Do([&] {
                    nest(0);
                    done.Open();
                  })
                  .ok());
  done.Wait();
  EXPECT_TRUE(results[0].ok()) << results[0];
  EXPECT_TRUE(absl::IsFailedPrecondition(results[1])) << results[1];
  pool = nullptr;
  reactor->Stop().IgnoreError();
  loop.join();
}

}  // namespace
}  // namespace reactor
