// The caller's thread under a lock.

#ifndef WORKERS_LOCK_WORKER_H_
#define WORKERS_LOCK_WORKER_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "workers/internal/sync.h"
#include "workers/quit_flag.h"
#include "workers/worker.h"

namespace workers {

struct LockWorkerOptions {
  std::string name = "lock-worker";
  ErrorHandler on_error = {};
};

// Runs work before Do returns, on the thread that calls Do, with a lock held. Called from
// inside its own work, Do queues the new work behind and returns; it runs when the work that
// runs now has ended, before the lock is free. So work never nests, however it calls back.
//
// Do waits while another thread's work runs. Quit never waits. A work may call Do and Quit,
// also from the destructors of its captures. If one of several queued works throws, the others
// still run.
//
// Destruction quits and waits for the work that another thread runs. Inside the worker's own
// work it dies: there is no thread left that could finish the work.
class LockWorker final : public IExclusiveWorker {
 public:
  explicit LockWorker(LockWorkerOptions options = {});
  ~LockWorker() override;

  // IWorker implementation:
  absl::Status Do(Work&& work) override;
  absl::Status Quit() override;

 private:
  void RunAndUnwind(Work work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void RunQueued() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  bool IsHeldByCaller() const;

  // Immutable.
  const std::string name_;
  const ErrorHandler on_error_;

  // Any thread.
  QuitFlag quit_;
  internal::Atomic<internal::ThreadId> holder_;  // whose work runs; set only while lock_ is held

  internal::Mutex lock_;
  // Works that were given from inside a work; empty while lock_ is free. Two vectors that
  // change places keep their capacity.
  std::vector<Work> queued_ ABSL_GUARDED_BY(lock_);
  std::vector<Work> running_ ABSL_GUARDED_BY(lock_);
  size_t next_ ABSL_GUARDED_BY(lock_) = 0;  // of running_, to be run
};

}  // namespace workers

#endif  // WORKERS_LOCK_WORKER_H_
