#include "workers/pool.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/blocking_scope.h"
#include "workers/team.h"
#include "workers/testing/counting_thread_factory.h"
#include "workers/testing/failing_thread_factory.h"
#include "workers/testing/gate.h"
#include "workers/testing/manual_clock.h"
#include "workers/thread_factory.h"
#include "workers/worker.h"

namespace {

std::atomic<long> allocations = 0;
std::atomic<long> bytes_in_use = 0;  // on all threads, as new and delete count them

void Free(void* memory) {
  bytes_in_use.fetch_sub(static_cast<long>(malloc_usable_size(memory)), std::memory_order_relaxed);
  std::free(memory);
}

}  // namespace

void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* const memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  bytes_in_use.fetch_add(static_cast<long>(malloc_usable_size(memory)), std::memory_order_relaxed);
  return memory;
}
void operator delete(void* memory) noexcept { Free(memory); }
void operator delete(void* memory, std::size_t) noexcept { Free(memory); }

namespace workers {
namespace {

using test::CountingThreadFactory;
using test::FailingThreadFactory;
using test::Gate;
using test::ManualClock;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kCycles = 1'000;
#else
constexpr int kCycles = 10'000;
#endif

std::unique_ptr<Team> New(PoolOptions options) { return *MakePool(std::move(options)); }

TeamLimits Soft(int limit) {
  TeamLimits limits;
  limits.soft_limit = limit;
  return limits;
}

// A factory that tells which threads it has started and which of them have ended.
class WatchingFactory final : public ThreadFactory {
 public:
  absl::StatusOr<std::unique_ptr<Thread>> Start(const ThreadOptions& options,
                                                Work&& main) override {
    auto kept = std::make_shared<Work>(std::move(main));
    {
      std::lock_guard lock(mutex_);
      if (started_.size() < kMostKept) started_.push_back(options);
      ++alive_;
      most_owned_ = std::max(most_owned_, ++owned_);
    }
    auto thread = inner.Start(options, [this, kept] {
      std::move (*kept)();
      *kept = nullptr;
      End();
    });
    if (!thread.ok()) {
      main = std::move(*kept);
      End();
      Disown();
      return thread;
    }
    return std::make_unique<Owned>(*this, *std::move(thread));
  }
  size_t Reap() override { return inner.Reap(); }

  // Waits until so many threads are left at most.
  void Await(int alive) {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return alive_ <= alive; });
  }
  int alive() const {
    std::lock_guard lock(mutex_);
    return alive_;
  }
  // The most that had an owner at once, who had neither joined them nor given them up.
  int most_owned() const {
    std::lock_guard lock(mutex_);
    return most_owned_;
  }
  // The options of the first hundred.
  std::vector<ThreadOptions> started() const {
    std::lock_guard lock(mutex_);
    return started_;
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const ThreadOptions& options : started()) names.push_back(options.name);
    return names;
  }

  CountingThreadFactory inner;

 private:
  class Owned final : public Thread {
   public:
    Owned(WatchingFactory& factory, std::unique_ptr<Thread> thread)
        : factory_(factory), thread_(std::move(thread)) {}
    ~Owned() override {
      thread_ = nullptr;
      factory_.Disown();
    }
    void Join() override { thread_->Join(); }

   private:
    WatchingFactory& factory_;
    std::unique_ptr<Thread> thread_;
  };

  static constexpr size_t kMostKept = 100;

  void End() {
    std::lock_guard lock(mutex_);
    --alive_;
    ended_.notify_all();
  }
  void Disown() {
    std::lock_guard lock(mutex_);
    --owned_;
  }

  mutable std::mutex mutex_;
  std::condition_variable ended_;
  std::vector<ThreadOptions> started_;
  int alive_ = 0;
  int owned_ = 0;
  int most_owned_ = 0;
};

// How many threads, or file descriptors, this process has.
int EntriesOf(const char* directory) {
  return static_cast<int>(std::distance(std::filesystem::directory_iterator(directory), {}));
}

std::string CurrentThreadName() {
  char name[16];
  pthread_getname_np(pthread_self(), name, sizeof(name));
  return name;
}

