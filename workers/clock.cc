#include "workers/clock.h"

#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/internal/sync.h"

namespace workers {

struct SteadyClock::Core {
  explicit Core(SteadyClockOptions options)
      : thread_options(std::move(options.thread)),
        factory(options.factory != nullptr ? *options.factory : DefaultThreadFactory()),
        on_error(std::move(options.on_error)) {}

  // Immutable.
  const ThreadOptions thread_options;
  ThreadFactory& factory;
  const ErrorHandler on_error;
  const int fork_count = internal::ForkCount::Get();

  internal::Mutex mutex;
  internal::CondVar changed;  // a new earliest work, or closed
  std::multimap<absl::Duration, Work> works ABSL_GUARDED_BY(mutex);  // equal times: as given
  bool closed ABSL_GUARDED_BY(mutex) = false;
  bool starting ABSL_GUARDED_BY(mutex) = false;           // some RunAt is starting the thread
  std::unique_ptr<Thread> thread ABSL_GUARDED_BY(mutex);  // null until the first RunAt
  internal::ThreadId thread_id ABSL_GUARDED_BY(mutex);

  // Starts the thread if there is none. No lock is held meanwhile; who comes second waits.
  absl::Status EnsureThread(const std::shared_ptr<Core>& self) {
    {
      internal::MutexLock lock(mutex);
      while (starting) changed.Wait(mutex);
      if (thread != nullptr) return absl::OkStatus();
      if (closed) return AlreadyQuitError(thread_options.name);
      starting = true;
    }
    auto started = factory.Start(thread_options, [self] { self->Main(); });
    {
      internal::MutexLock lock(mutex);
      starting = false;
      if (started.ok()) thread = *std::move(started);
    }
    changed.SignalAll();
    return started.status();
  }

  void Main() {
    mutex.Lock();
    thread_id = internal::CurrentThread();
    while (!closed) {
      if (works.empty()) {
        changed.Wait(mutex);
      } else if (works.begin()->first > internal::SteadyNow()) {
        changed.WaitUntil(mutex, works.begin()->first);
      } else {
        auto due = works.extract(works.begin());
        mutex.Unlock();
        internal::RunWork(due.mapped(), thread_options.name, on_error);
        mutex.Lock();
      }
    }
    thread_id = internal::ThreadId();  // the next thread may get it
    mutex.Unlock();
  }
};

SteadyClock::SteadyClock(SteadyClockOptions options)
    : core_(std::make_shared<Core>(std::move(options))) {
  internal::ForkCount::Watch();
}

SteadyClock::~SteadyClock() {
  if (core_->fork_count != internal::ForkCount::Get()) {
    new std::shared_ptr<Core>(core_);  // leaked: its thread and its lock are the parent's
    return;
  }
  std::multimap<absl::Duration, Work> unrun;
  std::unique_ptr<Thread> thread;
  bool in_own_work;
  {
    internal::MutexLock lock(core_->mutex);
    core_->closed = true;
    unrun.swap(core_->works);
    thread = std::move(core_->thread);
    in_own_work = core_->thread_id == internal::CurrentThread();
  }
  core_->changed.SignalAll();
  if (thread != nullptr && !in_own_work) thread->Join();
}

absl::Duration SteadyClock::Now() const { return internal::SteadyNow(); }
absl::Duration SteadyClock::CoarseNow() const { return internal::CoarseSteadyNow(); }

absl::Status SteadyClock::RunAt(absl::Duration when, Work&& work) {
  // Held, because the work may destroy this clock as soon as the lock is free.
  const std::shared_ptr<Core> held = core_;
  Core& core = *held;
  const std::string& name = core.thread_options.name;
  if (!work) return internal::EmptyWorkError(name);
  if (core.fork_count != internal::ForkCount::Get()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": this clock's thread belongs to the parent of this forked process"));
  }
  if (absl::Status status = core.EnsureThread(held); !status.ok()) return status;
  bool earliest;
  {
    internal::MutexLock lock(core.mutex);
    if (core.closed) return AlreadyQuitError(name);
    const auto entry = core.works.emplace(when, std::move(work));
    earliest = entry == core.works.begin();
  }
  if (earliest) core.changed.Signal();
  return absl::OkStatus();
}

}  // namespace workers
