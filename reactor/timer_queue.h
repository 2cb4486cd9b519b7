// What is to run later, in the order in which it is due.

#ifndef REACTOR_TIMER_QUEUE_H_
#define REACTOR_TIMER_QUEUE_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "reactor/reactor_time.h"
#include "workers/worker.h"

namespace reactor {

struct TimerQueueOptions {
  std::string name = "timers";
  // The time; never goes back. Not called once the queue is destroyed.
  std::function<absl::Duration()> now = {};
  // Is the caller on the thread that the queue belongs to? Otherwise dies, or says what is wrong
  // with `method`. Handles call it also after the queue is gone. Empty: nobody asks.
  std::function<absl::Status(absl::string_view method)> check_thread = {};
  // Hears of a handle's active() or time() that came from the wrong thread.
  workers::ErrorHandler on_error = {};
};

// Calls that wait for their time, ordered by (time, sequence). Belongs to one thread at a time;
// only the handles' copying and destruction may happen on any.
//
// Add, Cancel, Reset and Delay take O(log n); a call costs one allocation, and its place in a
// vector that grows by doubling and shrinks again. What is cancelled leaves at once.
class TimerQueue {
 public:
  explicit TimerQueue(TimerQueueOptions options);

  // Drops what is left.
  ~TimerQueue();

  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;

  // As IReactorTime::CallLater.
  absl::StatusOr<DelayedCall> Add(absl::Duration delay, workers::Work&& work);

  // Passes to `run`, in order, each call that is due at `now` and was when this began: what is
  // given or moved meanwhile waits for the next RunDue, even if it is due. Returns how many.
  // `run` runs the work and leaves it empty. Not inside itself.
  size_t RunDue(absl::Duration now, absl::FunctionRef<void(workers::Work&)> run);

  // When the first call is due; InfiniteDuration: there is none.
  absl::Duration next() const;

  size_t size() const;

  // Handles of what waits, in the order in which it is due. O(n log n).
  std::vector<DelayedCall> pending() const;

  // Destroys, unrun, what waits, in the order in which it is due; returns how many those were.
  size_t Drop();

 private:
  struct Core;
  class Timer;

  const std::shared_ptr<Core> core_;  // with the handles
};

}  // namespace reactor

#endif  // REACTOR_TIMER_QUEUE_H_
