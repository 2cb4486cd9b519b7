#include "reactor/internal/stage.h"

#include <sstream>
#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "workers/internal/misuse.h"
#include "workers/internal/report.h"
#include "workers/worker_scope.h"

namespace reactor::internal {
namespace {

using workers::IExclusiveWorker;
using workers::Work;
using workers::WorkerScope;

}  // namespace

// --- whom it belongs to -------------------------------------------------------------------

Home Home::Here() {
  if (const workers::IExclusiveWorker* worker = WorkerScope::InnermostExclusive()) {
    return Home(*worker);
  }
  Home home;
  home.thread_ = workers::internal::CurrentThread();
  return home;
}

Home::Home(const workers::IExclusiveWorker& worker) : worker_(&worker) {
  if (WorkerScope::InnermostExclusive() == worker_ && WorkerScope::InnermostIsOneThread()) {
    thread_ = workers::internal::CurrentThread();
  }
}

bool Home::IsHere() const {
  if (worker_ == nullptr) return thread_ == workers::internal::CurrentThread();
  return WorkerScope::RunsIn(*worker_) ||
         (WorkerScope::InNone() && thread_ == workers::internal::CurrentThread());
}

std::string Home::ToString() const {
  std::ostringstream out;
  if (worker_ != nullptr) {
    out << "worker " << static_cast<const void*>(worker_);
  } else {
    out << "thread " << thread_;
  }
  return out.str();
}

std::string Sites::ToString() const {
  std::string text;
  if (made_file != nullptr) absl::StrAppend(&text, "made at ", made_file, ":", made_line);
  if (fired_file != nullptr) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", "fired at ", fired_file, ":", fired_line);
  }
  return text.empty() ? text : absl::StrCat(" (", text, ")");
}

// --- the trampoline -----------------------------------------------------------------------

// On the stack of whoever began it.
class Trampoline::Active {
 public:
  Active() : worker_(WorkerScope::InnermostExclusive()), outer_(Innermost::Get()) {
    Innermost::Set(this);
  }
  Active(const Active&) = delete;
  Active& operator=(const Active&) = delete;
  // Also where a callback ends the thread by force: the rest runs as it unwinds.
  ~Active() {
    if (running_ != nullptr) {
      running_->Fail(Failure(absl::AbortedError("its thread was ended inside a callback")));
      HandOn(std::exchange(running_, nullptr));
    }
    if (from_ != nullptr) from_->Unref();
    Loop();
    Innermost::Set(outer_);
  }

  // The one that runs the caller, or null. It does not run another worker's work inside a
  // callback of its own: what becomes ready in there must not come after that work.
  static Active* Get() {
    Active* const active = Innermost::Get();
    const bool is_mine = active != nullptr && active->worker_ == WorkerScope::InnermostExclusive();
    return is_mine ? active : nullptr;
  }

  void Add(Stage* fired) {
    fired->queued = nullptr;
    (fresh_ == nullptr ? fresh_ : fresh_last_->queued) = fired;
    fresh_last_ = fired;
  }

  bool IsBusy() const { return fresh_ != nullptr; }

  void Loop() {
    for (;;) {
      if (fresh_ != nullptr) {
        fresh_last_->queued = ready_;
        ready_ = std::exchange(fresh_, nullptr);
      }
      if (ready_ == nullptr) return;
      from_ = std::exchange(ready_, ready_->queued);
      Stage* const next = std::exchange(from_->next, nullptr);
      if (next == nullptr) {  // was in a frame that has been destroyed meanwhile
        std::exchange(from_, nullptr)->Unref();
        continue;
      }
      next->upstream = nullptr;
      next->sites = from_->sites;
      next->cancel_missed = next->cancel_missed && from_->cancel_missed;
      // Comes of one of another home, on a thread: see Home::MayWaitFor.
      const bool may_run =
          next->home == from_->home || IsAtHome(*next, "the Deferred that it waited for fired");
      Stage* done = nullptr;
      if (may_run) {  // else it waits for ever: it may neither run here nor be touched
        if (!next->in_frame) running_ = next;
        done = next->Receive(*from_);
        running_ = nullptr;
      }
      std::exchange(from_, nullptr)->Unref();
      if (done != nullptr) HandOn(done);
    }
  }

 private:
  using Innermost = workers::internal::ThreadLocalPointer<Active>;

  void HandOn(Stage* done) {
    if (done->next != nullptr) {
      Add(done);
    } else {
      done->Unref();
    }
  }

