// Many workers behind one: a thread pool of any kind of worker.

#ifndef WORKERS_TEAM_H_
#define WORKERS_TEAM_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "workers/internal/backlog.h"
#include "workers/internal/item.h"
#include "workers/team_options.h"
#include "workers/work_handle.h"
#include "workers/worker.h"

namespace workers {

namespace internal {
class TeamCore;
}  // namespace internal

// A Team runs work items on workers that it creates, keeps and releases. It depends on IWorker
// only; `create_worker` supplies the workers. MakePool and ThreadPool are Teams of threads. Known
// elsewhere as: thread pool, or elastic executor.
//
//   absl::StatusOr<int64_t> TotalSize(const std::vector<std::string>& paths) {
//     auto pool = workers::MakePool({.limits = {.soft_limit = 4}});
//     if (!pool.ok()) return pool.status();
//     std::atomic<int64_t> total = 0;
//     for (const std::string& path : paths) {
//       absl::Status accepted = (*pool)->Do([&] { total += SizeOf(path); });
//       if (!accepted.ok()) return accepted;  // the pool's destructor runs the accepted ones first
//     }
//     pool->reset();  // returns when all accepted items have run
//     return total.load();
//   }
//
// Items. Do appends an item to the backlog. It starts in the order of acceptance: the item at the
// head goes to the worker that became idle last; if there is none, a worker is created as far as
// the limits allow; otherwise the item waits.
//
// Decisions. The coordinator decides, in steps, and the thread that caused a step performs what it
// decided, under no lock. A Do may therefore call `create_worker`, the error handler and the clock,
// also for items of other threads. With a MemoryWorker as coordinator nothing happens before it is
// stepped, and then one item runs in each step of a worker.
//
// Threads. Any thread may call anything. Do, Enqueue, Quit, Grow, Shrink and SetSize do not wait
// for items; they wait as long as the coordinator's Do does (a LockWorker's: for other decisions,
// which are short) and as long as `create_worker` does.
//
// End. Quit refuses later items; accepted items still run. If no worker is left and none can be
// created, the rest of the backlog is dropped and reported. A worker that is released receives one
// final item, in which it quits; it counts as live until that item has run. The destructor quits
// and waits for all of it; inside one of the team's own items it does not wait.
//
// In the child of a fork every function returns FailedPrecondition or an empty answer, and the
// destructor leaks what the parent's threads use.
class Team final : public IWorker {
 public:
  // InvalidArgument: no coordinator, no create_worker, limits that contradict each other or that
  // name a duration where there is no clock.
  static absl::StatusOr<std::unique_ptr<Team>> Create(TeamOptions options);

  ~Team() override;

  // As Do; the handle stands for the item. `then`, if there is one, runs once, right after `work`
  // on the same worker, which counts as idle before `then` runs; it runs also if `work` threw.
  // Deliver results there: an item that is submitted from `then` can reuse this worker. It may
  // therefore be queued behind `then`, so `then` must not wait for it. Both are refused, cancelled
  // or dropped together.
  [[nodiscard]] absl::StatusOr<WorkHandle> Enqueue(Work&& work, Work&& then = nullptr);

  // Creates `n` workers more, as far as create_worker and the hard limit allow, after it has taken
  // back what Shrink has marked. Items that already wait do not have further workers created.
  // InvalidArgument: n < 0. AlreadyQuit. ResourceExhausted: out of memory.
  absl::Status Grow(int n);

  // Releases min(n, workers not yet marked): idle ones immediately, the longest idle first; busy
  // ones when their item ends, before they take another. No debt is kept, and items that already
  // wait do not have the released workers replaced. The last worker that can serve waiting items
  // stays until they have run. Errors as Grow.
  absl::Status Shrink(int n = std::numeric_limits<int>::max());

  // Changes min_workers and soft_limit, until the next call. A lower soft limit releases the
  // surplus as Shrink does, except workers that growth_per_second created. InvalidArgument: min <
  // 0, soft_limit < min, or min > hard_limit. AlreadyQuit. ResourceExhausted: out of memory.
  absl::Status SetSize(int min, int soft_limit);

  // Quits, destroys the backlog without running it and returns how many items that were. Also after
  // Quit, and any number of times. Items that run are not interrupted.
  int64_t QuitNow();

  // Waits until the last worker has ended. FailedPrecondition: before Quit, or inside one of the
  // team's own items. DeadlineExceeded: `timeout` passed first.
  absl::Status Join(absl::Duration timeout = absl::InfiniteDuration());

  TeamStatistics statistics() const;

  // How many workers there are that neither leave nor are marked to leave, after the requests that
  // are not decided yet.
  int staying() const;

  // One line for people: the limits, the workers by state, the backlog and its age.
  std::string DebugString() const;

  // As IWorker's Do, for any closure: in the steady state without an allocation if its captures
  // have at most 64 bytes. `f` is moved before anything is locked. If it is refused it is moved
  // back, so that it is untouched; an F whose move constructor may throw is made a Work instead,
  // and lost if that is refused. What a copy or move constructor throws leaves Do, with nothing
  // changed.
  template <typename F>
    requires(!std::is_same_v<std::decay_t<F>, Work> && std::is_invocable_v<std::decay_t<F>>)
  [[nodiscard]] absl::Status Do(F&& f);

  // IWorker implementation:
  [[nodiscard]] absl::Status Do(Work&& work) override;
  absl::Status Quit() override;

 private:
  friend class ThreadPool;
  explicit Team(std::shared_ptr<internal::TeamCore> core);

  absl::Status Submit(Work& work, Work* then, WorkHandle* handle);
  // For the template. OK: `job` is the team's; anything else: it is the caller's. Null: no memory.
  absl::Status Submit(internal::Job* job);
  internal::Job* NewJob();
  void KeepJob(internal::Job* job);

  // One worker more, or fewer, unless that would pass the soft limit, or min_workers: then false.
  absl::StatusOr<bool> GrowWithinLimits();
  absl::StatusOr<bool> ShrinkWithinLimits();

  const std::shared_ptr<internal::TeamCore> core_;  // shared with the workers' items
};

template <typename F>
  requires(!std::is_same_v<std::decay_t<F>, Work> && std::is_invocable_v<std::decay_t<F>>)
absl::Status Team::Do(F&& f) {
  if constexpr (!std::is_nothrow_move_constructible_v<std::decay_t<F>>) {
    Work work;
    try {
      work = Work(std::forward<F>(f));
    } catch (const std::bad_alloc&) {
      return Submit(nullptr);
    }
    return Do(std::move(work));
  } else {
    internal::Job* const job = NewJob();
    if (job == nullptr) return Submit(nullptr);
    absl::Cleanup keep = [this, job] { KeepJob(job); };
    try {
      if (!internal::IsEmptyFunction(f)) job->work.Place(std::forward<F>(f));
    } catch (const std::bad_alloc&) {
      return Submit(nullptr);
    }
    const bool is_placed = !job->work.empty();
    absl::Status status = Submit(job);
    if (status.ok()) {
      std::move(keep).Cancel();
    } else if (is_placed) {
      if constexpr (std::is_lvalue_reference_v<F>) {
        job->work.Reset();
      } else {
        job->work.GiveBackTo(f);
      }
    }
    return status;
  }
}

}  // namespace workers

#endif  // WORKERS_TEAM_H_
