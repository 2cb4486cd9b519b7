// A result that is not there yet, and what shall happen with it.

#ifndef REACTOR_DEFERRED_H_
#define REACTOR_DEFERRED_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "reactor/failure.h"
#include "reactor/internal/stage.h"
#include "reactor/reactor_time.h"
#include "workers/internal/misuse.h"
#include "workers/worker.h"

namespace reactor {

template <typename T>
class Deferred;
template <typename T>
class Promise;

namespace internal {

struct Access;

template <typename T>
struct IsDeferred : std::false_type {};
template <typename T>
struct IsDeferred<Deferred<T>> : std::true_type {};

// What comes of a callback that returns R: the T of Deferred<T>.
template <typename R>
struct Unwrap {
  static_assert(!std::is_reference_v<R>,
                "a callback of a Deferred must not return a reference; return a value, a pointer "
                "or std::reference_wrapper");
  static_assert(!std::is_same_v<R, Failure>,
                "a callback that returns a Failure does not say what else it may return; let it "
                "return a Result<U>");
  using type = R;
};
template <>
struct Unwrap<absl::Status> {
  using type = void;
};
template <typename U>
struct Unwrap<absl::StatusOr<U>> {
  using type = U;
};
template <typename U>
struct Unwrap<Result<U>> {
  using type = U;
};
template <typename U>
struct Unwrap<Deferred<U>> {
  using type = U;
};

// What F returns when it is given a T; nothing is given where T is void.
template <typename F, typename T>
struct ReturnOf {
  static_assert(std::is_invocable_v<F, T>,
                "this callback cannot be called with a T of Deferred<T>");
  using type = std::invoke_result_t<F, T>;
};
template <typename F>
struct ReturnOf<F, void> {
  static_assert(std::is_invocable_v<F>,
                "this callback cannot be called with nothing, as one of Deferred<void> is");
  using type = std::invoke_result_t<F>;
};
template <typename F, typename T>
using UnwrapOf = typename Unwrap<typename ReturnOf<F, T>::type>::type;

// May a callback of which a U is to come return an R?
template <typename R, typename U>
inline constexpr bool kGives = [] {
  if constexpr (std::is_same_v<R, Failure>) {
    return true;
  } else if constexpr (std::is_same_v<typename Unwrap<R>::type, U>) {
    return true;
  } else {
    return std::is_same_v<typename Unwrap<R>::type, R> && std::is_convertible_v<R, U> &&
           !std::is_void_v<U>;
  }
}();

template <typename F, typename U>
constexpr void CheckErrback() {
  static_assert(std::is_invocable_v<F, const Failure&>, "an errback takes a const Failure&");
  static_assert(kGives<std::invoke_result_t<F, const Failure&>, U>,
                "an errback returns what the value it stands for is: a T of Deferred<T>, a Result, "
                "StatusOr or Deferred of that, or a Failure");
}

// What a step of the chain came to: a result, or another chain's last stage, which it owns.
template <typename U>
struct Outcome {
  std::optional<Result<U>> result;
  Stage* inner = nullptr;
};

template <typename T>
class Holder;
template <typename T>
class Source;

}  // namespace internal

// A result that is not there yet. Its giver holds a Promise<T>. T may be void or move-only.
//
//   Deferred<std::string> Greet(Directory& directory, int id) {
//     return directory.Find(id)  // Deferred<User>
//         .AddCallback([](User user) { return "Hello " + user.name; })
//         .AddErrback([](const Failure&) { return std::string("Hello"); });
//   }
//
// Chain. Each Add... consumes the Deferred and returns the next one, whose T is what the callback
// returns: a U, a Status (then U is void), a StatusOr<U>, a Result<U>, or a Deferred<U>, which is
// waited for. What a callback throws is a Failure for the next one. The last Deferred of a chain
// is the handle of all of it: Cancel reaches from there whatever the chain waits for. A Deferred
// that is returned from its own callback, through a variable, fails with FailedPrecondition.
//
// Order. A callback never runs inside another one, nor inside a coroutine of reactor/coroutine.h:
// what becomes ready in there (because it fires a Promise, or adds to what has fired) runs when it
// returns or waits, in order, and before what follows in its own chain. Everywhere else it runs
// before the call that made it ready returns. Firing, cancelling and destruction do not recurse,
// however long the chain or deep the nesting; a loop made of callbacks that return its next turn
// does not even grow. (What captures and values own is destroyed as C++ destroys it: a million
// cancellers each of which owns the next Promise take a stack for a million destructors.)
//
// Home. A Deferred belongs to the innermost exclusive worker in whose work it was made, else to
// the thread (workers/worker_scope.h), and so does all of its chain. Everything that is done with
// it, its Promise or its handle is done there, destruction included. Elsewhere a debug build dies
// and names the two; a release build answers FailedPrecondition, or tells the failure handler and
// does nothing: what is destroyed elsewhere then leaks. What belongs to an event loop may still be
// looked after when that has ended, by its thread, outside of all works: members may hold
// Deferreds, and outlive Run. A chain of a worker's cannot wait for a
// Deferred of another home; one of a thread can, for what fires on that thread.
//
// Letting go. A chain that nobody holds goes on, for what its callbacks do: Detach says so, and
// destruction does the same. A failure that reaches the end of it is reported to the failure
// handler (reactor/failure.h) of the context in which its last stage was made. The handler is
// part of the context since a chain is made of pieces from many hands, and all of them run in
// the same context: each callback runs in that of the Add... that gave it.
//
// Callbacks are destroyed straight after they ran, or were passed over. A callback that ends its
// thread by force (pthread_exit) fails its chain with Aborted, and what is ready runs.
//
// Cost. A Deferred with its Promise is one allocation, and so is each Add..., for the callback and
// the result together; firing allocates nothing. No locks.
template <typename T>
class [[nodiscard]] Deferred {
  static_assert(!std::is_reference_v<T>,
                "Deferred<T>: T must not be a reference; use a value, a pointer or "
                "std::reference_wrapper");

