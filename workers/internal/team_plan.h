// What a Team decides: facts in, effects out.

#ifndef WORKERS_INTERNAL_TEAM_PLAN_H_
#define WORKERS_INTERNAL_TEAM_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "workers/internal/armed_timers.h"
#include "workers/internal/creation_backoff.h"
#include "workers/internal/creation_slots.h"
#include "workers/internal/idle_list.h"
#include "workers/internal/stall_watch.h"
#include "workers/team_options.h"

namespace workers::internal {

// What one decision asks for. No two effects of one decision, or of two decisions, depend on the
// order in which they are performed.
struct TeamEffects {
  PlannedWorker* run = nullptr;     // each of this list runs the next item of the backlog
  PlannedWorker* retire = nullptr;  // each of this list is to quit
  uint32_t create = 0;              // a worker for each of these slots
  absl::Duration arm_at = absl::InfiniteDuration();  // infinite: no timer
  int64_t arm_id = 0;
  bool drop_backlog = false;
  bool report_stall = false;
  bool end = false;  // the coordinator is to quit: nothing follows

  bool empty() const {
    return run == nullptr && retire == nullptr && create == 0 &&
           arm_at == absl::InfiniteDuration() && !drop_backlog && !report_stall && !end;
  }
};

// Plain data under the Team's mutex: no thread, lock, work item or clock inside. Time is a
// parameter, read before the mutex is acquired; the plan uses the latest time that it has seen.
//
// The facts are recorded by the thread that observes them. Decide turns all facts so far into
// effects, as if each had been decided in turn: a sizing request is served after the items that
// were accepted before it. In every reachable state !NeedsDecision() implies that Decide yields no
// effect (team_plan_test.cc enumerates this).
class TeamPlan {
 public:
  TeamPlan(const TeamLimits& limits, bool has_clock, bool throttle);

  // --- facts: items
  void Accepted();
  void Refused() { ++counts_.refused; }
  void Withdrawn();
  void TakenBack();   // an accepted item that nobody has seen is refused after all
  int64_t Dropped();  // the whole backlog; returns how many items
  // `worker`'s item has ended and counts in `counter`. Returns true if the worker takes the next
  // item of the backlog without a decision; otherwise it is idle, or leaves.
  bool Finished(PlannedWorker& worker, int64_t TeamStatistics::* counter, absl::Duration now,
                bool may_continue);

  // --- facts: workers
  void Created(int slot, PlannedWorker& worker, absl::Duration now);
  enum class Failure { kError, kNotNow };
  void CreationFailed(int slot, Failure failure, absl::Duration now);
  void WorkerRefused(PlannedWorker& worker, absl::Duration now);  // its item is backlogged again
  void WorkerEnded();
  void Blocked(int change);

  // --- facts: requests. Grow, Shrink and SetSize may throw bad_alloc, and then change nothing.
  void Grow(int n) { Request({Sizing::kGrow, n, 0, counts_.accepted}); }
  void Shrink(int n) { Request({Sizing::kShrink, n, 0, counts_.accepted}); }
  void SetSize(int min, int soft) { Request({Sizing::kSetSize, min, soft, counts_.accepted}); }
  void Quit();
  void Look() { look_ = true; }

  // --- facts: time. A timer that is not among those that are armed is stale, and ignored.
  void TimerFired(int64_t id, absl::Duration now);
  void TimerRefused(int64_t id);

  // --- decisions. `waking`: a worker has been woken and has not begun its item.
  bool NeedsDecision(bool waking) const;
  void Decide(absl::Duration now, bool waking, TeamEffects& effects);

  const TeamStatistics& statistics() const { return counts_; }
  const TeamLimits& limits() const { return limits_; }
  // Are there facts that no decision has seen, other than items?
  bool HasUndecided() const { return look_ || leavers_ != nullptr || !requests_.empty(); }
  bool has_quit() const { return quit_; }
  // What there will be after the requests and items that are not decided yet.
  struct Size {
    int staying;  // workers that neither leave nor are marked to leave
    int min_workers;
    int soft_limit;
  };
  Size AfterRequests() const;

 private:
  struct Sizing {
    enum Kind { kGrow, kShrink, kSetSize } kind;
    int n;             // for SetSize: the minimum
    int soft;          // for SetSize
    int64_t accepted;  // items before it
  };

  void Request(const Sizing& sizing) { requests_.push_back(sizing); }
  void See(absl::Duration now) { now_ = std::max(now_, now); }
  void Apply(const Sizing& sizing, TeamEffects& effects);
  void ApplyGrow(int n);
  int Unmark(int n);
  void ApplyShrink(int n, TeamEffects& effects);
  void Serve(int64_t items, bool& waking, TeamEffects& effects);
  void DecideGrowth(TeamEffects& effects);
  void DecideRelease(TeamEffects& effects);
  void DecideStall(TeamEffects& effects);
  void DecideEnd(TeamEffects& effects);
  void WakeAt(absl::Duration when, TeamEffects& effects);
  void HoldCreation();
  void AllowCreation();
  void Create(TeamEffects& effects, bool grown = false);
  void Retire(PlannedWorker& worker, TeamEffects& effects);
  void RetireOldest(TeamEffects& effects);
  bool MayCreate() const;
  bool IsLast() const;
  bool IsStalled() const;
  bool MustArmRelease() const;
  bool MayGrow() const {
    return limits_.growth_per_second > 0 && !backoff_.is_held() && !timers_refused_ &&
           counts_.live < limits_.hard_limit;
  }
  int64_t WantedFor(int64_t items) const;
  int Staying() const;
  int FreeSlots() const {
    return (backoff_.is_probing() ? 1 : CreationSlots::kMax) - slots_.used();
  }
  void PushIdle(PlannedWorker& worker);
  void RemoveIdle(PlannedWorker& worker);
  void StartGrown(TeamEffects& effects);
  static void Push(PlannedWorker& worker, PlannedWorker*& list) {
    worker.next = std::exchange(list, &worker);
  }

  TeamLimits limits_;
  const bool has_clock_;
  const bool throttle_;
  TeamStatistics counts_;  // the truth, not a copy
  absl::Duration now_ = absl::ZeroDuration();

  IdleList idle_;
  CreationBackoff backoff_;
  CreationSlots slots_;
  PlannedWorker* leavers_ = nullptr;  // are to be retired; count as idle until then
  int leaving_ = 0;                   // busy workers that leave when their items have ended
  int grown_ = 0;             // workers that growth_per_second created, above the soft limit
  int to_grow_ = 0;           // still to be created for Grow
  int refused_in_a_row_ = 0;  // by workers that never worked

  std::vector<Sizing> requests_;
  int64_t decided_accepted_ = 0;  // items that a decision has seen
  // Items before this one do not have a worker created: a Shrink came after them.
  int64_t no_worker_before_ = 0;

  bool look_ = false;  // a fact that needs a decision
  ArmedTimers timers_;
  bool timers_refused_ = false;
  bool release_deferred_ = false;  // until the backlog is empty
  absl::Duration next_growth_ = absl::InfiniteDuration();
  StallWatch stall_;

  bool quit_ = false;
  bool ended_ = false;  // `end` was decided
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_TEAM_PLAN_H_
