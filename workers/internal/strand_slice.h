// The time slices of a Strand on its base.

#ifndef WORKERS_INTERNAL_STRAND_SLICE_H_
#define WORKERS_INTERNAL_STRAND_SLICE_H_

#include <cstdint>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "workers/internal/strand.h"
#include "workers/internal/sync.h"
#include "workers/internal/work_nodes.h"

namespace workers::internal {

// What the base receives: two words, so that nothing is allocated. The owner is a strand or, if it
// was destroyed inside its own item, the group, marked: then the slice is an orphan. `ready` is
// what the slice before has taken and not run. Destroyed unrun, it drops the items.
class Strand::SliceWork {
 public:
  SliceWork(uintptr_t owner, Node* ready) : owner_(owner), ready_(ready) {}
  SliceWork(SliceWork&& other) noexcept
      : owner_(std::exchange(other.owner_, 0)), ready_(other.ready_) {}
  SliceWork& operator=(SliceWork&&) = delete;
  ~SliceWork();
  void operator()() &&;

 private:
  uintptr_t owner_;  // 0: it has run, or was moved from
  Node* const ready_;
};

// On the stack of a thread that submits a slice: what becomes of the slice on this thread within
// the base's Do. Unless the slice comes back, the strand must not be touched after that call.
struct Strand::Submission {
  Submission(uintptr_t owner, Node* ready, bool continues)
      : owner(owner), ready(ready), continues(continues), outer(Innermost::Get()) {
    Innermost::Set(this);
  }
  ~Submission() { Innermost::Set(outer); }
  Submission(const Submission&) = delete;
  Submission& operator=(const Submission&) = delete;

  // The submission of this slice that is under way on this thread, or null.
  static Submission* Of(uintptr_t owner, Node* ready) {
    Submission* at = Innermost::Get();
    while (at != nullptr && (at->owner != owner || at->ready != ready)) at = at->outer;
    return at;
  }

  void Submit(StrandGroup& group);
  bool is_accepted() const { return !returned && !resumed; }

  using Innermost = ThreadLocalPointer<Submission>;

  const uintptr_t owner;
  Node* const ready;
  const bool continues;  // the slice before runs on this thread, and submits its rest
  Submission* const outer;
  absl::Status status;    // the base's answer
  bool returned = false;  // the slice was refused, or destroyed
  bool resumed = false;   // the base has run the rest inside its Do: the slice before does it
};

// One slice, on the stack of the thread that runs it. It outlives a strand that ends inside it.
class Strand::Slice {
 public:
  enum Fate { kRuns, kDrops };

  Slice(uintptr_t owner, Node* ready, Fate fate)
      : strand_((owner & kOrphan) != 0 ? nullptr : reinterpret_cast<Strand*>(owner)),
        group_(strand_ != nullptr ? strand_->group_
                                  : *reinterpret_cast<StrandGroup*>(owner & ~kOrphan)),
        ready_(ready),
        drops_(fate == kDrops),
        outer_(Innermost::Get()) {
    Innermost::Set(this);
  }
  ~Slice() { Innermost::Set(outer_); }
  Slice(const Slice&) = delete;
  Slice& operator=(const Slice&) = delete;

  static uintptr_t OwnerOf(Strand& strand) { return reinterpret_cast<uintptr_t>(&strand); }

  // The slice of `strand` whose item the calling thread is in, or null.
  static Slice* Of(const Strand& strand) {
    Slice* slice = Innermost::Get();
    while (slice != nullptr && slice->strand_ != &strand) slice = slice->outer_;
    return slice;
  }

  // The base runs the slice, so it is not full.
  void Begin() {
    if (strand_ != nullptr && !group_.guard.InChild()) strand_->ReopenIfFull();
  }

  // Runs, or drops, items until the strand is idle or the base has accepted the next slice. If an
  // item ends its thread by force, this goes on while the thread unwinds.
  void Run() {
    absl::Cleanup rest = [this] { RunQuanta(); };
    RunQuanta();
  }

  // The base has refused the next slice, or the one that Do has submitted and this one stands for.
  void Refused(const absl::Status& status);

  // The strand ends inside this slice, which keeps the accepted items and the strand's reference
  // to the group.
  void Orphan();

 private:
  static constexpr uintptr_t kOrphan = 1;
  using Innermost = ThreadLocalPointer<Slice>;

  void RunQuanta();
  void RunQuantum();
  void RunOne();
  void SubmitNext();
  void Evaluate(const Submission& submission);
  void End();
  absl::Duration Deadline();
  bool IsPast(absl::Duration deadline);
  absl::Duration ReadClock();

  Strand* strand_;  // null: an orphan, or it belongs to the base
  StrandGroup& group_;
  Node* ready_;  // taken from the strand, in order, not begun
  SpareNodes used_ = {};
  bool drops_;                  // destroys the items instead of running them
  int64_t dropped_ = 0;         // not yet reported
  bool takes_ = true;           // items that the strand accepts now belong to this slice
  bool base_has_quit_ = false;  // or must not be touched any more: this slice is the last one
  bool clock_fails_ = false;
  bool over_ = false;
  Slice* const outer_;
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_STRAND_SLICE_H_
