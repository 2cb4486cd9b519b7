// A factory whose threads cannot be started, when a test says so.

#ifndef WORKERS_TESTING_FAILING_THREAD_FACTORY_H_
#define WORKERS_TESTING_FAILING_THREAD_FACTORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/internal/sync.h"
#include "workers/thread_factory.h"

namespace workers::test {

// Starts threads by another factory, except where it was told to fail. Any thread.
class FailingThreadFactory final : public ThreadFactory {
 public:
  // `inner` outlives this factory.
  explicit FailingThreadFactory(ThreadFactory& inner = DefaultThreadFactory()) : inner_(inner) {}

  // The next `count` calls of Start fail with `error`, and those after them do not.
  void FailNext(int64_t count, absl::Status error = absl::ResourceExhaustedError("injected")) {
    internal::MutexLock lock(mutex_);
    failures_left_ = count;
    error_ = std::move(error);
  }

  // How many calls of Start have failed here.
  int64_t failed() const {
    internal::MutexLock lock(mutex_);
    return failed_;
  }

  // ThreadFactory implementation:
  absl::StatusOr<std::unique_ptr<Thread>> Start(const ThreadOptions& options,
                                                Work&& main) override {
    {
      internal::MutexLock lock(mutex_);
      if (failures_left_ > 0) {
        --failures_left_;
        ++failed_;
        return error_;
      }
    }
    return inner_.Start(options, std::move(main));
  }
  size_t Reap() override { return inner_.Reap(); }

 private:
  ThreadFactory& inner_;
  mutable internal::Mutex mutex_;
  int64_t failures_left_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t failed_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace workers::test

#endif  // WORKERS_TESTING_FAILING_THREAD_FACTORY_H_
