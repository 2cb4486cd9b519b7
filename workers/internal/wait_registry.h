// Which blocked workers wait for which items, and whether such a wait can end.

#ifndef WORKERS_INTERNAL_WAIT_REGISTRY_H_
#define WORKERS_INTERNAL_WAIT_REGISTRY_H_

namespace workers::internal {

struct Waiter;

// What is waited for: one accepted item.
struct Awaitable {
  bool queued = false;        // it is in the backlog
  Waiter* runs_on = nullptr;  // the worker that runs it
};

// One worker that may wait. Owned by the thread of the worker.
struct Waiter {
  const Awaitable* awaited = nullptr;  // null: it does not wait
  bool has_deadline = false;
  bool endless = false;  // scratch of WaitRegistry
  Waiter* next = nullptr;
  Waiter* previous = nullptr;
};

// Plain data, guarded by its owner. No allocation.
class WaitRegistry {
 public:
  // Registers that `waiter` waits for `awaited`, unless that wait could never end: an item in the
  // backlog is never reached if `team_is_full` and all `workers` workers wait without end; a
  // running one never ends if its worker waits without end. A wait with a deadline always ends.
  // Returns false, and registers nothing, if the wait would be endless.
  bool Add(Waiter& waiter, const Awaitable& awaited, bool has_deadline, bool team_is_full,
           int workers);
  void Remove(Waiter& waiter);

 private:
  bool Ends(const Waiter& waiter, bool team_is_full, int workers) const;

  Waiter* first_ = nullptr;
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_WAIT_REGISTRY_H_
