#include "workers/internal/strand_slice.h"

#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/worker_scope.h"

namespace workers::internal {
namespace {

// As many spare nodes as a slice keeps to itself.
constexpr int64_t kMaxUsed = 16;

// Stands for a worker that is already destroyed while its items still run.
class NoWorker final : public IWorker {
 public:
  absl::Status Do(Work&&) override { return AlreadyQuitError("serial"); }
  absl::Status Quit() override { return AlreadyQuitError("serial"); }
};

}  // namespace

void Strand::Slice::RunQuanta() {
  while (!over_) {
    // Also after an item that forked: the parent runs the rest.
    if (group_.guard.InChild()) return;
    RunQuantum();
    if (group_.guard.InChild()) return;
    group_.nodes.GiveBack(used_);
    ready_ == nullptr ? End() : SubmitNext();
  }
}

void Strand::Slice::RunQuantum() {
  static const NoWorker no_worker;
  std::optional<WorkerScope> scope;
  if (strand_ != nullptr) {
    scope.emplace(strand_->worker_);
  } else {
    scope.emplace(no_worker);
  }
  const absl::Duration deadline = Deadline();
  for (int items = 0;; ++items) {
    if (ready_ == nullptr && strand_ != nullptr && takes_) {
      ready_ = strand_->TakeAll();
      if (drops_) takes_ = base_has_quit_;  // what comes later is for the next slice
    }
    if (ready_ == nullptr) return;
    const bool may_end = items > 0 && !drops_ && !base_has_quit_;
    if (may_end && (items >= group_.quantum_items || IsPast(deadline))) return;
    RunOne();
    if (group_.guard.InChild()) return;
  }
}

void Strand::Slice::RunOne() {
  Node* const node = std::exchange(ready_, ready_->next);
  absl::Cleanup keep = [this, node] {
    if (group_.guard.InChild()) return;
    used_.Push(node);
    if (used_.count >= kMaxUsed) group_.nodes.GiveBack(used_);
  };
  if (drops_) {
    ++dropped_;
    node->work = nullptr;
  } else {
    RunWork(node->work, group_.name, group_.on_error);
  }
}

// Lets other users of the base run. Something is ready.
void Strand::Slice::SubmitNext() {
  if (group_.closed.load()) base_has_quit_ = true;
  if (base_has_quit_) {
    if (strand_ != nullptr) strand_->Raise(kClosed);
    takes_ = true;
    return;
  }
  // Once the base has accepted the slice, the strand and its reference to the group belong to it.
  StrandGroup& group = group_;
  group.Ref();
  absl::Cleanup unref = [&group] { group.Unref(); };
  Strand* const strand = std::exchange(strand_, nullptr);
  const uintptr_t owner =
      strand != nullptr ? OwnerOf(*strand) : reinterpret_cast<uintptr_t>(&group) | kOrphan;
  Submission submission(owner, ready_, /*continues=*/true);
  absl::Cleanup evaluate = [&] {
    if (submission.is_accepted()) {
      over_ = true;
    } else {
      strand_ = strand;
      Evaluate(submission);
    }
  };
  submission.Submit(group);
}

void Strand::Slice::Evaluate(const Submission& submission) {
  if (submission.resumed) {
    drops_ = false;
    takes_ = true;
    Begin();
  } else if (submission.status.ok()) {
    drops_ = true;  // the base has accepted the slice, and destroyed it
  } else {
    Refused(submission.status);
  }
}

void Strand::Slice::Refused(const absl::Status& status) {
  base_has_quit_ = IsAlreadyQuit(status);
  takes_ = true;  // and that is bounded: the strand refuses
  if (strand_ != nullptr) strand_->Raise(base_has_quit_ ? kClosed : kFull);
}

// Nothing is ready: makes the strand idle, unless it has accepted more.
void Strand::Slice::End() {
  ReportDropped(group_.on_error, group_.name, std::exchange(dropped_, 0),
                "the worker below destroyed the time slice");
  if (strand_ == nullptr) {
    over_ = true;
    group_.Unref();
    return;
  }
  uintptr_t head = strand_->head_.load();
  for (;;) {
    if (NodeOf(head) != nullptr) {
      if (takes_) return;
      ready_ = strand_->TakeAll();
      return SubmitNext();
    }
    const uintptr_t state = head & kState;
    if (state == kReleased) {
      over_ = true;
      Strand* const strand = std::exchange(strand_, nullptr);
      strand->head_.store(kReleased);  // idle: the destructor does not wait
      delete &strand->worker_;
      return;
    }
    if (state == kAwaited) {
      over_ = true;
      StrandGroup& group = group_;
      group.Ref();  // the thread that waits may release the last other reference
      {
        MutexLock lock(group.mutex);
        std::exchange(strand_, nullptr)->head_.store(kAwaited);
      }
      group.idle.SignalAll();
      group.Unref();
      return;
    }
    if (strand_->head_.compare_exchange_weak(head, state == kFull ? kOpen : state)) {
      strand_ = nullptr;
      over_ = true;
      return;
    }
  }
}

void Strand::Slice::Orphan() {
  Node** end = &ready_;
  while (*end != nullptr) end = &(*end)->next;
  *end = std::exchange(strand_, nullptr)->TakeAll();
}

absl::Duration Strand::Slice::Deadline() {
  const bool ends_by_time = group_.quantum_time != absl::InfiniteDuration() &&
                            group_.quantum_items > 1 && !drops_ && !base_has_quit_;
  return ends_by_time ? ReadClock() + group_.quantum_time : absl::InfiniteDuration();
}

bool Strand::Slice::IsPast(absl::Duration deadline) {
  return deadline != absl::InfiniteDuration() && ReadClock() >= deadline;
}

// Infinite if there is no time: a deadline that is infinite never passes, and at an infinite time
// any other has passed.
absl::Duration Strand::Slice::ReadClock() {
  if (group_.clock == nullptr) return SteadyNow();
  if (clock_fails_ || group_.closed.load()) return absl::InfiniteDuration();
  try {
    return group_.clock->Now();
  } catch (...) {
    ContinueForcedUnwinding();
    clock_fails_ = true;
    group_.ReportThrown(CurrentExceptionStatus(), std::current_exception());
    return absl::InfiniteDuration();
  }
}

Strand::SliceWork::~SliceWork() {
  if (owner_ == 0) return;
  if (Submission* const submission = Submission::Of(owner_, ready_)) {
    submission->returned = true;
    return;
  }
  Slice(owner_, ready_, Slice::kDrops).Run();
}

void Strand::SliceWork::operator()() && {
  const uintptr_t owner = std::exchange(owner_, 0);
  // A base that runs items inside its Do would nest each slice in the one before: that one goes on
  // instead.
  Submission* const submission = Submission::Of(owner, ready_);
  if (submission != nullptr && submission->continues) {
    submission->resumed = true;
    return;
  }
  Slice slice(owner, ready_, Slice::kRuns);
  slice.Begin();
  slice.Run();
}

void Strand::Submission::Submit(StrandGroup& group) {
  // The slice may release the last reference to the base before the base's Do returns.
  const std::shared_ptr<IWorker> keep_base = group.owned_base;
  status = absl::CancelledError();  // in case forced unwinding leaves the base's Do
  bool threw = true;
  std::exception_ptr exception;
  {
    Work slice = SliceWork(owner, ready);
    try {
      status = group.base.Do(std::move(slice));
      threw = false;
    } catch (const std::bad_alloc&) {
      status = absl::ResourceExhaustedError("");
      exception = std::current_exception();
    } catch (...) {
      ContinueForcedUnwinding();
      status = CurrentExceptionStatus();
      exception = std::current_exception();
    }
  }
  if (status.ok() || (!threw && !is_accepted())) return;
  if (is_accepted()) {
    // The base has taken the slice and failed all the same. The group may already be gone.
    Report({}, "serial", std::exchange(status, absl::OkStatus()));
    return;
  }
  if (absl::IsResourceExhausted(status)) status = NoMemoryError(group.name);
  group.ReportThrown(status, std::move(exception));
}

}  // namespace workers::internal
