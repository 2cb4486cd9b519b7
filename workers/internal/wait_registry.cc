#include "workers/internal/wait_registry.h"

namespace workers::internal {

bool WaitRegistry::Add(Waiter& waiter, const Awaitable& awaited, bool has_deadline,
                       bool team_is_full, int workers) {
  if (waiter.awaited != nullptr) Remove(waiter);
  waiter.awaited = &awaited;
  waiter.has_deadline = has_deadline;
  waiter.previous = nullptr;
  waiter.next = first_;
  if (first_ != nullptr) first_->previous = &waiter;
  first_ = &waiter;
  // All waits are taken for endless, and those that have an end are ruled out until none is left.
  for (Waiter* at = first_; at != nullptr; at = at->next) at->endless = !at->has_deadline;
  for (bool changed = true; changed;) {
    changed = false;
    for (Waiter* at = first_; at != nullptr; at = at->next) {
      if (!at->endless || !Ends(*at, team_is_full, workers)) continue;
      at->endless = false;
      changed = true;
    }
  }
  const bool endless = waiter.endless;
  if (endless) Remove(waiter);
  for (Waiter* at = first_; at != nullptr; at = at->next) at->endless = false;
  return !endless;
}

void WaitRegistry::Remove(Waiter& waiter) {
  if (waiter.awaited == nullptr) return;
  (waiter.previous == nullptr ? first_ : waiter.previous->next) = waiter.next;
  if (waiter.next != nullptr) waiter.next->previous = waiter.previous;
  waiter.awaited = nullptr;
  waiter.endless = false;
}

bool WaitRegistry::Ends(const Waiter& waiter, bool team_is_full, int workers) const {
  if (waiter.awaited->runs_on != nullptr) return !waiter.awaited->runs_on->endless;
  if (!waiter.awaited->queued || !team_is_full) return true;
  int endless = 0;
  for (const Waiter* at = first_; at != nullptr; at = at->next) endless += at->endless;
  return endless < workers;
}

}  // namespace workers::internal
