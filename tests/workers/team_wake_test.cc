// throttle_wakeups, and orders of events around it.

#include <memory>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/workers/team_in_hand.h"
#include "workers/blocking_scope.h"
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/team.h"
#include "workers/testing/gate.h"
#include "workers/worker.h"

namespace workers {
namespace {

class SparingTeam : public TeamInHand {
 protected:
  SparingTeam() { throttle_wakeups_ = true; }
  // `count` workers, idle.
  void MakeIdle(int count, TeamLimits limits) {
    soft_limit_ = count;
    MakeInline(std::move(limits));
    ASSERT_TRUE(team_->Grow(count).ok());
    ASSERT_EQ(statistics().idle, count);
  }
};

TEST_F(SparingTeam, WakesOneAndThatOneTheNext) {
  MakeIdle(3, Soft());
  Give(10);
  EXPECT_EQ(queued(2), 1u);  // the one idle last
  EXPECT_EQ(queued(0) + queued(1), 0u);
  EXPECT_EQ(statistics().backlogged, 9);
  EXPECT_EQ(statistics().idle, 2);
  Step(2);  // wakes the next, and then takes what nobody has
  EXPECT_THAT(log_, testing::ElementsAre("0", "2", "3", "4", "5", "6", "7", "8", "9"));
  EXPECT_EQ(queued(1), 1u);
  EXPECT_EQ(queued(0), 0u);
  EXPECT_EQ(statistics().backlogged, 0);
  EXPECT_EQ(statistics().idle, 2);
  Give("while one is being woken");
  EXPECT_EQ(queued(0) + queued(2), 0u);
  Step(1);
  EXPECT_EQ(log_.back(), "1");
  EXPECT_EQ(queued(2), 1u);
  Step(2);
  EXPECT_EQ(log_.back(), "while one is being woken");
  EXPECT_EQ(statistics().idle, 3);
  EXPECT_EQ(statistics().completed, 11);
}

TEST_F(SparingTeam, MakesAWorkerWhereThereAreTooFew) {
  soft_limit_ = 2;
  MakeInline(Soft());
  Give(2);
  EXPECT_EQ(made(), 2);
  EXPECT_EQ(queued(0), 1u);
  EXPECT_EQ(queued(1), 0u);  // as long as the first has not begun
  Give("third");
  EXPECT_EQ(made(), 2);
  EXPECT_EQ(statistics().backlogged, 2);
  Step(0);
  EXPECT_EQ(queued(1), 1u);
  EXPECT_THAT(log_, testing::ElementsAre("0", "third"));
}

TEST_F(SparingTeam, IdleOnesAreWokenBeforeMoreAreMade) {
  MakeIdle(2, Soft());
  SetSoftLimit(10);
  Give(2);
  EXPECT_EQ(made(), 2);  // one is being woken, another one can be
  Give(1);
  EXPECT_EQ(made(), 3);
}

TEST_F(SparingTeam, AWorkerThatDestroysItsWorkInsteadOfBeginningItLetsTheNextBeWoken) {
  MakeIdle(2, Soft());
  Give(2);
  ASSERT_EQ(queued(1), 1u);
  workers_[1]->Drop();
  EXPECT_EQ(statistics().dropped, 1);
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("1"));
}

TEST_F(SparingTeam, AWorkerThatRefusesItsWorkLetsTheNextBeWoken) {
  create_ = [this]() -> Made {
    absl::StatusOr<std::unique_ptr<IWorker>> worker = CreateMemory();
    if (made() == 2) (*worker)->Quit().IgnoreError();
    return worker;
  };
  MakeIdle(2, Soft());
  Give(1);
  EXPECT_EQ(queued(0), 1u);
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("0"));
}

TEST_F(SparingTeam, AMarkedWorkerLeavesBeforeItTakesTheNextItem) {
  MakeIdle(2, Soft());
  Give(1);
  Step(1);  // the newest
  Give(1);
  ASSERT_EQ(queued(1), 1u);
  Give(3);
  EXPECT_TRUE(team_->Shrink(2).ok());  // the idle one, and the busy one
  Step(1);
  EXPECT_EQ(log_.size(), 5u);  // it was the last that could serve the items
  EXPECT_EQ(statistics().ending, 2);
}

// The waiting items were accepted before the Shrink, so no worker is created for them.
TEST_F(SparingTeam, TheLastWorkerThatCanServeWaitingItemsLeavesWhenTheyHaveRun) {
  MakeIdle(1, Soft());
  Give(3);
  EXPECT_TRUE(team_->Shrink(1).ok());
  EXPECT_EQ(statistics().ending, 0);
  Step(0);
  EXPECT_THAT(log_, testing::ElementsAre("0", "1", "2"));
  EXPECT_EQ(statistics().ending, 1);
  EXPECT_EQ(made(), 1);
}

