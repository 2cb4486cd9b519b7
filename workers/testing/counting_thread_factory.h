// A factory that proves that every thread was joined.

#ifndef WORKERS_TESTING_COUNTING_THREAD_FACTORY_H_
#define WORKERS_TESTING_COUNTING_THREAD_FACTORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "workers/internal/sync.h"
#include "workers/thread_factory.h"

namespace workers::test {

// Starts threads of the system, keeps its orphans itself, and counts. Any thread.
class CountingThreadFactory final : public ThreadFactory {
 public:
  CountingThreadFactory();
  ~CountingThreadFactory() override;

  int64_t started() const { return started_.load(); }
  // Joined by their owners, by Start and Reap, and by Finish.
  int64_t joined() const { return joined_.load(); }
  // Given up by their owners without a join, so that this factory had or has to join them.
  int64_t orphaned() const { return orphaned_.load(); }

  // Waits for the orphans. When every thread has been joined or given up by its owner, and none
  // is started any more, started() == joined() after it.
  void Finish();

  // ThreadFactory implementation:
  absl::StatusOr<std::unique_ptr<Thread>> Start(const ThreadOptions& options, Work&& main) override;
  size_t Reap() override;

 private:
  class CountedThread;
  struct Record;

  size_t JoinOrphans(bool wait_for_the_running);

  const std::unique_ptr<ThreadFactory> inner_;
  internal::Atomic<int64_t> started_ = 0;
  internal::Atomic<int64_t> joined_ = 0;
  internal::Atomic<int64_t> orphaned_ = 0;
  internal::Mutex mutex_;
  std::vector<std::shared_ptr<Record>> orphans_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace workers::test

#endif  // WORKERS_TESTING_COUNTING_THREAD_FACTORY_H_
