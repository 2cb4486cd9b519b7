#include "workers/internal/creation_backoff.h"

#include <algorithm>

namespace workers::internal {
namespace {

constexpr absl::Duration kMaxDelay = absl::Seconds(1);

}  // namespace

void CreationBackoff::Failed(absl::Duration now) {
  if (is_held_) return;  // creations that began before the first failure count once
  is_held_ = is_probing_ = true;
  if (!has_clock_) return;
  delay_ = delay_ == absl::ZeroDuration() ? retry_after_ : std::min(delay_ * 2, kMaxDelay);
  retry_at_ = now + delay_;
}

void CreationBackoff::Worked() {
  Allow();
  is_probing_ = false;
  delay_ = absl::ZeroDuration();
}

void CreationBackoff::Allow() {
  is_held_ = false;
  retry_at_ = absl::InfiniteDuration();
}

}  // namespace workers::internal
