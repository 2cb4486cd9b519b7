#include "workers/internal/report.h"
#include "workers/internal/team_core.h"
#include "workers/internal/team_items.h"

namespace workers::internal {
namespace {

// Whose step this thread is destroying, because the coordinator has refused it.
using RefusedStep = ThreadLocalPointer<TeamCore>;

}  // namespace

class TeamCore::StepWork {
 public:
  explicit StepWork(std::shared_ptr<TeamCore> core) : core_(std::move(core)) {}
  StepWork(StepWork&&) noexcept = default;
  ~StepWork() {
    if (core_ != nullptr && RefusedStep::Get() != core_.get()) core_->StepWasDestroyed();
  }
  void operator()() && {
    const std::shared_ptr<TeamCore> core = std::move(core_);
    core->Decide();
  }

 private:
  std::shared_ptr<TeamCore> core_;
};

void TeamCore::Record(absl::FunctionRef<void()> fact) {
  const std::shared_ptr<TeamCore> self = shared_from_this();
  {
    MutexLock lock(mutex_);
    fact();
    if (!CountInIfNeeded()) return;
  }
  if (const absl::Status status = SubmitStepOrStatus(); !status.ok()) StepWasRefused(status);
  CountOut();
}

bool TeamCore::CountInIfNeeded() {
  if (!plan_.NeedsDecision(IsWaking())) return false;
  ++inside_;
  return true;
}

// Has the coordinator decide. Not OK: it will not.
absl::Status TeamCore::SubmitStepOrStatus() {
  Work step = StepWork(shared_from_this());
  absl::Status status;
  try {
    status = coordinator_->Do(std::move(step));
  } catch (...) {
    ContinueForcedUnwinding();
    status = CurrentExceptionStatus();
    Report(on_error_, name_, status);
  }
  TeamCore* const outer = RefusedStep::Get();
  RefusedStep::Set(this);
  step = nullptr;
  RefusedStep::Set(outer);
  return status;
}

// A coordinator that has quit will never decide again: either the team has ended and quit it
// itself, or the steps' owner was destroyed. One that is full or out of memory is only bypassed.
void TeamCore::StepWasRefused(const absl::Status& status) {
  if (IsAlreadyQuit(status)) return WithoutCoordinator();
  Decide();
}

void TeamCore::StepWasDestroyed() {
  {
    MutexLock lock(mutex_);
    ++inside_;
  }
  WithoutCoordinator();
  CountOut();
}

// Closes the team: the backlog is dropped and reported, and this thread decides.
void TeamCore::WithoutCoordinator() {
  Job* jobs;
  {
    MutexLock lock(mutex_);
    if (ended_) return;
    plan_.Quit();
    jobs = TakeBacklog();
    plan_.Dropped();
  }
  {
    Performing here(*this);
    DropItems(jobs, "the team's coordinator is gone");
  }
  Decide();
}

void TeamCore::Decide() {
  const absl::Duration now = clock_ != nullptr ? Now() : absl::ZeroDuration();
  Batch batch;
  {
    MutexLock lock(mutex_);
    TeamEffects effects;
    plan_.Decide(now, IsWaking(), effects);
    TakeEffects(effects);
    if (inside_ > 0) return;  // the first of them that counts itself out performs them
    if (Performing* const outer = Performing::Find(*this)) {
      outer->more = true;
      return;
    }
    batch = std::exchange(pending_, Batch());
    performing_ += batch.IsCounted();
  }
  Perform(batch);
}

void TeamCore::TakeEffects(TeamEffects& effects) {
  PlannedWorker** last = &pending_.run;
  while (*last != nullptr) last = &(*last)->next;
  *last = effects.run;
  for (PlannedWorker* at = effects.run; at != nullptr; at = at->next) {
    auto& worker = static_cast<TeamWorker&>(*at);
    worker.job = backlog_.TakeFirst();
    StartItem(*worker.job, nullptr);
    if (worker.in_then) continue;
    worker.begun.store(false);
    waking_ = &worker;
  }
  last = &pending_.retire;
  while (*last != nullptr) last = &(*last)->next;
  *last = effects.retire;
  pending_.create |= effects.create;
  if (effects.arm_id != 0) {
    if (pending_.arm_count < pending_.arms.size()) {
      pending_.arms[pending_.arm_count++] = {effects.arm_id, effects.arm_at};
    } else {
      plan_.TimerFired(effects.arm_id, absl::ZeroDuration());
    }
  }
  if (effects.drop_backlog) pending_.dropped = TakeBacklog();
  pending_.report_stall = pending_.report_stall || effects.report_stall;
  pending_.end = pending_.end || effects.end;
  has_backlog_.store(backlog_.first() != nullptr);
}

// What has come while this thread destroyed items.
void TeamCore::PerformPending() {
  {
    MutexLock lock(mutex_);
    ++inside_;
  }
  CountOut();
}

void TeamCore::CountOut() {
  Batch batch;
  bool over;
  {
    MutexLock lock(mutex_);
    --inside_;
    if (Performing* const outer = Performing::Find(*this)) {
      outer->more = outer->more || !pending_.empty();
    } else {
      batch = std::exchange(pending_, Batch());
      performing_ += batch.IsCounted();
    }
    over = IsOver();
  }
  if (!batch.empty()) Perform(batch);
  if (over) TellTheEnd();
}

Job* TeamCore::TakeBacklog() {
  for (Job* job = backlog_.first(); job != nullptr; job = job->next) {
    if (job->handle == nullptr) continue;
    job->handle->job = nullptr;
    job->handle->awaitable.queued = false;
  }
  has_backlog_.store(false);
  return backlog_.TakeAll();
}

// `here` runs it; null: its worker has not begun it yet.
void TeamCore::StartItem(Job& job, Runner* here) {
  if (job.handle == nullptr) return;
  job.handle->job = nullptr;
  job.handle->awaitable.queued = false;
  job.handle->awaitable.runs_on = here == nullptr ? nullptr : &here->wait;
}

absl::Duration TeamCore::ReadClock(absl::FunctionRef<absl::Duration()> read) const {
  absl::Duration now = absl::ZeroDuration();  // the plan uses the latest time that it has seen
  const absl::Status thrown = CatchToStatus([&] { now = read(); });
  if (!thrown.ok()) Report(on_error_, name_, thrown);
  return now;
}

absl::Duration TeamCore::Now() const {
  return clock_ == nullptr ? SteadyNow() : ReadClock([this] { return clock_->Now(); });
}

absl::Duration TeamCore::CoarseNow() const {
  return clock_ == nullptr ? CoarseSteadyNow() : ReadClock([this] { return clock_->CoarseNow(); });
}

}  // namespace workers::internal
