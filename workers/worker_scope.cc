#include "workers/worker_scope.h"

#include "workers/internal/sync.h"

namespace workers {
namespace {

using Innermost = internal::ThreadLocalPointer<WorkerScope>;

}  // namespace

WorkerScope::WorkerScope(const IWorker& worker) : worker_(&worker), outer_(Innermost::Get()) {
  Innermost::Set(this);
}

WorkerScope::~WorkerScope() { Innermost::Set(outer_); }

bool WorkerScope::RunsIn(const IWorker& worker) {
  for (const WorkerScope* scope = Innermost::Get(); scope != nullptr; scope = scope->outer_) {
    if (scope->worker_ == &worker) return true;
  }
  return false;
}

void WorkerScope::Forget(const IWorker& worker) {
  for (WorkerScope* scope = Innermost::Get(); scope != nullptr; scope = scope->outer_) {
    if (scope->worker_ == &worker) scope->worker_ = nullptr;
  }
}

}  // namespace workers
