#include "workers/internal/team_plan.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace workers::internal {

TeamPlan::TeamPlan(const TeamLimits& limits, bool has_clock, bool throttle)
    : limits_(limits),
      has_clock_(has_clock),
      throttle_(throttle),
      backoff_(limits.retry_after, has_clock),
      look_(true),
      stall_(limits.stall_warning) {
  requests_.reserve(8);
}

// --- facts ----------------------------------------------------------------------------------

void TeamPlan::Accepted() {
  ++counts_.accepted;
  ++counts_.backlogged;
  if (!backoff_.is_held()) timers_refused_ = false;
  if (backoff_.is_held() && (!has_clock_ || timers_refused_)) {  // no timer will retry
    if (!has_clock_ || counts_.live == 0) AllowCreation();
    look_ = true;
  }
}

void TeamPlan::Withdrawn() {
  --counts_.backlogged;
  ++counts_.withdrawn;
  if (counts_.backlogged == 0) look_ = true;
}

void TeamPlan::TakenBack() {
  --counts_.backlogged;
  --counts_.accepted;
  ++counts_.refused;
  decided_accepted_ = std::min(decided_accepted_, counts_.accepted);
  if (counts_.backlogged == 0) look_ = true;
}

int64_t TeamPlan::Dropped() {
  look_ = true;
  counts_.dropped += counts_.backlogged;
  return std::exchange(counts_.backlogged, 0);
}

bool TeamPlan::Finished(PlannedWorker& worker, int64_t TeamStatistics::* counter,
                        absl::Duration now, bool may_continue) {
  See(now);
  ++(counts_.*counter);
  worker.worked = true;
  refused_in_a_row_ = 0;
  stall_.Moved();
  const bool leaves = leaving_ > 0 && !IsLast();
  if (throttle_ && may_continue && counts_.backlogged > 0 && requests_.empty() && !leaves) {
    --counts_.backlogged;
    if (counts_.backlogged == 0 &&
        (release_deferred_ || next_growth_ != absl::InfiniteDuration())) {
      look_ = true;
    }
    return true;
  }
  --counts_.busy;
  if (leaves) {
    --leaving_;
    ++counts_.idle;
    Push(worker, leavers_);
  } else {
    PushIdle(worker);
  }
  return false;
}

void TeamPlan::Created(int slot, PlannedWorker& worker, absl::Duration now) {
  See(now);
  const CreationSlots::Freed freed = slots_.Free(slot);
  grown_ += freed.grown;
  --counts_.starting;
  ++counts_.workers_created;
  backoff_.Worked();
  timers_refused_ = false;
  look_ = true;
  if (freed.marked) {
    ++counts_.idle;
    Push(worker, leavers_);
  } else {
    PushIdle(worker);
  }
}

void TeamPlan::CreationFailed(int slot, Failure failure, absl::Duration now) {
  See(now);
  slots_.Free(slot);
  --counts_.starting;
  --counts_.live;
  if (failure == Failure::kError) ++counts_.creation_failures;
  HoldCreation();
}

void TeamPlan::WorkerRefused(PlannedWorker& worker, absl::Duration now) {
  See(now);
  --counts_.busy;
  --counts_.live;
  ++counts_.backlogged;
  if (leaving_ > 0) --leaving_;  // one worker fewer, as Shrink has asked
  look_ = true;
  // It is replaced immediately; but workers that never work must not keep the team creating.
  if (!worker.worked && ++refused_in_a_row_ > 1) HoldCreation();
}

void TeamPlan::WorkerEnded() {
  --counts_.ending;
  --counts_.live;
  AllowCreation();
  look_ = true;
}

void TeamPlan::Blocked(int change) {
  counts_.blocked += change;
  stall_.Moved();
  if (counts_.backlogged > 0) look_ = true;
}

void TeamPlan::Quit() {
  // If no worker is there, one more creation decides whether the backlog runs.
  if (!quit_ && counts_.live == 0 && counts_.backlogged > 0) AllowCreation();
  quit_ = look_ = true;
}

void TeamPlan::TimerFired(int64_t id, absl::Duration now) {
  See(now);
  if (timers_.Remove(id)) look_ = true;
}

