#include "reactor/event_reactor.h"

#include <signal.h>

#include <algorithm>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "reactor/epoll_poller.h"
#include "reactor/internal/descriptors.h"
#include "reactor/internal/end_watchers.h"
#include "reactor/internal/loop_thread.h"
#include "reactor/internal/triggers.h"
#include "reactor/stop_signals.h"
#include "reactor/timer_queue.h"
#include "reactor/waker.h"
#include "workers/internal/misuse.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/internal/sync.h"
#include "workers/thread_factory.h"
#include "workers/worker_scope.h"

namespace reactor {

using workers::ErrorHandler;
using workers::ThreadPool;
using workers::Work;
using workers::internal::Atomic;
using workers::internal::MutexLock;
using workers::internal::ThreadId;

namespace {

enum class State { kIdle, kStarting, kRunning, kStopping, kStopped };

bool IsRun(State state) { return state != State::kIdle && state != State::kStopped; }

constexpr size_t kKeptCapacity = 4096;  // works; 128 KiB

const char* SignalName(int signal) {
  switch (signal) {
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGHUP:
      return "SIGHUP";
  }
  return "a signal";
}

}  // namespace

// --- what any thread may touch ----------------------------------------------------------------

// Invariants:
//  - `queue` grows only while `accepting`; what it holds when Run closes it runs before Run
//    returns.
//  - `asleep` is true only while the loop is in, or about to enter, a wait that began with nothing
//    to do. The thread that finds it true sets it to false, and it alone writes to the waker: one
//    write per sleep.
//  - `runner` is a thread exactly while `state` is starting, running or stopping.
struct EventReactor::Core {
  // Stands for the loop: the scope around all that runs there, and its `Do` for other threads.
  class LoopWorker final : public workers::IExclusiveWorker {
   public:
    explicit LoopWorker(Core& core) : core_(core) {}

    // IWorker implementation:
    absl::Status Do(Work&& work) override { return core_.Call(std::move(work)); }
    absl::Status Quit() override {
      return absl::FailedPreconditionError(
          absl::StrCat(core_.name, ": the loop ends by Stop; a ReactorWorker can quit"));
    }

   private:
    Core& core_;
  };

  Core(EventReactorOptions& options, std::unique_ptr<Waker> waker)
      : name(options.name),
        on_error(options.on_error),
        waker(std::move(waker)),
        pool_options(std::move(options.pool)) {}

