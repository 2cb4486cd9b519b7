// Waiting for descriptors.

#ifndef REACTOR_POLLER_H_
#define REACTOR_POLLER_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace reactor {

// What somebody wants to hear of a descriptor.
struct Interest {
  bool read = false;
  bool write = false;
};

// One registration of a descriptor. The number of a closed descriptor comes back with the next
// open; a token does not: no event of the old one is ever taken for the new one's.
using PollToken = uint64_t;

// For pollers: what a token is made of.
inline PollToken MakePollToken(uint32_t generation, int fd) {
  return PollToken{generation} << 32 | static_cast<uint32_t>(fd);
}
inline int PollFd(PollToken token) { return static_cast<int>(token & 0xffffffff); }

// A timeout as the system wants it, rounded up: a loop that wakes before its timer is due would go
// round without waiting until then. -1: for ever.
inline int PollMilliseconds(absl::Duration timeout) {
  if (timeout <= absl::ZeroDuration()) return 0;
  if (timeout == absl::InfiniteDuration()) return -1;
  const int64_t up = absl::ToInt64Milliseconds(absl::Ceil(timeout, absl::Milliseconds(1)));
  return static_cast<int>(std::min<int64_t>(up, std::numeric_limits<int>::max()));
}

struct Ready {
  PollToken token = 0;
  // Only what was asked for. An error and a hang-up are ready for all that was asked for: the
  // next read or write tells.
  bool read = false;
  bool write = false;
  // The descriptor is closed, and still registered. Not every poller can see that.
  bool closed = false;
};

// Level-triggered: what is ready is told by each Wait for as long as it is. Owns no descriptor
// but its own. One thread.
//
// It may be changed between two Waits only; whoever goes through what Wait has told asks IsCurrent
// before each, because what he did with the last one may have removed the next.
//
// Known here: EpollPoller, PollPoller. One could think of kqueue and io_uring.
class Poller {
 public:
  virtual ~Poller() = default;

  // Registers `fd`, which stays open until Remove. At least one interest. Always ready is what
  // cannot be waited for: regular files. AlreadyExists: `fd` is registered. ResourceExhausted,
  // FailedPrecondition (it is not open), and whatever else the system has against it: it is not
  // registered.
  virtual absl::StatusOr<PollToken> Add(int fd, Interest interest) = 0;

  // Wants something else. NotFound: the token is not current. Not OK: it is as before.
  virtual absl::Status Change(PollToken token, Interest interest) = 0;

  // Ends the registration; also where the descriptor was closed already. An old token is ignored.
  virtual void Remove(PollToken token) = 0;

  virtual bool IsCurrent(PollToken token) const = 0;

  // Waits until a descriptor is ready, a signal has come, or `timeout` has passed, and puts what
  // is ready into `ready`. It never waits shorter than `timeout` only because the system counts
  // in larger units; it may after days, and a signal ends it: then nothing is ready. Zero or
  // less: does not wait. Not OK: the system does not let it wait.
  virtual absl::Status Wait(absl::Duration timeout, std::vector<Ready>& ready) = 0;
};

}  // namespace reactor

#endif  // REACTOR_POLLER_H_
