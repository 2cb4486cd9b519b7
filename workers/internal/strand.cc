#include "workers/internal/strand.h"

#include <new>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "workers/internal/make_status.h"
#include "workers/internal/report.h"
#include "workers/internal/strand_slice.h"
#include "workers/worker_scope.h"

namespace workers::internal {

StrandGroup::StrandGroup(IWorker& base, std::shared_ptr<IWorker> owned_base, std::string name,
                         int quantum_items, absl::Duration quantum_time, ErrorHandler on_error,
                         Clock* clock)
    : owned_base(std::move(owned_base)),
      base(base),
      name(std::move(name)),
      quantum_items(quantum_items),
      quantum_time(quantum_time),
      on_error(std::move(on_error)),
      clock(clock),
      already_quit(AlreadyQuitError(this->name)) {}

void StrandGroup::ReportThrown(absl::Status status, std::exception_ptr exception) const {
  ErrorReport report;
  report.worker = name;
  report.status = std::move(status);
  report.exception = std::move(exception);
  Report(on_error, report);
}

absl::Status Strand::Do(Work&& work) {
  StrandGroup& group = group_;
  if (!work) return EmptyWorkError(group.name);
  if (group.guard.InChild()) return group.guard.Error(group.name);
  uintptr_t head = head_.load();
  if (absl::Status refusal = Refusal(head); !refusal.ok()) return refusal;
  Node* node;
  try {
    node = group.nodes.New();
  } catch (const std::bad_alloc&) {
    return NoMemoryError(group.name);
  }
  node->work = std::move(work);
  do {
    if ((head & kState) != kOpen) {
      work = std::move(node->work);
      group.nodes.GiveBack(node);
      return Refusal(head);
    }
    node->next = NodeOf(head);
  } while (!head_.compare_exchange_weak(head, reinterpret_cast<uintptr_t>(node) | kActive));
  // From here on the item may have run, and destroyed this strand, unless the slice comes back.
  if ((head & kActive) != 0) return absl::OkStatus();
  Submission submission(Slice::OwnerOf(*this), nullptr, /*continues=*/false);
  absl::Cleanup take_back = [&] {
    if (submission.returned) TakeBack(work, node, submission.status);
  };
  submission.Submit(group);
  return submission.status;
}

// The base has not run the slice in which `node` is the first item.
void Strand::TakeBack(Work& work, Node* node, const absl::Status& status) {
  StrandGroup& group = group_;
  if (status.ok()) return Slice(Slice::OwnerOf(*this), nullptr, Slice::kDrops).Run();
  work = std::move(node->work);
  uintptr_t head = head_.load();
  while (NodeOf(head) == node && (head & kState) < kAwaited) {
    if (!head_.compare_exchange_weak(head, head & kState)) continue;
    group.nodes.GiveBack(node);
    return;
  }
  // Others were accepted behind it, because the strand was active.
  Node* const behind = TakeAll()->next;
  group.nodes.GiveBack(node);
  Slice slice(Slice::OwnerOf(*this), behind, Slice::kRuns);
  slice.Refused(status);
  slice.Run();
}

absl::Status Strand::Quit() {
  if (group_.guard.InChild()) return group_.guard.Error(group_.name);
  return Raise(kQuit) ? absl::OkStatus() : group_.already_quit;
}

void Strand::End() {
  StrandGroup& group = group_;
  if (group.guard.InChild()) return;  // a slice of the parent may use the group
  if (Slice* const slice = Slice::Of(*this)) {
    Raise(kQuit);
    slice->Orphan();
    WorkerScope::Forget(worker_);
    return;
  }
  uintptr_t head = head_.load();
  while ((head & kActive) != 0) {
    if (!head_.compare_exchange_weak(head, (head & ~kState) | kAwaited)) continue;
    MutexLock lock(group.mutex);
    while ((head_.load() & kActive) != 0) group.idle.Wait(group.mutex);
    break;
  }
  group.Unref();
}

bool Strand::Release() {
  if (group_.guard.InChild()) return false;  // leaked: a slice of the parent may use it
  uintptr_t head = head_.load();
  while ((head & kActive) != 0) {
    if (head_.compare_exchange_weak(head, (head & ~kState) | kReleased)) return false;
  }
  return true;
}

// Why a strand with this head refuses an item; OK: it does not.
absl::Status Strand::Refusal(uintptr_t head) const {
  if (group_.closed.load()) return group_.already_quit;
  if ((head & kState) == kOpen) return absl::OkStatus();
  if ((head & kState) != kFull) return group_.already_quit;
  return MakeStatus(absl::StatusCode::kResourceExhausted, group_.name,
                    ": the worker below is full");
}

// False: the state is already `state`, or above it.
bool Strand::Raise(uintptr_t state) {
  uintptr_t head = head_.load();
  while ((head & kState) < state) {
    if (head_.compare_exchange_weak(head, (head & ~kState) | state)) return true;
  }
  return false;
}

void Strand::ReopenIfFull() {
  uintptr_t head = head_.load();
  while ((head & kState) == kFull) {
    if (head_.compare_exchange_weak(head, (head & ~kState) | kOpen)) return;
  }
}

// Takes the items that no slice has taken yet, the oldest first.
Strand::Node* Strand::TakeAll() {
  uintptr_t head = head_.load();
  while (NodeOf(head) != nullptr && !head_.compare_exchange_weak(head, head & kFlags)) {
  }
  Node* newest = NodeOf(head);
  Node* oldest = nullptr;
  while (newest != nullptr) {
    Node* const next = std::exchange(newest->next, oldest);
    oldest = std::exchange(newest, next);
  }
  return oldest;
}

}  // namespace workers::internal
