// A Team of threads, as a function.

#ifndef WORKERS_POOL_H_
#define WORKERS_POOL_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "workers/clock.h"
#include "workers/team.h"
#include "workers/team_options.h"
#include "workers/thread_factory.h"
#include "workers/worker.h"

namespace workers {

struct PoolOptions {
  std::string name = "pool";
  TeamLimits limits = {};
  ThreadOptions thread = {};         // its name is ignored: threads are called "<name>-<n>"
  ThreadFactory* factory = nullptr;  // null: DefaultThreadFactory(); outlives the pool
  ErrorHandler on_error = {};
  // Creates the workers, as TeamOptions says, instead of threads: for tests, which create
  // MemoryWorkers and step them. Such a pool runs one item in each step.
  WorkerFactory create_worker = {};
  // Null: a clock of the pool's own, whose thread "<name>-timer" starts when first needed.
  Clock* clock = nullptr;
  std::function<void()> on_ended = {};  // as TeamOptions says; the options stay copyable
};

// Creates a Team of ThreadWorkers (or of what create_worker creates), coordinated by a LockWorker.
// InvalidArgument: as Team::Create.
//
//   auto pool = workers::MakePool({.limits = {.soft_limit = 4}});
//   if (!pool.ok()) return pool.status();
//   absl::Status accepted = (*pool)->Do([] { AskTheDatabase(); });
absl::StatusOr<std::unique_ptr<Team>> MakePool(PoolOptions options);

}  // namespace workers

#endif  // WORKERS_POOL_H_