// Has `count` works be at one place at the same time, and waits until each worker is idle again.
void RunAtOnce(Team& pool, int count, std::function<void()> body = [] {}) {
  struct Meeting {
    std::function<void()> body;
    std::atomic<int> missing;
    std::atomic<int> left;
    Gate all_here;
    Gate all_idle;
  };
  auto meeting = std::make_shared<Meeting>();
  meeting->body = std::move(body);
  meeting->missing = count;
  meeting->left = count;
  for (int i = 0; i < count; ++i) {
    ASSERT_TRUE(pool.Enqueue(
                        [meeting] {
                          meeting->body();
                          if (--meeting->missing == 0) meeting->all_here.Open();
                          meeting->all_here.Wait();
                        },
                        [meeting] {
                          if (--meeting->left == 0) meeting->all_idle.Open();
                        })
                    .ok());
  }
  meeting->all_idle.Wait();
}

// --- work -----------------------------------------------------------------------------------

TEST(Pool, FourThreadsWorkAtOnce) {
  WatchingFactory factory;
  auto pool = New({.limits = Soft(4), .factory = &factory});
  RunAtOnce(*pool, 4);
  EXPECT_EQ(pool->statistics().completed, 4);
  EXPECT_EQ(factory.names().size(), 4u);
}

TEST(Pool, NoMoreWorksRunAtOnceThanTheSoftLimit) {
  WatchingFactory factory;
  std::atomic<int> running = 0;
  std::atomic<int> most = 0;
  std::atomic<int> ran = 0;
  {
    auto pool = New({.limits = Soft(3), .factory = &factory});
    for (int i = 0; i < 1000; ++i) {
      ASSERT_TRUE(pool->Do([&] {
                        const int now = ++running;
                        int seen = most;
                        while (seen < now && !most.compare_exchange_weak(seen, now)) {
                        }
                        --running;
                        ++ran;
                      })
                      .ok());
    }
  }
  EXPECT_EQ(ran, 1000);
  EXPECT_LE(most, 3);
  EXPECT_LE(factory.names().size(), 3u);
  EXPECT_EQ(factory.inner.started(), factory.inner.joined());
}

TEST(Pool, APoolWithoutLimitsHasAThreadForEachWorkThatWaits) {
  auto pool = New({});
  RunAtOnce(*pool, 10);
  EXPECT_EQ(pool->statistics().workers_created, 10);
}

TEST(Pool, BadLimitsAreInvalidArgument) {
  EXPECT_TRUE(absl::IsInvalidArgument(MakePool({.limits = {.min_workers = -1}}).status()));
  // It has a clock of its own.
  EXPECT_TRUE(MakePool({.limits = {.growth_per_second = 1}}).ok());
  EXPECT_TRUE(MakePool({.limits = {.idle_timeout = absl::Seconds(1)}}).ok());
}

TEST(Pool, ReportsByItsName) {
  std::mutex mutex;
  std::vector<std::string> errors;
  {
    auto pool = New({.name = "disk", .on_error = [&](const ErrorReport& report) {
                       std::lock_guard lock(mutex);
                       errors.push_back(std::string(report.worker) + ": " +
                                        std::string(report.status.message()));
                     }});
    ASSERT_TRUE(pool->Do([] { throw std::runtime_error("boom"); }).ok());
    EXPECT_TRUE(pool->Quit().ok());
    EXPECT_EQ(pool->Do([] {}).message(), "disk has already quit");
  }
  EXPECT_THAT(errors, testing::ElementsAre("disk: std::runtime_error: boom"));
}

// --- threads --------------------------------------------------------------------------------

TEST(Pool, ThreadsAreNamedAfterThePoolAndANumberIsNeverUsedAgain) {
  WatchingFactory factory;
  auto pool = New({.name = "db", .limits = Soft(2), .factory = &factory});
  std::mutex mutex;
  std::vector<std::string> names;
  const auto note = [&] {
    std::lock_guard lock(mutex);
    names.push_back(CurrentThreadName());
  };
  RunAtOnce(*pool, 2, note);
  EXPECT_THAT(names, testing::UnorderedElementsAre("db-1", "db-2"));
  EXPECT_TRUE(pool->Shrink().ok());
  factory.Await(0);
  names.clear();
  RunAtOnce(*pool, 2, note);
  EXPECT_THAT(names, testing::UnorderedElementsAre("db-3", "db-4"));
  EXPECT_THAT(factory.names(), testing::UnorderedElementsAre("db-1", "db-2", "db-3", "db-4"));
}

