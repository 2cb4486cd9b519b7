// A function that is called at a later time, and what comes of it.

#ifndef REACTOR_DEFER_LATER_H_
#define REACTOR_DEFER_LATER_H_

#include <memory>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "reactor/deferred.h"
#include "reactor/reactor_time.h"
#include "workers/worker.h"

namespace reactor {

// Fires when `delay` has passed. Whatever CallLater says to the delay, it fails with: AlreadyQuit,
// InvalidArgument. Cancel takes the call back. Where `time` drops the call, it fails with Aborted.
// `time` belongs to the caller's home.
inline Deferred<void> DeferLater(IReactorTime& time, absl::Duration delay);

// Calls f() then, and gives what it returns, as a callback of a chain may: a Deferred is waited
// for. Cancel before that: f is destroyed uncalled; after it: goes to the Deferred of f.
//
//   Deferred<int> answer = DeferLater(reactor, absl::Seconds(1), [] { return 42; });
template <typename F>
auto DeferLater(IReactorTime& time, absl::Duration delay, F f)
    -> Deferred<internal::UnwrapOf<F, void>> {
  return DeferLater(time, delay).AddCallback(std::move(f));
}

inline Deferred<void> DeferLater(IReactorTime& time, absl::Duration delay) {
  struct State {
    DelayedCall call;
    std::weak_ptr<Promise<void>> promise;  // owned by the work: where that goes, so does this
  };
  auto state = std::make_shared<State>();
  auto [deferred, promise] = MakeDeferred<void>([state](Promise<void>&) {
    const std::shared_ptr<Promise<void>> held = state->promise.lock();
    state->call.Cancel().IgnoreError();
    if (held != nullptr) held->Errback(absl::CancelledError("DeferLater: cancelled")).IgnoreError();
  });
  auto kept = std::make_shared<Promise<void>>(std::move(promise));
  state->promise = kept;
  workers::Work work = [kept] { kept->Callback().IgnoreError(); };
  absl::StatusOr<DelayedCall> call = time.CallLater(delay, std::move(work));
  if (call.ok()) {
    state->call = *std::move(call);
  } else {
    kept->Errback(call.status()).IgnoreError();
  }
  return std::move(deferred);
}

}  // namespace reactor

#endif  // REACTOR_DEFER_LATER_H_
