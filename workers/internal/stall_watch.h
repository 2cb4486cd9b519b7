// When a Team reports that nothing moves.

#ifndef WORKERS_INTERNAL_STALL_WATCH_H_
#define WORKERS_INTERNAL_STALL_WATCH_H_

#include "absl/time/time.h"

namespace workers::internal {

// A stall lasts from the first look at it until something moves, and is reported once. Plain data,
// guarded by its owner.
class StallWatch {
 public:
  explicit StallWatch(absl::Duration warning) : warning_(warning) {}

  bool is_enabled() const { return warning_ != absl::InfiniteDuration(); }
  bool has_begun() const { return since_ != absl::InfiniteDuration(); }
  void Moved() { since_ = absl::InfiniteDuration(); }

  // Nothing can move at `now`. Returns true if that is to be reported.
  bool Look(absl::Duration now) {
    if (!has_begun()) {
      since_ = now;
      is_reported_ = false;
    }
    if (is_reported_ || now < since_ + warning_) return false;
    return is_reported_ = true;
  }
  // When the next look is due; infinite: none is.
  absl::Duration due() const { return is_reported_ ? absl::InfiniteDuration() : since_ + warning_; }

 private:
  const absl::Duration warning_;
  absl::Duration since_ = absl::InfiniteDuration();
  bool is_reported_ = false;
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_STALL_WATCH_H_
