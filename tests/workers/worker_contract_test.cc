// Every worker of workers/ keeps the contract.

#include "workers/testing/worker_contract.h"

#include <unwind.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/serial_worker.h"
#include "workers/team.h"
#include "workers/testing/gate.h"
#include "workers/thread_pool.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

// B3: another language's unwinding, as a Rust panic through "C-unwind".
TEST_P(WorkerContract, AForeignExceptionIsReportedOnceAndTheNextItemRuns) {
  static _Unwind_Exception foreign;
  workers::test::Gate done;
  Do([] {
    foreign = {};
    foreign.exception_class = 0x4d4f5a0052555354;  // "MOZ\0RUST"
    foreign.exception_cleanup = [](_Unwind_Reason_Code, _Unwind_Exception*) {};
    _Unwind_RaiseException(&foreign);
  });
  Do([&] { done.Open(); });
  Await(done);
  EndWorker();
  ASSERT_EQ(errors().size(), 1u);
  EXPECT_TRUE(absl::IsUnknown(errors()[0].status)) << errors()[0].status;
  EXPECT_EQ(errors()[0].status.message(), "a foreign exception");
}

namespace workers {
namespace {

using test::MakeFixture;
using test::WorkerFixture;
using test::WorkerTraits;

class ThreadWorkerFixture : public WorkerFixture {
 public:
  WorkerTraits traits() const override { return {.exclusive = true, .waits_in_destructor = true}; }
  std::unique_ptr<IWorker> Make(ErrorHandler on_error) override {
    return *ThreadWorker::Create({.on_error = std::move(on_error)});
  }
};

class LockWorkerFixture : public WorkerFixture {
 public:
  WorkerTraits traits() const override {
    return {.exclusive = true,
            .runs_inline = true,
            .waits_in_destructor = true,
            .may_die_in_own_work = false};
  }
  std::unique_ptr<IWorker> Make(ErrorHandler on_error) override {
    return std::make_unique<LockWorker>(LockWorkerOptions{.on_error = std::move(on_error)});
  }
};

class MemoryWorkerFixture : public WorkerFixture {
 public:
  WorkerTraits traits() const override { return {.exclusive = true, .stepped = true}; }
  std::unique_ptr<IWorker> Make(ErrorHandler on_error) override {
    MemoryWorker memory = CreateMemoryWorker("memory", std::move(on_error));
    performer_.emplace(std::move(memory.performer));
    return std::move(memory.worker);
  }
  bool Step() override { return (*performer_)() == Performed::kRan; }

 private:
  std::optional<MemoryPerformer> performer_;
};

// A Team of up to two MemoryWorkers, coordinated by a third.
class MemoryTeamFixture : public WorkerFixture {
 public:
  WorkerTraits traits() const override { return {.stepped = true}; }
  std::unique_ptr<IWorker> Make(ErrorHandler on_error) override {
    TeamOptions options;
    MemoryWorker coordinator = CreateMemoryWorker("coordinator");
    performers_.push_back(std::move(coordinator.performer));
    options.coordinator = std::move(coordinator.worker);
    options.create_worker = [this]() -> std::unique_ptr<IWorker> {
      if (performers_.size() == 3) return nullptr;
      MemoryWorker worker = CreateMemoryWorker("worker");
      performers_.push_back(std::move(worker.performer));
      return std::move(worker.worker);
    };
    options.on_error = std::move(on_error);
    return *Team::Create(std::move(options));
  }
  bool Step() override {
    bool ran = false;
    for (size_t i = 0; i < performers_.size(); ++i) {
      if (performers_[i]() == Performed::kRan) ran = true;
    }
    return ran;
  }

 private:
  std::vector<MemoryPerformer> performers_;
};

// A Team of up to three ThreadWorkers, coordinated by a fourth.
class ThreadTeamFixture : public WorkerFixture {
 public:
  WorkerTraits traits() const override { return {.waits_in_destructor = true}; }
  std::unique_ptr<IWorker> Make(ErrorHandler on_error) override {
    TeamOptions options;
    options.coordinator = *ThreadWorker::Create();
    options.create_worker = [] { return ThreadWorker::Create(); };
    options.limits.hard_limit = 3;
    options.on_error = std::move(on_error);
    return *Team::Create(std::move(options));
  }
};

// Submits through the template: as a closure of its own type, or as a std::function if it is empty.
class TemplateTeam final : public IWorker {
 public:
  explicit TemplateTeam(std::unique_ptr<Team> team) : team_(std::move(team)) {}
  absl::Status Do(Work&& work) override {
    if (!work) return team_->Do(std::function<void()>());
    Closure closure = {std::move(work)};
    absl::Status status = team_->Do(std::move(closure));
    if (!status.ok()) work = std::move(closure.work);
    return status;
  }
  absl::Status Quit() override { return team_->Quit(); }

