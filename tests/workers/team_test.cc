#include "workers/team.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/clock.h"
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/testing/counting_thread_factory.h"
#include "workers/testing/gate.h"
#include "workers/testing/manual_clock.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace workers {
namespace {

using test::CountingThreadFactory;
using test::Gate;
using test::ManualClock;

using Made = absl::StatusOr<std::unique_ptr<IWorker>>;

// Calls `f` when it is destroyed, however often it was moved before.
template <typename F>
auto OnDestruction(F f) {
  struct Caller {
    F f;
    explicit Caller(F f) : f(std::move(f)) {}
    ~Caller() { f(); }
  };
  return std::make_unique<Caller>(std::move(f));
}

// Expects of a snapshot what is true of every one.
void ExpectConsistent(const TeamStatistics& s) {
  EXPECT_EQ(s.idle + s.busy + s.starting + s.ending, s.live);
  EXPECT_LE(s.blocked, s.busy);
  EXPECT_GE(s.idle, 0);
  EXPECT_GE(s.busy, 0);
  EXPECT_GE(s.starting, 0);
  EXPECT_GE(s.ending, 0);
  EXPECT_GE(s.blocked, 0);
  EXPECT_GE(s.accepted, s.completed + s.failed + s.dropped + s.backlogged);
}

// A Team of MemoryWorkers that a test holds in its hands, with the coordinator and the time.
class TeamInHand : public testing::Test {
 protected:
  static constexpr size_t kManySteps = 1'000'000;

  void TearDown() override { End(); }
  // Called by a test whose Team refers to what the test has on its stack.
  void End() {
    if (team_ != nullptr) team_->Quit().IgnoreError();
    StepToTheEnd();
    team_ = nullptr;
    create_ = nullptr;
  }

  void Make(TeamLimits limits = {}) { MakeWith(std::move(limits), &clock_); }
  void MakeWith(TeamLimits limits, Clock* clock) {
    MemoryWorker coordinator = CreateMemoryWorker("coordinator");
    coordinator_.emplace(std::move(coordinator.performer));
    MakeWith(std::move(coordinator.worker), std::move(limits), clock);
  }
  void MakeWith(std::unique_ptr<IExclusiveWorker> coordinator, TeamLimits limits, Clock* clock) {
    auto team = Team::Create({.coordinator = std::move(coordinator),
                              .create_worker = [this] { return create_(); },
                              .limits = std::move(limits),
                              .on_error = record_,
                              .clock = clock,
                              .one_wake_at_a_time = one_wake_at_a_time_});
    ASSERT_TRUE(team.ok()) << team.status();
    team_ = *std::move(team);
  }
  // With a coordinator that is not stepped: what is decided, is decided at once.
  void MakeInline(TeamLimits limits = {}) {
    MakeWith(std::make_unique<LockWorker>(), std::move(limits), &clock_);
  }
  TeamLimits Soft() {
    TeamLimits limits;
    limits.soft_limit = [this] { return soft_limit_; };
    return limits;
  }

  // The newest worker is workers_.back().
  Made CreateMemory() {
    MemoryWorker worker = CreateMemoryWorker("worker");
    workers_.emplace_back(std::move(worker.performer));
    return std::move(worker.worker);
  }
  // Until `most` were made.
  Made CreateUpTo(size_t most) {
    if (workers_.size() >= most) return nullptr;
    return CreateMemory();
  }
  int made() const { return static_cast<int>(workers_.size()); }

  Work Logging(std::string entry) {
    return [this, entry = std::move(entry)] { log_.push_back(entry); };
  }
  void Give(std::string entry) { ASSERT_TRUE(team_->Do(Logging(std::move(entry))).ok()); }
  void Give(int count) {
    for (int i = 0; i < count; ++i) Give(std::to_string(i));
  }

  // Steps the coordinator until it has nothing to do.
  void Coordinate() {
    for (size_t step = 0; (*coordinator_)() == Performed::kRan; ++step) {
      ASSERT_LT(step, kManySteps) << "the coordinator goes round for ever";
      if (team_ != nullptr) ExpectConsistent(team_->statistics());
    }
  }
  // One work of a worker, and what the coordinator makes of it.
  void Step(int worker) {
    EXPECT_EQ((*workers_[worker])(), Performed::kRan);
    if (coordinator_.has_value()) Coordinate();
  }
  // Of all workers there are, one after another.
  void StepEach() {
    const int count = made();
    for (int i = 0; i < count; ++i) {
      if (queued(i) > 0) Step(i);
    }
  }
  void StepToTheEnd() {
    for (size_t step = 0, ran = 1; ran > 0; ++step) {
      ASSERT_LT(step, kManySteps) << "there is no end";
      ran = 0;
      if (coordinator_.has_value() && (*coordinator_)() == Performed::kRan) ++ran;
      for (size_t i = 0; i < workers_.size(); ++i) {
        if (workers_[i].has_value() && (*workers_[i])() == Performed::kRan) ++ran;
      }
    }
  }
  size_t queued(int worker) const {
    return workers_[worker].has_value() ? workers_[worker]->queued() : 0;
  }
  // How many have done their last work, quit and gone.
  int ended() {
    int count = 0;
    for (std::optional<MemoryPerformer>& worker : workers_) {
      if (worker.has_value() && worker->queued() == 0 && (*worker)() == Performed::kFinished) {
        ++count;
      }
    }
    return count;
  }
  void Advance(absl::Duration by) {
    clock_.Advance(by);
    Coordinate();
  }
  TeamStatistics statistics() const {
    const TeamStatistics statistics = team_->statistics();
    ExpectConsistent(statistics);
    return statistics;
  }

  std::vector<std::string> log_;
  std::vector<std::string> errors_;
  ErrorHandler record_ = [this](const ErrorReport& report) {
    EXPECT_FALSE(report.status.ok());
    errors_.push_back(std::string(report.worker) + ": " + std::string(report.status.message()) +
                      " " + std::to_string(report.dropped));
  };
  int soft_limit_ = 1;
  bool one_wake_at_a_time_ = false;
  std::function<Made()> create_ = [this] { return CreateMemory(); };
  ManualClock clock_;
  std::deque<std::optional<MemoryPerformer>> workers_;  // in the order in which they were made
  std::optional<MemoryPerformer> coordinator_;
  std::unique_ptr<Team> team_;
};

// --- the tests of the original, told with MemoryWorkers -------------------------------------

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
  EXPECT_EQ(statistics().starting, 1);
  EXPECT_EQ((*coordinator_)(), Performed::kRan);
  EXPECT_EQ(statistics().busy, 1);
  EXPECT_THAT(log_, testing::IsEmpty());
  EXPECT_EQ((*workers_[0])(), Performed::kRan);
  EXPECT_THAT(log_, testing::ElementsAre("work"));
  EXPECT_EQ(statistics().busy, 1);
  EXPECT_EQ((*coordinator_)(), Performed::kRan);
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
  EXPECT_TRUE(IsAlreadyQuit(team_->Fit(0, 1)));
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

// --- the faults of the original -------------------------------------------------------------

// A coordinator that holds one Do back at a gate, and counts Quits.
class GatedCoordinator final : public IExclusiveWorker {
 public:
  absl::Status Do(Work&& work) override {
    if (hold_next.exchange(false)) {
      held.Open();
      release.Wait();
    }
    return inner_.Do([this, &work] {  // before this Do returns
      WorkerScope scope(*this);
      std::move(work)();
      work = nullptr;
    });
  }
  absl::Status Quit() override {
    ++quits;
    return inner_.Quit();
  }

  std::atomic<bool> hold_next = false;
  Gate held;
  Gate release;
  std::atomic<int> quits = 0;

 private:
  LockWorker inner_;
};

// T1: a Do is between the Team's door and its coordinator while all of a Quit happens. In the
// original the work is then lost, or a worker is made that nobody ends.
TEST_F(TeamInHand, T1_ADoThatIsOvertakenByQuitLosesNothing) {
  auto owned = std::make_unique<GatedCoordinator>();
  GatedCoordinator& coordinator = *owned;
  MakeWith(std::move(owned), {}, &clock_);
  std::atomic<int> ran = 0;
  absl::Status taken = absl::InternalError("not called");
  coordinator.hold_next = true;
  std::thread producer([&] { taken = team_->Do([&] { ++ran; }); });
  coordinator.held.Wait();
  EXPECT_TRUE(team_->Quit().ok());
  StepToTheEnd();
  EXPECT_EQ(ran, 1);
  coordinator.release.Open();
  producer.join();
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
  EXPECT_TRUE(taken.ok()) << taken;
  EXPECT_EQ(ran, 1);
  EXPECT_EQ(made(), 1);
  EXPECT_EQ(ended(), 1);
  EXPECT_EQ(coordinator.quits, 1);
  EXPECT_EQ(statistics().live, 0);
}

TEST_F(TeamInHand, T1_WhatIsTakenBeforeQuitIsCoordinatedAfterItAndRuns) {
  Make();
  Give("taken");
  EXPECT_TRUE(team_->Quit().ok());
  EXPECT_TRUE(IsAlreadyQuit(team_->Do(Logging("refused"))));
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("taken"));
  EXPECT_EQ(made(), 1);
  EXPECT_EQ(ended(), 1);
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
}

