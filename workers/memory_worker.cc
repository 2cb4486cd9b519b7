#include "workers/memory_worker.h"

#include <cstdint>
#include <deque>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "workers/internal/fork_guard.h"
#include "workers/internal/misuse.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/internal/sync.h"
#include "workers/worker_scope.h"

namespace workers {

struct MemoryPerformer::Core {
  Core(std::string name, ErrorHandler on_error)
      : name(std::move(name)),
        on_error(std::move(on_error)),
        already_quit(AlreadyQuitError(this->name)) {}

  // Immutable.
  const std::string name;
  const ErrorHandler on_error;
  const absl::Status already_quit;  // made in advance: a refusal allocates nothing
  const internal::ForkGuard guard;

  // The performer's thread.
  internal::Atomic<bool> performing = false;  // a work is running; atomic only to catch misuse

  internal::Mutex mutex;
  std::deque<Work> queue ABSL_GUARDED_BY(mutex);
  bool quit ABSL_GUARDED_BY(mutex) = false;
  bool closed ABSL_GUARDED_BY(mutex) = false;  // the performer is gone: refuse as after Quit
  const IExclusiveWorker* worker ABSL_GUARDED_BY(mutex) = nullptr;  // null once it is destroyed
};

class MemoryPerformer::Worker final : public IExclusiveWorker {
 public:
  explicit Worker(std::shared_ptr<Core> core) : core_(std::move(core)) {
    internal::MutexLock lock(core_->mutex);
    core_->worker = this;
  }

  ~Worker() override {
    WorkerScope::Forget(*this);
    if (core_->guard.InChild()) return;
    internal::MutexLock lock(core_->mutex);
    core_->quit = true;
    core_->worker = nullptr;
  }

  // IWorker implementation:
  absl::Status Do(Work&& work) override {
    if (!work) return internal::EmptyWorkError(core_->name);
    if (core_->guard.InChild()) return core_->guard.Error(core_->name);
    internal::MutexLock lock(core_->mutex);
    if (core_->quit || core_->closed) return core_->already_quit;
    return internal::WithoutBadAlloc(core_->name, [&] {
      core_->mutex.AssertHeld();
      core_->queue.push_back(std::move(work));  // moves nothing if it cannot grow
      return absl::OkStatus();
    });
  }

  absl::Status Quit() override {
    if (core_->guard.InChild()) return core_->guard.Error(core_->name);
    internal::MutexLock lock(core_->mutex);
    if (core_->quit) return core_->already_quit;
    core_->quit = true;
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<Core> core_;
};

namespace {

// Stands for a worker that is already destroyed while its works are still performed.
class NoWorker final : public IWorker {
 public:
  absl::Status Do(Work&&) override { return AlreadyQuitError("worker"); }
  absl::Status Quit() override { return AlreadyQuitError("worker"); }
};

}  // namespace

MemoryPerformer::MemoryPerformer(std::shared_ptr<Core> core) : core_(std::move(core)) {}

MemoryPerformer& MemoryPerformer::operator=(MemoryPerformer&& other) {
  if (this != &other) {
    Close();
    core_ = std::move(other.core_);
  }
  return *this;
}

MemoryPerformer::~MemoryPerformer() { Close(); }

void MemoryPerformer::Close() {
  if (core_ == nullptr) return;
  if (core_->guard.InChild()) {  // the queue belongs to the parent, and so may its lock
    internal::ForkGuard::Leak(std::move(core_));
    return;
  }
  {
    internal::MutexLock lock(core_->mutex);
    core_->closed = true;
  }
  const size_t dropped = Drop();
  internal::ReportDropped(core_->on_error, core_->name, static_cast<int64_t>(dropped),
                          "its performer was destroyed");
  core_ = nullptr;
}

Performed MemoryPerformer::operator()() {
  if (core_ == nullptr || core_->guard.InChild()) return Performed::kFinished;
  const std::shared_ptr<Core> core = core_;  // the work may destroy the performer
  if (core->performing.exchange(true)) {
    internal::DieOfMisuse(
        "MemoryPerformer: called inside a work that it runs, or by two threads at once");
  }
  absl::Cleanup end([&core] { core->performing.store(false); });
  Work work;
  static const NoWorker no_worker;
  const IExclusiveWorker* worker;
  {
    internal::MutexLock lock(core->mutex);
    if (core->queue.empty()) {
      return core->quit || core->closed ? Performed::kFinished : Performed::kIdle;
    }
    work = std::move(core->queue.front());
    core->queue.pop_front();
    worker = core->worker;
  }
  std::optional<WorkerScope> scope;
  if (worker != nullptr) {
    scope.emplace(*worker);
  } else {
    scope.emplace(no_worker);
  }
  internal::RunWork(work, core->name, core->on_error);
  return Performed::kRan;
}

size_t MemoryPerformer::queued() const {
  if (core_ == nullptr || core_->guard.InChild()) return 0;
  internal::MutexLock lock(core_->mutex);
  return core_->queue.size();
}

size_t MemoryPerformer::Drop() {
  if (core_ == nullptr || core_->guard.InChild()) return 0;
  std::deque<Work> dropped;  // destroyed without the lock
  {
    internal::MutexLock lock(core_->mutex);
    dropped.swap(core_->queue);
  }
  const size_t count = dropped.size();
  for (; !dropped.empty(); dropped.pop_front()) {  // the oldest first
  }
  return count;
}

MemoryWorker CreateMemoryWorker(std::string name, ErrorHandler on_error) {
  auto core = std::make_shared<MemoryPerformer::Core>(std::move(name), std::move(on_error));
  auto worker = std::make_unique<MemoryPerformer::Worker>(core);
  return {std::move(worker), MemoryPerformer(std::move(core))};
}

}  // namespace workers
