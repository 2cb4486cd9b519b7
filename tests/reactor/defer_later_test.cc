#include "reactor/defer_later.h"

#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reactor/deferred.h"
#include "reactor/event_reactor.h"
#include "reactor/failure.h"
#include "reactor/testing/clock.h"
#include "workers/worker.h"

namespace reactor {
namespace {

using testing::IsEmpty;

// What `deferred` came to; that it has come.
template <typename T>
Result<T> Come(Deferred<T> deferred) {
  std::vector<Result<T>> results;
  std::move(deferred)
      .AddBoth([&](Result<T> result) { results.push_back(std::move(result)); })
      .Detach();
  EXPECT_EQ(results.size(), 1u);
  return results.empty() ? Result<T>(absl::UnknownError("nothing has come"))
                         : std::move(results[0]);
}

TEST(DeferLater, CallsAfterTheDelayAndGivesTheResult) {
  test::Clock clock;
  bool called = false;
  Deferred<std::unique_ptr<int>> deferred = DeferLater(clock, absl::Seconds(3), [&] {
    called = true;
    return std::make_unique<int>(7);
  });
  clock.Advance(absl::Seconds(2));
  EXPECT_FALSE(called);
  EXPECT_FALSE(deferred.fired());
  clock.Advance(absl::Seconds(1));
  EXPECT_TRUE(called);
  EXPECT_EQ(*Come(std::move(deferred)).value(), 7);
}

TEST(DeferLater, WhatTheFunctionThrowsIsTheFailure) {
  test::Clock clock;
  Deferred<void> deferred =
      DeferLater(clock, absl::Seconds(1), [] { throw std::runtime_error("boom"); });
  clock.Advance(absl::Seconds(1));
  EXPECT_EQ(Come(std::move(deferred)).status().message(), "std::runtime_error: boom");
}

TEST(DeferLater, CancelTakesTheCallBackAndDestroysTheFunction) {
  test::Clock clock;
  auto token = std::make_shared<int>();
  Deferred<void> deferred = DeferLater(clock, absl::Seconds(1), [token] { FAIL(); });
  size_t waiting = 1;
  Deferred<void> seen = std::move(deferred).AddErrback([&](const Failure& why) {
    waiting = clock.pending().size();
    return why;
  });
  seen.Cancel();
  EXPECT_EQ(waiting, 0u);  // already, when the errback ran
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_TRUE(absl::IsCancelled(Come(std::move(seen)).status()));
  clock.Advance(absl::Seconds(1));
}

TEST(DeferLater, CancelAfterTheCallGoesToTheDeferredOfTheFunction) {
  test::Clock clock;
  bool cancelled = false;
  auto [inner, promise] = MakeDeferred<int>([&](Promise<int>&) { cancelled = true; });
  Deferred<int> deferred = DeferLater(
      clock, absl::Seconds(1), [inner = std::move(inner)]() mutable { return std::move(inner); });
  clock.Advance(absl::Seconds(1));
  EXPECT_FALSE(deferred.fired());
  deferred.Cancel();
  EXPECT_TRUE(cancelled);
  EXPECT_TRUE(absl::IsCancelled(Come(std::move(deferred)).status()));
}

TEST(DeferLater, WithoutAFunctionItFiresAfterTheDelay) {
  test::Clock clock;
  Deferred<void> deferred = DeferLater(clock, absl::Seconds(2));
  EXPECT_FALSE(deferred.fired());
  clock.Advance(absl::Seconds(2));
  EXPECT_TRUE(Come(std::move(deferred)).ok());
}

TEST(DeferLater, FailsWithWhatTheTimeSays) {
  test::Clock clock;
  auto token = std::make_shared<int>();
  EXPECT_TRUE(absl::IsInvalidArgument(
      Come(DeferLater(clock, absl::Seconds(-1), [token] { FAIL(); })).status()));
  EXPECT_EQ(token.use_count(), 1);
  auto reactor = *EventReactor::Create({.handle_signals = false});
  ASSERT_TRUE(reactor->CallWhenRunning([&] { reactor->Stop().IgnoreError(); }).ok());
  ASSERT_TRUE(reactor->Run().ok());
  EXPECT_TRUE(workers::IsAlreadyQuit(Come(DeferLater(*reactor, absl::Seconds(1))).status()));
}

TEST(DeferLater, FailsWithAbortedWhenItsTimeIsDestroyedFirst) {
  auto clock = std::make_unique<test::Clock>();
  Deferred<void> deferred = DeferLater(*clock, absl::Seconds(1), [] { FAIL(); });
  clock = nullptr;
  EXPECT_TRUE(absl::IsAborted(Come(std::move(deferred)).status()));
}

TEST(DeferLater, OnTheLoopItRunsThere) {
  auto reactor = *EventReactor::Create({.handle_signals = false});
  bool inside = false;
  DeferLater(*reactor, absl::Milliseconds(1), [&] {
    inside = reactor->InReactorThread();
    return reactor->Stop();
  }).Detach();
  ASSERT_TRUE(reactor->Run().ok());
  EXPECT_TRUE(inside);
}

}  // namespace
}  // namespace reactor
