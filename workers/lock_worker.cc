#include "workers/lock_worker.h"

#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "workers/internal/lock_order.h"
#include "workers/internal/make_status.h"
#include "workers/internal/misuse.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/worker_scope.h"

namespace workers {
namespace {

// A burst of nested items may need more; the memory for more than this many is released after it.
constexpr size_t kKeptCapacity = 64;

#ifdef NDEBUG
constexpr bool kChecksOrder = false;
#else
constexpr bool kChecksOrder = true;
#endif

}  // namespace

LockWorker::LockWorker(LockWorkerOptions options)
    : name_(std::move(options.name)),
      on_error_(std::move(options.on_error)),
      already_quit_(AlreadyQuitError(name_)),
      order_id_(kChecksOrder ? internal::LockOrder::NewId() : 0) {}

LockWorker::~LockWorker() {
  if (guard_.InChild()) {
    lock_.AssertHeld();  // a thread of the parent may have held it, and will never release it
    LeakQueued();
    return;
  }
  if (IsHeldByCaller()) {
    internal::DieOfMisuse(
        "LockWorker: destroyed inside its own work item, which could then never be finished");
  }
  Quit().IgnoreError();
  internal::MutexLock wait_for_the_running_item(lock_);
}

// Only the holding thread itself can read its own id here.
bool LockWorker::IsHeldByCaller() const {
  return holder_.load(std::memory_order_relaxed) == internal::CurrentThread();
}

absl::Status LockWorker::Do(Work&& work) {
  if (!work) return internal::EmptyWorkError(name_);
  if (guard_.InChild()) return guard_.Error(name_);
  if (IsHeldByCaller()) {
    lock_.AssertHeld();
    if (quit_.load()) return already_quit_;
    return internal::WithoutBadAlloc(name_, [&] {
      lock_.AssertHeld();
      queued_.push_back(std::move(work));  // moves nothing if it cannot grow
      return absl::OkStatus();
    });
  }
  if constexpr (kChecksOrder) CheckOrder();
  internal::MutexLock lock(lock_);
  // Only under the lock is it certain whether this Do comes before or after a racing Quit.
  if (quit_.load()) return already_quit_;
  // The item may destroy the object that holds the caller's `work`, so it runs from here.
  Work item = std::move(work);
  RunAndUnwind(item);
  return absl::OkStatus();
}

absl::Status LockWorker::Quit() {
  if (guard_.InChild()) return guard_.Error(name_);
  return quit_.exchange(true) ? already_quit_ : absl::OkStatus();
}

void LockWorker::CheckOrder() {
  const internal::LockOrder::Held* const held = internal::LockOrder::Acquiring(order_id_);
  if (held == nullptr) return;
  internal::Report(
      on_error_, name_,
      internal::MakeStatus(absl::StatusCode::kFailedPrecondition, "lock order: this thread enters ",
                           name_, " inside ", held->name(), ", and has entered ", held->name(),
                           " inside ", name_, "; two threads that do both can wait forever"));
}

void LockWorker::RunAndUnwind(Work& work) {
  WorkerScope scope(*this);
  std::optional<internal::LockOrder::Held> held;
  if constexpr (kChecksOrder) held.emplace(order_id_, name_);
  holder_.store(internal::CurrentThread(), std::memory_order_relaxed);
  // On every way out, forced unwinding included, the accepted items have run and no thread is
  // marked as the holder.
  absl::Cleanup end([this] {
    lock_.AssertHeld();
    if (!queued_.empty() || next_ < running_.size()) RunQueued();
    holder_.store(internal::ThreadId(), std::memory_order_relaxed);
  });
  internal::RunWork(work, name_, on_error_);
  if (!queued_.empty()) RunQueued();
}

void LockWorker::RunQueued() {
  for (;;) {
    while (next_ < running_.size()) {
      // The item that has just run may have forked: the parent runs the rest.
      if (guard_.InChild()) return LeakQueued();
      internal::RunWork(running_[next_++], name_, on_error_);
    }
    running_.clear();
    next_ = 0;
    if (queued_.empty()) break;
    running_.swap(queued_);
  }
  if (running_.capacity() > kKeptCapacity) std::vector<Work>().swap(running_);
  if (queued_.capacity() > kKeptCapacity) std::vector<Work>().swap(queued_);
}

void LockWorker::LeakQueued() {
  if (!running_.empty()) internal::ForkGuard::Leak(std::move(running_));
  if (!queued_.empty()) internal::ForkGuard::Leak(std::move(queued_));
  running_.clear();
  queued_.clear();
  next_ = 0;
}

}  // namespace workers
