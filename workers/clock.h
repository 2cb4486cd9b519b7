// Time, as something that is handed in.

#ifndef WORKERS_CLOCK_H_
#define WORKERS_CLOCK_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "workers/thread_factory.h"
#include "workers/worker.h"

namespace workers {

// Any thread may call anything; nothing waits for a work. Times are durations since an arbitrary
// zero and never go back. Tests use workers::test::ManualClock.
class Clock {
 public:
  virtual ~Clock() = default;

  virtual absl::Duration Now() const = 0;

  // As Now, or some milliseconds before it where that is cheaper: for statistics.
  virtual absl::Duration CoarseNow() const { return Now(); }

  // Runs `work` at `when`, or soon after; works of the same time run in the order in which
  // they were given. The work must be short: others wait for it. It runs once or is destroyed,
  // unrun, with the clock. Not OK: `work` was left as it was, and the caller still has it.
  [[nodiscard]] virtual absl::Status RunAt(absl::Duration when, Work&& work) = 0;
};

struct SteadyClockOptions {
  ThreadOptions thread = {.name = "timer"};
  ThreadFactory* factory = nullptr;  // null: DefaultThreadFactory(); outlives the clock
  ErrorHandler on_error = {};        // hears of works that throw
};

// The real clock of this machine (CLOCK_MONOTONIC). It has no thread until the first RunAt
// needs one; a RunAt for which no thread can be started says why and takes nothing.
//
// Its destructor destroys, unrun, what is not due yet, and waits for the thread; inside one
// of its own works it does not wait.
class SteadyClock final : public Clock {
 public:
  explicit SteadyClock(SteadyClockOptions options = {});
  ~SteadyClock() override;

  // Clock implementation:
  absl::Duration Now() const override;
  absl::Duration CoarseNow() const override;
  absl::Status RunAt(absl::Duration when, Work&& work) override;

 private:
  struct Core;  // shared with the thread, which may outlive the clock

  const std::shared_ptr<Core> core_;
};

}  // namespace workers

#endif  // WORKERS_CLOCK_H_