TEST_F(SparingTeam, SetSizeCreatesForWaitingItems) {
  MakeIdle(1, Soft());
  Give(3);
  EXPECT_EQ(made(), 1);
  SetSoftLimit(2);
  EXPECT_EQ(made(), 2);
}

TEST_F(SparingTeam, QuitNowWhileAWorkerIsBeingWoken) {
  MakeIdle(2, Soft());
  Give(3);
  EXPECT_EQ(team_->QuitNow(), 2);
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("0"));
  EXPECT_EQ(statistics().live, 0);
}

TEST_F(SparingTeam, NobodyIsReleasedWhileWorkWaits) {
  TeamLimits limits = Soft();
  limits.idle_timeout = absl::Seconds(10);
  MakeIdle(2, std::move(limits));
  Give(2);
  clock_.Advance(absl::Seconds(20));
  EXPECT_EQ(statistics().ending, 0);
  Step(1);
  EXPECT_EQ(queued(0), 1u);
  Step(0);
  EXPECT_EQ(log_.size(), 2u);
  clock_.Advance(absl::Seconds(20));
  EXPECT_EQ(statistics().ending, 2);
}

TEST_F(SparingTeam, GrowthByTheClockGoesOn) {
  TeamLimits limits = Soft();
  limits.growth_per_second = 1;
  MakeIdle(1, std::move(limits));
  Give(5);
  EXPECT_EQ(made(), 1);
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(made(), 2);
  StepToTheEnd();
  EXPECT_EQ(log_.size(), 5u);
}

// Whoever is in a `then` counts as idle and is awake: it holds up nobody but what it was given.
TEST(Sparing, AWorkerInAThenDoesNotKeepOthersAsleep) {
  Gate in_then, release, done;
  auto pool = *MakePool({.limits = {.min_workers = 2, .soft_limit = 2}});
  ASSERT_TRUE(pool->Enqueue([] {},
                            [&] {
                              in_then.Open();
                              release.Wait();
                            })
                  .ok());
  in_then.Wait();
  ASSERT_TRUE(pool->Do([] {}).ok());                 // to the worker idle last
  ASSERT_TRUE(pool->Do([&] { done.Open(); }).ok());  // to the other
  done.Wait();
  release.Open();
}

// An idle worker is released in time, although what it was kept for is gone past the coordinator.
TEST_F(TeamInHand, AnIdleWorkerIsReleasedInTimeWhereTheWorkItWasKeptForWasTaken) {
  throttle_wakeups_ = true;
  soft_limit_ = 3;
  TeamLimits limits = Soft();
  limits.idle_timeout = absl::Seconds(10);
  MakeInline(std::move(limits));
  ASSERT_TRUE(team_->Grow(3).ok());
  int idle_then = -1, idle_later = -1, live_later = -1;
  ASSERT_TRUE(team_
                  ->Do([&] {
                    // Worker 2 is awake, 0 and 1 are idle.
                    ASSERT_TRUE(team_
                                    ->Do([&] {  // for worker 1: it begins an hour later
                                      clock_.Advance(absl::Hours(1));
                                      idle_later = statistics().idle;
                                      live_later = statistics().live;
                                    })
                                    .ok());
                    ASSERT_EQ(queued(1), 1u);
                    ASSERT_TRUE(team_
                                    ->Do([&] {  // taken by worker 2
                                      idle_then = statistics().idle;
                                      EXPECT_EQ((*workers_[1])(), Performed::kRan);
                                    })
                                    .ok());
                    EXPECT_EQ(statistics().backlogged, 1);
                    clock_.Advance(absl::Seconds(11));  // the release of worker 0 is put off
                    EXPECT_EQ(statistics().idle, 1);
                  })
                  .ok());
  EXPECT_EQ((*workers_[2])(), Performed::kRan);
  EXPECT_EQ(idle_then, 0);  // the backlog is empty: worker 0 is released
  EXPECT_EQ(idle_later, 0);
  EXPECT_EQ(live_later, 3);  // worker 0 is ending
  End();
}

TEST_F(TeamInHand, AnIdleWorkerIsReleasedInTimeWhereTheWorkItWasKeptForWasWithdrawn) {
  throttle_wakeups_ = true;
  soft_limit_ = 2;
  TeamLimits limits = Soft();
  limits.idle_timeout = absl::Seconds(10);
  MakeInline(std::move(limits));
  ASSERT_TRUE(team_->Grow(2).ok());
  int idle_later = -1;
  ASSERT_TRUE(team_
                  ->Do([&] {
                    clock_.Advance(absl::Hours(1));
                    idle_later = statistics().idle;
                  })
                  .ok());
  auto ticket = team_->Enqueue(Logging("withdrawn"));
  ASSERT_TRUE(ticket.ok());
  clock_.Advance(absl::Seconds(11));  // the release of worker 0 is put off
  EXPECT_TRUE(ticket->TryCancel());
  EXPECT_EQ((*workers_[1])(), Performed::kRan);
  EXPECT_EQ(idle_later, 0);
  End();
}

