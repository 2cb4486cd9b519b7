#include "workers/thread_factory.h"

#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/testing/counting_thread_factory.h"
#include "workers/testing/failing_thread_factory.h"
#include "workers/testing/gate.h"
#include "workers/thread_worker.h"

namespace workers {
namespace {

using test::CountingThreadFactory;
using test::FailingThreadFactory;
using test::Gate;

std::string NameOfThisThread() {
  char name[16];
  pthread_getname_np(pthread_self(), name, sizeof(name));
  return name;
}

// A thread that tells its name and then stays alive until `Release`.
class NamedThread {
 public:
  NamedThread(ThreadFactory& factory, std::string name) {
    thread_ = *factory.Start({.name = std::move(name)}, [this] {
      name_ = NameOfThisThread();
      named_.Open();
      release_.Wait();
    });
    named_.Wait();
  }
  ~NamedThread() {
    release_.Open();
    thread_->Join();
  }
  const std::string& name() const { return name_; }

 private:
  std::unique_ptr<Thread> thread_;
  std::string name_;
  Gate named_;
  Gate release_;
};

TEST(ThreadFactory, RunsMainThenDestroysIt) {
  auto factory = CreateThreadFactory();
  auto alive = std::make_shared<int>();
  std::thread::id id;
  auto thread = *factory->Start({}, [&id, alive] { id = std::this_thread::get_id(); });
  thread->Join();
  EXPECT_NE(id, std::this_thread::get_id());
  EXPECT_EQ(alive.use_count(), 1);
}

TEST(ThreadFactory, TheSystemShowsTheName) {
  auto factory = CreateThreadFactory();
  EXPECT_EQ(NamedThread(*factory, "disk").name(), "disk");
  EXPECT_EQ(NamedThread(*factory, "").name(), "worker");
  EXPECT_EQ(NamedThread(*factory, "exactly-fifteen").name(), "exactly-fifteen");
}

TEST(ThreadFactory, ALongNameIsCutAndItsNumberIsKept) {
  auto factory = CreateThreadFactory();
  EXPECT_EQ(NamedThread(*factory, "a-rather-long-name").name(), "a-rather-long-n");
  EXPECT_EQ(NamedThread(*factory, "a-rather-long-name-12").name(), "a-rather-lon-12");
  EXPECT_EQ(NamedThread(*factory, "a-rather-long-name-123456789").name(), "a-rather-long-n");
  // "ü" is two bytes, and half of it none.
  EXPECT_EQ(NamedThread(*factory, "12345678901234\xC3\xBC").name(), "12345678901234");
}

// P5: names that come from a live count repeat after a shrink and a growth.
TEST(ThreadFactory, NamesAreUniqueAmongTheLiving) {
  auto factory = CreateThreadFactory();
  NamedThread first(*factory, "exactly-fifteen");
  auto second = std::make_unique<NamedThread>(*factory, "exactly-fifteen");
  NamedThread third(*factory, "exactly-fifteen");
  EXPECT_EQ(first.name(), "exactly-fifteen");
  EXPECT_EQ(second->name(), "exactly-fifte~2");
  EXPECT_EQ(third.name(), "exactly-fifte~3");
  second = nullptr;
  EXPECT_EQ(NamedThread(*factory, "exactly-fifteen").name(), "exactly-fifte~2");
}

TEST(ThreadFactory, KeepsToTheProcessorsItIsGiven) {
  cpu_set_t mine;
  ASSERT_EQ(sched_getaffinity(0, sizeof(mine), &mine), 0);
  int last = CPU_SETSIZE - 1;
  while (!CPU_ISSET(last, &mine)) --last;
  auto factory = CreateThreadFactory();
  cpu_set_t seen;
  CPU_ZERO(&seen);
  auto thread =
      *factory->Start({.cpus = {last}}, [&] { sched_getaffinity(0, sizeof(seen), &seen); });
  thread->Join();
  EXPECT_EQ(CPU_COUNT(&seen), 1);
  EXPECT_TRUE(CPU_ISSET(last, &seen));
}

TEST(ThreadFactory, KeepsToTheStackSizeItIsGiven) {
  auto factory = CreateThreadFactory();
  size_t size = 0;
  auto thread = *factory->Start({.stack_size = (1 << 20) + 1}, [&] {
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstacksize(&attributes, &size);
    pthread_attr_destroy(&attributes);
  });
  thread->Join();
  EXPECT_GT(size, 1u << 20);
  EXPECT_LE(size, (1u << 20) + (1u << 16));
}

TEST(ThreadFactory, BadOptionsAreInvalidArgumentAndMainIsLeft) {
  auto factory = CreateThreadFactory();
  Work main = [] { FAIL(); };
  const ThreadOptions bad[] = {
      {.name = std::string("a\0b", 3)},
      {.stack_size = 1},
      {.stack_size = SIZE_MAX},
      {.cpus = {-1}},
      {.cpus = {1000000}},
      {.cpus = {CPU_SETSIZE - 1}},
  };
  for (const ThreadOptions& options : bad) {
    const absl::Status status = factory->Start(options, std::move(main)).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_TRUE(main != nullptr);
  }
  EXPECT_TRUE(absl::IsInvalidArgument(factory->Start({}, nullptr).status()));
}

TEST(ThreadFactory, AnOrphanIsJoinedByReapOnceItHasEnded) {
  auto factory = CreateThreadFactory();
  Gate release;
  auto thread = *factory->Start({}, [&] { release.Wait(); });
  thread = nullptr;
  EXPECT_EQ(factory->Reap(), 0u);  // it still runs: nobody waits for it
  release.Open();
  while (factory->Reap() == 0) std::this_thread::yield();
  EXPECT_EQ(factory->Reap(), 0u);
}

TEST(ThreadFactory, AnOrphanIsJoinedAtTheNextStart) {
  CountingThreadFactory factory;
  Gate release;
  auto thread = *factory.Start({}, [&] { release.Wait(); });
  thread = nullptr;
  EXPECT_EQ(factory.orphaned(), 1);
  release.Open();
  while (factory.joined() == 0) {
    auto next = *factory.Start({}, [] {});
    next = nullptr;
  }
  EXPECT_GE(factory.joined(), 1);
}

TEST(ThreadFactory, ItsDestructorWaitsForOrphans) {
  Gate running;
  Gate release;
  bool ended = false;
  std::thread opener;
  {
    auto factory = CreateThreadFactory();
    auto thread = *factory->Start({}, [&] {
      running.Open();
      release.Wait();
      ended = true;
    });
    thread = nullptr;
    running.Wait();
    opener = std::thread([&] { release.Open(); });
  }
  EXPECT_TRUE(ended);
  opener.join();
}

TEST(ThreadFactoryDeathTest, DiesBeforeTheOwnerOfAThread) {
  EXPECT_DEATH(
      {
        auto factory = CreateThreadFactory();
        auto thread = *factory->Start({}, [] {});
        factory = nullptr;
      },
      "destroyed before the owner of one of its threads");
}

TEST(ThreadFactoryDeathTest, JoinDiesOnTheThreadItselfAndTheSecondTime) {
  EXPECT_DEATH(
      {
        auto factory = CreateThreadFactory();
        std::unique_ptr<Thread> thread;
        Gate made;
        thread = *factory->Start({}, [&] {
          made.Wait();
          thread->Join();
        });
        made.Open();
        thread->Join();
      },
      "called on the thread itself");
  EXPECT_DEATH(
      {
        auto factory = CreateThreadFactory();
        auto thread = *factory->Start({}, [] {});
        thread->Join();
        thread->Join();
      },
      "called twice");
}

TEST(ThreadFactory, InTheChildOfAForkItIsRefusedAndNothingHangs) {
  auto factory = CreateThreadFactory();
  Gate running;  // not starting while the process forks, see thread_worker_test.cc
  Gate release;
  auto thread = *factory->Start({}, [&] {
    running.Open();
    release.Wait();
  });
  running.Wait();
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(30);
    Work main = [] {};
    if (!absl::IsFailedPrecondition(factory->Start({}, std::move(main)).status())) _exit(1);
    if (main == nullptr) _exit(2);
    if (factory->Reap() != 0) _exit(3);
    factory = nullptr;
    _exit(0);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
  release.Open();
  thread->Join();
}

// Hazard 6: the process-wide factory has no destructor that could come too early. A static
// worker is destroyed after main, by when an ordinary static factory might be gone.
TEST(DefaultThreadFactoryDeathTest, Hazard6_WorksWhileStaticsAreDestroyed) {
  EXPECT_EXIT(
      {
        struct Late {
          ~Late() {
            auto worker = ThreadWorker::Create();
            bool ran = false;
            if (!worker.ok() || !(*worker)->Do([&] { ran = true; }).ok()) _exit(1);
            *worker = nullptr;
            _exit(ran ? 7 : 2);
          }
        };
        static Late late;
        exit(0);
      },
      testing::ExitedWithCode(7), "");
}

TEST(DefaultThreadFactoryDeathTest, AtExitItWaitsForOrphans) {
  EXPECT_EXIT(
      {
        static Gate destroyed;
        static std::atomic<bool> exiting = false;
        auto worker = *ThreadWorker::Create();
        ThreadWorker* const raw = worker.get();
        const absl::Status status = raw->Do([own = std::move(worker)]() mutable {
          EXPECT_TRUE(own->Do([] {
                           while (!exiting) std::this_thread::yield();
                           fputs("ran at exit\n", stderr);
                         })
                          .ok());
          own = nullptr;
          destroyed.Open();
        });
        if (!status.ok()) _exit(1);
        destroyed.Wait();
        static struct AtExit {
          ~AtExit() { exiting = true; }
        } at_exit;
        exit(0);
      },
      testing::ExitedWithCode(0), "ran at exit");
}

// exit() in an orphan's own work must not wait for itself.
TEST(DefaultThreadFactoryDeathTest, ExitInAnOrphansWorkReturns) {
  EXPECT_EXIT(
      {
        auto worker = *ThreadWorker::Create();
        ThreadWorker* const raw = worker.get();
        const absl::Status status = raw->Do([own = std::move(worker)]() mutable {
          own = nullptr;
          exit(5);
        });
        if (!status.ok()) _exit(1);
        for (;;) pause();
      },
      testing::ExitedWithCode(5), "");
}

// --- the doubles ----------------------------------------------------------------------------

TEST(FailingThreadFactory, FailsAsOftenAsItWasTold) {
  FailingThreadFactory factory;
  factory.FailNext(2, absl::UnavailableError("not now"));
  Work main = [] {};
  EXPECT_EQ(factory.Start({}, std::move(main)).status(), absl::UnavailableError("not now"));
  EXPECT_EQ(factory.Start({}, std::move(main)).status(), absl::UnavailableError("not now"));
  ASSERT_TRUE(main != nullptr);
  auto thread = factory.Start({}, std::move(main));
  ASSERT_TRUE(thread.ok());
  (*thread)->Join();
  EXPECT_EQ(factory.failed(), 2);
}

TEST(CountingThreadFactory, CountsWhatWasStartedJoinedAndOrphaned) {
  CountingThreadFactory factory;
  auto joined = *factory.Start({}, [] {});
  auto orphan = *factory.Start({}, [] {});
  EXPECT_EQ(factory.started(), 2);
  EXPECT_EQ(factory.joined(), 0);
  joined->Join();
  orphan = nullptr;
  EXPECT_EQ(factory.orphaned(), 1);
  factory.Finish();
  EXPECT_EQ(factory.joined(), 2);
  Work main = [] {};
  EXPECT_FALSE(factory.Start({.stack_size = 1}, std::move(main)).ok());
  EXPECT_TRUE(main != nullptr);
  EXPECT_EQ(factory.started(), 2);
}

}  // namespace
}  // namespace workers