TEST(Pool, ThreadOptionsAreThoseOfEachThreadButForTheName) {
  WatchingFactory factory;
  {
    auto pool = New({.name = "db",
                     .limits = Soft(1),
                     .thread = {.name = "ignored", .stack_size = 1 << 20},
                     .factory = &factory});
    RunAtOnce(*pool, 1);
  }
  ASSERT_EQ(factory.started().size(), 1u);
  EXPECT_EQ(factory.started()[0].name, "db-1");
  EXPECT_EQ(factory.started()[0].stack_size, size_t{1} << 20);
}

TEST(Pool, EachThreadIsJoinedWhereverItEnded) {
  CountingThreadFactory factory;
  std::atomic<int> ran = 0;
  {
    auto pool = New({.limits = Soft(4), .factory = &factory});
    RunAtOnce(*pool, 4);
    EXPECT_TRUE(pool->Shrink(2).ok());  // they are orphans of the factory
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(pool->Do([&] { ++ran; }).ok());
  }
  factory.Finish();
  EXPECT_EQ(ran, 100);
  EXPECT_GE(factory.started(), 4);
  EXPECT_EQ(factory.started(), factory.joined());
}

TEST(Pool, AfterQuitAndJoinEachThreadHasEnded) {
  WatchingFactory factory;
  auto pool = New({.limits = Soft(4), .factory = &factory});
  RunAtOnce(*pool, 4);
  EXPECT_TRUE(pool->Quit().ok());
  EXPECT_TRUE(pool->Join().ok());
  EXPECT_EQ(factory.alive(), 0);
  EXPECT_EQ(factory.inner.joined(), 4);
}

// The factory may go straight after the pool, also when threads have left before.
TEST(Pool, WhenThePoolIsGoneItsFactoryMayGo) {
  for (int round = 0; round < 100; ++round) {
    auto factory = CreateThreadFactory();
    TeamLimits limits = Soft(3);
    limits.idle_timeout = absl::Hours(1);  // there is a timer, too
    auto pool = New({.limits = std::move(limits), .factory = factory.get()});
    RunAtOnce(*pool, 3);
    EXPECT_TRUE(pool->Shrink(2).ok());
    pool = nullptr;
    factory = nullptr;
  }
}

// A factory of which a test can hold a thread's owner while it gives the thread up.
class HoldingFactory final : public ThreadFactory {
 public:
  absl::StatusOr<std::unique_ptr<Thread>> Start(const ThreadOptions& options,
                                                Work&& main) override {
    auto thread = inner.Start(options, std::move(main));
    if (!thread.ok()) return thread;
    return std::make_unique<Held>(*this, *std::move(thread));
  }
  size_t Reap() override { return inner.Reap(); }

  CountingThreadFactory inner;
  Gate giving_up;
  Gate go_on;

 private:
  class Held final : public Thread {
   public:
    Held(HoldingFactory& factory, std::unique_ptr<Thread> thread)
        : factory_(factory), thread_(std::move(thread)) {}
    ~Held() override {
      if (joined_) return;
      factory_.giving_up.Open();
      factory_.go_on.Wait();
    }
    void Join() override {
      joined_ = true;
      thread_->Join();
    }

   private:
    HoldingFactory& factory_;
    const std::unique_ptr<Thread> thread_;
    bool joined_ = false;
  };
};

