// Calls that block, away from the loop, and their results back in it; and the other way round.

#ifndef REACTOR_THREADS_H_
#define REACTOR_THREADS_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <stop_token>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "reactor/deferred.h"
#include "reactor/failure.h"
#include "reactor/internal/stage.h"
#include "reactor/reactor.h"
#include "workers/blocking_scope.h"
#include "workers/context.h"
#include "workers/internal/sync.h"
#include "workers/thread_pool.h"
#include "workers/work_handle.h"
#include "workers/worker.h"

namespace reactor {
namespace internal {

template <typename F>
struct CallOf;

}  // namespace internal

// What comes of f: a T, or the T of the Status, StatusOr<T>, Result<T> or Deferred<T> it returns.
template <typename F>
using CallResult = typename internal::CallOf<F>::Result;

// Calls f on `run_on`, and fires the Deferred on `deliver_on` with what f returned or threw.
//
//   Deferred<Row> Find(IReactorThreads& reactor, Database& database, int id) {
//     return DeferToThread(reactor, [&database, id](std::stop_token stop) -> absl::StatusOr<Row> {
//       return database.Find(id, [stop] { return stop.stop_requested(); });
//     });
//   }
//
// Where it runs. f runs once, on `run_on`, in the caller's Context, and is destroyed there straight
// after it. If f returns a Deferred, that belongs to where f ran, and its result is delivered. A
// worker of a Team or ThreadPool counts as idle before the result is delivered: calls that follow
// one another need one thread.
//
// What it belongs to. The Deferred's home is `deliver_on`. Any thread may call this; elsewhere than
// at home the Deferred is only handed there. `deliver_on` lives until the result is delivered or
// dropped; where it refuses that, the result is destroyed on its own thread, and the Deferred fails
// when it is next cancelled (with Cancelled) or destroyed (with Aborted).
//
// Failure. What `run_on` refuses is a failed Deferred with that status, f being destroyed by the
// caller. What it took and drops unrun is Aborted.
//
// Cancel. f has not begun: it never runs, and is destroyed on the cancelling thread before Cancel
// returns; a Team or ThreadPool forgets the work, while in another worker's queue an empty shell
// stays. f runs: the stop_token it may take is asked to stop, on the cancelling thread; what comes
// of f is destroyed on its own thread. (A Deferred that f returned is not cancelled by this; the
// stop_token says it.) In both cases the Deferred fails with Cancelled at once.
template <typename F>
auto DeferToWorker(workers::IExclusiveWorker& deliver_on, workers::IWorker& run_on, F f,
                   internal::Site site = internal::Site::Here()) -> Deferred<CallResult<F>>;

// The same with the loop to deliver on, which may go meanwhile, and a pool of yours.
template <typename F>
auto DeferToThreadPool(IReactorThreads& reactor, workers::ThreadPool& pool, F f,
                       internal::Site site = internal::Site::Here()) -> Deferred<CallResult<F>>;

// The same with the reactor's own pool. Elsewhere than on the reactor thread the call goes by way
// of that. If the reactor has stopped, it is AlreadyQuit, and belongs to the caller.
template <typename F>
auto DeferToThread(IReactorThreads& reactor, F f, internal::Site site = internal::Site::Here())
    -> Deferred<CallResult<F>>;

// One of several calls failed, and those behind it were not made. The exception of a Failure; its
// status is that of the call's failure, with a word of which it was.
class CallError : public StatusError {
 public:
  CallError(size_t index, size_t count, Failure failure);

  size_t index() const { return index_; }  // from 0
  const Failure& failure() const { return failure_; }

  // What `failure` carries, if that is a CallError; valid as long as the Failure or a copy of it.
  static const CallError* From(const Failure& failure);

