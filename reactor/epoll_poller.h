// Waiting for descriptors by epoll: for many.

#ifndef REACTOR_EPOLL_POLLER_H_
#define REACTOR_EPOLL_POLLER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "reactor/poller.h"

namespace reactor {

// Costs what is ready, not what is registered. A timeout is rounded up to milliseconds. What
// the system refuses to wait for (EPERM: regular files, directories) is always ready, as in
// Twisted's continuous polling; while there is any, Wait does not wait.
//
// A registered descriptor that is closed while a duplicate of it stays open goes on to tell of
// itself, and cannot be removed: on the first such event the poller starts a new epoll set.
class EpollPoller final : public Poller {
 public:
  // ResourceExhausted: the process or the system has no descriptor left.
  static absl::StatusOr<std::unique_ptr<EpollPoller>> Create();

  ~EpollPoller() override;

  EpollPoller(const EpollPoller&) = delete;
  EpollPoller& operator=(const EpollPoller&) = delete;

  // Poller implementation:
  absl::StatusOr<PollToken> Add(int fd, Interest interest) override;
  absl::Status Change(PollToken token, Interest interest) override;
  void Remove(PollToken token) override;
  bool IsCurrent(PollToken token) const override;
  absl::Status Wait(absl::Duration timeout, std::vector<Ready>& ready) override;

 private:
  struct Entry {
    PollToken token = 0;  // 0: not registered
    Interest interest;
    bool always_ready = false;
  };

  explicit EpollPoller(int epoll_fd);

  // 0, or an errno.
  int Control(int operation, int fd, PollToken token, Interest interest);
  void StartAnew();

  int epoll_fd_;
  uint32_t generation_ = 0;
  std::vector<Entry> entries_;  // [fd]
  std::vector<int> always_ready_;
};

}  // namespace reactor

#endif  // REACTOR_EPOLL_POLLER_H_
