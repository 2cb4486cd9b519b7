#include "workers/internal/creation_backoff.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace workers::internal {
namespace {

TEST(CreationBackoff, DoublesUpToASecond) {
  CreationBackoff backoff(absl::Milliseconds(300), /*has_clock=*/true);
  absl::Duration now = absl::ZeroDuration();
  for (const int expected : {300, 600, 1000, 1000}) {
    backoff.Failed(now);
    EXPECT_TRUE(backoff.is_held());
    EXPECT_TRUE(backoff.is_probing());
    EXPECT_EQ(backoff.retry_at() - now, absl::Milliseconds(expected));
    EXPECT_FALSE(backoff.IsOver(now));
    now = backoff.retry_at();
    EXPECT_TRUE(backoff.IsOver(now));
    backoff.Allow();
    EXPECT_FALSE(backoff.is_held());
    EXPECT_TRUE(backoff.is_probing());
  }
  backoff.Worked();
  EXPECT_FALSE(backoff.is_probing());
  backoff.Failed(now);
  EXPECT_EQ(backoff.retry_at() - now, absl::Milliseconds(300));
}

TEST(CreationBackoff, CreationsThatFailTogetherCountOnce) {
  CreationBackoff backoff(absl::Milliseconds(10), /*has_clock=*/true);
  backoff.Failed(absl::ZeroDuration());
  backoff.Failed(absl::Milliseconds(5));
  EXPECT_EQ(backoff.retry_at(), absl::Milliseconds(10));
}

TEST(CreationBackoff, WithoutAClockOnlyAllowEndsIt) {
  CreationBackoff backoff(absl::Milliseconds(10), /*has_clock=*/false);
  backoff.Failed(absl::ZeroDuration());
  EXPECT_EQ(backoff.retry_at(), absl::InfiniteDuration());
  EXPECT_FALSE(backoff.IsOver(absl::Hours(1)));
  backoff.Allow();
  EXPECT_FALSE(backoff.is_held());
}

}  // namespace
}  // namespace workers::internal