 private:
  size_t index_;
  Failure failure_;
};

// Makes `calls` in one thread of the reactor's pool, one after the other, up to the first that
// returns an error or throws: then it fails with a CallError. A Cancel stops it between two calls.
Deferred<void> CallMultipleInThread(IReactorThreads& reactor,
                                    std::vector<absl::AnyInvocable<absl::Status() &&>> calls,
                                    internal::Site site = internal::Site::Here());

namespace internal {

template <typename R>
struct BlockingOf {
  using type = absl::StatusOr<R>;
};
template <>
struct BlockingOf<void> {
  using type = absl::Status;
};

}  // namespace internal

// StatusOr<R>, or Status where R is void. R is what comes of f, as for CallResult.
template <typename F>
using BlockingResult = typename internal::BlockingOf<internal::UnwrapOf<F, void>>::type;

// Calls f on the reactor thread, in the caller's Context, waits for its result, and, if it returns
// a Deferred, for that one's, and returns it; or throws the very exception that f threw or its
// Deferred failed with. For threads that are not the reactor's.
//
//   error              | why
//   FailedPrecondition | the caller is the reactor thread; or the wait would never end, see below
//   Unavailable        | the reactor has stopped, or stops or is destroyed during the wait; or it
//                      | does not run yet, and `timeout` is infinite
//   DeadlineExceeded   | `timeout` has passed, also if the reactor has not run yet
//
// A wait that ends without a result cancels the Deferred, on the reactor thread. If f had not
// begun, it never will; if it runs just then, it goes on: let it capture nothing of the caller's
// stack where there is a `timeout`.
//
// In a work of a Team or ThreadPool the wait is a workers::BlockingScope: others may have a thread.
// Where the team is at its hard limit, its workers all wait like this, and what this call's
// Deferred waits for stands in the team's own backlog, it would never come: that is
// FailedPrecondition.
//
// `reactor` lives until the call has reached its thread, or was refused.
template <typename F>
auto BlockingCallFromThread(IReactorThreads& reactor, F f,
                            absl::Duration timeout = absl::InfiniteDuration(),
                            internal::Site site = internal::Site::Here()) -> BlockingResult<F>;

// --- implementation: nothing to read below for who uses it ----------------------------------

namespace internal {

template <typename F, bool kTakesToken = std::is_invocable_v<F, std::stop_token>>
struct ReturnOfCall : std::invoke_result<F, std::stop_token> {};
template <typename F>
struct ReturnOfCall<F, false> {
  static_assert(std::is_invocable_v<F>,
                "what is called on another worker takes nothing, or a std::stop_token");
  using type = std::invoke_result_t<F>;
};

template <typename F>
struct CallOf {
  static constexpr bool kTakesToken = std::is_invocable_v<F, std::stop_token>;
  using Result = typename Unwrap<typename ReturnOfCall<F>::type>::type;
};

struct AwaitedWork {
  workers::WorkHandle handle;  // set before the Deferred is anybody's
  const char* what;
  Site site;
};

// One call, without its types: shared by its work, by what runs behind that, and by the canceller
// of its Deferred.
//
//   state     | meaning                              | left by, and to
//   queued    | not begun                            | work: running. Cancel: cancelled.
//             |                                      | a drop or a refusal: finished
//   running   | f runs, or its Deferred is waited    | the result: finished. Cancel: abandoned
//   finished  | whoever got here owns the Promise    |
//   cancelled | as finished; f is gone               |
//   abandoned | as finished; the result is unwanted  |
class DeferredCall : public AwaitedWork, public std::enable_shared_from_this<DeferredCall> {
 public:
  DeferredCall(std::shared_ptr<workers::IExclusiveWorker> home, const char* function, Site caller)
      : AwaitedWork{.handle = {}, .what = function, .site = caller}, home_(std::move(home)) {}
  virtual ~DeferredCall() = default;
  DeferredCall(const DeferredCall&) = delete;
  DeferredCall& operator=(const DeferredCall&) = delete;

  workers::IExclusiveWorker& home() const { return *home_; }

  // Have it done. Not OK: it was not taken, and is finished.
  absl::Status GiveTo(workers::IWorker& run_on);
  absl::Status GiveToPoolOf(IReactorThreads& reactor);

  // At home.
  void Cancel();

