#include "workers/team.h"

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/internal/sync.h"
#include "workers/worker_scope.h"

namespace workers {
namespace {

constexpr absl::Duration kMostRetryDelay = absl::Seconds(1);
constexpr int kMostStarting = 16;        // at once, by Grow
constexpr int64_t kMostSpare = 1 << 16;  // jobs; the rest goes back to the heap

// One accepted work, from Do to its end. Spare ones are kept at the desk.
struct Job {
  Job* next = nullptr;
  Job* before = nullptr;    // in the backlog
  int64_t number = 0;       // in the order of Do
  bool has_ticket = false;  // it is found by its number while it is in the backlog
  Work work;
  Work then;
  absl::Duration since =
      absl::InfiniteDuration();  // when it was given; infinite where it does not have to wait
};

}  // namespace

// Two rooms. The desk, under a mutex that is never held across foreign code, is where everybody
// comes: the backlog, events for the coordinator, effects for whoever carries them out. The
// coordinator's room is what the coordinator alone looks at: who is idle, how many there are.
//
// Each visit: leave an event (or a job) at the desk, count in as a submitter, nudge the
// coordinator, count out, carry out the effects that lie at the desk. The coordinator takes the
// events, decides, and lays effects on the desk; it carries them out itself only if no submitter
// is there to do it. So with a LockWorker nothing foreign runs under its lock, with a ThreadWorker
// effects run at the end of its step, and with a MemoryWorker nothing happens before its step.
//
// With one_wake_at_a_time two ways lead past the coordinator, and what it published tells when:
// Do need not nudge where the coordinator would leave the job in the backlog, for somebody who
// surely comes back; and a worker whose work has ended takes the next job where the coordinator
// would have given it just that.
struct Team::Core : public std::enable_shared_from_this<Team::Core> {
  // One worker. Shared by the room, the worker's works and effects.
  struct Record {
    explicit Record(std::shared_ptr<Core> core, std::unique_ptr<IWorker> worker)
        : core(std::move(core)), worker(std::move(worker)) {}

    const std::shared_ptr<Core> core;
    std::unique_ptr<IWorker> worker;  // whoever carries out its end takes it

    // Under the desk. What a giver gives may be over, and be the worker's last, before the giver's
    // Do returns: of the two the later destroys the worker.
    int givers = 0;
    bool at_end = false;   // it has done its last work
    bool waking = false;   // was given a job in its sleep, and has not begun it
    bool in_then = false;  // awake, although it counts as idle
    bool worked = false;   // at least once

    // The job that it was given and has not begun: handed from whoever gives it to its thread.
    Job* job = nullptr;

    // The coordinator's.
    absl::Duration idle_since;
  };
  using RecordPtr = std::shared_ptr<Record>;

  struct Event {
    enum Kind {
      kLook,      // a job, a poke, a quit: only look
      kTimer,     // what was armed has come
      kFinished,  // `record`'s work has ended
      kCreated,   // `worker` was made
      kNotNow,    // create_worker made nothing
      kFailed,    // create_worker failed
      kRefused,   // `record` took no work: it has quit on its own
      kEnded,     // `record` has done its last work
      kGrow,      // by `n`
      kShrink,    // by `n`
      kFit,       // to at least `n` and at most `most`
      kBlocked,   // by `n`
      kNotArmed,  // the clock refused
    } kind;
    int n = 0;
    RecordPtr record = {};
    std::unique_ptr<IWorker> worker = {};
    int most = 0;
  };

  struct Effect {
    enum Kind { kRun, kCreate, kRetire, kArm, kDrop, kTellOfStall, kTerminate } kind;
    RecordPtr record = {};
    Job* jobs = nullptr;  // kRun: one; kDrop: all of a list
    absl::Duration when = {};
  };
  using Effects = absl::InlinedVector<Effect, 4>;

  // What the coordinator and the workers are given: 16 bytes each, so that nothing is allocated.
  // Destroyed unrun, each does what has to follow.
  class NudgeWork;
  class JobWork;
  class LastWork;

  // On the stack of a thread: the Team's work that it is in.
  struct InJob {
    Core* core;
    Record* record;
    InJob* outer;
    Job* next = nullptr;   // given to this very worker when it could take it at once
    bool working = false;  // and not in a `then`, where it counts as idle
    int blocking = 0;      // BlockingScopes
  };
  using InnermostJob = internal::ThreadLocalPointer<InJob>;

  // On the stack of a thread: that it carries out effects, or destroys works. Further effects
  // wait for it, and it must not wait for them.
  struct CarryingOut {
    explicit CarryingOut(Core& core) : core(&core), outer(Innermost::Get()) {
      Innermost::Set(this);
    }
    ~CarryingOut() { Innermost::Set(outer); }
    CarryingOut(const CarryingOut&) = delete;
    CarryingOut& operator=(const CarryingOut&) = delete;
    static bool Is(const Core& core) {
      for (const CarryingOut* at = Innermost::Get(); at != nullptr; at = at->outer) {
        if (at->core == &core) return true;
      }
      return false;
    }
    using Innermost = internal::ThreadLocalPointer<CarryingOut>;
    Core* const core;
    CarryingOut* const outer;
  };

  // Whose nudge this thread is destroying, because the coordinator refused it.
  using RefusedNudge = internal::ThreadLocalPointer<Core>;

  explicit Core(TeamOptions options)
      : name(std::move(options.name)),
        limits(std::move(options.limits)),
        on_error(std::move(options.on_error)),
        clock(options.clock),
        one_wake_at_a_time(options.one_wake_at_a_time),
        coordinator(std::move(options.coordinator)),
        create_worker(std::move(options.create_worker)) {
    // So that a Do does not meet the growth: more are together only while many workers come or go.
    inbox.reserve(kEvents);
    events.reserve(kEvents);
  }
  ~Core();

  static constexpr size_t kEvents = 16;

  // --- visits: any thread -----------------------------------------------------------------

  absl::Status Accept(Work&& work, Work&& then, Ticket* ticket);
  int AskSoftLimit() const;
  bool MayGrow(int soft_limit) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(desk);
  bool NeedsNudge(int soft_limit) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(desk);
  bool TakeBack(int64_t number, Work& work, Work& then);
  bool Withdraw(int64_t number);
  bool IsBacklogged(int64_t number) const;
  absl::Status Awaits(const InJob* waiter, int64_t number);
  void AwaitsNoMore(const InJob* waiter);
  void Submit(Event event);
  absl::Status Quit();
  absl::Status Resize(Event event);
  int64_t QuitNow();
  absl::Status Join(absl::Duration timeout);
  TeamStatistics Statistics() const;

