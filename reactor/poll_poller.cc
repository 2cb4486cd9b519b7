#include "reactor/poll_poller.h"

#include <errno.h>
#include <fcntl.h>

#include <cstddef>

#include "absl/strings/str_cat.h"

namespace reactor {
namespace {

int16_t EventsOf(Interest interest) {
  return static_cast<int16_t>((interest.read ? POLLIN : 0) | (interest.write ? POLLOUT : 0));
}

}  // namespace

absl::StatusOr<PollToken> PollPoller::Add(int fd, Interest interest) {
  if (fd < 0 || (!interest.read && !interest.write)) {
    return absl::InvalidArgumentError(absl::StrCat("poll: descriptor ", fd, " or no interest"));
  }
  if (place_.contains(fd)) {
    return absl::AlreadyExistsError(absl::StrCat("poll: descriptor ", fd, " is registered"));
  }
  if (fcntl(fd, F_GETFD) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("poll: cannot wait for descriptor ", fd));
  }
  if (++generation_ == 0) ++generation_;  // no token is 0
  const PollToken token = MakePollToken(generation_, fd);
  place_[fd] = fds_.size();
  fds_.push_back({fd, EventsOf(interest), 0});
  tokens_.push_back(token);
  return token;
}

absl::Status PollPoller::Change(PollToken token, Interest interest) {
  if (!IsCurrent(token)) return absl::NotFoundError("poll: not registered");
  if (!interest.read && !interest.write) {
    return absl::InvalidArgumentError(
        absl::StrCat("poll: descriptor ", PollFd(token), ": no interest"));
  }
  fds_[place_[PollFd(token)]].events = EventsOf(interest);
  return absl::OkStatus();
}

void PollPoller::Remove(PollToken token) {
  if (!IsCurrent(token)) return;
  const auto found = place_.find(PollFd(token));
  const size_t place = found->second;
  place_.erase(found);
  if (place + 1 < fds_.size()) {  // the last one takes its place
    fds_[place] = fds_.back();
    tokens_[place] = tokens_.back();
    place_[fds_[place].fd] = place;
  }
  fds_.pop_back();
  tokens_.pop_back();
}

bool PollPoller::IsCurrent(PollToken token) const {
  const auto found = place_.find(PollFd(token));
  return token != 0 && found != place_.end() && tokens_[found->second] == token;
}

absl::Status PollPoller::Wait(absl::Duration timeout, std::vector<Ready>& ready) {
  ready.clear();
  int count = poll(fds_.data(), fds_.size(), PollMilliseconds(timeout));
  if (count < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "poll");
  for (size_t i = 0; count > 0 && i < fds_.size(); ++i) {
    const int16_t what = fds_[i].revents;
    if (what == 0) continue;
    --count;
    const bool all = (what & (POLLERR | POLLHUP | POLLNVAL)) != 0;
    Ready one;
    one.token = tokens_[i];
    one.read = (fds_[i].events & POLLIN) != 0 && (all || (what & POLLIN) != 0);
    one.write = (fds_[i].events & POLLOUT) != 0 && (all || (what & POLLOUT) != 0);
    one.closed = (what & POLLNVAL) != 0;
    ready.push_back(one);
  }
  return absl::OkStatus();
}

}  // namespace reactor
