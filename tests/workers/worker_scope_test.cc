#include "workers/worker_scope.h"

#include <memory>
#include <thread>
#include <utility>

#include "gtest/gtest.h"
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/serial_worker.h"
#include "workers/team.h"
#include "workers/testing/gate.h"
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

// Is no exclusive worker.
class PlainWorker final : public IWorker {
 public:
  absl::Status Do(Work&&) override { return AlreadyQuitError("plain"); }
  absl::Status Quit() override { return AlreadyQuitError("plain"); }
};

TEST(WorkerScope, KnowsTheInnermostExclusiveWorker) {
  IdleWorker outer;
  IdleWorker inner;
  PlainWorker plain;
  EXPECT_EQ(WorkerScope::InnermostExclusive(), nullptr);
  {
    WorkerScope plain_scope(plain);
    EXPECT_EQ(WorkerScope::InnermostExclusive(), nullptr);
    WorkerScope outer_scope(outer);
    EXPECT_EQ(WorkerScope::InnermostExclusive(), &outer);
    {
      WorkerScope inner_scope(inner);
      WorkerScope plain_again(plain);
      EXPECT_EQ(WorkerScope::InnermostExclusive(), &inner);
      WorkerScope::Forget(inner);
      EXPECT_EQ(WorkerScope::InnermostExclusive(), &outer);
    }
    EXPECT_EQ(WorkerScope::InnermostExclusive(), &outer);
  }
  EXPECT_EQ(WorkerScope::InnermostExclusive(), nullptr);
}

TEST(WorkerScope, SaysWhetherAllWorksAreOnThisThread) {
  LockWorker loop, other;
  EXPECT_TRUE(WorkerScope::InNone());
  {
    WorkerScope loop_scope(loop, WorkerScope::OneThread());
    EXPECT_FALSE(WorkerScope::InNone());
    EXPECT_TRUE(WorkerScope::RunsIn(loop));
    EXPECT_EQ(WorkerScope::InnermostExclusive(), &loop);
    EXPECT_TRUE(WorkerScope::InnermostIsOneThread());
    WorkerScope inner(other);
    EXPECT_FALSE(WorkerScope::InnermostIsOneThread());
  }
  EXPECT_TRUE(WorkerScope::InNone());
  EXPECT_FALSE(WorkerScope::InnermostIsOneThread());
}

// Whatever each worker does to open its scope, it is known as the exclusive one that it is; a
// Team is none, but the thread of a pool that runs its work is.
TEST(WorkerScope, EveryExclusiveWorkerSaysThatItIsOne) {
  const IExclusiveWorker* seen = nullptr;
  const auto look = [&seen] { seen = WorkerScope::InnermostExclusive(); };

  LockWorker lock_worker;
  EXPECT_TRUE(lock_worker.Do(look).ok());
  EXPECT_EQ(seen, &lock_worker);

  MemoryWorker memory = CreateMemoryWorker();
  EXPECT_TRUE(memory.worker->Do(look).ok());
  EXPECT_EQ(memory.performer(), Performed::kRan);
  EXPECT_EQ(seen, memory.worker.get());

  {
    auto thread_worker = *ThreadWorker::Create();
    EXPECT_TRUE(thread_worker->Do(look).ok());
    EXPECT_TRUE(thread_worker->Quit().ok());
    EXPECT_TRUE(thread_worker->Join().ok());
    EXPECT_EQ(seen, thread_worker.get());
  }

  auto pool = *MakePool({});
  {
    SerialGroup group(*pool);
    SerialWorker serial(group);
    test::Gate ran;
    EXPECT_TRUE(serial
                    .Do([&] {
                      look();
                      ran.Open();
                    })
                    .ok());
    ran.Wait();
    EXPECT_EQ(seen, &serial);
  }
  test::Gate ran;
  EXPECT_TRUE(pool->Do([&] {
                    look();
                    ran.Open();
                  })
                  .ok());
  ran.Wait();
  EXPECT_NE(seen, nullptr);
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