// What only the time could bring does not come where the clock refuses: Quit has an end.
TEST_F(TeamInHand, QuitEndsWhereGrowthWaitsForAClockThatRefuses) {
  DeafClock clock;
  soft_limit_ = 0;
  TeamLimits limits = Soft();
  limits.growth_per_second = 1;
  MakeWith(std::make_unique<LockWorker>(), std::move(limits), &clock);
  Give("never");
  ASSERT_TRUE(team_->Quit().ok());
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
  EXPECT_EQ(statistics().dropped, 1);
  if (team_->statistics().dropped == 0) team_->QuitNow();
  End();
}

// The stall that is told of is that of the work that waits now.
TEST_F(TeamInHand, AWithdrawnWorkEndsAStall) {
  soft_limit_ = 1;
  TeamLimits limits = Soft();
  limits.hard_limit = 1;
  limits.stall_warning = absl::Seconds(10);
  MakeInline(std::move(limits));
  ASSERT_TRUE(team_
                  ->Do([&] {
                    BlockingScope scope;
                    auto ticket = team_->Enqueue(Logging("withdrawn"));
                    clock_.Advance(absl::Seconds(5));
                    EXPECT_TRUE(ticket->TryCancel());
                    clock_.Advance(absl::Seconds(4));
                    Give("waits");
                    clock_.Advance(absl::Seconds(1));
                    EXPECT_EQ(errors_.size(), 0u);
                    clock_.Advance(absl::Seconds(9));
                    EXPECT_EQ(errors_.size(), 1u);
                  })
                  .ok());
  StepToTheEnd();
  End();
}

// A worker that is to leave as soon as it is made is none that work can wait for.
TEST_F(TeamInHand, WorkDoesNotWaitForAWorkerThatIsMadeAndMarked) {
  throttle_wakeups_ = true;
  soft_limit_ = 3;
  bool shrunk = false;
  int made_for_it = 0;
  create_ = [&]() -> Made {
    if (made() == 1 && !shrunk) {
      shrunk = true;
      EXPECT_TRUE(team_->Shrink(2).ok());  // the busy one and the one that is being made
      EXPECT_EQ(statistics().starting, 1);
      Give("waits");
      made_for_it = statistics().starting;
    }
    return CreateMemory();
  };
  MakeInline(Soft());
  Give("busy");
  ASSERT_TRUE(team_->Grow(1).ok());
  EXPECT_EQ(made_for_it, 2);
  StepToTheEnd();
  End();
}

// How long a work has waited is known also where an idle worker seemed to be there for it.
TEST_F(TeamInHand, OldestWaitOfAWorkWhoseWorkerWasReleased) {
  throttle_wakeups_ = true;
  create_ = [this] { return CreateUpTo(1); };
  Make(Soft());
  Coordinate();
  ASSERT_TRUE(team_->Grow(1).ok());
  Coordinate();
  ASSERT_EQ(statistics().idle, 1);
  ASSERT_TRUE(team_->Shrink(1).ok());
  Give("waits");
  Coordinate();
  EXPECT_EQ(statistics().backlogged, 1);
  clock_.Advance(absl::Seconds(7));
  EXPECT_EQ(statistics().oldest_wait, absl::Seconds(7));
  End();
}

// The bound is one of works that wait, and there is somebody for these.
TEST_F(TeamInHand, AFullBacklogIsNoneThatIdleWorkersAreThereFor) {
  throttle_wakeups_ = true;
  soft_limit_ = 4;
  TeamLimits limits = Soft();
  limits.max_backlog = 1;
  MakeInline(std::move(limits));
  ASSERT_TRUE(team_->Grow(4).ok());
  int taken = 0;
  for (int i = 0; i < 4; ++i) taken += team_->Do([] {}).ok();
  EXPECT_EQ(taken, 4);
  StepToTheEnd();
  End();
}

// An item that a Grow causes to run may destroy the team before Grow has returned.
TEST_F(TeamInHand, AnItemMayDestroyTheTeamWhileTheGrowThatLedToItReturns) {
  soft_limit_ = 0;
  bool poked = false;
  auto lock = std::make_shared<LockWorker>();
  MakeWith(std::make_unique<CoordinatorInHand>([this, lock, &poked](Work&& nudge) -> absl::Status {
             const std::shared_ptr<LockWorker> held = lock;
             const absl::Status status = held->Do(std::move(nudge));
             if (std::exchange(poked, false)) {
               std::thread([this] {  // another visit carries out what was decided
                 team_->Grow(0).IgnoreError();
                 while ((*workers_[0])() == Performed::kRan) {
                 }
               })
                   .join();
             }
             return status;
           }),
           Soft(), nullptr);
  ASSERT_TRUE(team_->Do([this] { team_ = nullptr; }).ok());
  SetSoftLimit(1);
  poked = true;
  team_->Grow(0).IgnoreError();
  EXPECT_EQ(team_, nullptr);
}

}  // namespace
}  // namespace workers
