#include "workers/worker_scope.h"

#include <memory>
#include <thread>
#include <utility>

#include "gtest/gtest.h"
#include "workers/thread_factory.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace workers {
namespace {

class IdleWorker final : public IExclusiveWorker {
 public:
  absl::Status Do(Work&&) override { return AlreadyQuitError("idle"); }
  absl::Status Quit() override { return AlreadyQuitError("idle"); }
};

TEST(WorkerScope, IsTrueInsideOnly) {
  IdleWorker worker;
  EXPECT_FALSE(WorkerScope::RunsIn(worker));
  {
    WorkerScope scope(worker);
    EXPECT_TRUE(WorkerScope::RunsIn(worker));
  }
  EXPECT_FALSE(WorkerScope::RunsIn(worker));
}

TEST(WorkerScope, SeesEveryDepth) {
  IdleWorker outer;
  IdleWorker inner;
  WorkerScope outer_scope(outer);
  {
    WorkerScope inner_scope(inner);
    EXPECT_TRUE(WorkerScope::RunsIn(outer));
    EXPECT_TRUE(WorkerScope::RunsIn(inner));
  }
  EXPECT_TRUE(WorkerScope::RunsIn(outer));
  EXPECT_FALSE(WorkerScope::RunsIn(inner));
}

TEST(WorkerScope, IsTheThreadsOwn) {
  IdleWorker worker;
  WorkerScope scope(worker);
  bool seen = true;
  std::thread([&] { seen = WorkerScope::RunsIn(worker); }).join();
  EXPECT_FALSE(seen);
}

TEST(WorkerScope, ForgetsAWorkerThatDies) {
  IdleWorker worker;
  WorkerScope scope(worker);
  WorkerScope again(worker);
  WorkerScope::Forget(worker);
  EXPECT_FALSE(WorkerScope::RunsIn(worker));
}

// A new worker may get the address of one that died inside its own work, which still runs.
TEST(WorkerScope, DoesNotTakeANewWorkerForADeadOne) {
  std::unique_ptr<ThreadWorker> worker = *ThreadWorker::Create();
  ThreadWorker* const raw = worker.get();
  bool runs_in_new = true;
  EXPECT_TRUE(raw->Do([&, own = std::move(worker)]() mutable {
                   own = nullptr;
                   // Whether or not the allocator hands out the same address again.
                   runs_in_new = WorkerScope::RunsIn(*raw);
                 })
                  .ok());
  // The thread is the default factory's now, which joins it as soon as it has ended.
  while (DefaultThreadFactory().Reap() == 0) std::this_thread::yield();
  EXPECT_FALSE(runs_in_new);
}

TEST(AssertDoneBy, IsSilentInsideTheWork) {
  IdleWorker worker;
  WorkerScope scope(worker);
  AssertDoneBy(worker);
}

TEST(AssertDoneByDeathTest, DiesOutsideTheWorkInDebugBuilds) {
  IdleWorker worker;
  EXPECT_DEBUG_DEATH(AssertDoneBy(worker), "not inside a work of this worker");
}

}  // namespace
}  // namespace workers