void TeamPlan::TimerRefused(int64_t id) {
  if (timers_.Remove(id)) timers_refused_ = true;
}

TeamPlan::Size TeamPlan::AfterRequests() const {
  Size size = {Staying() + to_grow_, limits_.min_workers, limits_.soft_limit};
  const int64_t wanted = std::min<int64_t>(
      WantedFor(counts_.backlogged), int64_t{limits_.soft_limit} - counts_.live + counts_.blocked);
  int64_t staying = size.staying + (backoff_.is_held() ? 0 : std::max<int64_t>(0, wanted));
  for (const Sizing& request : requests_) {
    switch (request.kind) {
      case Sizing::kGrow:
        staying += request.n;
        break;
      case Sizing::kShrink:
        staying -= std::min<int64_t>(staying, request.n);
        break;
      case Sizing::kSetSize:
        size.min_workers = request.n;
        size.soft_limit = request.soft;
        staying = std::clamp<int64_t>(staying, request.n, request.soft);
        break;
    }
  }
  size.staying = static_cast<int>(std::clamp<int64_t>(staying, 0, limits_.hard_limit));
  return size;
}

// --- decisions ------------------------------------------------------------------------------

bool TeamPlan::NeedsDecision(bool waking) const {
  if (ended_) return false;
  if (HasUndecided()) return true;
  if (backoff_.IsOver(now_)) return true;
  const bool wake_is_free = !throttle_ || !waking;
  if (!idle_.empty() && (quit_ || (counts_.backlogged > 0 && wake_is_free))) return true;
  if (leaving_ > counts_.busy) return true;
  if (quit_ && counts_.live == 0) return true;
  if (WantedFor(counts_.backlogged) > 0 &&
      (MayCreate() || (MayGrow() && !timers_.HasOneBy(next_growth_)))) {
    return true;
  }
  if (MustArmRelease()) return true;
  return IsStalled() && !stall_.has_begun();
}

void TeamPlan::Decide(absl::Duration now, bool waking, TeamEffects& effects) {
  if (ended_) return;
  See(now);
  look_ = false;
  if (backoff_.IsOver(now_)) AllowCreation();
  for (const Sizing& request : requests_) {
    if (request.accepted > decided_accepted_) {
      decided_accepted_ = request.accepted;
      Serve(std::max<int64_t>(0, counts_.backlogged - (counts_.accepted - request.accepted)),
            waking, effects);
    }
    Apply(request, effects);
    StartGrown(effects);
  }
  requests_.clear();
  decided_accepted_ = counts_.accepted;
  while (leavers_ != nullptr) {
    PlannedWorker& leaver = *std::exchange(leavers_, leavers_->next);
    --counts_.idle;
    Retire(leaver, effects);
  }
  StartGrown(effects);
  Serve(counts_.backlogged, waking, effects);
  while (leaving_ > counts_.busy) {
    --leaving_;
    if (!idle_.empty()) RetireOldest(effects);
  }
  while (!quit_ && !backoff_.is_held() && FreeSlots() > 0 && Staying() < limits_.min_workers &&
         counts_.live < limits_.hard_limit) {
    Create(effects);
  }
  grown_ = std::clamp(grown_, 0, std::max(0, Staying() - limits_.soft_limit));
  DecideGrowth(effects);
  DecideRelease(effects);
  DecideStall(effects);
  if (quit_) DecideEnd(effects);
  WakeAt(backoff_.retry_at(), effects);
  if (effects.arm_at != absl::InfiniteDuration()) effects.arm_id = timers_.Arm(effects.arm_at);
}

void TeamPlan::Apply(const Sizing& request, TeamEffects& effects) {
  switch (request.kind) {
    case Sizing::kGrow:
      return ApplyGrow(request.n);
    case Sizing::kShrink:
      no_worker_before_ = decided_accepted_;
      return ApplyShrink(request.n, effects);
    case Sizing::kSetSize: {
      const bool is_lower = request.soft < limits_.soft_limit;
      limits_.min_workers = request.n;
      limits_.soft_limit = request.soft;
      no_worker_before_ = 0;
      AllowCreation();
      const int64_t surplus = int64_t{Staying()} + to_grow_ - grown_ - request.soft;
      if (is_lower && surplus > 0) ApplyShrink(static_cast<int>(surplus), effects);
      Unmark(request.n - Staying());
    }
  }
}

