#include "workers/lock_worker.h"

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "workers/internal/misuse.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/worker_scope.h"

namespace workers {

LockWorker::LockWorker(LockWorkerOptions options)
    : name_(std::move(options.name)), on_error_(std::move(options.on_error)), quit_(name_) {}

LockWorker::~LockWorker() {
  if (IsHeldByCaller()) {
    internal::DieOfMisuse("LockWorker: destroyed inside its own work, which nobody could finish");
  }
  Quit().IgnoreError();
  internal::MutexLock wait_for_the_running_work(lock_);
}

// Nobody but the holder itself can see its own id here.
bool LockWorker::IsHeldByCaller() const {
  return holder_.load(std::memory_order_relaxed) == internal::CurrentThread();
}

absl::Status LockWorker::Do(Work&& work) {
  if (!work) return internal::EmptyWorkError(name_);
  if (IsHeldByCaller()) {
    lock_.AssertHeld();
    if (absl::Status status = quit_.Check(); !status.ok()) return status;
    queued_.push_back(std::move(work));
    return absl::OkStatus();
  }
  internal::MutexLock lock(lock_);
  // Only here is it certain on which side of a racing Quit this Do stands.
  if (absl::Status status = quit_.Check(); !status.ok()) return status;
  RunAndUnwind(std::move(work));
  return absl::OkStatus();
}

absl::Status LockWorker::Quit() { return quit_.Set(); }

void LockWorker::RunAndUnwind(Work work) {
  WorkerScope scope(*this);
  holder_.store(internal::CurrentThread(), std::memory_order_relaxed);
  // On every way out, forced unwinding included, what was taken has run and the mark is gone.
  absl::Cleanup end([this] {
    lock_.AssertHeld();
    RunQueued();
    holder_.store(internal::ThreadId(), std::memory_order_relaxed);
  });
  internal::RunWork(work, name_, on_error_);
  RunQueued();
}

void LockWorker::RunQueued() {
  for (;;) {
    while (next_ < running_.size()) internal::RunWork(running_[next_++], name_, on_error_);
    running_.clear();
    next_ = 0;
    if (queued_.empty()) return;
    running_.swap(queued_);
  }
}

}  // namespace workers