 protected:
  virtual void DestroyCall() = 0;                // of what runs: f
  virtual bool CallAndKeep() = 0;                // calls f; false: its Deferred brings the result
  virtual void SetFailure(Failure failure) = 0;  // for a result
  virtual void DropResult() = 0;
  virtual void RequestStop() = 0;
  virtual void FirePromise() = 0;    // at home: with the result
  virtual void ForgetPromise() = 0;  // any thread

  // The result is there. Where it came.
  void Finish();
  // Nobody will bring the result. Any thread.
  void Abort(absl::string_view why);

  const workers::Context& context() const { return context_; }

  // Part of a work: tells the call when it was destroyed unrun.
  template <void (DeferredCall::*kRun)(), void (DeferredCall::*kDropped)()>
  class Part {
   public:
    explicit Part(std::shared_ptr<DeferredCall> call) : call_(std::move(call)) {}
    Part(Part&&) noexcept = default;
    Part& operator=(Part&&) = delete;
    ~Part() {
      if (call_ != nullptr) (call_.get()->*kDropped)();
    }
    void operator()() && {
      const std::shared_ptr<DeferredCall> call = std::move(call_);
      (call.get()->*kRun)();
    }

   private:
    std::shared_ptr<DeferredCall> call_;
  };

 private:
  enum State { kQueued, kRunning, kFinished, kCancelled, kAbandoned };

  bool Pass(State from, State to) { return state_.compare_exchange_strong(from, to); }
  absl::Status GiveToPoolHere(IReactorThreads& reactor);
  void GoOnAtHome();
  void Run();
  void RunAndDeliver();
  void Deliver();
  void NotRun();
  void NotDelivered();
  void SendHome();
  void Undelivered();

  const std::shared_ptr<workers::IExclusiveWorker> home_;
  const workers::Context context_ = workers::Context::Current();
  workers::internal::Atomic<State> state_ = kQueued;
  IReactorThreads* reactor_ = nullptr;  // whose pool; valid in its thread
  bool waits_ = false;  // for a Deferred of f's; written by its work, read by what runs behind it
};

template <typename F>
class TypedCall final : public DeferredCall {
 public:
  using R = CallResult<F>;

  TypedCall(std::shared_ptr<workers::IExclusiveWorker> home, const char* function, Site caller, F f)
      : DeferredCall(std::move(home), function, caller), f_(std::move(f)) {}

  // Makes the Deferred; give(call) has the call done; refused(status) makes another, if not.
  template <typename Give, typename Refused>
  static Deferred<R> Begin(std::shared_ptr<TypedCall> call, Give give, Refused refused) {
    auto [deferred, promise] =
        MakeDeferred<R>(call->home(), [call](Promise<R>&) { call->Cancel(); }, call->site);
    Access::SetAwaited(deferred, call.get());
    call->promise_ = std::move(promise);
    const absl::Status taken = give(*call);
    if (taken.ok()) return std::move(deferred);
    call->f_.reset();
    Access::Discard(std::move(deferred), std::move(call->promise_));
    return refused(taken);
  }

 private:
  void DestroyCall() override { f_.reset(); }

  bool CallAndKeep() override {
    Outcome<R> outcome;
    {
      std::optional<Failure> thrown = CallIn(context(), [&] {
        absl::Cleanup destroy_captures([this] { f_.reset(); });
        if constexpr (CallOf<F>::kTakesToken) {
          StoreOutcome<R>(outcome, std::move(*f_), stop_.get_token());
        } else {
          StoreOutcome<R>(outcome, std::move(*f_));
        }
      });
      if (thrown.has_value()) outcome.result.emplace(*std::move(thrown));
    }
    if (outcome.inner == nullptr) {
      result_.emplace(*std::move(outcome.result));
      return true;
    }
    if (outcome.inner->fired) {
      result_.emplace(static_cast<Holder<R>*>(outcome.inner)->TakeResult());
      outcome.inner->Unref();
      return true;
    }
    struct Expected {
      explicit Expected(std::shared_ptr<TypedCall> expected) : call(std::move(expected)) {}
      Expected(Expected&&) noexcept = default;
      Expected& operator=(Expected&&) = delete;
      ~Expected() {
        if (call != nullptr) call->Abort("the Deferred that it returned was dropped");
      }
      std::shared_ptr<TypedCall> call;
    };
    auto self = std::static_pointer_cast<TypedCall>(shared_from_this());
    Access::Make<R>(outcome.inner)
        .AddBoth([expected = Expected(std::move(self))](Result<R> result) mutable {
          const std::shared_ptr<TypedCall> call = std::move(expected.call);
          call->result_.emplace(std::move(result));
          call->Finish();
        })
        .Detach();
    return false;
  }

