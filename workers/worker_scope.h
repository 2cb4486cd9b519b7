// Which workers' works the calling thread is in.

#ifndef WORKERS_WORKER_SCOPE_H_
#define WORKERS_WORKER_SCOPE_H_

#include "absl/base/thread_annotations.h"
#include "workers/internal/misuse.h"
#include "workers/worker.h"

namespace workers {

// Marks that this thread runs work of `worker`, for as long as the scope lives. Stands on
// the stack around each work; scopes nest. Every worker here opens one; a worker of yours
// does it in the same way:
//
//   void Run(Work work) {
//     WorkerScope scope(*this);
//     std::move(work)();
//   }
//
// A scope only compares the worker's address: it neither owns nor touches the worker.
class WorkerScope {
 public:
  explicit WorkerScope(const IWorker& worker);
  explicit WorkerScope(const IExclusiveWorker& worker);
  // For a worker all of whose works run on this thread, inside this one scope, as an event
  // loop's. See InnermostIsOneThread.
  struct OneThread {};
  WorkerScope(const IExclusiveWorker& worker, OneThread);
  ~WorkerScope();

  WorkerScope(const WorkerScope&) = delete;
  WorkerScope& operator=(const WorkerScope&) = delete;

  // Is the calling thread inside a work of `worker`, at any depth?
  static bool RunsIn(const IWorker& worker);

  // The exclusive worker whose work the calling thread is in, the innermost of several; null if
  // it is in none. A worker counts as exclusive whose scope was given an IExclusiveWorker; one
  // that was forgotten does not count. What has to stay with its worker, as a reactor::Deferred
  // does, asks this when it is made and RunsIn when it is touched.
  static const IExclusiveWorker* InnermostExclusive();

  // Did InnermostExclusive's scope say OneThread? What belongs to such a worker may still be
  // looked after on this thread when the loop has ended, outside of all works: InNone.
  static bool InnermostIsOneThread();
  static bool InNone();

  // Makes the scopes of this thread forget `worker`. For the destructor of a worker that may
  // die inside its own work: the next worker may get its address.
  static void Forget(const IWorker& worker);

 private:
  const IWorker* worker_;
  const IExclusiveWorker* exclusive_;  // the same worker, if it is one
  const bool is_one_thread_ = false;
  WorkerScope* const outer_;
};

// States, in the first line of a work, that the work is done by `worker`. Clang then allows
// what is ABSL_GUARDED_BY(worker). A debug build dies unless it is true; a release build
// (NDEBUG) does nothing.
inline void AssertDoneBy(const IExclusiveWorker& worker) ABSL_ASSERT_EXCLUSIVE_LOCK(worker) {
#ifdef NDEBUG
  (void)worker;
#else
  if (!WorkerScope::RunsIn(worker)) {
    internal::DieOfMisuse("AssertDoneBy: the caller is not inside a work of this worker");
  }
#endif
}

}  // namespace workers

#endif  // WORKERS_WORKER_SCOPE_H_
