// What a Team does with an item.

#include "workers/team.h"

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/workers/team_in_hand.h"
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/testing/gate.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace workers {
namespace {

// test_doDoesWorkInWorker
TEST_F(TeamInHand, DoDoesWorkInAWorker) {
  Make();
  Coordinate();
  ASSERT_TRUE(team_
                  ->Do([this] {
                    log_.push_back("work");
                    EXPECT_EQ(statistics().busy, 1);
                    EXPECT_TRUE(WorkerScope::RunsIn(*team_));
                  })
                  .ok());
  EXPECT_EQ(made(), 0);  // the coordinator has not been stepped
  EXPECT_EQ((*coordinator_)(), Performed::kRan);
  EXPECT_EQ(made(), 1);
  EXPECT_EQ(statistics().idle, 1);  // until the next decision
  EXPECT_EQ(statistics().backlogged, 1);
  EXPECT_EQ((*coordinator_)(), Performed::kRan);
  EXPECT_EQ(statistics().busy, 1);
  EXPECT_THAT(log_, testing::IsEmpty());
  EXPECT_EQ((*workers_[0])(), Performed::kRan);
  EXPECT_THAT(log_, testing::ElementsAre("work"));
  EXPECT_EQ(statistics().busy, 0);
  EXPECT_EQ(statistics().idle, 1);
  EXPECT_EQ((*coordinator_)(), Performed::kIdle);
}

// test_initialStatistics
TEST_F(TeamInHand, TheFirstStatisticsAreZero) {
  Make();
  for (int look = 0; look < 2; ++look) {
    const TeamStatistics s = statistics();
    EXPECT_EQ(s.live, 0);
    EXPECT_EQ(s.blocked, 0);
    EXPECT_EQ(s.backlogged, 0);
    EXPECT_EQ(s.accepted, 0);
    EXPECT_EQ(s.completed + s.failed + s.dropped + s.refused, 0);
    EXPECT_EQ(s.workers_created + s.creation_failures, 0);
    EXPECT_EQ(s.oldest_wait, absl::ZeroDuration());
    Coordinate();
  }
}

// test_growCreatesIdleWorkers
TEST_F(TeamInHand, GrowMakesIdleWorkers) {
  Make();
  EXPECT_TRUE(team_->Grow(5).ok());
  EXPECT_EQ(made(), 0);
  Coordinate();
  EXPECT_EQ(made(), 5);
  EXPECT_EQ(statistics().idle, 5);
  EXPECT_EQ(statistics().workers_created, 5);
}

// test_growCreateLimit
TEST_F(TeamInHand, GrowStopsWhereNoWorkerCanBeMade) {
  Make();
  create_ = [this] { return CreateUpTo(3); };
  EXPECT_TRUE(team_->Grow(5).ok());
  Coordinate();
  EXPECT_EQ(made(), 3);
  EXPECT_EQ(statistics().idle, 3);
  EXPECT_EQ(statistics().live, 3);
  EXPECT_EQ(statistics().creation_failures, 0);  // "not now" is none
  EXPECT_THAT(errors_, testing::IsEmpty());
}

// test_shrinkQuitsWorkers
TEST_F(TeamInHand, ShrinkLetsWorkersGo) {
  Make();
  EXPECT_TRUE(team_->Grow(5).ok());
  Coordinate();
  EXPECT_TRUE(team_->Shrink(3).ok());
  Coordinate();
  EXPECT_EQ(statistics().idle, 2);
  EXPECT_EQ(statistics().ending, 3);  // each has its last work
  EXPECT_EQ(ended(), 0);
  StepEach();
  EXPECT_EQ(ended(), 3);
  EXPECT_EQ(statistics().live, 2);
  EXPECT_EQ(statistics().idle, 2);
}

// test_shrinkToZero
TEST_F(TeamInHand, ShrinkLetsAllGoOnceTheCoordinatorHasRun) {
  Make();
  EXPECT_TRUE(team_->Grow(10).ok());
  Coordinate();
  EXPECT_EQ(made(), 10);
  EXPECT_TRUE(team_->Shrink().ok());
  EXPECT_EQ(statistics().idle, 10);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(queued(i), 0u);
  Coordinate();
  EXPECT_EQ(statistics().ending, 10);
  StepEach();
  EXPECT_EQ(ended(), 10);
  EXPECT_EQ(statistics().live, 0);
}

// test_moreWorkWhenNoWorkersAvailable
TEST_F(TeamInHand, WorkWaitsWhereNoWorkerIsAvailable) {
  Make();
  create_ = [this] { return CreateUpTo(3); };
  Give(3);
  Coordinate();
  EXPECT_EQ(made(), 3);
  EXPECT_EQ(statistics().backlogged, 0);
  Give("more");
  Coordinate();
  EXPECT_EQ(statistics().backlogged, 1);
  EXPECT_EQ(made(), 3);
  StepToTheEnd();
  EXPECT_EQ(log_.size(), 4u);
  EXPECT_EQ(log_.back(), "more");
  EXPECT_EQ(statistics().backlogged, 0);
  EXPECT_EQ(statistics().completed, 4);
}

// test_exceptionInTask
TEST_F(TeamInHand, AWorkThatThrowsIsReportedOnce) {
  std::vector<ErrorReport> reports;
  record_ = [&](const ErrorReport& report) {
    EXPECT_EQ(report.worker, "team");
    ASSERT_TRUE(report.exception != nullptr);
    EXPECT_THROW(std::rethrow_exception(report.exception), std::runtime_error);
    reports.push_back(report);
  };
  Make();
  ASSERT_TRUE(team_->Do([] { throw std::runtime_error("boom"); }).ok());
  Give("next");
  StepToTheEnd();
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_EQ(reports[0].status, absl::UnknownError("std::runtime_error: boom"));
  EXPECT_EQ(reports[0].dropped, 0);
  EXPECT_THAT(log_, testing::ElementsAre("next"));
  EXPECT_EQ(statistics().failed, 1);
  EXPECT_EQ(statistics().completed, 1);
  EXPECT_EQ(statistics().busy, 0);
}

// test_quit
TEST_F(TeamInHand, AfterQuitQuitAndDoAreAlreadyQuit) {
  Make();
  EXPECT_TRUE(team_->Quit().ok());
  EXPECT_TRUE(IsAlreadyQuit(team_->Quit()));
  Work work = Logging("refused");
  const absl::Status refused = team_->Do(std::move(work));
  EXPECT_TRUE(IsAlreadyQuit(refused));
  EXPECT_EQ(refused.message(), "team has already quit");
  EXPECT_TRUE(work != nullptr);
  EXPECT_TRUE(IsAlreadyQuit(team_->Grow(1)));
  EXPECT_TRUE(IsAlreadyQuit(team_->Shrink(1)));
  EXPECT_TRUE(IsAlreadyQuit(team_->Shrink()));
  EXPECT_TRUE(IsAlreadyQuit(team_->SetSize(0, 1)));
  StepToTheEnd();
  EXPECT_TRUE(IsAlreadyQuit(team_->Quit()));
  EXPECT_TRUE(IsAlreadyQuit(team_->Do(std::move(work))));
  EXPECT_TRUE(work != nullptr);
  EXPECT_EQ(statistics().refused, 2);
  EXPECT_THAT(log_, testing::IsEmpty());
}

// test_quitQuits
TEST_F(TeamInHand, QuitEndsAllIdleWorkersThenTheCoordinator) {
  Make();
  EXPECT_TRUE(team_->Grow(5).ok());
  Coordinate();
  EXPECT_TRUE(team_->Quit().ok());
  EXPECT_EQ(statistics().ending, 0);
  Coordinate();
  EXPECT_EQ(statistics().ending, 5);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ((*coordinator_)(), Performed::kIdle);  // it waits for the last
    Step(i);
  }
  EXPECT_EQ(ended(), 5);
  EXPECT_EQ(statistics().live, 0);
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
}

// test_quitQuitsLaterWhenBusy
TEST_F(TeamInHand, QuitLetsTheBusyFinishAndTheCoordinatorGoesLast) {
  Make();
  EXPECT_TRUE(team_->Grow(10).ok());
  Coordinate();
  Give(5);
  Coordinate();
  EXPECT_EQ(statistics().busy, 5);
  EXPECT_TRUE(team_->Quit().ok());
  Coordinate();
  EXPECT_EQ(statistics().ending, 5);  // the idle ones
  EXPECT_EQ(statistics().busy, 5);
  EXPECT_THAT(log_, testing::IsEmpty());
  StepEach();
  EXPECT_EQ(log_.size(), 5u);
  EXPECT_EQ(ended(), 5);
  EXPECT_EQ(statistics().busy, 0);
  EXPECT_EQ(statistics().ending, 5);
  EXPECT_EQ((*coordinator_)(), Performed::kIdle);
  StepEach();
  EXPECT_EQ(ended(), 10);
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
}

// test_quitConcurrentWithWorkHappening
TEST_F(TeamInHand, AWorkThatEndsBetweenQuitAndTheCoordinatorsLookHurtsNothing) {
  Make();
  Give("work");
  Coordinate();
  EXPECT_TRUE(team_->Quit().ok());
  EXPECT_EQ((*workers_[0])(), Performed::kRan);
  EXPECT_THAT(log_, testing::ElementsAre("work"));
  Coordinate();
  EXPECT_EQ(statistics().ending, 1);
  Step(0);
  EXPECT_EQ(ended(), 1);
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
}

// test_shrinkWhenBusy
TEST_F(TeamInHand, ShrinkLetsBusyWorkersGoWhenTheirWorkHasEnded) {
  Make();
  Give(10);
  Coordinate();
  EXPECT_EQ(made(), 10);
  EXPECT_TRUE(team_->Shrink(7).ok());
  Coordinate();
  EXPECT_EQ(statistics().ending, 0);
  EXPECT_EQ(statistics().busy, 10);
  StepEach();
  EXPECT_EQ(log_.size(), 10u);
  EXPECT_EQ(statistics().ending, 7);
  EXPECT_EQ(statistics().idle, 3);
  StepEach();
  EXPECT_EQ(ended(), 7);
  EXPECT_EQ(statistics().live, 3);
}

// T3: in the original nobody looks at the backlog when a limit rises.
TEST_F(TeamInHand, T3_ARaisedLimitDispatchesTheBacklog) {
  soft_limit_ = 0;
  Make(Soft());
  Give(3);
  Coordinate();
  EXPECT_EQ(made(), 0);  // stuck for good in the original
  SetSoftLimit(2);
  EXPECT_EQ(made(), 0);
  Coordinate();
  EXPECT_EQ(made(), 2);
  EXPECT_EQ(statistics().backlogged, 1);
  SetSoftLimit(5);
  team_->Grow(0).IgnoreError();
  Coordinate();
  EXPECT_EQ(made(), 3);
  EXPECT_EQ(statistics().backlogged, 0);
  StepToTheEnd();
  EXPECT_THAT(log_, testing::UnorderedElementsAre("0", "1", "2"));
}

TEST_F(TeamInHand, T3_AnyEventDispatchesTheBacklog) {
  soft_limit_ = 0;
  Make(Soft());
  Give("first");
  Coordinate();
  SetSoftLimit(1);
  Give("second");
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("first", "second"));
}

