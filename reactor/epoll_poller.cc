#include "reactor/epoll_poller.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace reactor {
namespace {

constexpr int kMaxEvents = 256;  // told by one Wait; the system goes round among more

}  // namespace

absl::StatusOr<std::unique_ptr<EpollPoller>> EpollPoller::Create() {
  const int fd = epoll_create1(EPOLL_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, "no epoll set for a poller");
  return std::unique_ptr<EpollPoller>(new EpollPoller(fd));
}

EpollPoller::EpollPoller(int epoll_fd) : epoll_fd_(epoll_fd) {}

EpollPoller::~EpollPoller() { close(epoll_fd_); }

int EpollPoller::Control(int operation, int fd, PollToken token, Interest interest) {
  epoll_event event = {};
  if (interest.read) event.events |= EPOLLIN | EPOLLRDHUP;
  if (interest.write) event.events |= EPOLLOUT;
  event.data.u64 = token;
  return epoll_ctl(epoll_fd_, operation, fd, &event) == 0 ? 0 : errno;
}

absl::StatusOr<PollToken> EpollPoller::Add(int fd, Interest interest) {
  if (fd < 0 || (!interest.read && !interest.write)) {
    return absl::InvalidArgumentError(absl::StrCat("epoll: descriptor ", fd, " or no interest"));
  }
  if (entries_.size() <= static_cast<size_t>(fd)) entries_.resize(fd + 1);
  Entry& entry = entries_[fd];
  if (entry.token != 0) {
    return absl::AlreadyExistsError(absl::StrCat("epoll: descriptor ", fd, " is registered"));
  }
  if (++generation_ == 0) ++generation_;  // no token is 0
  const PollToken token = MakePollToken(generation_, fd);
  int error = Control(EPOLL_CTL_ADD, fd, token, interest);
  // The same descriptor was closed, while registered, and came back: dup2 does that.
  if (error == EEXIST) error = Control(EPOLL_CTL_MOD, fd, token, interest);
  if (error != 0 && error != EPERM) {
    return absl::ErrnoToStatus(error, absl::StrCat("epoll: cannot wait for descriptor ", fd));
  }
  entry = {token, interest, error == EPERM};
  if (entry.always_ready) always_ready_.push_back(fd);
  return token;
}

absl::Status EpollPoller::Change(PollToken token, Interest interest) {
  if (!IsCurrent(token)) return absl::NotFoundError("epoll: not registered");
  const int fd = PollFd(token);
  if (!interest.read && !interest.write) {
    return absl::InvalidArgumentError(absl::StrCat("epoll: descriptor ", fd, ": no interest"));
  }
  Entry& entry = entries_[fd];
  if (!entry.always_ready) {
    if (const int error = Control(EPOLL_CTL_MOD, fd, token, interest); error != 0) {
      return absl::ErrnoToStatus(error, absl::StrCat("epoll: cannot wait for descriptor ", fd));
    }
  }
  entry.interest = interest;
  return absl::OkStatus();
}

void EpollPoller::Remove(PollToken token) {
  if (!IsCurrent(token)) return;
  const int fd = PollFd(token);
  if (entries_[fd].always_ready) {
    always_ready_.erase(std::find(always_ready_.begin(), always_ready_.end(), fd));
  } else {
    Control(EPOLL_CTL_DEL, fd, token, {});  // an error: it was closed, and has gone with that
  }
  entries_[fd] = Entry();
}

bool EpollPoller::IsCurrent(PollToken token) const {
  const size_t fd = static_cast<size_t>(PollFd(token));
  return token != 0 && fd < entries_.size() && entries_[fd].token == token;
}

absl::Status EpollPoller::Wait(absl::Duration timeout, std::vector<Ready>& ready) {
  ready.clear();
  epoll_event events[kMaxEvents];
  const int count = epoll_wait(epoll_fd_, events, kMaxEvents,
                               always_ready_.empty() ? PollMilliseconds(timeout) : 0);
  if (count < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "epoll_wait");
  bool ghosts = false;
  for (int i = 0; i < count; ++i) {
    const PollToken token = events[i].data.u64;
    if (!IsCurrent(token)) {
      ghosts = true;
      continue;
    }
    const Interest interest = entries_[PollFd(token)].interest;
    const uint32_t what = events[i].events;
    const bool all = (what & (EPOLLERR | EPOLLHUP)) != 0;
    Ready one;
    one.token = token;
    one.read = interest.read && (all || (what & (EPOLLIN | EPOLLRDHUP)) != 0);
    one.write = interest.write && (all || (what & EPOLLOUT) != 0);
    ready.push_back(one);
  }
  for (int fd : always_ready_) {
    const Entry& entry = entries_[fd];
    ready.push_back({entry.token, entry.interest.read, entry.interest.write, false});
  }
  if (ghosts) StartAnew();
  return absl::OkStatus();
}

// If there is no descriptor for it, the ghosts are tried again with their next event.
void EpollPoller::StartAnew() {
  const int fresh = epoll_create1(EPOLL_CLOEXEC);
  if (fresh < 0) return;
  close(epoll_fd_);
  epoll_fd_ = fresh;
  for (size_t fd = 0; fd < entries_.size(); ++fd) {
    const Entry& entry = entries_[fd];
    if (entry.token == 0 || entry.always_ready) continue;
    // An error: it was closed while it was registered; it tells nothing, as before.
    Control(EPOLL_CTL_ADD, static_cast<int>(fd), entry.token, entry.interest);
  }
}

}  // namespace reactor