  bool IsForked() const { return fork_count != workers::internal::ForkCount::Get(); }
  absl::Status ForkedError() const {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": this reactor belongs to the parent of this forked process"));
  }

  // OK on the reactor thread, and where there is none.
  absl::Status CheckThread(absl::string_view method) const {
    if (IsForked()) return ForkedError();
    return internal::CheckLoopThread(name, method, runner.load());
  }
  // For methods that return no status.
  bool MayCall(absl::string_view method) const {
    absl::Status status = CheckThread(method);
    if (status.ok()) return true;
    workers::internal::Report(on_error, name, std::move(status));
    return false;
  }

  absl::Status Call(Work&& work) {
    if (!work) return workers::internal::EmptyWorkError(name);
    if (IsForked()) return ForkedError();
    // The work may end the reactor as soon as the lock is free. Only a loop that was asleep may
    // still be touched then, and its waker is held for that.
    std::shared_ptr<Waker> sleeper;
    {
      MutexLock lock(mutex);
      if (!accepting) return workers::AlreadyQuitError(name);
      queue.push_back(std::move(work));
      if (TakeWake()) sleeper = waker;
    }
    if (sleeper != nullptr) sleeper->Wake();
    return absl::OkStatus();
  }

  // The caller writes to the waker, after unlocking.
  bool TakeWake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return std::exchange(asleep, false); }

  absl::StatusOr<std::shared_ptr<ThreadPool>> Pool();

  // Refuses the pool and WatchEnd, and gives what waits for that to `run`.
  void Refuse(absl::FunctionRef<void(Work&)> run) {
    {
      MutexLock lock(mutex);
      pool_open = false;
    }
    end_watchers.Release(run);
  }

  // Immutable.
  const std::string name;
  const ErrorHandler on_error;
  const std::shared_ptr<Waker> waker;
  const int fork_count = workers::internal::ForkCount::Get();
  LoopWorker loop{*this};

  // Atomic. `state` is written under the mutex.
  Atomic<ThreadId> runner = ThreadId();
  Atomic<State> state = State::kIdle;
  Atomic<bool> running = false;
  Atomic<bool> open = true;        // for signal handlers: as `accepting`
  Atomic<bool> triggered = false;  // some SignalTrigger wants something
  Atomic<int64_t> turns = 0;
  Atomic<int64_t> calls = 0;
  Atomic<int64_t> dropped = 0;

  internal::EndWatchers end_watchers;

  workers::internal::Mutex mutex;
  std::vector<Work> queue ABSL_GUARDED_BY(mutex);  // from threads
  bool accepting ABSL_GUARDED_BY(mutex) = true;
  bool asleep ABSL_GUARDED_BY(mutex) = false;
  bool stop_wanted ABSL_GUARDED_BY(mutex) = false;
  bool stop_seen ABSL_GUARDED_BY(mutex) = false;  // the shutdown has begun
  workers::ThreadPoolOptions pool_options ABSL_GUARDED_BY(mutex);
  std::shared_ptr<ThreadPool> pool ABSL_GUARDED_BY(mutex);
  bool pool_open ABSL_GUARDED_BY(mutex) = true;
  bool pool_runs ABSL_GUARDED_BY(mutex) = false;  // a pool is started as soon as it is made
  std::vector<std::shared_ptr<SignalTrigger::State>> signal_triggers ABSL_GUARDED_BY(mutex);
};

struct SignalTrigger::State {
  const std::shared_ptr<EventReactor::Core> core;
  absl::AnyInvocable<void()> work;  // the loop's
  Atomic<bool> pending = false;
  Atomic<bool> closed = false;
};

absl::StatusOr<std::shared_ptr<ThreadPool>> EventReactor::Core::Pool() {
  if (IsForked()) return ForkedError();
  workers::ThreadPoolOptions options;
  {
    MutexLock lock(mutex);
    if (!pool_open) return workers::AlreadyQuitError(name);
    if (pool != nullptr) return pool;
    options = pool_options;
  }
  if (options.pool.name.empty()) options.pool.name = absl::StrCat(name, "-pool");
  if (!options.pool.on_error) options.pool.on_error = on_error;
  auto made = ThreadPool::Create(std::move(options));
  if (!made.ok()) return made.status();
  std::shared_ptr<ThreadPool> result = *std::move(made);
  std::shared_ptr<ThreadPool> too_late;  // destroyed without the lock
  bool start = false;
  {
    MutexLock lock(mutex);
    if (!pool_open) return workers::AlreadyQuitError(name);
    if (pool == nullptr) {
      pool = result;
      start = pool_runs;
      // SuggestThreadPoolSize may have come in between.
      result->AdjustPoolSize(std::nullopt, pool_options.max_threads).IgnoreError();
    }
    too_late = std::exchange(result, pool);  // another thread may have been faster
  }
  if (start) {
    absl::Status started = result->Start();
    // Closed meanwhile, it says so to whoever gives it work.
    if (!started.ok() && !absl::IsFailedPrecondition(started))
      workers::internal::Report(on_error, name, started);
  }
  return result;
}

// --- what only the reactor thread may touch -----------------------------------------------------

class EventReactor::Loop {
 public:
  Loop(EventReactorOptions options, std::shared_ptr<Core> core, std::unique_ptr<Poller> poller)
      : core_(std::move(core)),
        options_(std::move(options)),
        poller_(std::move(poller)),
        timers_({.name = core_->name,
                 .now = [] { return workers::internal::SteadyNow(); },
                 .check_thread =
                     [core = core_](absl::string_view method) { return core->CheckThread(method); },
                 .on_error = core_->on_error}),
        triggers_(core_->name, core_->on_error),
        descriptors_(core_->name, core_->on_error, *poller_) {}