// Forces what the test before only tries: a thread counts until its owner has given it up.
TEST(Pool, AThreadCountsUntilItIsItsFactorys) {
  Gate release;
  HoldingFactory factory;
  auto pool = New({.limits = {.hard_limit = 1}, .factory = &factory});
  ASSERT_TRUE(pool->Do([&] { release.Wait(); }).ok());
  // Marks it while it is busy: so it is let go on its own thread, and nobody else has it.
  EXPECT_TRUE(pool->Shrink().ok());
  release.Open();
  factory.giving_up.Wait();
  EXPECT_EQ(pool->statistics().ending, 1);
  EXPECT_TRUE(pool->Do([] {}).ok());  // waits: the limit is one
  EXPECT_EQ(pool->statistics().backlogged, 1);
  EXPECT_EQ(factory.inner.started(), 1);
  EXPECT_TRUE(pool->Quit().ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(pool->Join(absl::Milliseconds(1))));
  factory.go_on.Open();
  EXPECT_TRUE(pool->Join().ok());
  EXPECT_EQ(pool->statistics().completed, 2);
  pool = nullptr;
  factory.inner.Finish();
  EXPECT_EQ(factory.inner.started(), 2);
  EXPECT_EQ(factory.inner.joined(), 2);
}

// #4770 of the original: its counts drop when the end is queued, and 11 run where 10 may.
TEST(Pool, NoMoreThreadsAreThereThanTheHardLimit) {
  WatchingFactory factory;
  std::atomic<int> ran = 0;
  TeamLimits limits;
  limits.hard_limit = 3;
  auto pool = New({.limits = std::move(limits), .factory = &factory});
  for (int round = 0; round < 200; ++round) {
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(pool->Do([&] { ++ran; }).ok());
    EXPECT_TRUE(pool->Shrink(round % 4).ok());
    EXPECT_TRUE(pool->Grow(round % 3).ok());
    EXPECT_LE(pool->statistics().live, 3);
  }
  Gate last;
  ASSERT_TRUE(pool->Do([&] { last.Open(); }).ok());
  last.Wait();
  EXPECT_TRUE(pool->Shrink().ok());
  factory.Await(0);
  EXPECT_EQ(ran, 1000);
  EXPECT_LE(factory.most_owned(), 3);
}

// #8114 of the original: it keeps each thread that it ever had.
TEST(Pool, ManyCyclesOfGrowAndShrinkLeaveNothingBehind) {
  constexpr int kWarmUp = kCycles / 10;
  constexpr long kMostBytes = 32 << 10;  // four for each cycle, were they to stay
  WatchingFactory factory;
  const int threads = EntriesOf("/proc/self/task");
  const int files = EntriesOf("/proc/self/fd");
  int most = 0;
  {
    auto pool = New({.factory = &factory});
    long bytes = 0;
    [[maybe_unused]] size_t arena = 0;
    for (int cycle = 0; cycle < kCycles; ++cycle) {
      if (cycle == kWarmUp) {
        bytes = bytes_in_use;
        arena = mallinfo2().uordblks;
      }
      ASSERT_TRUE(pool->Grow(2).ok());
      ASSERT_TRUE(pool->Shrink().ok());
      factory.Await(0);
      // Those that have ended are joined when the next ones start.
      most = std::max(most, static_cast<int>(factory.inner.started() - factory.inner.joined()));
      if (cycle % 100 == 0) {
        EXPECT_LE(EntriesOf("/proc/self/task"), threads + 32);
        EXPECT_EQ(EntriesOf("/proc/self/fd"), files);
      }
    }
    EXPECT_LE(bytes_in_use - bytes, kMostBytes);
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
    EXPECT_LE(mallinfo2().uordblks, arena + kMostBytes);  // the main thread's, with glibc's own
#endif
    EXPECT_EQ(pool->statistics().workers_created, 2 * kCycles);
    EXPECT_EQ(pool->statistics().live, 0);
  }
  EXPECT_LE(most, 32);
  factory.inner.Finish();
  EXPECT_EQ(factory.inner.started(), 2 * kCycles);
  EXPECT_EQ(factory.inner.joined(), 2 * kCycles);
  EXPECT_EQ(EntriesOf("/proc/self/task"), threads);
  EXPECT_EQ(EntriesOf("/proc/self/fd"), files);
}

