#include "reactor/reactor_worker.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/internal/sync.h"
#include "workers/worker_scope.h"

namespace reactor {

using workers::IWorker;
using workers::Work;
using workers::WorkerScope;
using workers::internal::MutexLock;

struct ReactorWorker::Core {
  Core(std::shared_ptr<workers::IExclusiveWorker> loop, ReactorWorkerOptions options,
       const IWorker* worker)
      : loop(std::move(loop)), options(std::move(options)), worker(worker) {}

  const std::shared_ptr<workers::IExclusiveWorker> loop;
  const ReactorWorkerOptions options;

  workers::internal::Mutex mutex;
  bool quit ABSL_GUARDED_BY(mutex) = false;
  const IWorker* worker ABSL_GUARDED_BY(mutex);  // null once it is destroyed
};

// A work on its way through the loop: one pointer there, and a way back if the loop refuses it.
struct ReactorWorker::Node {
  std::shared_ptr<Core> core;
  Work work;

  void Run() {
    const IWorker* worker;
    {
      MutexLock lock(core->mutex);
      worker = core->worker;
    }
    // As a mere IWorker: whatever stays with its exclusive worker stays with the loop.
    if (worker == nullptr) return RunIn(*core->loop);
    RunIn(*worker);
  }
  void RunIn(const IWorker& worker) {
    WorkerScope scope(worker);
    workers::internal::RunWork(work, core->options.name, core->options.on_error);
  }
};

ReactorWorker::ReactorWorker(IReactorThreads& reactor, ReactorWorkerOptions options)
    : core_(std::make_shared<Core>(reactor.worker(), std::move(options), this)) {}

ReactorWorker::~ReactorWorker() {
  Quit().IgnoreError();
  WorkerScope::Forget(*this);
  MutexLock lock(core_->mutex);
  core_->worker = nullptr;
}

absl::Status ReactorWorker::Do(Work&& work) {
  if (!work) return workers::internal::EmptyWorkError(core_->options.name);
  const std::shared_ptr<Core> core = core_;  // the work may destroy this worker at once
  auto node = std::make_unique<Node>(Node{core, std::move(work)});
  Node& kept = *node;
  Work through = [node = std::move(node)] { node->Run(); };
  absl::Status status;
  {
    // Held over the loop's Do, so that Quit comes before it or after it. The loop's Do runs
    // nothing.
    MutexLock lock(core->mutex);
    status = core->quit ? workers::AlreadyQuitError(core->options.name)
                        : core->loop->Do(std::move(through));
  }
  if (!status.ok()) work = std::move(kept.work);
  return status;
}

absl::Status ReactorWorker::Quit() {
  {
    MutexLock lock(core_->mutex);
    if (core_->quit) return workers::AlreadyQuitError(core_->options.name);
    core_->quit = true;
  }
  // It may have been stopped already, or not yet run.
  if (core_->options.quit_stops_reactor != nullptr) {
    core_->options.quit_stops_reactor->Stop().IgnoreError();
  }
  return absl::OkStatus();
}

}  // namespace reactor
