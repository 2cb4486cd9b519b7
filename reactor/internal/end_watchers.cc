#include "reactor/internal/end_watchers.h"

#include <utility>

#include "workers/internal/report.h"

namespace reactor::internal {

using workers::internal::MutexLock;

void EndWatchers::Open() {
  MutexLock lock(mutex_);
  open_ = true;
}

absl::StatusOr<uint64_t> EndWatchers::Add(absl::string_view loop, std::function<void()> ended) {
  if (!ended) return workers::internal::EmptyWorkError(loop);
  MutexLock lock(mutex_);
  if (!open_) return workers::AlreadyQuitError(loop);
  all_.emplace(next_, std::move(ended));
  return next_++;
}

void EndWatchers::Remove(uint64_t id) {
  std::function<void()> ended;  // destroyed without the lock
  MutexLock lock(mutex_);
  if (auto node = all_.extract(id)) ended = std::move(node.mapped());
}

void EndWatchers::Release(absl::FunctionRef<void(workers::Work&)> run) {
  for (;;) {
    workers::Work ended;
    {
      MutexLock lock(mutex_);
      open_ = false;
      if (all_.empty()) return;
      ended = std::move(all_.extract(all_.begin()).mapped());
    }
    run(ended);
  }
}

}  // namespace reactor::internal