TEST_F(TeamInHand, T1_AfterAllHasEndedNoWorkerIsMade) {
  MakeInline();
  EXPECT_TRUE(team_->Quit().ok());
  EXPECT_TRUE(IsAlreadyQuit(team_->Do(Logging("refused"))));
  team_->Poke();
  EXPECT_EQ(team_->QuitNow(), 0);
  EXPECT_EQ(made(), 0);
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
}

// T2: a backlog without workers is dropped at quit without a word in the original.
TEST_F(TeamInHand, T2_ABacklogThatNobodyCanPerformIsDroppedAtQuitAndReported) {
  soft_limit_ = 0;
  Make(Soft());
  auto alive = std::make_shared<int>();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(team_->Do([alive] { FAIL(); }).ok());
  Coordinate();
  EXPECT_EQ(statistics().backlogged, 3);
  EXPECT_TRUE(team_->Quit().ok());
  EXPECT_EQ(alive.use_count(), 4);
  Coordinate();
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_THAT(errors_, testing::ElementsAre(
                           "team: accepted work was dropped unrun: the team has quit, has no "
                           "worker and cannot make one 3"));
  EXPECT_EQ(statistics().dropped, 3);
  EXPECT_EQ(statistics().backlogged, 0);
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
}

TEST_F(TeamInHand, T2_TheSameWhereEachCreationFailed) {
  Make();
  create_ = [] { return absl::ResourceExhaustedError("no thread left"); };
  Give(2);
  Coordinate();
  EXPECT_TRUE(team_->Quit().ok());
  Coordinate();
  EXPECT_THAT(log_, testing::IsEmpty());
  EXPECT_EQ(errors_.back(),
            "team: accepted work was dropped unrun: the team has quit, has no worker and cannot "
            "make one 2");
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
}

TEST_F(TeamInHand, T2_ABacklogThatSomebodyPerformsIsNotDropped) {
  Make(Soft());
  Give(5);
  Coordinate();
  EXPECT_EQ(statistics().backlogged, 4);
  EXPECT_TRUE(team_->Quit().ok());
  Coordinate();
  soft_limit_ = 0;  // the one that is there is enough
  StepToTheEnd();
  EXPECT_EQ(log_.size(), 5u);
  EXPECT_THAT(errors_, testing::IsEmpty());
}

// Quit waits for growth, which will make the one that performs it.
TEST_F(TeamInHand, T2_ABacklogThatSomebodyWillPerformIsNotDropped) {
  soft_limit_ = 0;
  TeamLimits limits = Soft();
  limits.growth_per_second = 1;
  Make(std::move(limits));
  Give("work");
  Coordinate();
  EXPECT_TRUE(team_->Quit().ok());
  Coordinate();
  EXPECT_EQ(statistics().backlogged, 1);
  Advance(absl::Seconds(1));
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work"));
  EXPECT_THAT(errors_, testing::IsEmpty());
}

// T3: in the original nobody looks at the backlog when a limit rises.
TEST_F(TeamInHand, T3_ARaisedLimitAndAPokeDispatchTheBacklog) {
  soft_limit_ = 0;
  Make(Soft());
  Give(3);
  Coordinate();
  EXPECT_EQ(made(), 0);  // stuck for good in the original
  soft_limit_ = 2;
  Coordinate();
  EXPECT_EQ(made(), 0);  // nobody has told it
  team_->Poke();
  EXPECT_EQ(made(), 0);
  Coordinate();
  EXPECT_EQ(made(), 2);
  EXPECT_EQ(statistics().backlogged, 1);
  soft_limit_ = 5;
  team_->Poke();
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
  soft_limit_ = 1;
  Give("second");
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("first", "second"));
}

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
  EXPECT_TRUE(team_->Fit(0, 2).ok());
  StepToTheEnd();
  EXPECT_EQ(statistics().idle, 2);
  EXPECT_TRUE(team_->Fit(5, 5).ok());
  EXPECT_TRUE(team_->Fit(5, 5).ok());
  EXPECT_TRUE(team_->Shrink().ok());
  EXPECT_TRUE(team_->Fit(3, 4).ok());
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

