// The contract of workers/worker.h as tests, for any worker, yours too.
//
// Say how your worker is made and driven, and instantiate the suite:
//
//   class MyWorkerFixture : public workers::test::WorkerFixture {
//    public:
//     workers::test::WorkerTraits traits() const override { return {.exclusive = true}; }
//     std::unique_ptr<workers::IWorker> Make(workers::ErrorHandler on_error) override {
//       return std::make_unique<MyWorker>(std::move(on_error));
//     }
//   };
//   INSTANTIATE_TEST_SUITE_P(MyWorker, WorkerContract,
//                            testing::Values(workers::test::MakeFixture<MyWorkerFixture>()));
//
// and depend on @iworker//workers/testing:worker_contract.

#ifndef WORKERS_TESTING_WORKER_CONTRACT_H_
#define WORKERS_TESTING_WORKER_CONTRACT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "gtest/gtest.h"
#include "workers/internal/sync.h"
#include "workers/testing/gate.h"
#include "workers/worker.h"

namespace workers::test {

// What a worker promises beyond the contract; the suite tests that too.
struct WorkerTraits {
  bool exclusive = false;            // never two works at once, in the order of the Do calls
  bool runs_inline = false;          // Do runs the work before it returns, on the calling thread
  bool waits_in_destructor = false;  // it returns after all that was taken has run
  bool may_die_in_own_work = true;   // it may be destroyed inside its own work
  bool stepped = false;              // nothing happens before WorkerFixture::Step
  bool opens_scope = true;           // WorkerScope::RunsIn(worker) is true inside its work
};

// Makes the worker of one test, and lets it go on.
class WorkerFixture {
 public:
  virtual ~WorkerFixture() = default;
  virtual WorkerTraits traits() const = 0;
  // Called once. The worker tells `on_error` what its works do wrong.
  virtual std::unique_ptr<IWorker> Make(ErrorHandler on_error) = 0;
  // For a worker that is `stepped`: runs some of what waits. False: nothing was waiting.
  virtual bool Step() { return false; }
};

using FixtureFactory = std::function<std::unique_ptr<WorkerFixture>()>;

template <typename Fixture>
FixtureFactory MakeFixture() {
  return [] { return std::make_unique<Fixture>(); };
}

// What an ErrorReport said, kept after the call.
struct ToldError {
  std::string worker;
  absl::Status status;
  std::exception_ptr exception;
  int64_t dropped = 0;
};

}  // namespace workers::test

// In the global namespace, so that INSTANTIATE_TEST_SUITE_P names it from anywhere.
class WorkerContract : public testing::TestWithParam<workers::test::FixtureFactory> {
 protected:
  WorkerContract();
  ~WorkerContract() override;

  workers::test::WorkerTraits traits() const { return fixture_->traits(); }
  workers::IWorker& worker() { return *worker_; }
  // Gives the worker away, for tests of its end.
  std::unique_ptr<workers::IWorker> TakeWorker() { return std::move(worker_); }

  // Gives `work` to the worker, which must take it.
  void Do(workers::Work work);
  // Waits until `gate` is open; a worker that is stepped is stepped until then.
  void Await(const workers::test::Gate& gate);
  // Quits the worker, lets it do what it has taken, and destroys it.
  void EndWorker();
  // Steps a stepped worker until nothing is left.
  void StepToTheEnd();
  // What the worker's error handler was told so far.
  std::vector<workers::test::ToldError> errors() const;

 private:
  std::unique_ptr<workers::test::WorkerFixture> fixture_;
  mutable workers::internal::Mutex mutex_;
  std::vector<workers::test::ToldError> errors_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<workers::IWorker> worker_;
};

#endif  // WORKERS_TESTING_WORKER_CONTRACT_H_
