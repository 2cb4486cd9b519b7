// The part of a Team that threads share: facts are recorded, decisions made, effects performed.

#ifndef WORKERS_INTERNAL_TEAM_CORE_H_
#define WORKERS_INTERNAL_TEAM_CORE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "workers/internal/backlog.h"
#include "workers/internal/fork_guard.h"
#include "workers/internal/sync.h"
#include "workers/internal/team_plan.h"
#include "workers/internal/wait_registry.h"
#include "workers/team_options.h"
#include "workers/work_handle.h"
#include "workers/worker.h"

namespace workers::internal {

class TeamCore;

// What a WorkHandle knows. `awaitable` and `job` are guarded by the core's mutex.
struct HandleState {
  explicit HandleState(std::shared_ptr<TeamCore> core) : core(std::move(core)) {}
  const std::shared_ptr<TeamCore> core;
  Awaitable awaitable;
  Job* job = nullptr;  // while it is in the backlog
};

// One worker. It is destroyed by the thread that drops the last reference to its record, under no
// lock; then it has ended.
struct TeamWorker : PlannedWorker {
  explicit TeamWorker(std::shared_ptr<TeamCore> core) : core(std::move(core)) {}
  ~TeamWorker();

  const std::shared_ptr<TeamCore> core;
  std::unique_ptr<IWorker> worker;
  std::shared_ptr<TeamWorker> self;  // from its creation until it has quit; under the mutex
  Job* job = nullptr;  // assigned and not begun: passed from the performing thread to its own
  Atomic<bool> begun = true;  // the worker has not just been woken
};
using TeamWorkerPtr = std::shared_ptr<TeamWorker>;

// On the stack of a thread: the Team's item that it runs.
struct Runner {
  TeamCore* core;
  TeamWorker* worker;
  Runner* outer;
  Job* next = nullptr;   // the item that it runs after this one
  bool working = false;  // and not in a `then`, where the worker counts as idle
  int blocking = 0;      // BlockingScopes
  // Under the mutex.
  Waiter wait = {};
  std::shared_ptr<HandleState> awaited = nullptr;  // keeps what `wait` refers to

  using Innermost = ThreadLocalPointer<Runner>;
};

// One mutex guards all facts. A thread that comes with a fact records it under the mutex; if the
// plan needs a decision, it counts itself in (`inside_`) and submits a step to the coordinator. The
// step is: lock, decide, take the effects, unlock. The first thread that counts itself out after
// the decision performs all effects that are pending, under no lock (the coordinator's included);
// if none is counted in, the step performs them at its end. So with a LockWorker as coordinator
// the calling thread performs them, and with a MemoryWorker nothing happens before it is stepped.
class TeamCore : public std::enable_shared_from_this<TeamCore> {
 public:
  explicit TeamCore(TeamOptions options);
  ~TeamCore();

  // An empty job, which the caller owns, without the mutex in the steady state; null: no memory.
  Job* NewJob();
  void KeepJob(Job* job);  // takes an empty job back
  // Submits the items that were placed in `job`. OK: it is the team's; anything else: it is still
  // the caller's, and so are the items. A null `job` is refused for lack of memory. `handle`: where
  // to put a handle, or null.
  absl::Status Accept(Job* job, WorkHandle* handle);
  bool TryCancel(HandleState& state);
  bool IsQueued(const HandleState& state) const;
  absl::Status Quit();
  int64_t QuitNow();
  absl::Status Join(absl::Duration timeout);
  TeamStatistics Statistics() const;
  std::string DebugString() const;
  int Staying() const;

  // Records a request for another size. AlreadyQuit; ResourceExhausted: out of memory.
  absl::Status Resize(absl::FunctionRef<void(TeamPlan&)> request);

  void Look();  // decides at least once
  void Blocked(int change);
  absl::Status Awaits(Runner& runner, const WorkHandle& handle, bool has_deadline);
  void AwaitsNoMore(Runner& runner);

  // Does this thread run an item of the team, perform its effects or step its coordinator? Then
  // nothing waits for the team.
  bool IsOwnThread() const;
  void ReleaseOwnerParts();  // after the end: what has threads, or is the user's
  void OwnerIs(const IWorker* team) { team_.store(team); }

  const std::string& name() const { return name_; }
  const ForkGuard& guard() const { return guard_; }
  int hard_limit() const { return hard_limit_; }

 private:
  friend struct TeamWorker;

  struct Arm {
    int64_t id;
    absl::Duration when;
  };
  // Effects that are to be performed.
  struct Batch {
    PlannedWorker* run = nullptr;
    PlannedWorker* retire = nullptr;
    uint32_t create = 0;
    std::array<Arm, 8> arms = {};
    size_t arm_count = 0;
    Job* dropped = nullptr;
    bool report_stall = false;
    bool end = false;