  absl::Status Init() {
    auto token = poller_->Add(core_->waker->fd(), {.read = true});
    if (token.ok()) waker_token_ = *token;
    return token.status();
  }

  absl::Status RunAll();
  void Leave();
  // Destroys what is left, unrun, and returns how many works those were.
  int64_t Drop();

  TimerQueue& timers() { return timers_; }
  internal::Triggers& triggers() { return triggers_; }
  internal::Descriptors& descriptors() { return descriptors_; }

  void RunWork(Work& work) { workers::internal::RunWork(work, core_->name, core_->on_error); }

 private:
  absl::Duration Now() const { return workers::internal::SteadyNow(); }
  void Report(absl::Status status) {
    workers::internal::Report(core_->on_error, core_->name, std::move(status));
  }

  bool StopWanted() {
    MutexLock lock(core_->mutex);
    return core_->stop_wanted;
  }
  void StopBecause(absl::Status why) {
    MutexLock lock(core_->mutex);
    if (!core_->stop_wanted) reason_ = std::move(why);
    core_->stop_wanted = true;
  }
  void SetState(State state) {
    MutexLock lock(core_->mutex);
    core_->state.store(state);
  }

  // Waits, at most `longest`, and runs what is there.
  void Turn(absl::Duration longest);
  void RunSignals();
  void RunSignalTriggers();
  void RunCalls(size_t most);
  // The calls that were given until now.
  void RunCallsGivenSoFar();

  // Calls the triggers of before startup or shutdown, and waits for their Deferreds.
  void FireBefore(SystemEvent event, absl::Duration timeout);

  void StartPool();
  void DrainPool();
  void Abandon(std::shared_ptr<ThreadPool> pool);
  void Release();
  void Shutdown();

  const std::shared_ptr<Core> core_;
  const EventReactorOptions options_;
  const std::unique_ptr<Poller> poller_;
  PollToken waker_token_ = 0;
  TimerQueue timers_;

  std::vector<Work> batch_;  // taken from the queue; [next_call_, end) has not begun
  size_t next_call_ = 0;

  internal::Triggers triggers_;
  internal::Descriptors descriptors_;
  std::vector<Ready> ready_;

  std::unique_ptr<StopSignals> signals_;  // null: none are handled now
  PollToken signals_token_ = 0;
  bool forced_ = false;  // nothing is waited for any more
  absl::Status reason_;  // what Run returns
  // Of this Run, told to quit. Who has it from thread_pool may use it until Run returns.
  std::shared_ptr<ThreadPool> ended_pool_;
};

void EventReactor::Loop::Turn(absl::Duration longest) {
  core_->turns.fetch_add(1, std::memory_order_relaxed);
  absl::Duration timeout = std::min(longest, timers_.next() - Now());
  if (next_call_ < batch_.size() || descriptors_.HasLost()) timeout = absl::ZeroDuration();
  {
    MutexLock lock(core_->mutex);
    if (!core_->queue.empty() || (core_->stop_wanted && !core_->stop_seen)) {
      timeout = absl::ZeroDuration();
    }
    core_->asleep = timeout > absl::ZeroDuration();
  }
  absl::Status waited = poller_->Wait(timeout, ready_);
  {
    MutexLock lock(core_->mutex);
    core_->asleep = false;
  }
  if (!waited.ok()) {
    forced_ = true;  // without it nothing can be waited for
    Report(waited);
    StopBecause(std::move(waited));
  }
  bool woken = false;
  bool signalled = false;
  for (const Ready& one : ready_) {
    woken |= one.token == waker_token_;
    signalled |= signals_ != nullptr && one.token == signals_token_;
  }
  if (woken) core_->waker->Clear();
  if (signalled) RunSignals();
  RunSignalTriggers();
  descriptors_.RunLost();
  for (const Ready& one : ready_) descriptors_.Run(one);
  timers_.RunDue(Now(), [this](Work& work) { RunWork(work); });
  RunCalls(static_cast<size_t>(options_.calls_per_turn));
}

