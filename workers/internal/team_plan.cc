#include "workers/internal/team_plan.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

namespace workers::internal {
namespace {

constexpr absl::Duration kMaxRetryDelay = absl::Seconds(1);

}  // namespace

TeamPlan::TeamPlan(const TeamLimits& limits, bool has_clock, bool throttle)
    : limits_(limits), has_clock_(has_clock), throttle_(throttle), look_(true) {
  requests_.reserve(8);
}

// --- facts ----------------------------------------------------------------------------------

void TeamPlan::Accepted() {
  ++counts_.accepted;
  ++counts_.backlogged;
  if (!held_) timers_refused_ = false;
  if (held_ && (!has_clock_ || timers_refused_)) {  // no timer will retry
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
  stalled_since_ = absl::InfiniteDuration();
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
  const uint32_t bit = uint32_t{1} << slot;
  const bool leaves = (marked_slots_ & bit) != 0;
  if (grown_slots_ & bit) ++grown_;
  FreeSlot(slot);
  ++counts_.live;
  ++counts_.workers_created;
  AllowCreation();
  probing_ = false;
  retry_delay_ = absl::ZeroDuration();
  look_ = true;
  if (leaves) {
    ++counts_.idle;
    Push(worker, leavers_);
  } else {
    PushIdle(worker);
  }
}

void TeamPlan::CreationFailed(int slot, Failure failure, absl::Duration now) {
  See(now);
  FreeSlot(slot);
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
  stalled_since_ = absl::InfiniteDuration();
  if (counts_.backlogged > 0) look_ = true;
}

void TeamPlan::Request(const Sizing& sizing) { requests_.push_back(sizing); }

void TeamPlan::TimerFired(int64_t id, absl::Duration now) {
  See(now);
  for (int i = 0; i < timer_count_; ++i) {
    if (timers_[i].id != id) continue;
    std::move(timers_.begin() + i + 1, timers_.begin() + timer_count_, timers_.begin() + i);
    --timer_count_;
    look_ = true;
    return;
  }
}

void TeamPlan::TimerRefused(int64_t id) {
  for (int i = 0; i < timer_count_; ++i) {
    if (timers_[i].id != id) continue;
    std::move(timers_.begin() + i + 1, timers_.begin() + timer_count_, timers_.begin() + i);
    --timer_count_;
    timers_refused_ = true;
    return;
  }
}

void TeamPlan::See(absl::Duration now) { now_ = std::max(now_, now); }

TeamPlan::Size TeamPlan::AfterRequests() const {
  Size size = {Staying() + to_grow_, limits_.min_workers, limits_.soft_limit};
  const int64_t wanted = std::min<int64_t>(
      WantedFor(counts_.backlogged), int64_t{limits_.soft_limit} - counts_.live + counts_.blocked);
  int64_t staying = size.staying + (held_ ? 0 : std::max<int64_t>(0, wanted));
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
  if (held_ && now_ >= retry_at_) return true;
  const bool wake_is_free = !throttle_ || !waking;
  if (newest_idle_ != nullptr && (quit_ || (counts_.backlogged > 0 && wake_is_free))) return true;
  if (leaving_ > counts_.busy) return true;
  if (quit_ && counts_.live == 0) return true;
  if (WantedFor(counts_.backlogged) > 0 &&
      (MayCreate() || (MayGrow() && !HasTimerBy(next_growth_)))) {
    return true;
  }
  if (MustArmRelease()) return true;
  return IsStalled() && stalled_since_ == absl::InfiniteDuration();
}

void TeamPlan::Decide(absl::Duration now, bool waking, TeamEffects& effects) {
  if (ended_) return;
  See(now);
  look_ = false;
  if (held_ && now_ >= retry_at_) AllowCreation();
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
    if (oldest_idle_ == nullptr) continue;
    PlannedWorker& worker = *oldest_idle_;
    RemoveIdle(worker);
    Retire(worker, effects);
  }
  while (!quit_ && !held_ && FreeSlots() > 0 && Staying() < limits_.min_workers &&
         counts_.live < limits_.hard_limit) {
    Create(effects);
  }
  grown_ = std::clamp(grown_, 0, std::max(0, Staying() - limits_.soft_limit));
  DecideGrowth(effects);
  DecideRelease(effects);
  DecideStall(effects);
  if (quit_) DecideEnd(effects);
  if (held_ && retry_at_ != absl::InfiniteDuration()) WakeAt(retry_at_, effects);
  if (effects.arm_at == absl::InfiniteDuration()) return;
  if (timer_count_ == static_cast<int>(timers_.size())) --timer_count_;  // that one becomes stale
  effects.arm_id = ++last_timer_id_;
  timers_[timer_count_++] = {effects.arm_id, effects.arm_at};
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
  for (; taken_back < n && marked_slots_ != 0; ++taken_back) marked_slots_ &= marked_slots_ - 1;
  return taken_back;
}

// Takes back creations that have not begun, then the idle workers (the longest idle first), then
// marks the busy ones and those that are being created.
void TeamPlan::ApplyShrink(int n, TeamEffects& effects) {
  const int not_begun = std::min(n, to_grow_);
  to_grow_ -= not_begun;
  n -= not_begun;
  while (n > 0 && oldest_idle_ != nullptr) {
    PlannedWorker& worker = *oldest_idle_;
    RemoveIdle(worker);
    Retire(worker, effects);
    --n;
  }
  const int busy = std::min(n, counts_.busy - leaving_);
  leaving_ += busy;
  n -= busy;
  for (uint32_t unmarked = slots_ & ~marked_slots_; n > 0 && unmarked != 0; --n) {
    const uint32_t newest = std::bit_floor(unmarked);
    marked_slots_ |= newest;
    unmarked &= ~newest;
  }
}

void TeamPlan::StartGrown(TeamEffects& effects) {
  if (quit_) to_grow_ = 0;
  while (to_grow_ > 0 && !held_ && FreeSlots() > 0 && counts_.live < limits_.hard_limit) {
    --to_grow_;
    Create(effects);
  }
}

// The first `items` items of the backlog go to idle workers, and the rest of them has workers
// created, as far as the limits allow.
void TeamPlan::Serve(int64_t items, bool& waking, TeamEffects& effects) {
  PlannedWorker** last = &effects.run;
  while (*last != nullptr) last = &(*last)->next;
  while (items > 0 && newest_idle_ != nullptr && !(throttle_ && waking)) {
    PlannedWorker& worker = *newest_idle_;
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
    const uint32_t before = slots_;
    Create(effects);
    grown_slots_ |= slots_ & ~before;
    --wanted;
    next_growth_ = now_ + interval;
  }
  if (wanted > 0 && counts_.live < limits_.hard_limit) WakeAt(next_growth_, effects);
}

void TeamPlan::DecideRelease(TeamEffects& effects) {
  if (limits_.idle_timeout == absl::InfiniteDuration() || quit_) return;
  release_deferred_ = false;
  if (oldest_idle_ == nullptr || Staying() <= limits_.min_workers) return;
  release_deferred_ = counts_.backlogged > 0;
  if (release_deferred_) return;
  while (oldest_idle_ != nullptr && Staying() > limits_.min_workers &&
         oldest_idle_->idle_since + limits_.idle_timeout <= now_) {
    PlannedWorker& worker = *oldest_idle_;
    RemoveIdle(worker);
    Retire(worker, effects);
  }
  if (MustArmRelease()) WakeAt(oldest_idle_->idle_since + limits_.idle_timeout, effects);
}

void TeamPlan::DecideStall(TeamEffects& effects) {
  if (!IsStalled()) {
    stalled_since_ = absl::InfiniteDuration();
    return;
  }
  if (stalled_since_ == absl::InfiniteDuration()) {
    stalled_since_ = now_;
    stall_reported_ = false;
  }
  if (stall_reported_) return;
  if (stalled_since_ + limits_.stall_warning > now_) {
    return WakeAt(stalled_since_ + limits_.stall_warning, effects);
  }
  stall_reported_ = true;
  effects.report_stall = true;
}

void TeamPlan::DecideEnd(TeamEffects& effects) {
  if (counts_.backlogged > 0) {
    // A worker performs it, or will be created; or there is none and none can be created.
    const bool will_grow =
        next_growth_ != absl::InfiniteDuration() && !held_ && !timers_refused_ && has_clock_;
    if (counts_.live > 0 || will_grow) return;
    effects.drop_backlog = true;
    Dropped();
    look_ = false;
  }
  while (oldest_idle_ != nullptr) {
    PlannedWorker& worker = *oldest_idle_;
    RemoveIdle(worker);
    Retire(worker, effects);
  }
  if (counts_.live > 0) return;
  ended_ = true;
  effects.end = true;
}

void TeamPlan::WakeAt(absl::Duration when, TeamEffects& effects) {
  if (!has_clock_ || timers_refused_ || HasTimerBy(when)) return;
  effects.arm_at = std::min(effects.arm_at, when);
}

// Nothing more is created before the retry.
void TeamPlan::HoldCreation() {
  to_grow_ = 0;
  look_ = true;
  if (held_) return;
  held_ = probing_ = true;
  retry_at_ = absl::InfiniteDuration();
  if (!has_clock_) return;
  retry_delay_ = retry_delay_ == absl::ZeroDuration() ? limits_.retry_after
                                                      : std::min(retry_delay_ * 2, kMaxRetryDelay);
  retry_at_ = now_ + retry_delay_;
}

void TeamPlan::AllowCreation() {
  held_ = false;
  timers_refused_ = false;
  retry_at_ = absl::InfiniteDuration();
}

void TeamPlan::Create(TeamEffects& effects) {
  const uint32_t bit = uint32_t{1} << std::countr_one(slots_);
  slots_ |= bit;
  effects.create |= bit;
  ++counts_.starting;
  ++counts_.live;
}

void TeamPlan::Retire(PlannedWorker& worker, TeamEffects& effects) {
  ++counts_.ending;
  Push(worker, effects.retire);
}

// --- what the decisions look at -------------------------------------------------------------

bool TeamPlan::MayCreate() const {
  return !held_ && FreeSlots() > 0 && counts_.live < limits_.hard_limit &&
         counts_.live - counts_.blocked < limits_.soft_limit;
}

bool TeamPlan::MayGrow() const {
  return limits_.growth_per_second > 0 && !held_ && !timers_refused_ &&
         counts_.live < limits_.hard_limit;
}

// Is a busy worker the only one that can serve the items that wait, now and after it has left?
bool TeamPlan::IsLast() const {
  const int others = counts_.live - 1;
  const bool is_replaced = counts_.accepted > no_worker_before_ && !held_ &&
                           others < limits_.hard_limit &&
                           others - counts_.blocked < limits_.soft_limit;
  return counts_.backlogged > 0 && counts_.busy == 1 &&
         others - counts_.ending - counts_.starting == 0 && !is_replaced;
}

bool TeamPlan::IsStalled() const {
  return limits_.stall_warning != absl::InfiniteDuration() && counts_.backlogged > 0 &&
         counts_.busy > 0 && counts_.blocked >= counts_.busy && counts_.idle == 0;
}

bool TeamPlan::MustArmRelease() const {
  if (limits_.idle_timeout == absl::InfiniteDuration() || quit_ || timers_refused_ ||
      oldest_idle_ == nullptr || Staying() <= limits_.min_workers || counts_.backlogged > 0) {
    return false;
  }
  return !HasTimerBy(oldest_idle_->idle_since + limits_.idle_timeout);
}

bool TeamPlan::HasTimerBy(absl::Duration when) const {
  if (when == absl::InfiniteDuration()) return false;
  for (int i = 0; i < timer_count_; ++i) {
    if (timers_[i].when <= when) return true;
  }
  return false;
}

// How many workers are still to be created for the first `items` items of the backlog.
int64_t TeamPlan::WantedFor(int64_t items) const {
  const int64_t coming = int64_t{UnmarkedStarting()} + to_grow_;
  const int64_t newer = counts_.accepted - no_worker_before_;
  const int64_t wanted = std::min(items - counts_.idle - coming, newer);
  if (wanted > 0 || items == 0) return wanted;
  return counts_.idle + counts_.busy + coming == 0 ? 1 : wanted;  // nobody is left to serve them
}

int TeamPlan::Staying() const {
  int leavers = 0;
  for (const PlannedWorker* worker = leavers_; worker != nullptr; worker = worker->next) ++leavers;
  return counts_.live - counts_.ending - leaving_ - leavers - std::popcount(marked_slots_);
}

int TeamPlan::FreeSlots() const {
  if (probing_) return slots_ == 0 ? 1 : 0;
  return kMaxStarting - std::popcount(slots_);
}

int TeamPlan::UnmarkedStarting() const { return std::popcount(slots_ & ~marked_slots_); }

void TeamPlan::Push(PlannedWorker& worker, PlannedWorker*& list) {
  worker.next = std::exchange(list, &worker);
}

void TeamPlan::PushIdle(PlannedWorker& worker) {
  ++counts_.idle;
  worker.idle_since = now_;
  worker.next = nullptr;
  worker.previous = newest_idle_;
  (newest_idle_ == nullptr ? oldest_idle_ : newest_idle_->next) = &worker;
  newest_idle_ = &worker;
}

void TeamPlan::RemoveIdle(PlannedWorker& worker) {
  --counts_.idle;
  (worker.previous == nullptr ? oldest_idle_ : worker.previous->next) = worker.next;
  (worker.next == nullptr ? newest_idle_ : worker.next->previous) = worker.previous;
}

void TeamPlan::FreeSlot(int slot) {
  const uint32_t bit = uint32_t{1} << slot;
  slots_ &= ~bit;
  marked_slots_ &= ~bit;
  grown_slots_ &= ~bit;
  --counts_.starting;
  --counts_.live;
}

}  // namespace workers::internal
