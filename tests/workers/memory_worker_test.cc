#include "workers/memory_worker.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace {

thread_local bool out_of_memory = false;

}  // namespace

// Not inlined: GCC would take malloc and free for a mismatched pair.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (out_of_memory) throw std::bad_alloc();
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace workers {
namespace {

TEST(MemoryWorker, DoOnlyQueuesAndEachStepRunsOneInOrder) {
  MemoryWorker memory = CreateMemoryWorker();
  std::vector<int> done;
  ASSERT_TRUE(memory.worker->Do([&] { done.push_back(3); }).ok());
  ASSERT_TRUE(memory.worker->Do([&] { done.push_back(4); }).ok());
  EXPECT_EQ(memory.performer.queued(), 2u);
  EXPECT_TRUE(done.empty());
  EXPECT_EQ(memory.performer(), Performed::kRan);
  EXPECT_THAT(done, testing::ElementsAre(3));
  EXPECT_EQ(memory.performer(), Performed::kRan);
  EXPECT_THAT(done, testing::ElementsAre(3, 4));
}

TEST(MemoryWorker, AfterQuitItRefusesAndWhatWasTakenIsStillPerformed) {
  MemoryWorker memory = CreateMemoryWorker();
  int done = 0;
  ASSERT_TRUE(memory.worker->Do([&] { ++done; }).ok());
  ASSERT_TRUE(memory.worker->Quit().ok());
  EXPECT_TRUE(IsAlreadyQuit(memory.worker->Do([&] { ++done; })));
  EXPECT_TRUE(IsAlreadyQuit(memory.worker->Quit()));
  EXPECT_EQ(memory.performer(), Performed::kRan);
  EXPECT_EQ(done, 1);
  EXPECT_EQ(memory.performer(), Performed::kFinished);
}

// W6: in the original "nothing yet" and "never again" look the same.
TEST(MemoryWorker, W6_NothingYetAndNeverAgainAreDifferent) {
  MemoryWorker memory = CreateMemoryWorker();
  EXPECT_EQ(memory.performer(), Performed::kIdle);
  ASSERT_TRUE(memory.worker->Do([] {}).ok());
  EXPECT_EQ(memory.performer(), Performed::kRan);
  EXPECT_EQ(memory.performer(), Performed::kIdle);
  ASSERT_TRUE(memory.worker->Quit().ok());
  EXPECT_EQ(memory.performer(), Performed::kFinished);
}

TEST(MemoryWorker, TheWorksOfADestroyedWorkerStayWithThePerformer) {
  MemoryWorker memory = CreateMemoryWorker();
  int done = 0;
  ASSERT_TRUE(memory.worker->Do([&] { ++done; }).ok());
  memory.worker = nullptr;
  EXPECT_EQ(memory.performer(), Performed::kRan);
  EXPECT_EQ(done, 1);
  EXPECT_EQ(memory.performer(), Performed::kFinished);
}

TEST(MemoryWorker, DropDestroysTheOldestFirstAndCounts) {
  MemoryWorker memory = CreateMemoryWorker();
  std::vector<int> destroyed;
  struct Probe {
    std::vector<int>* log;
    int name;
    Probe(std::vector<int>* log, int name) : log(log), name(name) {}
    Probe(Probe&& other) noexcept : log(std::exchange(other.log, nullptr)), name(other.name) {}
    ~Probe() {
      if (log != nullptr) log->push_back(name);
    }
  };
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(memory.worker->Do([probe = Probe(&destroyed, i)] { FAIL(); }).ok());
  }
  EXPECT_EQ(memory.performer.Drop(), 3u);
  EXPECT_THAT(destroyed, testing::ElementsAre(0, 1, 2));
  EXPECT_EQ(memory.performer.Drop(), 0u);
  EXPECT_EQ(memory.performer(), Performed::kIdle);  // it is still open
  ASSERT_TRUE(memory.worker->Do([] {}).ok());
  EXPECT_EQ(memory.performer(), Performed::kRan);
}

TEST(MemoryWorker, ThePerformersEndDropsAndReports) {
  std::vector<std::string> reports;
  MemoryWorker memory = CreateMemoryWorker("mem", [&](const ErrorReport& report) {
    EXPECT_FALSE(report.status.ok());
    EXPECT_EQ(report.exception, nullptr);
    reports.push_back(std::string(report.worker) + " " + std::to_string(report.dropped));
  });
  ASSERT_TRUE(memory.worker->Do([] { FAIL(); }).ok());
  ASSERT_TRUE(memory.worker->Do([] { FAIL(); }).ok());
  {
    MemoryPerformer end = std::move(memory.performer);
  }
  EXPECT_THAT(reports, testing::ElementsAre("mem 2"));
  // Nothing that nobody could ever run is taken.
  EXPECT_TRUE(IsAlreadyQuit(memory.worker->Do([] {})));
  EXPECT_TRUE(memory.worker->Quit().ok());
  EXPECT_TRUE(IsAlreadyQuit(memory.worker->Quit()));
}

TEST(MemoryWorker, AnEndWithNothingLeftReportsNothing) {
  int reports = 0;
  {
    MemoryWorker memory = CreateMemoryWorker("mem", [&](const ErrorReport&) { ++reports; });
  }
  EXPECT_EQ(reports, 0);
}

TEST(MemoryWorker, AssignmentDropsWhatThePerformerHad) {
  int64_t dropped = 0;
  MemoryWorker one =
      CreateMemoryWorker("one", [&](const ErrorReport& report) { dropped += report.dropped; });
  MemoryWorker two = CreateMemoryWorker("two");
  ASSERT_TRUE(one.worker->Do([] { FAIL(); }).ok());
  ASSERT_TRUE(two.worker->Do([] {}).ok());
  one.performer = std::move(two.performer);
  EXPECT_EQ(dropped, 1);
  EXPECT_EQ(one.performer(), Performed::kRan);
  EXPECT_EQ(two.performer(), Performed::kFinished);  // NOLINT: moved from
}

TEST(MemoryWorker, AWorkMayDestroyItsPerformer) {
  int64_t dropped = 0;
  MemoryWorker memory =
      CreateMemoryWorker("mem", [&](const ErrorReport& report) { dropped += report.dropped; });
  std::optional<MemoryPerformer> performer = std::move(memory.performer);
  ASSERT_TRUE(memory.worker->Do([&] { performer.reset(); }).ok());
  ASSERT_TRUE(memory.worker->Do([] { FAIL(); }).ok());
  EXPECT_EQ((*performer)(), Performed::kRan);
  EXPECT_EQ(dropped, 1);
}

TEST(MemoryWorker, AnyThreadMayGiveWork) {
  MemoryWorker memory = CreateMemoryWorker();
  int runs = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 1000; ++j) EXPECT_TRUE(memory.worker->Do([&] { ++runs; }).ok());
    });
  }
  for (int left = 4000; left > 0;) {
    if (memory.performer() == Performed::kRan) --left;
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(runs, 4000);
}