void EventReactor::Loop::RunSignals() {
  const StopSignals::Taken taken = signals_->Take();
  if (taken.count == 0) return;
  forced_ |= taken.count > 1 || StopWanted();
  StopBecause(
      absl::CancelledError(absl::StrCat(core_->name, ": stopped by ", SignalName(taken.signal))));
}

void EventReactor::Loop::RunSignalTriggers() {
  if (!core_->triggered.exchange(false)) return;
  std::vector<std::shared_ptr<SignalTrigger::State>> all;
  std::vector<std::shared_ptr<SignalTrigger::State>> closed;
  {
    MutexLock lock(core_->mutex);
    all = core_->signal_triggers;
    auto& kept = core_->signal_triggers;
    std::erase_if(kept, [](const auto& state) { return state->closed.load(); });
  }
  for (const auto& state : all) {
    if (state->closed.load()) {
      state->work = nullptr;
    } else if (state->pending.exchange(false)) {
      Work work = [&state] { state->work(); };
      RunWork(work);
    }
  }
}

void EventReactor::Loop::RunCalls(size_t most) {
  if (next_call_ == batch_.size()) {
    batch_.clear();
    next_call_ = 0;
    if (batch_.capacity() > kKeptCapacity) std::vector<Work>().swap(batch_);
    MutexLock lock(core_->mutex);
    batch_.swap(core_->queue);
  }
  for (; most > 0 && next_call_ < batch_.size(); --most) {
    Work work = std::move(batch_[next_call_++]);
    core_->calls.fetch_add(1, std::memory_order_relaxed);
    RunWork(work);
  }
}

void EventReactor::Loop::RunCallsGivenSoFar() {
  if (next_call_ < batch_.size()) RunCalls(batch_.size() - next_call_);
  RunCalls(SIZE_MAX);  // the queue, as it is now
}

// --- triggers, startup, shutdown ----------------------------------------------------------------

void EventReactor::Loop::FireBefore(SystemEvent event, absl::Duration timeout) {
  const auto left = std::make_shared<int>(0);
  triggers_.Fire(event, EventPhase::kBefore, left);
  const absl::Duration deadline = Now() + timeout;
  while (*left > 0 && !forced_) {
    if (event == SystemEvent::kStartup && StopWanted()) return;
    const absl::Duration rest = deadline - Now();
    if (rest <= absl::ZeroDuration()) {
      return Report(absl::DeadlineExceededError(
          absl::StrCat(*left, " Deferreds of triggers before ",
                       event == SystemEvent::kStartup ? "startup" : "shutdown",
                       " have not fired in ", absl::FormatDuration(timeout))));
    }
    Turn(rest);
  }
}

void EventReactor::Loop::StartPool() {
  std::shared_ptr<ThreadPool> pool;
  {
    MutexLock lock(core_->mutex);
    core_->pool_runs = true;
    pool = core_->pool;
  }
  if (pool == nullptr) return;
  if (absl::Status started = pool->Start(); !started.ok()) Report(std::move(started));
}

void EventReactor::Loop::Release() {
  core_->Refuse([this](Work& watcher) { RunWork(watcher); });
}