TEST_F(TeamInHand, AGrowEndsWithItsFirstFailure) {
  Make();
  int tried = 0;
  create_ = [&]() -> Made {
    ++tried;
    return nullptr;
  };
  EXPECT_TRUE(team_->Grow(1'000'000'000).ok());
  Coordinate();
  EXPECT_LE(tried, 100);
  create_ = [this] { return CreateMemory(); };
  Advance(absl::Seconds(10));
  EXPECT_EQ(made(), 0);  // it has ended
  End();
}

TEST_F(TeamInHand, AStartingWorkerCanBeMarkedAndUnmarked) {
  MakeInline();
  create_ = [this] {
    if (made() == 0) {
      EXPECT_EQ(statistics().starting, 4);
      EXPECT_TRUE(team_->Shrink(3).ok());
      EXPECT_TRUE(team_->Grow(1).ok());
    }
    return CreateMemory();
  };
  EXPECT_TRUE(team_->Grow(4).ok());
  EXPECT_EQ(made(), 4);
  StepToTheEnd();
  EXPECT_EQ(statistics().live, 2);
}

// T5: in the original the newest work gets the worker that has just become possible.
TEST_F(TeamInHand, T5_TheBacklogIsFirstInFirstOut) {
  soft_limit_ = 0;
  Make(Soft());
  for (const char* work : {"t0", "t1", "t2", "t3"}) Give(work);
  Coordinate();
  SetSoftLimit(1);
  Give("t4");
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("t0", "t1", "t2", "t3", "t4"));
}

// T6: an error handler that throws leaks the worker in the original.
TEST_F(TeamInHand, T6_AnErrorHandlerThatThrowsLeaksNothing) {
  int told = 0;
  record_ = [&](const ErrorReport&) {
    ++told;
    throw std::runtime_error("from the handler");
  };
  Make(Soft());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(team_->Do([] { throw std::runtime_error("boom"); }).ok());
    Give("next");
  }
  StepToTheEnd();
  EXPECT_EQ(told, 3);
  EXPECT_EQ(log_.size(), 3u);
  EXPECT_EQ(made(), 1);
  EXPECT_EQ(statistics().idle, 1);
  EXPECT_TRUE(team_->Quit().ok());
  StepToTheEnd();
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
}

