// A clock that a test moves by hand.

#ifndef REACTOR_TESTING_CLOCK_H_
#define REACTOR_TESTING_CLOCK_H_

#include <initializer_list>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "reactor/reactor_time.h"
#include "reactor/timer_queue.h"
#include "workers/internal/sync.h"
#include "workers/worker.h"

namespace reactor::test {

// Time stands still but in Advance and Pump. It has the timer queue of the real reactor, and no
// thread: one thread at a time may use it; Now: any thread. Its destructor destroys, unrun, what
// still waits, and reports it.
//
//   reactor::test::Clock clock;
//   absl::StatusOr<reactor::DelayedCall> call = clock.CallLater(absl::Seconds(5), [] { Ring(); });
//   clock.Advance(absl::Seconds(5));  // rings
class Clock final : public IReactorTime {
 public:
  // `on_error` hears of works that throw, and of those that were destroyed unrun; empty: one line
  // on stderr.
  explicit Clock(workers::ErrorHandler on_error = {});
  ~Clock() override;

  // Moves the time on by `by` (not negative), in one leap, and then runs on this thread what is
  // due, in order. What these works themselves give waits for the next Advance, even with no
  // delay: a call that gives itself anew runs once an Advance, as after a long stall of a loop.
  // Not inside itself.
  void Advance(absl::Duration by);

  // Advances by each of `steps`, one after another.
  void Pump(std::initializer_list<absl::Duration> steps);

  // What waits, in the order in which it is due.
  std::vector<DelayedCall> pending() const { return timers_.pending(); }

  // IReactorTime implementation:
  absl::Duration Now() const override;
  absl::StatusOr<DelayedCall> CallLater(absl::Duration delay, workers::Work&& work) override;

 private:
  const workers::ErrorHandler on_error_;
  mutable workers::internal::Mutex mutex_;
  absl::Duration now_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  TimerQueue timers_;
};

}  // namespace reactor::test

#endif  // REACTOR_TESTING_CLOCK_H_
