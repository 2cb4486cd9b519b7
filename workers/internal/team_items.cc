#include "workers/internal/team_items.h"

#include <bit>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "workers/internal/make_status.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/worker_scope.h"

namespace workers::internal {
namespace {

// Submits `work` to a worker of the user's, whose Do may throw. OK also if it has thrown after it
// had accepted `work`.
absl::Status SubmitTo(IWorker& worker, Work& work, absl::string_view name,
                      const ErrorHandler& on_error) {
  absl::Status status;
  const absl::Status thrown = CatchToStatus([&] { status = worker.Do(std::move(work)); });
  if (thrown.ok()) return status;
  Report(on_error, name, thrown);
  return work ? thrown : absl::OkStatus();
}

}  // namespace

class TeamCore::JobWork {
 public:
  explicit JobWork(TeamWorkerPtr worker) : worker_(std::move(worker)) {}
  JobWork(JobWork&&) noexcept = default;
  ~JobWork() {
    if (worker_ != nullptr && worker_->job != nullptr) worker_->core->DropItem(*worker_);
  }
  void operator()() && {
    const TeamWorkerPtr worker = std::move(worker_);
    worker->core->RunItems(worker);
  }

 private:
  TeamWorkerPtr worker_;
};

class TeamCore::LastWork {
 public:
  explicit LastWork(TeamWorkerPtr worker) : worker_(std::move(worker)) {}
  LastWork(LastWork&&) noexcept = default;
  ~LastWork() {
    if (worker_ != nullptr) End(std::move(worker_));
  }
  void operator()() && { End(std::move(worker_)); }