// T4 b: the same size wished for twice while all are busy. In the original nobody is left.
TEST_F(TeamInHand, T4b_ToFitTwiceIsToFitOnce) {
  Make();
  Give(10);
  Coordinate();
  EXPECT_TRUE(team_->Fit(5, 5).ok());
  EXPECT_TRUE(team_->Fit(5, 5).ok());
  Coordinate();
  EXPECT_TRUE(team_->Fit(5, 5).ok());
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

TEST_F(TeamInHand, T4c_WhoIsBeingMadeCanBeMarkedAndTakenBack) {
  Make();
  create_ = [this] {
    if (made() == 0) {
      EXPECT_EQ(statistics().starting, 4);
      EXPECT_TRUE(team_->Shrink(3).ok());
      EXPECT_TRUE(team_->Grow(1).ok());
    }
    return CreateMemory();
  };
  EXPECT_TRUE(team_->Grow(4).ok());
  Coordinate();
  EXPECT_EQ(made(), 4);
  StepToTheEnd();
  EXPECT_EQ(statistics().live, 2);
}

// T4 d: with a standing backlog the original never shrinks.
TEST_F(TeamInHand, T4d_ShrinkTakesEffectAtTheNextEndOfAWorkDespiteTheBacklog) {
  soft_limit_ = 10;
  Make(Soft());
  Give(100);
  Coordinate();
  EXPECT_EQ(made(), 10);
  soft_limit_ = 1;
  EXPECT_TRUE(team_->Shrink(9).ok());
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

// T5: in the original the newest work gets the worker that has just become possible.
TEST_F(TeamInHand, T5_TheBacklogIsFirstInFirstOut) {
  soft_limit_ = 0;
  Make(Soft());
  for (const char* work : {"t0", "t1", "t2", "t3"}) Give(work);
  Coordinate();
  soft_limit_ = 1;
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
  soft_limit_ = 1;
  team_->Poke();
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

// T8: a grow that races a quit makes workers and quits the coordinator twice in the original.
TEST_F(TeamInHand, T8_AGrowThatIsOvertakenByQuitMakesNobody) {
  Make();
  EXPECT_TRUE(team_->Grow(3).ok());
  EXPECT_TRUE(team_->Quit().ok());
  EXPECT_TRUE(IsAlreadyQuit(team_->Grow(3)));
  Coordinate();
  EXPECT_EQ(made(), 0);
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
}

TEST_F(TeamInHand, T8_AQuitWhileWorkersAreBeingMadeEndsThemAndTheCoordinatorOnce) {
  auto owned = std::make_unique<GatedCoordinator>();
  GatedCoordinator& coordinator = *owned;
  create_ = [this] {
    team_->Quit().IgnoreError();
    return CreateMemory();
  };
  MakeWith(std::move(owned), {}, &clock_);
  EXPECT_TRUE(team_->Grow(3).ok());
  StepToTheEnd();
  EXPECT_EQ(ended(), made());
  EXPECT_EQ(coordinator.quits, 1);
  EXPECT_EQ(statistics().live, 0);
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
}

TEST_F(TeamInHand, T8_AQuitEndsALongGrow) {
  create_ = [this] {
    team_->Quit().IgnoreError();
    return CreateMemory();
  };
  Make();
  EXPECT_TRUE(team_->Grow(1000).ok());
  StepToTheEnd();
  EXPECT_LT(made(), 100);  // those that were being made
  EXPECT_EQ(ended(), made());
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
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

// T10: every snapshot adds up, whoever takes it, whenever. (And after each step of all of these
// tests.)
TEST(Team, T10_EachSnapshotAddsUp) {
  std::atomic<bool> done = false;
  auto team = *Team::Create({.coordinator = std::make_unique<LockWorker>(),
                             .create_worker = [] { return ThreadWorker::Create(); },
                             .limits = {.soft_limit = [] { return 3; }, .hard_limit = 4}});
  std::thread reader([&] {
    while (!done) {
      const TeamStatistics s = team->statistics();
      ExpectConsistent(s);
      EXPECT_LE(s.live, 4);
    }
  });
  std::atomic<int> ran = 0;
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(team->Do([&] {
                        BlockingScope blocking;
                        ++ran;
                      })
                      .ok());
    }
    EXPECT_TRUE(team->Shrink(round % 4).ok());
    EXPECT_TRUE(team->Grow(round % 3).ok());
  }
  EXPECT_TRUE(team->Quit().ok());
  EXPECT_TRUE(team->Join().ok());
  done = true;
  reader.join();
  EXPECT_EQ(ran, 1000);
  EXPECT_EQ(team->statistics().completed, 1000);
  EXPECT_EQ(team->statistics().live, 0);
}

// T11: whoever hears of the result gives the next work, and finds no idle worker in the original.
TEST_F(TeamInHand, T11_SequentialJobsGivenFromThenNeedOneWorker) {
  Make();
  std::function<void(int)> give = [&](int left) {
    ASSERT_TRUE(team_
                    ->DoThen(Logging("work"),
                             [&give, left] {
                               if (left > 1) give(left - 1);
                             })
                    .ok());
  };
  give(100);
  StepToTheEnd();
  EXPECT_EQ(log_.size(), 100u);
  EXPECT_EQ(made(), 1);
}

TEST_F(TeamInHand, T11_TheSameWithACoordinatorThatIsInline) {
  MakeInline();
  std::function<void(int)> give = [&](int left) {
    ASSERT_TRUE(team_
                    ->DoThen(Logging("work"),
                             [&, left] {
                               EXPECT_EQ(statistics().idle, 1);
                               if (left > 1) give(left - 1);
                             })
                    .ok());
  };
  give(100);
  StepToTheEnd();
  EXPECT_EQ(log_.size(), 100u);
  EXPECT_EQ(made(), 1);
}

TEST(Team, T11_TheSameWithThreads) {
  CountingThreadFactory factory;
  {
    auto team =
        *Team::Create({.coordinator = std::make_unique<LockWorker>(), .create_worker = [&factory] {
                         return ThreadWorker::Create({.factory = &factory});
                       }});
    Gate done;
    std::function<void(int)> give = [&](int left) {
      ASSERT_TRUE(team->DoThen([] {}, [&, left] { left > 1 ? give(left - 1) : done.Open(); }).ok());
    };
    give(1000);
    done.Wait();
    EXPECT_EQ(factory.started(), 1);
  }
  EXPECT_EQ(factory.joined(), 1);
}

// Three at a time never need four.
TEST(Team, T11_ThreeJobsAtATimeNeverNeedFourThreads) {
  CountingThreadFactory factory;
  {
    auto team =
        *Team::Create({.coordinator = std::make_unique<LockWorker>(), .create_worker = [&factory] {
                         return ThreadWorker::Create({.factory = &factory});
                       }});
    Gate done[3];
    std::function<void(Gate&, int)> give = [&](Gate& gate, int left) {
      ASSERT_TRUE(
          team->DoThen([] {}, [&, left] { left > 1 ? give(gate, left - 1) : gate.Open(); }).ok());
    };
    for (Gate& gate : done) give(gate, 1000);
    for (Gate& gate : done) gate.Wait();
    EXPECT_LE(factory.started(), 3);
    EXPECT_EQ(team->statistics().completed, 3000);
  }
  EXPECT_EQ(factory.joined(), factory.started());
}

// T12: pthread_exit in a work. What was given runs, `then` too, and the worker is replaced.
TEST(Team, T12_ForcedUnwindingLosesNothing) {
  CountingThreadFactory factory;
  std::atomic<int> ran = 0;
  {
    auto team = *Team::Create(
        {.coordinator = std::make_unique<LockWorker>(),
         .create_worker = [&factory] { return ThreadWorker::Create({.factory = &factory}); },
         .limits = {.hard_limit = 1},
         .on_error = [](const ErrorReport&) {}});
    Gate begin;
    ASSERT_TRUE(team->Do([&] { begin.Wait(); }).ok());
    ASSERT_TRUE(team->DoThen([] { pthread_exit(nullptr); }, [&] { ++ran; }).ok());
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(team->Do([&] { ++ran; }).ok());
    begin.Open();
    // By whoever is there, as often as it takes.
    Gate last;
    ASSERT_TRUE(team->Do([&] { last.Open(); }).ok());
    last.Wait();
    EXPECT_EQ(ran, 4);
    EXPECT_EQ(team->statistics().failed, 1);
    EXPECT_TRUE(team->Quit().ok());
    EXPECT_TRUE(team->Join().ok());
    EXPECT_EQ(team->statistics().dropped, 0);
    EXPECT_EQ(team->statistics().completed, 5);
    EXPECT_EQ(team->statistics().live, 0);
  }
  factory.Finish();
  EXPECT_EQ(factory.started(), factory.joined());
}

// T13: a negative number is taken without a word in the original.
TEST_F(TeamInHand, T13_ANegativeNumberIsInvalidArgument) {
  Make();
  EXPECT_TRUE(absl::IsInvalidArgument(team_->Grow(-1)));
  EXPECT_TRUE(absl::IsInvalidArgument(team_->Shrink(-1)));
  EXPECT_TRUE(absl::IsInvalidArgument(team_->Fit(-1, 1)));
  EXPECT_TRUE(absl::IsInvalidArgument(team_->Fit(2, 1)));
  EXPECT_TRUE(team_->Grow(0).ok());
  EXPECT_TRUE(team_->Shrink(0).ok());
  EXPECT_TRUE(team_->Fit(0, 0).ok());
  Coordinate();
  EXPECT_EQ(made(), 0);
}

// T14: in the original nobody learns when the workers have ended.
TEST_F(TeamInHand, T14_JoinWaitsForTheLastWorker) {
  Make();
  EXPECT_TRUE(absl::IsFailedPrecondition(team_->Join()));  // before Quit
  Give(2);
  Coordinate();
  EXPECT_TRUE(team_->Quit().ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(team_->Join(absl::ZeroDuration())));
  EXPECT_TRUE(absl::IsDeadlineExceeded(team_->Join(absl::Milliseconds(1))));
  Coordinate();
  StepEach();
  EXPECT_TRUE(absl::IsDeadlineExceeded(team_->Join(absl::ZeroDuration())));  // they are ending
  Step(0);
  EXPECT_TRUE(absl::IsDeadlineExceeded(team_->Join(absl::ZeroDuration())));
  Step(1);
  EXPECT_TRUE(team_->Join().ok());
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());  // any number of times
}

TEST_F(TeamInHand, T14_JoinOnOneOfItsOwnWorkersIsFailedPrecondition) {
  Make();
  std::vector<absl::Status> joins;
  const auto join = [&] {
    team_->Quit().IgnoreError();
    joins.push_back(team_->Join());
  };
  ASSERT_TRUE(team_->DoThen(join, join).ok());
  StepToTheEnd();
  ASSERT_EQ(joins.size(), 2u);
  EXPECT_TRUE(absl::IsFailedPrecondition(joins[0])) << joins[0];
  EXPECT_TRUE(absl::IsFailedPrecondition(joins[1])) << joins[1];
}

TEST(Team, T14_ManyThreadsMayJoin) {
  CountingThreadFactory factory;
  auto team =
      *Team::Create({.coordinator = std::make_unique<LockWorker>(), .create_worker = [&factory] {
                       return ThreadWorker::Create({.factory = &factory});
                     }});
  Gate release;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(team->Do([&] { release.Wait(); }).ok());
  EXPECT_TRUE(team->Quit().ok());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      EXPECT_TRUE(team->Join().ok());
      EXPECT_EQ(team->statistics().live, 0);
    });
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(team->Join(absl::ZeroDuration())));
  release.Open();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(factory.started(), 3);
  EXPECT_EQ(factory.joined(), 3);
}

// --- Create ---------------------------------------------------------------------------------

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

// --- how many workers -----------------------------------------------------------------------

TEST_F(TeamInHand, BeforeTheCoordinatorIsSteppedNothingHappens) {
  TeamLimits limits = Soft();
  limits.min_workers = 2;
  Make(std::move(limits));
  Give(3);
  EXPECT_TRUE(team_->Grow(3).ok());
  team_->Poke();
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
  EXPECT_EQ(statistics().starting, 1);
  Give("for the one who is being made");
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
  EXPECT_TRUE(team_->Fit(2, 4).ok());
  Coordinate();
  EXPECT_EQ(statistics().idle, 2);
  EXPECT_TRUE(team_->Fit(0, 4).ok());
  Coordinate();
  EXPECT_EQ(statistics().idle, 2);
  EXPECT_TRUE(team_->Fit(6, 6).ok());
  Coordinate();
  EXPECT_EQ(statistics().idle, 6);
  EXPECT_TRUE(team_->Fit(1, 3).ok());
  StepToTheEnd();
  EXPECT_EQ(statistics().live, 3);
  Give(3);
  Coordinate();
  EXPECT_TRUE(team_->Fit(0, 0).ok());  // marks all
  EXPECT_TRUE(team_->Fit(2, 2).ok());  // takes two back
  StepToTheEnd();
  EXPECT_EQ(statistics().live, 2);
  EXPECT_EQ(made(), 6);
}

// --- workers that cannot be made ------------------------------------------------------------

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
  team_->Poke();
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
  team_->Poke();
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

// Its last answer holds.
TEST_F(TeamInHand, ASoftLimitThatThrowsIsReportedAndNothingIsLost) {
  bool throws = false;
  TeamLimits limits;
  limits.soft_limit = [&]() -> int { return throws ? throw std::runtime_error("boom") : 2; };
  Make(std::move(limits));
  Coordinate();
  throws = true;
  Give(5);
  Coordinate();
  EXPECT_EQ(made(), 2);
  EXPECT_FALSE(errors_.empty());
  for (const std::string& error : errors_) EXPECT_EQ(error, "team: std::runtime_error: boom 0");
  StepToTheEnd();
  EXPECT_EQ(log_.size(), 5u);
  End();
}

TEST_F(TeamInHand, ASoftLimitThatHasOnlyEverThrownLosesNothing) {
  bool throws = true;
  TeamLimits limits;
  limits.soft_limit = [&]() -> int { return throws ? throw std::runtime_error("boom") : 1; };
  Make(std::move(limits));
  Give("work");
  StepToTheEnd();
  throws = false;
  team_->Poke();
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work"));
  EXPECT_EQ(statistics().dropped, 0);
  End();
}

