// A gate: closed until somebody opens it.

#ifndef WORKERS_TESTING_GATE_H_
#define WORKERS_TESTING_GATE_H_

#include "absl/base/thread_annotations.h"
#include "workers/internal/sync.h"

namespace workers::test {

// Any thread may call anything. What happens before Open is visible after Wait, and after an
// IsOpen that says true. Tests chain gates where others would sleep: hold a work at one gate,
// and learn at another that it has got there.
class Gate {
 public:
  void Open() {
    // Under the lock for once: a waiter may destroy the gate as soon as it gets the lock.
    internal::MutexLock lock(mutex_);
    open_ = true;
    opened_.SignalAll();
  }
  bool IsOpen() const {
    internal::MutexLock lock(mutex_);
    return open_;
  }
  // Waits until it is open.
  void Wait() const {
    internal::MutexLock lock(mutex_);
    while (!open_) opened_.Wait(mutex_);
  }

 private:
  mutable internal::Mutex mutex_;
  mutable internal::CondVar opened_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace workers::test

#endif  // WORKERS_TESTING_GATE_H_
