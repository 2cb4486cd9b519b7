// Workers that cannot be created, and clocks that refuse.

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/workers/team_in_hand.h"
#include "workers/clock.h"
#include "workers/memory_worker.h"
#include "workers/team.h"
#include "workers/worker.h"

namespace workers {
namespace {

// T7: a worker that refuses leaks itself and loses the work in the original.
TEST_F(TeamInHand, T7_AWorkerThatHasQuitOnItsOwnIsReplacedAndItsWorkGoesToTheHead) {
  Make(Soft());
  Give("before");
  StepToTheEnd();
  workers_[0].reset();
  for (const char* work : {"t0", "t1", "t2"}) Give(work);
  Coordinate();
  EXPECT_THAT(errors_, testing::ElementsAre("team: worker has already quit 0"));
  EXPECT_EQ(made(), 2);
  EXPECT_EQ(statistics().live, 1);
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("before", "t0", "t1", "t2"));
  EXPECT_EQ(statistics().accepted, 4);
  EXPECT_EQ(statistics().dropped, 0);
}

// There need not be another event.
TEST_F(TeamInHand, T7_AWorkerThatHasQuitAfterSomeWorkIsReplacedWithoutAClockToo) {
  MakeWith({}, /*clock=*/nullptr);
  Give("before");
  StepToTheEnd();
  workers_[0].reset();
  Give("after");
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("before", "after"));
  EXPECT_EQ(made(), 2);
}

TEST_F(TeamInHand, T7_ManyThatHaveQuitAfterSomeWorkAreReplacedWithoutAClockToo) {
  MakeWith({}, /*clock=*/nullptr);
  Give(3);
  StepToTheEnd();
  for (int i = 0; i < 3; ++i) workers_[i].reset();
  Give("after");
  StepToTheEnd();
  ASSERT_EQ(log_.size(), 4u);
  EXPECT_EQ(log_.back(), "after");
  EXPECT_EQ(made(), 4);
  EXPECT_EQ(statistics().live, 1);
}

TEST_F(TeamInHand, T7_TwoThatHaveQuitOnTheirOwnKeepTheOrder) {
  soft_limit_ = 0;
  Make(Soft());
  EXPECT_TRUE(team_->Grow(2).ok());
  Coordinate();
  workers_[0].reset();
  workers_[1].reset();
  for (const char* work : {"t0", "t1", "t2"}) Give(work);
  Coordinate();
  EXPECT_EQ(statistics().live, 0);
  EXPECT_EQ(statistics().backlogged, 3);
  SetSoftLimit(1);
  team_->Grow(0).IgnoreError();
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("t0", "t1", "t2"));
}

// A worker that quits on its own but is told to go anyway: its end is counted.
TEST_F(TeamInHand, T7_AWorkerThatHasQuitOnItsOwnCanBeLetGo) {
  Make();
  EXPECT_TRUE(team_->Grow(2).ok());
  Coordinate();
  workers_[0].reset();
  EXPECT_TRUE(team_->Shrink().ok());
  StepToTheEnd();
  EXPECT_EQ(statistics().live, 0);
  EXPECT_THAT(errors_, testing::IsEmpty());
}

// No worker that is made can do anything: this is a failure, and not to be tried in a circle.
TEST_F(TeamInHand, T7_WorkersThatAreBornDeadAreNotMadeInACircle) {
  Make();
  int born = 0;
  create_ = [&]() -> Made {
    ++born;
    return std::move(CreateMemoryWorker("dead").worker);  // nobody steps it
  };
  Give("work");
  for (int i = 0; i < 1000; ++i) (*coordinator_)();
  EXPECT_LE(born, 2);
  create_ = [this] { return CreateMemory(); };
  Advance(absl::Seconds(1));
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work"));
}

TEST_F(TeamInHand, AFailedCreationIsReportedAndKeepsTheWork) {
  Make();
  create_ = [] { return absl::ResourceExhaustedError("no thread left"); };
  Give("work");
  Coordinate();
  EXPECT_THAT(errors_, testing::ElementsAre("team: no thread left 0"));
  EXPECT_EQ(statistics().creation_failures, 1);
  EXPECT_EQ(statistics().live, 0);
  EXPECT_EQ(statistics().backlogged, 1);
  create_ = [this] { return CreateMemory(); };
  Advance(absl::Milliseconds(9));
  EXPECT_EQ(made(), 0);
  Advance(absl::Milliseconds(1));
  EXPECT_EQ(made(), 1);
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work"));
}

