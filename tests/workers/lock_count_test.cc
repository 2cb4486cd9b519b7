// How many locks one work item costs, counted by the seam's observer. Runs in the simulation build.

#include <atomic>
#include <memory>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "workers/internal/sync.h"
#include "workers/pool.h"
#include "workers/team.h"
#include "workers/thread_worker.h"

namespace workers {
namespace {

// Counts, and notes when a thread other than the test's goes to sleep.
class LockCounter final : public internal::SyncObserver {
 public:
  LockCounter() { internal::sync_observer.store(this); }
  ~LockCounter() override { internal::sync_observer.store(nullptr); }

  void At(internal::SyncOp op, const void*) override {
    if (op == internal::SyncOp::kLocked) ++locked;
    if (op == internal::SyncOp::kWait && internal::CurrentThread() != test_) {
      ++sleeps;
      sleeps.notify_all();
    }
  }
  // Waits until a thread has gone to sleep since `before` was read.
  void AwaitSleep(int before) const { sleeps.wait(before); }

  std::atomic<int> locked = 0;
  std::atomic<int> sleeps = 0;

 private:
  const internal::ThreadId test_ = internal::CurrentThread();
};

TEST(LockCount, AnItemThroughAnIdlePoolTakesAtMostEightLocks) {
  static_assert(internal::kSimulation);
  LockCounter counter;
  {
    int asleep = counter.sleeps;
    auto pool = *MakePool({.limits = {.min_workers = 1, .soft_limit = 1}});
    counter.AwaitSleep(asleep);
    for (int i = 0; i < 100; ++i) {
      asleep = counter.sleeps;
      const int before = counter.locked;
      std::atomic<bool> ran = false;
      ASSERT_TRUE(pool->Do([&ran] { ran = true; }).ok());
      counter.AwaitSleep(asleep);
      EXPECT_TRUE(ran);
      EXPECT_LE(counter.locked - before, 8);
    }
  }
}

TEST(LockCount, AnItemOfABusyPoolTakesAtMostTwoLocks) {
  LockCounter counter;
  {
    auto pool = *MakePool({.limits = {.min_workers = 1, .soft_limit = 1}});
    std::atomic<bool> go = false, blocked = false;
    ASSERT_TRUE(pool->Do([&] {
                      blocked = true;
                      blocked.notify_all();
                      go.wait(false);
                    })
                    .ok());
    blocked.wait(false);
    constexpr int kItems = 1000;
    const int before = counter.locked;
    for (int i = 0; i < kItems; ++i) ASSERT_TRUE(pool->Do([] {}).ok());
    EXPECT_LE(counter.locked - before, kItems + 8);  // the first item is just being begun
    const int asleep = counter.sleeps;
    go = true;
    go.notify_all();
    counter.AwaitSleep(asleep);
    EXPECT_LE(counter.locked - before, 2 * kItems + 8);
  }
}

}  // namespace
}  // namespace workers