// The pool has no way to tell that its last thread has ended: it is asked, ever less often.
void EventReactor::Loop::DrainPool() {
  std::shared_ptr<ThreadPool> pool;
  {
    MutexLock lock(core_->mutex);
    pool = std::move(core_->pool);
    core_->pool = nullptr;
    core_->pool_runs = false;
  }
  if (pool == nullptr) return;
  ended_pool_ = pool;
  // Who made it may not have come to starting it, and others have given it work.
  if (absl::Status started = pool->Start(); !started.ok()) Report(std::move(started));
  pool->Quit().IgnoreError();
  const absl::Duration deadline = Now() + options_.pool_timeout;
  absl::Duration pause = absl::Microseconds(500);
  while (!pool->Stop(absl::ZeroDuration()).ok()) {
    const absl::Duration rest = deadline - Now();
    if (forced_ || rest <= absl::ZeroDuration()) {
      const int64_t dropped = pool->QuitNow();
      core_->dropped.fetch_add(dropped);
      workers::internal::ReportDropped(core_->on_error, core_->name, dropped,
                                       "the reactor stopped before the pool was done");
      Report(absl::DeadlineExceededError(
          absl::StrCat("the pool has not ended in time: ", pool->DumpStats())));
      return Abandon(std::move(pool));
    }
    Turn(std::min(pause, rest));
    pause = std::min(2 * pause, absl::Milliseconds(16));
  }
}

// Its threads end when they end: another thread waits for them, whom the factory joins.
void EventReactor::Loop::Abandon(std::shared_ptr<ThreadPool> pool) {
  workers::ThreadFactory* factory;
  {
    MutexLock lock(core_->mutex);
    factory = core_->pool_options.pool.factory;
  }
  if (factory == nullptr) factory = &workers::DefaultThreadFactory();
  auto thread = factory->Start({.name = absl::StrCat(core_->name, "-reap")},
                               [pool] { pool->Stop().IgnoreError(); });
  if (thread.ok()) return;
  Report(thread.status());
  new std::shared_ptr<ThreadPool>(std::move(pool));  // leaked: nobody can wait for it
}

void EventReactor::Loop::Shutdown() {
  {
    MutexLock lock(core_->mutex);
    core_->state.store(State::kStopping);
    core_->stop_seen = true;
  }
  FireBefore(SystemEvent::kShutdown, options_.shutdown_timeout);
  Release();
  DrainPool();
  RunCallsGivenSoFar();  // the pool's results
  descriptors_.LoseAll();
  core_->running.store(false);
  triggers_.Fire(SystemEvent::kShutdown, EventPhase::kDuring);
  triggers_.Fire(SystemEvent::kShutdown, EventPhase::kAfter);
}

absl::Status EventReactor::Loop::RunAll() {
  reason_ = absl::OkStatus();
  forced_ = false;
  descriptors_.Open();
  FireBefore(SystemEvent::kStartup, options_.startup_timeout);
  if (options_.handle_signals) {
    auto signals = StopSignals::Install();
    auto token = signals.ok() ? poller_->Add((*signals)->fd(), {.read = true}) : signals.status();
    if (token.ok()) {
      signals_ = *std::move(signals);
      signals_token_ = *token;
    } else {
      StopBecause(token.status());
    }
  }
  StartPool();
  core_->running.store(true);
  triggers_.Fire(SystemEvent::kStartup, EventPhase::kDuring);
  triggers_.Fire(SystemEvent::kStartup, EventPhase::kAfter);
  SetState(State::kRunning);
  while (!StopWanted()) Turn(absl::InfiniteDuration());
  Shutdown();
  return reason_;
}

// On every way out of Run, also where a work has ended the thread by force.
void EventReactor::Loop::Leave() {
  core_->running.store(false);
  Release();
  std::vector<Work> last;
  {
    MutexLock lock(core_->mutex);
    core_->accepting = false;
    last.swap(core_->queue);
  }
  core_->open.store(false);
  while (next_call_ < batch_.size()) RunCalls(batch_.size());
  for (Work& work : last) {
    core_->calls.fetch_add(1, std::memory_order_relaxed);
    RunWork(work);
  }
  RunSignalTriggers();
  if (signals_ != nullptr) poller_->Remove(signals_token_);
  signals_ = nullptr;
  ended_pool_ = nullptr;  // it has ended, or somebody else has it who waits for that
  MutexLock lock(core_->mutex);
  core_->state.store(State::kStopped);
  core_->runner.store(ThreadId());
}

