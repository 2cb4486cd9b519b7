// What ends the sleep of a loop.

#ifndef REACTOR_WAKER_H_
#define REACTOR_WAKER_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "workers/internal/sync.h"

namespace reactor {

// A descriptor that becomes readable when somebody wakes it. The loop has it among those that it
// waits for, and clears it when it is readable. Wakes before a Clear are one; none is lost: a Wake
// after Clear has begun makes it readable again.
class Waker {
 public:
  // ResourceExhausted: the process or the system has no descriptor left.
  static absl::StatusOr<std::unique_ptr<Waker>> Create();

  ~Waker();

  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;

  // Readable from Wake to Clear. Owned by the waker.
  int fd() const { return fd_; }

  // Any thread, and a signal handler: one write(2) that never blocks; leaves errno as it was.
  void Wake();

  // The loop's thread.
  void Clear();

  // How many writes were made so far. Any thread.
  int64_t writes() const { return writes_.load(std::memory_order_relaxed); }

 private:
  explicit Waker(int fd) : fd_(fd) {}

  const int fd_;
  workers::internal::Atomic<int64_t> writes_ = 0;
};

}  // namespace reactor

#endif  // REACTOR_WAKER_H_
