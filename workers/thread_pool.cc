#include "workers/thread_pool.h"

#include <limits>
#include <new>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "workers/context.h"
#include "workers/internal/fork_guard.h"
#include "workers/internal/make_status.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/internal/sync.h"

namespace workers {

struct ThreadPool::Shared {
  Shared(std::string name, ErrorHandler on_error, int min, int max)
      : name(std::move(name)), on_error(std::move(on_error)), min(min), max(max) {}

  void RunInContext(const Context& context, Work& work) const {
    ContextScope scope(context);
    // The handler heard of it in this context. The team is to count it, and not to tell it again.
    if (!internal::RunWork(work, name, on_error)) internal::ThrowReported();
  }

  const std::string name;
  const ErrorHandler on_error;
  const internal::ForkGuard guard;

  mutable internal::Mutex mutex;
  int min ABSL_GUARDED_BY(mutex);
  int max ABSL_GUARDED_BY(mutex);
  // Stopped after it was started, it still runs the accepted items; stopped before, it never will.
  enum { kNew, kRunning, kDraining, kNeverStarted } state ABSL_GUARDED_BY(mutex) = kNew;
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
  limits.soft_limit = 0;  // until Start
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

// Two at the same time may reach the team in another order than the numbers: so each checks
// afterwards whether its numbers still hold, and the last one's do.
absl::Status ThreadPool::ResizeTeam() {
  for (;;) {
    int min, max;
    {
      internal::MutexLock lock(shared_->mutex);
      min = shared_->min;
      max = shared_->max;
    }
    if (absl::Status status = team_->SetSize(min, max); !status.ok()) return status;
    internal::MutexLock lock(shared_->mutex);
    if (shared_->min == min && shared_->max == max) return absl::OkStatus();
  }
}

absl::Status ThreadPool::Start() {
  if (shared_->guard.InChild()) return shared_->guard.Error(shared_->name);
  {
    internal::MutexLock lock(shared_->mutex);
    if (shared_->state == Shared::kRunning) return absl::OkStatus();
    if (shared_->state != Shared::kNew) {
      return internal::MakeStatus(absl::StatusCode::kFailedPrecondition, shared_->name,
                                  ": Start after Stop");
    }
    shared_->state = Shared::kRunning;
  }
  absl::Status status = ResizeTeam();
  if (absl::IsResourceExhausted(status)) {  // it may be tried again
    internal::MutexLock lock(shared_->mutex);
    if (shared_->state == Shared::kRunning) shared_->state = Shared::kNew;
  }
  return status;
}

absl::Status ThreadPool::Stop(absl::Duration timeout) {
  Quit().IgnoreError();
  return team_->Join(timeout);
}

int64_t ThreadPool::QuitNow() {
  if (shared_->guard.InChild()) return 0;
  Quit().IgnoreError();
  return team_->QuitNow();
}

absl::Status ThreadPool::AdjustPoolSize(std::optional<int> min, std::optional<int> max) {
  if (shared_->guard.InChild()) return shared_->guard.Error(shared_->name);
  {
    internal::MutexLock lock(shared_->mutex);
    const int new_min = min.value_or(shared_->min);
    const int new_max = max.value_or(shared_->max);
    if (absl::Status status = CheckSize(shared_->name, new_min, new_max); !status.ok())
      return status;
    shared_->min = new_min;
    shared_->max = new_max;
    if (shared_->state != Shared::kRunning) return absl::OkStatus();
  }
  const absl::Status status = ResizeTeam();
  return IsAlreadyQuit(status) ? absl::OkStatus() : status;  // stopped meanwhile
}

absl::Status ThreadPool::StartAWorker() {
  if (absl::Status status = CheckRunning(); !status.ok()) return status;
  const absl::StatusOr<bool> grew = team_->GrowWithinLimits();
  if (!grew.ok()) return grew.status();
  if (*grew) return absl::OkStatus();
  return internal::MakeStatus(absl::StatusCode::kResourceExhausted, shared_->name,
                              ": has its maximum of ", max(), " threads");
}

absl::Status ThreadPool::StopAWorker() {
  if (absl::Status status = CheckRunning(); !status.ok()) return status;
  const absl::StatusOr<bool> shrank = team_->ShrinkWithinLimits();
  if (!shrank.ok()) return shrank.status();
  if (*shrank) return absl::OkStatus();
  return internal::MakeStatus(absl::StatusCode::kFailedPrecondition, shared_->name,
                              ": has its minimum of ", min(), " threads");
}

absl::Status ThreadPool::CheckRunning() const {
  if (shared_->guard.InChild()) return shared_->guard.Error(shared_->name);
  internal::MutexLock lock(shared_->mutex);
  if (shared_->state == Shared::kRunning) return absl::OkStatus();
  return internal::MakeStatus(absl::StatusCode::kFailedPrecondition, shared_->name,
                              ": is not running");
}

absl::Status ThreadPool::CallInThread(Work&& work) {
  Context context = Context::Current();
  if (!work || context.empty()) return Do(std::move(work));
  // Shared, so that a refusal can give the item back.
  std::shared_ptr<Work> kept;
  const absl::Status status = internal::WithoutBadAlloc(shared_->name, [&] {
    kept = std::make_shared<Work>(std::move(work));
    return Do([shared = shared_, context, kept] { shared->RunInContext(context, *kept); });
  });
  if (!status.ok() && kept != nullptr) work = std::move(*kept);
  return status;
}

absl::StatusOr<WorkHandle> ThreadPool::Enqueue(Work&& work, Work&& then) {
  Context context = Context::Current();
  if (!work || context.empty()) return team_->Enqueue(std::move(work), std::move(then));
  // Shared, so that a refusal can give the items back.
  struct Call {
    Work work;
    Work then;
  };
  std::shared_ptr<Call> call;
  absl::StatusOr<WorkHandle> handle = WorkHandle();
  try {
    call = std::make_shared<Call>();
    call->work = std::move(work);
    call->then = std::move(then);
    Work run_then;
    if (call->then) {
      run_then = [shared = shared_, context, call] { shared->RunInContext(context, call->then); };
    }
    handle = team_->Enqueue(
        [shared = shared_, context, call] { shared->RunInContext(context, call->work); },
        std::move(run_then));
  } catch (const std::bad_alloc&) {
    handle = internal::NoMemoryError(shared_->name);
  }
  if (!handle.ok() && call != nullptr) {
    work = std::move(call->work);
    then = std::move(call->then);
  }
  return handle;
}

std::string ThreadPool::DumpStats() const {
  const TeamStatistics now = team_->statistics();
  return absl::StrCat(shared_->name, ": ", now.live, " threads, ", now.idle, " waiting, ", now.busy,
                      " working, ", now.starting, " starting, ", now.ending, " ending; ",
                      now.backlogged, " items queued, ", now.completed, " completed, ", now.failed,
                      " failed, ", now.dropped, " dropped, ", now.refused, " refused");
}

const std::string& ThreadPool::name() const { return shared_->name; }
int ThreadPool::min() const {
  if (shared_->guard.InChild()) return 0;
  internal::MutexLock lock(shared_->mutex);
  return shared_->min;
}
int ThreadPool::max() const {
  if (shared_->guard.InChild()) return 0;
  internal::MutexLock lock(shared_->mutex);
  return shared_->max;
}
int ThreadPool::workers() const { return team_->staying(); }
int ThreadPool::waiters() const { return team_->statistics().idle; }
int ThreadPool::working() const { return team_->statistics().busy; }
int64_t ThreadPool::queued() const { return team_->statistics().backlogged; }
TeamStatistics ThreadPool::statistics() const { return team_->statistics(); }

absl::Status ThreadPool::Do(Work&& work) { return team_->Do(std::move(work)); }

absl::Status ThreadPool::Quit() {
  if (shared_->guard.InChild()) return shared_->guard.Error(shared_->name);
  {
    internal::MutexLock lock(shared_->mutex);
    if (shared_->state == Shared::kNew) shared_->state = Shared::kNeverStarted;
    if (shared_->state == Shared::kRunning) shared_->state = Shared::kDraining;
  }
  return team_->Quit();
}

}  // namespace workers
