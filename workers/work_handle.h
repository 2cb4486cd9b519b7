// Stands for one work item that a Team has accepted.

#ifndef WORKERS_WORK_HANDLE_H_
#define WORKERS_WORK_HANDLE_H_

#include <memory>
#include <utility>

namespace workers {

namespace internal {
struct HandleState;
class TeamCore;
}  // namespace internal

// Known elsewhere as: a cancellation handle. Copyable. Any thread may call anything; nothing waits.
// May outlive its Team.
class WorkHandle {
 public:
  WorkHandle() = default;  // of no item

  // If the item is still in the backlog, removes it: it is destroyed here without running, together
  // with its `then`, and counts as withdrawn. Returns false if it has been assigned to a worker, or
  // has ended.
  bool TryCancel();

  // Is the item still in the backlog?
  bool IsQueued() const;

 private:
  friend class internal::TeamCore;
  explicit WorkHandle(std::shared_ptr<internal::HandleState> state) : state_(std::move(state)) {}

  std::shared_ptr<internal::HandleState> state_;
};

}  // namespace workers

#endif  // WORKERS_WORK_HANDLE_H_
