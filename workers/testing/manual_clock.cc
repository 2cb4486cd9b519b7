#include "workers/testing/manual_clock.h"

#include <utility>

#include "workers/internal/misuse.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"

namespace workers::test {

ManualClock::ManualClock(ErrorHandler on_error) : on_error_(std::move(on_error)) {}

ManualClock::~ManualClock() {
  std::multimap<absl::Duration, Work> unrun;
  internal::MutexLock lock(mutex_);
  closed_ = true;
  unrun.swap(works_);
}

void ManualClock::Advance(absl::Duration by) {
  if (by < absl::ZeroDuration()) internal::DieOfMisuse("ManualClock: time does not go back");
  mutex_.Lock();
  if (advancing_) internal::DieOfMisuse("ManualClock: Advance inside Advance");
  advancing_ = true;
  const absl::Duration end = now_ + by;
  while (!works_.empty() && works_.begin()->first <= end) {
    auto due = works_.extract(works_.begin());
    if (due.key() > now_) now_ = due.key();
    mutex_.Unlock();
    internal::RunWork(due.mapped(), "manual-clock", on_error_);
    mutex_.Lock();
  }
  now_ = end;
  works_.merge(postponed_);
  advancing_ = false;
  mutex_.Unlock();
}

size_t ManualClock::pending() const {
  internal::MutexLock lock(mutex_);
  return works_.size() + postponed_.size();
}

absl::Duration ManualClock::Now() const {
  internal::MutexLock lock(mutex_);
  return now_;
}

absl::Status ManualClock::RunAt(absl::Duration when, Work&& work) {
  if (!work) return internal::EmptyWorkError("manual-clock");
  internal::MutexLock lock(mutex_);
  if (closed_) return AlreadyQuitError("manual-clock");
  (advancing_ && when <= now_ ? postponed_ : works_).emplace(when, std::move(work));
  return absl::OkStatus();
}

}  // namespace workers::test