  void SetFailure(Failure failure) override { result_.emplace(std::move(failure)); }
  void DropResult() override { result_.reset(); }
  void RequestStop() override {
    if constexpr (CallOf<F>::kTakesToken) stop_.request_stop();
  }

  void FirePromise() override {
    Promise<R> promise = std::move(promise_);
    Result<R> result = *std::move(result_);
    result_.reset();
    promise.Fire(std::move(result), Site()).IgnoreError();  // cancelled meanwhile
  }
  void ForgetPromise() override { promise_ = Promise<R>(); }

  struct NoStop {};

  std::optional<F> f_;               // its worker's, or whoever finished it
  std::optional<Result<R>> result_;  // likewise, then home's
  Promise<R> promise_;               // whoever's the state says
  [[no_unique_address]] std::conditional_t<CallOf<F>::kTakesToken, std::stop_source, NoStop> stop_;
};

// A thread that waits for a call in the reactor thread, without the types.
class BlockingWait : public std::enable_shared_from_this<BlockingWait> {
 public:
  BlockingWait(std::shared_ptr<workers::IExclusiveWorker> loop, Site site)
      : loop_(std::move(loop)), site_(site) {}
  virtual ~BlockingWait() = default;
  BlockingWait(const BlockingWait&) = delete;
  BlockingWait& operator=(const BlockingWait&) = delete;

  // The thread that waits. OK: the result is there.
  absl::Status Wait(IReactorThreads& reactor, absl::Duration timeout);

  // Any thread: something that the wait may wait for was given away.
  void LookAgain();

 protected:
  virtual void DestroyCall() = 0;
  // Reactor thread: calls f, and tells Await.
  virtual void Call() = 0;

  // Reactor thread. `tail` fires when the result was kept.
  void Await(Deferred<void> tail);

  // Calls `keep`, unless nobody waits for the result any more.
  template <typename Keep>
  void End(Keep keep) {
    tail_ = Deferred<void>();
    if (!Claim()) return;
    absl::Cleanup publish([this] { Publish(); });
    keep();
  }

  // Ends the wait when it is destroyed unused.
  class Expected {
   public:
    explicit Expected(std::shared_ptr<BlockingWait> wait) : wait_(std::move(wait)) {}
    Expected(Expected&&) noexcept = default;
    Expected& operator=(Expected&&) = delete;
    ~Expected();
    std::shared_ptr<BlockingWait> Take() { return std::move(wait_); }

   private:
    std::shared_ptr<BlockingWait> wait_;
  };

 private:
  enum Phase { kWaiting, kClaimed, kEnded };

  void Start();
  void Look();
  void Abandon();
  void GiveUp(absl::Status why);
  void CancelTail();
  bool Claim();
  void Publish();
  void Fail(absl::Status why);

  const std::shared_ptr<workers::IExclusiveWorker> loop_;
  const Site site_;
  const workers::Context context_ = workers::Context::Current();

  // The reactor thread's, once the call was given to it.
  IReactorThreads* reactor_ = nullptr;
  uint64_t watch_ = 0;
  Deferred<void> tail_;  // while the result is waited for

  workers::internal::Mutex mutex_;
  workers::internal::CondVar changed_;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = kWaiting;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;  // f has begun, or never will
  bool looking_ ABSL_GUARDED_BY(mutex_) = false;  // the reactor thread uses *scope_
  workers::BlockingScope* scope_ ABSL_GUARDED_BY(mutex_) = nullptr;  // while the thread waits
  absl::Status why_ ABSL_GUARDED_BY(mutex_);                         // there is no result
};

template <typename F>
class TypedBlockingCall final : public BlockingWait {
 public:
  using R = UnwrapOf<F, void>;

