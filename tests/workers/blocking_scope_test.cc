// Blocked workers, waits and stalls.

#include "workers/blocking_scope.h"

#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/workers/team_in_hand.h"
#include "workers/lock_worker.h"
#include "workers/team.h"
#include "workers/work_handle.h"

namespace workers {
namespace {

TEST_F(TeamInHand, WhoIsBlockedDoesNotCountAgainstTheSoftLimit) {
  Make(Soft());
  ASSERT_TRUE(team_
                  ->Do([this] {
                    EXPECT_EQ(statistics().backlogged, 1);
                    {
                      BlockingScope blocking;
                      Coordinate();
                      EXPECT_EQ(statistics().blocked, 1);
                      EXPECT_EQ(made(), 2);
                      Step(1);
                      EXPECT_THAT(log_, testing::ElementsAre("unblocks"));
                    }
                    Coordinate();
                    EXPECT_EQ(statistics().blocked, 0);
                  })
                  .ok());
  Give("unblocks");
  Coordinate();
  EXPECT_EQ(made(), 1);
  Step(0);
  EXPECT_EQ(statistics().idle, 2);
  // It is the soft limit that was lifted, and nothing else.
  Give(5);
  Coordinate();
  EXPECT_EQ(made(), 2);
}

TEST_F(TeamInHand, BlockingScopesNestAndCountOnce) {
  Make();
  std::vector<int> blocked;
  const auto look = [&] {
    Coordinate();
    blocked.push_back(statistics().blocked);
  };
  ASSERT_TRUE(team_
                  ->Do([&] {
                    look();
                    {
                      BlockingScope outer;
                      look();
                      {
                        BlockingScope inner;
                        look();
                      }
                      look();
                    }
                    look();
                  })
                  .ok());
  Coordinate();
  Step(0);
  EXPECT_THAT(blocked, testing::ElementsAre(0, 1, 1, 1, 0));
}

TEST_F(TeamInHand, ABlockingScopeOutsideOfATeamDoesNothing) {
  Make();
  BlockingScope outside;
  Coordinate();
  EXPECT_EQ(statistics().blocked, 0);
  LockWorker other;
  EXPECT_TRUE(other.Do([] { BlockingScope in_another_worker; }).ok());
}

TEST_F(TeamInHand, AWorkThatThrowsOutOfABlockingScopeIsNotBlocked) {
  Make();
  ASSERT_TRUE(team_
                  ->Do([] {
                    BlockingScope blocking;
                    throw std::runtime_error("boom");
                  })
                  .ok());
  StepToTheEnd();
  EXPECT_EQ(statistics().blocked, 0);
  EXPECT_EQ(statistics().idle, 1);
}

// The worker counts as idle there, so it cannot be one of the busy that are blocked.
TEST_F(TeamInHand, ABlockingScopeInThenKeepsTheSnapshotRight) {
  Make();
  ASSERT_TRUE(team_
                  ->Enqueue([] {},
                            [this] {
                              BlockingScope blocking;
                              Coordinate();
                              EXPECT_LE(statistics().blocked, statistics().busy);
                            })
                  .ok());
  Coordinate();
  Step(0);
  EXPECT_EQ(statistics().blocked, 0);
}

// Two workers, the hard limit, each in a work that waits. `wait` is called in the work.
class WaitingTeam : public TeamInHand {
 protected:
  void MakeTwo(absl::Duration stall_warning = absl::InfiniteDuration()) {
    TeamLimits limits;
    limits.hard_limit = 2;
    limits.stall_warning = stall_warning;
    MakeInline(std::move(limits));
  }
};

TEST_F(WaitingTeam, TheLastWaitThatMakesItEndlessIsRefused) {
  MakeTwo();
  int refused = 0;
  // Each runs inside the other, as if on its own thread, and waits for a work of its own.
  const auto wait = [&](const std::function<void()>& inside) {
    WorkHandle ticket = *team_->Enqueue(Logging("awaited"));
    BlockingScope blocking;
    const absl::Status status = blocking.Awaits(ticket);
    if (!status.ok()) {
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(status.message(), testing::HasSubstr("team: this wait would never end"));
      ++refused;
    }
    inside();
  };
  ASSERT_TRUE(team_->Do([&] { wait([&] { Step(1); }); }).ok());
  ASSERT_TRUE(team_->Do([&] { wait([] {}); }).ok());
  ASSERT_EQ(statistics().busy, 2);
  Step(0);
  EXPECT_EQ(refused, 1);
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("awaited", "awaited"));
}

TEST_F(WaitingTeam, AWaitThatAnotherWorkerMayEndIsNotRefused) {
  MakeTwo();
  ASSERT_TRUE(team_
                  ->Do([&] {
                    WorkHandle ticket = *team_->Enqueue(Logging("awaited"));
                    BlockingScope blocking;
                    EXPECT_TRUE(blocking.Awaits(ticket).ok());  // the other is merely busy
                    Step(1);
                  })
                  .ok());
  ASSERT_TRUE(team_
                  ->Do([&] {
                    BlockingScope blocking;  // and this one waits for something else
                    EXPECT_TRUE(blocking.Awaits(WorkHandle()).ok());
                  })
                  .ok());
  Step(0);
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("awaited"));
}

TEST_F(WaitingTeam, AStallIsToldOnceAndAgainWhenSomethingHasMoved) {
  MakeTwo(absl::Seconds(30));
  const auto wait = [&](const std::function<void()>& inside) {
    BlockingScope blocking;
    inside();
  };
  ASSERT_TRUE(team_
                  ->Do([&] {
                    wait([&] {
                      Step(1);
                      EXPECT_EQ(errors_.size(), 2u);
                      clock_.Advance(absl::Seconds(60));  // the other one is done: no stall
                      EXPECT_EQ(errors_.size(), 2u);
                    });
                  })
                  .ok());
  ASSERT_TRUE(team_
                  ->Do([&] {
                    wait([&] {
                      clock_.Advance(absl::Seconds(60));  // nothing waits for a worker
                      EXPECT_THAT(errors_, testing::IsEmpty());
                      Give("waits");
                      clock_.Advance(absl::Seconds(29));
                      EXPECT_THAT(errors_, testing::IsEmpty());
                      clock_.Advance(absl::Seconds(1));
                      EXPECT_EQ(errors_.size(), 1u);
                      EXPECT_THAT(errors_[0], testing::HasSubstr("team: stalled: for 30s all"));
                      clock_.Advance(absl::Seconds(300));
                      EXPECT_EQ(errors_.size(), 1u);
                    });
                    wait([&] {
                      clock_.Advance(absl::Seconds(30));
                      EXPECT_EQ(errors_.size(), 2u);
                    });
                  })
                  .ok());
  Step(0);
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("waits"));
}

}  // namespace
}  // namespace workers
