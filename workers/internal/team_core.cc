#include "workers/internal/team_core.h"

#include <new>

#include "absl/strings/str_cat.h"
#include "workers/internal/make_status.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/internal/team_items.h"
#include "workers/worker_scope.h"

namespace workers::internal {
TeamCore::TeamCore(TeamOptions options)
    : name_(std::move(options.name)),
      already_quit_(AlreadyQuitError(name_)),
      on_error_(std::move(options.on_error)),
      clock_(options.clock),
      throttle_(options.throttle_wakeups),
      uses_time_(options.limits.growth_per_second > 0 ||
                 options.limits.idle_timeout != absl::InfiniteDuration() ||
                 options.limits.stall_warning != absl::InfiniteDuration()),
      max_backlog_(options.limits.max_backlog),
      hard_limit_(options.limits.hard_limit),
      stall_warning_(options.limits.stall_warning),
      coordinator_(std::move(options.coordinator)),
      create_worker_(std::move(options.create_worker)),
      plan_(options.limits, options.clock != nullptr, options.throttle_wakeups),
      on_ended_(std::move(options.on_ended)) {}

TeamCore::~TeamCore() { delete next_job_.load(); }

// --- items come and go ----------------------------------------------------------------------

Job* TeamCore::NewJob() {
  if (Job* const job = next_job_.exchange(nullptr)) return job;
  if (has_spare_.load(std::memory_order_relaxed)) {
    MutexLock lock(mutex_);
    if (Job* const job = backlog_.TakeSpare()) return job;
  }
  try {
    // Not the form that returns null: a program may have replaced the usual one alone.
    return new Job;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void TeamCore::KeepJob(Job* job) { delete next_job_.exchange(job); }

// The next submission's, or one of the backlog's spare jobs.
void TeamCore::KeepSpare(Job* job) {
  if (next_job_.load(std::memory_order_relaxed) == nullptr) job = next_job_.exchange(job);
  if (job != nullptr) backlog_.Keep(job);
  has_spare_.store(backlog_.spare() > 0, std::memory_order_relaxed);
}

// The caller holds no reference to the core: as soon as the mutex is free the item may run, and
// may be the end of the team.
absl::Status TeamCore::Accept(Job* job, WorkHandle* handle) {
  if (job == nullptr) {
    MutexLock lock(mutex_);
    plan_.Refused();
    return NoMemoryError(name_);
  }
  std::shared_ptr<HandleState> state;
  if (handle != nullptr) {
    try {
      state = std::make_shared<HandleState>(shared_from_this());
    } catch (const std::bad_alloc&) {
      return NoMemoryError(name_);
    }
  }
  int64_t number;
  std::shared_ptr<TeamCore> self;
  bool waits = !throttle_ || likely_to_wait_.load(std::memory_order_relaxed);
  for (;; waits = true) {
    const absl::Duration now = waits ? CoarseNow() : absl::InfiniteDuration();
    MutexLock lock(mutex_);
    const TeamStatistics& counts = plan_.statistics();
    if (plan_.has_quit()) {
      plan_.Refused();
      return already_quit_;
    }
    if (counts.backlogged - counts.idle >= max_backlog_) {
      plan_.Refused();
      return MakeStatus(absl::StatusCode::kResourceExhausted, name_, ": the backlog is full, ",
                        max_backlog_, " work items");
    }
    const bool must_wait = counts.idle <= counts.backlogged || IsWaking() || plan_.HasUndecided();
    if (throttle_ && must_wait != waits) {
      likely_to_wait_.store(must_wait, std::memory_order_relaxed);
    }
    if (must_wait && !waits) continue;  // once more, with the time
    job->number = number = next_number_++;
    job->since = now;
    if (state != nullptr) {
      state->job = job;
      state->awaitable.queued = true;
      job->handle = state;
      *handle = WorkHandle(std::move(state));
    }
    backlog_.PushBack(job);
    if (next_job_.load(std::memory_order_relaxed) == nullptr) {
      if (Job* const spare = backlog_.TakeSpare()) KeepSpare(spare);
    }
    plan_.Accepted();
    has_backlog_.store(true);
    if (!CountInIfNeeded()) return absl::OkStatus();
    self = shared_from_this();
    break;
  }
  const absl::Status submitted = SubmitStepOrStatus();
  bool is_taken_back = false;
  if (!submitted.ok()) {
    if (IsAlreadyQuit(submitted)) is_taken_back = TakeBack(number);
    StepWasRefused(submitted);
  }
  CountOut();
  return is_taken_back ? already_quit_ : absl::OkStatus();
}

// The coordinator is gone: takes back an item that no decision has seen. (By its number: it may
// have run, and its job may be another item's by now.)
bool TeamCore::TakeBack(int64_t number) {
  std::shared_ptr<HandleState> handle;  // released without the mutex
  MutexLock lock(mutex_);
  Job* job = backlog_.first();
  while (job != nullptr && job->number != number) job = job->next;
  if (job == nullptr) return false;
  backlog_.Remove(job);
  handle = std::move(job->handle);
  if (handle != nullptr) {
    handle->awaitable.queued = false;
    handle->job = nullptr;
  }
  plan_.TakenBack();
  return true;
}

bool TeamCore::TryCancel(HandleState& state) {
  Job* job = nullptr;
  Record([&] {
    mutex_.AssertHeld();
    job = std::exchange(state.job, nullptr);
    if (job == nullptr) return;
    state.awaitable.queued = false;
    backlog_.Remove(job);
    plan_.Withdrawn();
  });
  if (job == nullptr) return false;
  {
    Performing here(*this);
    job->work.Reset();
    job->then = nullptr;
    job->handle = nullptr;
  }
  KeepJob(job);
  PerformPending();
  return true;
}

bool TeamCore::IsQueued(const HandleState& state) const {
  MutexLock lock(mutex_);
  return state.job != nullptr;
}

absl::Status TeamCore::Quit() {
  const std::shared_ptr<TeamCore> self = shared_from_this();  // a capture may destroy the team
  bool first = false;
  Record([&] {
    mutex_.AssertHeld();
    first = !plan_.has_quit();
    if (first) plan_.Quit();
  });
  return first ? absl::OkStatus() : already_quit_;
}

int64_t TeamCore::QuitNow() {
  int64_t dropped;
  {
    Performing here(*this);  // the end comes after the items
    Job* jobs = nullptr;
    Record([&] {
      mutex_.AssertHeld();
      plan_.Quit();
      jobs = TakeBacklog();
      plan_.Dropped();
    });
    dropped = Destroy(jobs);
  }
  PerformPending();
  return dropped;
}

absl::Status TeamCore::Resize(absl::FunctionRef<void(TeamPlan&)> request) {
  absl::Status status;
  Record([&] {
    mutex_.AssertHeld();
    if (plan_.has_quit()) {
      status = already_quit_;
      return;
    }
    try {
      request(plan_);
    } catch (const std::bad_alloc&) {
      status = NoMemoryError(name_);
    }
  });
  return status;
}

void TeamCore::Look() {
  Record([this] {
    mutex_.AssertHeld();
    plan_.Look();
  });
}

void TeamCore::Blocked(int change) {
  Record([&] {
    mutex_.AssertHeld();
    plan_.Blocked(change);
  });
}

absl::Status TeamCore::Awaits(Runner& runner, const WorkHandle& handle, bool has_deadline) {
  std::shared_ptr<HandleState> state = handle.state_;
  if (state == nullptr || state->core.get() != this) return absl::OkStatus();
  MutexLock lock(mutex_);  // released before `state`, which then holds what was awaited before
  const TeamStatistics& counts = plan_.statistics();
  const bool is_full = counts.live >= hard_limit_ && counts.idle == 0 && counts.starting == 0;
  if (waits_.Add(runner.wait, state->awaitable, has_deadline, is_full, counts.busy)) {
    runner.awaited.swap(state);
    return absl::OkStatus();
  }
  runner.awaited.swap(state);
  runner.awaited = nullptr;
  return MakeStatus(absl::StatusCode::kFailedPrecondition, name_,
                    ": this wait would never end: the work item that it waits for depends on "
                    "workers that all wait, ",
                    counts.live, " of at most ", hard_limit_);
}

void TeamCore::AwaitsNoMore(Runner& runner) {
  std::shared_ptr<HandleState> awaited;  // released without the mutex
  MutexLock lock(mutex_);
  waits_.Remove(runner.wait);
  awaited.swap(runner.awaited);
}

// --- the end, and what is seen from outside -------------------------------------------------

absl::Status TeamCore::Join(absl::Duration timeout) {
  if (IsOwnThread()) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, name_,
                      ": Join inside one of its own work items");
  }
  const absl::Duration deadline = SteadyNow() + timeout;
  std::vector<std::unique_ptr<IWorker>> joined;  // by their destructors, without the mutex
  MutexLock lock(mutex_);
  if (!plan_.has_quit()) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, name_, ": Join before Quit");
  }
  while (!IsOver()) {
    if (SteadyNow() >= deadline) {
      return MakeStatus(absl::StatusCode::kDeadlineExceeded, name_,
                        ": not all workers ended in time");
    }
    over_.WaitUntil(mutex_, deadline);
  }
  joined.swap(ended_workers_);
  return absl::OkStatus();
}

