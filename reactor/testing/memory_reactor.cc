#include "reactor/testing/memory_reactor.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "reactor/internal/end_watchers.h"
#include "reactor/internal/loop_thread.h"
#include "workers/internal/misuse.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/internal/sync.h"
#include "workers/memory_worker.h"
#include "workers/worker_scope.h"

namespace reactor::test {

using workers::ThreadPool;
using workers::Work;
using workers::internal::Atomic;
using workers::internal::MutexLock;
using workers::internal::ThreadId;

namespace {

enum class State { kIdle, kStarting, kRunning, kStopping, kStopped };

// Watches nothing: the test says what is ready.
class NoPoller final : public Poller {
 public:
  absl::StatusOr<PollToken> Add(int fd, Interest) override { return MakePollToken(++added_, fd); }
  absl::Status Change(PollToken, Interest) override { return absl::OkStatus(); }
  void Remove(PollToken) override {}
  bool IsCurrent(PollToken) const override { return true; }
  absl::Status Wait(absl::Duration, std::vector<Ready>& ready) override {
    ready.clear();
    return absl::OkStatus();
  }

 private:
  uint32_t added_ = 0;
};

}  // namespace

// Invariant: `queue` grows only while `accepting`; what is in it when the shutdown closes it runs
// before that ends.
struct MemoryReactor::Core {
  // Stands for the loop: the scope around all that runs there, and its `Do` for other threads.
  class LoopWorker final : public workers::IExclusiveWorker {
   public:
    explicit LoopWorker(Core& core) : core_(core) {}

    // IWorker implementation:
    absl::Status Do(Work&& work) override { return core_.Call(std::move(work)); }
    absl::Status Quit() override {
      return absl::FailedPreconditionError(absl::StrCat(core_.name, ": the loop ends by Stop"));
    }

   private:
    Core& core_;
  };

  explicit Core(const MemoryReactorOptions& options)
      : name(options.name),
        on_error(options.on_error),
        min_threads(options.min_threads),
        max_threads(options.max_threads) {}

  // OK in a step of the loop, and where there is none.
  absl::Status CheckThread(absl::string_view method) const {
    return internal::CheckLoopThread(name, method, runner.load());
  }

  absl::Status Call(Work&& work) {
    if (!work) return workers::internal::EmptyWorkError(name);
    MutexLock lock(mutex);
    if (!accepting) return workers::AlreadyQuitError(name);
    queue.push_back(std::move(work));
    return absl::OkStatus();
  }

  // Immutable.
  const std::string name;
  const workers::ErrorHandler on_error;
  const int min_threads;
  LoopWorker loop{*this};

  Atomic<ThreadId> runner = ThreadId();  // whose step of the loop is under way
  Atomic<State> state = State::kIdle;    // written under the mutex
  Atomic<bool> running = false;

  internal::EndWatchers end_watchers;

  mutable workers::internal::Mutex mutex;
  absl::Duration now ABSL_GUARDED_BY(mutex);
  std::deque<Work> queue ABSL_GUARDED_BY(mutex);  // from threads
  bool accepting ABSL_GUARDED_BY(mutex) = true;
  bool stop_wanted ABSL_GUARDED_BY(mutex) = false;
  int max_threads ABSL_GUARDED_BY(mutex);
  std::shared_ptr<ThreadPool> pool ABSL_GUARDED_BY(mutex);
  bool pool_open ABSL_GUARDED_BY(mutex) = true;
  bool pool_runs ABSL_GUARDED_BY(mutex) = false;
};

// The workers of the pool that have not ended.
struct MemoryReactor::Threads {
  struct Thread {
    explicit Thread(workers::MemoryPerformer performer) : performer(std::move(performer)) {}
    workers::MemoryPerformer performer;
    bool steps = false;  // right now, in some thread
  };

  std::unique_ptr<workers::IWorker> Make(const std::string& name,
                                         const workers::ErrorHandler& on_error) {
    workers::MemoryWorker made = workers::CreateMemoryWorker(name, on_error);
    MutexLock lock(mutex);
    all.push_back(std::make_shared<Thread>(std::move(made.performer)));
    return std::move(made.worker);
  }

