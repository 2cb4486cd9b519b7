// Who waits for the end of a loop.

#ifndef REACTOR_INTERNAL_END_WATCHERS_H_
#define REACTOR_INTERNAL_END_WATCHERS_H_

#include <cstdint>
#include <functional>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/internal/sync.h"
#include "workers/worker.h"

namespace reactor::internal {

// What IReactorThreads::WatchEnd says. Any thread.
class EndWatchers {
 public:
  // Another Run begins: there is an end to wait for again.
  void Open();
  // AlreadyQuit: released already, and not opened again.
  absl::StatusOr<uint64_t> Add(absl::string_view loop, std::function<void()> ended);
  void Remove(uint64_t id);
  // Refuses new ones, and gives the others to `run`, the oldest first; each may be removed until
  // then. May be called again.
  void Release(absl::FunctionRef<void(workers::Work&)> run);

 private:
  workers::internal::Mutex mutex_;
  std::map<uint64_t, std::function<void()>> all_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 1;
  bool open_ ABSL_GUARDED_BY(mutex_) = true;
};

}  // namespace reactor::internal

#endif  // REACTOR_INTERNAL_END_WATCHERS_H_
