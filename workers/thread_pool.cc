#include "workers/thread_pool.h"

#include <algorithm>
#include <limits>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "workers/context.h"
#include "workers/internal/run_work.h"
#include "workers/internal/sync.h"

namespace workers {

struct ThreadPool::Shared {
  Shared(std::string name, ErrorHandler on_error, int min, int max)
      : name(std::move(name)), on_error(std::move(on_error)), min(min), max(max) {}

  // After a change of what it follows from.
  void SetLimit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    limit.store(state == kRunning || state == kDraining ? max : 0);
  }

  void RunInContext(const Context& context, Work& work) const {
    ContextScope scope(context);
    // The handler heard of it in this context. The team is to count it, and not to tell it again.
    if (!internal::RunWork(work, name, on_error)) internal::ThrowReported();
  }

  const std::string name;
  const ErrorHandler on_error;

  mutable internal::Mutex mutex;
  int min ABSL_GUARDED_BY(mutex);
  int max ABSL_GUARDED_BY(mutex);
  // Of the StartAWorkers that are under way: how many, and how many threads there will be after
  // the last of them.
  int starters ABSL_GUARDED_BY(mutex) = 0;
  int promised ABSL_GUARDED_BY(mutex) = 0;
  // Stopped after it was started, it still runs what it took; stopped before, it never will.
  enum { kNew, kRunning, kDraining, kNeverStarted } state ABSL_GUARDED_BY(mutex) = kNew;
  internal::Atomic<int> limit = 0;  // of the team; written with `mutex`
};