TEST_F(TeamInHand, AFullBacklogRefusesAndLeavesTheWork) {
  soft_limit_ = 0;
  TeamLimits limits = Soft();
  limits.max_backlog = 2;
  Make(std::move(limits));
  Give(2);
  Work work = Logging("third");
  const absl::Status full = team_->Do(std::move(work));
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_FALSE(IsAlreadyQuit(full));
  ASSERT_TRUE(work != nullptr);
  Work then = Logging("then");
  EXPECT_TRUE(absl::IsResourceExhausted(team_->Enqueue(std::move(work), std::move(then)).status()));
  EXPECT_TRUE(work != nullptr);
  EXPECT_TRUE(then != nullptr);
  EXPECT_EQ(statistics().refused, 2);
  SetSoftLimit(1);
  team_->Grow(0).IgnoreError();
  Coordinate();  // one is with its worker
  EXPECT_TRUE(team_->Do(std::move(work)).ok());
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("0", "1", "third"));
}

TEST_F(TeamInHand, EmptyWorkIsInvalidArgument) {
  Make();
  EXPECT_TRUE(absl::IsInvalidArgument(team_->Do(Work())));
  Work work = Logging("work");
  EXPECT_TRUE(work != nullptr);
  EXPECT_TRUE(absl::IsInvalidArgument(team_->Enqueue(Work(), std::move(work)).status()));
  EXPECT_TRUE(work != nullptr);
  EXPECT_EQ(statistics().accepted, 0);
}

