#include "workers/thread_worker.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/internal/sync.h"
#include "workers/worker_scope.h"

namespace workers {
namespace {

constexpr size_t kKeptCapacity = 4096;  // works; 128 KiB

}  // namespace

// The thread takes the whole queue at once and runs it without the lock. The two vectors
// change places, so that neither allocates once it has had its size.
struct ThreadWorker::Core {
  Core(ThreadWorkerOptions options, std::string name)
      : name(std::move(name)),
        on_error(std::move(options.on_error)),
        max_queued(options.max_queued),
        on_exit(std::move(options.on_exit)) {}

  // Immutable.
  const std::string name;
  const ErrorHandler on_error;
  const size_t max_queued;
  const int fork_count = internal::ForkCount::Get();

  // The thread's.
  absl::AnyInvocable<void() &&> on_exit;
  std::vector<Work> batch;  // taken from `queue`, being run

  // Any thread.
  internal::Atomic<size_t> batch_left = 0;  // works of `batch` that have not begun; thread writes
  mutable internal::Mutex mutex;
  internal::CondVar wake;   // of the thread
  internal::CondVar ended;  // of those who join
  std::vector<Work> queue ABSL_GUARDED_BY(mutex);
  bool asleep ABSL_GUARDED_BY(mutex) = false;  // the thread waits and nobody has woken it yet
  bool quit ABSL_GUARDED_BY(mutex) = false;    // nothing enters `queue` any more
  enum { kRunning, kEnded, kJoining, kJoined } state ABSL_GUARDED_BY(mutex) = kRunning;
  std::unique_ptr<Thread> thread ABSL_GUARDED_BY(mutex);  // null once it is joined or given up
  internal::ThreadId thread_id ABSL_GUARDED_BY(mutex);

  bool IsForked() const { return fork_count != internal::ForkCount::Get(); }
  absl::Status ForkedError() const {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": its thread belongs to the parent of this forked process"));
  }

  // The caller saw `asleep` and cleared it: it alone signals, and after unlocking.
  bool TakeWake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return std::exchange(asleep, false); }

  bool Close() {
    bool wake_it;
    {
      internal::MutexLock lock(mutex);
      if (quit) return false;
      quit = true;
      wake_it = TakeWake();
    }
    if (wake_it) wake.Signal();
    return true;
  }

  // Gives back what a burst has left, before the thread sleeps.
  static void Trim(std::vector<Work>& empty) {
    if (empty.capacity() > kKeptCapacity) std::vector<Work>().swap(empty);
  }

  // Waits for work and takes all of it. False: the worker has quit and nothing is left.
  bool TakeBatch() {
    internal::MutexLock lock(mutex);
    while (queue.empty()) {
      if (quit) return false;
      Trim(queue);
      Trim(batch);
      asleep = true;
      wake.Wait(mutex);
      asleep = false;
    }
    batch.swap(queue);
    batch_left.store(batch.size(), std::memory_order_relaxed);
    return true;
  }

  void RunBatch() {
    // After forced unwinding out of a work the rest still runs, while the thread unwinds.
    size_t next = 0;
    absl::Cleanup run_rest([&] {
      for (; next < batch.size(); ++next) RunNext(next);
      batch.clear();
    });
    while (next < batch.size()) RunNext(next++);
  }
  void RunNext(size_t i) {
    batch_left.store(batch.size() - i - 1, std::memory_order_relaxed);
    internal::RunWork(batch[i], name, on_error);
  }

  // `worker` is there at first: its destructor waits, except on this very thread.
  void Main(const IExclusiveWorker& worker) {
    {
      internal::MutexLock lock(mutex);
      thread_id = internal::CurrentThread();
    }
    WorkerScope scope(worker);
    const auto run = [this] {
      while (TakeBatch()) RunBatch();
      if (on_exit) internal::RunWork(on_exit, name, on_error);
    };
    absl::Cleanup end([this, &run] {
      Close();  // news only where a work ended the thread by force: then there may be a rest
      run();
      {
        internal::MutexLock lock(mutex);
        state = kEnded;
        thread_id = internal::ThreadId();  // the next thread may get it
      }
      ended.SignalAll();
    });
    run();
  }
};

