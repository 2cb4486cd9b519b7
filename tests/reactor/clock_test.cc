#include "reactor/testing/clock.h"

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace reactor {
namespace {

using test::Clock;
using testing::ElementsAre;

TEST(Clock, StandsStillUntilItIsAdvanced) {
  Clock clock;
  EXPECT_EQ(clock.Now(), absl::ZeroDuration());
  clock.Advance(absl::Seconds(3));
  clock.Advance(absl::ZeroDuration());
  EXPECT_EQ(clock.Now(), absl::Seconds(3));
}

TEST(Clock, CallsWhatIsDueAndNotBefore) {
  Clock clock;
  std::vector<absl::Duration> called;
  const auto call = clock.CallLater(absl::Seconds(1), [&] { called.push_back(clock.Now()); });
  ASSERT_TRUE(call.ok());
  EXPECT_EQ(call->time(), absl::Seconds(1));
  clock.Advance(absl::Milliseconds(999));
  EXPECT_THAT(called, ElementsAre());
  EXPECT_TRUE(call->active());
  clock.Advance(absl::Milliseconds(1));
  EXPECT_THAT(called, ElementsAre(absl::Seconds(1)));
  EXPECT_FALSE(call->active());
}

TEST(Clock, KeepsCallsInOrderAlsoWhenOneIsResetOrDelayed) {
  Clock clock;
  std::string order;
  auto a = clock.CallLater(absl::Seconds(1), [&] { order += 'a'; });
  auto b = clock.CallLater(absl::Seconds(2), [&] { order += 'b'; });
  auto c = clock.CallLater(absl::Seconds(3), [&] { order += 'c'; });
  ASSERT_TRUE(a->Delay(absl::Seconds(3)).ok());
  ASSERT_TRUE(c->Reset(absl::Seconds(1)).ok());
  std::vector<absl::Duration> times;
  for (const DelayedCall& call : clock.pending()) times.push_back(call.time());
  EXPECT_THAT(times, ElementsAre(absl::Seconds(1), absl::Seconds(2), absl::Seconds(4)));
  clock.Advance(absl::Seconds(4));
  EXPECT_EQ(order, "cba");
}

TEST(Clock, WhatIsCancelledIsNotCalled) {
  Clock clock;
  auto call = clock.CallLater(absl::Seconds(1), [] { FAIL(); });
  EXPECT_TRUE(call->Cancel().ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(call->Cancel()));
  EXPECT_TRUE(clock.pending().empty());
  clock.Advance(absl::Seconds(2));
}

TEST(Clock, OneThatIsDueMayCancelAnotherThatIs) {
  Clock clock;
  absl::StatusOr<DelayedCall> second = DelayedCall();
  auto first = clock.CallLater(absl::Seconds(1), [&] { EXPECT_TRUE(second->Cancel().ok()); });
  second = clock.CallLater(absl::Seconds(2), [] { FAIL(); });
  clock.Advance(absl::Seconds(5));
  EXPECT_FALSE(first->active());
}

// The original goes round for ever.
TEST(Clock, ACallThatGivesItselfAnewRunsOnceAnAdvance) {
  Clock clock;
  int runs = 0;
  std::function<void()> again = [&] {
    ++runs;
    EXPECT_TRUE(clock.CallLater(absl::ZeroDuration(), again).ok());
  };
  again();
  clock.Advance(absl::ZeroDuration());
  EXPECT_EQ(runs, 2);
  clock.Advance(absl::Seconds(10));
  EXPECT_EQ(runs, 3);
}

TEST(Clock, PumpAdvancesStepByStep) {
  Clock clock;
  std::vector<absl::Duration> called;
  std::function<void()> tick = [&] {
    called.push_back(clock.Now());
    EXPECT_TRUE(clock.CallLater(absl::Seconds(1), tick).ok());
  };
  ASSERT_TRUE(clock.CallLater(absl::Seconds(1), tick).ok());
  clock.Pump(
      {absl::Seconds(1), absl::Milliseconds(500), absl::Milliseconds(500), absl::Seconds(7)});
  EXPECT_THAT(called, ElementsAre(absl::Seconds(1), absl::Seconds(2), absl::Seconds(9)));
}

// The original takes a negative delay.
TEST(Clock, AHandleOutlivesItsClock) {
  DelayedCall call;
  auto token = std::make_shared<int>();
  {
    Clock clock;
    call = *clock.CallLater(absl::Seconds(1), [token] {});
  }
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_FALSE(call.active());
  EXPECT_TRUE(absl::IsFailedPrecondition(call.Cancel()));
}

TEST(ClockDeathTest, DiesWhenItIsToGoBackOrIsAdvancedInsideItself) {
  Clock clock;
  EXPECT_DEATH(clock.Advance(-absl::Seconds(1)), "time does not go back");
  ASSERT_TRUE(clock.CallLater(absl::Seconds(1), [&] { clock.Advance(absl::Seconds(1)); }).ok());
  EXPECT_DEATH(clock.Advance(absl::Seconds(1)), "RunDue inside RunDue");
}

}  // namespace
}  // namespace reactor