// A clock that cannot take works, for a time.
class RefusingClock final : public Clock {
 public:
  absl::Duration Now() const override { return inner.Now(); }
  absl::Status RunAt(absl::Duration when, Work&& work) override {
    if (refuse) return absl::ResourceExhaustedError("no thread for the timer");
    return inner.RunAt(when, std::move(work));
  }
  ManualClock inner;
  bool refuse = true;
};

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
  team_->Poke();  // tries, fails again, and needs the clock
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

// --- the backlog ----------------------------------------------------------------------------

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
  EXPECT_TRUE(absl::IsResourceExhausted(team_->DoThen(std::move(work), std::move(then))));
  EXPECT_TRUE(work != nullptr);
  EXPECT_TRUE(then != nullptr);
  EXPECT_EQ(statistics().refused, 2);
  soft_limit_ = 1;
  team_->Poke();
  Coordinate();  // one is with its worker
  EXPECT_TRUE(team_->Do(std::move(work)).ok());
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("0", "1", "third"));
}

TEST_F(TeamInHand, EmptyWorkIsInvalidArgument) {
  Make();
  EXPECT_TRUE(absl::IsInvalidArgument(team_->Do(Work())));
  Work work = Logging("work");
  EXPECT_TRUE(absl::IsInvalidArgument(team_->DoThen(std::move(work), Work())));
  EXPECT_TRUE(work != nullptr);
  EXPECT_TRUE(absl::IsInvalidArgument(team_->DoThen(Work(), std::move(work))));
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

// --- statistics -----------------------------------------------------------------------------

// The coordinator is held inside of its decision. Whoever waits for it there hangs.
TEST(Team, StatisticsDoNotWaitForTheCoordinator) {
  for (bool own_thread : {false, true}) {
    std::atomic<bool> hold = true;
    Gate deciding;
    Gate go_on;
    std::unique_ptr<IExclusiveWorker> coordinator = std::make_unique<LockWorker>();
    if (own_thread) coordinator = *ThreadWorker::Create();
    std::unique_ptr<Team> team;
    std::atomic<int> ran = 0;
    std::thread decider([&] {
      team = *Team::Create({.coordinator = std::move(coordinator),
                            .create_worker = [] { return ThreadWorker::Create(); },
                            .limits = {.soft_limit = [&] {
                              if (!hold.exchange(true)) {
                                deciding.Open();
                                go_on.Wait();
                              }
                              return 1;
                            }}});
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(team->Do([&] {
                          go_on.Wait();
                          ++ran;
                        })
                        .ok());
      }
      hold = false;
      team->Poke();
    });
    deciding.Wait();
    const TeamStatistics s = team->statistics();
    ExpectConsistent(s);
    EXPECT_EQ(s.accepted, 3);
    if (own_thread) {
      // Nor does anything else, where the coordinator's Do does not.
      EXPECT_TRUE(team->Do([&] { ++ran; }).ok());
      EXPECT_EQ(team->statistics().accepted, 4);
      EXPECT_TRUE(team->Grow(1).ok());
      EXPECT_TRUE(team->Shrink(1).ok());
      EXPECT_TRUE(team->Quit().ok());
      EXPECT_TRUE(IsAlreadyQuit(team->Do([&] { ++ran; })));
      EXPECT_EQ(team->statistics().refused, 1);
      const int64_t dropped = team->QuitNow();
      EXPECT_EQ(team->statistics().dropped, dropped);
      EXPECT_EQ(team->statistics().backlogged, 0);
      ExpectConsistent(team->statistics());
    }
    go_on.Open();
    decider.join();
    team->Quit().IgnoreError();
    EXPECT_TRUE(team->Join().ok());
    const TeamStatistics after = team->statistics();
    EXPECT_EQ(after.completed, ran);
    EXPECT_EQ(after.completed + after.dropped, after.accepted);
  }
}

// What may only grow has grown.
void ExpectLater(const TeamStatistics& before, const TeamStatistics& now) {
  EXPECT_GE(now.accepted, before.accepted);
  EXPECT_GE(now.completed, before.completed);
  EXPECT_GE(now.failed, before.failed);
  EXPECT_GE(now.dropped, before.dropped);
  EXPECT_GE(now.refused, before.refused);
  EXPECT_GE(now.workers_created, before.workers_created);
  EXPECT_GE(now.creation_failures, before.creation_failures);
}

// Any thread may call anything, and each snapshot that anybody takes meanwhile adds up; with a
// coordinator that is inline, and with one that has a thread of its own.
TEST(Team, AnyThreadMayCallAnythingAndEachSnapshotAddsUp) {
  for (bool own_thread : {false, true}) {
    CountingThreadFactory factory;
    ManualClock clock;
    std::unique_ptr<IExclusiveWorker> coordinator = std::make_unique<LockWorker>();
    if (own_thread) coordinator = *ThreadWorker::Create();
    std::atomic<int> tried = 0;
    std::atomic<int64_t> reported = 0;
    auto team =
        *Team::Create({.coordinator = std::move(coordinator),
                       .create_worker = [&]() -> Made {
                         const int number = tried++;
                         if (number % 5 == 0) return absl::UnavailableError("no thread left");
                         if (number % 7 == 1) return nullptr;
                         return ThreadWorker::Create({.factory = &factory});
                       },
                       .limits = {.min_workers = 1,
                                  .soft_limit = [] { return 3; },
                                  .growth_per_second = 1000,
                                  .hard_limit = 5,
                                  .idle_timeout = absl::Milliseconds(5),
                                  .max_backlog = 50},
                       .on_error = [&](const ErrorReport& report) { reported += report.dropped; },
                       .clock = &clock});
    std::atomic<bool> done = false;
    std::atomic<int64_t> accepted = 0;
    std::atomic<int64_t> ran = 0;
    std::atomic<int64_t> thens = 0;
    std::atomic<int64_t> counted = 0;
    const auto caller = [&](int seed) {
      TeamStatistics before = team->statistics();
      const auto look = [&] {
        const TeamStatistics now = team->statistics();
        ExpectConsistent(now);
        EXPECT_LE(now.live, 5);
        EXPECT_LE(now.backlogged, 50 + 5);  // five may have been idle
        ExpectLater(before, now);
        before = now;
      };
      for (int i = 0; i < 300; ++i) {
        switch ((i * 7 + seed * 5) % 12) {
          case 0:
            team->Grow(seed).IgnoreError();
            break;
          case 1:
            team->Shrink(1).IgnoreError();
            break;
          case 2:
            team->Fit(1, 4).IgnoreError();
            break;
          case 3:
            team->Poke();
            break;
          case 4:
            if (i > 200) team->Quit().IgnoreError();
            break;
          case 5:
            if (i > 250) counted += team->QuitNow();
            break;
          case 6:
            EXPECT_FALSE(team->Join(absl::ZeroDuration()).ok() && team->statistics().live > 0);
            break;
          case 7: {
            accepted += team->DoThen([&] { ++ran; }, [&] { ++thens; }).ok();
            break;
          }
          case 8:
            accepted += team->Do([&] {
                              ++ran;
                              throw 1;
                            })
                            .ok();
            break;
          case 9:
            accepted += team->Do([&] {
                              BlockingScope blocking;
                              ExpectConsistent(team->statistics());
                              ++ran;
                            })
                            .ok();
            break;
          default:
            accepted += team->Do([&] { ++ran; }).ok();
        }
        look();
      }
    };
    std::thread time([&] {
      while (!done) clock.Advance(absl::Milliseconds(1));
    });
    Gate begun;  // the first creation has failed, and a later one has not
    accepted += team->Do([&] {
                      ++ran;
                      begun.Open();
                    })
                    .ok();
    begun.Wait();
    std::vector<std::thread> callers;
    for (int i = 0; i < 3; ++i) callers.emplace_back(caller, i);
    for (std::thread& thread : callers) thread.join();
    counted += team->QuitNow();
    EXPECT_TRUE(team->Join().ok());
    done = true;
    time.join();
    EXPECT_EQ(accepted, ran + counted + reported);
    const TeamStatistics s = team->statistics();
    EXPECT_EQ(s.accepted, accepted);
    EXPECT_EQ(s.completed + s.failed, ran);
    EXPECT_EQ(s.dropped, counted + reported);
    EXPECT_EQ(s.live + s.backlogged, 0);
    team = nullptr;
    factory.Finish();
    EXPECT_EQ(factory.started(), s.workers_created);
    EXPECT_EQ(factory.joined(), factory.started());
  }
}