 public:
  using value_type = T;

  Deferred() = default;  // empty, as one that was moved from: good for assignment only
  Deferred(Deferred&& other) noexcept : last_(std::exchange(other.last_, nullptr)) {}
  Deferred& operator=(Deferred&& other) noexcept;
  // As Detach.
  ~Deferred();

  // F: T -> U, Status, StatusOr<U>, Result<U> or Deferred<U>. A failure passes it by.
  template <typename F>
  auto AddCallback(F f) && -> Deferred<internal::UnwrapOf<F, T>>;

  // F: const Failure& -> any of these with U being T, or a Failure. A value passes it by.
  template <typename F>
  Deferred<T> AddErrback(F f) &&;

  // F: Result<T> -> any of these.
  template <typename F>
  auto AddBoth(F f) && -> Deferred<internal::UnwrapOf<F, Result<T>>>;

  // One of the two runs: f: T -> any of these; g: const Failure& -> any with the same U. What f
  // throws does not come to g.
  template <typename F, typename G>
  auto AddCallbacks(F f, G g) && -> Deferred<internal::UnwrapOf<F, T>>;

  // Cancels it if it has not come after `timeout`; the Cancelled that comes of that becomes
  // DeadlineExceeded. It covers what was added before it. If `time` refuses the call, the Deferred
  // is cancelled and fails with what `time` says. `time` belongs to the same home.
  Deferred<T> AddTimeout(absl::Duration timeout, IReactorTime& time) &&;
  // on_timeout: Result<T> -> any of the above: called in place of that, where the time was up.
  template <typename F>
  Deferred<T> AddTimeout(absl::Duration timeout, IReactorTime& time, F on_timeout) &&;

  // Fires `promise` with whatever comes.
  void ChainTo(Promise<T> promise) &&;

  // Nobody waits for the result any more. Asks the canceller of what the chain waits for, once; if
  // that does not fire it, or there is none, it fails with absl::CancelledError. Errbacks may still
  // make a value of that. Where its callbacks are about to run, that is what it waits for next.
  // Does nothing where there is nothing to wait for any more, and may be called any number of
  // times. What a canceller throws goes to the failure handler.
  void Cancel();

