// What a WorkHandle may do.

#include "workers/work_handle.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/workers/team_in_hand.h"
#include "workers/team.h"
#include "workers/worker.h"

namespace workers {
namespace {

TEST_F(TeamInHand, AWithdrawnWorkIsDestroyedAtOnceAndNeitherWaitsNorRuns) {
  create_ = [this] { return CreateUpTo(1); };
  Make();
  Give("first");
  std::vector<std::string> destroyed;
  WorkHandle tickets[3];
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
  EXPECT_TRUE(tickets[1].IsQueued());
  EXPECT_TRUE(tickets[1].TryCancel());
  EXPECT_THAT(destroyed, testing::UnorderedElementsAre("work1", "then1"));
  EXPECT_EQ(statistics().backlogged, 2);
  EXPECT_EQ(statistics().withdrawn, 1);
  EXPECT_FALSE(tickets[1].IsQueued());
  EXPECT_FALSE(tickets[1].TryCancel());
  EXPECT_TRUE(tickets[2].TryCancel());  // the last of the backlog
  Give("last");
  EXPECT_TRUE(tickets[0].TryCancel());  // the first of it
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("first", "last"));
  const TeamStatistics s = statistics();
  EXPECT_EQ(s.accepted, 5);
  EXPECT_EQ(s.completed + s.withdrawn, 5);
}

TEST_F(TeamInHand, WhatAWorkerHasIsNotWithdrawn) {
  Make();
  WorkHandle ticket = *team_->Enqueue(Logging("work"));
  Coordinate();
  EXPECT_EQ(statistics().busy, 1);
  EXPECT_FALSE(ticket.IsQueued());
  EXPECT_FALSE(ticket.TryCancel());
  StepToTheEnd();
  EXPECT_FALSE(ticket.TryCancel());
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
  WorkHandle ticket = *team_->Enqueue(Logging("work"));
  EXPECT_TRUE(ticket.TryCancel());
  EXPECT_TRUE(team_->Quit().ok());
  Coordinate();
  EXPECT_TRUE(team_->Join(absl::ZeroDuration()).ok());
  EXPECT_THAT(errors_, testing::IsEmpty());
  team_ = nullptr;
  EXPECT_FALSE(ticket.TryCancel());
  EXPECT_FALSE(ticket.IsQueued());
  EXPECT_FALSE(WorkHandle().TryCancel());
}

TEST_F(TeamInHand, QuitNowDropsItemsThatHaveHandles) {
  create_ = [this] { return CreateUpTo(0); };
  Make();
  WorkHandle ticket = *team_->Enqueue(Logging("work"));
  EXPECT_EQ(team_->QuitNow(), 1);
  EXPECT_FALSE(ticket.TryCancel());
}

}  // namespace
}  // namespace workers
