#include "workers/internal/stall_watch.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace workers::internal {
namespace {

TEST(StallWatch, ReportsOnceUntilSomethingMoves) {
  StallWatch watch(absl::Seconds(5));
  for (int round = 0; round < 2; ++round) {
    const absl::Duration start = absl::Minutes(round);
    EXPECT_FALSE(watch.has_begun());
    EXPECT_FALSE(watch.Look(start));
    EXPECT_TRUE(watch.has_begun());
    EXPECT_EQ(watch.due(), start + absl::Seconds(5));
    EXPECT_FALSE(watch.Look(start + absl::Seconds(4)));
    EXPECT_TRUE(watch.Look(start + absl::Seconds(5)));
    EXPECT_EQ(watch.due(), absl::InfiniteDuration());
    EXPECT_FALSE(watch.Look(start + absl::Seconds(50)));
    watch.Moved();
  }
}

TEST(StallWatch, AMoveBeginsTheTimeAnew) {
  StallWatch watch(absl::Seconds(5));
  EXPECT_FALSE(watch.Look(absl::Seconds(0)));
  watch.Moved();
  EXPECT_FALSE(watch.Look(absl::Seconds(4)));
  EXPECT_FALSE(watch.Look(absl::Seconds(8)));
  EXPECT_TRUE(watch.Look(absl::Seconds(9)));
}

}  // namespace
}  // namespace workers::internal
