// A worker that runs items on the caller's thread, under a lock.

#ifndef WORKERS_LOCK_WORKER_H_
#define WORKERS_LOCK_WORKER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "workers/internal/fork_guard.h"
#include "workers/internal/sync.h"
#include "workers/worker.h"

namespace workers {

struct LockWorkerOptions {
  std::string name = "lock-worker";
  ErrorHandler on_error = {};
};

// Runs each work item before Do returns, on the thread that calls Do, with a lock held. A Do from
// inside one of its own items queues the new item and returns; that item runs when the current one
// has ended, before the lock is released. So items never nest.
//
// Known elsewhere as: an inline executor with a mutex, a monitor.
//
// Do waits while an item runs on another thread. Quit never waits. An item may call Do and Quit,
// also from the destructors of its captures. If a queued item throws, the others still run. Do
// returns ResourceExhausted, with the item untouched, if a nested item finds no memory.
//
// The destructor quits and waits for the item that runs on another thread. Inside one of its own
// items it aborts: no thread would be left to finish the item.
//
// A debug build (without NDEBUG) reports to the error handler, once, a thread that enters this
// worker inside another LockWorker's item and has entered the two in the opposite order before: two
// threads that do both can wait for each other forever. Each thread is compared only with itself.
//
// In the child of a fork Do and Quit return FailedPrecondition, whether or not the lock was held
// when the process forked, and the destructor does not wait. Queued items belong to the parent.
class LockWorker final : public IExclusiveWorker {
 public:
  explicit LockWorker(LockWorkerOptions options = {});
  ~LockWorker() override;

  // IWorker implementation:
  absl::Status Do(Work&& work) override;
  absl::Status Quit() override;

 private:
  void CheckOrder();
  void RunAndUnwind(Work& work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void RunQueued() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void LeakQueued() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  bool IsHeldByCaller() const;

  // Immutable.
  const std::string name_;
  const ErrorHandler on_error_;
  const absl::Status already_quit_;  // made in advance: a refusal allocates nothing
  const internal::ForkGuard guard_;
  const uint64_t order_id_;  // for debug builds

  // Any thread.
  internal::Atomic<bool> quit_ = false;
  internal::Atomic<internal::ThreadId> holder_;  // runs an item; set only under lock_

  internal::Mutex lock_;
  // Items submitted from inside an item; empty while lock_ is free. The two vectors swap roles and
  // keep a small capacity.
  std::vector<Work> queued_ ABSL_GUARDED_BY(lock_);
  std::vector<Work> running_ ABSL_GUARDED_BY(lock_);
  size_t next_ ABSL_GUARDED_BY(lock_) = 0;  // index into running_ of the next item to run
};

}  // namespace workers

#endif  // WORKERS_LOCK_WORKER_H_
