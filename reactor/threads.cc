#include "reactor/threads.h"

#include <string>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "workers/team.h"

namespace reactor {
namespace {

using workers::IsAlreadyQuit;
using workers::Team;
using workers::ThreadPool;
using workers::Work;
using workers::internal::MutexLock;

// The blocking call on whose behalf something is done, if any.
constexpr workers::ContextKey<std::weak_ptr<internal::BlockingWait>> kBlockingWait("blocking call");

// What a call is called: "DeferToThread (at f.cc:1)"; release builds know no sites.
std::string Named(absl::string_view what, internal::Site site) {
  if (site.file == nullptr) return std::string(what);
  return absl::StrCat(what, " (at ", site.file, ":", site.line, ")");
}

constexpr absl::string_view kBlocking = "BlockingCallFromThread";

absl::Status Reworded(const absl::Status& status, absl::string_view text) {
  absl::Status reworded(status.code(), text);
  status.ForEachPayload([&reworded](absl::string_view url, const absl::Cord& payload) {
    reworded.SetPayload(url, payload);
  });
  return reworded;
}

}  // namespace

CallError::CallError(size_t index, size_t count, Failure failure)
    : StatusError(Reworded(failure.status(), absl::StrCat("call ", index, " of ", count, ": ",
                                                          failure.status().message()))),
      index_(index),
      failure_(std::move(failure)) {}

const CallError* CallError::From(const Failure& failure) {
  if (failure.exception() == nullptr) return nullptr;
  try {
    std::rethrow_exception(failure.exception());
  } catch (const CallError& error) {
    return &error;
  } catch (...) {
    return nullptr;
  }
}

Deferred<void> CallMultipleInThread(IReactorThreads& reactor,
                                    std::vector<absl::AnyInvocable<absl::Status() &&>> calls,
                                    internal::Site site) {
  return DeferToThread(
      reactor,
      [calls = std::move(calls)](std::stop_token stop) mutable -> Result<void> {
        for (size_t i = 0; i < calls.size(); ++i) {
          if (stop.stop_requested()) return absl::CancelledError("cancelled between two calls");
          absl::AnyInvocable<absl::Status() &&> call = std::move(calls[i]);
          Result<void> result = absl::InvalidArgumentError("it is empty");
          if (call) {
            std::optional<Failure> thrown =
                internal::CallIn(workers::Context::Current(), [&] { result = std::move(call)(); });
            if (thrown.has_value()) result = *std::move(thrown);
          }
          if (!result.ok()) {
            return Failure(std::make_exception_ptr(CallError(i, calls.size(), result.failure())));
          }
        }
        return {};
      },
      site);
}

namespace internal {

// --- calls on other workers -----------------------------------------------------------------

absl::Status DeferredCall::GiveTo(workers::IWorker& run_on) {
  using RunPart = Part<&DeferredCall::Run, &DeferredCall::NotRun>;
  using DeliverPart = Part<&DeferredCall::Deliver, &DeferredCall::NotDelivered>;
  using OnlyPart = Part<&DeferredCall::RunAndDeliver, &DeferredCall::NotRun>;

  auto* const pool = dynamic_cast<ThreadPool*>(&run_on);
  auto* const team = dynamic_cast<Team*>(&run_on);
  absl::Status status;
  if (pool != nullptr || team != nullptr) {
    Work run = RunPart(shared_from_this());
    Work deliver = DeliverPart(shared_from_this());
    absl::StatusOr<workers::WorkHandle> taken = absl::InternalError("");
    {
      workers::ContextScope none{workers::Context()};  // the call has its own: one is enough
      taken = pool != nullptr ? pool->Enqueue(std::move(run), std::move(deliver))
                              : team->Enqueue(std::move(run), std::move(deliver));
    }
    status = taken.status();
    if (taken.ok()) {
      handle = *std::move(taken);
    } else {
      Pass(kQueued, kFinished);  // before its parts are destroyed
    }
  } else {
    Work work = OnlyPart(shared_from_this());
    status = run_on.Do(std::move(work));
    if (!status.ok()) Pass(kQueued, kFinished);
  }
  if (status.ok()) {
    const auto* const waiting = context_.Get(kBlockingWait);
    const auto wait = waiting != nullptr ? waiting->lock() : nullptr;
    if (wait != nullptr) wait->LookAgain();
  }
  return status;
}

absl::Status DeferredCall::GiveToPoolOf(IReactorThreads& reactor) {
  if (reactor.InReactorThread()) return GiveToPoolHere(reactor);
  // The pool may go at the end of Run; but not while the loop does this.
  reactor_ = &reactor;
  Work work = Part<&DeferredCall::GoOnAtHome, &DeferredCall::NotRun>(shared_from_this());
  absl::Status status = home_->Do(std::move(work));
  if (!status.ok()) Pass(kQueued, kFinished);
  return status;
}

absl::Status DeferredCall::GiveToPoolHere(IReactorThreads& reactor) {
  const absl::StatusOr<ThreadPool*> pool = reactor.thread_pool();
  if (pool.ok()) return GiveTo(**pool);
  Pass(kQueued, kFinished);
  return pool.status();
}

void DeferredCall::GoOnAtHome() {
  if (state_.load() != kQueued) return;  // cancelled
  const absl::Status status = GiveToPoolHere(*reactor_);
  if (status.ok()) return;
  DestroyCall();
  SetFailure(Failure(status));
  FirePromise();
}

void DeferredCall::Run() {
  if (!Pass(kQueued, kRunning)) return;  // a shell
  bool came_back = false;
  absl::Cleanup by_force([&] {
    if (came_back) return;
    SetFailure(Failure(absl::AbortedError(
        absl::StrCat(Named(what, site), ": its thread was ended inside the call"))));
  });
  waits_ = !CallAndKeep();
  came_back = true;
}

void DeferredCall::Deliver() {
  if (!waits_ && state_.load() != kCancelled) Finish();
}

void DeferredCall::RunAndDeliver() {
  absl::Cleanup deliver([this] { Deliver(); });
  Run();
}

void DeferredCall::NotRun() {
  if (!Pass(kQueued, kFinished)) return;  // refused, cancelled, or the other part came first
  DestroyCall();
  SetFailure(Failure(
      absl::AbortedError(absl::StrCat(Named(what, site), ": its worker dropped it unrun"))));
  SendHome();
}

void DeferredCall::NotDelivered() {
  NotRun();
  if (state_.load() == kRunning) Deliver();
}

void DeferredCall::Abort(absl::string_view why) {
  SetFailure(Failure(absl::AbortedError(absl::StrCat(Named(what, site), ": ", why))));
  Finish();
}

void DeferredCall::Finish() {
  if (Pass(kRunning, kFinished)) {
    SendHome();
  } else {
    DropResult();
  }
}

// What is refused is destroyed with the work, here.
void DeferredCall::SendHome() {
  Work work = Part<&DeferredCall::FirePromise, &DeferredCall::Undelivered>(shared_from_this());
  home_->Do(std::move(work)).IgnoreError();
}

void DeferredCall::Undelivered() {
  DropResult();
  ForgetPromise();
}

void DeferredCall::Cancel() {
  if (Pass(kQueued, kCancelled)) {
    DestroyCall();
    handle.TryCancel();
    ForgetPromise();
  } else if (Pass(kRunning, kAbandoned)) {
    ForgetPromise();
    RequestStop();
  }
}

// --- calls that wait ------------------------------------------------------------------------

BlockingWait::Expected::~Expected() {
  if (wait_ == nullptr) return;
  wait_->Fail(absl::UnavailableError(
      absl::StrCat(Named(kBlocking, wait_->site_), ": the reactor dropped the call")));
}

absl::Status BlockingWait::Wait(IReactorThreads& reactor, absl::Duration timeout) {
  const std::string name = Named(kBlocking, site_);
  if (reactor.InReactorThread()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": on the reactor thread it would wait for itself"));
  }
  if (timeout == absl::InfiniteDuration() && !reactor.running()) {
    return absl::UnavailableError(absl::StrCat(name, ": the reactor does not run"));
  }
  const absl::Duration deadline = workers::internal::SteadyNow() + timeout;
  const auto refused = [&name](const absl::Status& why) {
    return !IsAlreadyQuit(why)
               ? why
               : absl::UnavailableError(absl::StrCat(name, ": the reactor has stopped"));
  };

