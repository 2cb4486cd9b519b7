#include "workers/thread_worker.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/testing/counting_thread_factory.h"
#include "workers/testing/failing_thread_factory.h"
#include "workers/testing/gate.h"
#include "workers/thread_factory.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace workers {
namespace {

using test::CountingThreadFactory;
using test::FailingThreadFactory;
using test::Gate;

std::unique_ptr<ThreadWorker> New(ThreadWorkerOptions options = {}) {
  return *ThreadWorker::Create(std::move(options));
}

// Holds the worker's thread inside a work until `release` opens.
void Hold(ThreadWorker& worker, Gate& release) {
  auto held = std::make_shared<Gate>();
  ASSERT_TRUE(worker
                  .Do([held, &release] {
                    held->Open();
                    release.Wait();
                  })
                  .ok());
  held->Wait();
}

TEST(ThreadWorker, StartsOneThreadWhichPerformsTheWork) {
  CountingThreadFactory factory;
  std::vector<std::thread::id> ids;
  {
    auto worker = New({.factory = &factory});
    EXPECT_EQ(factory.started(), 1);
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(worker
                      ->Do([&] {
                        AssertDoneBy(*worker);
                        ids.push_back(std::this_thread::get_id());
                      })
                      .ok());
    }
  }
  EXPECT_EQ(factory.started(), 1);
  EXPECT_EQ(factory.joined(), 1);
  ASSERT_EQ(ids.size(), 3u);
  EXPECT_NE(ids[0], std::this_thread::get_id());
  EXPECT_THAT(ids, testing::Each(ids[0]));
}

TEST(ThreadWorker, DoOnlyQueues) {
  auto worker = New();
  Gate release;
  Hold(*worker, release);
  bool ran = false;
  ASSERT_TRUE(worker->Do([&] { ran = true; }).ok());
  EXPECT_FALSE(ran);  // its thread is held
  EXPECT_EQ(worker->queued(), 1u);
  release.Open();
  worker = nullptr;
  EXPECT_TRUE(ran);
}

TEST(ThreadWorker, QuitPreventsFutureCalls) {
  auto worker = New({.thread = {.name = "disk"}});
  EXPECT_TRUE(worker->Quit().ok());
  const absl::Status status = worker->Do([] { FAIL(); });
  EXPECT_TRUE(IsAlreadyQuit(status));
  EXPECT_EQ(status.message(), "disk has already quit");
  EXPECT_TRUE(IsAlreadyQuit(worker->Quit()));
}

// W3: in the original a raising task kills the thread, and what is given later never runs.
TEST(ThreadWorker, W3_AThrowingWorkDoesNotEndTheThread) {
  std::vector<std::string> errors;
  std::thread::id before;
  std::thread::id after;
  {
    auto worker = New({.thread = {.name = "disk"}, .on_error = [&](const ErrorReport& report) {
                         errors.push_back(std::string(report.worker) + ": " +
                                          std::string(report.status.message()));
                       }});
    ASSERT_TRUE(worker->Do([&] { before = std::this_thread::get_id(); }).ok());
    ASSERT_TRUE(worker->Do([] { throw std::runtime_error("boom"); }).ok());
    ASSERT_TRUE(worker->Do([&] { after = std::this_thread::get_id(); }).ok());
  }
  EXPECT_EQ(before, after);
  EXPECT_THAT(errors, testing::ElementsAre("disk: std::runtime_error: boom"));
}

// Contract line 3: neither does a handler that throws, nor a local object whose destructor does.
TEST(ThreadWorker, AThrowingHandlerAndAThrowingDestructorDoNotEndTheThread) {
  struct Thrower {
    ~Thrower() noexcept(false) { throw std::runtime_error("from a destructor"); }
  };
  int told = 0;
  int ran = 0;
  {
    auto worker = New({.on_error = [&](const ErrorReport& report) {
      ++told;
      EXPECT_EQ(report.status.message(), "std::runtime_error: from a destructor");
      throw std::runtime_error("from the handler");
    }});
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(worker->Do([] { Thrower thrower; }).ok());
      ASSERT_TRUE(worker->Do([&] { ++ran; }).ok());
    }
  }
  EXPECT_EQ(told, 3);
  EXPECT_EQ(ran, 3);
}

