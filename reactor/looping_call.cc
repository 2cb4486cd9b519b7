#include "reactor/looping_call.h"

#include <algorithm>
#include <string>

#include "absl/cleanup/cleanup.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "reactor/failure.h"
#include "reactor/internal/stage.h"
#include "workers/internal/misuse.h"
#include "workers/worker.h"

namespace reactor {

// From Start to the Deferred that it returned.
struct LoopingCall::Run {
  Promise<void> promise;
  const absl::Duration interval;
  absl::Duration start;   // the last Start or Reset
  int64_t counted;        // the interval since `start` of which f was last told
  bool begins_with_call;  // once the call that is under way for another run has ended
  const internal::Home home = internal::Home::Here();
};

// Invariant: where there is a `run`, exactly one of three holds: its call is under way (`busy` is
// it); the call of another one is (`busy` is that); `timer` waits.
struct LoopingCall::Core : std::enable_shared_from_this<Core> {
  Core(IReactorTime& time, Call call) : time(time), call(std::move(call)) {}

  void Begin(const std::shared_ptr<Run>& begun);
  void Schedule(const std::shared_ptr<Run>& next, absl::Duration delay);
  void Due(const std::shared_ptr<Run>& due);
  Result<void> Ended(Result<void> result);
  absl::Status Stop();
  // Not OK: the caller is not where the run belongs. Debug builds die.
  absl::Status Check(absl::string_view method) const;

  IReactorTime& time;
  Call call;
  std::shared_ptr<Run> run;   // null: it does not run
  std::shared_ptr<Run> busy;  // whose call is under way, null: none is
  DelayedCall timer;
  bool gone = false;  // the LoopingCall was destroyed
};

// The work of the timer. One that is destroyed undone, while its run is the current one, was
// dropped by whatever the time is of.
class LoopingCall::Tick {
 public:
  Tick(std::shared_ptr<Core> core, std::shared_ptr<Run> run)
      : core_(std::move(core)), run_(std::move(run)) {}
  Tick(Tick&&) = default;
  Tick& operator=(Tick&&) = delete;
  ~Tick() {
    if (core_ == nullptr || core_->run != run_) return;
    core_->run = nullptr;
    run_->promise.Errback(absl::AbortedError("LoopingCall: its reactor is gone")).IgnoreError();
  }

  void operator()() && { std::exchange(core_, nullptr)->Due(run_); }

 private:
  std::shared_ptr<Core> core_;
  std::shared_ptr<Run> run_;
};

void LoopingCall::Core::Schedule(const std::shared_ptr<Run>& next, absl::Duration delay) {
  workers::Work work = Tick(shared_from_this(), next);
  absl::StatusOr<DelayedCall> later = time.CallLater(delay, std::move(work));
  if (later.ok()) {
    timer = *std::move(later);
    return;
  }
  run = nullptr;
  next->promise.Errback(later.status()).IgnoreError();
}

// Nobody's call is under way.
void LoopingCall::Core::Begin(const std::shared_ptr<Run>& begun) {
  absl::Duration late;  // since the last multiple of the interval
  if (begun->interval > absl::ZeroDuration()) {
    absl::IDivDuration(time.Now() - begun->start, begun->interval, &late);
  }
  Schedule(begun, begun->interval - late);
}

void LoopingCall::Core::Due(const std::shared_ptr<Run>& due) {
  if (gone) {
    Stop().IgnoreError();
    return;
  }
  int64_t passed = due->counted + 1;
  if (due->interval > absl::ZeroDuration()) {
    absl::Duration rest;
    passed = absl::IDivDuration(time.Now() - due->start, due->interval, &rest);
  }
  const int64_t count = std::max<int64_t>(passed - std::exchange(due->counted, passed), 1);
  const std::shared_ptr<Core> self = shared_from_this();
  busy = due;
  bool returned = false;
  absl::Cleanup unwound([&] {
    if (!returned) Ended(absl::AbortedError("LoopingCall: f ended its thread"));
  });
  Deferred<void> made = call(count);
  returned = true;
  std::move(made)
      .AddBoth([self](Result<void> result) { return self->Ended(std::move(result)); })
      .Detach();
}

// The call that was under way has ended. Returns what nobody has heard of.
Result<void> LoopingCall::Core::Ended(Result<void> result) {
  const std::shared_ptr<Run> ended = std::exchange(busy, nullptr);
  if (gone) {
    const std::shared_ptr<Run> last = std::exchange(run, nullptr);
    if (last != nullptr && last != ended) last->promise.Callback().IgnoreError();
  }
  if (run == ended && result.ok()) {
    Begin(ended);
    return {};
  }
  if (run == ended) run = nullptr;
  if (const std::shared_ptr<Run> next = run; next != nullptr) {
    if (next->begins_with_call) {
      Schedule(next, absl::ZeroDuration());
    } else {
      Begin(next);
    }
  }
  const bool told = ended->promise.Fire(result).ok();
  // It was cancelled, and so has nothing more to say; a failure does.
  return told || absl::IsCancelled(result.status()) ? Result<void>() : result;
}

absl::Status LoopingCall::Core::Stop() {
  const std::shared_ptr<Run> stopped = std::exchange(run, nullptr);
  timer.Cancel().IgnoreError();  // none waits where a call is under way
  if (busy != stopped) stopped->promise.Callback().IgnoreError();
  return absl::OkStatus();
}

absl::Status LoopingCall::Core::Check(absl::string_view method) const {
  if (run == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(method, ": it does not run"));
  }
  if (run->home.IsHere()) return absl::OkStatus();
  const std::string what = absl::StrCat(method, ": called on ", internal::Home::Here().ToString(),
                                        ", but it was started on ", run->home.ToString());
#ifndef NDEBUG
  workers::internal::DieOfMisuse(what);
#else
  return absl::FailedPreconditionError(what);
#endif
}