// Nothing that waits for its time is left behind, however often workers come and go.
TEST_F(TeamInHand, ManyCyclesOfUseAndReleaseLeaveNothingAtTheClock) {
  TeamLimits limits = Soft();
  limits.idle_timeout = absl::Seconds(10);
  limits.growth_per_second = 1;
  Make(std::move(limits));
  for (int cycle = 0; cycle < 10'000; ++cycle) {
    const int first = made();
    Give(2);
    Coordinate();
    Advance(absl::Seconds(1));  // one more by growth
    ASSERT_EQ(made(), first + 2);
    StepEach();
    for (int look = 0; look < 10; ++look) {
      Advance(absl::Milliseconds(1));
      team_->Poke();
      Coordinate();
    }
    ASSERT_LE(clock_.pending(), 4u);
    Advance(absl::Seconds(10));
    StepEach();
    ASSERT_EQ(statistics().live, 0);
    workers_.clear();
  }
  EXPECT_EQ(statistics().workers_created, 20'000);
  Advance(absl::Seconds(10));
  EXPECT_EQ(clock_.pending(), 0u);
}

// --- DoThen ---------------------------------------------------------------------------------

TEST_F(TeamInHand, ThenRunsStraightAfterOnTheSameWorker) {
  MakeInline(Soft());
  ASSERT_TRUE(team_
                  ->DoThen(Logging("work"),
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
      team_->DoThen([&] { in_work = statistics().idle; }, [&] { in_then = statistics().idle; })
          .ok());
  StepToTheEnd();
  EXPECT_EQ(in_work, 0);
  EXPECT_EQ(in_then, 1);
}

// Captures of the work are destroyed before `then`, which may need what they hold.
TEST_F(TeamInHand, ThenRunsAfterTheCapturesOfTheWorkAreDestroyed) {
  Make();
  ASSERT_TRUE(team_
                  ->DoThen([this, probe = OnDestruction([this] {
                                    log_.push_back("captures");
                                  })] { log_.push_back("work"); },
                           Logging("then"))
                  .ok());
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work", "captures", "then"));
}

TEST_F(TeamInHand, ThenRunsAlsoIfTheWorkThrew) {
  Make();
  ASSERT_TRUE(team_->DoThen([] { throw std::runtime_error("boom"); }, Logging("then")).ok());
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("then"));
  EXPECT_THAT(errors_, testing::ElementsAre("team: std::runtime_error: boom 0"));
  EXPECT_EQ(statistics().failed, 1);
}

TEST_F(TeamInHand, AThenThatThrowsIsReportedAndHurtsNothing) {
  Make();
  ASSERT_TRUE(team_->DoThen(Logging("work"), [] { throw std::runtime_error("boom"); }).ok());
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
  EXPECT_TRUE(IsAlreadyQuit(team_->DoThen(std::move(work), std::move(then))));
  EXPECT_TRUE(work != nullptr);
  EXPECT_TRUE(then != nullptr);
  EXPECT_EQ(statistics().refused, 1);
}

TEST_F(TeamInHand, WorkAndThenAreDroppedTogether) {
  soft_limit_ = 0;
  Make(Soft());
  auto alive = std::make_shared<int>();
  ASSERT_TRUE(team_->DoThen([alive] { FAIL(); }, [alive] { FAIL(); }).ok());
  EXPECT_EQ(team_->QuitNow(), 1);
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_EQ(statistics().dropped, 1);
}

// --- BlockingScope --------------------------------------------------------------------------

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
                  ->DoThen([] {},
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

// --- QuitNow --------------------------------------------------------------------------------

TEST_F(TeamInHand, QuitNowDestroysTheBacklogAndSaysHowManyWorksThatWere) {
  Make(Soft());
  auto alive = std::make_shared<int>();
  Give("runs");
  Coordinate();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(team_->Do([alive] { FAIL(); }).ok());
  EXPECT_EQ(team_->QuitNow(), 3);  // before the coordinator has seen them
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_EQ(team_->QuitNow(), 0);
  EXPECT_TRUE(IsAlreadyQuit(team_->Quit()));
  EXPECT_TRUE(IsAlreadyQuit(team_->Do([] {})));
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("runs"));  // what runs already goes on
  EXPECT_THAT(errors_, testing::IsEmpty());         // the caller knows
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
}

TEST_F(TeamInHand, QuitNowAfterQuitDestroysWhatIsLeft) {
  Make(Soft());
  Give(5);
  Coordinate();
  EXPECT_TRUE(team_->Quit().ok());
  Coordinate();
  Step(0);
  EXPECT_EQ(log_.size(), 1u);
  EXPECT_EQ(team_->QuitNow(), 3);  // one more is with its worker
  EXPECT_EQ(team_->QuitNow(), 0);
  StepToTheEnd();
  EXPECT_EQ(log_.size(), 2u);
  EXPECT_EQ(statistics().dropped, 3);
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
  EXPECT_EQ(team_->QuitNow(), 0);
}

TEST_F(TeamInHand, QuitNowInsideAWork) {
  MakeInline(Soft());
  int64_t dropped = -1;
  ASSERT_TRUE(team_->Do([&] { dropped = team_->QuitNow(); }).ok());
  Give(2);
  StepToTheEnd();
  EXPECT_EQ(dropped, 2);
  EXPECT_THAT(log_, testing::IsEmpty());
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
}

// Under a lock, each of these calls would wait for itself.
TEST_F(TeamInHand, QuitNowDestroysOutsideOfTheLocks) {
  soft_limit_ = 0;
  MakeInline(Soft());
  int destroyed = 0;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(team_
                    ->Do([probe = OnDestruction([&] {
                            ++destroyed;
                            EXPECT_TRUE(IsAlreadyQuit(team_->Do([] {})));
                            EXPECT_TRUE(IsAlreadyQuit(team_->Quit()));
                            EXPECT_EQ(team_->QuitNow(), 0);
                            EXPECT_EQ(statistics().backlogged, 0);
                            team_->Poke();
                          })] {})
                    .ok());
  }
  EXPECT_EQ(team_->QuitNow(), 3);
  EXPECT_EQ(destroyed, 3);
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
}

// It does not wait then: what runs still ends.
TEST_F(TeamInHand, QuitNowMayDropTheLastReferenceToTheTeam) {
  for (bool busy : {false, true}) {
    const int before = made();
    soft_limit_ = busy ? 1 : 0;
    MakeInline(Soft());
    if (busy) Give("runs");
    int destroyed = 0;
    Team* const raw = team_.get();
    ASSERT_TRUE(raw->Do([own = std::move(team_),
                         probe = OnDestruction([&destroyed] { ++destroyed; })] { FAIL(); })
                    .ok());
    ASSERT_TRUE(raw->Do([probe = OnDestruction([&destroyed] { ++destroyed; })] { FAIL(); }).ok());
    EXPECT_EQ(raw->QuitNow(), 2);
    EXPECT_EQ(destroyed, 2);
    if (busy) {
      EXPECT_EQ(made(), before + 1);
      StepToTheEnd();
      EXPECT_THAT(log_, testing::ElementsAre("runs"));
      EXPECT_EQ((*workers_[before])(), Performed::kFinished);
    }
  }
  EXPECT_THAT(errors_, testing::IsEmpty());
}

// The same with threads: the Team dies on the thread that calls QuitNow, and does not wait there.
TEST(Team, QuitNowMayDropTheLastReferenceToATeamOfThreads) {
  CountingThreadFactory factory;
  Gate all_gone;
  std::shared_ptr<void> last = OnDestruction([&] { all_gone.Open(); });
  auto team = *Team::Create(
      {.coordinator = std::make_unique<LockWorker>(),
       .create_worker = [&factory, last] { return ThreadWorker::Create({.factory = &factory}); },
       .limits = {.soft_limit = [] { return 1; }}});
  last = nullptr;
  Gate busy;
  Gate release;
  std::atomic<int> ran = 0;
  Team* const raw = team.get();
  ASSERT_TRUE(raw->Do([&] {
                   busy.Open();
                   release.Wait();
                   ++ran;
                 })
                  .ok());
  busy.Wait();
  ASSERT_TRUE(raw->Do([&ran, own = std::move(team)] { ++ran; }).ok());
  ASSERT_TRUE(raw->Do([&ran] { ++ran; }).ok());
  EXPECT_EQ(raw->QuitNow(), 2);
  release.Open();
  all_gone.Wait();
  factory.Finish();
  EXPECT_EQ(ran, 1);
  EXPECT_EQ(factory.started(), 1);
  EXPECT_EQ(factory.joined(), 1);
}

// A Do is between the Team's door and its coordinator while all of a QuitNow happens.
TEST_F(TeamInHand, QuitNowOvertakesADo) {
  auto owned = std::make_unique<GatedCoordinator>();
  GatedCoordinator& coordinator = *owned;
  MakeWith(std::move(owned), {}, &clock_);
  std::atomic<int> ran = 0;
  absl::Status taken = absl::InternalError("not called");
  coordinator.hold_next = true;
  std::thread producer([&] {
    taken = team_->Do([&] { ++ran; });
    coordinator.held.Open();  // also where the coordinator was not asked
  });
  coordinator.held.Wait();
  const int64_t dropped = team_->QuitNow();
  coordinator.release.Open();
  producer.join();
  StepToTheEnd();
  EXPECT_TRUE(taken.ok() || IsAlreadyQuit(taken)) << taken;
  EXPECT_EQ(ran + dropped, taken.ok() ? 1 : 0);
  EXPECT_EQ(statistics().dropped, dropped);
  EXPECT_EQ(coordinator.quits, 1);
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
}