  bool Nudge();
  void Leave();
  void WithoutCoordinator();
  void CoordinatorIsGone();
  void Exit();
  bool IsOver() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(desk) {
    return terminated && submitters == 0 && carrying == 0;
  }

  // --- decisions: works of the coordinator ------------------------------------------------

  // Tells clang what a nudge knows: it is a work of the coordinator, or stands in for it. (It may
  // come when the coordinator is no more: nothing is looked at here.)
  void AssertCoordinates() const ABSL_ASSERT_EXCLUSIVE_LOCK(*coordinator) {}

  void Coordinate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  void TryAgainForWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  void TryAgain() ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  void Handle(Event& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  void Grow(int n) ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  void Shrink(int n) ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  void CreationFailed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  int DecideSoftLimit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  void DecideStall(absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator, desk);
  void Decide(int soft_limit, absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator, desk);
  void DecideGrowth(int64_t wanted, absl::Duration now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator, desk);
  void DecideRelease(absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator, desk);
  void DecideEnd() ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator, desk);
  void Publish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator, desk);
  bool MayCreate(int soft_limit) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  void Create() ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  void Retire(RecordPtr record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  void WakeAt(absl::Duration when) ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  void RetryLater() ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator);
  int Live() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator) {
    return static_cast<int>(idle.size()) + busy + starting + ending;
  }
  // Those that are neither leaving nor marked to leave.
  int Staying() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(*coordinator) {
    return Live() - ending - marked_busy - marked_starting;
  }

  // --- effects: under no lock -------------------------------------------------------------

  void CarryOutAll();
  void CarryOut(Effect& effect);
  void GiveJob(RecordPtr record, Job* job);
  void CreateOne();
  void RetireOne(const RecordPtr& record);
  absl::Status Give(const RecordPtr& record, Work& work);
  void EndOne(const RecordPtr& record);
  void BuryOne(const RecordPtr& record);
  void Terminate();

  // --- on the workers ---------------------------------------------------------------------

  void Begun(Record& record);
  void NoLongerWaking(Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(desk);
  void RunJobs(const RecordPtr& record);
  void RunJob(const RecordPtr& record, Job* job);
  void DropJob(const RecordPtr& record);
  void Finished(const RecordPtr& record, Job* job, int64_t TeamStatistics::* counter, InJob* here,
                bool in_then);
  bool IsOwnThread() const;

  absl::Duration Now() const { return clock != nullptr ? clock->Now() : internal::SteadyNow(); }
  absl::Duration CoarseNow() const {
    return clock != nullptr ? clock->CoarseNow() : internal::CoarseSteadyNow();
  }
  int64_t Destroy(Job* jobs);
  bool IsForked() const { return fork_count != internal::ForkCount::Get(); }
  absl::Status ForkedError() const {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": its workers belong to the parent of this forked process"));
  }

  Job* NewJob() ABSL_EXCLUSIVE_LOCKS_REQUIRED(desk);
  void KeepJob(Job* job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(desk);
  void Insert(Job* job, Job* before) ABSL_EXCLUSIVE_LOCKS_REQUIRED(desk);
  void Remove(Job* job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(desk);
  Job* TakeFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(desk);
  Job* TakeBacklog() ABSL_EXCLUSIVE_LOCKS_REQUIRED(desk);

  // Immutable.
  const std::string name;
  const TeamLimits limits;
  const ErrorHandler on_error;
  Clock* const clock;
  const bool one_wake_at_a_time;
  const bool looks_at_the_clock = limits.growth_per_second > 0 ||
                                  limits.idle_timeout != absl::InfiniteDuration() ||
                                  limits.stall_warning != absl::InfiniteDuration();
  const int fork_count = internal::ForkCount::Get();

  // Nobody nudges the one or carries out the other any more when ~Team takes them away.
  std::unique_ptr<IExclusiveWorker> coordinator;
  std::function<absl::StatusOr<std::unique_ptr<IWorker>>()> create_worker;

  // Any thread.
  internal::Atomic<const Team*> team = nullptr;   // null once it is destroyed
  internal::Atomic<bool> likely_to_wait = false;  // the next job; only saves a second look

  // The desk: any thread. A leaf: nothing else is acquired, and nothing foreign called, under it.
  mutable internal::Mutex desk;
  internal::CondVar ended;  // IsOver
  int64_t next_number ABSL_GUARDED_BY(desk) = 0;
  Job* backlog ABSL_GUARDED_BY(desk) = nullptr;
  Job* backlog_tail ABSL_GUARDED_BY(desk) = nullptr;
  absl::flat_hash_map<int64_t, Job*> tickets ABSL_GUARDED_BY(desk);  // of the backlog
  // Who waits in a BlockingScope for the work of which number.
  absl::flat_hash_map<const InJob*, int64_t> waiters ABSL_GUARDED_BY(desk);
  Job* spare ABSL_GUARDED_BY(desk) = nullptr;
  int64_t spare_count ABSL_GUARDED_BY(desk) = 0;
  std::vector<Event> inbox ABSL_GUARDED_BY(desk);
  Effects outbox ABSL_GUARDED_BY(desk);
  int submitters ABSL_GUARDED_BY(desk) = 0;
  int carrying ABSL_GUARDED_BY(desk) = 0;  // threads that decide or carry out effects
  bool quit ABSL_GUARDED_BY(desk) = false;
  bool closing ABSL_GUARDED_BY(desk) = false;     // all is decided: the coordinator quits
  bool terminated ABSL_GUARDED_BY(desk) = false;  // it has
  TeamStatistics published ABSL_GUARDED_BY(desk);
  int waking ABSL_GUARDED_BY(desk) = 0;         // records
  bool may_take ABSL_GUARDED_BY(desk) = false;  // who has finished may take the next job
  int takers ABSL_GUARDED_BY(desk) = 0;         // idle, or being made and not marked to leave
  bool release_put_off ABSL_GUARDED_BY(desk) = false;  // until who is being woken has begun
  std::vector<std::unique_ptr<IWorker>> ended_workers ABSL_GUARDED_BY(desk);  // to be joined

  // The room: the coordinator's.
  std::vector<Event> events ABSL_GUARDED_BY(*coordinator);
  Effects decided ABSL_GUARDED_BY(*coordinator);
  std::vector<RecordPtr> idle ABSL_GUARDED_BY(*coordinator);  // the longest idle first
  int busy ABSL_GUARDED_BY(*coordinator) = 0;
  int starting ABSL_GUARDED_BY(*coordinator) = 0;
  int marked_busy ABSL_GUARDED_BY(*coordinator) = 0;      // leave when their work has ended
  int marked_starting ABSL_GUARDED_BY(*coordinator) = 0;  // leave when they are made
  int ending ABSL_GUARDED_BY(*coordinator) = 0;
  int blocked ABSL_GUARDED_BY(*coordinator) = 0;
  int64_t created ABSL_GUARDED_BY(*coordinator) = 0;
  int64_t failures ABSL_GUARDED_BY(*coordinator) = 0;
  int64_t seen_accepted ABSL_GUARDED_BY(*coordinator) = 0;
  int last_soft_limit ABSL_GUARDED_BY(*coordinator) = 0;     // where asking throws
  int refused_in_a_row ABSL_GUARDED_BY(*coordinator) = 0;    // by workers that never worked
  int to_grow ABSL_GUARDED_BY(*coordinator) = 0;             // still to be made for Grow
  int least ABSL_GUARDED_BY(*coordinator) = 0;               // that Fit has just asked for
  bool hold_creation ABSL_GUARDED_BY(*coordinator) = false;  // one has just failed
  bool hold_arming ABSL_GUARDED_BY(*coordinator) = false;    // likewise
  absl::Duration retry_delay ABSL_GUARDED_BY(*coordinator) = absl::ZeroDuration();
  absl::Duration next_growth ABSL_GUARDED_BY(*coordinator) = absl::InfiniteDuration();
  absl::Duration armed_for ABSL_GUARDED_BY(*coordinator) = absl::InfiniteDuration();
  absl::Duration stalled_since ABSL_GUARDED_BY(*coordinator) = absl::InfiniteDuration();
  bool told_of_stall ABSL_GUARDED_BY(*coordinator) = false;
  bool quitting ABSL_GUARDED_BY(*coordinator) = false;  // `quit`, as of the last look
  bool terminating ABSL_GUARDED_BY(*coordinator) = false;

  // Stands in for a coordinator that is gone (somebody destroyed what steps it).
  internal::Mutex without_coordinator;
};

// --- what is given away ---------------------------------------------------------------------

class Team::Core::NudgeWork {
 public:
  explicit NudgeWork(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  NudgeWork(NudgeWork&&) noexcept = default;
  ~NudgeWork() {
    if (core_ != nullptr && RefusedNudge::Get() != core_.get()) core_->CoordinatorIsGone();
  }
  void operator()() && {
    const std::shared_ptr<Core> core = std::move(core_);
    core->AssertCoordinates();
    core->Coordinate();
  }

 private:
  std::shared_ptr<Core> core_;
};

class Team::Core::JobWork {
 public:
  explicit JobWork(RecordPtr record) : record_(std::move(record)) {}
  JobWork(JobWork&&) noexcept = default;
  ~JobWork() {
    if (record_ != nullptr && record_->job != nullptr) record_->core->DropJob(record_);
  }
  void operator()() && {
    const RecordPtr record = std::move(record_);
    record->core->RunJobs(record);
  }

 private:
  RecordPtr record_;
};

class Team::Core::LastWork {
 public:
  explicit LastWork(RecordPtr record) : record_(std::move(record)) {}
  LastWork(LastWork&&) noexcept = default;
  ~LastWork() {
    if (record_ != nullptr) record_->core->EndOne(record_);
  }
  void operator()() && {
    const RecordPtr record = std::move(record_);
    record->core->EndOne(record);
  }

 private:
  RecordPtr record_;
};

// --- visits ---------------------------------------------------------------------------------

Team::Core::~Core() {
  while (spare != nullptr) delete std::exchange(spare, spare->next);
}

// The caller has no share of the core: as soon as the desk is free, the work may run, and be the
// end of all.
absl::Status Team::Core::Accept(Work&& work, Work&& then, Ticket* ticket) {
  int64_t number;
  std::shared_ptr<Core> self;
  const int soft_limit = one_wake_at_a_time ? AskSoftLimit() : 0;
  for (bool waits = likely_to_wait.load(std::memory_order_relaxed);; waits = true) {
    const absl::Duration now = waits ? CoarseNow() : absl::InfiniteDuration();
    internal::MutexLock lock(desk);
    if (quit) {
      ++published.refused;
      return AlreadyQuitError(name);
    }
    if (published.backlogged - published.idle >= limits.max_backlog) {
      ++published.refused;
      return absl::ResourceExhaustedError(
          absl::StrCat(name, ": the backlog is full, ", limits.max_backlog, " works"));
    }
    const bool must_wait = published.idle <= published.backlogged || waking > 0 || !inbox.empty();
    if (must_wait != waits) likely_to_wait.store(must_wait, std::memory_order_relaxed);
    if (must_wait && !waits) continue;  // once more, with the time
    Job* const job = NewJob();
    job->number = number = next_number++;
    job->work = std::move(work);
    if (then) job->then = std::move(then);
    job->since = now;
    job->has_ticket = ticket != nullptr;
    Insert(job, backlog == nullptr ? nullptr : backlog_tail);
    ++published.accepted;
    if (ticket != nullptr) *ticket = Ticket(shared_from_this(), job->number);
    if (!NeedsNudge(soft_limit)) return absl::OkStatus();
    ++submitters;
    self = shared_from_this();
    break;
  }
  bool given_back = false;
  if (!Nudge()) {
    given_back = TakeBack(number, work, then);
    WithoutCoordinator();
  }
  Leave();
  return given_back ? AlreadyQuitError(name) : absl::OkStatus();
}

// Under no lock; the coordinator asks again, and reports what is thrown.
int Team::Core::AskSoftLimit() const {
  constexpr int kNone = std::numeric_limits<int>::max();
  int limit = kNone;
  if (limits.soft_limit && !internal::CatchToStatus([&] { limit = limits.soft_limit(); }).ok()) {
    return kNone;
  }
  return limit;
}

// May the coordinator have one more worker made for the backlog, at once or by and by?
bool Team::Core::MayGrow(int soft_limit) const {
  return published.backlogged > takers && published.live < limits.hard_limit &&
         (published.live - published.blocked < soft_limit || limits.growth_per_second > 0);
}

// A job has just come. False: the coordinator would leave it where it is, and somebody is on the
// way who looks after it.
bool Team::Core::NeedsNudge(int soft_limit) const {
  return !one_wake_at_a_time || published.busy + published.starting == 0 ||
         (published.idle > 0 && waking == 0) || MayGrow(soft_limit) ||
         published.blocked == published.live;
}

// The coordinator is gone: takes a job that nobody has looked at back. (By its number: it may have
// been taken and have ended, and be another's by now.)
bool Team::Core::TakeBack(int64_t number, Work& work, Work& then) {
  internal::MutexLock lock(desk);
  Job* job = backlog;
  while (job != nullptr && job->number != number) job = job->next;
  if (job == nullptr) return false;
  Remove(job);
  work = std::move(job->work);
  then = std::move(job->then);
  KeepJob(job);
  --published.accepted;
  ++published.refused;
  return true;
}

bool Team::Core::Withdraw(int64_t number) {
  Work work, then;  // destroyed at the end of it, under no lock
  {
    internal::MutexLock lock(desk);
    const auto found = tickets.find(number);
    if (found == tickets.end()) return false;
    Job* const job = found->second;
    Remove(job);
    work = std::move(job->work);
    then = std::move(job->then);
    KeepJob(job);
    ++published.withdrawn;
    if (!quit && (backlog != nullptr || published.blocked < published.live)) return true;
  }
  Submit({Event::kLook});  // that may have been the last, or the end of a stall
  return true;
}

bool Team::Core::IsBacklogged(int64_t number) const {
  internal::MutexLock lock(desk);
  return tickets.contains(number);
}

// A worker never comes for any of them if all there may be wait for one of them.
absl::Status Team::Core::Awaits(const InJob* waiter, int64_t number) {
  internal::MutexLock lock(desk);
  waiters[waiter] = number;
  if (published.live < limits.hard_limit || static_cast<int>(waiters.size()) < published.live) {
    return absl::OkStatus();
  }
  for (const auto& [_, awaited] : waiters) {
    if (!tickets.contains(awaited)) return absl::OkStatus();
  }
  waiters.erase(waiter);
  return absl::FailedPreconditionError(absl::StrCat(
      name, ": the work waited for would never begin: it stands in the backlog, and all ",
      published.live, " workers, the hard limit, wait for works in it"));
}

void Team::Core::AwaitsNoMore(const InJob* waiter) {
  internal::MutexLock lock(desk);
  waiters.erase(waiter);
}

void Team::Core::Submit(Event event) {
  {
    internal::MutexLock lock(desk);
    if (closing) return;  // all is decided
    inbox.push_back(std::move(event));
    ++submitters;
  }
  if (!Nudge()) WithoutCoordinator();
  Leave();
}

// Has the coordinator look. False: it never will again.
bool Team::Core::Nudge() {
  Work nudge = NudgeWork(shared_from_this());
  const absl::Status status = coordinator->Do(std::move(nudge));
  if (status.ok()) return true;
  Core* const outer = RefusedNudge::Get();
  RefusedNudge::Set(this);
  nudge = nullptr;
  RefusedNudge::Set(outer);
  return !IsAlreadyQuit(status);  // a full one has nudges enough
}

// The coordinator has quit. Either all was decided, and it was we who had it quit; or what steps
// it was destroyed: then nothing more can be taken, and nobody else decides.
void Team::Core::WithoutCoordinator() {
  Job* jobs;
  {
    internal::MutexLock lock(desk);
    if (closing) return;
    quit = true;
    jobs = TakeBacklog();
  }
  {
    CarryingOut here(*this);
    internal::ReportDropped(on_error, name, Destroy(jobs), "the team's coordinator is gone");
  }
  internal::MutexLock lock(without_coordinator);
  AssertCoordinates();
  Coordinate();
}

void Team::Core::Exit() {
  bool over;
  {
    internal::MutexLock lock(desk);
    --carrying;
    over = IsOver();
  }
  if (over) ended.SignalAll();
}

void Team::Core::Leave() {
  bool any;
  bool over;
  {
    internal::MutexLock lock(desk);
    --submitters;
    any = !outbox.empty();
    over = IsOver();
  }
  if (any) CarryOutAll();
  if (over) ended.SignalAll();
}

// A nudge was destroyed unrun.
void Team::Core::CoordinatorIsGone() {
  {
    internal::MutexLock lock(desk);
    ++submitters;
  }
  WithoutCoordinator();
  Leave();
}

absl::Status Team::Core::Quit() {
  {
    internal::MutexLock lock(desk);
    if (quit) return AlreadyQuitError(name);
    quit = true;
  }
  Submit({Event::kLook});
  return absl::OkStatus();
}

absl::Status Team::Core::Resize(Event event) {
  if (IsForked()) return ForkedError();
  if (event.n < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": ", event.n, " workers are not possible"));
  }
  {
    internal::MutexLock lock(desk);
    if (quit) return AlreadyQuitError(name);
  }
  Submit(std::move(event));
  return absl::OkStatus();
}