TEST_F(TeamInHand, AFailedCreationIsTriedAgainAfterADelayThatDoublesUpToASecond) {
  Make();
  std::vector<int64_t> tried;
  create_ = [&]() -> Made {
    tried.push_back(absl::ToInt64Milliseconds(clock_.Now()));
    return absl::ResourceExhaustedError("no thread left");
  };
  Give("work");
  Coordinate();
  for (int i = 0; i < 3500; ++i) Advance(absl::Milliseconds(1));
  EXPECT_THAT(tried, testing::ElementsAre(0, 10, 30, 70, 150, 310, 630, 1270, 2270, 3270));
  EXPECT_EQ(statistics().creation_failures, 10);
  // Success, and the delay is short again.
  create_ = [this] { return CreateMemory(); };
  Advance(absl::Milliseconds(770));
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work"));
  EXPECT_TRUE(team_->Shrink().ok());
  StepToTheEnd();
  tried.clear();
  create_ = [&]() -> Made {
    tried.push_back(absl::ToInt64Milliseconds(clock_.Now()));
    return nullptr;
  };
  Give("work");
  Coordinate();
  for (int i = 0; i < 50; ++i) Advance(absl::Milliseconds(1));
  EXPECT_THAT(tried, testing::ElementsAre(4270, 4280, 4300));
  End();
}

TEST_F(TeamInHand, AFailedCreationIsTriedAgainAtTheNextEvent) {
  MakeWith({}, /*clock=*/nullptr);
  int tried = 0;
  create_ = [&]() -> Made {
    ++tried;
    return absl::ResourceExhaustedError("no thread left");
  };
  Give("first");
  Coordinate();
  EXPECT_EQ(tried, 1);  // and not round and round
  team_->Grow(0).IgnoreError();
  Coordinate();
  EXPECT_EQ(tried, 2);
  create_ = [this] { return CreateMemory(); };
  Give("second");
  StepToTheEnd();
  EXPECT_THAT(log_, testing::UnorderedElementsAre("first", "second"));
}

TEST_F(TeamInHand, NotNowKeepsTheWorkAndIsNoError) {
  Make();
  bool now = false;
  create_ = [&]() -> Made { return now ? CreateMemory() : nullptr; };
  Give("work");
  Coordinate();
  EXPECT_EQ(statistics().backlogged, 1);
  EXPECT_EQ(statistics().live, 0);
  now = true;
  team_->Grow(0).IgnoreError();
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work"));
  EXPECT_EQ(statistics().creation_failures, 0);
  EXPECT_THAT(errors_, testing::IsEmpty());
}

TEST_F(TeamInHand, ACreateWorkerThatThrowsHasFailed) {
  Make();
  create_ = []() -> Made { throw std::runtime_error("boom"); };
  Give("work");
  Coordinate();
  EXPECT_THAT(errors_, testing::ElementsAre("team: std::runtime_error: boom 0"));
  EXPECT_EQ(statistics().creation_failures, 1);
  EXPECT_EQ(statistics().backlogged, 1);
  create_ = [this] { return CreateMemory(); };
  Advance(absl::Milliseconds(10));
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work"));
}

// What keeps workers from being made keeps the timer's thread from it, too.
TEST_F(TeamInHand, AClockThatRefusesIsReportedAndAskedAgain) {
  RefusingClock clock;
  MakeWith({}, &clock);
  create_ = [] { return absl::ResourceExhaustedError("no thread left"); };
  Give("work");
  Coordinate();
  EXPECT_THAT(errors_,
              testing::ElementsAre("team: no thread left 0", "team: no thread for the timer 0"));
  clock.refuse = false;
  team_->Grow(0).IgnoreError();  // tries, fails again, and needs the clock
  Coordinate();
  EXPECT_EQ(clock.inner.pending(), 1u);
  create_ = [this] { return CreateMemory(); };
  clock.inner.Advance(absl::Seconds(1));
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work"));
  End();
}

TEST_F(TeamInHand, AClockThatRefusesForATimeDoesNotKeepTheIdleForEver) {
  RefusingClock clock;
  TeamLimits limits;
  limits.idle_timeout = absl::Seconds(10);
  MakeWith(std::move(limits), &clock);
  EXPECT_TRUE(team_->Grow(1).ok());
  Coordinate();
  clock.refuse = false;
  Give("work");
  Coordinate();
  Step(0);
  clock.inner.Advance(absl::Seconds(10));
  StepToTheEnd();
  EXPECT_EQ(statistics().live, 0);
  End();
}