// A worker's work has ended, and it is on its way to the coordinator.
TEST_F(TeamInHand, QuitNowOvertakesAWorkerThatHasJustFinished) {
  auto owned = std::make_unique<GatedCoordinator>();
  GatedCoordinator& coordinator = *owned;
  MakeWith(std::move(owned), Soft(), &clock_);
  Give(3);
  coordinator.hold_next = true;
  std::thread stepper([&] {
    EXPECT_EQ((*workers_[0])(), Performed::kRan);
    coordinator.held.Open();  // also where the coordinator was not asked
  });
  coordinator.held.Wait();
  const int64_t dropped = team_->QuitNow();
  coordinator.release.Open();
  stepper.join();
  StepToTheEnd();
  EXPECT_EQ(static_cast<int64_t>(log_.size()) + dropped, 3);
  EXPECT_GE(dropped, 1);
  EXPECT_EQ(statistics().completed, static_cast<int64_t>(log_.size()));
  EXPECT_EQ(statistics().dropped, dropped);
  EXPECT_THAT(errors_, testing::IsEmpty());
  EXPECT_EQ(coordinator.quits, 1);
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
}

// And a Quit that is on its way there.
TEST_F(TeamInHand, QuitNowOvertakesAQuit) {
  auto owned = std::make_unique<GatedCoordinator>();
  GatedCoordinator& coordinator = *owned;
  MakeWith(std::move(owned), Soft(), &clock_);
  Give(3);
  absl::Status quit = absl::InternalError("not called");
  coordinator.hold_next = true;
  std::thread quitter([&] {
    quit = team_->Quit();
    coordinator.held.Open();  // also where the coordinator was not asked
  });
  coordinator.held.Wait();
  EXPECT_EQ(team_->QuitNow(), 2);
  EXPECT_EQ(team_->QuitNow(), 0);
  coordinator.release.Open();
  quitter.join();
  EXPECT_TRUE(quit.ok() || IsAlreadyQuit(quit)) << quit;
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("0"));
  EXPECT_EQ(coordinator.quits, 1);
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
}

// While a worker is being made: QuitNow does not wait for it, and takes the work it was for.
TEST_F(TeamInHand, QuitNowDoesNotWaitForAWorkerThatIsBeingMade) {
  enum Answer { kMade, kNotNow, kFails, kThrows };
  for (Answer answer : {kMade, kNotNow, kFails, kThrows}) {
    SCOPED_TRACE(answer);
    Gate making;
    Gate go_on;
    workers_.clear();
    errors_.clear();
    create_ = [&, answer]() -> Made {
      making.Open();
      go_on.Wait();
      if (answer == kFails) return absl::UnavailableError("no thread left");
      if (answer == kThrows) throw std::runtime_error("boom");
      if (answer == kNotNow) return nullptr;
      return CreateMemory();
    };
    MakeInline(Soft());
    std::atomic<int> ran = 0;
    std::thread producer([&] { EXPECT_TRUE(team_->Do([&] { ++ran; }).ok()); });
    making.Wait();
    ASSERT_TRUE(team_->Do([&] { ++ran; }).ok());
    EXPECT_EQ(statistics().starting, 1);
    EXPECT_EQ(team_->QuitNow(), 2);
    EXPECT_EQ(team_->QuitNow(), 0);
    EXPECT_TRUE(absl::IsDeadlineExceeded(team_->Join(absl::ZeroDuration())));
    go_on.Open();
    producer.join();
    StepToTheEnd();
    EXPECT_EQ(ran, 0);
    EXPECT_EQ(made(), answer == kMade ? 1 : 0);
    EXPECT_EQ(ended(), made());
    EXPECT_EQ(errors_.size(), answer == kFails || answer == kThrows ? 1u : 0u);
    EXPECT_EQ(statistics().dropped, 2);
    EXPECT_EQ(statistics().live, 0);
    EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
    team_ = nullptr;
  }
}

// One of the two is held in the destructor of what it drops: each work is counted once.
TEST_F(TeamInHand, QuitNowInTwoThreadsCountsEachWorkOnce) {
  soft_limit_ = 0;
  MakeInline(Soft());
  Gate dropping;
  Gate go_on;
  std::atomic<int> destroyed = 0;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(team_
                    ->Do([probe = OnDestruction([&, i] {
                            ++destroyed;
                            if (i != 0) return;
                            dropping.Open();
                            go_on.Wait();
                          })] { FAIL(); })
                    .ok());
  }
  int64_t first = 0;
  std::thread thread([&] { first = team_->QuitNow(); });
  dropping.Wait();
  const int64_t second = team_->QuitNow();
  EXPECT_TRUE(IsAlreadyQuit(team_->Do([] {})));
  EXPECT_EQ(statistics().backlogged, 0);
  go_on.Open();
  thread.join();
  EXPECT_EQ(first + second, 5);
  EXPECT_GE(first, 1);
  EXPECT_EQ(destroyed, 5);
  EXPECT_EQ(statistics().dropped, 5);
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
}

TEST_F(TeamInHand, QuitNowInCreateWorkerInTheHandlerAndInThen) {
  std::vector<int64_t> dropped;
  record_ = [&](const ErrorReport&) { dropped.push_back(team_->QuitNow()); };
  soft_limit_ = 0;
  MakeInline(Soft());
  create_ = [&]() -> Made {
    dropped.push_back(team_->QuitNow());
    return absl::UnavailableError("no thread left");
  };
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(team_->Do([] { FAIL(); }).ok());
  soft_limit_ = 1;
  team_->Poke();
  EXPECT_THAT(dropped, testing::ElementsAre(2, 0));
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
  team_ = nullptr;

  create_ = [this] { return CreateMemory(); };
  dropped.clear();
  MakeInline(Soft());
  ASSERT_TRUE(team_->DoThen([] {}, [&] { dropped.push_back(team_->QuitNow()); }).ok());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(team_->Do(Logging("another")).ok());
  StepToTheEnd();
  // The worker counts as idle in `then`: the next work may be its own already.
  ASSERT_EQ(dropped.size(), 1u);
  EXPECT_EQ(dropped[0] + static_cast<int64_t>(log_.size()), 3);
  EXPECT_LE(log_.size(), 1u);
  End();
}

// --- what is called under no lock -----------------------------------------------------------

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

// --- captures -------------------------------------------------------------------------------

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

// --- the end --------------------------------------------------------------------------------

TEST_F(TeamInHand, Hazard2_DestroyedInItsOwnWorkItRunsWhatWasTaken) {
  Make(Soft());
  Team* const raw = team_.get();
  ASSERT_TRUE(raw->Do([this, own = std::move(team_)]() mutable {
                   ASSERT_TRUE(own->Do(Logging("taken in it")).ok());
                   own = nullptr;
                   log_.push_back("work");
                 })
                  .ok());
  ASSERT_TRUE(raw->Do(Logging("taken before")).ok());
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work", "taken before", "taken in it"));
  EXPECT_EQ(ended(), made());
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
}

TEST(Team, Hazard2_DestroyedOnItsOwnThreadItRunsWhatWasTakenAndEachThreadIsJoined) {
  Gate begin;
  Gate all_gone;
  std::atomic<int> ran = 0;
  CountingThreadFactory factory;
  // Dies with the last that is left of the Team, wherever that is.
  std::shared_ptr<void> last = OnDestruction([&] { all_gone.Open(); });
  auto team = *Team::Create(
      {.coordinator = std::make_unique<LockWorker>(),
       .create_worker = [&factory, last] { return ThreadWorker::Create({.factory = &factory}); },
       .limits = {.soft_limit = [] { return 2; }}});
  last = nullptr;
  Team* const raw = team.get();
  ASSERT_TRUE(raw->Do([&] { begin.Wait(); }).ok());
  ASSERT_TRUE(raw->DoThen([&] { begin.Wait(); },
                          [&, own = std::move(team)]() mutable {
                            for (int i = 0; i < 10; ++i) {
                              EXPECT_TRUE(own->Do([&] { ran.fetch_add(1); }).ok());
                            }
                            own = nullptr;
                          })
                  .ok());
  begin.Open();
  all_gone.Wait();
  factory.Finish();
  EXPECT_EQ(ran, 10);
  EXPECT_EQ(factory.started(), 2);
  EXPECT_EQ(factory.joined(), 2);
}

TEST(Team, DestructionQuitsAndWaitsForAllOfIt) {
  CountingThreadFactory factory;
  std::atomic<int> ran = 0;
  {
    auto team = *Team::Create(
        {.coordinator = std::make_unique<LockWorker>(),
         .create_worker = [&factory] { return ThreadWorker::Create({.factory = &factory}); },
         .limits = {.soft_limit = [] { return 2; }}});
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(team->Do([&] { ++ran; }).ok());
  }
  EXPECT_EQ(ran, 1000);
  EXPECT_LE(factory.started(), 2);
  EXPECT_EQ(factory.started(), factory.joined());
  EXPECT_EQ(factory.orphaned(), 0);
}

// A coordinator with a thread of its own: when the Team is gone, so is that thread, and factories
// may go too. What comes after the end disturbs nobody.
TEST(Team, ACoordinatorWithAThreadOfItsOwnEndsWithTheTeam) {
  for (int round = 0; round < 50; ++round) {
    CountingThreadFactory factory;
    std::atomic<int> ran = 0;
    {
      auto team = *Team::Create(
          {.coordinator = *ThreadWorker::Create({.factory = &factory}),
           .create_worker = [&factory] { return ThreadWorker::Create({.factory = &factory}); },
           .limits = {.soft_limit = [] { return 2; }}});
      for (int i = 0; i < 10; ++i) ASSERT_TRUE(team->Do([&] { ++ran; }).ok());
      std::thread poking([&] {
        for (int i = 0; i < 20; ++i) team->Poke();
      });
      EXPECT_TRUE(team->Shrink(1).ok());
      EXPECT_TRUE(team->Quit().ok());
      EXPECT_TRUE(team->Join().ok());
      EXPECT_EQ(team->QuitNow(), 0);
      team->Poke();
      poking.join();
    }
    EXPECT_EQ(ran, 10);
  }
}

