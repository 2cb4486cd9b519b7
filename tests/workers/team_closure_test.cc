// What Team::Do does with a closure of any type.

#include <array>
#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/allocations.h"
#include "tests/workers/team_in_hand.h"
#include "workers/team.h"

namespace workers {
namespace {

// Cannot be copied, and adds what it owns.
struct Adds {
  Adds(int* sum, int n) : sum(sum), n(std::make_unique<int>(n)) {}
  int* sum;
  std::unique_ptr<int> n;
  void operator()() && { *sum += *n; }
};

using TeamClosure = TeamInHand;

TEST_F(TeamClosure, RunsClosuresOfEverySize) {
  Make();
  int sum = 0;
  const std::array<char, 1000> large = {};
  ASSERT_TRUE(team_->Do(Adds(&sum, 1)).ok());
  ASSERT_TRUE(team_->Do([&sum, large] { sum += static_cast<int>(large.size()); }).ok());
  const std::function<void()> copied = [&sum] { sum += 7; };
  ASSERT_TRUE(team_->Do(copied).ok());
  StepToTheEnd();
  EXPECT_EQ(sum, 1008);
  EXPECT_EQ(team_->statistics().completed, 3);
}

TEST_F(TeamClosure, AnEmptyFunctionIsInvalid) {
  Make();
  EXPECT_TRUE(absl::IsInvalidArgument(team_->Do(std::function<void()>())));
  EXPECT_TRUE(absl::IsInvalidArgument(team_->Do(static_cast<void (*)()>(nullptr))));
  EXPECT_TRUE(absl::IsInvalidArgument(team_->Do(nullptr)));
  EXPECT_EQ(team_->statistics().accepted, 0);
}

TEST_F(TeamClosure, ARefusedClosureIsUntouched) {
  TeamLimits limits;
  limits.max_backlog = 1;
  Make(limits);
  int sum = 0;
  ASSERT_TRUE(team_->Do(Adds(&sum, 1)).ok());
  Adds full(&sum, 2);
  EXPECT_TRUE(absl::IsResourceExhausted(team_->Do(std::move(full))));
  ASSERT_NE(full.n, nullptr);
  EXPECT_EQ(*full.n, 2);
  struct Large : Adds {
    using Adds::Adds;
    std::array<char, 1000> rest = {};
  };
  Large large(&sum, 3);
  EXPECT_TRUE(absl::IsResourceExhausted(team_->Do(std::move(large))));
  ASSERT_NE(large.n, nullptr);
  EXPECT_EQ(*large.n, 3);
  team_->Quit().IgnoreError();
  EXPECT_TRUE(IsAlreadyQuit(team_->Do(std::move(full))));
  ASSERT_NE(full.n, nullptr);
  StepToTheEnd();
  EXPECT_EQ(sum, 1);
}

// Each allocation of a Do fails in turn: it is a refusal that leaves the closure untouched and is
// counted, or it has worked.
TEST(TeamClosureMemory, ADoWithoutMemoryIsACountedRefusal) {
  test::SweepAllocations([](test::FailingAllocations& failing) {
    auto team = *Team::Create({.coordinator = std::make_unique<LockWorker>(),
                               .create_worker = []() -> Made { return nullptr; },
                               .on_error = [](const ErrorReport&) {}});
    int sum = 0;
    Adds adds(&sum, 2);
    absl::Status status;
    EXPECT_TRUE(failing.During([&] { status = team->Do(std::move(adds)); }));
    const TeamStatistics statistics = team->statistics();
    EXPECT_EQ(statistics.accepted, status.ok() ? 1 : 0);
    EXPECT_EQ(statistics.refused, status.ok() ? 0 : 1);
    EXPECT_EQ(adds.n == nullptr, status.ok());
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
  });
}

// The coordinator is gone before any decision: the item comes back out of the backlog.
TEST_F(TeamClosure, AClosureThatTheCoordinatorRefusesIsUntouched) {
  auto coordinator = std::make_unique<LockWorker>();
  LockWorker& handle = *coordinator;
  MakeWith(std::move(coordinator), {}, &clock_);
  handle.Quit().IgnoreError();
  int sum = 0;
  Adds adds(&sum, 2);
  EXPECT_TRUE(IsAlreadyQuit(team_->Do(std::move(adds))));
  ASSERT_NE(adds.n, nullptr);
  EXPECT_EQ(*adds.n, 2);
  const TeamStatistics statistics = team_->statistics();
  EXPECT_EQ(statistics.accepted, 0);
  EXPECT_EQ(statistics.refused, 1);
}

// A move constructor that may throw is called before anything has changed.
struct ThrowsWhenMoved {
  ThrowsWhenMoved(bool* ran, int moves) : ran(ran), moves(moves) {}
  ThrowsWhenMoved(ThrowsWhenMoved&& other)  // NOLINT: may throw, which is the point
      : ran(other.ran), moves(other.moves - 1) {
    if (moves < 0) throw std::runtime_error("moved");
  }
  bool* ran;
  int moves;
  void operator()() { *ran = true; }
};

TEST_F(TeamClosure, WhatAMoveThrowsLeavesNothingBehind) {
  Make();
  bool ran = false;
  EXPECT_THROW(team_->Do(ThrowsWhenMoved(&ran, 0)).IgnoreError(), std::runtime_error);
  EXPECT_EQ(team_->statistics().accepted, 0);
  EXPECT_TRUE(team_->Do(ThrowsWhenMoved(&ran, 100)).ok());
  StepToTheEnd();
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace workers