TeamStatistics TeamCore::Statistics() const {
  absl::Duration since;
  TeamStatistics statistics;
  {
    MutexLock lock(mutex_);
    statistics = plan_.statistics();
    const Job* const first = backlog_.first();
    if (first == nullptr) return statistics;
    since = first->since;
  }
  if (since != absl::InfiniteDuration()) statistics.oldest_wait = Now() - since;
  return statistics;
}

std::string TeamCore::DebugString() const {
  const TeamStatistics now = Statistics();
  TeamLimits limits;
  {
    MutexLock lock(mutex_);
    limits = plan_.limits();
  }
  return absl::StrCat(name_, ": ", now.live, " workers (", now.idle, " idle, ", now.busy, " busy, ",
                      now.blocked, " of these blocked, ", now.starting, " starting, ", now.ending,
                      " ending; min ", limits.min_workers, ", soft limit ", limits.soft_limit,
                      ", hard limit ", limits.hard_limit, "); backlog ", now.backlogged,
                      ", oldest ", absl::FormatDuration(now.oldest_wait), "; ", now.completed,
                      " completed, ", now.failed, " failed, ", now.dropped, " dropped, ",
                      now.withdrawn, " withdrawn, ", now.refused, " refused, ",
                      now.creation_failures, " creations failed");
}

int TeamCore::Staying() const {
  MutexLock lock(mutex_);
  return plan_.AfterRequests().staying;
}

bool TeamCore::IsOwnThread() const {
  for (const Runner* in = Runner::Innermost::Get(); in != nullptr; in = in->outer) {
    if (in->core == this) return true;
  }
  return Performing::Find(*this) != nullptr || WorkerScope::RunsIn(*coordinator_);
}

void TeamCore::ReleaseOwnerParts() {
  create_worker_ = nullptr;
  coordinator_ = nullptr;
}

}  // namespace workers::internal