  const IExclusiveWorker* const worker_;
  Active* const outer_;
  // Lists through Stage::queued of what has a result and a next stage; they own references.
  Stage* ready_ = nullptr;
  Stage* fresh_ = nullptr;  // became ready while a stage ran: comes before the others
  Stage* fresh_last_ = nullptr;
  Stage* from_ = nullptr;     // whose result is being received
  Stage* running_ = nullptr;  // by whom, where that is counted
};

void Trampoline::Schedule(Stage* fired) {
  if (Active* const active = Active::Get()) return active->Add(fired);
  Active active;
  active.Add(fired);
  active.Loop();
}

void Trampoline::Run(absl::FunctionRef<void()> body) {
  if (Active::Get() != nullptr) return body();
  Active active;
  body();
  active.Loop();
}

bool Trampoline::IsBusy() {
  const Active* const active = Active::Get();
  return active != nullptr && active->IsBusy();
}

// --- what is destroyed unrun --------------------------------------------------------------

namespace {

// While a thread drops chains of another home: on its stack. What it destroys may own sides of
// more chains of that home, which is no misuse then.
struct Dropping {
  using Innermost = workers::internal::ThreadLocalPointer<Dropping>;

  Stage* list = nullptr;  // through Stage::queued
};

// The last act of a Promise that died elsewhere and whose home cannot be told: whoever comes
// second, it or the last reference at home, ends the chain.
void LeaveAlone(Stage* source) {
  if (source->ends()->fetch_or(kPromiseLeft) & kHandleLeft) DropPath(source);
}

// At home: the Promise has gone, and with it its reference.
void EndPromise(Stage* source) {
  source->promise_out = false;
  if (!source->fired && !source->cancelling) {  // in its canceller: Cancelled comes of it
    // As in Promise::Fire.
    const bool has_next = source->next != nullptr;
    source->Fail(Failure(absl::AbortedError("the Promise died without firing its Deferred")));
    if (has_next) return Trampoline::Schedule(source);
  }
  source->Unref();
}

// The work that tells the home of a Promise's death: one pointer.
class HandOver {
 public:
  explicit HandOver(Stage* source) : source_(source) {}
  HandOver(HandOver&& other) noexcept : source_(std::exchange(other.source_, nullptr)) {}
  HandOver& operator=(HandOver&&) = delete;
  ~HandOver() {
    if (source_ != nullptr) LeaveAlone(source_);
  }
  void operator()() && { EndPromise(std::exchange(source_, nullptr)); }

 private:
  Stage* source_;
};

}  // namespace

void DropPath(Stage* top) {
  Dropping* const outer = Dropping::Innermost::Get();
  if (outer != nullptr) {
    top->queued = std::exchange(outer->list, top);
    return;
  }
  const workers::Context context = top->context;
  Dropping dropping;
  Dropping::Innermost::Set(&dropping);
  int64_t dropped = 0;
  top->queued = nullptr;
  dropping.list = top;
  while (dropping.list != nullptr) {
    Stage* const stage = std::exchange(dropping.list, dropping.list->queued);
    if (Stage* const next = std::exchange(stage->next, nullptr)) {
      next->upstream = nullptr;
      next->queued = std::exchange(dropping.list, next);
    }
    if (stage->Drop()) ++dropped;
  }
  Dropping::Innermost::Set(nullptr);
  if (dropped == 0) return;
  ReportTo(context,
           absl::AbortedError("the Promise died elsewhere and the home of its Deferred has quit: "
                              "callbacks were destroyed unrun"),
           nullptr, dropped);
}

// --- ends, and who may touch --------------------------------------------------------------

void Stage::Unref() {
  --refs;
  const bool only_promise = refs == 1 && promise_out && fired;
  if (refs > 0 && !only_promise) return;
  const Failure* const failure = reported ? nullptr : UnhandledFailure();
  if (failure != nullptr) {
    reported = true;
    const absl::Status& status = failure->status();
    absl::Status report(
        status.code(),
        absl::StrCat("nobody handled this failure: ", status.message(), sites.ToString()));
    status.ForEachPayload([&report](absl::string_view url, const absl::Cord& payload) {
      report.SetPayload(url, payload);
    });
    ++refs;  // the handler may end the Promise
    ReportTo(context, std::move(report), failure->exception());
    --refs;
  }
  if (refs == 0 || (ends()->fetch_or(kHandleLeft) & kPromiseLeft)) delete this;
}

void CancelPath(Stage* last) {
  Stage* top = last;
  while (top->upstream != nullptr) top = top->upstream;
  if (!top->fired && top->CancelHere()) return;
  for (Stage* stage = last; stage != nullptr; stage = stage->upstream) stage->cancel_missed = true;
}

