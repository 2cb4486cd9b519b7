#include "reactor/deferred.h"

#include "absl/strings/str_cat.h"

namespace reactor::internal {

void Timeout::Begin(const std::shared_ptr<TimeoutState>& state, Stage* last, absl::Duration timeout,
                    IReactorTime& time) {
  if (last->fired) return;
  state->last = last;
  absl::StatusOr<DelayedCall> call = time.CallLater(timeout, [state] {
    state->is_up = true;
    if (state->last != nullptr) CancelPath(state->last);
  });
  if (call.ok()) {
    state->call = *std::move(call);
    return;
  }
  state->refused = std::move(call).status();
  CancelPath(last);
}

absl::Status Timeout::End() {
  state_->last = nullptr;
  state_->call.Cancel().IgnoreError();  // where the time was up there is nothing to cancel
  return state_->refused;
}

absl::Status TimeoutError(absl::Duration timeout) {
  return absl::DeadlineExceededError(
      absl::StrCat("the Deferred did not fire within ", absl::FormatDuration(timeout)));
}

std::string Describe(const Stage* stage) {
  if (stage == nullptr) return "it is empty";
  if (!IsAtHome(*stage, "Deferred::ToString")) return "it is elsewhere";
  const Failure* const failure = stage->UnhandledFailure();
  return absl::StrCat(!stage->fired        ? "it waits"
                      : failure == nullptr ? "it has a value"
                                           : "it failed: ",
                      failure == nullptr ? "" : failure->status().ToString(),
                      stage->sites.ToString());
}

}  // namespace reactor::internal
