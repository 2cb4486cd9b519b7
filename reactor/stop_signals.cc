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
using workers::internal::ForkCount;
using workers::internal::Mutex;
using workers::internal::MutexLock;

// A slot is never freed and its descriptor never closed: a handler may be at it at any time, in
// any thread. It is of one process: the child of a fork has the same descriptor, but its own list.
struct StopSignals::Slot {
  const int fork_count = ForkCount::Get();
  int fd = -1;
  Atomic<bool> in_use = false;
  Atomic<int> count = 0;
  Atomic<int> last = 0;
  Slot* next = nullptr;  // set before the slot is published

  bool IsForked() const { return fork_count != ForkCount::Get(); }

  static Atomic<Slot*> first;
};

constinit Atomic<StopSignals::Slot*> StopSignals::Slot::first = nullptr;

namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};
constexpr size_t kCount = sizeof(kSignals) / sizeof(kSignals[0]);

constinit Mutex mutex;
int users ABSL_GUARDED_BY(mutex) = 0;             // of this process
int users_fork_count ABSL_GUARDED_BY(mutex) = 0;  // of that process
struct sigaction before[kCount] ABSL_GUARDED_BY(mutex);
bool installed[kCount] ABSL_GUARDED_BY(mutex);

}  // namespace

void StopSignals::Handle(int signal) {
  const int saved = errno;
  for (Slot* slot = Slot::first.load(); slot != nullptr; slot = slot->next) {
    if (!slot->in_use.load() || slot->IsForked()) continue;
    slot->last.store(signal);
    slot->count.fetch_add(1);
    const uint64_t one = 1;
    while (write(slot->fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
  }
  errno = saved;
}

absl::StatusOr<std::unique_ptr<StopSignals>> StopSignals::Install() {
  ForkCount::Watch();
  MutexLock lock(mutex);
  if (users_fork_count != ForkCount::Get()) {
    users_fork_count = ForkCount::Get();
    users = 0;
  }
  Slot* slot = Slot::first.load();
  while (slot != nullptr && (slot->in_use.load() || slot->IsForked())) slot = slot->next;
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
      struct sigaction now;
      sigaction(kSignals[i], nullptr, &now);
      if (now.sa_handler == &StopSignals::Handle) continue;  // a parent's; so is what was before
      before[i] = now;
      installed[i] = before[i].sa_handler != SIG_IGN;
      if (installed[i]) sigaction(kSignals[i], &ours, nullptr);
    }
  }
  return signals;
}

StopSignals::~StopSignals() {
  if (slot_->IsForked()) return;  // the parent's
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