// The same where the threads come for work and go with time.
TEST(Pool, ManyCyclesOfWorkAndReleaseLeaveNothingBehind) {
  constexpr int kWarmUp = kCycles / 10;
  constexpr long kMostBytes = 32 << 10;
  WatchingFactory factory;
  ManualClock clock;
  const int files = EntriesOf("/proc/self/fd");
  {
    TeamLimits limits = Soft(2);
    limits.idle_timeout = absl::Seconds(1);
    auto pool = New({.limits = std::move(limits), .factory = &factory, .clock = &clock});
    long bytes = 0;
    for (int cycle = 0; cycle < kCycles; ++cycle) {
      if (cycle == kWarmUp) bytes = bytes_in_use;
      RunAtOnce(*pool, 2);
      clock.Advance(absl::Seconds(1));
      factory.Await(0);
      ASSERT_LE(clock.pending(), 4u);
    }
    EXPECT_LE(bytes_in_use - bytes, kMostBytes);
    EXPECT_EQ(EntriesOf("/proc/self/fd"), files);
  }
  factory.inner.Finish();
  EXPECT_EQ(factory.inner.started(), 2 * kCycles);
  EXPECT_EQ(factory.inner.joined(), 2 * kCycles);
}

// --- time -----------------------------------------------------------------------------------

TEST(Pool, IdleThreadsEndWithTime) {
  WatchingFactory factory;
  ManualClock clock;
  TeamLimits limits = Soft(4);
  limits.min_workers = 1;
  limits.idle_timeout = absl::Seconds(10);
  auto pool = New({.limits = std::move(limits), .factory = &factory, .clock = &clock});
  RunAtOnce(*pool, 4);
  clock.Advance(absl::Milliseconds(9999));
  EXPECT_EQ(pool->statistics().idle, 4);
  clock.Advance(absl::Milliseconds(1));
  factory.Await(1);
  EXPECT_EQ(pool->statistics().live, 1);
  EXPECT_EQ(pool->statistics().idle, 1);
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(pool->statistics().live, 1);
  RunAtOnce(*pool, 4);  // and it grows again
  EXPECT_EQ(factory.names().size(), 7u);
}

TEST(Pool, TheMinimumIsThereBeforeAnyWork) {
  WatchingFactory factory;
  TeamLimits limits = Soft(4);
  limits.min_workers = 3;
  auto pool = New({.limits = std::move(limits), .factory = &factory});
  EXPECT_EQ(pool->statistics().idle, 3);
  EXPECT_EQ(factory.names().size(), 3u);
}

TEST(Pool, AThreadThatCannotBeStartedIsTriedAgainAndNothingIsLost) {
  CountingThreadFactory counting;
  FailingThreadFactory factory(counting);
  ManualClock clock;
  std::atomic<int> errors = 0;
  std::atomic<int> ran = 0;
  {
    auto pool = New({.limits = Soft(1),
                     .factory = &factory,
                     .on_error =
                         [&](const ErrorReport& report) {
                           ++errors;
                           EXPECT_TRUE(absl::IsResourceExhausted(report.status));
                         },
                     .clock = &clock});
    factory.FailNext(3);
    ASSERT_TRUE(pool->Do([&] { ++ran; }).ok());
    EXPECT_EQ(factory.failed(), 1);
    clock.Advance(absl::Milliseconds(9));
    EXPECT_EQ(factory.failed(), 1);
    clock.Advance(absl::Milliseconds(1));
    EXPECT_EQ(factory.failed(), 2);
    clock.Advance(absl::Milliseconds(20));
    EXPECT_EQ(factory.failed(), 3);
    EXPECT_EQ(counting.started(), 0);
    EXPECT_EQ(pool->statistics().backlogged, 1);
    clock.Advance(absl::Milliseconds(40));
    EXPECT_EQ(counting.started(), 1);
    // And with some threads there.
    factory.FailNext(1'000'000);
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(pool->Do([&] { ++ran; }).ok());
    EXPECT_EQ(pool->statistics().creation_failures, 3);
  }
  EXPECT_EQ(ran, 11);
  EXPECT_EQ(errors, 3);
  EXPECT_EQ(counting.started(), counting.joined());
}

// --- the timer's thread ---------------------------------------------------------------------

