#include "workers/internal/armed_timers.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace workers::internal {
namespace {

TEST(ArmedTimers, KnowsWhetherOneFiresInTime) {
  ArmedTimers timers;
  EXPECT_FALSE(timers.HasOneBy(absl::Seconds(5)));
  timers.Arm(absl::Seconds(5));
  EXPECT_TRUE(timers.HasOneBy(absl::Seconds(5)));
  EXPECT_TRUE(timers.HasOneBy(absl::Seconds(6)));
  EXPECT_FALSE(timers.HasOneBy(absl::Seconds(4)));
  EXPECT_FALSE(timers.HasOneBy(absl::InfiniteDuration()));
}

TEST(ArmedTimers, OneThatHasFiredIsStaleAfterwards) {
  ArmedTimers timers;
  const int64_t late = timers.Arm(absl::Seconds(9));
  const int64_t early = timers.Arm(absl::Seconds(1));
  EXPECT_NE(late, early);
  EXPECT_TRUE(timers.Remove(early));
  EXPECT_FALSE(timers.Remove(early));
  EXPECT_FALSE(timers.HasOneBy(absl::Seconds(8)));
  EXPECT_TRUE(timers.Remove(late));
}

TEST(ArmedTimers, WithoutRoomTheNextEarliestBecomesStale) {
  ArmedTimers timers;
  int64_t previous = 0;
  for (int i = 0; i < 100; ++i) {
    previous = timers.Arm(absl::Seconds(1000 - i));
  }
  const int64_t last = timers.Arm(absl::Seconds(1));
  EXPECT_FALSE(timers.Remove(previous));
  EXPECT_TRUE(timers.Remove(last));
}

}  // namespace
}  // namespace workers::internal