 private:
  static void End(TeamWorkerPtr worker) {
    TeamCore& core = *worker->core;
    core.EndWorker(std::move(worker));
  }
  TeamWorkerPtr worker_;
};

TeamWorker::~TeamWorker() {
  if (worker != nullptr) core->Bury(std::move(worker));
}

// --- effects --------------------------------------------------------------------------------

// Performs `batch`, and what comes of it on this thread.
void TeamCore::Perform(Batch& batch) {
  if (batch.empty()) return;
  const std::shared_ptr<TeamCore> self = shared_from_this();
  bool over = false;
  {
    Performing here(*this);
    for (;;) {
      here.more = false;
      const bool counted = batch.IsCounted();
      PerformOnce(batch);
      if (!counted && !here.more) break;
      MutexLock lock(mutex_);
      performing_ -= counted;
      batch = std::exchange(pending_, Batch());
      performing_ += batch.IsCounted();
      over = IsOver();
      if (batch.empty()) break;
    }
  }
  if (over) TellTheEnd();
}

void TeamCore::PerformOnce(Batch& batch) {
  while (batch.run != nullptr) {
    GiveItem(static_cast<TeamWorker&>(*std::exchange(batch.run, batch.run->next)));
  }
  while (batch.retire != nullptr) {
    RetireWorker(static_cast<TeamWorker&>(*std::exchange(batch.retire, batch.retire->next)));
  }
  for (; batch.create != 0; batch.create &= batch.create - 1) {
    CreateWorker(std::countr_zero(batch.create));
  }
  for (size_t i = 0; i < batch.arm_count; ++i) ArmTimer(batch.arms[i]);
  DropItems(batch.dropped, "the team has quit, has no worker and cannot create one");
  if (batch.report_stall) {
    Report(on_error_, name_,
           MakeStatus(absl::StatusCode::kUnavailable, "stalled: for ",
                      absl::FormatDuration(stall_warning_),
                      " all workers have been blocked in a BlockingScope while work items waited"));
  }
  if (batch.end) End();
}

void TeamCore::GiveItem(TeamWorker& worker) {
  for (Runner* in = Runner::Innermost::Get(); in != nullptr; in = in->outer) {
    if (in->worker == &worker) {  // its thread is here: its queue would be the wrong way
      in->next = std::exchange(worker.job, nullptr);
      return;
    }
  }
  const TeamWorkerPtr held = worker.self;  // the item may be the worker's last
  Work run = JobWork(held);
  const absl::Status status = SubmitTo(*worker.worker, run, name_, on_error_);
  if (status.ok()) return;
  // The worker has quit by itself. The item goes back to its place in the backlog.
  Job* const job = std::exchange(worker.job, nullptr);
  run = nullptr;
  Report(on_error_, name_, status);
  std::unique_ptr<IWorker> refuser = std::move(worker.worker);
  if (job->since == absl::InfiniteDuration()) job->since = CoarseNow();
  const absl::Duration now = Now();
  TeamWorkerPtr self;
  Record([&] {
    mutex_.AssertHeld();
    worker.begun.store(true);
    if (waking_ == &worker) waking_ = nullptr;
    self = std::move(worker.self);
    backlog_.PutBack(job);
    if (job->handle != nullptr) {
      job->handle->job = job;
      job->handle->awaitable.queued = true;
    }
    plan_.WorkerRefused(worker, now);
    has_backlog_.store(true);
  });
}

void TeamCore::CreateWorker(int slot) {
  TeamWorkerPtr worker;
  absl::StatusOr<std::unique_ptr<IWorker>> made = nullptr;
  bool reported = false;
  try {
    worker = std::make_shared<TeamWorker>(shared_from_this());
  } catch (const std::bad_alloc&) {
    made = NoMemoryError(name_);
  }
  if (worker != nullptr) {
    made = absl::Status(absl::StatusCode::kUnknown, "");
    Work create = [this, &made] { made = create_worker_(); };
    reported = !RunWork(create, name_, on_error_);
  }
  if (made.ok() && *made != nullptr) {
    worker->worker = *std::move(made);
    const absl::Duration now = uses_time_ ? Now() : absl::ZeroDuration();
    return Record([&] {
      mutex_.AssertHeld();
      worker->self = worker;
      plan_.Created(slot, *worker, now);
    });
  }
  if (!made.ok() && !reported) Report(on_error_, name_, made.status());
  const absl::Duration now = Now();
  Record([&] {
    mutex_.AssertHeld();
    plan_.CreationFailed(slot, made.ok() ? TeamPlan::Failure::kNotNow : TeamPlan::Failure::kError,
                         now);
  });
}

// A refusal (it has quit by itself) destroys the last item here, and that ends the worker.
void TeamCore::RetireWorker(TeamWorker& worker) {
  const TeamWorkerPtr held = worker.self;
  Work last = LastWork(held);
  SubmitTo(*worker.worker, last, name_, on_error_).IgnoreError();
}

// The last act of a worker, or of whatever destroys its last item unrun.
void TeamCore::EndWorker(TeamWorkerPtr worker) {
  const absl::Status thrown = CatchToStatus([&] { worker->worker->Quit().IgnoreError(); });
  if (!thrown.ok()) Report(on_error_, name_, thrown);
  TeamWorkerPtr self;  // with `worker` the last reference, or one before it
  MutexLock lock(mutex_);
  self = std::move(worker->self);
}

void TeamCore::Bury(std::unique_ptr<IWorker> worker) {
  {
    MutexLock lock(mutex_);
    if (plan_.has_quit()) {  // for Join and the destructor, which wait for it
      try {
        ended_workers_.push_back(std::move(worker));
      } catch (const std::bad_alloc&) {  // then it is destroyed here
      }
    }
  }
  worker = nullptr;  // usually inside its own item: then its factory joins its thread
  Record([this] {
    mutex_.AssertHeld();
    plan_.WorkerEnded();
  });
}

void TeamCore::ArmTimer(const Arm& arm) {
  absl::Status status;
  const absl::Status thrown = CatchToStatus([&] {
    status = clock_->RunAt(arm.when, [weak = weak_from_this(), id = arm.id] {
      const std::shared_ptr<TeamCore> core = weak.lock();
      if (core == nullptr) return;
      const absl::Duration now = core->Now();
      core->Record([&] {
        core->mutex_.AssertHeld();
        core->plan_.TimerFired(id, now);
      });
    });
  });
  if (!thrown.ok()) status = thrown;
  if (status.ok()) return;
  Report(on_error_, name_, status);
  Record([&] {
    mutex_.AssertHeld();
    plan_.TimerRefused(arm.id);
  });
}

void TeamCore::DropItems(Job* jobs, absl::string_view why) {
  ReportDropped(on_error_, name_, Destroy(jobs), why);
}

// Destroys the items of a list, the oldest first, and counts them.
int64_t TeamCore::Destroy(Job* jobs) {
  int64_t count = 0;
  for (; jobs != nullptr; ++count) delete std::exchange(jobs, jobs->next);
  return count;
}

void TeamCore::End() {
  const absl::Status thrown = CatchToStatus([this] { coordinator_->Quit().IgnoreError(); });
  if (!thrown.ok()) Report(on_error_, name_, thrown);
  MutexLock lock(mutex_);
  ended_ = true;  // over when all have counted themselves out, this thread too
}

void TeamCore::TellTheEnd() {
  const std::shared_ptr<TeamCore> self = shared_from_this();
  Performing here(*this);  // the callback may destroy the team
  absl::AnyInvocable<void() &&> on_ended;
  {
    MutexLock lock(mutex_);
    if (std::exchange(told_, true)) return;
    on_ended = std::move(on_ended_);
  }
  over_.SignalAll();
  if (on_ended) RunWork(on_ended, name_, on_error_);
}

// --- on the workers -------------------------------------------------------------------------

void TeamCore::RunItems(const TeamWorkerPtr& worker) {
  Runner here = {this, worker.get(), Runner::Innermost::Get()};
  here.next = std::exchange(worker->job, nullptr);
  Runner::Innermost::Set(&here);
  absl::Cleanup leave = [&here] { Runner::Innermost::Set(here.outer); };
  // It is awake. If more items wait, the next worker is woken. (Sequentially consistent with
  // Accept, which publishes the backlog and then looks whether a wake-up is under way.)
  if (throttle_ && !worker->begun.exchange(true) && has_backlog_.load()) Record([] {});
  const auto run = [&] {
    while (here.next != nullptr) RunItem(*worker, std::exchange(here.next, nullptr));
  };
  // An item that ends its thread by force takes no other item with it.
  absl::Cleanup run_rest = run;
  run();
}

void TeamCore::RunItem(TeamWorker& worker, Job* job) {
  Runner& here = *Runner::Innermost::Get();
  here.working = true;
  if (job->handle != nullptr) {
    MutexLock lock(mutex_);
    StartItem(*job, &here);
  }
  bool completed = false;
  const auto finish = [&] {
    if (job == nullptr) return;
    here.working = false;
    const auto counter = completed ? &TeamStatistics::completed : &TeamStatistics::failed;
    Work then = std::move(job->then);
    const bool has_then = then != nullptr;
    Finished(worker, std::exchange(job, nullptr), counter, &here, has_then);
    if (!has_then) return;
    absl::Cleanup asleep = [&] {
      MutexLock lock(mutex_);
      worker.in_then = false;
    };
    RunWork(then, name_, on_error_);
  };
  absl::Cleanup finish_by_force = finish;  // where the item ends its thread
  const auto run = [&work = job->work] { work.Run(); };
  if (const IWorker* const team = team_.load(std::memory_order_acquire)) {
    WorkerScope scope(*team);
    completed = RunGuarded(run, name_, on_error_);
  } else {
    completed = RunGuarded(run, name_, on_error_);
  }
  finish();
}

// The worker has destroyed its item: it is idle, or refuses soon.
void TeamCore::DropItem(TeamWorker& worker) {
  Job* const job = std::exchange(worker.job, nullptr);
  {
    Performing here(*this);
    job->work.Reset();
    job->then = nullptr;
    ReportDropped(on_error_, name_, 1, "its worker destroyed it");
  }
  Finished(worker, job, &TeamStatistics::dropped, /*here=*/nullptr, /*in_then=*/false);
}

// `here` is null where the item was destroyed, usually on another thread than the worker's.
void TeamCore::Finished(TeamWorker& worker, Job* job, int64_t TeamStatistics::* counter,
                        Runner* here, bool in_then) {
  const absl::Duration now = uses_time_ ? Now() : absl::ZeroDuration();
  std::shared_ptr<HandleState> handle;  // released without the mutex
  {
    MutexLock lock(mutex_);
    handle = std::move(job->handle);
    if (handle != nullptr) handle->awaitable.runs_on = nullptr;
    worker.in_then = in_then;
    worker.begun.store(true);
    if (waking_ == &worker) waking_ = nullptr;
    KeepSpare(job);
    if (plan_.Finished(worker, counter, now, here != nullptr)) {
      here->next = backlog_.TakeFirst();
      StartItem(*here->next, nullptr);
      has_backlog_.store(backlog_.first() != nullptr);
    }
    if (!CountInIfNeeded()) return;
  }
  if (const absl::Status status = SubmitStepOrStatus(); !status.ok()) StepWasRefused(status);
  CountOut();
}

}  // namespace workers::internal
