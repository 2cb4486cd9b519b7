#include "reactor/testing/clock.h"

#include <cstdint>
#include <utility>

#include "workers/internal/misuse.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"

namespace reactor::test {

using workers::Work;
using workers::internal::MutexLock;

Clock::Clock(workers::ErrorHandler on_error)
    : on_error_(std::move(on_error)), timers_({.name = "clock", .now = [this] { return Now(); }}) {}

Clock::~Clock() {
  workers::internal::ReportDropped(on_error_, "clock", static_cast<int64_t>(timers_.Drop()),
                                   "the clock was destroyed");
}

void Clock::Advance(absl::Duration by) {
  if (by < absl::ZeroDuration()) {
    workers::internal::DieOfMisuse("reactor::test::Clock: time does not go back");
  }
  absl::Duration now;
  {
    MutexLock lock(mutex_);
    now_ += by;
    now = now_;
  }
  timers_.RunDue(now, [this](Work& work) { workers::internal::RunWork(work, "clock", on_error_); });
}

void Clock::Pump(std::initializer_list<absl::Duration> steps) {
  for (absl::Duration step : steps) Advance(step);
}

absl::Duration Clock::Now() const {
  MutexLock lock(mutex_);
  return now_;
}

absl::StatusOr<DelayedCall> Clock::CallLater(absl::Duration delay, Work&& work) {
  return timers_.Add(delay, std::move(work));
}

}  // namespace reactor::test
