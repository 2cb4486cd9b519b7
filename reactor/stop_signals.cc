#include "reactor/stop_signals.h"

#include <errno.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "workers/internal/sync.h"

namespace reactor {

using workers::internal::Atomic;
using workers::internal::Mutex;
using workers::internal::MutexLock;

// A slot is never freed and its descriptor never closed: a handler may be at it at any time, in
// any thread.
struct StopSignals::Slot {
  int fd = -1;
  Atomic<bool> in_use = false;
  Atomic<int> count = 0;
  Atomic<int> last = 0;
  Slot* next = nullptr;  // set before the slot is published

  static Atomic<Slot*> first;
};

constinit Atomic<StopSignals::Slot*> StopSignals::Slot::first = nullptr;

namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};
constexpr size_t kCount = sizeof(kSignals) / sizeof(kSignals[0]);

constinit Mutex mutex;
int users ABSL_GUARDED_BY(mutex) = 0;
struct sigaction before[kCount] ABSL_GUARDED_BY(mutex);
bool installed[kCount] ABSL_GUARDED_BY(mutex);

}  // namespace

void StopSignals::Handle(int signal) {
  const int saved = errno;
  for (Slot* slot = Slot::first.load(); slot != nullptr; slot = slot->next) {
    if (!slot->in_use.load()) continue;
    slot->last.store(signal);
    slot->count.fetch_add(1);
    const uint64_t one = 1;
    while (write(slot->fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
  }
  errno = saved;
}

absl::StatusOr<std::unique_ptr<StopSignals>> StopSignals::Install() {
  MutexLock lock(mutex);
  Slot* slot = Slot::first.load();
  while (slot != nullptr && slot->in_use.load()) slot = slot->next;
  if (slot == nullptr) {
    const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) return absl::ErrnoToStatus(errno, "no eventfd for signals");
    slot = new Slot;
    slot->fd = fd;
    slot->next = Slot::first.load();
    Slot::first.store(slot);
  }
  std::unique_ptr<StopSignals> signals(new StopSignals(slot));
  signals->Take();  // leavings of whoever had it before
  slot->in_use.store(true);
  if (users++ == 0) {
    struct sigaction ours = {};
    ours.sa_handler = &StopSignals::Handle;
    ours.sa_flags = SA_RESTART;
    sigemptyset(&ours.sa_mask);
    for (size_t i = 0; i < kCount; ++i) {
      sigaction(kSignals[i], nullptr, &before[i]);
      installed[i] = before[i].sa_handler != SIG_IGN;
      if (installed[i]) sigaction(kSignals[i], &ours, nullptr);
    }
  }
  return signals;
}

StopSignals::~StopSignals() {
  MutexLock lock(mutex);
  slot_->in_use.store(false);
  if (--users > 0) return;
  for (size_t i = 0; i < kCount; ++i) {
    if (!installed[i]) continue;
    struct sigaction now;
    sigaction(kSignals[i], nullptr, &now);
    if (now.sa_handler == &StopSignals::Handle) sigaction(kSignals[i], &before[i], nullptr);
  }
}

int StopSignals::fd() const { return slot_->fd; }

StopSignals::Taken StopSignals::Take() {
  uint64_t value;
  while (read(slot_->fd, &value, sizeof(value)) < 0 && errno == EINTR) {
  }
  const int count = slot_->count.exchange(0);
  return {count, slot_->last.load()};
}

}  // namespace reactor