TEST_F(TeamInHand, StatisticsCountEachWorkOnce) {
  Make(Soft());
  Give("completed");
  ASSERT_TRUE(team_->Do([] { throw 1; }).ok());
  StepToTheEnd();
  Give(3);
  Coordinate();
  TeamStatistics s = statistics();
  EXPECT_EQ(s.accepted, 5);
  EXPECT_EQ(s.completed, 1);
  EXPECT_EQ(s.failed, 1);
  EXPECT_EQ(s.backlogged, 2);
  EXPECT_EQ(s.busy, 1);
  EXPECT_EQ(team_->QuitNow(), 2);
  EXPECT_TRUE(IsAlreadyQuit(team_->Do([] {})));
  StepToTheEnd();
  s = statistics();
  EXPECT_EQ(s.accepted, 5);
  EXPECT_EQ(s.completed, 2);
  EXPECT_EQ(s.failed, 1);
  EXPECT_EQ(s.dropped, 2);
  EXPECT_EQ(s.refused, 1);
  EXPECT_EQ(s.backlogged, 0);
  EXPECT_EQ(s.live, 0);
  EXPECT_EQ(s.workers_created, 1);
  EXPECT_EQ(s.creation_failures, 0);
}

TEST_F(TeamInHand, OldestWaitIsThatOfTheHead) {
  clock_.Advance(absl::Seconds(100));
  Make(Soft());
  Give("runs");
  Coordinate();
  EXPECT_EQ(statistics().oldest_wait, absl::ZeroDuration());
  Give("head");
  Coordinate();
  Advance(absl::Seconds(3));
  EXPECT_EQ(statistics().oldest_wait, absl::Seconds(3));
  Give("behind");
  Coordinate();
  Advance(absl::Seconds(2));
  EXPECT_EQ(statistics().oldest_wait, absl::Seconds(5));
  Step(0);  // takes the head
  EXPECT_EQ(statistics().oldest_wait, absl::Seconds(2));
  StepToTheEnd();
  EXPECT_EQ(statistics().oldest_wait, absl::ZeroDuration());
}

