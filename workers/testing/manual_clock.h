// A clock that a test moves by hand.

#ifndef WORKERS_TESTING_MANUAL_CLOCK_H_
#define WORKERS_TESTING_MANUAL_CLOCK_H_

#include <cstddef>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "workers/clock.h"
#include "workers/internal/sync.h"
#include "workers/worker.h"

namespace workers::test {

// Time stands still but in Advance. Any thread may call anything; Advance from one at a time.
// Its destructor destroys, unrun, what is not due yet.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(ErrorHandler on_error = {});
  ~ManualClock() override;

  // Moves the time on by `by` (not negative), and runs on this thread what is due by then: the
  // earliest first, each with Now at its own time, and also what is given meanwhile for a later
  // time that is still due. What is given meanwhile and due at once waits for the next Advance,
  // so that work which gives itself anew with no delay does not go round for ever.
  void Advance(absl::Duration by);

  // How many works wait for their time.
  size_t pending() const;

  // Clock implementation:
  absl::Duration Now() const override;
  absl::Status RunAt(absl::Duration when, Work&& work) override;

 private:
  const ErrorHandler on_error_;

  mutable internal::Mutex mutex_;
  absl::Duration now_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  bool advancing_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::multimap<absl::Duration, Work> works_ ABSL_GUARDED_BY(mutex_);      // equal times: as given
  std::multimap<absl::Duration, Work> postponed_ ABSL_GUARDED_BY(mutex_);  // to the next Advance
};

}  // namespace workers::test

#endif  // WORKERS_TESTING_MANUAL_CLOCK_H_