bool HasTimer(const WatchingFactory& factory, const std::string& name) {
  const std::vector<std::string> names = factory.names();
  return std::count(names.begin(), names.end(), name + "-timer") == 1;
}

TEST(Pool, HasNoTimerWithoutNeed) {
  WatchingFactory factory;
  {
    TeamLimits limits = Soft(2);
    limits.growth_per_second = 1;  // would need it only for work that waits
    auto pool = New({.name = "db", .limits = std::move(limits), .factory = &factory});
    RunAtOnce(*pool, 2);
    EXPECT_TRUE(pool->Shrink().ok());
  }
  EXPECT_EQ(factory.names().size(), 2u);
  EXPECT_FALSE(HasTimer(factory, "db"));
}

TEST(Pool, ItsTimerStartsWhenAnIdleThreadIsToBeReleased) {
  WatchingFactory factory;
  {
    TeamLimits limits = Soft(2);
    limits.idle_timeout = absl::Hours(1);
    auto pool = New({.name = "db", .limits = std::move(limits), .factory = &factory});
    EXPECT_EQ(factory.names().size(), 0u);
    Gate held;
    Gate release;
    ASSERT_TRUE(pool->Do([&] {
                      held.Open();
                      release.Wait();
                    })
                    .ok());
    held.Wait();
    EXPECT_FALSE(HasTimer(factory, "db"));
    release.Open();
    RunAtOnce(*pool, 2);
    EXPECT_TRUE(HasTimer(factory, "db"));
  }
  EXPECT_EQ(factory.names().size(), 3u);
  EXPECT_EQ(factory.alive(), 0);
}

TEST(Pool, ItsTimerStartsWhenACreationFailsAndWorks) {
  WatchingFactory watching;
  FailingThreadFactory factory(watching);
  std::atomic<int> errors = 0;
  auto pool = New(
      {.name = "db", .limits = Soft(1), .factory = &factory, .on_error = [&](const ErrorReport&) {
         ++errors;
       }});
  factory.FailNext(1);
  Gate ran;
  ASSERT_TRUE(pool->Do([&] { ran.Open(); }).ok());
  EXPECT_TRUE(HasTimer(watching, "db"));
  ran.Wait();
  EXPECT_EQ(errors, 1);
}

// Where not even the timer can be started, the next event tries again.
TEST(Pool, ATimerThatCannotBeStartedIsReportedAndNothingIsLost) {
  WatchingFactory watching;
  FailingThreadFactory factory(watching);
  std::atomic<int> errors = 0;
  std::atomic<int> ran = 0;
  {
    auto pool = New(
        {.name = "db", .limits = Soft(1), .factory = &factory, .on_error = [&](const ErrorReport&) {
           ++errors;
         }});
    factory.FailNext(2);
    ASSERT_TRUE(pool->Do([&] { ++ran; }).ok());
    EXPECT_EQ(errors, 2);
    EXPECT_THAT(watching.names(), testing::IsEmpty());
    factory.FailNext(1);
    Gate done;
    ASSERT_TRUE(pool->Do([&] { done.Open(); }).ok());  // fails once more; now there is a timer
    EXPECT_TRUE(HasTimer(watching, "db"));
    done.Wait();
  }
  EXPECT_EQ(ran, 1);
  EXPECT_EQ(errors, 3);
}

TEST(Pool, WithAClockThatItIsGivenItHasNoTimer) {
  WatchingFactory factory;
  ManualClock clock;
  TeamLimits limits = Soft(1);
  limits.idle_timeout = absl::Seconds(1);
  auto pool =
      New({.name = "db", .limits = std::move(limits), .factory = &factory, .clock = &clock});
  RunAtOnce(*pool, 1);
  EXPECT_FALSE(HasTimer(factory, "db"));
  EXPECT_EQ(clock.pending(), 1u);
}