  const std::shared_ptr<BlockingWait> self = shared_from_this();
  // It may be called before WatchEnd has returned.
  const absl::StatusOr<uint64_t> watch = reactor.WatchEnd([self, name] {
    self->GiveUp(absl::UnavailableError(absl::StrCat(name, ": the reactor stops")));
  });
  if (!watch.ok()) return refused(watch.status());
  reactor_ = &reactor;
  watch_ = *watch;

  workers::BlockingScope scope(timeout);
  {
    MutexLock lock(mutex_);
    scope_ = &scope;
  }
  Work start = [expected = Expected(self)]() mutable {
    const std::shared_ptr<BlockingWait> wait = expected.Take();
    wait->Start();
  };
  const absl::Status given = loop_->Do(std::move(start));
  if (!given.ok()) {
    reactor.UnwatchEnd(watch_);
    {
      MutexLock lock(mutex_);
      phase_ = kEnded;
      scope_ = nullptr;
    }
    DestroyCall();  // here, though the watcher may be just called, and keep the rest
    return refused(given);
  }

  bool begun = true;
  bool timed_out = false;
  absl::Status why;
  {
    MutexLock lock(mutex_);
    while (phase_ != kEnded) {
      if (phase_ == kClaimed) {  // the result is being put down
        changed_.Wait(mutex_);
      } else if (workers::internal::SteadyNow() < deadline) {
        changed_.WaitUntil(mutex_, deadline);
      } else {
        phase_ = kEnded;
        why_ = absl::DeadlineExceededError(
            absl::StrCat(name, ": no result in ", absl::FormatDuration(timeout)));
        timed_out = true;
      }
    }
    while (looking_) changed_.Wait(mutex_);
    scope_ = nullptr;
    begun = std::exchange(started_, true);
    why = why_;
  }
  if (!begun) DestroyCall();
  if (timed_out) loop_->Do([self] { self->Abandon(); }).IgnoreError();  // else it has ended
  return why;
}

