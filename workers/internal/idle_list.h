// The idle workers of a Team, in the order in which they became idle.

#ifndef WORKERS_INTERNAL_IDLE_LIST_H_
#define WORKERS_INTERNAL_IDLE_LIST_H_

#include "absl/time/time.h"

namespace workers::internal {

// One worker, as the plan of its Team sees it. Owned by the Team, which derives its own record.
struct PlannedWorker {
  absl::Duration idle_since = absl::ZeroDuration();
  PlannedWorker* next = nullptr;  // in the list of idle workers, or of an effect
  PlannedWorker* previous = nullptr;
  bool worked = false;   // has begun an item at least once
  bool in_then = false;  // counts as idle, and its thread is awake
};

// A list through its workers: no allocation, each operation takes constant time. Plain data,
// guarded by its owner.
class IdleList {
 public:
  bool empty() const { return newest_ == nullptr; }
  PlannedWorker* oldest() const { return oldest_; }
  PlannedWorker* newest() const { return newest_; }

  void PushNewest(PlannedWorker& worker) {
    worker.next = nullptr;
    worker.previous = newest_;
    (newest_ == nullptr ? oldest_ : newest_->next) = &worker;
    newest_ = &worker;
  }
  void Remove(PlannedWorker& worker) {
    (worker.previous == nullptr ? oldest_ : worker.previous->next) = worker.next;
    (worker.next == nullptr ? newest_ : worker.next->previous) = worker.previous;
  }

 private:
  PlannedWorker* oldest_ = nullptr;
  PlannedWorker* newest_ = nullptr;
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_IDLE_LIST_H_
