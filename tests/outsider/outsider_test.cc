// Another workspace's own worker keeps the contract, and its code is tested with a MemoryWorker.

#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "workers/memory_worker.h"
#include "workers/testing/worker_contract.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace {

// Hands everything on to a ThreadWorker.
class ForwardingWorker final : public workers::IWorker {
 public:
  explicit ForwardingWorker(workers::ErrorHandler on_error)
      : inner_(*workers::ThreadWorker::Create({.on_error = std::move(on_error)})) {}
  absl::Status Do(workers::Work&& work) override { return inner_->Do(std::move(work)); }
  absl::Status Quit() override { return inner_->Quit(); }

 private:
  std::unique_ptr<workers::ThreadWorker> inner_;
};

class ForwardingWorkerFixture : public workers::test::WorkerFixture {
 public:
  workers::test::WorkerTraits traits() const override {
    return {.exclusive = true, .waits_in_destructor = true, .opens_scope = false};
  }
  std::unique_ptr<workers::IWorker> Make(workers::ErrorHandler on_error) override {
    return std::make_unique<ForwardingWorker>(std::move(on_error));
  }
};

INSTANTIATE_TEST_SUITE_P(ForwardingWorker, WorkerContract,
                         testing::Values(workers::test::MakeFixture<ForwardingWorkerFixture>()));

TEST(Outsider, StepsAMemoryWorker) {
  workers::MemoryWorker memory = workers::CreateMemoryWorker();
  bool ran = false;
  ASSERT_TRUE(memory.worker->Do([&] { ran = true; }).ok());
  EXPECT_FALSE(ran);
  EXPECT_EQ(memory.performer(), workers::Performed::kRan);
  EXPECT_TRUE(ran);
}

}  // namespace