void BlockingWait::Start() {
  {
    MutexLock lock(mutex_);
    if (std::exchange(started_, true) || phase_ != kWaiting) return;
  }
  workers::ContextScope scope(context_.With(kBlockingWait, weak_from_this()));
  Call();
}

void BlockingWait::Await(Deferred<void> tail) {
  if (tail.fired()) return;
  tail_ = std::move(tail);
  Look();
}

void BlockingWait::LookAgain() {
  loop_->Do([self = shared_from_this()] { self->Look(); }).IgnoreError();
}

// Does the result wait for a work item of a team? Then the team of the waiting thread, if it is the
// same, knows whether that can ever end.
void BlockingWait::Look() {
  const Stage* top = Access::Last(tail_);
  if (top == nullptr) return;
  while (top->upstream != nullptr) top = top->upstream;
  const AwaitedWork* const awaited = top->fired ? nullptr : top->awaited();
  if (awaited == nullptr) return;
  workers::BlockingScope* scope;
  {
    MutexLock lock(mutex_);
    if (phase_ != kWaiting || scope_ == nullptr) return;
    looking_ = true;  // keeps it
    scope = scope_;
  }
  const absl::Status status = scope->Awaits(awaited->handle);
  const std::string work = Named(awaited->what, awaited->site);
  {
    MutexLock lock(mutex_);
    looking_ = false;
  }
  changed_.Signal();
  if (status.ok()) return;
  GiveUp(absl::FailedPreconditionError(
      absl::StrCat(Named(kBlocking, site_), " waits for ", work, ", but ", status.message())));
  reactor_->UnwatchEnd(watch_);
}

// The wait is over, and whatever it was for is cancelled. Reactor thread.
void BlockingWait::Abandon() {
  reactor_->UnwatchEnd(watch_);
  CancelTail();
}

// The wait is over because of `why`. First the cancelling: the thread that waits may be the one
// that would run what it waited for. Reactor thread.
void BlockingWait::GiveUp(absl::Status why) {
  const bool ours = Claim();
  CancelTail();
  if (!ours) return;
  {
    MutexLock lock(mutex_);
    phase_ = kEnded;
    why_ = std::move(why);
  }
  changed_.Signal();
}

void BlockingWait::CancelTail() {
  Deferred<void> tail = std::move(tail_);
  if (Access::Last(tail) != nullptr) tail.Cancel();
}

bool BlockingWait::Claim() {
  MutexLock lock(mutex_);
  if (phase_ != kWaiting) return false;
  phase_ = kClaimed;
  return true;
}

void BlockingWait::Publish() {
  reactor_->UnwatchEnd(watch_);
  {
    MutexLock lock(mutex_);
    phase_ = kEnded;
  }
  changed_.Signal();
}

void BlockingWait::Fail(absl::Status why) {
  {
    MutexLock lock(mutex_);
    if (phase_ != kWaiting) return;
    phase_ = kEnded;
    why_ = std::move(why);
  }
  changed_.Signal();
}

}  // namespace internal
}  // namespace reactor