    bool empty() const {
      return run == nullptr && retire == nullptr && create == 0 && !IsCounted();
    }
    // The others are tied to a worker that has not ended. These are not, and the end waits for
    // whoever performs them.
    bool IsCounted() const { return arm_count > 0 || dropped != nullptr || report_stall || end; }
  };
  // On the stack of a thread that performs effects, or destroys items. Further effects wait for it.
  struct Performing;
  // What the coordinator and the workers receive: 16 bytes each, so that nothing is allocated.
  // Destroyed unrun, each does what has to follow.
  class StepWork;
  class JobWork;
  class LastWork;

  // Records a fact, and does all that follows.
  void Record(absl::FunctionRef<void()> fact);
  bool CountInIfNeeded() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status SubmitStepOrStatus();
  void StepWasRefused(const absl::Status& status);
  void PerformPending();
  void Decide();
  void TakeEffects(TeamEffects& effects) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountOut();
  void WithoutCoordinator();
  void StepWasDestroyed();
  bool TakeBack(int64_t number);

  void Perform(Batch& batch);
  void PerformOnce(Batch& batch);
  void GiveItem(TeamWorker& worker);
  void CreateWorker(int slot);
  void RetireWorker(TeamWorker& worker);
  void EndWorker(TeamWorkerPtr worker);
  void Bury(std::unique_ptr<IWorker> worker);
  void ArmTimer(const Arm& arm);
  void DropItems(Job* jobs, absl::string_view why);
  void End();
  void TellTheEnd();

  void RunItems(const TeamWorkerPtr& worker);
  void RunItem(TeamWorker& worker, Job* job);
  void DropItem(TeamWorker& worker);
  void Finished(TeamWorker& worker, Job* job, int64_t TeamStatistics::* counter, Runner* here,
                bool in_then);
  void StartItem(Job& job, Runner* here) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Duration Now() const;
  absl::Duration CoarseNow() const;
  absl::Duration ReadClock(absl::FunctionRef<absl::Duration()> read) const;
  bool IsWaking() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return waking_ != nullptr && !waking_->begun.load();
  }
  bool IsOver() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ended_ && inside_ == 0 && performing_ == 0;
  }
  void KeepSpare(Job* job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Job* TakeBacklog() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static int64_t Destroy(Job* jobs);

  // Immutable.
  const std::string name_;
  const absl::Status already_quit_;
  const ErrorHandler on_error_;
  Clock* const clock_;
  const bool throttle_;
  const bool uses_time_;  // the limits name a duration
  const int64_t max_backlog_;
  const int hard_limit_;
  const absl::Duration stall_warning_;
  const ForkGuard guard_;

  // No thread submits to the one or calls the other any more when ReleaseOwnerParts takes them.
  std::unique_ptr<IExclusiveWorker> coordinator_;
  WorkerFactory create_worker_;

  // Any thread.
  Atomic<const IWorker*> team_ = nullptr;  // null once it is destroyed
  Atomic<Job*> next_job_ = nullptr;        // a spare one, for the next NewJob
  Atomic<bool> has_spare_ = false;         // written under the mutex: the backlog has spare jobs
  Atomic<bool> has_backlog_ = false;       // written under the mutex; read by workers that wake
  Atomic<bool> likely_to_wait_ = false;    // the next item; only saves a second attempt

  // A leaf: nothing else is acquired, and no user code called, under it.
  mutable Mutex mutex_;
  CondVar over_;
  TeamPlan plan_ ABSL_GUARDED_BY(mutex_);
  Backlog backlog_ ABSL_GUARDED_BY(mutex_);
  WaitRegistry waits_ ABSL_GUARDED_BY(mutex_);
  Batch pending_ ABSL_GUARDED_BY(mutex_);
  int64_t next_number_ ABSL_GUARDED_BY(mutex_) = 0;
  int inside_ ABSL_GUARDED_BY(mutex_) = 0;                // threads that have recorded a fact
  int performing_ ABSL_GUARDED_BY(mutex_) = 0;            // threads that perform counted effects
  TeamWorker* waking_ ABSL_GUARDED_BY(mutex_) = nullptr;  // the worker that was woken last
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_ ABSL_GUARDED_BY(mutex_) = false;
  absl::AnyInvocable<void() &&> on_ended_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<IWorker>> ended_workers_ ABSL_GUARDED_BY(mutex_);  // to be joined
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_TEAM_CORE_H_