  // Has it a result, which nobody has taken?
  bool fired() const;

  // For people: "it waits", "it has a value", "it failed: NOT_FOUND: no", with the sites in a debug
  // build.
  std::string ToString() const;

  // Lets it go.
  void Detach() && { *this = Deferred(); }

 private:
  friend struct internal::Access;

  explicit Deferred(internal::Stage* last) : last_(last) {}
  internal::Stage* Checked(const char* method) const;
  template <typename U, typename F>
  Deferred<U> Add(const char* method, F f);

  internal::Stage* last_ = nullptr;  // an internal::Holder<T>, of which it owns a reference
};

// The giving side of a Deferred. Move-only. Same home as the Deferred.
//
// A Promise that dies unfired fails its Deferred with Aborted. It may do so elsewhere only if it
// was made with an explicit home: then that is told, by its Do. If the home refuses that, or drops
// it, the Deferred gets its Aborted when it is destroyed, unless it is cancelled before; a chain
// that nobody holds is destroyed unrun, on that other thread, and its callbacks are reported as
// dropped.
template <typename T>
class Promise {
  static_assert(!std::is_reference_v<T>,
                "Promise<T>: T must not be a reference; use a value, a pointer or "
                "std::reference_wrapper");

 public:
  Promise() = default;  // empty
  Promise(Promise&& other) noexcept { Take(other); }
  Promise& operator=(Promise&& other) noexcept;
  ~Promise();

  // Fires it: the callbacks run, see "Order" above. FailedPrecondition: it was fired before, by
  // this or by a canceller; or it is empty; or elsewhere. A Deferred that was cancelled and has
  // no canceller takes one firing without a word: OK.
  absl::Status Callback(internal::Site site = internal::Site::Here())
    requires std::is_void_v<T>
  {
    return Fire(Result<T>(), site);
  }
  template <typename V = T>
  absl::Status Callback(std::type_identity_t<V> value, internal::Site site = internal::Site::Here())
    requires(!std::is_void_v<V>)
  {
    return Fire(Result<T>(std::move(value)), site);
  }
  absl::Status Errback(Failure failure, internal::Site site = internal::Site::Here()) {
    return Fire(Result<T>(std::move(failure)), site);
  }
  absl::Status Errback(absl::Status status, internal::Site site = internal::Site::Here()) {
    return Fire(Result<T>(Failure(std::move(status))), site);
  }
  absl::Status Fire(Result<T> result, internal::Site site = internal::Site::Here());

 private:
  friend struct internal::Access;
  friend class internal::Source<T>;

  Promise(internal::Source<T>* source, bool is_borrowed)
      : source_(source), is_borrowed_(is_borrowed) {}
  void Take(Promise& other);

  internal::Source<T>* source_ = nullptr;  // owns a reference, until it has fired
  internal::Sites sites_;                  // once it has fired
  bool has_fired_ = false;
  bool is_borrowed_ = false;  // a canceller's: its death says nothing
};

// Called by Cancel, once, with what it may fire; destroyed when that was fired.
template <typename T>
using Canceller = absl::AnyInvocable<void(Promise<T>&) &&>;

// A Deferred and its Promise, of the caller's home.
template <typename T>
std::pair<Deferred<T>, Promise<T>> MakeDeferred(Canceller<T> canceller = nullptr,
                                                internal::Site site = internal::Site::Here());

// Of the home `home`, which outlives the Promise and opens a WorkerScope around each work, as
// all workers here do. Any thread may call it, and may hand the Deferred to its home.
template <typename T>
std::pair<Deferred<T>, Promise<T>> MakeDeferred(workers::IExclusiveWorker& home,
                                                Canceller<T> canceller = nullptr,
                                                internal::Site site = internal::Site::Here());

// One that has fired.
template <typename T>
Deferred<std::decay_t<T>> Succeed(T&& value, internal::Site site = internal::Site::Here());
inline Deferred<void> Succeed(internal::Site site = internal::Site::Here());
template <typename T>
Deferred<T> Fail(Failure failure, internal::Site site = internal::Site::Here());
template <typename T>
Deferred<T> Fail(absl::Status status, internal::Site site = internal::Site::Here());

// Calls f, and makes a Deferred of what it returns (as a callback of a chain may) or throws.
template <typename F>
auto MaybeDeferred(F&& f) -> Deferred<internal::UnwrapOf<F, void>>;

// --- implementation: nothing to read below for who uses it ----------------------------------

namespace internal {

// A stage with a result.
template <typename T>
class Holder : public Stage {
 public:
  using Stage::Stage;

