// A function that is called again and again.

#ifndef REACTOR_LOOPING_CALL_H_
#define REACTOR_LOOPING_CALL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "reactor/deferred.h"
#include "reactor/reactor_time.h"

namespace reactor {

// Calls f() at each multiple of an interval since the start, one call at a time: what f returns may
// be a Deferred, and no other call comes before that has fired. What is missed meanwhile, or
// because the loop was late, is skipped and not made up for. A call that fails (a Status, an
// exception, a failed Deferred) stops it.
//
//   reactor::LoopingCall ping(*reactor, [&] { return peer.Ping(); });
//   ping.Start(absl::Seconds(30)).AddErrback([](const Failure& why) { Log(why); }).Detach();
//
// An f that takes an int64_t is given how many intervals have passed since it was last called:
// 1, or more where some were skipped. The sum is the number of intervals since the start, and one
// more for a first call at once.
//
//   state    | left by                         | running
//   idle     | Start                           | false
//   running  | Stop, a failure, Cancel         | true
//   stopping | the end of the call of f, Start | false
//
// It is stopping where Stop came while a call of f was under way. A Start then, inside f too, waits
// with its first call until that one has ended; that call's result is still the first run's.
//
// All methods are called in one home (reactor/deferred.h), on the thread of `time`. It may be
// destroyed inside f, and while the Deferred of f is outstanding: f is destroyed after that.
// Destruction is Stop; it may also happen where there is no reactor thread any more.
class LoopingCall {
 public:
  // `time` outlives the calls of all methods and of f, with the Deferreds that f has returned, but
  // may go before the destructor is called.
  template <typename F>
    requires(!std::is_same_v<F, LoopingCall>)
  LoopingCall(IReactorTime& time, F f) : LoopingCall(time, MakeCall(std::move(f))) {}
  ~LoopingCall();

  LoopingCall(const LoopingCall&) = delete;
  LoopingCall& operator=(const LoopingCall&) = delete;

  // Begins: with a call before this returns, or, unless `now`, one interval later. An interval of
  // zero is a call each turn. The Deferred fires when it was stopped and no call is under way; it
  // fails with what a call failed with, with what CallLater says, and with Aborted where `time`
  // is destroyed first. Cancel stops it too: then the Deferred fails with Cancelled at once.
  // FailedPrecondition: it runs already. InvalidArgument: the interval is negative or infinite.
  Deferred<void> Start(absl::Duration interval, bool now = true);

  // No further call begins; what is under way goes on. FailedPrecondition: it does not run.
  absl::Status Stop();

  // The next call comes one interval from now, and the others as if this were the start.
  // FailedPrecondition: it does not run.
  absl::Status Reset();

  bool running() const;

 private:
  using Call = absl::AnyInvocable<Deferred<void>(int64_t count)>;
  struct Core;  // with the calls that are under way, which may outlive this
  struct Run;
  class Tick;

  LoopingCall(IReactorTime& time, Call call);

  template <typename F>
  static Call MakeCall(F f);

  const std::shared_ptr<Core> core_;
};

// --- implementation -------------------------------------------------------------------------

template <typename F>
LoopingCall::Call LoopingCall::MakeCall(F f) {
  return [f = std::move(f)](int64_t count) mutable -> Deferred<void> {
    auto made = MaybeDeferred([&] {
      if constexpr (std::is_invocable_v<F&, int64_t>) {
        return std::invoke(f, count);
      } else {
        static_assert(std::is_invocable_v<F&>, "f of a LoopingCall takes nothing or an int64_t");
        return std::invoke(f);
      }
    });
    using T = typename decltype(made)::value_type;
    if constexpr (std::is_void_v<T>) {
      return made;
    } else {
      return std::move(made).AddCallback([](T) {});
    }
  };
}

}  // namespace reactor

#endif  // REACTOR_LOOPING_CALL_H_