TEST_F(TeamInHand, OldestWaitCountsFromTheZeroOfTheClockToo) {
  soft_limit_ = 0;
  Make(Soft());
  ASSERT_EQ(clock_.Now(), absl::ZeroDuration());
  Give("work");
  Coordinate();
  Advance(absl::Seconds(3));
  EXPECT_EQ(statistics().oldest_wait, absl::Seconds(3));
}

// One is idle, and two come before the coordinator looks: the second waits, and is seen to.
TEST_F(TeamInHand, OldestWaitIsThatOfWorkForWhichNobodyWasIdle) {
  clock_.Advance(absl::Seconds(100));
  Make(Soft());
  EXPECT_TRUE(team_->Grow(1).ok());
  Coordinate();
  Give(2);
  Coordinate();
  EXPECT_EQ(statistics().backlogged, 1);
  Advance(absl::Seconds(3));
  EXPECT_EQ(statistics().oldest_wait, absl::Seconds(3));
}

TEST_F(TeamInHand, ThenRunsStraightAfterOnTheSameWorker) {
  MakeInline(Soft());
  ASSERT_TRUE(team_
                  ->Enqueue(Logging("work"),
                            [this] {
                              log_.push_back("then");
                              EXPECT_EQ(statistics().completed, 1);
                            })
                  .ok());
  Give("next");
  EXPECT_EQ(queued(0), 1u);
  Step(0);
  EXPECT_EQ(made(), 1);
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work", "then", "next"));
}

TEST_F(TeamInHand, InThenTheWorkerCountsAsIdleAlready) {
  MakeInline(Soft());
  int in_work = -1;
  int in_then = -1;
  ASSERT_TRUE(
      team_->Enqueue([&] { in_work = statistics().idle; }, [&] { in_then = statistics().idle; })
          .ok());
  StepToTheEnd();
  EXPECT_EQ(in_work, 0);
  EXPECT_EQ(in_then, 1);
}

// Captures of the work are destroyed before `then`, which may need what they hold.
TEST_F(TeamInHand, ThenRunsAfterTheCapturesOfTheWorkAreDestroyed) {
  Make();
  ASSERT_TRUE(team_
                  ->Enqueue([this, probe = OnDestruction([this] {
                                     log_.push_back("captures");
                                   })] { log_.push_back("work"); },
                            Logging("then"))
                  .ok());
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work", "captures", "then"));
}

TEST_F(TeamInHand, ThenRunsAlsoIfTheWorkThrew) {
  Make();
  ASSERT_TRUE(team_->Enqueue([] { throw std::runtime_error("boom"); }, Logging("then")).ok());
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("then"));
  EXPECT_THAT(errors_, testing::ElementsAre("team: std::runtime_error: boom 0"));
  EXPECT_EQ(statistics().failed, 1);
}

TEST_F(TeamInHand, AThenThatThrowsIsReportedAndHurtsNothing) {
  Make();
  ASSERT_TRUE(team_->Enqueue(Logging("work"), [] { throw std::runtime_error("boom"); }).ok());
  StepToTheEnd();
  Give("next");
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work", "next"));
  EXPECT_THAT(errors_, testing::ElementsAre("team: std::runtime_error: boom 0"));
  EXPECT_EQ(statistics().completed, 2);
  EXPECT_EQ(statistics().idle, 1);
}