  void Set(Result<T> result) {
    result_.emplace(std::move(result));
    fired = true;
  }
  Result<T> TakeResult() {
    Result<T> result = *std::move(result_);
    result_.reset();
    return result;
  }

  const Failure* UnhandledFailure() const override {
    return result_.has_value() && !result_->ok() ? &result_->failure() : nullptr;
  }
  void Fail(Failure failure) override {
    if (!fired) Set(std::move(failure));
  }

 protected:
  // Drop of what is counted.
  void GiveUp() {
    if (--this->refs == 0) delete this;
  }

 private:
  std::optional<Result<T>> result_;
};

// What a Promise fires.
template <typename T>
class Source final : public Holder<T> {
 public:
  Source(const Home& its_home, Canceller<T> canceller, workers::IExclusiveWorker* to_tell,
         Site site)
      : Holder<T>(its_home, site), told(to_tell), canceller_(std::move(canceller)) {}

  void FireWith(Result<T> result, Site site) {
    this->sites.SetFired(site);
    this->Set(std::move(result));
    canceller_ = nullptr;
  }

  Stage* Receive(Stage&) override { return nullptr; }  // it has no upstream
  void Fail(Failure failure) override {
    Holder<T>::Fail(std::move(failure));
    canceller_ = nullptr;
  }
  bool CancelHere() override;
  bool Drop() override {
    canceller_ = nullptr;
    this->GiveUp();
    return false;
  }
  Ends* ends() override { return &ends_; }
  // Lives as long as the canceller, whose captures own it.
  const AwaitedWork* awaited() const override {
    return canceller_ == nullptr ? nullptr : awaited_work;
  }

  const AwaitedWork* awaited_work = nullptr;
  workers::IExclusiveWorker* const told;  // of the Promise's death elsewhere, or null
  bool swallows = false;                  // takes one more firing without a word

 private:
  Canceller<T> canceller_;
  Ends ends_ = 0;
};

// A result without a source, or the result of what runs elsewhere.
template <typename T>
class Ready final : public Holder<T> {
 public:
  Ready(Result<T> result, Site site, const Home& its_home = Home::Here())
      : Holder<T>(its_home, site) {
    this->Set(std::move(result));
  }
  Stage* Receive(Stage&) override { return nullptr; }  // it has no upstream
  bool Drop() override {
    this->GiveUp();
    return false;
  }
};

// What a timed Deferred and its call at a later time know of one another.
struct TimeoutState {
  Stage* last = nullptr;  // null: nothing to cancel any more
  DelayedCall call;
  bool is_up = false;
  absl::Status refused;
};

// The Deferred's part of it.
class Timeout {
 public:
  Timeout() = default;
  Timeout(Timeout&&) = default;
  Timeout& operator=(Timeout&&) = delete;
  ~Timeout() {
    if (state_ != nullptr) state_->last = nullptr;
  }

  const std::shared_ptr<TimeoutState>& state() const { return state_; }
  bool is_up() const { return state_->is_up; }

  // Sets the time running for `last`, unless that has its result.
  static void Begin(const std::shared_ptr<TimeoutState>& state, Stage* last, absl::Duration timeout,
                    IReactorTime& time);
  // The result has come. Returns why there was no time, if so.
  absl::Status End();