  // The first that has something to do. It goes to the end of the line, and is the caller's until
  // Return.
  std::shared_ptr<Thread> Take() {
    MutexLock lock(mutex);
    for (auto it = all.begin(); it != all.end(); ++it) {
      if ((*it)->steps || (*it)->performer.queued() == 0) continue;
      std::shared_ptr<Thread> taken = *it;
      all.erase(it);
      all.push_back(taken);
      taken->steps = true;
      return taken;
    }
    return nullptr;
  }
  void Return(const std::shared_ptr<Thread>& thread) {
    MutexLock lock(mutex);
    thread->steps = false;
  }
  void ForgetAll() {
    std::deque<std::shared_ptr<Thread>> gone;
    MutexLock lock(mutex);
    gone.swap(all);
  }

  workers::internal::Mutex mutex;
  std::deque<std::shared_ptr<Thread>> all ABSL_GUARDED_BY(mutex);
};

MemoryReactor::MemoryReactor(MemoryReactorOptions options)
    : core_(std::make_shared<Core>(options)),
      threads_(std::make_shared<Threads>()),
      timers_({.name = options.name,
               .now = [this] { return Now(); },
               .check_thread =
                   [core = core_](absl::string_view method) { return core->CheckThread(method); },
               .on_error = options.on_error}),
      triggers_(options.name, options.on_error),
      poller_(std::make_unique<NoPoller>()),
      descriptors_(options.name, options.on_error, *poller_,
                   [this](IDescriptor& d) { ready_.erase(&d); }) {
  if (options.min_threads < 0 || options.max_threads < options.min_threads) {
    workers::internal::DieOfMisuse(absl::StrCat(options.name, ": a pool of ", options.min_threads,
                                                " to ", options.max_threads, " threads"));
  }
}

MemoryReactor::~MemoryReactor() {
  Core& core = *core_;
  if (core.runner.load() != ThreadId()) {
    workers::internal::DieOfMisuse(core.name + ": the reactor is destroyed inside its own step");
  }
  std::shared_ptr<ThreadPool> pool;
  bool pool_runs;
  std::deque<Work> queue;
  {
    MutexLock lock(core.mutex);
    core.state.store(State::kStopped);
    core.accepting = false;
    pool_runs = core.pool_runs;
    pool = std::move(core.pool);
    core.pool = nullptr;
    queue.swap(core.queue);
  }
  core.running.store(false);
  if (draining_ != nullptr) {
    pool = std::move(draining_);
    pool_runs = true;
  }
  // What is destroyed here belongs to the loop.
  workers::WorkerScope scope(core.loop);
  ReleaseWatchers();
  int64_t dropped = 0;
  if (pool != nullptr && pool_runs) {
    dropped += pool->QuitNow();
    // A work that is destroyed unrun counts as dropped, and its worker goes on, to its end.
    while (!pool->Stop(absl::ZeroDuration()).ok()) {
      const std::shared_ptr<Threads::Thread> thread = threads_->Take();
      if (thread == nullptr) {
        workers::internal::DieOfMisuse(core.name + ": destroyed inside a work of its pool");
      }
      thread->performer.Drop();
      threads_->Return(thread);
    }
  }
  pool = nullptr;  // never started: it drops what waits, and reports
  threads_->ForgetAll();
  dropped += static_cast<int64_t>(queue.size());
  for (; !queue.empty(); queue.pop_front()) {  // the oldest first
  }
  dropped += static_cast<int64_t>(timers_.Drop());
  dropped += triggers_.Clear();
  workers::internal::ReportDropped(core.on_error, core.name, dropped, "the reactor was destroyed");
}

void MemoryReactor::Enter(const char* method, absl::FunctionRef<void()> f) {
  if (core_->runner.load() != ThreadId()) {
    workers::internal::DieOfMisuse(
        absl::StrCat(core_->name, ": ", method, " inside another step of the loop"));
  }
  core_->runner.store(workers::internal::CurrentThread());
  workers::WorkerScope scope(core_->loop);
  absl::Cleanup leave([this] { core_->runner.store(ThreadId()); });
  f();
}

void MemoryReactor::RunWork(Work& work) {
  workers::internal::RunWork(work, core_->name, core_->on_error);
}

void MemoryReactor::Report(absl::Status status) const {
  workers::internal::Report(core_->on_error, core_->name, std::move(status));
}

// --- steps --------------------------------------------------------------------------------------

absl::Status MemoryReactor::Start() {
  {
    MutexLock lock(core_->mutex);
    const State state = core_->state.load();
    if (state != State::kIdle && state != State::kStopped) {
      return absl::FailedPreconditionError(absl::StrCat(core_->name, ": it runs already"));
    }
    core_->state.store(State::kStarting);
    core_->accepting = true;
    core_->stop_wanted = false;
    core_->pool_open = true;
  }
  core_->end_watchers.Open();
  descriptors_.Open();
  Enter("Start", [this] {
    triggers_.Fire(SystemEvent::kStartup, EventPhase::kBefore, waiting_);
    GoOn();
  });
  return absl::OkStatus();
}

bool MemoryReactor::Turn() {
  bool ran = false;
  Enter("Turn", [&] { ran = TurnInside(); });
  return ran;
}

bool MemoryReactor::TurnInside() {
  const State state = core_->state.load();
  if (state == State::kIdle) {
    workers::internal::DieOfMisuse(core_->name + ": a step before the first Start");
  }
  if (state == State::kStopped) return false;
  bool ran = descriptors_.RunLost();
  ran |= RunDescriptors();
  ran |= timers_.RunDue(Now(), [this](Work& work) { RunWork(work); }) > 0;
  ran |= RunCalls();
  ran |= GoOn();
  return ran;
}

void MemoryReactor::Advance(absl::Duration by) {
  if (by < absl::ZeroDuration()) {
    workers::internal::DieOfMisuse(core_->name + ": time does not go back");
  }
  Enter("Advance", [&] {
    const State state = core_->state.load();
    if (state == State::kIdle) {
      workers::internal::DieOfMisuse(core_->name + ": a step before the first Start");
    }
    if (state == State::kStopped) return;
    {
      MutexLock lock(core_->mutex);
      core_->now += by;
    }
    timers_.RunDue(Now(), [this](Work& work) { RunWork(work); });
  });
}

bool MemoryReactor::StepThread() {
  if (workers::WorkerScope::RunsIn(core_->loop)) {
    workers::internal::DieOfMisuse(core_->name + ": StepThread inside the loop");
  }
  const std::shared_ptr<Threads::Thread> thread = threads_->Take();
  if (thread == nullptr) return false;
  absl::Cleanup end([&] { threads_->Return(thread); });
  thread->performer();
  return true;
}

void MemoryReactor::Settle() {
  bool stepped;
  do {
    Turn();
    stepped = false;
    while (StepThread()) stepped = true;
  } while (stepped || queued_calls() > 0 || descriptors_.HasLost());
}

size_t MemoryReactor::queued_calls() const {
  MutexLock lock(core_->mutex);
  return core_->queue.size();
}

bool MemoryReactor::RunCalls() {
  std::deque<Work> batch;
  {
    MutexLock lock(core_->mutex);
    batch.swap(core_->queue);
  }
  const bool ran = !batch.empty();
  for (; !batch.empty(); batch.pop_front()) RunWork(batch.front());
  return ran;
}

// --- startup and shutdown -----------------------------------------------------------------------

// Does what can be done now of the startup or the shutdown. False: nothing.
bool MemoryReactor::GoOn() {
  bool went = false;
  bool stop_wanted;
  {
    MutexLock lock(core_->mutex);
    stop_wanted = core_->stop_wanted;
  }
  if (core_->state.load() == State::kStarting && (*waiting_ == 0 || stop_wanted)) {
    // Those that have not fired are not waited for any more.
    waiting_ = std::make_shared<int>(0);
    std::shared_ptr<ThreadPool> pool;
    {
      MutexLock lock(core_->mutex);
      core_->pool_runs = true;
      pool = core_->pool;
    }
    if (pool != nullptr) {
      if (absl::Status started = pool->Start(); !started.ok()) Report(std::move(started));
    }
    core_->running.store(true);
    triggers_.Fire(SystemEvent::kStartup, EventPhase::kDuring);
    triggers_.Fire(SystemEvent::kStartup, EventPhase::kAfter);
    MutexLock lock(core_->mutex);
    core_->state.store(State::kRunning);
    stop_wanted = core_->stop_wanted;
    went = true;
  }
  if (core_->state.load() == State::kRunning && stop_wanted) {
    {
      MutexLock lock(core_->mutex);
      core_->state.store(State::kStopping);
    }
    triggers_.Fire(SystemEvent::kShutdown, EventPhase::kBefore, waiting_);
    went = true;
  }
  if (core_->state.load() != State::kStopping || *waiting_ > 0) return went;
  if (!IsPoolDone()) return went;
  EndShutdown();
  return true;
}

// Closes the pool and releases who waits, the first time.
bool MemoryReactor::IsPoolDone() {
  ReleaseWatchers();
  bool start;
  {
    MutexLock lock(core_->mutex);
    if (core_->pool != nullptr) draining_ = std::move(core_->pool);
    core_->pool = nullptr;
    start = std::exchange(core_->pool_runs, false);
  }
  if (draining_ == nullptr) return true;
  if (start) {  // who made it may not have come to that, and others have given it work
    if (absl::Status started = draining_->Start(); !started.ok()) Report(std::move(started));
  }
  if (!draining_->Stop(absl::ZeroDuration()).ok()) return false;
  threads_->ForgetAll();
  return true;
}

void MemoryReactor::EndShutdown() {
  RunCalls();  // the pool's results
  descriptors_.LoseAll();
  core_->running.store(false);
  triggers_.Fire(SystemEvent::kShutdown, EventPhase::kDuring);
  triggers_.Fire(SystemEvent::kShutdown, EventPhase::kAfter);
  std::deque<Work> last;
  {
    MutexLock lock(core_->mutex);
    core_->accepting = false;
    last.swap(core_->queue);
  }
  for (; !last.empty(); last.pop_front()) RunWork(last.front());
  draining_ = nullptr;
  MutexLock lock(core_->mutex);
  core_->state.store(State::kStopped);
}

void MemoryReactor::ReleaseWatchers() {
  {
    MutexLock lock(core_->mutex);
    core_->pool_open = false;
  }
  core_->end_watchers.Release([this](Work& ended) { RunWork(ended); });
}

// --- time ---------------------------------------------------------------------------------------

absl::Duration MemoryReactor::Now() const {
  MutexLock lock(core_->mutex);
  return core_->now;
}

absl::StatusOr<DelayedCall> MemoryReactor::CallLater(absl::Duration delay, Work&& work) {
  if (absl::Status status = core_->CheckThread("MemoryReactor::CallLater"); !status.ok()) {
    return status;
  }
  if (core_->state.load() == State::kStopped) return workers::AlreadyQuitError(core_->name);
  return timers_.Add(delay, std::move(work));
}

// --- threads ------------------------------------------------------------------------------------

absl::Status MemoryReactor::CallFromThread(Work&& work) { return core_->Call(std::move(work)); }

absl::Status MemoryReactor::CallInThread(Work&& work) {
  if (!work) return workers::internal::EmptyWorkError(core_->name);
  auto pool = Pool();
  if (!pool.ok()) return pool.status();
  return (*pool)->CallInThread(std::move(work));
}

absl::Status MemoryReactor::SuggestThreadPoolSize(int max) {
  std::shared_ptr<ThreadPool> pool;
  {
    MutexLock lock(core_->mutex);
    if (!core_->pool_open) return workers::AlreadyQuitError(core_->name);
    if (max < core_->min_threads) {
      return absl::InvalidArgumentError(absl::StrCat(core_->name, ": at least ", core_->min_threads,
                                                     " and at most ", max, " threads"));
    }
    core_->max_threads = max;
    pool = core_->pool;
  }
  if (pool == nullptr) return absl::OkStatus();
  // Two at once may come to the pool in another order than here: the last to come there sees it.
  for (;;) {
    if (absl::Status status = pool->AdjustPoolSize(std::nullopt, max); !status.ok()) return status;
    MutexLock lock(core_->mutex);
    if (core_->max_threads == max) return absl::OkStatus();
    max = core_->max_threads;
  }
}

absl::StatusOr<ThreadPool*> MemoryReactor::thread_pool() {
  auto pool = Pool();
  if (!pool.ok()) return pool.status();
  return pool->get();
}

absl::StatusOr<std::shared_ptr<ThreadPool>> MemoryReactor::Pool() {
  workers::ThreadPoolOptions options;
  {
    MutexLock lock(core_->mutex);
    if (!core_->pool_open) return workers::AlreadyQuitError(core_->name);
    if (core_->pool != nullptr) return core_->pool;
    options.min_threads = core_->min_threads;
    options.max_threads = core_->max_threads;
  }
  options.pool.name = absl::StrCat(core_->name, "-pool");
  options.pool.on_error = core_->on_error;
  options.pool.create_worker =
      [threads = threads_, name = options.pool.name,
       on_error = core_->on_error]() -> absl::StatusOr<std::unique_ptr<workers::IWorker>> {
    return threads->Make(name, on_error);
  };
  auto made = ThreadPool::Create(std::move(options));
  if (!made.ok()) return made.status();
  std::shared_ptr<ThreadPool> pool = *std::move(made);  // destroyed unused if another was faster
  bool start = false;
  {
    MutexLock lock(core_->mutex);
    if (!core_->pool_open) return workers::AlreadyQuitError(core_->name);
    if (core_->pool == nullptr) {
      core_->pool = pool;
      start = core_->pool_runs;
      pool->AdjustPoolSize(std::nullopt, core_->max_threads).IgnoreError();
    }
    pool = core_->pool;
  }
  if (start) {
    absl::Status started = pool->Start();
    // Closed meanwhile, it says so to whoever gives it work.
    if (!started.ok() && !absl::IsFailedPrecondition(started)) Report(std::move(started));
  }
  return pool;
}

bool MemoryReactor::InReactorThread() const { return workers::WorkerScope::RunsIn(core_->loop); }

std::shared_ptr<workers::IExclusiveWorker> MemoryReactor::worker() {
  return std::shared_ptr<workers::IExclusiveWorker>(core_, &core_->loop);
}

absl::StatusOr<uint64_t> MemoryReactor::WatchEnd(std::function<void()> ended) {
  return core_->end_watchers.Add(core_->name, std::move(ended));
}

void MemoryReactor::UnwatchEnd(uint64_t id) { core_->end_watchers.Remove(id); }

// --- core ---------------------------------------------------------------------------------------

absl::Status MemoryReactor::Run() {
  if (core_->runner.load() != ThreadId()) {
    return absl::FailedPreconditionError(absl::StrCat(core_->name, ": Run inside a step"));
  }
  if (absl::Status status = Start(); !status.ok()) return status;
  while (core_->state.load() != State::kStopped) {
    const bool ran = Turn();
    bool stepped = false;
    while (StepThread()) stepped = true;
    if (stepped || queued_calls() > 0 || core_->state.load() == State::kStopped) continue;
    if (const absl::Duration next = timers_.next(); next != absl::InfiniteDuration()) {
      MutexLock lock(core_->mutex);
      core_->now = std::max(core_->now, next);
    } else if (!ran) {
      return absl::UnavailableError(
          absl::StrCat(core_->name, ": nothing is left that could stop it"));
    }
  }
  return absl::OkStatus();
}

absl::Status MemoryReactor::Stop() {
  MutexLock lock(core_->mutex);
  const State state = core_->state.load();
  if (state != State::kStarting && state != State::kRunning) {
    return absl::FailedPreconditionError(
        absl::StrCat(core_->name, ": Stop of a reactor that does not run"));
  }
  if (std::exchange(core_->stop_wanted, true)) {
    return absl::FailedPreconditionError(
        absl::StrCat(core_->name, ": it was told to stop already"));
  }
  return absl::OkStatus();
}

bool MemoryReactor::running() const { return core_->running.load(); }

absl::Status MemoryReactor::CallWhenRunning(Work&& work) {
  if (absl::Status status = core_->CheckThread("MemoryReactor::CallWhenRunning"); !status.ok()) {
    return status;
  }
  if (!work) return workers::internal::EmptyWorkError(core_->name);
  const State state = core_->state.load();
  if (state == State::kRunning || state == State::kStopping) {
    Work now = std::move(work);
    if (InReactorThread()) {
      RunWork(now);
    } else {
      Enter("CallWhenRunning", [&] { RunWork(now); });
    }
    return absl::OkStatus();
  }
  triggers_.AddAfterStartup(std::move(work));
  return absl::OkStatus();
}

absl::StatusOr<TriggerId> MemoryReactor::AddSystemEventTrigger(EventPhase phase, SystemEvent event,
                                                               std::function<Deferred<void>()> f) {
  if (absl::Status status = core_->CheckThread("MemoryReactor::AddSystemEventTrigger");
      !status.ok()) {
    return status;
  }
  if (!f) return workers::internal::EmptyWorkError(core_->name);
  return triggers_.Add(phase, event, std::move(f));
}

absl::Status MemoryReactor::RemoveSystemEventTrigger(TriggerId id) {
  if (absl::Status status = core_->CheckThread("MemoryReactor::RemoveSystemEventTrigger");
      !status.ok()) {
    return status;
  }
  return triggers_.Remove(id);
}

// --- descriptors --------------------------------------------------------------------------------

void MemoryReactor::SetReady(IDescriptor& d, Interest ready) {
  if (!core_->CheckThread("MemoryReactor::SetReady").ok()) return;
  ready_[&d] = ready;
}

std::vector<IReadDescriptor*> MemoryReactor::readers() const {
  std::vector<IReadDescriptor*> all;
  for (const auto& [d, watched] : descriptors_.watched()) {
    if (watched.reader != nullptr) all.push_back(watched.reader);
  }
  return all;
}

std::vector<IWriteDescriptor*> MemoryReactor::writers() const {
  std::vector<IWriteDescriptor*> all;
  for (const auto& [d, watched] : descriptors_.watched()) {
    if (watched.writer != nullptr) all.push_back(watched.writer);
  }
  return all;
}

bool MemoryReactor::RunDescriptors() {
  std::vector<Ready> ready;
  for (const auto& [d, watched] : descriptors_.watched()) {
    const auto it = ready_.find(d);
    if (it == ready_.end()) continue;
    const bool read = it->second.read && watched.reader != nullptr;
    const bool write = it->second.write && watched.writer != nullptr;
    if (read || write) ready.push_back({.token = watched.token, .read = read, .write = write});
  }
  bool ran = false;
  for (const Ready& one : ready) ran |= descriptors_.Run(one);
  return ran;
}

absl::Status MemoryReactor::AddReader(IReadDescriptor& d) {
  if (absl::Status status = core_->CheckThread("MemoryReactor::AddReader"); !status.ok()) {
    return status;
  }
  return descriptors_.Add(d, &d, nullptr);
}

absl::Status MemoryReactor::AddWriter(IWriteDescriptor& d) {
  if (absl::Status status = core_->CheckThread("MemoryReactor::AddWriter"); !status.ok()) {
    return status;
  }
  return descriptors_.Add(d, nullptr, &d);
}

absl::Status MemoryReactor::RemoveReader(IReadDescriptor& d) {
  if (absl::Status status = core_->CheckThread("MemoryReactor::RemoveReader"); !status.ok()) {
    return status;
  }
  return descriptors_.Remove(d, true, false);
}

absl::Status MemoryReactor::RemoveWriter(IWriteDescriptor& d) {
  if (absl::Status status = core_->CheckThread("MemoryReactor::RemoveWriter"); !status.ok()) {
    return status;
  }
  return descriptors_.Remove(d, false, true);
}

}  // namespace reactor::test
