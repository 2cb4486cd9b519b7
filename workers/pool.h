// A Team of threads.

#ifndef WORKERS_POOL_H_
#define WORKERS_POOL_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "workers/clock.h"
#include "workers/team.h"
#include "workers/thread_factory.h"
#include "workers/worker.h"

namespace workers {

struct PoolOptions {
  std::string name = "pool";
  TeamLimits limits = {};
  ThreadOptions thread = {};         // its name is ignored: threads are called "<name>-<n>"
  ThreadFactory* factory = nullptr;  // null: DefaultThreadFactory(); outlives the pool
  ErrorHandler on_error = {};
  // Makes the workers, as TeamOptions says, instead of threads: for tests, which make MemoryWorkers
  // and step them.
  std::function<absl::StatusOr<std::unique_ptr<IWorker>>()> create_worker = {};
  // Null: a clock of the pool's own, whose thread "<name>-timer" starts when first needed.
  Clock* clock = nullptr;
};

// A Team of ThreadWorkers (or of what create_worker makes) that is coordinated by a LockWorker.
// InvalidArgument: as Team::Create.
//
//   auto pool = workers::MakePool({.limits = {.soft_limit = [] { return 4; }}});
//   if (!pool.ok()) return pool.status();
//   absl::Status taken = (*pool)->Do([] { AskTheDatabase(); });
absl::StatusOr<std::unique_ptr<Team>> MakePool(PoolOptions options);

}  // namespace workers

#endif  // WORKERS_POOL_H_