int64_t EventReactor::Loop::Drop() {
  std::vector<Work> queue;
  {
    MutexLock lock(core_->mutex);
    queue.swap(core_->queue);
  }
  int64_t count = static_cast<int64_t>(queue.size() + batch_.size() - next_call_);
  for (; next_call_ < batch_.size(); ++next_call_) batch_[next_call_] = nullptr;
  for (Work& work : queue) work = nullptr;
  count += static_cast<int64_t>(timers_.Drop());
  return count + triggers_.Clear();
}

// --- SignalTrigger ------------------------------------------------------------------------------

SignalTrigger& SignalTrigger::operator=(SignalTrigger&& other) noexcept {
  if (this != &other) {
    Close();
    state_ = std::move(other.state_);
  }
  return *this;
}

SignalTrigger::~SignalTrigger() { Close(); }

void SignalTrigger::Close() {
  const std::shared_ptr<State> state = std::move(state_);
  if (state == nullptr) return;
  state->closed.store(true);
  state->core->triggered.store(true);
  if (state->core->open.load() && !state->core->IsForked()) state->core->waker->Wake();
}

bool SignalTrigger::Trigger() const {
  State& state = *state_;
  if (state.core->IsForked()) return false;
  const bool is_first = !state.pending.exchange(true);
  state.core->triggered.store(true);  // the first may not have come to it
  if (is_first) state.core->waker->Wake();
  // Asked last: if it is open now, the loop has yet to look at `pending` once more; if not, it may
  // have looked already.
  return state.core->open.load() || !state.pending.load();
}

// --- EventReactor -------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<EventReactor>> EventReactor::Create(EventReactorOptions options) {
  workers::internal::ForkCount::Watch();
  if (options.calls_per_turn < 1 || options.pool.min_threads < 0 ||
      options.pool.max_threads < options.pool.min_threads) {
    return absl::InvalidArgumentError(absl::StrCat(options.name, ": ", options.calls_per_turn,
                                                   " calls a turn, ", options.pool.min_threads,
                                                   " to ", options.pool.max_threads, " threads"));
  }
  absl::StatusOr<std::unique_ptr<Poller>> poller;
  if (options.create_poller) {
    poller = options.create_poller();
  } else {
    poller = EpollPoller::Create();
  }
  if (!poller.ok()) return poller.status();
  auto waker = Waker::Create();
  if (!waker.ok()) return waker.status();
  auto core = std::make_shared<Core>(options, *std::move(waker));
  auto loop = std::make_unique<Loop>(std::move(options), core, *std::move(poller));
  if (absl::Status status = loop->Init(); !status.ok()) return status;
  return std::unique_ptr<EventReactor>(new EventReactor(std::move(core), std::move(loop)));
}

EventReactor::EventReactor(std::shared_ptr<Core> core, std::unique_ptr<Loop> loop)
    : core_(std::move(core)), loop_(std::move(loop)) {}

EventReactor::~EventReactor() {
  Core& core = *core_;
  if (core.IsForked()) {
    loop_.release();  // leaked: the parent's thread may be in the midst of it
    new std::shared_ptr<Core>(core_);
    return;
  }
  std::shared_ptr<ThreadPool> pool;
  std::vector<std::shared_ptr<SignalTrigger::State>> triggers;
  {
    MutexLock lock(core.mutex);
    if (IsRun(core.state.load())) {
      workers::internal::DieOfMisuse(core.name + ": the reactor is destroyed while it runs");
    }
    core.state.store(State::kStopped);
    core.accepting = false;
    pool = std::move(core.pool);
    triggers.swap(core.signal_triggers);
  }
  core.open.store(false);
  // What is destroyed here belongs to the loop, and there is no other thread of it.
  workers::WorkerScope scope(core.loop);
  core.Refuse([this](Work& watcher) { loop_->RunWork(watcher); });
  pool = nullptr;  // never started: it drops what waits, and reports
  for (const auto& state : triggers) state->work = nullptr;
  const int64_t dropped = loop_->Drop();
  core.dropped.fetch_add(dropped);
  workers::internal::ReportDropped(core.on_error, core.name, dropped, "the reactor was destroyed");
  loop_ = nullptr;
}