void TeamPlan::ApplyGrow(int n) {
  AllowCreation();
  n -= Unmark(n);
  const int64_t possible = int64_t{limits_.hard_limit} - counts_.live;
  to_grow_ = quit_ ? 0
                   : static_cast<int>(
                         std::max<int64_t>(0, std::min<int64_t>(int64_t{to_grow_} + n, possible)));
}

// Takes back up to `n` marks; returns how many.
int TeamPlan::Unmark(int n) {
  int taken_back = std::clamp(n, 0, leaving_);
  leaving_ -= taken_back;
  while (taken_back < n && slots_.Unmark()) ++taken_back;
  return taken_back;
}

// Takes back creations that have not begun, then the idle workers (the longest idle first), then
// marks the busy ones and those that are being created.
void TeamPlan::ApplyShrink(int n, TeamEffects& effects) {
  const int not_begun = std::min(n, to_grow_);
  to_grow_ -= not_begun;
  n -= not_begun;
  for (; n > 0 && !idle_.empty(); --n) RetireOldest(effects);
  const int busy = std::min(n, counts_.busy - leaving_);
  leaving_ += busy;
  n -= busy;
  while (n > 0 && slots_.Mark()) --n;
}

void TeamPlan::StartGrown(TeamEffects& effects) {
  if (quit_) to_grow_ = 0;
  while (to_grow_ > 0 && !backoff_.is_held() && FreeSlots() > 0 &&
         counts_.live < limits_.hard_limit) {
    --to_grow_;
    Create(effects);
  }
}

// The first `items` items of the backlog go to idle workers, and the rest of them has workers
// created, as far as the limits allow.
void TeamPlan::Serve(int64_t items, bool& waking, TeamEffects& effects) {
  PlannedWorker** last = &effects.run;
  while (*last != nullptr) last = &(*last)->next;
  while (items > 0 && !idle_.empty() && !(throttle_ && waking)) {
    PlannedWorker& worker = *idle_.newest();
    RemoveIdle(worker);
    ++counts_.busy;
    --counts_.backlogged;
    --items;
    waking = !worker.in_then;
    worker.next = nullptr;
    *last = &worker;
    last = &worker.next;
  }
  for (int64_t wanted = WantedFor(items); wanted > 0 && MayCreate(); --wanted) Create(effects);
}

// Beyond the soft limit: one worker each interval, for as long as items wait.
void TeamPlan::DecideGrowth(TeamEffects& effects) {
  if (limits_.growth_per_second <= 0) return;
  int64_t wanted = WantedFor(counts_.backlogged);
  if (wanted <= 0) {
    if (counts_.backlogged == 0) next_growth_ = absl::InfiniteDuration();
    return;
  }
  if (!MayGrow()) return;
  const absl::Duration interval = absl::Seconds(1 / limits_.growth_per_second);
  if (next_growth_ == absl::InfiniteDuration()) next_growth_ = now_ + interval;
  if (next_growth_ <= now_ && FreeSlots() > 0) {
    Create(effects, /*grown=*/true);
    --wanted;
    next_growth_ = now_ + interval;
  }
  if (wanted > 0 && counts_.live < limits_.hard_limit) WakeAt(next_growth_, effects);
}

void TeamPlan::DecideRelease(TeamEffects& effects) {
  if (limits_.idle_timeout == absl::InfiniteDuration() || quit_) return;
  release_deferred_ = false;
  if (idle_.empty() || Staying() <= limits_.min_workers) return;
  release_deferred_ = counts_.backlogged > 0;
  if (release_deferred_) return;
  while (!idle_.empty() && Staying() > limits_.min_workers &&
         idle_.oldest()->idle_since + limits_.idle_timeout <= now_) {
    RetireOldest(effects);
  }
  if (MustArmRelease()) WakeAt(idle_.oldest()->idle_since + limits_.idle_timeout, effects);
}

void TeamPlan::DecideStall(TeamEffects& effects) {
  if (!IsStalled()) return stall_.Moved();
  effects.report_stall = stall_.Look(now_);
  WakeAt(stall_.due(), effects);
}

