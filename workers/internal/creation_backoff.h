// When a Team may create workers after a creation has failed.

#ifndef WORKERS_INTERNAL_CREATION_BACKOFF_H_
#define WORKERS_INTERNAL_CREATION_BACKOFF_H_

#include "absl/time/time.h"

namespace workers::internal {

// After a failure nothing is created for a while, which doubles with each further failure up to a
// second. Then one worker at a time is created, until one creation works. Without a clock the
// while has no end of its own. Plain data, guarded by its owner.
class CreationBackoff {
 public:
  CreationBackoff(absl::Duration retry_after, bool has_clock)
      : retry_after_(retry_after), has_clock_(has_clock) {}

  bool is_held() const { return is_held_; }        // nothing is to be created
  bool is_probing() const { return is_probing_; }  // at most one at a time
  // When the while ends; infinite: nothing is held, or there is no clock.
  absl::Duration retry_at() const { return retry_at_; }
  bool IsOver(absl::Duration now) const { return is_held_ && now >= retry_at_; }

  void Failed(absl::Duration now);
  void Worked();
  // Ends the while early. What is created first is still one worker.
  void Allow();

 private:
  const absl::Duration retry_after_;
  const bool has_clock_;
  bool is_held_ = false;
  bool is_probing_ = false;
  absl::Duration delay_ = absl::ZeroDuration();
  absl::Duration retry_at_ = absl::InfiniteDuration();
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_CREATION_BACKOFF_H_
