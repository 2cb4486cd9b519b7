// Many workers behind one.

#ifndef WORKERS_TEAM_H_
#define WORKERS_TEAM_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "workers/clock.h"
#include "workers/worker.h"

namespace workers {

// How many workers a Team has. The idea (no hard cap needed, growth at a bounded rate, release of
// the idle) is the Twisted maintainers' own, from a note in twisted._threads._pool.
struct TeamLimits {
  int min_workers = 0;  // made early and not released
  // Up to here workers are made at once, as work comes. Asked at each decision, by any thread,
  // several at once too: it must be quick and must not wait. Empty: no limit.
  std::function<int()> soft_limit = {};
  // Beyond the soft limit, while work waits, so many workers are made a second. 0: none are.
  double growth_per_second = 0;
  int hard_limit = std::numeric_limits<int>::max();        // never more, whatever else says
  absl::Duration idle_timeout = absl::InfiniteDuration();  // released when idle for so long
  // So many works wait at most, not counting one for each idle worker; a Do beyond that:
  // ResourceExhausted.
  int64_t max_backlog = std::numeric_limits<int64_t>::max();
  // A failed creation is tried again after this, doubled up to 1 s; at once when a worker has
  // ended, at Poke and Grow; and when work comes, if no worker lives.
  absl::Duration retry_after = absl::Milliseconds(10);
  // When all workers were in a BlockingScope, work waited and nothing moved for so long, the
  // handler is told, once, until something moves.
  absl::Duration stall_warning = absl::InfiniteDuration();
};

// One consistent snapshot: idle + busy + starting + ending == live in every one of them.
struct TeamStatistics {
  int live = 0;
  int idle = 0;
  int busy = 0;
  int starting = 0;  // being created
  int ending = 0;    // told to quit, and not yet at its end
  int blocked = 0;   // of the busy: in a BlockingScope
  int64_t backlogged = 0;
  int64_t accepted = 0;   // those not completed, failed, dropped or withdrawn wait or run
  int64_t completed = 0;  // ran to the end
  int64_t failed = 0;     // ran and threw
  int64_t dropped = 0;    // destroyed unrun
  int64_t withdrawn = 0;  // by Ticket::Withdraw: destroyed unrun, too
  int64_t refused = 0;    // given back by Do
  int64_t workers_created = 0;
  int64_t creation_failures = 0;
  absl::Duration oldest_wait;  // of the work at the head of the backlog
};

struct TeamOptions {
  std::string name = "team";
  // Decides; nobody else gives it work. A LockWorker in production, a MemoryWorker in tests,
  // any exclusive worker if you wish.
  std::unique_ptr<IExclusiveWorker> coordinator = {};
  // Makes one worker; null: not now. Called by any thread that visits the team, several at once
  // too, never under a lock; works may wait for it, and so it must not wait for the team. The
  // workers must allow to be destroyed in their own work (a LockWorker does not).
  std::function<absl::StatusOr<std::unique_ptr<IWorker>>()> create_worker = {};
  TeamLimits limits = {};
  ErrorHandler on_error = {};
  Clock* clock = nullptr;  // outlives the team; needed when limits name a time
  // For workers that sleep while they have nothing to do, as threads. While one of them that was
  // given work has not begun it, no other is woken: what comes waits in the backlog, for it and
  // for those that are awake; and a worker whose work has ended takes the next without asking. So
  // a flood of short works wakes few threads. Without it each work is given to an idle worker as
  // soon as there is one, and every step is the coordinator's.
  bool one_wake_at_a_time = false;
};

// Takes work and has it done by workers that it makes, keeps and releases. It is no worker of a
// certain kind: it knows only IWorker, and is given all of them.
//
// Life of a work: Do puts it at the end of the backlog and asks the coordinator to look. The
// coordinator gives the work at the head to the worker that became idle last, or has a worker
// made if the limits allow it, or leaves it. A worker whose work has ended is looked after in the
// same way. What the coordinator decides is carried out outside of it, under no lock, by the
// thread that asked, or, where the coordinator is not inline, by the coordinator's own. Before a
// MemoryWorker coordinator is stepped, nothing happens.
//
// Any thread may call anything; Do, Quit, Grow, Shrink and Poke do not wait, unless the
// coordinator's Do does (a LockWorker's waits for other decisions, which are short).
//
// The end: Quit refuses what comes and performs the whole backlog first. Where no worker is left
// and none can be made, what is left is dropped and reported. A worker that leaves gets a last
// work and quits; it counts until that work has run. Destruction quits and waits for all of it;
// inside one of its own works it does not wait.
class Team final : public IWorker {
 public:
  class Ticket;

