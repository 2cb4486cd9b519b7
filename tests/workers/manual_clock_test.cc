#include "workers/testing/manual_clock.h"

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace workers {
namespace {

using test::ManualClock;

TEST(ManualClock, StandsStillUntilItIsAdvanced) {
  ManualClock clock;
  EXPECT_EQ(clock.Now(), absl::ZeroDuration());
  clock.Advance(absl::Seconds(3));
  EXPECT_EQ(clock.Now(), absl::Seconds(3));
}

TEST(ManualClock, RunsWhatIsDueInOrderEachAtItsTime) {
  ManualClock clock;
  std::vector<std::string> log;
  auto note = [&](std::string name) {
    return [&log, &clock, name] { log.push_back(name + "@" + absl::FormatDuration(clock.Now())); };
  };
  ASSERT_TRUE(clock.RunAt(absl::Seconds(2), note("b")).ok());
  ASSERT_TRUE(clock.RunAt(absl::Seconds(1), note("a1")).ok());
  ASSERT_TRUE(clock.RunAt(absl::Seconds(1), note("a2")).ok());
  ASSERT_TRUE(clock.RunAt(absl::Seconds(4), note("late")).ok());
  EXPECT_EQ(clock.pending(), 4u);
  clock.Advance(absl::Seconds(3));
  EXPECT_THAT(log, testing::ElementsAre("a1@1s", "a2@1s", "b@2s"));
  EXPECT_EQ(clock.Now(), absl::Seconds(3));
  EXPECT_EQ(clock.pending(), 1u);
}

TEST(ManualClock, RunsInOneAdvanceWhatIsGivenForATimeWithinIt) {
  ManualClock clock;
  int ticks = 0;
  std::function<void()> tick = [&] {
    ++ticks;
    ASSERT_TRUE(clock.RunAt(clock.Now() + absl::Seconds(1), [&] { tick(); }).ok());
  };
  tick();
  clock.Advance(absl::Seconds(10));
  EXPECT_EQ(ticks, 11);
}

// Twisted #5962: a call that gives itself anew with no delay never lets advance return.
TEST(ManualClock, AWorkThatGivesItselfAnewAtOnceRunsOnceAnAdvance) {
  ManualClock clock;
  int runs = 0;
  std::function<void()> again = [&] {
    ++runs;
    ASSERT_TRUE(clock.RunAt(clock.Now(), [&] { again(); }).ok());
  };
  again();
  clock.Advance(absl::ZeroDuration());
  EXPECT_EQ(runs, 2);
  clock.Advance(absl::Seconds(1));
  EXPECT_EQ(runs, 3);
}

TEST(ManualClock, DestroysWhatIsNotDueYet) {
  auto alive = std::make_shared<int>();
  {
    ManualClock clock;
    ASSERT_TRUE(clock.RunAt(absl::Seconds(1), [alive] { FAIL(); }).ok());
  }
  EXPECT_EQ(alive.use_count(), 1);
}

TEST(ManualClock, EmptyWorkIsInvalidArgument) {
  ManualClock clock;
  EXPECT_TRUE(absl::IsInvalidArgument(clock.RunAt(absl::ZeroDuration(), nullptr)));
}

TEST(ManualClockDeathTest, DiesWhenTimeWouldGoBackOrNest) {
  ManualClock clock;
  EXPECT_DEATH(clock.Advance(-absl::Nanoseconds(1)), "time does not go back");
  ASSERT_TRUE(clock.RunAt(absl::ZeroDuration(), [&] { clock.Advance(absl::Seconds(1)); }).ok());
  EXPECT_DEATH(clock.Advance(absl::ZeroDuration()), "Advance inside Advance");
}

}  // namespace
}  // namespace workers