  TypedBlockingCall(std::shared_ptr<workers::IExclusiveWorker> loop, Site site, F f)
      : BlockingWait(std::move(loop), site), f_(std::move(f)) {}

  BlockingResult<F> TakeResult() {
    if (!result_.has_value()) return absl::InternalError("the result could not be moved");
    Result<R> result = *std::move(result_);
    result_.reset();
    if (result.ok()) {
      if constexpr (std::is_void_v<R>) {
        return absl::OkStatus();
      } else {
        return std::move(result).value();
      }
    }
    if (result.failure().exception() != nullptr) result.failure().Throw();
    return result.failure().status();
  }

 private:
  void DestroyCall() override { f_.reset(); }
  void Call() override {
    std::optional<Deferred<R>> result;
    {
      absl::Cleanup destroy_captures([this] { f_.reset(); });
      result.emplace(MaybeDeferred(std::move(*f_)));
    }
    Await(std::move(*result).AddBoth(
        [expected = Expected(shared_from_this()), this](Result<R> ended) mutable {
          const std::shared_ptr<BlockingWait> wait = expected.Take();
          End([&] { result_.emplace(std::move(ended)); });
        }));
  }

  std::optional<F> f_;
  std::optional<Result<R>> result_;
};

// The worker of somebody who keeps it.
inline std::shared_ptr<workers::IExclusiveWorker> Unowned(workers::IExclusiveWorker& worker) {
  return std::shared_ptr<workers::IExclusiveWorker>(std::shared_ptr<void>(), &worker);
}

template <typename F>
auto DeferCall(std::shared_ptr<workers::IExclusiveWorker> home, workers::IWorker& run_on,
               const char* what, Site site, F f) -> Deferred<CallResult<F>> {
  auto call = std::make_shared<TypedCall<F>>(home, what, site, std::move(f));
  return TypedCall<F>::Begin(
      std::move(call), [&](DeferredCall& given) { return given.GiveTo(run_on); },
      [&](const absl::Status& why) {
        return Access::MakeReadyAt<CallResult<F>>(Home(*home), why, site);
      });
}

}  // namespace internal

template <typename F>
auto DeferToWorker(workers::IExclusiveWorker& deliver_on, workers::IWorker& run_on, F f,
                   internal::Site site) -> Deferred<CallResult<F>> {
  return internal::DeferCall(internal::Unowned(deliver_on), run_on, "DeferToWorker", site,
                             std::move(f));
}

template <typename F>
auto DeferToThreadPool(IReactorThreads& reactor, workers::ThreadPool& pool, F f,
                       internal::Site site) -> Deferred<CallResult<F>> {
  return internal::DeferCall(reactor.worker(), pool, "DeferToThreadPool", site, std::move(f));
}

template <typename F>
auto DeferToThread(IReactorThreads& reactor, F f, internal::Site site) -> Deferred<CallResult<F>> {
  auto call = std::make_shared<internal::TypedCall<F>>(reactor.worker(), "DeferToThread", site,
                                                       std::move(f));
  return internal::TypedCall<F>::Begin(
      std::move(call), [&](internal::DeferredCall& given) { return given.GiveToPoolOf(reactor); },
      [&](const absl::Status& why) { return Fail<CallResult<F>>(why, site); });
}

template <typename F>
auto BlockingCallFromThread(IReactorThreads& reactor, F f, absl::Duration timeout,
                            internal::Site site) -> BlockingResult<F> {
  const auto call =
      std::make_shared<internal::TypedBlockingCall<F>>(reactor.worker(), site, std::move(f));
  const absl::Status status = call->Wait(reactor, timeout);
  if (!status.ok()) return status;
  return call->TakeResult();
}

}  // namespace reactor

#endif  // REACTOR_THREADS_H_
