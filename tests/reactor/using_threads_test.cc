// What Twisted's guide "Using Threads" (old and new edition) shows, told in the same order with
// this library. (getPage and the long-lived connection are not here.)

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reactor/deferred.h"
#include "reactor/event_reactor.h"
#include "reactor/threads.h"
#include "workers/internal/sync.h"
#include "workers/worker.h"

namespace reactor {
namespace {

using testing::ElementsAre;
using workers::internal::CurrentThread;

class UsingThreads : public testing::Test {
 protected:
  // Runs the loop until somebody stops it.
  void Run() { EXPECT_TRUE(reactor_->Run().ok()); }
  void WhenRunning(workers::Work work) {
    ASSERT_TRUE(reactor_->CallWhenRunning(std::move(work)).ok());
  }
  void Stop() { EXPECT_TRUE(reactor_->Stop().ok()); }

  std::unique_ptr<EventReactor> reactor_ = *EventReactor::Create({.handle_signals = false});
  std::vector<std::string> log_;  // the loop's
};

// "Invoking Twisted from other threads": reactor.callFromThread(notThreadSafe, 3), and stop.
TEST_F(UsingThreads, CallFromThread) {
  const auto not_thread_safe = [this](int x) { log_.push_back(std::to_string(x)); };
  WhenRunning([&] {
    ASSERT_TRUE(reactor_
                    ->CallInThread([&] {
                      EXPECT_FALSE(reactor_->InReactorThread());
                      EXPECT_TRUE(reactor_->CallFromThread([&] { not_thread_safe(3); }).ok());
                      EXPECT_TRUE(reactor_->CallFromThread([&] { Stop(); }).ok());
                    })
                    .ok());
  });
  Run();
  EXPECT_THAT(log_, ElementsAre("3"));
}

// "Running code in threads": reactor.callInThread(aSillyBlockingMethod, "2 seconds have passed").
TEST_F(UsingThreads, CallInThread) {
  std::string printed;
  const auto a_silly_blocking_method = [&](const std::string& x) {
    EXPECT_FALSE(reactor_->InReactorThread());
    printed = x;
    Stop();  // may be called by any thread here
  };
  WhenRunning([&] {
    ASSERT_TRUE(
        reactor_->CallInThread([&] { a_silly_blocking_method("2 seconds have passed"); }).ok());
  });
  Run();
  EXPECT_EQ(printed, "2 seconds have passed");
}

// "Utility methods": threads.callMultipleInThread(commands).
TEST_F(UsingThreads, CallMultipleInThread) {
  std::vector<std::string> printed;
  std::vector<workers::internal::ThreadId> threads;
  const auto a_silly_blocking_method_one = [&](const std::string& x) {
    threads.push_back(CurrentThread());
    printed.push_back("one " + x);
    return absl::OkStatus();
  };
  const auto a_silly_blocking_method_two = [&](const std::string& x) {
    threads.push_back(CurrentThread());
    printed.push_back("two " + x);
    return absl::OkStatus();
  };
  WhenRunning([&] {
    std::vector<absl::AnyInvocable<absl::Status() &&>> commands;
    commands.push_back([&] { return a_silly_blocking_method_one("calling first"); });
    commands.push_back([&] { return a_silly_blocking_method_two("and the second"); });
    CallMultipleInThread(*reactor_, std::move(commands)).AddCallback([&] { Stop(); }).Detach();
  });
  Run();
  EXPECT_THAT(printed, ElementsAre("one calling first", "two and the second"));
  ASSERT_EQ(threads.size(), 2u);
  EXPECT_EQ(threads[0], threads[1]);
}

// threads.deferToThread(doLongCalculation).addCallback(printResult).
TEST_F(UsingThreads, DeferToThread) {
  const auto do_long_calculation = [this] {
    EXPECT_FALSE(reactor_->InReactorThread());
    return 3;
  };
  const auto print_result = [this](int x) {
    EXPECT_TRUE(reactor_->InReactorThread());
    log_.push_back(std::to_string(x));
  };
  WhenRunning([&] {
    reactor::DeferToThread(*reactor_, do_long_calculation)
        .AddCallback(print_result)
        .AddCallback([this] { Stop(); })
        .Detach();
  });
  Run();
  EXPECT_THAT(log_, ElementsAre("3"));
}

// threads.blockingCallFromThread(reactor, f): a thread asks the loop, and gets what its Deferred
// comes to, a value or an error.
TEST_F(UsingThreads, BlockingCallFromThread) {
  const auto in_thread = [this] {
    absl::StatusOr<std::string> page = reactor::BlockingCallFromThread(*reactor_, [this] {
      EXPECT_TRUE(reactor_->InReactorThread());
      auto [deferred, promise] = MakeDeferred<std::string>();
      auto later = std::make_shared<Promise<std::string>>(std::move(promise));
      EXPECT_TRUE(reactor_
                      ->CallLater(absl::ZeroDuration(),
                                  [later] { EXPECT_TRUE(later->Callback("a page").ok()); })
                      .ok());
      return std::move(deferred);
    });
    ASSERT_TRUE(page.ok()) << page.status();
    EXPECT_EQ(*page, "a page");
    absl::StatusOr<std::string> error = reactor::BlockingCallFromThread(
        *reactor_, [] { return Fail<std::string>(absl::NotFoundError("404")); });
    EXPECT_EQ(error.status(), absl::NotFoundError("404"));
    Stop();
  };
  WhenRunning([&] { ASSERT_TRUE(reactor_->CallInThread(in_thread).ok()); });
  Run();
}

// "Managing the reactor thread pool": reactor.suggestThreadPoolSize(30).
TEST_F(UsingThreads, SuggestThreadPoolSize) {
  ASSERT_TRUE(reactor_->SuggestThreadPoolSize(30).ok());
  WhenRunning([&] {
    EXPECT_EQ((*reactor_->thread_pool())->max(), 30);
    Stop();
  });
  Run();
}

}  // namespace
}  // namespace reactor
