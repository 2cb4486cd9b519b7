#include "tests/watchdog.h"

#include <chrono>
#include <semaphore>

#include "gtest/gtest.h"

namespace workers::test {
namespace {

TEST(Watchdog, LeavesATestAloneThatEndsInTime) {
  Watchdog outer("the test");
  Watchdog inner("a part of it");
}

TEST(WatchdogDeathTest, EndsATestThatHangs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto hang = [] {
    Watchdog watchdog("the semaphore is never released", std::chrono::milliseconds(1));
    std::binary_semaphore never(0);
    never.acquire();
  };
  EXPECT_DEATH(hang(), "after 1 ms: the semaphore is never released");
}

}  // namespace
}  // namespace workers::test