 private:
  struct Closure {
    Work work;
    void operator()() && { std::move(work)(); }
  };
  const std::unique_ptr<Team> team_;
};

class TemplatePoolFixture : public WorkerFixture {
 public:
  WorkerTraits traits() const override {
    return {.exclusive = true, .waits_in_destructor = true, .opens_scope = false};
  }
  std::unique_ptr<IWorker> Make(ErrorHandler on_error) override {
    return std::make_unique<TemplateTeam>(
        *MakePool({.limits = {.soft_limit = 1}, .on_error = std::move(on_error)}));
  }
};

template <int threads>
class PoolFixture : public WorkerFixture {
 public:
  WorkerTraits traits() const override {
    return {.exclusive = threads == 1, .waits_in_destructor = true};
  }
  std::unique_ptr<IWorker> Make(ErrorHandler on_error) override {
    return *MakePool({.limits = {.soft_limit = threads}, .on_error = std::move(on_error)});
  }
};

class ThreadPoolFixture : public WorkerFixture {
 public:
  WorkerTraits traits() const override {
    return {.waits_in_destructor = true, .opens_scope = false};
  }
  std::unique_ptr<IWorker> Make(ErrorHandler on_error) override {
    auto pool = *ThreadPool::Create(
        {.min_threads = 1, .max_threads = 3, .pool = {.on_error = std::move(on_error)}});
    EXPECT_TRUE(pool->Start().ok());
    return pool;
  }
};

// A SerialWorker over the worker of another fixture.
template <typename Base>
class SerialFixture : public WorkerFixture {
 public:
  WorkerTraits traits() const override {
    const WorkerTraits base = base_.traits();
    return {.exclusive = true,
            .runs_inline = base.runs_inline,
            .waits_in_destructor = true,
            .stepped = base.stepped};
  }
  std::unique_ptr<IWorker> Make(ErrorHandler on_error) override {
    base_worker_ = base_.Make({});
    group_.emplace(*base_worker_, SerialOptions{.on_error = std::move(on_error)});
    return std::make_unique<SerialWorker>(*group_);
  }
  bool Step() override { return base_.Step(); }
  ~SerialFixture() override {
    base_worker_->Quit().IgnoreError();
    while (base_.Step()) {
    }
  }

 private:
  Base base_;
  std::unique_ptr<IWorker> base_worker_;
  std::optional<SerialGroup> group_;
};

INSTANTIATE_TEST_SUITE_P(ThreadWorker, WorkerContract,
                         testing::Values(MakeFixture<ThreadWorkerFixture>()));
INSTANTIATE_TEST_SUITE_P(LockWorker, WorkerContract,
                         testing::Values(MakeFixture<LockWorkerFixture>()));
INSTANTIATE_TEST_SUITE_P(MemoryWorker, WorkerContract,
                         testing::Values(MakeFixture<MemoryWorkerFixture>()));
INSTANTIATE_TEST_SUITE_P(MemoryTeam, WorkerContract,
                         testing::Values(MakeFixture<MemoryTeamFixture>()));
INSTANTIATE_TEST_SUITE_P(ThreadTeam, WorkerContract,
                         testing::Values(MakeFixture<ThreadTeamFixture>()));
INSTANTIATE_TEST_SUITE_P(PoolOf1, WorkerContract, testing::Values(MakeFixture<PoolFixture<1>>()));
INSTANTIATE_TEST_SUITE_P(PoolThroughTheTemplate, WorkerContract,
                         testing::Values(MakeFixture<TemplatePoolFixture>()));
INSTANTIATE_TEST_SUITE_P(PoolOf4, WorkerContract, testing::Values(MakeFixture<PoolFixture<4>>()));
INSTANTIATE_TEST_SUITE_P(ThreadPool, WorkerContract,
                         testing::Values(MakeFixture<ThreadPoolFixture>()));
INSTANTIATE_TEST_SUITE_P(SerialOnThreadPool, WorkerContract,
                         testing::Values(MakeFixture<SerialFixture<ThreadPoolFixture>>()));
INSTANTIATE_TEST_SUITE_P(SerialOnThreadTeam, WorkerContract,
                         testing::Values(MakeFixture<SerialFixture<ThreadTeamFixture>>()));
INSTANTIATE_TEST_SUITE_P(SerialOnPoolOf1, WorkerContract,
                         testing::Values(MakeFixture<SerialFixture<PoolFixture<1>>>()));
INSTANTIATE_TEST_SUITE_P(SerialOnPool, WorkerContract,
                         testing::Values(MakeFixture<SerialFixture<PoolFixture<4>>>()));
INSTANTIATE_TEST_SUITE_P(SerialOnMemoryTeam, WorkerContract,
                         testing::Values(MakeFixture<SerialFixture<MemoryTeamFixture>>()));
INSTANTIATE_TEST_SUITE_P(SerialOnThread, WorkerContract,
                         testing::Values(MakeFixture<SerialFixture<ThreadWorkerFixture>>()));
INSTANTIATE_TEST_SUITE_P(SerialOnLock, WorkerContract,
                         testing::Values(MakeFixture<SerialFixture<LockWorkerFixture>>()));
INSTANTIATE_TEST_SUITE_P(SerialOnMemory, WorkerContract,
                         testing::Values(MakeFixture<SerialFixture<MemoryWorkerFixture>>()));
INSTANTIATE_TEST_SUITE_P(
    SerialOnSerial, WorkerContract,
    testing::Values(MakeFixture<SerialFixture<SerialFixture<ThreadWorkerFixture>>>()));

}  // namespace
}  // namespace workers
