// What is behind a SerialWorker: its queue, and its part of the base.

#ifndef WORKERS_INTERNAL_STRAND_H_
#define WORKERS_INTERNAL_STRAND_H_

#include <cstdint>
#include <exception>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "workers/clock.h"
#include "workers/internal/fork_guard.h"
#include "workers/internal/sync.h"
#include "workers/internal/work_nodes.h"
#include "workers/worker.h"

namespace workers::internal {

// What the strands of one base share. It counts its references: the SerialGroup, each strand, and
// each orphaned slice. Any thread.
struct StrandGroup {
  // `owned_base` is null if the base is the user's.
  StrandGroup(IWorker& base, std::shared_ptr<IWorker> owned_base, std::string name,
              int quantum_items, absl::Duration quantum_time, ErrorHandler on_error, Clock* clock);

  void Ref() { references.fetch_add(1); }
  void Unref() {
    if (references.fetch_add(-1) == 1) delete this;
  }

  void ReportThrown(absl::Status status, std::exception_ptr exception) const;

  // Immutable.
  const std::shared_ptr<IWorker> owned_base;
  IWorker& base;
  const std::string name;
  const int quantum_items;
  const absl::Duration quantum_time;
  const ErrorHandler on_error;
  Clock* const clock;               // null: the steady clock
  const absl::Status already_quit;  // made in advance: a refusal allocates nothing
  const ForkGuard guard;

  // Any thread.
  Atomic<bool> closed = false;  // the SerialGroup is gone, and the base is the user's
  WorkNodeCache nodes;
  alignas(64) Atomic<int64_t> references = 1;
  Mutex mutex;   // for `idle` only
  CondVar idle;  // a strand whose End waits has become idle
};

// The state of one serial worker: a word, whose upper bits are a list of items. It is active while
// the base has a slice of it, or a thread runs or submits one; then only that slice takes items and
// makes the strand idle.
class Strand {
 public:
  Strand(StrandGroup& group, IExclusiveWorker& worker) : group_(group), worker_(worker) {
    group_.Ref();
  }
  Strand(const Strand&) = delete;
  Strand& operator=(const Strand&) = delete;

  // As SerialWorker's.
  absl::Status Do(Work&& work);
  absl::Status Quit();

  // In the destructor of the worker: closes the strand and waits until it is idle, or leaves its
  // items to the slice that the calling thread is in. Nothing else is called after it.
  void End();

  // Closes the strand. True: the caller destroys the worker now. False: its last slice does.
  bool Release();

 private:
  using Node = WorkNode;
  class Slice;        // strand_slice.h
  class SliceWork;    // likewise
  struct Submission;  // likewise

  absl::Status Refusal(uintptr_t head) const;
  void TakeBack(Work& work, Node* node, const absl::Status& status);
  bool Raise(uintptr_t state);
  void ReopenIfFull();
  Node* TakeAll();

  StrandGroup& group_;
  IExclusiveWorker& worker_;
  // The newest item that no slice has taken yet, and in the low bits, which a node's address leaves
  // free, flags.
  Atomic<uintptr_t> head_ = 0;

  // The flags. The state only rises, except from full back to open.
  static constexpr uintptr_t kActive = 1;
  static constexpr uintptr_t kOpen = 0 << 1;
  static constexpr uintptr_t kFull = 1 << 1;     // the base has refused a slice: refuses items, too
  static constexpr uintptr_t kClosed = 2 << 1;   // the base has quit: refuses items
  static constexpr uintptr_t kQuit = 3 << 1;     // has quit
  static constexpr uintptr_t kAwaited = 4 << 1;  // has quit, and End waits until it is idle
  static constexpr uintptr_t kReleased = 5 << 1;  // has quit; its last slice destroys the worker
  static constexpr uintptr_t kState = 7 << 1;
  static constexpr uintptr_t kFlags = kActive | kState;
  static_assert(alignof(Node) > kFlags);
  static Node* NodeOf(uintptr_t head) { return reinterpret_cast<Node*>(head & ~kFlags); }
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_STRAND_H_