absl::StatusOr<std::unique_ptr<ThreadWorker>> ThreadWorker::Create(ThreadWorkerOptions options) {
  internal::ForkCount::Watch();
  ThreadOptions thread_options = std::move(options.thread);
  if (thread_options.name.empty()) thread_options.name = "thread-worker";
  ThreadFactory& factory = options.factory != nullptr ? *options.factory : DefaultThreadFactory();
  auto core = std::make_shared<Core>(std::move(options), thread_options.name);
  std::unique_ptr<ThreadWorker> worker(new ThreadWorker(core));
  auto thread = factory.Start(thread_options, [core, &worker = *worker] { core->Main(worker); });
  internal::MutexLock lock(core->mutex);
  if (!thread.ok()) {
    core->state = Core::kJoined;  // there is nothing to wait for
    return thread.status();
  }
  core->thread = *std::move(thread);
  return worker;
}

ThreadWorker::ThreadWorker(std::shared_ptr<Core> core) : core_(std::move(core)) {}

ThreadWorker::~ThreadWorker() {
  if (core_->IsForked()) {
    new std::shared_ptr<Core>(core_);  // leaked: the lock may be held by a thread of the parent
    return;
  }
  Quit().IgnoreError();
  std::unique_ptr<Thread> orphan;
  {
    internal::MutexLock lock(core_->mutex);
    if (core_->thread_id == internal::CurrentThread()) orphan = std::move(core_->thread);
  }
  if (orphan != nullptr) {
    WorkerScope::Forget(*this);
    return;  // `orphan` goes to its factory
  }
  Join().IgnoreError();
}

absl::Status ThreadWorker::Join(absl::Duration timeout) {
  Core& core = *core_;
  if (core.IsForked()) return core.ForkedError();
  const absl::Duration deadline = internal::SteadyNow() + timeout;
  std::unique_ptr<Thread> thread;
  {
    internal::MutexLock lock(core.mutex);
    if (!core.quit) {
      return absl::FailedPreconditionError(absl::StrCat(core.name, ": Join before Quit"));
    }
    if (core.thread_id == internal::CurrentThread()) {
      return absl::FailedPreconditionError(
          absl::StrCat(core.name, ": Join on the worker's own thread"));
    }
    while (core.state == Core::kRunning || core.state == Core::kJoining) {
      if (internal::SteadyNow() >= deadline) {
        return absl::DeadlineExceededError(
            absl::StrCat(core.name, ": the thread has not ended in time"));
      }
      core.ended.WaitUntil(core.mutex, deadline);
    }
    if (core.state == Core::kJoined) return absl::OkStatus();
    core.state = Core::kJoining;
    thread = std::move(core.thread);
  }
  thread->Join();  // what it still does takes no time: it has ended but for its return
  thread.reset();
  {
    internal::MutexLock lock(core.mutex);
    core.state = Core::kJoined;
  }
  core.ended.SignalAll();
  return absl::OkStatus();
}

size_t ThreadWorker::queued() const {
  internal::MutexLock lock(core_->mutex);
  return core_->queue.size() + core_->batch_left.load(std::memory_order_relaxed);
}

absl::Status ThreadWorker::Do(Work&& work) {
  Core& core = *core_;
  if (!work) return internal::EmptyWorkError(core.name);
  if (core.IsForked()) return core.ForkedError();
  // The work may destroy this worker as soon as the lock is free. Only a thread that was
  // asleep may still be touched then, and it is held for that.
  std::shared_ptr<Core> sleeper;
  {
    internal::MutexLock lock(core.mutex);
    if (core.quit) return AlreadyQuitError(core.name);
    if (core.queue.size() + core.batch_left.load(std::memory_order_relaxed) >= core.max_queued) {
      return absl::ResourceExhaustedError(
          absl::StrCat(core.name, ": the queue is full, ", core.max_queued, " works"));
    }
    core.queue.push_back(std::move(work));
    if (core.TakeWake()) sleeper = core_;
  }
  if (sleeper != nullptr) sleeper->wake.Signal();
  return absl::OkStatus();
}

absl::Status ThreadWorker::Quit() {
  if (core_->IsForked()) return core_->ForkedError();
  // As in Do: the thread may end, and its owner with it, before the signal is given.
  const std::shared_ptr<Core> core = core_;
  return core->Close() ? absl::OkStatus() : AlreadyQuitError(core->name);
}

}  // namespace workers