TEST(MemoryWorker, AssertDoneByHoldsInItsWork) {
  MemoryWorker memory = CreateMemoryWorker();
  ASSERT_TRUE(memory.worker->Do([&] { AssertDoneBy(*memory.worker); }).ok());
  EXPECT_EQ(memory.performer(), Performed::kRan);
}

// B2: without memory each Do either accepts the item or leaves it untouched.
TEST(MemoryWorker, DoWithoutMemoryIsRefusedAndLeavesTheItemUntouched) {
  MemoryWorker memory = CreateMemoryWorker();
  int refused = 0;
  int ran = 0;
  for (int i = 0; i < 100; ++i) {
    Work item = [&ran] { ++ran; };
    out_of_memory = true;
    const absl::Status status = memory.worker->Do(std::move(item));
    out_of_memory = false;
    if (status.ok()) continue;
    ++refused;
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    ASSERT_TRUE(item != nullptr);
    ASSERT_TRUE(memory.worker->Do(std::move(item)).ok());
  }
  EXPECT_GT(refused, 0);
  while (memory.performer() == Performed::kRan) {
  }
  EXPECT_EQ(ran, 100);
}

// B5.
TEST(MemoryWorker, InTheChildOfAForkItRefusesAndRunsNothing) {
  MemoryWorker memory = CreateMemoryWorker();
  int ran = 0;
  ASSERT_TRUE(memory.worker->Do([&] { ++ran; }).ok());
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    const bool refused = absl::IsFailedPrecondition(memory.worker->Do([] {})) &&
                         absl::IsFailedPrecondition(memory.worker->Quit()) &&
                         memory.performer() == Performed::kFinished &&
                         memory.performer.queued() == 0 && memory.performer.Drop() == 0;
    memory.worker = nullptr;
    _exit(refused && ran == 0 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(memory.performer(), Performed::kRan);
  EXPECT_EQ(ran, 1);
}

// Self-test of a double: it notices misuse.
TEST(MemoryWorkerDeathTest, DiesWhenItIsSteppedInsideItsOwnWork) {
  const auto step_inside = [] {  // makes the worker in the death test's child
    MemoryWorker memory = CreateMemoryWorker();
    memory.worker->Do([&] { memory.performer(); }).IgnoreError();
    memory.performer();
  };
  EXPECT_DEATH(step_inside(), "inside a work that it runs");
}

}  // namespace
}  // namespace workers