  // InvalidArgument: no coordinator, no create_worker, limits that contradict each other, or
  // that name a time where there is no clock.
  static absl::StatusOr<std::unique_ptr<Team>> Create(TeamOptions options);

  ~Team() override;

  // As Do; then `then` runs, once, straight after `work`, on the same worker, which counts as idle
  // already. Deliver results there: whoever gives the next work from `then` does not need one
  // worker more. So the next work may stand behind `then`, which must not wait for it. `then` runs
  // also if `work` threw. Both are refused, or dropped, together.
  [[nodiscard]] absl::Status DoThen(Work&& work, Work&& then);

  // As Do or, where `then` is not empty, as DoThen; and returns a ticket of the work.
  [[nodiscard]] absl::StatusOr<Ticket> Enqueue(Work&& work, Work&& then = nullptr);

  // Makes `n` workers more, as far as create_worker and the hard limit allow; first it takes back
  // what Shrink has marked. InvalidArgument: n < 0. AlreadyQuit.
  absl::Status Grow(int n);

  // Lets min(n, workers not yet marked) go: idle ones at once, the longest idle first; busy ones
  // when their work has ended, before they take more. No debt is kept.
  absl::Status Shrink(int n);
  absl::Status Shrink();  // all of them

  // Shrinks or grows, in one decision, so that at least `least` workers stay and at most `most`.
  // InvalidArgument: least < 0, or most < least. AlreadyQuit.
  absl::Status Fit(int least, int most);

  // Looks again: a limit rose, or create_worker has something after all.
  void Poke();

  // Quits, destroys the backlog unrun and returns how many works that were. Also after Quit, and
  // any number of times. What runs already goes on.
  int64_t QuitNow();

  // Waits until the last worker has ended. Needs Quit (FailedPrecondition), not on one of its own
  // workers (likewise). DeadlineExceeded: `timeout` passed first.
  absl::Status Join(absl::Duration timeout = absl::InfiniteDuration());

  // Never waits for the coordinator.
  TeamStatistics statistics() const;

  // IWorker implementation:
  absl::Status Do(Work&& work) override;
  absl::Status Quit() override;

 private:
  friend class BlockingScope;
  struct Core;  // shared with the workers' works

  explicit Team(std::shared_ptr<Core> core);

  const std::shared_ptr<Core> core_;
};

// Stands for one work that a Team took. Copyable, any thread; may outlive its team.
class Team::Ticket {
 public:
  Ticket() = default;  // of no work

  // If the work still waits in the backlog, takes it back: it is destroyed here, with its `then`,
  // and counts as withdrawn. False: it has been given to a worker, or has ended.
  bool Withdraw();

  // Does it still wait in the backlog?
  bool IsBacklogged() const;

 private:
  friend struct Core;
  friend class Team;
  friend class BlockingScope;
  Ticket(std::shared_ptr<Core> core, int64_t number) : core_(std::move(core)), number_(number) {}

  std::shared_ptr<Core> core_;
  int64_t number_ = 0;
};

// While it lives, the worker of a Team that runs this work waits for something: it does not count
// against the soft limit, so that work which would end the wait can have a worker. Does nothing
// outside of a Team's work. Nests.
class BlockingScope {
 public:
  BlockingScope();
  ~BlockingScope();

  BlockingScope(const BlockingScope&) = delete;
  BlockingScope& operator=(const BlockingScope&) = delete;

  // Tells that the wait ends with the work of `ticket`. Any thread, one at a time and while the
  // scope lives: the caller sees to that.
  // FailedPrecondition, which says why: it never would. That is so where the team has its hard
  // limit of workers, and each of them waits for a work in the team's own backlog: then the last
  // one who says so is told, and must not wait.
  absl::Status Awaits(const Team::Ticket& ticket);

 private:
  void* const in_;       // the Team::Core::InJob of the caller, or null
  bool awaits_ = false;  // something was told
};

}  // namespace workers

#endif  // WORKERS_TEAM_H_
