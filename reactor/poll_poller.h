// Waiting for descriptors by poll: for few, and where there is no epoll.

#ifndef REACTOR_POLL_POLLER_H_
#define REACTOR_POLL_POLLER_H_

#include <poll.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "reactor/poller.h"

namespace reactor {

// Costs all that is registered, at each Wait. A timeout is rounded up to milliseconds. It sees
// that a registered descriptor was closed, until its number comes back.
class PollPoller final : public Poller {
 public:
  PollPoller() = default;

  PollPoller(const PollPoller&) = delete;
  PollPoller& operator=(const PollPoller&) = delete;

  // Poller implementation:
  absl::StatusOr<PollToken> Add(int fd, Interest interest) override;
  absl::Status Change(PollToken token, Interest interest) override;
  void Remove(PollToken token) override;
  bool IsCurrent(PollToken token) const override;
  absl::Status Wait(absl::Duration timeout, std::vector<Ready>& ready) override;

 private:
  uint32_t generation_ = 0;
  // The same place in both is the same registration.
  std::vector<pollfd> fds_;
  std::vector<PollToken> tokens_;
  std::unordered_map<int, size_t> place_;  // of a registered descriptor, in the two
};

}  // namespace reactor

#endif  // REACTOR_POLL_POLLER_H_
