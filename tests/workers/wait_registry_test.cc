#include "workers/internal/wait_registry.h"

#include "gtest/gtest.h"

namespace workers::internal {
namespace {

TEST(WaitRegistry, AnItemInTheBacklogOfAFullTeamIsNeverReachedIfAllWait) {
  WaitRegistry waits;
  Waiter first, second;
  Awaitable queued = {.queued = true};
  EXPECT_TRUE(waits.Add(first, queued, false, true, 2));
  EXPECT_FALSE(waits.Add(second, queued, false, true, 2));
  EXPECT_TRUE(waits.Add(second, queued, false, false, 2));  // the team can grow
  waits.Remove(first);
  waits.Remove(second);
  EXPECT_TRUE(waits.Add(second, queued, false, true, 2));
  waits.Remove(second);
}

// FAULTS A3.
TEST(WaitRegistry, AWaitWithADeadlineEnds) {
  WaitRegistry waits;
  Waiter first, second;
  Awaitable queued = {.queued = true};
  EXPECT_TRUE(waits.Add(first, queued, true, true, 2));
  EXPECT_TRUE(waits.Add(second, queued, false, true, 2));
  waits.Remove(first);
  waits.Remove(second);
}

// FAULTS A2: an item that runs on a worker that waits for the backlog, however long the chain.
TEST(WaitRegistry, AWaitForAWorkerThatWaitsWithoutEndIsEndless) {
  WaitRegistry waits;
  constexpr int kWorkers = 10;
  Waiter waiters[kWorkers];
  Awaitable running[kWorkers];
  Awaitable queued = {.queued = true};
  for (int i = 0; i + 1 < kWorkers; ++i) {
    running[i].runs_on = &waiters[i + 1];
    EXPECT_TRUE(waits.Add(waiters[i], running[i], false, true, kWorkers));
  }
  EXPECT_FALSE(waits.Add(waiters[kWorkers - 1], queued, false, true, kWorkers));
  EXPECT_TRUE(waits.Add(waiters[kWorkers - 1], queued, true, true, kWorkers));
  for (Waiter& waiter : waiters) waits.Remove(waiter);
}

TEST(WaitRegistry, TwoThatWaitForEachOtherAreFound) {
  WaitRegistry waits;
  Waiter first, second;
  Awaitable on_first = {.runs_on = &first}, on_second = {.runs_on = &second};
  EXPECT_TRUE(waits.Add(first, on_second, false, false, 5));
  EXPECT_FALSE(waits.Add(second, on_first, false, false, 5));
  waits.Remove(first);
}

TEST(WaitRegistry, AnItemThatHasEndedEndsTheWait) {
  WaitRegistry waits;
  Waiter waiter;
  Awaitable over;
  EXPECT_TRUE(waits.Add(waiter, over, false, true, 1));
  waits.Remove(waiter);
  waits.Remove(waiter);  // harmless
}

}  // namespace
}  // namespace workers::internal