LoopingCall::LoopingCall(IReactorTime& time, Call call)
    : core_(std::make_shared<Core>(time, std::move(call))) {}

LoopingCall::~LoopingCall() {
  core_->gone = true;
  Call call;  // destroyed last, as it may have captured what it likes
  if (core_->busy == nullptr) call = std::move(core_->call);
  if (core_->run == nullptr) return;
  // Elsewhere the timer's end sees to it, which is where the run belongs. Asking that timer tells
  // of a wrong thread.
  if (core_->run->home.IsHere()) {
    core_->Stop().IgnoreError();
  } else {
    core_->timer.active();
  }
}

Deferred<void> LoopingCall::Start(absl::Duration interval, bool now) {
  if (core_->run != nullptr) {
    return Fail<void>(absl::FailedPreconditionError("LoopingCall::Start: it runs already"));
  }
  if (!(interval >= absl::ZeroDuration()) || interval == absl::InfiniteDuration()) {
    return Fail<void>(absl::InvalidArgumentError(
        absl::StrCat("LoopingCall::Start: not an interval: ", absl::FormatDuration(interval))));
  }
  struct Held {
    std::weak_ptr<Core> core;
    std::weak_ptr<Run> run;
  };
  auto held = std::make_shared<Held>();
  auto [deferred, promise] = MakeDeferred<void>([held](Promise<void>&) {
    const std::shared_ptr<Core> core = held->core.lock();
    const std::shared_ptr<Run> run = held->run.lock();
    if (core == nullptr || run == nullptr) return;
    if (core->run == run) {
      core->run = nullptr;
      core->timer.Cancel().IgnoreError();
    }
    run->promise.Errback(absl::CancelledError("LoopingCall: cancelled")).IgnoreError();
  });
  const std::shared_ptr<Core> core = core_;  // f may destroy this
  const auto run = std::make_shared<Run>(Run{.promise = std::move(promise),
                                             .interval = interval,
                                             .start = core->time.Now(),
                                             .counted = now ? -1 : 0,
                                             .begins_with_call = now});
  *held = {core, run};
  core->run = run;
  if (core->busy != nullptr) return std::move(deferred);  // it begins when that has ended
  if (now) {
    core->Due(run);
  } else {
    core->Begin(run);
  }
  return std::move(deferred);
}

absl::Status LoopingCall::Stop() {
  if (absl::Status status = core_->Check("LoopingCall::Stop"); !status.ok()) return status;
  return core_->Stop();
}

absl::Status LoopingCall::Reset() {
  if (absl::Status status = core_->Check("LoopingCall::Reset"); !status.ok()) return status;
  Run& run = *core_->run;
  run.start = core_->time.Now();
  run.counted = 0;
  run.begins_with_call = false;
  return core_->timer.active() ? core_->timer.Reset(run.interval) : absl::OkStatus();
}

bool LoopingCall::running() const { return core_->run != nullptr; }

}  // namespace reactor