 private:
  std::shared_ptr<TimeoutState> state_ = std::make_shared<TimeoutState>();
};

absl::Status TimeoutError(absl::Duration timeout);

// Of a stage, or of none.
std::string Describe(const Stage* stage);

struct Access {
  template <typename T>
  static Deferred<T> Make(Stage* last) {
    return Deferred<T>(last);
  }
  template <typename T>
  static Deferred<T> MakeReady(Result<T> result, Site site = {}) {
    return Deferred<T>(new Ready<T>(std::move(result), site));
  }
  // Of the home `home`, as MakeDeferred with one.
  template <typename T>
  static Deferred<T> MakeReadyAt(const Home& home, Result<T> result, Site site) {
    return Deferred<T>(new Ready<T>(std::move(result), site, home));
  }
  // Destroys both, unfired. Any thread, as nobody else has either yet.
  template <typename T>
  static void Discard(Deferred<T> deferred, Promise<T> promise) {
    Source<T>* const source = std::exchange(promise.source_, nullptr);
    deferred.last_ = nullptr;
    source->Unref();  // the Promise's
    source->Drop();
  }
  // `work` lives as long as the canceller of the pair.
  template <typename T>
  static void SetAwaited(const Deferred<T>& deferred, const AwaitedWork* work) {
    static_cast<Source<T>*>(deferred.last_)->awaited_work = work;
  }
  template <typename T>
  static Promise<T> MakePromise(Source<T>* source) {
    return Promise<T>(source, false);
  }
  // Takes the stage and its reference out.
  template <typename T>
  static Stage* Release(Deferred<T>& deferred, const char* method) {
    Stage* const last = deferred.Checked(method);
    deferred.last_ = nullptr;
    return last;
  }
  template <typename T>
  static Stage* Last(const Deferred<T>& deferred) {
    return deferred.last_;
  }
};

// Calls f, and stores what it returns.
template <typename U, typename F, typename... Args>
void StoreOutcome(Outcome<U>& outcome, F&& f, Args&&... args) {
  using R = std::invoke_result_t<F, Args...>;
  if constexpr (std::is_void_v<R>) {
    std::invoke(std::forward<F>(f), std::forward<Args>(args)...);
    outcome.result.emplace();
  } else if constexpr (IsDeferred<R>::value) {
    R inner = std::invoke(std::forward<F>(f), std::forward<Args>(args)...);
    outcome.inner = Access::Release(inner, "a callback returned an empty Deferred");
  } else {
    outcome.result.emplace(std::invoke(std::forward<F>(f), std::forward<Args>(args)...));
  }
}

// The part of a chain that runs a callback. F: (Result<T>&&, Outcome<U>&).
template <typename T, typename U, typename F>
class Step final : public Holder<U> {
 public:
  Step(const Home& its_home, F f) : Holder<U>(its_home), f_(std::move(f)) {}

  Stage* Receive(Stage& from) override {
    if (this->forwards) {
      this->Set(static_cast<Holder<U>&>(from).TakeResult());
      return this;
    }
    Outcome<U> outcome;
    std::optional<Failure> thrown;
    {
      Result<T> result = static_cast<Holder<T>&>(from).TakeResult();
      thrown = CallIn(this->context, [&] {
        absl::Cleanup destroy_captures([this] { f_.reset(); });
        (*f_)(std::move(result), outcome);
      });
    }
    if (thrown.has_value()) {
      this->Set(*std::move(thrown));
    } else if (outcome.inner == nullptr) {
      this->Set(*std::move(outcome.result));
    } else {
      return WaitFor(outcome.inner);
    }
    return this;
  }

  bool Drop() override {
    f_.reset();
    const bool is_work = !this->forwards;
    this->GiveUp();
    return is_work;
  }

