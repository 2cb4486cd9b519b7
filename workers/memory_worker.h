// A worker that keeps its work until somebody steps it: the deterministic worker of tests.

#ifndef WORKERS_MEMORY_WORKER_H_
#define WORKERS_MEMORY_WORKER_H_

#include <cstddef>
#include <memory>
#include <string>

#include "workers/worker.h"

namespace workers {

enum class Performed {
  kRan,       // one work ran
  kIdle,      // there is nothing to do yet
  kFinished,  // the worker has quit, and nothing is left: there never will be anything
};

struct MemoryWorker;

// Runs the works of one MemoryWorker, one a call. Move-only. One thread at a time, and not
// from inside a work that it runs: both die. Works may be given by any thread meanwhile.
class MemoryPerformer {
 public:
  MemoryPerformer(MemoryPerformer&&) = default;
  // What was left in the performer that is replaced is dropped as by its destructor.
  MemoryPerformer& operator=(MemoryPerformer&& other);
  // Closes the worker (its Do says AlreadyQuit from then on), destroys what is left, unrun,
  // and reports how many that were. Destroy performers before what waits for their works.
  ~MemoryPerformer();

  // Runs the oldest work, on the calling thread.
  Performed operator()();

  // How many works were taken and have not begun. Any thread.
  size_t queued() const;

  // Destroys what is left, unrun, and returns how many works that were. The worker stays as
  // it is: open, or quit.
  size_t Drop();

 private:
  friend MemoryWorker CreateMemoryWorker(std::string name, ErrorHandler on_error);
  struct Core;  // shared with the worker
  class Worker;

  explicit MemoryPerformer(std::shared_ptr<Core> core);
  void Close();

  std::shared_ptr<Core> core_;  // null only when moved from
};

// The worker's destructor quits and does not wait; its works stay with the performer.
struct MemoryWorker {
  std::unique_ptr<IExclusiveWorker> worker;
  MemoryPerformer performer;
};

// Nothing that is given to the worker happens before the performer is called:
//
//   workers::MemoryWorker memory = workers::CreateMemoryWorker();
//   bool ran = false;
//   ASSERT_TRUE(memory.worker->Do([&] { ran = true; }).ok());
//   EXPECT_FALSE(ran);
//   EXPECT_EQ(memory.performer(), workers::Performed::kRan);
//   EXPECT_TRUE(ran);
MemoryWorker CreateMemoryWorker(std::string name = "memory", ErrorHandler on_error = {});

}  // namespace workers

#endif  // WORKERS_MEMORY_WORKER_H_
