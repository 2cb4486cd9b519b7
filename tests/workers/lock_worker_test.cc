#include "workers/lock_worker.h"

#include <pthread.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/testing/gate.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace workers {
namespace {

using test::Gate;

TEST(LockWorker, DoRunsTheWorkAtOnceUnderTheLock) {
  LockWorker worker;
  bool done = false;
  ASSERT_TRUE(worker
                  .Do([&] {
                    AssertDoneBy(worker);
                    done = true;
                  })
                  .ok());
  EXPECT_TRUE(done);
  EXPECT_FALSE(WorkerScope::RunsIn(worker));
}

TEST(LockWorker, ReentrancyIsUnwound) {
  LockWorker worker;
  int level = 0;
  std::vector<int> levels;
  std::vector<bool> held;
  auto do_work = [&](auto again, int more) -> void {
    ASSERT_TRUE(worker
                    .Do([&, again, more] {
                      ++level;
                      levels.push_back(level);
                      held.push_back(WorkerScope::RunsIn(worker));
                      if (more > 0) again(again, more - 1);
                      --level;
                    })
                    .ok());
  };
  do_work(do_work, 2);
  EXPECT_THAT(levels, testing::ElementsAre(1, 1, 1));
  EXPECT_THAT(held, testing::ElementsAre(true, true, true));
}

TEST(LockWorker, AnotherThreadWaitsForTheRunningWork) {
  LockWorker worker;
  Gate running;
  Gate release;
  std::vector<int> order;
  std::thread first([&] {
    ASSERT_TRUE(worker
                    .Do([&] {
                      running.Open();
                      release.Wait();
                      order.push_back(1);
                    })
                    .ok());
  });
  running.Wait();
  std::thread second([&] { ASSERT_TRUE(worker.Do([&] { order.push_back(2); }).ok()); });
  release.Open();
  first.join();
  second.join();
  EXPECT_THAT(order, testing::ElementsAre(1, 2));
}

TEST(LockWorker, AfterQuitDoAndQuitAreAlreadyQuit) {
  LockWorker worker({.name = "coordinator"});
  EXPECT_TRUE(worker.Quit().ok());
  const absl::Status status = worker.Do([] { FAIL(); });
  EXPECT_TRUE(IsAlreadyQuit(status));
  EXPECT_EQ(status.message(), "coordinator has already quit");
  EXPECT_TRUE(IsAlreadyQuit(worker.Quit()));
}

TEST(LockWorker, QuitWhileWorkingLetsTheQueuedWorkRun) {
  LockWorker worker;
  std::vector<std::string> log;
  ASSERT_TRUE(worker
                  .Do([&] {
                    EXPECT_TRUE(worker.Do([&] { log.push_back("queued"); }).ok());
                    EXPECT_TRUE(worker.Quit().ok());
                    EXPECT_TRUE(IsAlreadyQuit(worker.Do([&] { log.push_back("refused"); })));
                    log.push_back("outer");
                  })
                  .ok());
  EXPECT_THAT(log, testing::ElementsAre("outer", "queued"));
  EXPECT_TRUE(IsAlreadyQuit(worker.Do([] { FAIL(); })));
}

TEST(LockWorker, QuitDoesNotWaitForTheRunningWork) {
  LockWorker worker;
  Gate running;
  Gate release;
  std::thread thread([&] {
    ASSERT_TRUE(worker
                    .Do([&] {
                      running.Open();
                      release.Wait();
                    })
                    .ok());
  });
  running.Wait();
  EXPECT_TRUE(worker.Quit().ok());  // a Quit that waited would hang here
  release.Open();
  thread.join();
}

// L1: in the original one exception discards every item that was queued behind.
TEST(LockWorker, L1_AnExceptionLosesNoneOfTheQueuedWorks) {
  std::vector<std::string> errors;
  LockWorker worker({.on_error = [&](const ErrorReport& report) {
    errors.push_back(std::string(report.status.message()));
  }});
  std::vector<int> ran;
  const absl::Status status = worker.Do([&] {
    EXPECT_TRUE(worker.Do([&] { ran.push_back(1); }).ok());
    EXPECT_TRUE(worker.Do([&] { throw std::runtime_error("second"); }).ok());
    EXPECT_TRUE(worker.Do([&] { ran.push_back(3); }).ok());
    throw std::runtime_error("first");
  });
  EXPECT_TRUE(status.ok());
  EXPECT_THAT(ran, testing::ElementsAre(1, 3));
  EXPECT_THAT(errors,
              testing::ElementsAre("std::runtime_error: first", "std::runtime_error: second"));
}

// L3: what is given after the last look at the queue; in C++ the last chance for that is a
// destructor of the last work's captures.
TEST(LockWorker, L3_WorkGivenByADestructorIsNotLost) {
  LockWorker worker;
  int ran = 0;
  struct Giver {
    LockWorker& worker;
    int& ran;
    int left;
    ~Giver() {
      if (left == 0) return;
      EXPECT_TRUE(
          worker.Do([next = std::make_unique<Giver>(worker, ran, left - 1)] { ++next->ran; }).ok());
    }
    Giver(LockWorker& worker, int& ran, int left) : worker(worker), ran(ran), left(left) {}
  };
  ASSERT_TRUE(worker.Do([giver = std::make_unique<Giver>(worker, ran, 5)] { ++giver->ran; }).ok());
  EXPECT_EQ(ran, 6);
}

// L5: in the original two LockWorkers that share the thread-local run one's work under the
// other's lock, later.
TEST(LockWorker, L5_TwoLockWorkersDoNotTakeEachOthersWork) {
  LockWorker a;
  LockWorker b;
  std::vector<std::string> log;
  ASSERT_TRUE(a.Do([&] {
                 EXPECT_TRUE(b.Do([&] {
                                log.push_back(WorkerScope::RunsIn(b) ? "b under b" : "b elsewhere");
                                // a is held by this thread further out: still a's own queue.
                                EXPECT_TRUE(a.Do([&] { log.push_back("a again"); }).ok());
                              }).ok());
                 log.push_back("a");
               }).ok());
  EXPECT_THAT(log, testing::ElementsAre("b under b", "a", "a again"));
}

// W7, hazard 5: the lock is free after a work that threw.
TEST(LockWorker, TheLockIsFreeAfterAWorkThatThrew) {
  LockWorker worker({.on_error = [](const ErrorReport&) {}});
  ASSERT_TRUE(worker.Do([] { throw 1; }).ok());
  bool ran = false;
  std::thread([&] { ASSERT_TRUE(worker.Do([&] { ran = true; }).ok()); }).join();
  EXPECT_TRUE(ran);
}

// Hazard 4: forced unwinding goes through, what was queued runs, and the lock is free.
TEST(LockWorker, Hazard4_ForcedUnwindingLosesNothing) {
  LockWorker worker;
  std::vector<std::string> log;
  bool returned = false;
  std::thread([&] {
    worker
        .Do([&] {
          EXPECT_TRUE(worker.Do([&] { log.push_back("queued"); }).ok());
          pthread_exit(nullptr);
        })
        .IgnoreError();
    returned = true;
  }).join();
  EXPECT_FALSE(returned);
  EXPECT_TRUE(worker.Do([&] { log.push_back("next"); }).ok());
  EXPECT_THAT(log, testing::ElementsAre("queued", "next"));
}

// And also where a queued work does it: the works around it run.
TEST(LockWorker, Hazard4_ForcedUnwindingOfAQueuedWorkLosesNothing) {
  LockWorker worker;
  std::vector<std::string> log;
  std::thread([&] {
    worker
        .Do([&] {
          EXPECT_TRUE(worker.Do([&] { log.push_back("before"); }).ok());
          EXPECT_TRUE(worker.Do([] { pthread_exit(nullptr); }).ok());
          EXPECT_TRUE(worker.Do([&] { log.push_back("behind"); }).ok());
        })
        .IgnoreError();
  }).join();
  EXPECT_TRUE(worker.Do([&] { log.push_back("next"); }).ok());
  EXPECT_THAT(log, testing::ElementsAre("before", "behind", "next"));
}

TEST(LockWorker, DestructionWaitsForAWorkOfAnotherThread) {
  auto worker = std::make_unique<LockWorker>();
  Gate running;
  Gate release;
  bool ended = false;
  std::thread thread([&] {
    ASSERT_TRUE(worker
                    ->Do([&] {
                      running.Open();
                      release.Wait();
                      ended = true;
                    })
                    .ok());
  });
  running.Wait();
  std::thread opener([&] { release.Open(); });
  worker = nullptr;
  EXPECT_TRUE(ended);
  thread.join();
  opener.join();
}

TEST(LockWorkerDeathTest, DiesWhenItIsDestroyedInsideItsOwnWork) {
  auto worker = std::make_unique<LockWorker>();
  EXPECT_DEATH(worker->Do([&] { worker = nullptr; }).IgnoreError(),
               "destroyed inside its own work");
}

}  // namespace
}  // namespace workers