int64_t Team::Core::QuitNow() {
  Job* jobs;
  {
    internal::MutexLock lock(desk);
    quit = true;
    jobs = TakeBacklog();
  }
  int64_t dropped;
  {
    CarryingOut here(*this);
    dropped = Destroy(jobs);
  }
  Submit({Event::kLook});
  return dropped;
}

absl::Status Team::Core::Join(absl::Duration timeout) {
  if (IsOwnThread()) {
    return absl::FailedPreconditionError(absl::StrCat(name, ": Join in one of its own works"));
  }
  const absl::Duration deadline = internal::SteadyNow() + timeout;
  std::vector<std::unique_ptr<IWorker>> joined;  // by their destructors, without the lock
  internal::MutexLock lock(desk);
  if (!quit) return absl::FailedPreconditionError(absl::StrCat(name, ": Join before Quit"));
  while (!IsOver()) {
    if (internal::SteadyNow() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat(name, ": not all workers ended in time"));
    }
    ended.WaitUntil(desk, deadline);
  }
  joined.swap(ended_workers);
  return absl::OkStatus();
}

TeamStatistics Team::Core::Statistics() const {
  absl::Duration since;
  TeamStatistics statistics;
  {
    internal::MutexLock lock(desk);
    statistics = published;
    if (backlog == nullptr) return statistics;
    since = backlog->since;
  }
  if (since != absl::InfiniteDuration()) statistics.oldest_wait = Now() - since;
  return statistics;
}

