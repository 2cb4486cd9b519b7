#include "workers/worker_scope.h"

#include "workers/internal/sync.h"

namespace workers {
namespace {

using Innermost = internal::ThreadLocalPointer<WorkerScope>;

}  // namespace

WorkerScope::WorkerScope(const IWorker& worker)
    : worker_(&worker), exclusive_(nullptr), outer_(Innermost::Get()) {
  Innermost::Set(this);
}

WorkerScope::WorkerScope(const IExclusiveWorker& worker)
    : worker_(&worker), exclusive_(&worker), outer_(Innermost::Get()) {
  Innermost::Set(this);
}

WorkerScope::WorkerScope(const IExclusiveWorker& worker, OneThread)
    : worker_(&worker), exclusive_(&worker), is_one_thread_(true), outer_(Innermost::Get()) {
  Innermost::Set(this);
}

WorkerScope::~WorkerScope() { Innermost::Set(outer_); }

bool WorkerScope::RunsIn(const IWorker& worker) {
  for (const WorkerScope* scope = Innermost::Get(); scope != nullptr; scope = scope->outer_) {
    if (scope->worker_ == &worker) return true;
  }
  return false;
}

const IExclusiveWorker* WorkerScope::InnermostExclusive() {
  for (const WorkerScope* scope = Innermost::Get(); scope != nullptr; scope = scope->outer_) {
    if (scope->exclusive_ != nullptr) return scope->exclusive_;
  }
  return nullptr;
}

bool WorkerScope::InnermostIsOneThread() {
  for (const WorkerScope* scope = Innermost::Get(); scope != nullptr; scope = scope->outer_) {
    if (scope->exclusive_ != nullptr) return scope->is_one_thread_;
  }
  return false;
}

bool WorkerScope::InNone() { return Innermost::Get() == nullptr; }

void WorkerScope::Forget(const IWorker& worker) {
  for (WorkerScope* scope = Innermost::Get(); scope != nullptr; scope = scope->outer_) {
    if (scope->worker_ != &worker) continue;
    scope->worker_ = nullptr;
    scope->exclusive_ = nullptr;
  }
}

}  // namespace workers