// --- what steps a worker or the coordinator is destroyed ------------------------------------

TEST_F(TeamInHand, ACoordinatorThatIsDestroyedWithWorkInItDropsTheBacklogAndReports) {
  Make();
  auto alive = std::make_shared<int>();
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(team_->Do([alive] { FAIL(); }).ok());
  coordinator_.reset();
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_THAT(errors_,
              testing::ElementsAre(
                  "team: accepted work was dropped unrun: the team's coordinator is gone 2"));
  EXPECT_EQ(statistics().dropped, 2);
  Work work = Logging("refused");
  EXPECT_TRUE(IsAlreadyQuit(team_->Do(std::move(work))));
  EXPECT_TRUE(work != nullptr);
  team_->Quit().IgnoreError();
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
  team_ = nullptr;
}

TEST_F(TeamInHand, WhatRunsWhenTheCoordinatorIsDestroyedStillEnds) {
  Make(Soft());
  Give("runs");
  Coordinate();
  Give("dropped");
  coordinator_.reset();
  EXPECT_EQ((*workers_[0])(), Performed::kRan);
  EXPECT_THAT(log_, testing::ElementsAre("runs"));
  EXPECT_EQ((*workers_[0])(), Performed::kRan);  // its last work
  EXPECT_EQ((*workers_[0])(), Performed::kFinished);
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
  EXPECT_EQ(errors_.size(), 1u);
}

// It has nothing of the Team's then: whoever comes next finds out.
TEST_F(TeamInHand, ACoordinatorThatIsDestroyedAtRestRefusesWhatComes) {
  Make();
  EXPECT_TRUE(team_->Grow(1).ok());
  Coordinate();
  coordinator_.reset();
  for (int i = 0; i < 2; ++i) {
    Work work = Logging("refused");
    EXPECT_TRUE(IsAlreadyQuit(team_->Do(std::move(work))));
    EXPECT_TRUE(work != nullptr);
  }
  EXPECT_EQ(made(), 1);
  team_->Quit().IgnoreError();
  StepToTheEnd();
  EXPECT_THAT(log_, testing::IsEmpty());
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
}

TEST_F(TeamInHand, ACoordinatorThatIsDestroyedAtRestMakesNoWorkers) {
  Make();
  coordinator_.reset();
  for (int i = 0; i < 3; ++i) {
    Work work = Logging("refused");
    EXPECT_TRUE(IsAlreadyQuit(team_->Do(std::move(work))));
    EXPECT_TRUE(work != nullptr);
  }
  StepToTheEnd();
  EXPECT_EQ(made(), 0);
}

TEST_F(TeamInHand, AWorkerThatIsDestroyedWithWorkInItDropsItAndReports) {
  Make(Soft());
  auto alive = std::make_shared<int>();
  ASSERT_TRUE(team_->DoThen([alive] { FAIL(); }, [alive] { FAIL(); }).ok());
  Coordinate();
  Give("next");
  workers_[0].reset();
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_THAT(errors_, testing::ElementsAre(
                           "team: accepted work was dropped unrun: its worker destroyed it 1"));
  StepToTheEnd();  // the next is refused by it, and gets another one
  EXPECT_THAT(log_, testing::ElementsAre("next"));
  EXPECT_EQ(statistics().dropped, 1);
  EXPECT_EQ(statistics().live, 1);
}

// It destroyed a work, but it is open: it goes on.
TEST_F(TeamInHand, AWorkerThatOnlyDropsItsWorkIsIdleThen) {
  Make(Soft());
  ASSERT_TRUE(team_->Do([] { FAIL(); }).ok());
  Coordinate();
  EXPECT_EQ(workers_[0]->Drop(), 1u);
  Coordinate();
  EXPECT_EQ(statistics().idle, 1);
  Give("next");
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("next"));
  EXPECT_EQ(made(), 1);
}

TEST_F(TeamInHand, AWorkerThatIsDestroyedBeforeItsLastWorkHasEnded) {
  Make();
  EXPECT_TRUE(team_->Grow(2).ok());
  Coordinate();
  EXPECT_TRUE(team_->Quit().ok());
  Coordinate();
  EXPECT_EQ(statistics().ending, 2);
  workers_[0].reset();
  workers_[1]->Drop();
  Coordinate();
  EXPECT_EQ(statistics().live, 0);
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
}

// A captured destructor runs where the work is dropped: on whoever destroys the worker.
TEST_F(TeamInHand, Hazard1_ADroppedCaptureMayHoldTheLastReference) {
  MakeInline(Soft());
  Team* const raw = team_.get();
  ASSERT_TRUE(raw->Do([own = std::move(team_)] { FAIL(); }).ok());
  EXPECT_EQ(queued(0), 1u);
  workers_[0].reset();
  EXPECT_EQ(errors_.size(), 1u);
}

// The same where the Team itself drops it, on the thread of the last worker that goes.
TEST_F(TeamInHand, Hazard1_ACaptureThatTheTeamDropsMayHoldTheLastReference) {
  MakeInline(Soft());
  Team* const raw = team_.get();
  Give("work");
  ASSERT_TRUE(raw->Do([own = std::move(team_)] { FAIL(); }).ok());
  soft_limit_ = 0;  // nobody comes after the one that is there
  EXPECT_TRUE(raw->Shrink().ok());
  EXPECT_TRUE(raw->Quit().ok());
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("work"));
  EXPECT_EQ(errors_.size(), 1u);
  EXPECT_EQ(ended(), 1);
}

// One worker works its way through the backlog while no second can be made: in a flood of works
// there are few failures, not one for each.
TEST_F(TeamInHand, W4_WorksThatComeAndEndMakeNoFloodOfFailures) {
  create_ = [this]() -> Made {
    if (made() == 0) return CreateMemory();
    return absl::ResourceExhaustedError("no thread");
  };
  soft_limit_ = 2;
  MakeInline(Soft());
  Give(1000);
  EXPECT_EQ(statistics().creation_failures, 1);
  EXPECT_EQ((*workers_[0])(), Performed::kRan);  // and goes on with the next
  EXPECT_EQ(log_.size(), 1000u);
  EXPECT_EQ(statistics().creation_failures, 1);
  Give(2);
  EXPECT_EQ(statistics().creation_failures, 1);
  clock_.Advance(absl::Milliseconds(10));
  EXPECT_EQ(statistics().creation_failures, 2);
  Give(1);
  EXPECT_EQ(statistics().creation_failures, 2);
  team_->Poke();
  EXPECT_EQ(statistics().creation_failures, 3);
  create_ = [this] { return CreateMemory(); };
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(made(), 2);
}

// --- tickets --------------------------------------------------------------------------------

TEST_F(TeamInHand, AWithdrawnWorkIsDestroyedAtOnceAndNeitherWaitsNorRuns) {
  create_ = [this] { return CreateUpTo(1); };
  Make();
  Give("first");
  std::vector<std::string> destroyed;
  Team::Ticket tickets[3];
  for (int i = 0; i < 3; ++i) {
    const auto note = [&destroyed, i](const char* what) {
      return OnDestruction(
          [&destroyed, i, what] { destroyed.push_back(what + std::to_string(i)); });
    };
    tickets[i] = *team_->Enqueue(
        [this, i, note = note("work")] { log_.push_back(std::to_string(i)); },
        [this, i, note = note("then")] { log_.push_back("then " + std::to_string(i)); });
  }
  Coordinate();
  EXPECT_EQ(statistics().backlogged, 3);
  EXPECT_TRUE(tickets[1].IsBacklogged());
  EXPECT_TRUE(tickets[1].Withdraw());
  EXPECT_THAT(destroyed, testing::UnorderedElementsAre("work1", "then1"));
  EXPECT_EQ(statistics().backlogged, 2);
  EXPECT_EQ(statistics().withdrawn, 1);
  EXPECT_FALSE(tickets[1].IsBacklogged());
  EXPECT_FALSE(tickets[1].Withdraw());
  EXPECT_TRUE(tickets[2].Withdraw());  // the last of the backlog
  Give("last");
  EXPECT_TRUE(tickets[0].Withdraw());  // the first of it
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("first", "last"));
  const TeamStatistics s = statistics();
  EXPECT_EQ(s.accepted, 5);
  EXPECT_EQ(s.completed + s.withdrawn, 5);
}

TEST_F(TeamInHand, WhatAWorkerHasIsNotWithdrawn) {
  Make();
  Team::Ticket ticket = *team_->Enqueue(Logging("work"));
  Coordinate();
  EXPECT_EQ(statistics().busy, 1);
  EXPECT_FALSE(ticket.IsBacklogged());
  EXPECT_FALSE(ticket.Withdraw());
  StepToTheEnd();
  EXPECT_FALSE(ticket.Withdraw());
  EXPECT_THAT(log_, testing::ElementsAre("work"));
}