namespace {

absl::Status CheckSize(absl::string_view name, int min, int max) {
  if (0 <= min && min <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": at least ", min, " and at most ", max, " threads"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ThreadPool>> ThreadPool::Create(ThreadPoolOptions options) {
  const std::string name = options.pool.name;
  if (absl::Status status = CheckSize(name, options.min_threads, options.max_threads);
      !status.ok()) {
    return status;
  }
  auto shared = std::make_shared<Shared>(name, options.pool.on_error, options.min_threads,
                                         options.max_threads);
  TeamLimits& limits = options.pool.limits;
  limits.min_workers = 0;
  limits.soft_limit = [shared] { return shared->limit.load(); };
  limits.growth_per_second = 0;
  limits.hard_limit = std::numeric_limits<int>::max();
  limits.idle_timeout = absl::InfiniteDuration();
  auto team = MakePool(std::move(options.pool));
  if (!team.ok()) return team.status();
  return std::unique_ptr<ThreadPool>(new ThreadPool(std::move(shared), *std::move(team)));
}

ThreadPool::ThreadPool(std::shared_ptr<Shared> shared, std::unique_ptr<Team> team)
    : shared_(std::move(shared)), team_(std::move(team)) {}

ThreadPool::~ThreadPool() { Quit().IgnoreError(); }  // the team's destructor waits

// Shrinks or grows the team to what min and max are. Two at once may come to the team in another
// order than to the numbers: so each looks again whether what it came with still holds, and the
// last to come does.
absl::Status ThreadPool::FitTeam() {
  for (;;) {
    int min, max;
    {
      internal::MutexLock lock(shared_->mutex);
      min = shared_->min;
      max = shared_->max;
    }
    if (absl::Status status = team_->Fit(min, max); !status.ok()) return status;
    internal::MutexLock lock(shared_->mutex);
    if (shared_->min == min && shared_->max == max) return absl::OkStatus();
  }
}

absl::Status ThreadPool::Start() {
  {
    internal::MutexLock lock(shared_->mutex);
    if (shared_->state == Shared::kRunning) return absl::OkStatus();
    if (shared_->state != Shared::kNew) {
      return absl::FailedPreconditionError(absl::StrCat(shared_->name, ": Start after Stop"));
    }
    shared_->state = Shared::kRunning;
    shared_->SetLimit();
  }
  team_->Poke();  // for what waits
  return FitTeam();
}

absl::Status ThreadPool::Stop(absl::Duration timeout) {
  Quit().IgnoreError();
  return team_->Join(timeout);
}

int64_t ThreadPool::QuitNow() {
  Quit().IgnoreError();
  return team_->QuitNow();
}

absl::Status ThreadPool::AdjustPoolSize(std::optional<int> min, std::optional<int> max) {
  {
    internal::MutexLock lock(shared_->mutex);
    const int new_min = min.value_or(shared_->min);
    const int new_max = max.value_or(shared_->max);
    if (absl::Status status = CheckSize(shared_->name, new_min, new_max); !status.ok())
      return status;
    shared_->min = new_min;
    shared_->max = new_max;
    shared_->SetLimit();
    if (shared_->state != Shared::kRunning) return absl::OkStatus();
  }
  const absl::Status status = FitTeam();
  return IsAlreadyQuit(status) ? absl::OkStatus() : status;  // stopped meanwhile
}

absl::Status ThreadPool::StartAWorker() {
  int wanted, most;
  {
    internal::MutexLock lock(shared_->mutex);
    if (shared_->state != Shared::kRunning) {
      return absl::FailedPreconditionError(absl::StrCat(shared_->name, ": is not running"));
    }
    const int there = std::max(workers(), shared_->promised);
    if (there >= shared_->max) {
      return absl::ResourceExhaustedError(
          absl::StrCat(shared_->name, ": has its maximum of ", shared_->max, " threads"));
    }
    wanted = shared_->promised = there + 1;
    most = shared_->max;
    ++shared_->starters;
  }
  // (Not one more, whatever is there: work that comes meanwhile may have one made too.)
  absl::Status status = team_->Fit(wanted, most);
  bool resized;
  {
    internal::MutexLock lock(shared_->mutex);
    if (--shared_->starters == 0) shared_->promised = 0;
    resized = shared_->max != most;
  }
  if (resized) FitTeam().IgnoreError();  // it may have come to the team before us
  return status;
}

absl::Status ThreadPool::StopAWorker() {
  {
    internal::MutexLock lock(shared_->mutex);
    if (shared_->state != Shared::kRunning) {
      return absl::FailedPreconditionError(absl::StrCat(shared_->name, ": is not running"));
    }
  }
  if (workers() == 0) {
    return absl::FailedPreconditionError(absl::StrCat(shared_->name, ": has no thread to stop"));
  }
  return team_->Shrink(1);
}

absl::Status ThreadPool::CallInThread(Work&& work) {
  if (!work || Context::Current().empty()) return Do(std::move(work));
  // Shared, so that a refusal can give the work back.
  auto kept = std::make_shared<Work>(std::move(work));
  absl::Status status = Do([shared = shared_, context = Context::Current(), kept] {
    shared->RunInContext(context, *kept);
  });
  if (!status.ok()) work = std::move(*kept);
  return status;
}

absl::StatusOr<Team::Ticket> ThreadPool::Enqueue(Work&& work, Work&& then) {
  Context context = Context::Current();
  if (!work || context.empty()) return team_->Enqueue(std::move(work), std::move(then));
  // Shared, so that a refusal can give the works back.
  struct Call {
    Work work;
    Work then;
  };
  auto call = std::make_shared<Call>(Call{std::move(work), std::move(then)});
  Work run_then;
  if (call->then) {
    run_then = [shared = shared_, context, call] { shared->RunInContext(context, call->then); };
  }
  auto ticket = team_->Enqueue(
      [shared = shared_, context, call] { shared->RunInContext(context, call->work); },
      std::move(run_then));
  if (!ticket.ok()) {
    work = std::move(call->work);
    then = std::move(call->then);
  }
  return ticket;
}

std::string ThreadPool::DumpStats() const {
  const TeamStatistics now = team_->statistics();
  return absl::StrCat(shared_->name, ": ", now.live, " threads, ", now.idle, " waiting, ", now.busy,
                      " working, ", now.starting, " starting, ", now.ending, " ending; ",
                      now.backlogged, " works queued, ", now.completed, " completed, ", now.failed,
                      " failed, ", now.dropped, " dropped, ", now.refused, " refused");
}

int ThreadPool::min() const {
  internal::MutexLock lock(shared_->mutex);
  return shared_->min;
}
int ThreadPool::max() const {
  internal::MutexLock lock(shared_->mutex);
  return shared_->max;
}
int ThreadPool::workers() const {
  const TeamStatistics now = team_->statistics();
  return now.live - now.ending;
}
int ThreadPool::waiters() const { return team_->statistics().idle; }
int ThreadPool::working() const { return team_->statistics().busy; }
int64_t ThreadPool::queued() const { return team_->statistics().backlogged; }
TeamStatistics ThreadPool::statistics() const { return team_->statistics(); }

absl::Status ThreadPool::Do(Work&& work) { return team_->Do(std::move(work)); }

absl::Status ThreadPool::Quit() {
  {
    internal::MutexLock lock(shared_->mutex);
    if (shared_->state == Shared::kNew) shared_->state = Shared::kNeverStarted;
    if (shared_->state == Shared::kRunning) shared_->state = Shared::kDraining;
    shared_->SetLimit();
  }
  return team_->Quit();
}

}  // namespace workers
