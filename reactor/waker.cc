#include "reactor/waker.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "absl/status/status.h"

namespace reactor {

absl::StatusOr<std::unique_ptr<Waker>> Waker::Create() {
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, "no eventfd for a waker");
  return std::unique_ptr<Waker>(new Waker(fd));
}

Waker::~Waker() { close(fd_); }

void Waker::Wake() {
  const int saved = errno;
  const uint64_t one = 1;
  // EAGAIN: the counter is full, and so it is readable already.
  while (write(fd_, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
  writes_.fetch_add(1, std::memory_order_relaxed);
  errno = saved;
}

void Waker::Clear() {
  uint64_t count;
  while (read(fd_, &count, sizeof(count)) < 0 && errno == EINTR) {
  }
}

}  // namespace reactor