SignalTrigger EventReactor::MakeSignalTrigger(absl::AnyInvocable<void()> work) {
  if (!work) workers::internal::DieOfMisuse("EventReactor::MakeSignalTrigger: the work is empty");
  auto state = std::shared_ptr<SignalTrigger::State>(
      new SignalTrigger::State{.core = core_, .work = std::move(work)});
  MutexLock lock(core_->mutex);
  core_->signal_triggers.push_back(state);
  return SignalTrigger(std::move(state));
}

std::vector<DelayedCall> EventReactor::delayed_calls() const {
  if (!core_->MayCall("EventReactor::delayed_calls")) return {};
  return loop_->timers().pending();
}

std::vector<IDescriptor*> EventReactor::RemoveAll() {
  if (!core_->MayCall("EventReactor::RemoveAll")) return {};
  return loop_->descriptors().RemoveAll();
}

EventReactorStatistics EventReactor::statistics() const {
  return {.turns = core_->turns.load(),
          .calls = core_->calls.load(),
          .wakeups = core_->waker->writes(),
          .dropped = core_->dropped.load()};
}

// --- time ---

absl::Duration EventReactor::Now() const { return workers::internal::SteadyNow(); }

absl::StatusOr<DelayedCall> EventReactor::CallLater(absl::Duration delay, Work&& work) {
  if (absl::Status status = core_->CheckThread("EventReactor::CallLater"); !status.ok()) {
    return status;
  }
  if (core_->state.load() == State::kStopped) return workers::AlreadyQuitError(core_->name);
  return loop_->timers().Add(delay, std::move(work));
}

// --- threads ---

absl::Status EventReactor::CallFromThread(Work&& work) { return core_->Call(std::move(work)); }

absl::Status EventReactor::CallInThread(Work&& work) {
  if (!work) return workers::internal::EmptyWorkError(core_->name);
  auto pool = core_->Pool();
  if (!pool.ok()) return pool.status();
  return (*pool)->CallInThread(std::move(work));
}

absl::Status EventReactor::SuggestThreadPoolSize(int max) {
  if (core_->IsForked()) return core_->ForkedError();
  std::shared_ptr<ThreadPool> pool;
  {
    MutexLock lock(core_->mutex);
    if (!core_->pool_open) return workers::AlreadyQuitError(core_->name);
    if (max < core_->pool_options.min_threads) {
      return absl::InvalidArgumentError(absl::StrCat(core_->name, ": at least ",
                                                     core_->pool_options.min_threads,
                                                     " and at most ", max, " threads"));
    }
    core_->pool_options.max_threads = max;
    pool = core_->pool;
  }
  if (pool == nullptr) return absl::OkStatus();
  // Two at once may come to the pool in another order than here: the last to come there sees it.
  for (;;) {
    if (absl::Status status = pool->AdjustPoolSize(std::nullopt, max); !status.ok()) return status;
    MutexLock lock(core_->mutex);
    if (core_->pool_options.max_threads == max) return absl::OkStatus();
    max = core_->pool_options.max_threads;
  }
}

absl::StatusOr<ThreadPool*> EventReactor::thread_pool() {
  auto pool = core_->Pool();
  if (!pool.ok()) return pool.status();
  return pool->get();
}

bool EventReactor::InReactorThread() const {
  return core_->runner.load() == workers::internal::CurrentThread();
}

std::shared_ptr<workers::IExclusiveWorker> EventReactor::worker() {
  return std::shared_ptr<workers::IExclusiveWorker>(core_, &core_->loop);
}

absl::StatusOr<uint64_t> EventReactor::WatchEnd(std::function<void()> ended) {
  if (core_->IsForked()) return core_->ForkedError();
  return core_->end_watchers.Add(core_->name, std::move(ended));
}

void EventReactor::UnwatchEnd(uint64_t id) {
  if (!core_->IsForked()) core_->end_watchers.Remove(id);
}

// --- core ---

