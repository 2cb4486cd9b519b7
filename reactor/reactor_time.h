// Calls at a later time.

#ifndef REACTOR_REACTOR_TIME_H_
#define REACTOR_REACTOR_TIME_H_

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "workers/worker.h"

namespace reactor {

// The handle of a call that CallLater took. Copies stand for the same call; destroying them does
// nothing to it. A handle may outlive its reactor.
//
// Reactor thread, as CallLater; copying and destroying a handle: any thread. A method that is
// called on another thread while the reactor runs dies in a debug build; in a release build
// it returns FailedPrecondition, or false, or zero.
//
//   state     | left by                    | active | Cancel, Reset, Delay
//   waiting   | its time, Cancel, the end  | true   | OK
//   called    |                            | false  | FailedPrecondition "already called"
//   cancelled |                            | false  | FailedPrecondition "already cancelled"
//   dropped   | its reactor was destroyed  | false  | FailedPrecondition "its reactor is gone"
//
// A call is `called` from the moment at which its work begins.
class DelayedCall {
 public:
  // What stands behind a handle: the rules above, without the handle. The timer queue of a reactor
  // and of a clock for tests implements it (timer_queue.h).
  class Entry {
   public:
    virtual ~Entry() = default;
    virtual bool active() const = 0;
    virtual absl::Duration time() const = 0;
    virtual absl::Status Cancel() = 0;
    virtual absl::Status Reset(absl::Duration from_now) = 0;
    virtual absl::Status Delay(absl::Duration more) = 0;
  };

  DelayedCall() = default;  // the handle of no call: never active, FailedPrecondition "no call"
  explicit DelayedCall(std::shared_ptr<Entry> entry) : entry_(std::move(entry)) {}

  // Does it still wait for its time?
  bool active() const { return entry_ != nullptr && entry_->active(); }

  // When it is or was due, as IReactorTime::Now counts.
  absl::Duration time() const { return entry_ != nullptr ? entry_->time() : absl::ZeroDuration(); }

  // Takes it back: it will not run. Its work is destroyed before this returns.
  absl::Status Cancel() { return entry_ != nullptr ? entry_->Cancel() : NoCall(); }

  // Makes it due at Now() + from_now, after those that are due then already, be that later or
  // sooner than it was. InvalidArgument: `from_now` is negative or infinite.
  absl::Status Reset(absl::Duration from_now) {
    return entry_ != nullptr ? entry_->Reset(from_now) : NoCall();
  }

  // Makes it due at time() + more; a negative `more` is sooner. InvalidArgument: it is infinite.
  absl::Status Delay(absl::Duration more) {
    return entry_ != nullptr ? entry_->Delay(more) : NoCall();
  }

 private:
  static absl::Status NoCall() { return absl::FailedPreconditionError("DelayedCall: no call"); }

  std::shared_ptr<Entry> entry_;
};

// What can call later. A reactor is one; tests use reactor::test::Clock.
class IReactorTime {
 public:
  virtual ~IReactorTime() = default;

  // The time since an arbitrary zero; never goes back. Any thread.
  virtual absl::Duration Now() const = 0;

  // Runs `work` on the reactor thread, at Now() + delay or soon after, once. Calls run in the
  // order of the times at which they are due; those of the same time in the order in which they
  // were given. A delay of zero runs in a later turn of the loop, never inside CallLater.
  // Reactor thread; does not wait.
  //
  // Not OK: `work` was left as it was, and the caller still has it. InvalidArgument: it is empty,
  // or `delay` is negative, or infinite (absl makes that of a NaN too). AlreadyQuit: the
  // reactor has stopped. A call that is still waiting when its reactor is destroyed is destroyed
  // unrun, with it; it is counted and reported.
  virtual absl::StatusOr<DelayedCall> CallLater(absl::Duration delay, workers::Work&& work) = 0;
};

}  // namespace reactor

#endif  // REACTOR_REACTOR_TIME_H_