TEST_F(TeamInHand, EnqueueRefusesAsDoDoes) {
  Make();
  EXPECT_EQ(team_->Enqueue(nullptr).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(team_->Quit().ok());
  Work work = Logging("work");
  Work then = Logging("then");
  EXPECT_TRUE(IsAlreadyQuit(team_->Enqueue(std::move(work), std::move(then)).status()));
  EXPECT_TRUE(work != nullptr);
  EXPECT_TRUE(then != nullptr);
}

TEST_F(TeamInHand, ATeamThatQuitsEndsWhereItsLastWorkIsWithdrawn) {
  create_ = [this] { return CreateUpTo(0); };
  Make();
  Team::Ticket ticket = *team_->Enqueue(Logging("work"));
  EXPECT_TRUE(ticket.Withdraw());
  EXPECT_TRUE(team_->Quit().ok());
  Coordinate();
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
  EXPECT_THAT(errors_, testing::IsEmpty());
  team_ = nullptr;
  EXPECT_FALSE(ticket.Withdraw());
  EXPECT_FALSE(ticket.IsBacklogged());
  EXPECT_FALSE(Team::Ticket().Withdraw());
}

TEST_F(TeamInHand, QuitNowTakesWhatHasTickets) {
  create_ = [this] { return CreateUpTo(0); };
  Make();
  Team::Ticket ticket = *team_->Enqueue(Logging("work"));
  EXPECT_EQ(team_->QuitNow(), 1);
  EXPECT_FALSE(ticket.Withdraw());
}

// --- waits ----------------------------------------------------------------------------------

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
    Team::Ticket ticket = *team_->Enqueue(Logging("awaited"));
    BlockingScope blocking;
    const absl::Status status = blocking.Awaits(ticket);
    if (!status.ok()) {
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(status.message(), testing::HasSubstr("team: the work waited for would never"));
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
                    Team::Ticket ticket = *team_->Enqueue(Logging("awaited"));
                    BlockingScope blocking;
                    EXPECT_TRUE(blocking.Awaits(ticket).ok());  // the other is merely busy
                    Step(1);
                  })
                  .ok());
  ASSERT_TRUE(team_
                  ->Do([&] {
                    BlockingScope blocking;  // and this one waits for something else
                    EXPECT_TRUE(blocking.Awaits(Team::Ticket()).ok());
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

// --- one wake at a time ---------------------------------------------------------------------

class SparingTeam : public TeamInHand {
 protected:
  SparingTeam() { one_wake_at_a_time_ = true; }
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
  soft_limit_ = 10;
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
  soft_limit_ = 0;
  Give(1);
  EXPECT_EQ(queued(0), 1u);
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("0"));
}

TEST_F(SparingTeam, AMarkedWorkerLeavesBeforeItTakesTheNext) {
  MakeIdle(1, Soft());
  Give(3);
  EXPECT_TRUE(team_->Shrink(1).ok());
  soft_limit_ = 0;
  Step(0);
  EXPECT_THAT(log_, testing::ElementsAre("0"));
  EXPECT_EQ(statistics().backlogged, 2);
  EXPECT_EQ(statistics().ending, 1);
}

TEST_F(SparingTeam, ALimitThatRisesIsNoticedByTheNextDo) {
  MakeIdle(1, Soft());
  Give(2);
  soft_limit_ = 2;
  EXPECT_EQ(made(), 1);
  Give(1);
  EXPECT_EQ(made(), 2);
}

TEST_F(SparingTeam, ALimitThatRisesIsNoticedByTheNextEndOfAWork) {
  MakeIdle(1, Soft());
  Give(3);
  soft_limit_ = 2;
  EXPECT_EQ(made(), 1);
  Step(0);
  EXPECT_EQ(made(), 2);
  EXPECT_EQ(queued(1), 1u);
}

TEST_F(SparingTeam, PokeTellsOfALimitAtOnce) {
  MakeIdle(1, Soft());
  Give(3);
  soft_limit_ = 2;
  EXPECT_EQ(made(), 1);
  team_->Poke();
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
  auto pool = *MakePool({.limits = {.min_workers = 2, .soft_limit = [] { return 2; }}});
  ASSERT_TRUE(pool->DoThen([] {},
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

// --- review ---------------------------------------------------------------------------------

// A coordinator of which a test decides what it does.
class CoordinatorInHand final : public IExclusiveWorker {
 public:
  explicit CoordinatorInHand(std::function<absl::Status(Work&&)> f) : do_(std::move(f)) {}
  absl::Status Do(Work&& work) override { return do_(std::move(work)); }
  absl::Status Quit() override { return absl::OkStatus(); }

 private:
  const std::function<absl::Status(Work&&)> do_;
};

// The work that its Do takes back is its own, also where another has got its place meanwhile.
TEST_F(TeamInHand, ADoWhoseCoordinatorIsGoneTakesBackItsOwnWork) {
  one_wake_at_a_time_ = true;
  LockWorker lock;
  std::atomic<int> nudges_when_gone = -1;  // not gone
  Gate second_taken, first_back;
  std::thread worker;
  absl::Status second;
  MakeWith(std::make_unique<CoordinatorInHand>([&](Work&& nudge) -> absl::Status {
             if (nudges_when_gone < 0) return lock.Do(std::move(nudge));
             const int nth = ++nudges_when_gone;
             if (nth == 1) {  // in the first Do: its work is taken past us, and ends
               soft_limit_ = 1;
               worker = std::thread([this] { EXPECT_EQ((*workers_[0])(), Performed::kRan); });
               second_taken.Wait();
             } else if (nth == 2) {  // where the worker has finished
               second = team_->Do(Logging("second"));
               second_taken.Open();
               first_back.Wait();
             }
             return AlreadyQuitError("coordinator");
           }),
           Soft(), &clock_);
  Give("busy");
  soft_limit_ = 2;  // so that Do asks the coordinator
  nudges_when_gone = 0;
  Work first = Logging("first");
  EXPECT_TRUE(team_->Do(std::move(first)).ok());  // it has run
  EXPECT_TRUE(second.ok());
  first_back.Open();
  worker.join();
  EXPECT_THAT(log_, testing::ElementsAre("busy", "first"));
  EXPECT_EQ(statistics().accepted, 3);
  EXPECT_EQ(statistics().completed, 2);
  EXPECT_EQ(statistics().dropped, 1);
  End();
}

// An idle worker is released in time, although what it was kept for is gone past the coordinator.
TEST_F(TeamInHand, AnIdleWorkerIsReleasedInTimeWhereTheWorkItWasKeptForWasTaken) {
  one_wake_at_a_time_ = true;
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
  EXPECT_EQ(idle_then, 1);
  EXPECT_EQ(idle_later, 0);
  EXPECT_EQ(live_later, 3);  // worker 0 is ending
  End();
}

TEST_F(TeamInHand, AnIdleWorkerIsReleasedInTimeWhereTheWorkItWasKeptForWasWithdrawn) {
  one_wake_at_a_time_ = true;
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
  EXPECT_TRUE(ticket->Withdraw());
  EXPECT_EQ((*workers_[1])(), Performed::kRan);
  EXPECT_EQ(idle_later, 0);
  End();
}

// A clock that takes nothing.
class DeafClock final : public Clock {
 public:
  absl::Duration Now() const override { return absl::ZeroDuration(); }
  absl::Status RunAt(absl::Duration, Work&&) override { return absl::UnavailableError("deaf"); }
};

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
                    EXPECT_TRUE(ticket->Withdraw());
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
  one_wake_at_a_time_ = true;
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
  one_wake_at_a_time_ = true;
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

// Fit and what comes after it count in their order.
TEST_F(TeamInHand, AShrinkAfterFitShrinks) {
  Make(Soft());
  Coordinate();
  ASSERT_TRUE(team_->Fit(3, 10).ok());
  ASSERT_TRUE(team_->Shrink(2).ok());
  Coordinate();
  EXPECT_EQ(statistics().live - statistics().ending, 1);
  End();
}

// The bound is one of works that wait, and there is somebody for these.
TEST_F(TeamInHand, AFullBacklogIsNoneThatIdleWorkersAreThereFor) {
  one_wake_at_a_time_ = true;
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

// What a Poke sets going may destroy the team, while the Poke has not returned.
TEST_F(TeamInHand, AWorkMayDestroyTheTeamWhileThePokeThatLedToItReturns) {
  soft_limit_ = 0;
  bool poked = false;
  auto lock = std::make_shared<LockWorker>();
  MakeWith(std::make_unique<CoordinatorInHand>([this, lock, &poked](Work&& nudge) -> absl::Status {
             const std::shared_ptr<LockWorker> held = lock;
             const absl::Status status = held->Do(std::move(nudge));
             if (std::exchange(poked, false)) {
               std::thread([this] {  // another visit carries out what was decided
                 team_->Poke();
                 while ((*workers_[0])() == Performed::kRan) {
                 }
               })
                   .join();
             }
             return status;
           }),
           Soft(), nullptr);
  ASSERT_TRUE(team_->Do([this] { team_ = nullptr; }).ok());
  soft_limit_ = 1;
  poked = true;
  team_->Poke();
  EXPECT_EQ(team_, nullptr);
}

}  // namespace
}  // namespace workers