absl::Status EventReactor::Run() {
  Core& core = *core_;
  if (core.IsForked()) return core.ForkedError();
  {
    MutexLock lock(core.mutex);
    if (IsRun(core.state.load())) {
      return absl::FailedPreconditionError(absl::StrCat(
          core.name, InReactorThread() ? ": Run inside Run" : ": another thread is in Run"));
    }
    core.runner.store(workers::internal::CurrentThread());
    core.state.store(State::kStarting);
    core.accepting = true;
    core.stop_wanted = false;
    core.stop_seen = false;
    core.pool_open = true;
    core.open.store(true);
  }
  core.end_watchers.Open();
  workers::WorkerScope scope(core.loop, workers::WorkerScope::OneThread());
  absl::Cleanup leave([this] { loop_->Leave(); });
  return loop_->RunAll();
}

absl::Status EventReactor::Stop() {
  if (core_->IsForked()) return core_->ForkedError();
  std::shared_ptr<Waker> sleeper;
  {
    MutexLock lock(core_->mutex);
    const State state = core_->state.load();
    if (state != State::kStarting && state != State::kRunning) {
      return absl::FailedPreconditionError(
          absl::StrCat(core_->name, ": Stop of a reactor that does not run"));
    }
    if (core_->stop_wanted) {
      return absl::FailedPreconditionError(
          absl::StrCat(core_->name, ": it was told to stop already"));
    }
    core_->stop_wanted = true;
    if (core_->TakeWake()) sleeper = core_->waker;
  }
  if (sleeper != nullptr) sleeper->Wake();
  return absl::OkStatus();
}

bool EventReactor::running() const { return core_->running.load(); }

absl::Status EventReactor::CallWhenRunning(Work&& work) {
  if (absl::Status status = core_->CheckThread("EventReactor::CallWhenRunning"); !status.ok()) {
    return status;
  }
  if (!work) return workers::internal::EmptyWorkError(core_->name);
  const State state = core_->state.load();
  if (state == State::kRunning || state == State::kStopping) {
    Work now = std::move(work);
    loop_->RunWork(now);
    return absl::OkStatus();
  }
  loop_->triggers().AddAfterStartup(std::move(work));
  return absl::OkStatus();
}

absl::StatusOr<TriggerId> EventReactor::AddSystemEventTrigger(EventPhase phase, SystemEvent event,
                                                              std::function<Deferred<void>()> f) {
  if (absl::Status status = core_->CheckThread("EventReactor::AddSystemEventTrigger");
      !status.ok()) {
    return status;
  }
  if (!f) return workers::internal::EmptyWorkError(core_->name);
  return loop_->triggers().Add(phase, event, std::move(f));
}

absl::Status EventReactor::RemoveSystemEventTrigger(TriggerId id) {
  if (absl::Status status = core_->CheckThread("EventReactor::RemoveSystemEventTrigger");
      !status.ok()) {
    return status;
  }
  return loop_->triggers().Remove(id);
}

// --- descriptors ---

absl::Status EventReactor::AddReader(IReadDescriptor& d) {
  if (absl::Status status = core_->CheckThread("EventReactor::AddReader"); !status.ok()) {
    return status;
  }
  return loop_->descriptors().Add(d, &d, nullptr);
}

absl::Status EventReactor::AddWriter(IWriteDescriptor& d) {
  if (absl::Status status = core_->CheckThread("EventReactor::AddWriter"); !status.ok()) {
    return status;
  }
  return loop_->descriptors().Add(d, nullptr, &d);
}

absl::Status EventReactor::RemoveReader(IReadDescriptor& d) {
  if (absl::Status status = core_->CheckThread("EventReactor::RemoveReader"); !status.ok()) {
    return status;
  }
  return loop_->descriptors().Remove(d, true, false);
}

absl::Status EventReactor::RemoveWriter(IWriteDescriptor& d) {
  if (absl::Status status = core_->CheckThread("EventReactor::RemoveWriter"); !status.ok()) {
    return status;
  }
  return loop_->descriptors().Remove(d, false, true);
}

}  // namespace reactor