TEST(ThreadWorker, AnEmptyHandlerMeansALineOnStderr) {
  testing::internal::CaptureStderr();
  {
    auto worker = New({.thread = {.name = "disk"}});
    ASSERT_TRUE(worker->Do([] { throw std::runtime_error("boom"); }).ok());
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "iworker: disk: UNKNOWN: std::runtime_error: boom\n");
}

// W4: in the original the failure escapes from a constructor into whoever coordinates.
TEST(ThreadWorker, W4_AThreadThatCannotBeStartedIsAnError) {
  FailingThreadFactory factory;
  factory.FailNext(1, absl::ResourceExhaustedError("no thread left"));
  EXPECT_EQ(ThreadWorker::Create({.factory = &factory}).status(),
            absl::ResourceExhaustedError("no thread left"));
  EXPECT_EQ(factory.failed(), 1);
  auto second = ThreadWorker::Create({.factory = &factory});
  ASSERT_TRUE(second.ok());
  EXPECT_TRUE((*second)->Do([] {}).ok());
}

TEST(ThreadWorker, BadThreadOptionsAreInvalidArgument) {
  EXPECT_TRUE(absl::IsInvalidArgument(
      ThreadWorker::Create({.thread = {.name = std::string("a\0b", 3)}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ThreadWorker::Create({.thread = {.cpus = {-1}}}).status()));
}

// W5: in the original the last task stays alive until the next one comes.
TEST(ThreadWorker, W5_CapturesAreDestroyedBeforeTheThreadSleeps) {
  auto worker = New();
  Gate destroyed;
  struct Opener {
    Gate& gate;
    ~Opener() { gate.Open(); }
  };
  ASSERT_TRUE(worker->Do([opener = std::make_unique<Opener>(destroyed)] {}).ok());
  destroyed.Wait();  // no other work comes
}

// W8: the original has no join, no end that can be seen, and a queue that cannot be seen.
TEST(ThreadWorker, W8_TheEndCanBeWaitedForAndTheQueueCanBeSeen) {
  std::atomic<int> ran = 0;
  std::atomic<bool> exited = false;
  auto worker = New({.on_exit = [&] { exited = true; }});
  Gate release;
  Hold(*worker, release);
  EXPECT_EQ(worker->queued(), 0u);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(worker->Do([&] { ++ran; }).ok());
  EXPECT_EQ(worker->queued(), 5u);
  EXPECT_TRUE(worker->Quit().ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(worker->Join(absl::ZeroDuration())));
  EXPECT_TRUE(absl::IsDeadlineExceeded(worker->Join(absl::Milliseconds(1))));
  release.Open();
  EXPECT_TRUE(worker->Join().ok());
  EXPECT_EQ(ran, 5);
  EXPECT_TRUE(exited);
  EXPECT_EQ(worker->queued(), 0u);
  EXPECT_TRUE(worker->Join(absl::ZeroDuration()).ok());  // any number of times
}

TEST(ThreadWorker, JoinBeforeQuitIsFailedPrecondition) {
  auto worker = New();
  EXPECT_TRUE(absl::IsFailedPrecondition(worker->Join()));
}

TEST(ThreadWorker, JoinInItsOwnWorkIsFailedPrecondition) {
  absl::Status in_work;
  absl::Status at_exit;
  ThreadWorker* raw = nullptr;
  auto worker = New({.on_exit = [&] { at_exit = raw->Join(); }});
  raw = worker.get();
  Gate done;
  ASSERT_TRUE(worker
                  ->Do([&] {
                    EXPECT_TRUE(raw->Quit().ok());
                    in_work = raw->Join();
                    done.Open();
                  })
                  .ok());
  done.Wait();
  worker = nullptr;
  EXPECT_TRUE(absl::IsFailedPrecondition(in_work)) << in_work;
  EXPECT_TRUE(absl::IsFailedPrecondition(at_exit)) << at_exit;
}

TEST(ThreadWorker, ManyThreadsMayJoin) {
  auto worker = New();
  Gate release;
  Hold(*worker, release);
  EXPECT_TRUE(worker->Quit().ok());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { EXPECT_TRUE(worker->Join().ok()); });
  release.Open();
  for (std::thread& thread : threads) thread.join();
}

TEST(ThreadWorker, OnExitIsTheLastActAfterTheLastCapture) {
  std::vector<std::string> log;
  struct Logger {
    std::vector<std::string>& log;
    ~Logger() { log.push_back("captures"); }
  };
  {
    auto worker = New({.on_exit = [&] { log.push_back("exit"); }});
    ASSERT_TRUE(worker->Do([&, l = std::make_unique<Logger>(log)] { log.push_back("work"); }).ok());
  }
  EXPECT_THAT(log, testing::ElementsAre("work", "captures", "exit"));
}

TEST(ThreadWorker, AFullQueueRefusesAndLeavesTheWork) {
  auto worker = New({.thread = {.name = "disk"}, .max_queued = 2});
  Gate release;
  Hold(*worker, release);  // the running work does not count
  int ran = 0;
  ASSERT_TRUE(worker->Do([&] { ++ran; }).ok());
  ASSERT_TRUE(worker->Do([&] { ++ran; }).ok());
  Work work = [&] { ran += 10; };
  const absl::Status full = worker->Do(std::move(work));
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  ASSERT_TRUE(work != nullptr);
  release.Open();
  EXPECT_TRUE(worker->Quit().ok());
  EXPECT_TRUE(worker->Join().ok());
  EXPECT_EQ(ran, 2);
}

// The bound counts what the thread has taken as a batch, but not yet begun.
TEST(ThreadWorker, TheBoundCountsTheBatchThatIsBeingRun) {
  auto worker = New({.max_queued = 3});
  Gate first;
  Hold(*worker, first);
  Gate second_held;
  Gate second;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(worker
                    ->Do([&, i] {
                      if (i != 0) return;
                      second_held.Open();
                      second.Wait();
                    })
                    .ok());
  }
  first.Open();
  second_held.Wait();  // now two of the batch have not begun
  EXPECT_EQ(worker->queued(), 2u);
  EXPECT_TRUE(worker->Do([] {}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(worker->Do([] {})));
  second.Open();
}

// Hazard 1: destructors of captures call everything.
TEST(ThreadWorker, Hazard1_DestructorsOfCapturesMayCallTheWorker) {
  CountingThreadFactory factory;
  std::atomic<int> ran = 0;
  Gate gone;
  struct Caller {
    std::unique_ptr<ThreadWorker> worker;
    std::atomic<int>& ran;
    Gate& gone;
    ~Caller() {
      EXPECT_TRUE(worker->Do([&r = ran] { ++r; }).ok());
      EXPECT_TRUE(worker->Quit().ok());
      EXPECT_TRUE(IsAlreadyQuit(worker->Do([&r = ran] { ++r; })));
      worker = nullptr;  // the last reference
      gone.Open();
    }
  };
  auto worker = New({.factory = &factory});
  ThreadWorker* const raw = worker.get();
  auto caller = std::unique_ptr<Caller>(new Caller{std::move(worker), ran, gone});
  ASSERT_TRUE(raw->Do([caller = std::move(caller)] {}).ok());
  gone.Wait();
  factory.Finish();
  EXPECT_EQ(ran, 1);
  EXPECT_EQ(factory.started(), factory.joined());
}

// Hazard 2: destroyed on its own thread it neither joins itself nor touches its members after.
TEST(ThreadWorker, Hazard2_DestroyedOnItsOwnThreadItIsJoinedByItsFactory) {
  CountingThreadFactory factory;
  std::atomic<int> ran = 0;
  std::atomic<bool> exited = false;
  Gate gone;
  {
    auto worker = New({.factory = &factory, .on_exit = [&] { exited = true; }});
    ThreadWorker* const raw = worker.get();
    ASSERT_TRUE(raw->Do([&, own = std::move(worker)]() mutable {
                     EXPECT_TRUE(own->Do([&] { ++ran; }).ok());
                     own = nullptr;
                     gone.Open();
                     ++ran;
                   })
                    .ok());
  }
  gone.Wait();
  factory.Finish();
  EXPECT_EQ(ran, 2);
  EXPECT_TRUE(exited);
  EXPECT_EQ(factory.orphaned(), 1);
  EXPECT_EQ(factory.joined(), 1);
}

// Hazard 4: a work that ends its thread closes the worker and loses nothing.
TEST(ThreadWorker, Hazard4_ForcedUnwindingLosesNothing) {
  std::vector<std::string> log;
  auto worker = New({.on_exit = [&] { log.push_back("exit"); }});
  Gate release;
  Hold(*worker, release);
  struct Logger {
    std::vector<std::string>& log;
    ~Logger() { log.push_back("captures"); }
  };
  ASSERT_TRUE(worker->Do([logger = std::make_unique<Logger>(log)] { pthread_exit(nullptr); }).ok());
  ASSERT_TRUE(worker->Do([&] { log.push_back("taken"); }).ok());
  release.Open();
  // The end of the thread closes the worker, so Quit may come first or second.
  worker->Quit().IgnoreError();
  EXPECT_TRUE(worker->Join().ok());
  EXPECT_TRUE(IsAlreadyQuit(worker->Do([] {})));
  EXPECT_THAT(log, testing::ElementsAre("captures", "taken", "exit"));
}

// The thread is cancelled where it waits for work, with its own lock in the wait.
TEST(ThreadWorker, Hazard4_ACancelledThreadClosesItsWorker) {
  std::atomic<bool> exited = false;
  auto worker = New({.on_exit = [&] { exited = true; }});
  ASSERT_TRUE(worker->Do([] { pthread_cancel(pthread_self()); }).ok());
  // It ends by itself; nobody has called Quit.
  while (!exited) std::this_thread::yield();
  EXPECT_TRUE(IsAlreadyQuit(worker->Do([] {})));
  EXPECT_TRUE(IsAlreadyQuit(worker->Quit()));
  EXPECT_TRUE(worker->Join().ok());
}

TEST(ThreadWorker, ALargeBurstRunsInOrder) {
  std::vector<int> order;
  {
    auto worker = New();
    Gate release;
    Hold(*worker, release);
    for (int i = 0; i < 100'000; ++i) {
      ASSERT_TRUE(worker->Do([&order, i] { order.push_back(i); }).ok());
    }
    EXPECT_EQ(worker->queued(), 100'000u);
    release.Open();
  }
  ASSERT_EQ(order.size(), 100'000u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

// --- fork: hazard 8, contract line 26 -------------------------------------------------------

// Runs `child` in the child of a fork and returns its exit status.
template <typename F>
int InForkedChild(F child) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(30);  // a child that hangs is a failure, not a hang of the test
    _exit(child());
  }
  int status = -1;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

TEST(ThreadWorker, Hazard8_InTheChildOfAForkEveryCallIsFailedPrecondition) {
  auto worker = New({.thread = {.name = "disk"}});
  Gate release;
  Hold(*worker, release);
  EXPECT_EQ(InForkedChild([&] {
              Work work = [] {};
              const absl::Status refused = worker->Do(std::move(work));
              if (!absl::IsFailedPrecondition(refused) || IsAlreadyQuit(refused)) return 1;
              if (work == nullptr) return 2;
              if (!absl::IsFailedPrecondition(worker->Quit())) return 3;
              if (!absl::IsFailedPrecondition(worker->Join())) return 4;
              worker = nullptr;  // leaks, and returns
              return 0;
            }),
            0);
  // The parent's worker does not notice.
  bool ran = false;
  EXPECT_TRUE(worker->Do([&] { ran = true; }).ok());
  release.Open();
  worker = nullptr;
  EXPECT_TRUE(ran);
}

TEST(ThreadWorker, InTheChildOfAForkANewWorkerWorks) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer's runtime cannot start threads in the child of a fork";
#endif
  // The parent's thread is held, so that it is not starting while the process forks: a sanitizer
  // has locks of its own then, which the child would never get.
  auto parents = New();
  Gate release;
  Hold(*parents, release);
  EXPECT_EQ(InForkedChild([] {
              auto worker = ThreadWorker::Create();
              if (!worker.ok()) return 1;
              std::atomic<bool> ran = false;
              if (!(*worker)->Do([&] { ran = true; }).ok()) return 2;
              *worker = nullptr;
              return ran ? 0 : 3;
            }),
            0);
  release.Open();
  parents = nullptr;
}

}  // namespace
}  // namespace workers