bool Team::Core::IsOwnThread() const {
  for (const InJob* in = InnermostJob::Get(); in != nullptr; in = in->outer) {
    if (in->core == this) return true;
  }
  return CarryingOut::Is(*this) || WorkerScope::RunsIn(*coordinator);
}

// --- decisions ------------------------------------------------------------------------------

void Team::Core::Coordinate() {
  {
    internal::MutexLock lock(desk);
    if (closing) return;  // all is decided, and the coordinator may be about to be destroyed
    ++carrying;
    events.swap(inbox);
    quitting = quit;
    if (std::exchange(seen_accepted, published.accepted) != published.accepted) TryAgainForWork();
  }
  bool inside = true;
  absl::Cleanup leave([this, &inside] {
    if (inside) Exit();
  });
  for (Event& event : events) Handle(event);
  events.clear();
  const absl::Duration now = looks_at_the_clock ? Now() : absl::ZeroDuration();
  const int soft_limit = DecideSoftLimit();
  {
    internal::MutexLock lock(desk);
    quitting = quit;
    Decide(soft_limit, now);
    Publish();
    for (Effect& effect : decided) outbox.push_back(std::move(effect));
    decided.clear();
    if (submitters > 0) {  // one of them carries out what lies there, and signals the end
      --carrying;
      inside = false;
      return;
    }
  }
  CarryOutAll();
}

