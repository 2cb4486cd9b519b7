#include "workers/lock_worker.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/testing/gate.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace {

thread_local bool out_of_memory = false;
thread_local size_t largest = 0;  // of the blocks allocated since it was reset

}  // namespace

// Not inlined: GCC would take malloc and free for a mismatched pair.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (out_of_memory) throw std::bad_alloc();
  if (size > largest) largest = size;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

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

// B2.
TEST(LockWorker, ANestedDoWithoutMemoryIsRefusedAndLeavesTheItemUntouched) {
  LockWorker worker;
  absl::Status status;
  int runs = 0;
  ASSERT_TRUE(worker
                  .Do([&] {
                    Work item = [&runs] { ++runs; };
                    out_of_memory = true;
                    status = worker.Do(std::move(item));
                    out_of_memory = false;
                    EXPECT_EQ(runs, 0);
                    ASSERT_TRUE(item != nullptr);
                    EXPECT_TRUE(worker.Do(std::move(item)).ok());
                  })
                  .ok());
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(runs, 1);
}

// B2.
TEST(LockWorker, RefusingAfterQuitNeedsNoMemory) {
  LockWorker worker;
  ASSERT_TRUE(worker.Quit().ok());
  Work item = [] {};
  out_of_memory = true;
  const bool refused = IsAlreadyQuit(worker.Do(std::move(item))) && IsAlreadyQuit(worker.Quit());
  out_of_memory = false;
  EXPECT_TRUE(refused);
}

// B6: if the capacity were kept, the second burst would not have to allocate large blocks again.
TEST(LockWorker, TheMemoryOfABurstIsReleasedAfterIt) {
  LockWorker worker;
  for (int burst = 0; burst < 3; ++burst) {
    largest = 0;
    ASSERT_TRUE(worker
                    .Do([&] {
                      for (int i = 0; i < 10'000; ++i) EXPECT_TRUE(worker.Do([] {}).ok());
                    })
                    .ok());
    EXPECT_GT(largest, 10'000 * sizeof(Work) / 2);
  }
}

// B5: the parent's other thread holds the lock when the process forks.
TEST(LockWorker, InTheChildOfAForkItRefusesAndDoesNotHang) {
  auto worker = std::make_unique<LockWorker>();
  Gate running;
  Gate release;
  std::thread holder([&] {
    EXPECT_TRUE(worker
                    ->Do([&] {
                      running.Open();
                      release.Wait();
                    })
                    .ok());
  });
  running.Wait();
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    const bool refused =
        absl::IsFailedPrecondition(worker->Do([] {})) && absl::IsFailedPrecondition(worker->Quit());
    worker = nullptr;
    _exit(refused ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  release.Open();
  holder.join();
}

// B5: the queue of an item that forks and returns in the child runs in the parent only.
TEST(LockWorker, AnItemThatForksDoesNotMakeTheChildRunTheQueue) {
  LockWorker worker;
  bool ran = false;
  pid_t child = -1;
  ASSERT_TRUE(worker
                  .Do([&] {
                    EXPECT_TRUE(worker.Do([&] { ran = true; }).ok());
                    child = fork();
                    if (child == 0) alarm(20);
                  })
                  .ok());
  if (child == 0) _exit(ran ? 1 : 0);
  EXPECT_TRUE(ran);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(LockWorkerDeathTest, DiesWhenItIsDestroyedInsideItsOwnWork) {
  const auto destroy_inside = [] {  // makes the worker in the death test's child
    auto worker = std::make_unique<LockWorker>();
    worker->Do([&] { worker = nullptr; }).IgnoreError();
  };
  EXPECT_DEATH(destroy_inside(), "destroyed inside its own work item");
}

}  // namespace
}  // namespace workers