// The real clock: nothing is measured, only that it comes to pass.
TEST(Pool, WithItsOwnClockItGrowsAndReleases) {
  WatchingFactory factory;
  Gate opened;
  Gate done;
  TeamLimits limits = Soft(1);
  limits.growth_per_second = 1000;
  limits.idle_timeout = absl::Milliseconds(1);
  auto pool = New({.name = "db", .limits = std::move(limits), .factory = &factory});
  ASSERT_TRUE(pool->Do([&] {
                    opened.Wait();
                    done.Open();
                  })
                  .ok());
  ASSERT_TRUE(pool->Do([&] { opened.Open(); }).ok());
  done.Wait();
  factory.Await(1);  // the timer is left
  EXPECT_TRUE(HasTimer(factory, "db"));
  EXPECT_EQ(pool->statistics().workers_created, 2);
}

// --- what waits for one another -------------------------------------------------------------

// #2673 of the original: the work that would end the wait has no thread.
TEST(Pool, T3_AWorkInABlockingScopeMayWaitForAWorkBehindIt) {
  Gate unblocked;
  Gate done;
  auto pool = New({.limits = Soft(1)});
  ASSERT_TRUE(pool->Do([&] {
                    BlockingScope blocking;
                    unblocked.Wait();
                    done.Open();
                  })
                  .ok());
  ASSERT_TRUE(pool->Do([&] { unblocked.Open(); }).ok());
  done.Wait();
}

TEST(Pool, T3_ManyMayWaitForOneBehindThem) {
  for (int round = 0; round < 50; ++round) {
    auto pool = New({.limits = Soft(1)});
    Gate set;
    std::atomic<int> waited = 0;
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(pool->Do([&] {
                        BlockingScope blocking;
                        set.Wait();
                        ++waited;
                      })
                      .ok());
    }
    ASSERT_TRUE(pool->Do([&] { set.Open(); }).ok());
    pool = nullptr;
    EXPECT_EQ(waited, 3);
  }
}

TEST(Pool, T3_ALimitThatIsRaisedLetsTheWorkRunThatEndsTheWait) {
  TeamLimits limits;
  limits.soft_limit = 1;
  Gate waiting;
  Gate unblocked;
  Gate done;
  auto pool = New({.limits = std::move(limits)});
  ASSERT_TRUE(pool->Do([&] {
                    waiting.Open();
                    unblocked.Wait();
                    done.Open();
                  })
                  .ok());
  ASSERT_TRUE(pool->Do([&] { unblocked.Open(); }).ok());
  waiting.Wait();
  EXPECT_EQ(pool->statistics().backlogged, 1);
  ASSERT_TRUE(pool->SetSize(0, 5).ok());
  done.Wait();
}

// --- the end --------------------------------------------------------------------------------

TEST(Pool, Hazard2_DestroyedInItsOwnWorkWithATimerOfItsOwn) {
  WatchingFactory factory;
  std::atomic<int> ran = 0;
  TeamLimits limits = Soft(2);
  limits.idle_timeout = absl::Hours(1);
  auto pool = New({.limits = std::move(limits), .factory = &factory});
  RunAtOnce(*pool, 2);  // there is a timer
  Team* const raw = pool.get();
  ASSERT_TRUE(raw->Do([&, own = std::move(pool)]() mutable {
                   for (int i = 0; i < 10; ++i) {
                     EXPECT_TRUE(own->Do([&] { ++ran; }).ok());
                   }
                   own = nullptr;
                 })
                  .ok());
  factory.Await(0);
  factory.inner.Finish();
  EXPECT_EQ(ran, 10);
  EXPECT_EQ(factory.inner.started(), factory.inner.joined());
}

TEST(Pool, QuitNowLeavesWhatRunsAlone) {
  std::atomic<int> ran = 0;
  auto pool = New({.limits = Soft(1)});
  Gate held;
  Gate release;
  ASSERT_TRUE(pool->Do([&] {
                    held.Open();
                    release.Wait();
                    ++ran;
                  })
                  .ok());
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(pool->Do([&] { ran += 100; }).ok());
  held.Wait();
  EXPECT_EQ(pool->QuitNow(), 10);
  EXPECT_TRUE(absl::IsDeadlineExceeded(pool->Join(absl::ZeroDuration())));
  release.Open();
  EXPECT_TRUE(pool->Join().ok());
  EXPECT_EQ(ran, 1);
}

