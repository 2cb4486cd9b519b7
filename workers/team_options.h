// How a Team is configured, and what it counts.

#ifndef WORKERS_TEAM_OPTIONS_H_
#define WORKERS_TEAM_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "workers/clock.h"
#include "workers/worker.h"

namespace workers {

// How many workers a Team has. The idea (no hard cap needed, growth at a bounded rate, release of
// idle workers) is the Twisted maintainers' own, from a note in twisted._threads._pool.
struct TeamLimits {
  // So many workers are created early and are not released. SetSize changes it.
  int min_workers = 0;
  // Up to here a worker is created as soon as an item finds none idle. Blocked workers (see
  // BlockingScope) do not count. SetSize changes it.
  int soft_limit = std::numeric_limits<int>::max();
  // Workers created per second beyond the soft limit while items are waiting; 0 disables growth.
  double growth_per_second = 0;
  // Never exceeded, whatever else is asked for.
  int hard_limit = std::numeric_limits<int>::max();
  // A worker that has been idle for so long is released, down to min_workers.
  absl::Duration idle_timeout = absl::InfiniteDuration();
  // Maximum length of the backlog, not counting one item per idle worker. Beyond it, Do returns
  // ResourceExhausted.
  int64_t max_backlog = std::numeric_limits<int64_t>::max();
  // After a failed creation nothing is created for so long, doubled after each further failure up
  // to 1 s; then one worker is tried, until one works. The end of a worker and Grow try earlier.
  // Without a clock the next Do tries.
  absl::Duration retry_after = absl::Milliseconds(10);
  // When for so long every worker has been in a BlockingScope, items have waited and nothing has
  // moved, the error handler is called, once until something moves.
  absl::Duration stall_warning = absl::InfiniteDuration();
};

// One consistent snapshot: idle + busy + starting + ending == live in every one of them. An
// accepted item counts as backlogged, and its worker as idle, until the coordinator has decided.
struct TeamStatistics {
  int live = 0;
  int idle = 0;
  int busy = 0;
  int starting = 0;  // being created
  int ending = 0;    // asked to quit, and not yet ended
  int blocked = 0;   // of the busy ones: in a BlockingScope
  int64_t backlogged = 0;
  int64_t accepted = 0;   // backlogged, running, completed, failed, dropped or withdrawn
  int64_t completed = 0;  // ran to the end
  int64_t failed = 0;     // ran and threw
  int64_t dropped = 0;    // destroyed without running
  int64_t withdrawn = 0;  // by WorkHandle::TryCancel: destroyed without running, too
  int64_t refused = 0;    // returned to the caller of Do
  int64_t workers_created = 0;
  int64_t creation_failures = 0;
  absl::Duration oldest_wait;  // of the item at the head of the backlog
};

// Creates one worker; null: not now.
using WorkerFactory = std::function<absl::StatusOr<std::unique_ptr<IWorker>>()>;

struct TeamOptions {
  std::string name = "team";
  // Schedules the decisions; nobody else may submit work items to it. A LockWorker in production, a
  // MemoryWorker in tests, any exclusive worker if you wish.
  std::unique_ptr<IExclusiveWorker> coordinator = {};
  // Called by any thread that calls the team, by several at the same time too, never under a lock
  // of the team. It may block, and then delays the thread that called; it must not wait for a work
  // item of the team. It may call every function of the team. The workers that it creates must be
  // destructible inside their own work items (a LockWorker is not).
  WorkerFactory create_worker = {};
  TeamLimits limits = {};
  ErrorHandler on_error = {};
  Clock* clock = nullptr;  // must outlive the team; required if the limits name a duration
  // Called once, under no lock, when the last worker has ended after Quit. It may destroy the team.
  absl::AnyInvocable<void() &&> on_ended = {};
  // For workers that sleep while they are idle, as threads do. While a worker that has been woken
  // has not begun its item, no other is woken: items wait in the backlog, for that worker and for
  // those that are awake; and a worker whose item has ended takes the next one without a decision.
  // So a flood of short items wakes few threads. Without it, each item goes to an idle worker as
  // soon as there is one, and a worker runs one item for each decision.
  bool throttle_wakeups = false;
};

}  // namespace workers

#endif  // WORKERS_TEAM_OPTIONS_H_