// Something has happened: what failed may be tried again. (That the coordinator was nudged is no
// news: there can be more nudges than events.)
void Team::Core::TryAgain() {
  hold_creation = false;
  hold_arming = false;
}

// Works come and end all the time: while a worker lives, and the clock tells when to try again,
// they do not make a flood of failures out of one.
void Team::Core::TryAgainForWork() {
  if (armed_for == absl::InfiniteDuration() || Live() == 0) TryAgain();
}

void Team::Core::Handle(Event& event) {
  const bool failure = event.kind == Event::kFailed || event.kind == Event::kNotNow ||
                       event.kind == Event::kRefused || event.kind == Event::kNotArmed;
  if (event.kind == Event::kFinished) {
    TryAgainForWork();
  } else if (!failure) {
    TryAgain();
  }
  switch (event.kind) {
    case Event::kLook:
      break;
    case Event::kTimer:
      armed_for = absl::InfiniteDuration();
      break;
    case Event::kFinished:
      stalled_since = absl::InfiniteDuration();
      refused_in_a_row = 0;
      --busy;
      if (marked_busy > 0) {
        --marked_busy;
        Retire(std::move(event.record));
        break;
      }
      if (limits.idle_timeout != absl::InfiniteDuration()) event.record->idle_since = Now();
      idle.push_back(std::move(event.record));
      break;
    case Event::kCreated: {
      --starting;
      ++created;
      retry_delay = absl::ZeroDuration();
      auto record = std::make_shared<Record>(shared_from_this(), std::move(event.worker));
      if (marked_starting > 0) {
        --marked_starting;
        Retire(std::move(record));
        break;
      }
      if (limits.idle_timeout != absl::InfiniteDuration()) record->idle_since = Now();
      idle.push_back(std::move(record));
      break;
    }
    case Event::kFailed:
      ++failures;
      [[fallthrough]];
    case Event::kNotNow:
      --starting;
      marked_starting = std::min(marked_starting, starting);
      CreationFailed();
      break;
    case Event::kRefused:
      --busy;
      marked_busy = std::min(marked_busy, busy);
      // It is replaced at once; but a factory of workers that never work must not keep us here.
      if (!event.record->worked && ++refused_in_a_row > 1) CreationFailed();
      break;
    case Event::kNotArmed:
      armed_for = absl::InfiniteDuration();
      hold_arming = true;
      break;
    case Event::kEnded:
      --ending;
      break;
    case Event::kGrow:
      Grow(event.n);
      break;
    case Event::kShrink:
      Shrink(event.n);
      break;
    case Event::kFit: {
      const int asked = std::min(std::exchange(least, 0), event.most);
      Shrink(std::max(0, Staying() + to_grow - event.most));
      least = std::max(asked, event.n);
      break;
    }
    case Event::kBlocked:
      stalled_since = absl::InfiniteDuration();
      blocked += event.n;
      break;
  }
}

void Team::Core::Grow(int n) {
  for (int* marks : {&marked_busy, &marked_starting}) {
    const int taken_back = std::min(n, *marks);
    *marks -= taken_back;
    n -= taken_back;
  }
  to_grow = quitting ? 0 : std::min(n, limits.hard_limit - Live() - to_grow) + to_grow;
}

void Team::Core::Shrink(int n) {
  const int of_fit = std::clamp(least - Staying() - to_grow, 0, n);  // not even begun
  n -= of_fit;
  least = std::max(0, least - of_fit - n);
  const int of_growth = std::min(n, to_grow);  // likewise
  to_grow -= of_growth;
  n -= of_growth;
  while (n > 0 && !idle.empty()) {
    Retire(std::move(idle.front()));
    idle.erase(idle.begin());
    --n;
  }
  const int of_busy = std::min(n, busy - marked_busy);
  marked_busy += of_busy;
  marked_starting += std::min(n - of_busy, starting - marked_starting);
}

int Team::Core::DecideSoftLimit() {
  if (!limits.soft_limit) return std::numeric_limits<int>::max();
  int limit;
  Work ask = [this, &limit] { limit = limits.soft_limit(); };
  if (internal::RunWork(ask, name, on_error)) last_soft_limit = limit;
  return last_soft_limit;
}

bool Team::Core::MayCreate(int soft_limit) const {
  return !hold_creation && Live() < limits.hard_limit && Live() - blocked < soft_limit;
}

void Team::Core::Create() {
  ++starting;
  decided.push_back({Effect::kCreate});
}

void Team::Core::Retire(RecordPtr record) {
  ++ending;
  decided.push_back({Effect::kRetire, std::move(record)});
}

// Nothing more is made before the next event, or the time to try again.
void Team::Core::CreationFailed() {
  to_grow = 0;
  hold_creation = true;
  RetryLater();
}

void Team::Core::RetryLater() {
  if (clock == nullptr) return;  // the next event will do
  retry_delay = retry_delay == absl::ZeroDuration() ? limits.retry_after
                                                    : std::min(retry_delay * 2, kMostRetryDelay);
  WakeAt(Now() + retry_delay);
}

void Team::Core::WakeAt(absl::Duration when) {
  if (when >= armed_for || hold_arming) return;
  armed_for = when;
  decided.push_back({Effect::kArm, nullptr, nullptr, when});
}