// A pool that is a static is destroyed after what was made later, and its works still run then.
TEST(PoolDeathTest, Hazard6_APoolMayBeAStatic) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto use_and_exit = [] {
    static std::unique_ptr<Team> pool = New({.name = "static", .limits = Soft(2)});
    struct Later {
      ~Later() {
        if (!pool->Do([] { std::fputs("a static's last work\n", stderr); }).ok()) _exit(1);
      }
    };
    static Later later;
    RunAtOnce(*pool, 2);
    std::exit(0);
  };
  EXPECT_EXIT(use_and_exit(), testing::ExitedWithCode(0), "a static's last work");
}

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

TEST(Pool, Hazard8_InTheChildOfAForkEveryCallIsFailedPrecondition) {
  // Its threads are held while the process forks: a sanitizer has locks of its own otherwise,
  // which the child would never get.
  Gate held[2];
  Gate release;
  auto pool = New({.limits = Soft(2)});
  for (Gate& gate : held) {
    ASSERT_TRUE(pool->Do([&] {
                      gate.Open();
                      release.Wait();
                    })
                    .ok());
  }
  for (Gate& gate : held) gate.Wait();
  const auto failed = [](const absl::Status& status) {
    return absl::IsFailedPrecondition(status) && !IsAlreadyQuit(status);
  };
  EXPECT_EQ(InForkedChild([&] {
              Work work = [] {};
              Work then = [] {};
              if (!failed(pool->Do(std::move(work))) || work == nullptr) return 1;
              if (!failed(pool->Enqueue(std::move(work), std::move(then)).status())) return 2;
              if (work == nullptr || then == nullptr) return 3;
              if (!failed(pool->Grow(1)) || !failed(pool->Shrink(1))) return 4;
              if (!failed(pool->Shrink()) || !failed(pool->SetSize(1, 1))) return 5;
              if (!failed(pool->Quit()) || !failed(pool->Join())) return 6;
              if (pool->QuitNow() != 0) return 7;
              pool->Grow(0).IgnoreError();
              pool = nullptr;  // leaks, and returns
              return 0;
            }),
            0);
  release.Open();
  RunAtOnce(*pool, 2);  // the parent's does not notice
  pool = nullptr;
}

// --- cost -----------------------------------------------------------------------------------

// A capture of two pointers.
struct TwoPointers {
  std::atomic<int>* ran;
  void* other;
  void operator()() && { ran->fetch_add(1); }
};

// Gives `count` works while the only thread is held.
void Burst(Team& pool, int count, std::atomic<int>& ran) {
  struct Hold {
    Gate* held;
    Gate* release;
    void operator()() && {
      held->Open();
      release->Wait();
    }
  };
  struct Done {
    Gate* done;
    void operator()() && { done->Open(); }
  };
  Gate held;
  Gate release;
  Gate done;
  EXPECT_TRUE(pool.Do(Hold{&held, &release}).ok());
  held.Wait();
  for (int i = 0; i < count; ++i) EXPECT_TRUE(pool.Do(TwoPointers{&ran, nullptr}).ok());
  EXPECT_TRUE(pool.Do(Done{&done}).ok());
  release.Open();
  done.Wait();
}

TEST(Pool, DoAllocatesNothingInSteadyState) {
  std::atomic<int> ran = 0;
  auto pool = New({.limits = Soft(1)});
  for (int i = 0; i < 10; ++i) Burst(*pool, 1000, ran);
  const long before = allocations.load();
  for (int i = 0; i < 10; ++i) Burst(*pool, 1000, ran);
  // A list may meet its greatest length late; 10,000 works are many more than that.
  EXPECT_LE(allocations.load() - before, 8);
  EXPECT_EQ(ran, 20'000);
}

// And where the thread falls asleep between any two of them.
TEST(Pool, DoToASleepingThreadAllocatesNothing) {
  std::atomic<int> ran = 0;
  auto pool = New({.limits = Soft(1)});
  for (int i = 0; i < 10; ++i) Burst(*pool, 10, ran);
  const long before = allocations.load();
  for (int i = 0; i < 1000; ++i) Burst(*pool, 0, ran);
  EXPECT_LE(allocations.load() - before, 8);
}

}  // namespace
}  // namespace workers
