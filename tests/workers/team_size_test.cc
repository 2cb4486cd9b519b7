// How many workers a Team has.

#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/workers/team_in_hand.h"
#include "workers/memory_worker.h"
#include "workers/team.h"

namespace workers {
namespace {

// T4 a: debt. Three too many are shrunk, and the next three are not killed for it.
TEST_F(TeamInHand, T4a_ShrinkKeepsNoDebt) {
  Make();
  EXPECT_TRUE(team_->Shrink(3).ok());
  EXPECT_TRUE(team_->Grow(3).ok());
  Coordinate();
  EXPECT_EQ(made(), 3);
  EXPECT_EQ(statistics().idle, 3);
  EXPECT_TRUE(team_->Shrink(100).ok());
  Coordinate();
  StepEach();
  EXPECT_EQ(statistics().live, 0);
  for (int i = 0; i < 3; ++i) {
    Give("work");
    Coordinate();
    Step(3);
    EXPECT_EQ(statistics().idle, 1);
  }
  EXPECT_EQ(made(), 4);
}

TEST_F(TeamInHand, T4a_ShrinkMarksNobodyTwice) {
  Make();
  Give(4);
  Coordinate();
  EXPECT_TRUE(team_->Shrink(3).ok());
  EXPECT_TRUE(team_->Shrink(3).ok());  // one is left to be marked
  Coordinate();
  StepToTheEnd();
  EXPECT_EQ(statistics().live, 0);
  Give("work");
  StepToTheEnd();
  EXPECT_EQ(statistics().idle, 1);
}

// However they are spread over the coordinator's looks.
TEST_F(TeamInHand, T4a_GrowsAndShrinksInOneLookAddUp) {
  Make();
  EXPECT_TRUE(team_->Grow(2).ok());
  EXPECT_TRUE(team_->Grow(3).ok());
  Coordinate();
  EXPECT_EQ(statistics().idle, 5);
  EXPECT_TRUE(team_->Grow(4).ok());
  EXPECT_TRUE(team_->Shrink(3).ok());
  StepToTheEnd();
  EXPECT_EQ(statistics().idle, 6);
  EXPECT_TRUE(team_->Grow(4).ok());
  EXPECT_TRUE(team_->SetSize(0, 2).ok());
  StepToTheEnd();
  EXPECT_EQ(statistics().idle, 2);
  EXPECT_TRUE(team_->SetSize(5, 5).ok());
  EXPECT_TRUE(team_->SetSize(5, 5).ok());
  EXPECT_TRUE(team_->Shrink().ok());
  EXPECT_TRUE(team_->SetSize(3, 4).ok());
  StepToTheEnd();
  EXPECT_EQ(statistics().idle, 3);
}

TEST_F(TeamInHand, T4a_ALongGrowCanBeShrunk) {
  Make();
  EXPECT_TRUE(team_->Grow(100).ok());
  EXPECT_TRUE(team_->Shrink().ok());
  StepToTheEnd();
  EXPECT_EQ(statistics().live, 0);
  EXPECT_TRUE(team_->Grow(100).ok());
  StepToTheEnd();
  EXPECT_EQ(statistics().idle, 100);
}

// What the hard limit did not allow is not made up for when somebody goes.
TEST_F(TeamInHand, T4a_GrowKeepsNoDebt) {
  TeamLimits limits;
  limits.hard_limit = 4;
  Make(std::move(limits));
  EXPECT_TRUE(team_->Grow(2).ok());
  Coordinate();
  Give(4);
  EXPECT_TRUE(team_->Grow(2).ok());
  Coordinate();
  EXPECT_EQ(statistics().busy, 4);
  EXPECT_TRUE(team_->Shrink(2).ok());
  StepToTheEnd();
  EXPECT_EQ(statistics().live, 2);
  EXPECT_EQ(made(), 4);
}

// T4 b: the same size wished for twice while all are busy. In the original nobody is left.
TEST_F(TeamInHand, T4b_ToFitTwiceIsToFitOnce) {
  Make();
  Give(10);
  Coordinate();
  EXPECT_TRUE(team_->SetSize(5, 5).ok());
  EXPECT_TRUE(team_->SetSize(5, 5).ok());
  Coordinate();
  EXPECT_TRUE(team_->SetSize(5, 5).ok());
  StepToTheEnd();
  EXPECT_EQ(made(), 10);
  EXPECT_EQ(statistics().live, 5);
  EXPECT_EQ(statistics().idle, 5);
}

// T4 c: to shrink and grow back is to do nothing.
TEST_F(TeamInHand, T4c_GrowTakesMarksBack) {
  Make();
  Give(10);
  Coordinate();
  EXPECT_TRUE(team_->Shrink(9).ok());
  Coordinate();
  EXPECT_TRUE(team_->Grow(9).ok());
  StepToTheEnd();
  EXPECT_EQ(made(), 10);
  EXPECT_EQ(statistics().idle, 10);
}

TEST_F(TeamInHand, T4c_GrowTakesMarksBackAndMakesTheRest) {
  Make();
  Give(2);
  Coordinate();
  EXPECT_TRUE(team_->Shrink(2).ok());
  EXPECT_TRUE(team_->Grow(3).ok());
  Coordinate();
  EXPECT_EQ(made(), 3);
  StepToTheEnd();
  EXPECT_EQ(statistics().idle, 3);
}

// T4 d: with a standing backlog the original never shrinks.
TEST_F(TeamInHand, T4d_ShrinkTakesEffectAtTheNextEndOfAWorkDespiteTheBacklog) {
  soft_limit_ = 10;
  Make(Soft());
  Give(100);
  Coordinate();
  EXPECT_EQ(made(), 10);
  SetSoftLimit(1);  // releases nine
  Coordinate();
  StepEach();
  EXPECT_EQ(log_.size(), 10u);
  EXPECT_EQ(statistics().ending, 9);
  EXPECT_EQ(statistics().busy, 1);
  StepToTheEnd();
  EXPECT_EQ(made(), 10);
  EXPECT_EQ(log_.size(), 100u);
  EXPECT_EQ(statistics().live, 1);
}

// T9: which worker is taken, and which one goes, is arbitrary in the original.
TEST_F(TeamInHand, T9_TheLastIdleIsUsedFirst) {
  Make();
  EXPECT_TRUE(team_->Grow(3).ok());
  Coordinate();
  Give(2);
  Coordinate();
  EXPECT_EQ(queued(2), 1u);
  EXPECT_EQ(queued(1), 1u);
  EXPECT_EQ(queued(0), 0u);
  Step(2);
  Step(1);  // the last one
  Give("next");
  Coordinate();
  EXPECT_EQ(queued(1), 1u);
  Step(1);
  EXPECT_EQ(made(), 3);
}

TEST_F(TeamInHand, T9_TheLongestIdleIsReleasedFirst) {
  Make();
  EXPECT_TRUE(team_->Grow(3).ok());
  Coordinate();
  Give(2);  // to 2 and 1
  Coordinate();
  Step(2);
  Step(1);
  for (int next : {0, 2, 1}) {
    EXPECT_TRUE(team_->Shrink(1).ok());
    Coordinate();
    EXPECT_EQ(queued(next), 1u);
    Step(next);
  }
  EXPECT_EQ(ended(), 3);
}

// T13: a negative number is taken without a word in the original.
TEST_F(TeamInHand, T13_ANegativeNumberIsInvalidArgument) {
  Make();
  EXPECT_TRUE(absl::IsInvalidArgument(team_->Grow(-1)));
  EXPECT_TRUE(absl::IsInvalidArgument(team_->Shrink(-1)));
  EXPECT_TRUE(absl::IsInvalidArgument(team_->SetSize(-1, 1)));
  EXPECT_TRUE(absl::IsInvalidArgument(team_->SetSize(2, 1)));
  EXPECT_TRUE(team_->Grow(0).ok());
  EXPECT_TRUE(team_->Shrink(0).ok());
  EXPECT_TRUE(team_->SetSize(0, 0).ok());
  Coordinate();
  EXPECT_EQ(made(), 0);
}

TEST_F(TeamInHand, BeforeTheCoordinatorIsSteppedNothingHappens) {
  TeamLimits limits = Soft();
  limits.min_workers = 2;
  Make(std::move(limits));
  Give(3);
  EXPECT_TRUE(team_->Grow(3).ok());
  team_->Grow(0).IgnoreError();
  EXPECT_TRUE(team_->Shrink().ok());
  EXPECT_TRUE(team_->Quit().ok());
  EXPECT_EQ(made(), 0);
  EXPECT_EQ(statistics().live, 0);
  EXPECT_EQ(statistics().backlogged, 3);
}

TEST_F(TeamInHand, WithoutALimitEachWorkThatWaitsGetsAWorker) {
  Make();
  Give(7);
  Coordinate();
  EXPECT_EQ(made(), 7);
}

TEST_F(TeamInHand, WorkersUpToTheSoftLimitAreMadeAtOnce) {
  soft_limit_ = 3;
  Make(Soft());
  Give(2);
  Coordinate();
  EXPECT_EQ(made(), 2);
  Give(5);
  Coordinate();
  EXPECT_EQ(made(), 3);
  EXPECT_EQ(statistics().backlogged, 4);
  Advance(absl::Hours(1));
  EXPECT_EQ(made(), 3);
}

// The idle take the work, and nobody is made for what somebody who is being made will take.
TEST_F(TeamInHand, NoMoreWorkersAreMadeThanWorksWait) {
  Make();
  EXPECT_TRUE(team_->Grow(2).ok());
  Coordinate();
  Give(3);
  Coordinate();
  EXPECT_EQ(made(), 3);
  EXPECT_TRUE(team_->Grow(1).ok());
  EXPECT_EQ((*coordinator_)(), Performed::kRan);
  EXPECT_EQ(made(), 4);
  Give("for the worker that has just been created");
  Coordinate();
  EXPECT_EQ(made(), 4);
}

TEST_F(TeamInHand, BeyondTheSoftLimitOneWorkerIsMadeEachIntervalWhileWorkWaits) {
  TeamLimits limits = Soft();
  limits.growth_per_second = 2;
  limits.hard_limit = 3;
  Make(std::move(limits));
  Give(10);
  Coordinate();
  EXPECT_EQ(made(), 1);
  Advance(absl::Milliseconds(499));
  EXPECT_EQ(made(), 1);
  Advance(absl::Milliseconds(1));
  EXPECT_EQ(made(), 2);
  Advance(absl::Milliseconds(499));
  EXPECT_EQ(made(), 2);
  Advance(absl::Milliseconds(1));
  EXPECT_EQ(made(), 3);
  Advance(absl::Hours(1));
  EXPECT_EQ(made(), 3);  // the hard limit
  StepToTheEnd();
  EXPECT_EQ(log_.size(), 10u);
}

TEST_F(TeamInHand, GrowthEndsWithTheBacklogAndBeginsAnew) {
  TeamLimits limits = Soft();
  limits.growth_per_second = 1;
  Make(std::move(limits));
  Give(2);
  Coordinate();
  Advance(absl::Milliseconds(900));
  Step(0);  // takes the second
  EXPECT_EQ(statistics().backlogged, 0);
  Advance(absl::Seconds(10));
  EXPECT_EQ(made(), 1);
  Give("waits");
  Coordinate();
  Advance(absl::Milliseconds(999));
  EXPECT_EQ(made(), 1);
  Advance(absl::Milliseconds(1));
  EXPECT_EQ(made(), 2);
}

// What could not be made in time is not made up for: the rate holds.
TEST_F(TeamInHand, AfterAPauseGrowthGoesOnAtItsRate) {
  TeamLimits limits = Soft();
  limits.growth_per_second = 1;
  Make(std::move(limits));
  Give(20);
  Coordinate();
  EXPECT_EQ(made(), 1);
  create_ = []() -> Made { return nullptr; };
  for (int i = 0; i < 10; ++i) Advance(absl::Seconds(1));
  EXPECT_EQ(made(), 1);
  create_ = [this] { return CreateMemory(); };
  Advance(absl::Seconds(1));
  EXPECT_LE(made(), 2);
  Advance(absl::Seconds(1));
  EXPECT_LE(made(), 3);
  Advance(absl::Seconds(2));
  EXPECT_LE(made(), 5);
  EXPECT_GE(made(), 3);
}

TEST_F(TeamInHand, AfterAPauseAtTheHardLimitGrowthGoesOnAtItsRate) {
  TeamLimits limits = Soft();
  limits.growth_per_second = 1;
  limits.hard_limit = 4;
  Make(std::move(limits));
  Give(50);
  Coordinate();
  Advance(absl::Seconds(1));
  Advance(absl::Seconds(1));
  Advance(absl::Seconds(1));
  Advance(absl::Seconds(100));
  EXPECT_EQ(made(), 4);
  EXPECT_TRUE(team_->Shrink(3).ok());
  Coordinate();
  StepEach();
  StepEach();  // three have ended
  EXPECT_LE(made(), 5);
  Advance(absl::Seconds(1));
  EXPECT_LE(made(), 6);
}

TEST_F(TeamInHand, TheHardLimitHoldsWhateverElseSays) {
  TeamLimits limits;
  limits.hard_limit = 2;
  limits.min_workers = 2;
  limits.growth_per_second = 1000;
  Make(std::move(limits));
  EXPECT_TRUE(team_->Grow(10).ok());
  Give(10);
  Coordinate();
  Advance(absl::Seconds(1));
  EXPECT_EQ(made(), 2);
  EXPECT_EQ(statistics().live, 2);
}

// Who is leaving counts until the last work has run.
TEST_F(TeamInHand, TheHardLimitCountsWhoIsLeaving) {
  TeamLimits limits;
  limits.hard_limit = 1;
  Make(std::move(limits));
  EXPECT_TRUE(team_->Grow(1).ok());
  Coordinate();
  EXPECT_TRUE(team_->Shrink(1).ok());
  Give("work");
  Coordinate();
  EXPECT_EQ(statistics().ending, 1);
  EXPECT_EQ(statistics().backlogged, 1);
  EXPECT_EQ(made(), 1);
  Step(0);
  EXPECT_EQ(made(), 2);
  Step(1);
  EXPECT_THAT(log_, testing::ElementsAre("work"));
}

TEST_F(TeamInHand, TheIdleAreReleasedByAgeAndNeverBelowTheMinimum) {
  TeamLimits limits;
  limits.min_workers = 1;
  limits.idle_timeout = absl::Seconds(10);
  Make(std::move(limits));
  Coordinate();  // worker 0, at 0 s
  EXPECT_EQ(made(), 1);
  Advance(absl::Seconds(4));
  EXPECT_TRUE(team_->Grow(1).ok());
  Coordinate();  // worker 1, at 4 s
  Advance(absl::Seconds(2));
  EXPECT_TRUE(team_->Grow(1).ok());
  Coordinate();  // worker 2, at 6 s
  EXPECT_EQ(statistics().idle, 3);
  Advance(absl::Seconds(3));
  EXPECT_EQ(statistics().idle, 3);  // 9 s
  Advance(absl::Seconds(1));
  EXPECT_EQ(statistics().idle, 2);  // 10 s
  EXPECT_EQ(queued(0), 1u);
  Advance(absl::Seconds(3));
  EXPECT_EQ(statistics().idle, 2);  // 13 s
  Advance(absl::Seconds(1));
  EXPECT_EQ(statistics().idle, 1);  // 14 s
  EXPECT_EQ(queued(1), 1u);
  Advance(absl::Hours(1));
  EXPECT_EQ(statistics().idle, 1);
  EXPECT_EQ(queued(2), 0u);
  EXPECT_EQ(made(), 3);
  StepEach();
  EXPECT_EQ(statistics().live, 1);
}

TEST_F(TeamInHand, AWorkerThatIsUsedIsYoungAgain) {
  TeamLimits limits;
  limits.idle_timeout = absl::Seconds(10);
  Make(std::move(limits));
  EXPECT_TRUE(team_->Grow(1).ok());
  Coordinate();
  for (int i = 0; i < 3; ++i) {
    Advance(absl::Seconds(9));
    EXPECT_EQ(statistics().idle, 1);
    Give("work");
    Coordinate();
    Advance(absl::Seconds(20));  // nobody is idle
    EXPECT_EQ(statistics().busy, 1);
    Step(0);
    EXPECT_EQ(statistics().idle, 1);
  }
  Advance(absl::Seconds(10));
  EXPECT_EQ(statistics().idle, 0);
  StepEach();
  EXPECT_EQ(statistics().live, 0);
  EXPECT_EQ(clock_.pending(), 0u);  // nobody is left to be released
}

TEST_F(TeamInHand, TheMinimumIsMadeEarlyWhateverTheSoftLimit) {
  soft_limit_ = 0;
  TeamLimits limits = Soft();
  limits.min_workers = 3;
  Make(std::move(limits));
  EXPECT_EQ(made(), 0);
  Coordinate();
  EXPECT_EQ(made(), 3);
  EXPECT_EQ(statistics().idle, 3);
}

TEST_F(TeamInHand, TheMinimumIsTriedAgain) {
  TeamLimits limits;
  limits.min_workers = 2;
  int tried = 0;
  create_ = [&]() -> Made {
    ++tried;
    return absl::ResourceExhaustedError("no thread left");
  };
  Make(std::move(limits));
  Coordinate();
  EXPECT_GE(tried, 1);
  create_ = [this] { return CreateMemory(); };
  Advance(absl::Seconds(1));
  EXPECT_EQ(statistics().idle, 2);
}

TEST_F(TeamInHand, FitShrinksOrGrowsInOneDecision) {
  Make();
  EXPECT_TRUE(team_->SetSize(2, 4).ok());
  Coordinate();
  EXPECT_EQ(statistics().idle, 2);
  EXPECT_TRUE(team_->SetSize(0, 4).ok());
  Coordinate();
  EXPECT_EQ(statistics().idle, 2);
  EXPECT_TRUE(team_->SetSize(6, 6).ok());
  Coordinate();
  EXPECT_EQ(statistics().idle, 6);
  EXPECT_TRUE(team_->SetSize(1, 3).ok());
  StepToTheEnd();
  EXPECT_EQ(statistics().live, 3);
  Give(3);
  Coordinate();
  EXPECT_TRUE(team_->SetSize(0, 0).ok());  // marks all
  EXPECT_TRUE(team_->SetSize(2, 2).ok());  // takes two back
  StepToTheEnd();
  EXPECT_EQ(statistics().live, 2);
  EXPECT_EQ(made(), 6);
}

}  // namespace
}  // namespace workers
