// Serial workers in the child of a fork: nothing hangs, and no item of the parent runs there.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/serial_worker.h"
#include "workers/team.h"
#include "workers/testing/gate.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace workers {
namespace {

using test::Gate;

// The exit code of a child that runs `f`, which returns 0 if all is well. A child that hangs ends
// by a signal, and the code is -1.
int ExitCodeOfChild(const std::function<int()>& f) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(30);
    _exit(f());
  }
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

bool IsRefusal(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) && !IsAlreadyQuit(status);
}

// B5. A busy worker, an idle one, and one whose slice waits for a thread, on a pool and on a
// thread, with a group that owns the base and one that does not.
void ExpectRefusalsInTheChild(std::shared_ptr<IWorker> base, bool owns) {
  Gate held;
  Gate release;
  std::optional<SerialGroup> group;
  if (owns) {
    group.emplace(base);
  } else {
    group.emplace(*base);
  }
  std::vector<std::unique_ptr<SerialWorker>> workers;
  for (int i = 0; i < 6; ++i) workers.push_back(std::make_unique<SerialWorker>(*group));
  ASSERT_TRUE(workers[0]
                  ->Do([&] {
                    held.Open();
                    release.Wait();
                  })
                  .ok());
  held.Wait();
  ASSERT_TRUE(workers[1]->Do([] {}).ok());
  EXPECT_EQ(ExitCodeOfChild([&] {
              for (auto& worker : workers) {
                Work item = [] {};
                if (!IsRefusal(worker->Do(std::move(item))) || item == nullptr) return 1;
                if (!IsRefusal(worker->Quit())) return 2;
              }
              if (!absl::IsInvalidArgument(workers[0]->Do(nullptr))) return 3;
              {
                SerialWorker made_in_the_child(*group);
                if (!IsRefusal(made_in_the_child.Do([] {}))) return 4;
              }
              for (int i = 0; i < 3; ++i) workers[static_cast<size_t>(i)] = nullptr;  // returns
              for (int i = 3; i < 6; ++i) {
                SerialWorker::Release(std::move(workers[static_cast<size_t>(i)]));
              }
              group.reset();
              return 0;
            }),
            0);
  release.Open();
  for (auto& worker : workers) EXPECT_TRUE(worker->Do([] {}).ok());  // the parent goes on
  workers.clear();
  group.reset();
}

TEST(SerialFork, InTheChildEveryFunctionIsFailedPreconditionOrReturns) {
  for (bool owns : {false, true}) {
    ExpectRefusalsInTheChild(*ThreadWorker::Create(), owns);
    ExpectRefusalsInTheChild(*MakePool({.limits = {.soft_limit = 1}}), owns);
  }
}

// Also while other threads of the parent are inside every function, and hold what locks there are.
TEST(SerialFork, InTheChildNothingWaitsForLocksOfTheParent) {
  auto base = *MakePool({.limits = {.soft_limit = 2}});
  std::optional<SerialGroup> group;
  group.emplace(*base, SerialOptions{.quantum_items = 1});
  auto worker = std::make_unique<SerialWorker>(*group);
  std::atomic<bool> stop = false;
  std::vector<std::thread> busy;
  for (int i = 0; i < 3; ++i) {
    busy.emplace_back([&] {
      while (!stop) {
        SerialWorker own(*group);
        for (int n = 0; n < 20; ++n) {
          EXPECT_TRUE(own.Do([] {}).ok());
          EXPECT_TRUE(worker->Do([] {}).ok());
        }
      }
    });
  }
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(ExitCodeOfChild([&] {
                if (!IsRefusal(worker->Do([] {})) || !IsRefusal(worker->Quit())) return 1;
                SerialWorker made_in_the_child(*group);
                worker = nullptr;
                group.reset();
                return 0;
              }),
              0);
  }
  stop = true;
  for (std::thread& thread : busy) thread.join();
}

TEST(SerialFork, AGroupMadeInTheChildWorks) {
  auto parents = *ThreadWorker::Create();  // forks are counted
  SerialGroup parents_group(*parents);
  EXPECT_EQ(ExitCodeOfChild([] {
              // Without a thread, which the thread sanitizer would not start in the child.
              MemoryWorker base = CreateMemoryWorker();
              SerialGroup group(*base.worker, {.quantum_items = 1});
              int ran = 0;
              {
                auto worker = std::make_unique<SerialWorker>(group);
                for (int i = 0; i < 3; ++i) {
                  if (!worker->Do([&] { ++ran; }).ok()) return 1;
                }
                SerialWorker::Release(std::move(worker));
              }
              while (base.performer() == Performed::kRan) {
              }
              return ran == 3 ? 0 : 2;
            }),
            0);
}

// B5. An item forks, and returns in the child: the rest of the slice runs in the parent only. The
// item may also have destroyed, or released, its worker in the child. The base is stepped, so that
// the child comes back here.
TEST(SerialFork, AnItemThatForksDoesNotMakeTheChildRunTheOthers) {
  enum class InChild { kReturns, kDestroys, kReleases };
  for (InChild in_child : {InChild::kReturns, InChild::kDestroys, InChild::kReleases}) {
    MemoryWorker base = CreateMemoryWorker("base");
    SerialGroup group(*base.worker);
    auto worker = std::make_unique<SerialWorker>(group);
    int ran = 0;
    pid_t child = -1;
    ASSERT_TRUE(worker
                    ->Do([&] {
                      child = fork();
                      if (child != 0) return;
                      alarm(30);
                      if (in_child == InChild::kDestroys) worker = nullptr;
                      if (in_child == InChild::kReleases) SerialWorker::Release(std::move(worker));
                    })
                    .ok());
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(worker->Do([&] { ++ran; }).ok());
    while (base.performer() == Performed::kRan) {
    }
    if (child == 0) _exit(ran);
    EXPECT_EQ(ran, 3);
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
}

// The same where the items run on a caller, because the base has refused a slice.
TEST(SerialFork, AnItemThatForksOnTheCallerDoesNotMakeTheChildRunTheOthers) {
  class Full final : public IWorker {
   public:
    std::function<void()> before_answer;
    absl::Status Do(Work&&) override {
      if (before_answer) std::exchange(before_answer, nullptr)();
      return absl::ResourceExhaustedError("full");
    }
    absl::Status Quit() override { return absl::OkStatus(); }
  };
  Full base;
  SerialGroup group(base, {.quantum_items = 1});
  SerialWorker worker(group);
  int ran = 0;
  pid_t child = -1;
  base.before_answer = [&] {
    EXPECT_TRUE(worker
                    .Do([&] {
                      child = fork();
                      if (child == 0) alarm(30);
                    })
                    .ok());
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(worker.Do([&] { ++ran; }).ok());
  };
  EXPECT_FALSE(worker.Do([] {}).ok());
  if (child == 0) _exit(ran);
  EXPECT_EQ(ran, 3);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace workers