void Team::Core::Decide(int soft_limit, absl::Duration now) {
  while (backlog != nullptr && !idle.empty() && !(one_wake_at_a_time && waking > 0)) {
    RecordPtr& record = idle.back();
    ++busy;
    record->waking = !record->in_then;
    waking += record->waking;
    decided.push_back({Effect::kRun, std::move(record), TakeFirst()});
    idle.pop_back();
  }
  int64_t wanted =
      published.backlogged - static_cast<int>(idle.size()) - (starting - marked_starting);
  for (; wanted > 0 && MayCreate(soft_limit); --wanted) Create();
  while (!quitting && !hold_creation && Staying() < limits.min_workers &&
         Live() < limits.hard_limit) {
    Create();
  }
  // For Fit those count that the backlog has just had made.
  if (const int n = std::exchange(least, 0) - Staying() - to_grow; n > 0) Grow(n);
  // A few at a time, so that the first failure ends it.
  to_grow = quitting ? 0 : std::min(to_grow, limits.hard_limit - Live());
  for (; to_grow > 0 && starting < kMostStarting; --to_grow) Create();
  if (limits.growth_per_second > 0) DecideGrowth(wanted, now);
  if (limits.idle_timeout != absl::InfiniteDuration() && !quitting) DecideRelease(now);
  if (limits.stall_warning != absl::InfiniteDuration()) DecideStall(now);
  if (quitting) DecideEnd();
}

// Beyond the soft limit: one worker each interval, for as long as work waits.
void Team::Core::DecideGrowth(int64_t wanted, absl::Duration now) {
  if (wanted <= 0) {
    if (backlog == nullptr) next_growth = absl::InfiniteDuration();
    return;
  }
  if (hold_creation || Live() >= limits.hard_limit) return;
  const absl::Duration interval = absl::Seconds(1 / limits.growth_per_second);
  if (next_growth == absl::InfiniteDuration()) next_growth = now + interval;
  if (next_growth <= now) {
    Create();
    --wanted;
    next_growth = now + interval;
  }
  if (wanted > 0 && Live() < limits.hard_limit) WakeAt(next_growth);
}

void Team::Core::DecideRelease(absl::Duration now) {
  if (idle.empty() || Staying() <= limits.min_workers) return;
  release_put_off = backlog != nullptr;
  if (release_put_off) return;
  while (!idle.empty() && Staying() > limits.min_workers &&
         idle.front()->idle_since + limits.idle_timeout <= now) {
    Retire(std::move(idle.front()));
    idle.erase(idle.begin());
  }
  if (!idle.empty() && Staying() > limits.min_workers) {
    WakeAt(idle.front()->idle_since + limits.idle_timeout);
  }
}

// All workers wait for something, and work waits for them.
void Team::Core::DecideStall(absl::Duration now) {
  if (backlog == nullptr || Live() == 0 || blocked < Live()) {
    stalled_since = absl::InfiniteDuration();
    return;
  }
  if (stalled_since == absl::InfiniteDuration()) {
    stalled_since = now;
    told_of_stall = false;
  }
  if (told_of_stall) return;
  if (stalled_since + limits.stall_warning > now)
    return WakeAt(stalled_since + limits.stall_warning);
  told_of_stall = true;
  decided.push_back({Effect::kTellOfStall});
}

void Team::Core::DecideEnd() {
  if (backlog != nullptr) {
    // Somebody is there, or will be, who performs it; or nobody is and nobody can be made.
    const bool will_grow =
        next_growth != absl::InfiniteDuration() && !hold_creation && !hold_arming;
    if (Live() > 0 || will_grow) return;
    decided.push_back({Effect::kDrop, nullptr, TakeBacklog()});
  }
  for (RecordPtr& record : idle) Retire(std::move(record));
  idle.clear();
  if (Live() > 0 || terminating) return;
  terminating = true;
  decided.push_back({Effect::kTerminate});
}

void Team::Core::Publish() {
  published.idle = static_cast<int>(idle.size());
  published.busy = busy;
  published.starting = starting;
  published.ending = ending;
  published.live = Live();
  published.blocked = blocked;
  published.workers_created = created;
  published.creation_failures = failures;
  takers = published.idle + starting - marked_starting;
  may_take = one_wake_at_a_time && marked_busy == 0 && !hold_arming &&
             next_growth == absl::InfiniteDuration();
}

// --- effects --------------------------------------------------------------------------------

void Team::Core::CarryOutAll() {
  if (CarryingOut::Is(*this)) return;  // further out on this stack it goes on: nothing recurses
  const std::shared_ptr<Core> self = shared_from_this();
  CarryingOut here(*this);
  bool over = false;
  for (int mine = 1;; mine = 0) {
    Effects effects;
    {
      internal::MutexLock lock(desk);
      carrying += mine;
      if (outbox.empty()) {
        --carrying;
        over = IsOver();
        break;
      }
      effects = std::move(outbox);
      outbox.clear();
    }
    for (Effect& effect : effects) CarryOut(effect);
  }
  if (over) ended.SignalAll();
}

void Team::Core::CarryOut(Effect& effect) {
  switch (effect.kind) {
    case Effect::kRun:
      return GiveJob(std::move(effect.record), effect.jobs);
    case Effect::kCreate:
      return CreateOne();
    case Effect::kRetire:
      return RetireOne(effect.record);
    case Effect::kArm: {
      const absl::Status status =
          clock->RunAt(effect.when, [weak = std::weak_ptr<Core>(shared_from_this())] {
            if (const std::shared_ptr<Core> core = weak.lock()) core->Submit({Event::kTimer});
          });
      if (status.ok()) return;
      internal::Report(on_error, {name, status, nullptr});
      return Submit({Event::kNotArmed});
    }
    case Effect::kDrop:
      return internal::ReportDropped(on_error, name, Destroy(effect.jobs),
                                     "the team has quit, has no worker and cannot make one");
    case Effect::kTellOfStall:
      return internal::Report(
          on_error, {name,
                     absl::UnavailableError(
                         absl::StrCat("stalled: for ", absl::FormatDuration(limits.stall_warning),
                                      " all workers have waited in a BlockingScope, and "
                                      "work has waited for a worker")),
                     nullptr});
    case Effect::kTerminate:
      return Terminate();
  }
}

void Team::Core::GiveJob(RecordPtr record, Job* job) {
  for (InJob* in = InnermostJob::Get(); in != nullptr; in = in->outer) {
    if (in->record == record.get()) {  // its thread is here: no way through its queue
      in->next = job;
      Begun(*record);
      return;
    }
  }
  record->job = job;
  Work run = JobWork(record);
  const absl::Status status = Give(record, run);
  if (status.ok()) return;
  record->job = nullptr;  // so that `run` drops nothing
  // The worker has quit on its own. The job goes back to its place in the backlog.
  if (job->since == absl::InfiniteDuration()) job->since = Now();
  {
    internal::MutexLock lock(desk);
    NoLongerWaking(*record);
    Job* before = nullptr;
    for (Job* at = backlog; at != nullptr && at->number < job->number; at = at->next) before = at;
    Insert(job, before);
  }
  internal::Report(on_error, {name, status, nullptr});
  record->worker = nullptr;
  Submit({Event::kRefused, 0, std::move(record)});
}

