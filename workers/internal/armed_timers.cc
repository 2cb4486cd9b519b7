#include "workers/internal/armed_timers.h"

#include <algorithm>

namespace workers::internal {

int64_t ArmedTimers::Arm(absl::Duration when) {
  if (count_ == static_cast<int>(timers_.size())) --count_;
  timers_[static_cast<size_t>(count_++)] = {++last_id_, when};
  return last_id_;
}

bool ArmedTimers::Remove(int64_t id) {
  const auto end = timers_.begin() + count_;
  const auto found =
      std::find_if(timers_.begin(), end, [id](const Timer& timer) { return timer.id == id; });
  if (found == end) return false;
  std::move(found + 1, end, found);
  --count_;
  return true;
}

bool ArmedTimers::HasOneBy(absl::Duration when) const {
  if (when == absl::InfiniteDuration()) return false;
  return std::any_of(timers_.begin(), timers_.begin() + count_,
                     [when](const Timer& timer) { return timer.when <= when; });
}

}  // namespace workers::internal
