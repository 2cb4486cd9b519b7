// Which options a Team accepts.

#include "workers/team_options.h"

#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/workers/team_in_hand.h"
#include "workers/lock_worker.h"
#include "workers/team.h"
#include "workers/testing/manual_clock.h"

namespace workers {
namespace {

TEST(TeamCreate, OptionsThatCannotBeAreInvalidArgument) {
  ManualClock clock;
  const auto create = [&](TeamLimits limits, bool with_clock = true) {
    return Team::Create({.name = "choir",
                         .coordinator = std::make_unique<LockWorker>(),
                         .create_worker = []() -> Made { return nullptr; },
                         .limits = std::move(limits),
                         .clock = with_clock ? &clock : nullptr})
        .status();
  };
  EXPECT_TRUE(create({}).ok());
  EXPECT_TRUE(create({}, /*with_clock=*/false).ok());
  EXPECT_TRUE(create({.min_workers = 2, .hard_limit = 2}).ok());
  for (const absl::Status& status :
       {create({.min_workers = -1}), create({.min_workers = 2, .hard_limit = 1}),
        create({.hard_limit = -1}), create({.growth_per_second = -1}),
        create({.growth_per_second = std::nan("")}),
        create({.idle_timeout = -absl::Nanoseconds(1)}), create({.max_backlog = 0}),
        create({.retry_after = absl::ZeroDuration()}),
        create({.growth_per_second = 1}, /*with_clock=*/false),
        create({.idle_timeout = absl::Seconds(1)}, /*with_clock=*/false),
        Team::Create({.name = "choir", .create_worker = []() -> Made { return nullptr; }}).status(),
        Team::Create({.name = "choir", .coordinator = std::make_unique<LockWorker>()}).status()}) {
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), testing::StartsWith("choir: "));
  }
}

}  // namespace
}  // namespace workers