// Gives `work` to the worker, which may be at its end before this returns.
absl::Status Team::Core::Give(const RecordPtr& record, Work& work) {
  {
    internal::MutexLock lock(desk);
    ++record->givers;
  }
  absl::Status status = record->worker->Do(std::move(work));
  bool at_end;
  {
    internal::MutexLock lock(desk);
    at_end = --record->givers == 0 && record->at_end;
  }
  if (at_end) BuryOne(record);
  return status;
}

void Team::Core::CreateOne() {
  absl::StatusOr<std::unique_ptr<IWorker>> made = absl::UnknownError("create_worker threw");
  Work create = [this, &made] { made = create_worker(); };
  const bool threw = !internal::RunWork(create, name, on_error);
  if (!made.ok()) {
    if (!threw) internal::Report(on_error, {name, made.status(), nullptr});
    return Submit({Event::kFailed});
  }
  if (*made == nullptr) return Submit({Event::kNotNow});
  Submit({Event::kCreated, 0, nullptr, *std::move(made)});
}

void Team::Core::RetireOne(const RecordPtr& record) {
  Work last = LastWork(record);
  // Refused: it has quit on its own, and `last` ends it when it is destroyed, here.
  Give(record, last).IgnoreError();
}

// The last act of a worker, or of whoever destroys its last work unrun.
void Team::Core::EndOne(const RecordPtr& record) {
  record->worker->Quit().IgnoreError();
  bool nobody_gives;
  {
    internal::MutexLock lock(desk);
    record->at_end = true;
    nobody_gives = record->givers == 0;
  }
  if (nobody_gives) BuryOne(record);
}

void Team::Core::BuryOne(const RecordPtr& record) {
  std::unique_ptr<IWorker> worker = std::move(record->worker);
  {
    internal::MutexLock lock(desk);
    if (quit) ended_workers.push_back(std::move(worker));  // for Join and the destructor
  }
  worker = nullptr;  // mostly in its own work: then its factory joins its thread
  Submit({Event::kEnded});
}

void Team::Core::Terminate() {
  {
    internal::MutexLock lock(desk);
    closing = true;
  }
  coordinator->Quit().IgnoreError();
  {
    internal::MutexLock lock(desk);
    terminated = true;  // over when all have left, this thread too
  }
}

// --- on the workers -------------------------------------------------------------------------

// The worker is awake. If there is more, the next one is woken. (What was there for those that are
// idle may be gone past the coordinator: then it looks whether they are to be released.)
void Team::Core::Begun(Record& record) {
  bool more;
  {
    internal::MutexLock lock(desk);
    NoLongerWaking(record);
    more = one_wake_at_a_time && (backlog != nullptr || release_put_off) && published.idle > 0 &&
           waking == 0;
  }
  if (more) Submit({Event::kLook});
}

void Team::Core::NoLongerWaking(Record& record) { waking -= std::exchange(record.waking, false); }

void Team::Core::RunJobs(const RecordPtr& record) {
  InJob here = {this, record.get(), InnermostJob::Get()};
  here.next = std::exchange(record->job, nullptr);
  InnermostJob::Set(&here);
  absl::Cleanup leave([&here] { InnermostJob::Set(here.outer); });
  Begun(*record);
  const auto run = [&] {
    while (here.next != nullptr) RunJob(record, std::exchange(here.next, nullptr));
  };
  // A work that ends its thread by force takes no other with it.
  absl::Cleanup run_rest(run);
  run();
}

void Team::Core::RunJob(const RecordPtr& record, Job* job) {
  InJob& here = *InnermostJob::Get();
  here.working = true;
  bool completed = false;
  const auto finish = [&] {
    if (job == nullptr) return;
    here.working = false;
    const auto counter = completed ? &TeamStatistics::completed : &TeamStatistics::failed;
    if (!job->then) {
      Finished(record, std::exchange(job, nullptr), counter, &here, /*in_then=*/false);
      return;
    }
    Work then = std::move(job->then);
    Finished(record, std::exchange(job, nullptr), counter, &here, /*in_then=*/true);
    absl::Cleanup asleep([&] {
      internal::MutexLock lock(desk);
      record->in_then = false;
    });
    internal::RunWork(then, name, on_error);
  };
  absl::Cleanup finish_by_force(finish);  // where the work ends its thread
  if (const Team* const handle = team.load(std::memory_order_acquire)) {
    WorkerScope scope(*handle);
    completed = internal::RunWork(job->work, name, on_error);
  } else {
    completed = internal::RunWork(job->work, name, on_error);
  }
  finish();
}

// The worker destroyed what it was given: so is the job, and the worker is idle, or refuses soon.
void Team::Core::DropJob(const RecordPtr& record) {
  Job* const job = std::exchange(record->job, nullptr);
  {
    CarryingOut here(*this);
    job->work = nullptr;
    job->then = nullptr;
    internal::ReportDropped(on_error, name, 1, "its worker destroyed it");
  }
  Finished(record, job, &TeamStatistics::dropped, /*here=*/nullptr, /*in_then=*/false);
}

// `here` is null where the job was destroyed, mostly in another thread than the worker's.
void Team::Core::Finished(const RecordPtr& record, Job* job, int64_t TeamStatistics::* counter,
                          InJob* here, bool in_then) {
  const int soft_limit = one_wake_at_a_time ? AskSoftLimit() : 0;
  {
    internal::MutexLock lock(desk);
    ++(published.*counter);
    NoLongerWaking(*record);
    record->worked = true;
    record->in_then = in_then;
    KeepJob(job);
    // (With news in the inbox the coordinator has to look first.)
    if (here != nullptr && may_take && backlog != nullptr && inbox.empty() &&
        !MayGrow(soft_limit)) {
      here->next = TakeFirst();
      return;
    }
    inbox.push_back({Event::kFinished, 0, record});
    ++submitters;
  }
  if (!Nudge()) WithoutCoordinator();
  Leave();
}

// --- jobs -----------------------------------------------------------------------------------