 private:
  // Waits for `inner`, or takes its result; see Receive.
  Stage* WaitFor(Stage* inner) {
    const absl::Status refused = CheckWait(*this, *inner, "a callback returned a Deferred");
    if (!refused.ok()) {
      ReleaseHandle(inner);
      this->Set(refused);
      return this;
    }
    if (this->cancel_missed && !inner->fired) {
      CancelPath(inner);
      this->cancel_missed = inner->cancel_missed;
    }
    if (inner->fired) {
      this->Set(static_cast<Holder<U>*>(inner)->TakeResult());
      this->sites = inner->sites;
      inner->Unref();
      return this;
    }
    Stage* const waiting = this->next;
    if (waiting != nullptr && waiting->forwards && waiting->home == this->home) {
      // Whoever waits for this one may as well wait for that one.
      this->next = nullptr;
      Link(*inner, *waiting);
      this->Unref();
    } else {
      this->forwards = true;
      Link(*inner, *this);
    }
    return nullptr;
  }

  std::optional<F> f_;
};

template <typename T>
bool Source<T>::CancelHere() {
  if (std::exchange(this->cancelling, true)) return true;
  this->Ref();
  if (canceller_ == nullptr) {
    swallows = true;
  } else {
    Canceller<T> canceller = std::exchange(canceller_, nullptr);
    this->Ref();
    Promise<T> borrowed(this, true);
    const std::optional<Failure> thrown =
        CallIn(this->context, [&] { std::move(canceller)(borrowed); });
    if (thrown.has_value()) ReportTo(this->context, thrown->status(), thrown->exception());
  }
  if (!this->fired) {
    this->Set(absl::CancelledError("the Deferred was cancelled"));
    if (this->next != nullptr) {
      this->Ref();
      Trampoline::Schedule(this);
    }
  }
  this->Unref();
  return true;
}

}  // namespace internal

// --- Promise ---

template <typename T>
void Promise<T>::Take(Promise& other) {
  source_ = std::exchange(other.source_, nullptr);
  sites_ = other.sites_;
  has_fired_ = std::exchange(other.has_fired_, false);
  is_borrowed_ = std::exchange(other.is_borrowed_, false);
}

template <typename T>
Promise<T>& Promise<T>::operator=(Promise&& other) noexcept {
  if (this != &other) {
    Promise old(std::move(*this));
    Take(other);
  }
  return *this;
}

template <typename T>
Promise<T>::~Promise() {
  internal::Source<T>* const source = std::exchange(source_, nullptr);
  if (source == nullptr) return;
  if (!is_borrowed_) {
    internal::ReleasePromise(source, source->told);
  } else if (internal::IsAtHome(*source, "~Promise")) {
    source->Unref();
  }
}

template <typename T>
absl::Status Promise<T>::Fire(Result<T> result, internal::Site site) {
  if (source_ == nullptr) {
    return absl::FailedPreconditionError(has_fired_ ? "Promise: already fired" + sites_.ToString()
                                                    : "Promise: it is empty");
  }
  if (!internal::IsAtHome(*source_, "Promise::Callback")) {
    return internal::ElsewhereError("Promise::Callback");
  }
  if (source_->fired && !source_->swallows) {
    return absl::FailedPreconditionError("Promise: already fired" + source_->sites.ToString());
  }
  internal::Source<T>* const source = std::exchange(source_, nullptr);
  has_fired_ = true;
  if (!is_borrowed_) source->promise_out = false;
  if (source->fired) {  // by Cancel
    sites_ = source->sites;
    source->swallows = false;
    source->Unref();
    return absl::OkStatus();
  }
  sites_ = source->sites;
  sites_.SetFired(site);
  // Not asked later: what is added to what has fired is scheduled there.
  const bool has_next = source->next != nullptr;
  source->FireWith(std::move(result), site);
  // What runs now may destroy this Promise.
  if (has_next) {
    internal::Trampoline::Schedule(source);
  } else {
    source->Unref();
  }
  return absl::OkStatus();
}

// --- Deferred ---

template <typename T>
Deferred<T>& Deferred<T>::operator=(Deferred&& other) noexcept {
  if (this != &other) {
    Deferred old(std::move(*this));
    last_ = std::exchange(other.last_, nullptr);
  }
  return *this;
}

template <typename T>
Deferred<T>::~Deferred() {
  if (last_ != nullptr) internal::ReleaseHandle(std::exchange(last_, nullptr));
}

template <typename T>
internal::Stage* Deferred<T>::Checked(const char* method) const {
  if (last_ == nullptr) {
    workers::internal::DieOfMisuse(std::string(method) + ": the Deferred is empty");
  }
  return last_;
}

template <typename T>
template <typename U, typename F>
Deferred<U> Deferred<T>::Add(const char* method, F f) {
  internal::Stage* const above = Checked(method);
  if (!internal::IsAtHome(*above, method)) {
    last_ = nullptr;  // leaked: it is not ours to count
    return internal::Access::MakeReady<U>(internal::ElsewhereError(method));
  }
  last_ = nullptr;
  auto* const step = new internal::Step<T, U, F>(above->home, std::move(f));
  step->Ref();
  Deferred<U> next = internal::Access::Make<U>(step);
  if (above->fired) {
    above->next = step;
    step->upstream = above;
    internal::Trampoline::Schedule(above);
  } else {
    internal::Link(*above, *step);
  }
  return next;
}

template <typename T>
template <typename F>
auto Deferred<T>::AddCallback(F f) && -> Deferred<internal::UnwrapOf<F, T>> {
  using U = internal::UnwrapOf<F, T>;
  return Add<U>("Deferred::AddCallback",
                [f = std::move(f)](Result<T>&& result, internal::Outcome<U>& out) mutable {
                  if (!result.ok()) {
                    out.result.emplace(result.failure());
                  } else if constexpr (std::is_void_v<T>) {
                    internal::StoreOutcome<U>(out, std::move(f));
                  } else {
                    internal::StoreOutcome<U>(out, std::move(f), std::move(result).value());
                  }
                });
}

template <typename T>
template <typename F>
Deferred<T> Deferred<T>::AddErrback(F f) && {
  internal::CheckErrback<F, T>();
  return Add<T>("Deferred::AddErrback",
                [f = std::move(f)](Result<T>&& result, internal::Outcome<T>& out) mutable {
                  if (result.ok()) {
                    out.result.emplace(std::move(result));
                  } else {
                    internal::StoreOutcome<T>(out, std::move(f), result.failure());
                  }
                });
}

template <typename T>
template <typename F>
auto Deferred<T>::AddBoth(F f) && -> Deferred<internal::UnwrapOf<F, Result<T>>> {
  using U = internal::UnwrapOf<F, Result<T>>;
  return Add<U>("Deferred::AddBoth",
                [f = std::move(f)](Result<T>&& result, internal::Outcome<U>& out) mutable {
                  internal::StoreOutcome<U>(out, std::move(f), std::move(result));
                });
}

template <typename T>
template <typename F, typename G>
auto Deferred<T>::AddCallbacks(F f, G g) && -> Deferred<internal::UnwrapOf<F, T>> {
  using U = internal::UnwrapOf<F, T>;
  internal::CheckErrback<G, U>();
  return Add<U>(
      "Deferred::AddCallbacks",
      [f = std::move(f), g = std::move(g)](Result<T>&& result, internal::Outcome<U>& out) mutable {
        if (!result.ok()) {
          internal::StoreOutcome<U>(out, std::move(g), result.failure());
        } else if constexpr (std::is_void_v<T>) {
          internal::StoreOutcome<U>(out, std::move(f));
        } else {
          internal::StoreOutcome<U>(out, std::move(f), std::move(result).value());
        }
      });
}

template <typename T>
template <typename F>
Deferred<T> Deferred<T>::AddTimeout(absl::Duration timeout, IReactorTime& time, F on_timeout) && {
  static_assert(std::is_invocable_v<F, Result<T>>, "on_timeout takes a Result<T>");
  static_assert(internal::kGives<std::invoke_result_t<F, Result<T>>, T>,
                "on_timeout returns a T of Deferred<T>, a Result, StatusOr or Deferred of that, or "
                "a Failure");
  internal::Timeout begun;
  const std::shared_ptr<internal::TimeoutState> state = begun.state();
  Deferred<T> next = Add<T>(
      "Deferred::AddTimeout", [timeout = std::move(begun), on_timeout = std::move(on_timeout)](
                                  Result<T>&& result, internal::Outcome<T>& out) mutable {
        const absl::Status refused = timeout.End();
        if (!refused.ok() && absl::IsCancelled(result.status())) {
          out.result.emplace(Failure(refused));
        } else if (timeout.is_up()) {
          internal::StoreOutcome<T>(out, std::move(on_timeout), std::move(result));
        } else {
          out.result.emplace(std::move(result));
        }
      });
  internal::Timeout::Begin(state, next.last_, timeout, time);
  return next;
}

template <typename T>
Deferred<T> Deferred<T>::AddTimeout(absl::Duration timeout, IReactorTime& time) && {
  return std::move(*this).AddTimeout(timeout, time, [timeout](Result<T> result) -> Result<T> {
    if (!absl::IsCancelled(result.status())) return result;
    return internal::TimeoutError(timeout);
  });
}

template <typename T>
void Deferred<T>::ChainTo(Promise<T> promise) && {
  Add<void>("Deferred::ChainTo", [promise = std::move(promise)](
                                     Result<T>&& result, internal::Outcome<void>& out) mutable {
    out.result.emplace(promise.Fire(std::move(result)));
  }).Detach();
}

template <typename T>
void Deferred<T>::Cancel() {
  internal::Stage* const last = Checked("Deferred::Cancel");
  if (internal::IsAtHome(*last, "Deferred::Cancel")) internal::CancelPath(last);
}

template <typename T>
bool Deferred<T>::fired() const {
  const internal::Stage* const last = Checked("Deferred::fired");
  return internal::IsAtHome(*last, "Deferred::fired") && last->fired;
}

template <typename T>
std::string Deferred<T>::ToString() const {
  return internal::Describe(last_);
}

// --- how one is made ---

namespace internal {

template <typename T>
std::pair<Deferred<T>, Promise<T>> MakePair(const Home& home, Canceller<T> canceller,
                                            workers::IExclusiveWorker* told, Site site) {
  auto* const source = new Source<T>(home, std::move(canceller), told, site);
  source->promise_out = true;
  source->Ref();
  return {Access::Make<T>(source), Access::MakePromise<T>(source)};
}

}  // namespace internal

template <typename T>
std::pair<Deferred<T>, Promise<T>> MakeDeferred(Canceller<T> canceller, internal::Site site) {
  return internal::MakePair<T>(internal::Home::Here(), std::move(canceller), nullptr, site);
}

template <typename T>
std::pair<Deferred<T>, Promise<T>> MakeDeferred(workers::IExclusiveWorker& home,
                                                Canceller<T> canceller, internal::Site site) {
  return internal::MakePair<T>(internal::Home(home), std::move(canceller), &home, site);
}

template <typename T>
Deferred<std::decay_t<T>> Succeed(T&& value, internal::Site site) {
  return internal::Access::MakeReady<std::decay_t<T>>(std::forward<T>(value), site);
}
inline Deferred<void> Succeed(internal::Site site) {
  return internal::Access::MakeReady<void>({}, site);
}
template <typename T>
Deferred<T> Fail(Failure failure, internal::Site site) {
  return internal::Access::MakeReady<T>(std::move(failure), site);
}
template <typename T>
Deferred<T> Fail(absl::Status status, internal::Site site) {
  return internal::Access::MakeReady<T>(Failure(std::move(status)), site);
}

template <typename F>
auto MaybeDeferred(F&& f) -> Deferred<internal::UnwrapOf<F, void>> {
  using U = internal::UnwrapOf<F, void>;
  internal::Outcome<U> outcome;
  std::optional<Failure> thrown = internal::CallIn(
      workers::Context::Current(), [&] { internal::StoreOutcome<U>(outcome, std::forward<F>(f)); });
  if (thrown.has_value()) return Fail<U>(*std::move(thrown));
  if (outcome.inner != nullptr) return internal::Access::Make<U>(outcome.inner);
  return internal::Access::MakeReady<U>(*std::move(outcome.result));
}

}  // namespace reactor

#endif  // REACTOR_DEFERRED_H_
