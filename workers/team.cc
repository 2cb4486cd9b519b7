#include "workers/team.h"

#include <utility>

#include "workers/internal/make_status.h"
#include "workers/internal/report.h"
#include "workers/internal/team_core.h"
#include "workers/worker_scope.h"

namespace workers {
namespace {

absl::Status CheckOptions(const TeamOptions& options) {
  const TeamLimits& limits = options.limits;
  const auto invalid = [&options](absl::string_view why) {
    return internal::MakeStatus(absl::StatusCode::kInvalidArgument, options.name, ": ", why);
  };
  if (options.coordinator == nullptr) return invalid("there is no coordinator");
  if (!options.create_worker) return invalid("there is no create_worker");
  if (limits.min_workers < 0) return invalid("min_workers is negative");
  if (limits.hard_limit < limits.min_workers) return invalid("hard_limit is below min_workers");
  if (!(limits.growth_per_second >= 0)) return invalid("growth_per_second is negative");
  if (limits.idle_timeout < absl::ZeroDuration()) return invalid("idle_timeout is negative");
  if (limits.retry_after <= absl::ZeroDuration()) return invalid("retry_after is not positive");
  if (limits.stall_warning <= absl::ZeroDuration()) return invalid("stall_warning is not positive");
  if (limits.max_backlog < 1) return invalid("max_backlog is below 1");
  if (options.clock == nullptr &&
      (limits.growth_per_second > 0 || limits.idle_timeout != absl::InfiniteDuration() ||
       limits.stall_warning != absl::InfiniteDuration())) {
    return invalid("its limits name a duration, and there is no clock");
  }
  return absl::OkStatus();
}

absl::Status CheckCount(const internal::TeamCore& core, int n) {
  if (core.guard().InChild()) return core.guard().Error(core.name());
  if (n >= 0) return absl::OkStatus();
  return internal::MakeStatus(absl::StatusCode::kInvalidArgument, core.name(), ": ", n,
                              " workers are not possible");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Team>> Team::Create(TeamOptions options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  std::unique_ptr<Team> team(new Team(std::make_shared<internal::TeamCore>(std::move(options))));
  team->core_->Look();  // for min_workers
  return team;
}

Team::Team(std::shared_ptr<internal::TeamCore> core) : core_(std::move(core)) {
  core_->OwnerIs(this);
}

Team::~Team() {
  if (core_->guard().InChild()) {
    internal::ForkGuard::Leak(core_);  // its lock may be held by a thread of the parent
    return;
  }
  core_->Quit().IgnoreError();
  if (core_->IsOwnThread()) {
    WorkerScope::Forget(*this);
    core_->OwnerIs(nullptr);
    return;  // the core goes on until the last worker has ended
  }
  core_->Join(absl::InfiniteDuration()).IgnoreError();
  // Some thread may still be releasing its reference to the core.
  core_->ReleaseOwnerParts();
}

absl::Status Team::Do(Work&& work) {
  if (!work) return internal::EmptyWorkError(core_->name());
  if (core_->guard().InChild()) return core_->guard().Error(core_->name());
  return Submit(work, nullptr, nullptr);
}

absl::StatusOr<WorkHandle> Team::Enqueue(Work&& work, Work&& then) {
  if (!work) return internal::EmptyWorkError(core_->name());
  if (core_->guard().InChild()) return core_->guard().Error(core_->name());
  WorkHandle handle;
  if (absl::Status status = Submit(work, &then, &handle); !status.ok()) return status;
  return handle;
}

absl::Status Team::Submit(Work& work, Work* then, WorkHandle* handle) {
  internal::Job* const job = core_->NewJob();
  if (job == nullptr) return core_->Accept(nullptr, handle);
  job->work.Place(std::move(work));
  if (then != nullptr && *then) job->then = std::move(*then);
  internal::TeamCore& core = *core_;
  absl::Status status = core.Accept(job, handle);
  if (status.ok()) return status;
  job->work.GiveBackTo(work);
  if (job->then) *then = std::exchange(job->then, nullptr);
  core.KeepJob(job);
  return status;
}

internal::Job* Team::NewJob() { return core_->guard().InChild() ? nullptr : core_->NewJob(); }
void Team::KeepJob(internal::Job* job) { core_->KeepJob(job); }

absl::Status Team::Submit(internal::Job* job) {
  if (core_->guard().InChild()) return core_->guard().Error(core_->name());
  if (job != nullptr && job->work.empty()) return internal::EmptyWorkError(core_->name());
  return core_->Accept(job, nullptr);
}

absl::Status Team::Quit() {
  return core_->guard().InChild() ? core_->guard().Error(core_->name()) : core_->Quit();
}

absl::Status Team::Grow(int n) {
  if (absl::Status status = CheckCount(*core_, n); !status.ok()) return status;
  return core_->Resize([n](internal::TeamPlan& plan) { plan.Grow(n); });
}

absl::Status Team::Shrink(int n) {
  if (absl::Status status = CheckCount(*core_, n); !status.ok()) return status;
  return core_->Resize([n](internal::TeamPlan& plan) { plan.Shrink(n); });
}

absl::Status Team::SetSize(int min, int soft_limit) {
  if (absl::Status status = CheckCount(*core_, min); !status.ok()) return status;
  if (soft_limit < min || min > core_->hard_limit()) {
    return internal::MakeStatus(absl::StatusCode::kInvalidArgument, core_->name(), ": min ", min,
                                ", soft limit ", soft_limit, " and hard limit ",
                                core_->hard_limit(), " contradict each other");
  }
  return core_->Resize([=](internal::TeamPlan& plan) { plan.SetSize(min, soft_limit); });
}

absl::StatusOr<bool> Team::GrowWithinLimits() {
  bool grows = false;
  const absl::Status status = core_->Resize([&](internal::TeamPlan& plan) {
    grows = plan.AfterRequests().staying < plan.AfterRequests().soft_limit;
    if (grows) plan.Grow(1);
  });
  if (!status.ok()) return status;
  return grows;
}

absl::StatusOr<bool> Team::ShrinkWithinLimits() {
  bool shrinks = false;
  const absl::Status status = core_->Resize([&](internal::TeamPlan& plan) {
    shrinks = plan.AfterRequests().staying > plan.AfterRequests().min_workers;
    if (shrinks) plan.Shrink(1);
  });
  if (!status.ok()) return status;
  return shrinks;
}

int64_t Team::QuitNow() {
  if (core_->guard().InChild()) return 0;
  const std::shared_ptr<internal::TeamCore> core = core_;  // a capture may destroy this team
  return core->QuitNow();
}

absl::Status Team::Join(absl::Duration timeout) {
  return core_->guard().InChild() ? core_->guard().Error(core_->name()) : core_->Join(timeout);
}

TeamStatistics Team::statistics() const {
  return core_->guard().InChild() ? TeamStatistics() : core_->Statistics();
}

int Team::staying() const { return core_->guard().InChild() ? 0 : core_->Staying(); }

std::string Team::DebugString() const {
  return core_->guard().InChild() ? core_->name() : core_->DebugString();
}

bool WorkHandle::TryCancel() {
  const std::shared_ptr<internal::HandleState> state = state_;  // a capture may destroy the handle
  return state != nullptr && !state->core->guard().InChild() && state->core->TryCancel(*state);
}

bool WorkHandle::IsQueued() const {
  return state_ != nullptr && !state_->core->guard().InChild() && state_->core->IsQueued(*state_);
}

}  // namespace workers
