// The signals that ask a program to end, as something that a loop can wait for.

#ifndef REACTOR_STOP_SIGNALS_H_
#define REACTOR_STOP_SIGNALS_H_

#include <memory>

#include "absl/status/statusor.h"

namespace reactor {

// While at least one of these lives, SIGINT, SIGTERM and SIGHUP are caught instead of ending the
// process, and every one of them hears of each signal. A signal that the process ignores when the
// first one is made (nohup) stays ignored. When the last one is destroyed, the handlers that were
// there before come back, but for those that somebody has replaced meanwhile.
//
// Handlers are the process's, and so is what is shared here: a list of descriptors that only
// grows, to as many as ever lived at once. Any thread may make and destroy one.
//
// The child of a fork begins with none: its parent's hear nothing of it, and destroying them there
// does nothing. The handlers stay until the last one made in the child is destroyed.
class StopSignals {
 public:
  // ResourceExhausted: no descriptor is left.
  static absl::StatusOr<std::unique_ptr<StopSignals>> Install();

  ~StopSignals();

  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // Readable from a signal until Take. Not owned by the caller.
  int fd() const;

  struct Taken {
    int count = 0;   // signals since the last Take
    int signal = 0;  // the last of them
  };
  Taken Take();

 private:
  struct Slot;
  static void Handle(int signal);

  explicit StopSignals(Slot* slot) : slot_(slot) {}

  Slot* const slot_;
};

}  // namespace reactor

#endif  // REACTOR_STOP_SIGNALS_H_
