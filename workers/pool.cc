#include "workers/pool.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "workers/internal/sync.h"
#include "workers/lock_worker.h"
#include "workers/thread_worker.h"

namespace workers {
namespace {

// What the workers of a pool are created with. Lives as long as the Team that creates them.
struct Threads {
  absl::StatusOr<std::unique_ptr<IWorker>> Make() {
    ThreadWorkerOptions worker;
    worker.thread = thread;
    worker.thread.name = absl::StrCat(name, "-", made.fetch_add(1) + 1);
    worker.factory = factory;
    worker.on_error = on_error;
    return ThreadWorker::Create(std::move(worker));
  }

  const std::string name;
  const ThreadOptions thread;
  ThreadFactory* const factory;
  const ErrorHandler on_error;
  std::unique_ptr<SteadyClock> own_clock;
  internal::Atomic<int64_t> made = 0;  // a number is never used again
};

}  // namespace

absl::StatusOr<std::unique_ptr<Team>> MakePool(PoolOptions options) {
  std::shared_ptr<Threads> threads(new Threads{options.name, std::move(options.thread),
                                               options.factory, options.on_error, nullptr});
  if (options.clock == nullptr) {
    threads->own_clock = std::make_unique<SteadyClock>(
        SteadyClockOptions{.thread = {.name = absl::StrCat(options.name, "-timer")},
                           .factory = options.factory,
                           .on_error = options.on_error});
    options.clock = threads->own_clock.get();
  }
  TeamOptions team;
  team.name = options.name;
  team.coordinator = std::make_unique<LockWorker>(LockWorkerOptions{
      .name = absl::StrCat(options.name, "-coordinator"), .on_error = options.on_error});
  team.throttle_wakeups = !options.create_worker;
  if (options.create_worker) {
    team.create_worker = [threads, create = std::move(options.create_worker)] { return create(); };
  } else {
    team.create_worker = [threads] { return threads->Make(); };
  }
  team.limits = std::move(options.limits);
  team.on_error = std::move(options.on_error);
  team.clock = options.clock;
  if (options.on_ended) team.on_ended = std::move(options.on_ended);
  return Team::Create(std::move(team));
}

}  // namespace workers