void TeamPlan::DecideEnd(TeamEffects& effects) {
  if (counts_.backlogged > 0) {
    // A worker performs it, or will be created; or there is none and none can be created.
    const bool will_grow = next_growth_ != absl::InfiniteDuration() && !backoff_.is_held() &&
                           !timers_refused_ && has_clock_;
    if (counts_.live > 0 || will_grow) return;
    effects.drop_backlog = true;
    Dropped();
    look_ = false;
  }
  while (!idle_.empty()) RetireOldest(effects);
  if (counts_.live > 0) return;
  ended_ = true;
  effects.end = true;
}

void TeamPlan::WakeAt(absl::Duration when, TeamEffects& effects) {
  if (!has_clock_ || timers_refused_ || timers_.HasOneBy(when)) return;
  effects.arm_at = std::min(effects.arm_at, when);
}

// Nothing more is created before the retry.
void TeamPlan::HoldCreation() {
  to_grow_ = 0;
  look_ = true;
  backoff_.Failed(now_);
}

void TeamPlan::AllowCreation() {
  backoff_.Allow();
  timers_refused_ = false;
}

void TeamPlan::Create(TeamEffects& effects, bool grown) {
  effects.create |= uint32_t{1} << slots_.Take(grown);
  ++counts_.starting;
  ++counts_.live;
}

void TeamPlan::Retire(PlannedWorker& worker, TeamEffects& effects) {
  ++counts_.ending;
  Push(worker, effects.retire);
}

void TeamPlan::RetireOldest(TeamEffects& effects) {
  PlannedWorker& worker = *idle_.oldest();
  RemoveIdle(worker);
  Retire(worker, effects);
}

// --- what the decisions look at -------------------------------------------------------------

bool TeamPlan::MayCreate() const {
  return !backoff_.is_held() && FreeSlots() > 0 && counts_.live < limits_.hard_limit &&
         counts_.live - counts_.blocked < limits_.soft_limit;
}

// Is a busy worker the only one that can serve the items that wait, now and after it has left?
bool TeamPlan::IsLast() const {
  const int others = counts_.live - 1;
  const bool is_replaced = counts_.accepted > no_worker_before_ && !backoff_.is_held() &&
                           others < limits_.hard_limit &&
                           others - counts_.blocked < limits_.soft_limit;
  return counts_.backlogged > 0 && counts_.busy == 1 &&
         others - counts_.ending - counts_.starting == 0 && !is_replaced;
}

bool TeamPlan::IsStalled() const {
  return stall_.is_enabled() && counts_.backlogged > 0 && counts_.busy > 0 &&
         counts_.blocked >= counts_.busy && counts_.idle == 0;
}

bool TeamPlan::MustArmRelease() const {
  if (limits_.idle_timeout == absl::InfiniteDuration() || quit_ || timers_refused_ ||
      idle_.empty() || Staying() <= limits_.min_workers || counts_.backlogged > 0) {
    return false;
  }
  return !timers_.HasOneBy(idle_.oldest()->idle_since + limits_.idle_timeout);
}

// How many workers are still to be created for the first `items` items of the backlog.
int64_t TeamPlan::WantedFor(int64_t items) const {
  const int64_t coming = int64_t{slots_.used()} - slots_.marked() + to_grow_;
  const int64_t newer = counts_.accepted - no_worker_before_;
  const int64_t wanted = std::min(items - counts_.idle - coming, newer);
  if (wanted > 0 || items == 0) return wanted;
  return counts_.idle + counts_.busy + coming == 0 ? 1 : wanted;  // nobody is left to serve them
}

int TeamPlan::Staying() const {
  int leavers = 0;
  for (const PlannedWorker* worker = leavers_; worker != nullptr; worker = worker->next) ++leavers;
  return counts_.live - counts_.ending - leaving_ - leavers - slots_.marked();
}

void TeamPlan::PushIdle(PlannedWorker& worker) {
  ++counts_.idle;
  worker.idle_since = now_;
  idle_.PushNewest(worker);
}

void TeamPlan::RemoveIdle(PlannedWorker& worker) {
  --counts_.idle;
  idle_.Remove(worker);
}

}  // namespace workers::internal
