// How a Team ends.

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
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
#include "workers/team.h"
#include "workers/testing/counting_thread_factory.h"
#include "workers/testing/gate.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace workers {
namespace {

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
  team_->Grow(0).IgnoreError();
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
  EXPECT_THAT(
      errors_,
      testing::ElementsAre(
          "team: accepted work items were dropped without running: the team has quit, has no "
          "worker and cannot create one 3"));
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
            "team: accepted work items were dropped without running: the team has quit, has no "
            "worker and cannot "
            "create one 2");
  EXPECT_EQ((*coordinator_)(), Performed::kFinished);
}

TEST_F(TeamInHand, T2_ABacklogThatSomebodyPerformsIsNotDropped) {
  Make(Soft());
  Give(5);
  Coordinate();
  EXPECT_EQ(statistics().backlogged, 4);
  EXPECT_TRUE(team_->Quit().ok());
  Coordinate();
  SetSoftLimit(0);  // the one that is there is enough
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

// T11: whoever hears of the result gives the next work, and finds no idle worker in the original.
TEST_F(TeamInHand, T11_SequentialJobsGivenFromThenNeedOneWorker) {
  Make();
  std::function<void(int)> give = [&](int left) {
    ASSERT_TRUE(team_
                    ->Enqueue(Logging("work"),
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
                    ->Enqueue(Logging("work"),
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
      ASSERT_TRUE(
          team->Enqueue([] {}, [&, left] { left > 1 ? give(left - 1) : done.Open(); }).ok());
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
          team->Enqueue([] {}, [&, left] { left > 1 ? give(gate, left - 1) : gate.Open(); }).ok());
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
    ASSERT_TRUE(team->Enqueue([] { pthread_exit(nullptr); }, [&] { ++ran; }).ok());
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
  ASSERT_TRUE(team_->Enqueue(join, join).ok());
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
                            team_->Grow(0).IgnoreError();
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
       .limits = {.soft_limit = 1}});
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
  SetSoftLimit(1);
  team_->Grow(0).IgnoreError();
  EXPECT_THAT(dropped, testing::ElementsAre(2, 0));
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
  team_ = nullptr;

  create_ = [this] { return CreateMemory(); };
  dropped.clear();
  MakeInline(Soft());
  ASSERT_TRUE(team_->Enqueue([] {}, [&] { dropped.push_back(team_->QuitNow()); }).ok());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(team_->Do(Logging("another")).ok());
  StepToTheEnd();
  // The worker counts as idle in `then`: the next work may be its own already.
  ASSERT_EQ(dropped.size(), 1u);
  EXPECT_EQ(dropped[0] + static_cast<int64_t>(log_.size()), 3);
  EXPECT_LE(log_.size(), 1u);
  End();
}

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
       .limits = {.soft_limit = 2}});
  last = nullptr;
  Team* const raw = team.get();
  ASSERT_TRUE(raw->Do([&] { begin.Wait(); }).ok());
  ASSERT_TRUE(raw->Enqueue([&] { begin.Wait(); },
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
         .limits = {.soft_limit = 2}});
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
           .limits = {.soft_limit = 2}});
      for (int i = 0; i < 10; ++i) ASSERT_TRUE(team->Do([&] { ++ran; }).ok());
      std::thread poking([&] {
        for (int i = 0; i < 20; ++i) team->Grow(0).IgnoreError();
      });
      EXPECT_TRUE(team->Shrink(1).ok());
      EXPECT_TRUE(team->Quit().ok());
      EXPECT_TRUE(team->Join().ok());
      EXPECT_EQ(team->QuitNow(), 0);
      team->Grow(0).IgnoreError();
      poking.join();
    }
    EXPECT_EQ(ran, 10);
  }
}

TEST_F(TeamInHand, ACoordinatorThatIsDestroyedWithWorkInItDropsTheBacklogAndReports) {
  Make();
  auto alive = std::make_shared<int>();
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(team_->Do([alive] { FAIL(); }).ok());
  coordinator_.reset();
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_THAT(errors_, testing::ElementsAre("team: accepted work items were dropped without "
                                            "running: the team's coordinator is gone 2"));
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
  ASSERT_TRUE(team_->Enqueue([alive] { FAIL(); }, [alive] { FAIL(); }).ok());
  Coordinate();
  Give("next");
  workers_[0].reset();
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_THAT(
      errors_,
      testing::ElementsAre(
          "team: accepted work items were dropped without running: its worker destroyed it 1"));
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
  soft_limit_ = 0;
  MakeInline(Soft());
  Team* const raw = team_.get();
  ASSERT_TRUE(raw->Do([own = std::move(team_)] { FAIL(); }).ok());
  EXPECT_TRUE(raw->Quit().ok());
  EXPECT_EQ(errors_.size(), 1u);
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
  team_->Grow(0).IgnoreError();
  EXPECT_EQ(statistics().creation_failures, 3);
  create_ = [this] { return CreateMemory(); };
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(made(), 2);
}

}  // namespace
}  // namespace workers