// A worker of the user's: its functions throw when the test says so.
class ThrowingWorker final : public IWorker {
 public:
  struct Faults {
    int do_throws = 0;  // so many times
    bool quit_throws = false;
  };
  ThrowingWorker(std::unique_ptr<IWorker> inner, Faults& faults)
      : inner_(std::move(inner)), faults_(faults) {}
  absl::Status Do(Work&& work) override {
    if (faults_.do_throws > 0) {
      --faults_.do_throws;
      throw std::runtime_error("Do");
    }
    return inner_->Do(std::move(work));
  }
  absl::Status Quit() override {
    if (faults_.quit_throws) throw std::runtime_error("Quit");
    return inner_->Quit();
  }

 private:
  const std::unique_ptr<IWorker> inner_;
  Faults& faults_;
};

// FAULTS A5: what a worker throws is reported; the team goes on, and ends.
TEST_F(TeamInHand, AWorkerThatThrowsIsReportedAndTheTeamGoesOnAndEnds) {
  for (const bool is_inline : {false, true}) {
    ThrowingWorker::Faults faults = {.do_throws = 1, .quit_throws = true};
    create_ = [&]() -> Made {
      Made made = CreateMemory();
      return std::make_unique<ThrowingWorker>(*std::move(made), faults);
    };
    if (is_inline) {
      coordinator_.reset();
      MakeInline();
    } else {
      Make();
    }
    log_.clear();
    errors_.clear();
    Give(3);
    StepToTheEnd();
    EXPECT_EQ(log_.size(), 3u);
    EXPECT_THAT(errors_, testing::Contains(testing::HasSubstr("runtime_error: Do")));
    EXPECT_EQ(statistics().completed, 3);
    EXPECT_TRUE(team_->Quit().ok());
    StepToTheEnd();
    EXPECT_THAT(errors_, testing::Contains(testing::HasSubstr("runtime_error: Quit")));
    EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
    team_ = nullptr;
  }
}

// A clock of the user's that throws at every call.
class ThrowingClock final : public Clock {
 public:
  absl::Duration Now() const override { throw std::runtime_error("Now"); }
  absl::Status RunAt(absl::Duration, Work&&) override { throw std::runtime_error("RunAt"); }
};

TEST_F(TeamInHand, AClockThatThrowsIsReportedAndTheTeamGoesOnAndEnds) {
  ThrowingClock clock;
  TeamLimits limits;
  limits.idle_timeout = absl::Seconds(1);
  limits.stall_warning = absl::Seconds(1);
  MakeWith(std::move(limits), &clock);
  Give(3);
  StepToTheEnd();
  EXPECT_EQ(log_.size(), 3u);
  EXPECT_THAT(errors_, testing::Contains(testing::HasSubstr("runtime_error: Now")));
  EXPECT_THAT(errors_, testing::Contains(testing::HasSubstr("runtime_error: RunAt")));
  EXPECT_TRUE(team_->Quit().ok());
  StepToTheEnd();
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
  End();
}

// FAULTS A7: the handler is called under no lock, also where the coordinator is gone.
TEST_F(TeamInHand, TheHandlerMayCallTheTeamWhereTheCoordinatorIsGone) {
  int64_t reports = 0;
  record_ = [&](const ErrorReport&) {
    ++reports;
    team_->QuitNow();
    team_->statistics();
    team_->Grow(1).IgnoreError();
  };
  soft_limit_ = 0;
  Make(Soft());
  Give(2);
  coordinator_.reset();  // drops its step
  EXPECT_EQ(reports, 1);
  EXPECT_EQ(statistics().dropped, 2);
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
  End();
}

// FAULTS A13: an item waits at a coordinator that has not decided yet.
TEST_F(TeamInHand, OldestWaitCountsBeforeTheFirstDecision) {
  Make();
  Coordinate();
  Give("work");
  clock_.Advance(absl::Seconds(100));
  EXPECT_EQ(statistics().oldest_wait, absl::Seconds(100));
  StepToTheEnd();
}

// on_ended runs once, under no lock, and may destroy the team.
TEST(Team, OnEndedRunsOnceAndMayDestroyTheTeam) {
  std::unique_ptr<Team> team;
  int ended = 0;
  MemoryWorker coordinator = CreateMemoryWorker();
  team = *Team::Create({.coordinator = std::move(coordinator.worker),
                        .create_worker = []() -> Made { return nullptr; },
                        .on_ended =
                            [&] {
                              ++ended;
                              team = nullptr;
                            }});
  while (coordinator.performer() == Performed::kRan) {
  }
  EXPECT_TRUE(team->Quit().ok());
  EXPECT_EQ(ended, 0);
  while (coordinator.performer() == Performed::kRan) {
  }
  EXPECT_EQ(ended, 1);
  EXPECT_EQ(team, nullptr);
}

}  // namespace
}  // namespace workers