TEST_F(TeamInHand, WorkAndThenAreRefusedTogether) {
  Make();
  EXPECT_TRUE(team_->Quit().ok());
  Work work = Logging("work");
  Work then = Logging("then");
  EXPECT_TRUE(IsAlreadyQuit(team_->Enqueue(std::move(work), std::move(then)).status()));
  EXPECT_TRUE(work != nullptr);
  EXPECT_TRUE(then != nullptr);
  EXPECT_EQ(statistics().refused, 1);
}

TEST_F(TeamInHand, WorkAndThenAreDroppedTogether) {
  soft_limit_ = 0;
  Make(Soft());
  auto alive = std::make_shared<int>();
  ASSERT_TRUE(team_->Enqueue([alive] { FAIL(); }, [alive] { FAIL(); }).ok());
  EXPECT_EQ(team_->QuitNow(), 1);
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_EQ(statistics().dropped, 1);
}

// L6 of the original: who asks second waits while the first one's worker is made.
TEST(Team, DoDoesNotWaitWhileAWorkerIsBeingMade) {
  Gate making;
  Gate go_on;
  std::atomic<int> made = 0;
  auto team =
      *Team::Create({.coordinator = std::make_unique<LockWorker>(), .create_worker = [&]() -> Made {
                       if (made.fetch_add(1) == 0) {
                         making.Open();
                         go_on.Wait();
                       }
                       return ThreadWorker::Create();
                     }});
  std::atomic<int> ran = 0;
  std::thread first([&] { EXPECT_TRUE(team->Do([&] { ++ran; }).ok()); });
  making.Wait();
  Gate second;
  EXPECT_TRUE(team->Do([&] { second.Open(); }).ok());
  EXPECT_TRUE(team->Grow(1).ok());
  EXPECT_TRUE(team->Shrink(1).ok());
  EXPECT_GE(team->statistics().starting, 1);
  EXPECT_TRUE(team->Quit().ok());
  go_on.Open();
  first.join();
  second.Wait();
  team = nullptr;
  EXPECT_EQ(ran, 1);
}

TEST_F(TeamInHand, CreateWorkerAndTheErrorHandlerMayCallTheTeam) {
  record_ = [this](const ErrorReport& report) {
    errors_.push_back(std::string(report.status.message()));
    EXPECT_TRUE(team_->Do(Logging("from the handler")).ok());
  };
  MakeInline(Soft());
  bool first = true;
  create_ = [&]() -> Made {
    ExpectConsistent(team_->statistics());
    if (std::exchange(first, false)) {
      EXPECT_TRUE(team_->Do(Logging("from create_worker")).ok());
      return absl::UnavailableError("not yet");
    }
    return CreateMemory();
  };
  Give("given");
  EXPECT_THAT(errors_, testing::ElementsAre("not yet"));
  clock_.Advance(absl::Milliseconds(10));
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("given", "from create_worker", "from the handler"));
}

TEST_F(TeamInHand, Hazard1_DestructorsOfCapturesMayCallTheTeam) {
  MakeInline(Soft());
  ASSERT_TRUE(team_
                  ->Do([this, probe = OnDestruction([this] {
                                EXPECT_TRUE(WorkerScope::RunsIn(*team_));
                                Give("from a destructor");
                                EXPECT_TRUE(team_->Quit().ok());
                                EXPECT_TRUE(IsAlreadyQuit(team_->Do([] {})));
                              })] { log_.push_back("work"); })
                  .ok());
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work", "from a destructor"));
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
}

TEST_F(TeamInHand, Hazard1_ACaptureMayHoldTheLastReference) {
  Make();
  Team* const raw = team_.get();
  ASSERT_TRUE(raw->Do([this, own = std::move(team_)] { log_.push_back("work"); }).ok());
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work"));
  EXPECT_EQ(ended(), 1);
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
}

}  // namespace
}  // namespace workers