namespace {

// `last` has no result, and nobody holds the end of its chain any more: gives up the reference.
void LetGo(Stage* last) {
  Stage* top = last;
  while (!top->detached) {
    top->detached = true;
    if (top->upstream == nullptr) break;
    top = top->upstream;
  }
  Ends* const ends = top->upstream == nullptr && !top->fired ? top->ends() : nullptr;
  last->Unref();
  // The last touch, unless the Promise has left before.
  if (ends != nullptr && (ends->fetch_or(kHandleLeft) & kPromiseLeft)) EndPromise(top);
}

}  // namespace

void Link(Stage& last, Stage& next) {
  last.next = &next;
  next.upstream = &last;
  if (next.detached) {
    LetGo(&last);
  } else {
    last.Unref();
  }
}

void ReleaseHandle(Stage* last) {
  if (!last->home.IsHere() && !(last->fired && last->refs == 1) && !IsAtHome(*last, "~Deferred")) {
    return;  // leaked: it is not ours to count
  }
  if (last->fired) {
    last->Unref();
  } else {
    LetGo(last);
  }
}

void ReleasePromise(Stage* source, IExclusiveWorker* home) {
  if (source->home.IsHere()) return EndPromise(source);
  if (home != nullptr) {
    Work work = HandOver(source);
    home->Do(std::move(work)).IgnoreError();  // refused: the work goes with us, and sees to it
    return;
  }
  IsAtHome(*source, "~Promise");
  LeaveAlone(source);
}

void EndCoroutine(Stage* result) {
  if (!result->fired) {
    if (!result->home.IsHere()) return DropPath(result);
    result->Fail(Failure(absl::AbortedError("the coroutine was ended from outside")));
  }
  if (result->next != nullptr) {
    Trampoline::Schedule(result);
  } else {
    result->Unref();
  }
}

absl::Status ElsewhereError(absl::string_view method) {
  return absl::FailedPreconditionError(
      absl::StrCat(method, ": called elsewhere than where the Deferred belongs"));
}

bool IsAtHome(const Stage& stage, absl::string_view method) {
  if (stage.home.IsHere()) return true;
  if (Dropping::Innermost::Get() != nullptr) return false;
  const std::string what = absl::StrCat(method, ": called on ", Home::Here().ToString(),
                                        ", but the Deferred belongs to ", stage.home.ToString());
#ifndef NDEBUG
  workers::internal::DieOfMisuse(what);
#endif
  ReportTo(stage.context, absl::FailedPreconditionError(what));
  return false;
}

absl::Status CheckWait(const Stage& outer, const Stage& inner, absl::string_view what) {
  if (!IsAtHome(inner, what)) return ElsewhereError(what);
  if (inner.fired) return absl::OkStatus();
  if (!outer.home.MayWaitFor(inner.home)) {
    const std::string why = absl::StrCat(what, ": a Deferred of ", outer.home.ToString(),
                                         " cannot wait for one of ", inner.home.ToString());
#ifndef NDEBUG
    workers::internal::DieOfMisuse(why);
#endif
    ReportTo(outer.context, absl::FailedPreconditionError(why));
    return absl::FailedPreconditionError(why);
  }
  // If `inner` is below `outer`, the way down from here is as long as the way up from there: the
  // shorter one tells.
  const Stage* up = &inner;
  const Stage* down = &outer;
  while (up->upstream != nullptr && down->below() != nullptr) {
    up = up->upstream;
    down = down->below();
  }
  if (up == &outer) return absl::FailedPreconditionError(absl::StrCat(what, ": its own Deferred"));
  return absl::OkStatus();
}

// --- what the user gave -------------------------------------------------------------------

std::optional<Failure> CallIn(const workers::Context& context, absl::FunctionRef<void()> f) {
  try {
    workers::ContextScope scope(context);
    f();
    return std::nullopt;
  } catch (...) {
    return Failure::Current();
  }
}

void ReportTo(const workers::Context& context, absl::Status status, std::exception_ptr exception,
              int64_t dropped) {
  workers::ErrorReport report;
  report.worker = "Deferred";
  report.status = std::move(status);
  report.exception = std::move(exception);
  report.dropped = dropped;
  const workers::ErrorHandler* const handler = context.Get(kFailureHandler);
  workers::internal::Report(handler != nullptr ? *handler : workers::ErrorHandler(), report);
}

}  // namespace reactor::internal
