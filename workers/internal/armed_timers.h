// The timers of a Team that are armed and have not fired.

#ifndef WORKERS_INTERNAL_ARMED_TIMERS_H_
#define WORKERS_INTERNAL_ARMED_TIMERS_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace workers::internal {

// A clock cannot cancel, so each arming has an identity: a timer that fires and is not among these
// is stale. A timer is armed only if none fires by then, so a later one stays and serves again.
// Plain data, guarded by its owner.
class ArmedTimers {
 public:
  // Returns the identity of a timer that will fire at `when`, earlier than all others. If there is
  // no room, the next earliest becomes stale.
  int64_t Arm(absl::Duration when);
  // Removes a timer that has fired, or that the clock has refused. Returns false if it was stale.
  bool Remove(int64_t id);
  // Does one fire at `when` or before? An infinite `when` needs none, and has none.
  bool HasOneBy(absl::Duration when) const;

 private:
  struct Timer {
    int64_t id;
    absl::Duration when;
  };
  std::array<Timer, 4> timers_ = {};  // the earliest last
  int count_ = 0;
  int64_t last_id_ = 0;
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_ARMED_TIMERS_H_
