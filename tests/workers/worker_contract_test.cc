// Every worker of workers/ keeps the contract.

#include "workers/testing/worker_contract.h"

#include <memory>
#include <optional>
#include <utility>

#include "gtest/gtest.h"
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

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

INSTANTIATE_TEST_SUITE_P(ThreadWorker, WorkerContract,
                         testing::Values(MakeFixture<ThreadWorkerFixture>()));
INSTANTIATE_TEST_SUITE_P(LockWorker, WorkerContract,
                         testing::Values(MakeFixture<LockWorkerFixture>()));
INSTANTIATE_TEST_SUITE_P(MemoryWorker, WorkerContract,
                         testing::Values(MakeFixture<MemoryWorkerFixture>()));

}  // namespace
}  // namespace workers