Job* Team::Core::NewJob() {
  if (spare == nullptr) return new Job;
  --spare_count;
  Job* const job = std::exchange(spare, spare->next);
  job->next = nullptr;
  job->since = absl::InfiniteDuration();
  return job;
}

void Team::Core::KeepJob(Job* job) {
  if (spare_count >= kMostSpare) {
    delete job;
    return;
  }
  ++spare_count;
  job->next = std::exchange(spare, job);
}

// Into the backlog, behind `before` or, where that is null, at its head.
void Team::Core::Insert(Job* job, Job* before) {
  job->before = before;
  job->next = std::exchange(before == nullptr ? backlog : before->next, job);
  (job->next == nullptr ? backlog_tail : job->next->before) = job;
  ++published.backlogged;
  if (job->has_ticket) tickets.emplace(job->number, job);
}

void Team::Core::Remove(Job* job) {
  (job->before == nullptr ? backlog : job->before->next) = job->next;
  (job->next == nullptr ? backlog_tail : job->next->before) = job->before;
  --published.backlogged;
  if (job->has_ticket) tickets.erase(job->number);
}

Job* Team::Core::TakeFirst() {
  Job* const job = backlog;
  Remove(job);
  return job;
}

Job* Team::Core::TakeBacklog() {
  published.dropped += published.backlogged;
  published.backlogged = 0;
  tickets.clear();
  return std::exchange(backlog, nullptr);
}

// Destroys the works of a list, the oldest first, and counts them.
int64_t Team::Core::Destroy(Job* jobs) {
  int64_t count = 0;
  for (; jobs != nullptr; ++count) delete std::exchange(jobs, jobs->next);
  return count;
}

// --- the Team -------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<Team>> Team::Create(TeamOptions options) {
  const TeamLimits& limits = options.limits;
  const auto invalid = [&options](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(options.name, ": ", why));
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
    return invalid("its limits name a time, and there is no clock");
  }
  internal::ForkCount::Watch();
  std::unique_ptr<Team> team(new Team(std::make_shared<Core>(std::move(options))));
  team->core_->Submit({Core::Event::kLook});  // min_workers
  return team;
}

Team::Team(std::shared_ptr<Core> core) : core_(std::move(core)) { core_->team.store(this); }

Team::~Team() {
  if (core_->IsForked()) {
    new std::shared_ptr<Core>(core_);  // leaked: its threads and locks are the parent's
    return;
  }
  core_->Quit().IgnoreError();
  if (core_->IsOwnThread()) {
    WorkerScope::Forget(*this);
    core_->team.store(nullptr);
    return;  // the core goes on until the last worker has ended
  }
  core_->Join(absl::InfiniteDuration()).IgnoreError();
  // Some thread may still be letting go of the core. What has threads, or is the user's, goes now.
  core_->create_worker = nullptr;
  core_->coordinator = nullptr;
}

absl::Status Team::Do(Work&& work) {
  Work nothing;
  if (!work) return internal::EmptyWorkError(core_->name);
  if (core_->IsForked()) return core_->ForkedError();
  return core_->Accept(std::move(work), std::move(nothing), nullptr);
}

absl::Status Team::DoThen(Work&& work, Work&& then) {
  if (!work || !then) return internal::EmptyWorkError(core_->name);
  if (core_->IsForked()) return core_->ForkedError();
  return core_->Accept(std::move(work), std::move(then), nullptr);
}

absl::StatusOr<Team::Ticket> Team::Enqueue(Work&& work, Work&& then) {
  if (!work) return internal::EmptyWorkError(core_->name);
  if (core_->IsForked()) return core_->ForkedError();
  Ticket ticket;
  if (absl::Status status = core_->Accept(std::move(work), std::move(then), &ticket);
      !status.ok()) {
    return status;
  }
  return ticket;
}

bool Team::Ticket::Withdraw() {
  return core_ != nullptr && !core_->IsForked() && core_->Withdraw(number_);
}

bool Team::Ticket::IsBacklogged() const {
  return core_ != nullptr && !core_->IsForked() && core_->IsBacklogged(number_);
}

absl::Status Team::Quit() {
  if (core_->IsForked()) return core_->ForkedError();
  const std::shared_ptr<Core> core = core_;
  return core->Quit();
}

absl::Status Team::Grow(int n) {
  const std::shared_ptr<Core> core = core_;
  return core->Resize({Core::Event::kGrow, n});
}

absl::Status Team::Shrink(int n) {
  const std::shared_ptr<Core> core = core_;
  return core->Resize({Core::Event::kShrink, n});
}

absl::Status Team::Shrink() { return Shrink(std::numeric_limits<int>::max()); }

absl::Status Team::Fit(int least, int most) {
  if (most < least) {
    return absl::InvalidArgumentError(
        absl::StrCat(core_->name, ": at least ", least, " and at most ", most, " workers"));
  }
  const std::shared_ptr<Core> core = core_;
  return core->Resize({Core::Event::kFit, least, nullptr, nullptr, most});
}

void Team::Poke() {
  if (core_->IsForked()) return;
  const std::shared_ptr<Core> core = core_;  // what it sets going may destroy this team
  core->Submit({Core::Event::kLook});
}

int64_t Team::QuitNow() {
  if (core_->IsForked()) return 0;
  const std::shared_ptr<Core> core = core_;  // a capture may destroy this team
  return core->QuitNow();
}

absl::Status Team::Join(absl::Duration timeout) {
  return core_->IsForked() ? core_->ForkedError() : core_->Join(timeout);
}

TeamStatistics Team::statistics() const { return core_->Statistics(); }

// --- BlockingScope --------------------------------------------------------------------------

BlockingScope::BlockingScope() : in_(Team::Core::InnermostJob::Get()) {
  auto* const in = static_cast<Team::Core::InJob*>(in_);
  if (in != nullptr && in->working && in->blocking++ == 0) {
    in->core->Submit({Team::Core::Event::kBlocked, 1});
  }
}

BlockingScope::~BlockingScope() {
  auto* const in = static_cast<Team::Core::InJob*>(in_);
  if (awaits_) in->core->AwaitsNoMore(in);
  if (in != nullptr && in->working && --in->blocking == 0) {
    in->core->Submit({Team::Core::Event::kBlocked, -1});
  }
}

absl::Status BlockingScope::Awaits(const Team::Ticket& ticket) {
  auto* const in = static_cast<Team::Core::InJob*>(in_);
  if (in == nullptr || !in->working || ticket.core_.get() != in->core) return absl::OkStatus();
  awaits_ = true;
  return in->core->Awaits(in, ticket.number_);
}

}  // namespace workers
