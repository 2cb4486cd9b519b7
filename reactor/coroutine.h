// Coroutines that return a Deferred, and co_await on a Deferred.

#ifndef REACTOR_COROUTINE_H_
#define REACTOR_COROUTINE_H_

#include <coroutine>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "reactor/deferred.h"
#include "reactor/failure.h"
#include "reactor/internal/stage.h"
#include "workers/context.h"

namespace reactor {
namespace internal {

template <typename T>
struct ResultOf {
  Deferred<T> deferred;
};

}  // namespace internal

// With this header a function that returns a Deferred may be a coroutine:
//
//   Deferred<std::string> Greet(Directory& directory, int id) {
//     Result<User> user = co_await AsResult(directory.Find(id));  // does not throw
//     if (!user.ok()) co_return absl::NotFoundError("who?");      // or any Failure, or a Result
//     co_return "Hello " + co_await directory.NameOf(user.value());
//   }
//
// co_await takes a Deferred (std::move it in, if it has a name), waits for it and gives its value.
// If it failed, co_await throws: what the Failure carries, exactly, or, where that is a Status, a
// StatusError. What leaves the coroutine fails its Deferred with exactly that: an exception as it
// is, and a Status that a co_await threw as just that Status. AsResult(deferred) awaits without
// throwing.
//
// Start. The coroutine runs at once, on its caller's stack, up to its first wait; after that it
// runs where what it waits for fires, which is the same home. Deferred.h's "Order" holds for it as
// for a callback: nothing else runs inside it, and what it makes ready runs when it waits or ends.
// A co_await of what has fired goes straight on, unless something else is ready: then that is
// first. Loops and chains of any length use no stack; a coroutine that calls itself without ever
// waiting is as any function that does so.
//
// Cancel on its Deferred goes to the one that it waits for, through any number of levels; what
// that comes to (mostly Cancelled) is what the co_await throws or gives, and the coroutine may
// catch it and go on. A Cancel that comes while it runs, or is about to, goes to the next one that
// it really waits for. A coroutine whose Deferred was let go runs on.
//
// Context. It runs in the context it was called in, also after a wait. No ContextScope of its own,
// and no WorkerScope, may stand across a co_await.
//
// Parameters should be values: a reference has to outlive the whole coroutine, and so do the
// captures of a lambda that is a coroutine. A callback is destroyed when it has returned: one
// that is a coroutine must have no captures. g++ 12 destroys the captures of a lambda that is
// written inside a co_await expression twice: where a capture has a destructor, put the Deferred
// into a variable first.
//
// Its frame is destroyed when it ends, before anything that waited for it runs. Cost: the frame,
// one allocation for its Deferred, and none for a co_await.
template <typename T>
internal::ResultOf<T> AsResult(Deferred<T> deferred) {
  return {std::move(deferred)};
}

// --- implementation: nothing to read below for who uses it ----------------------------------

namespace internal {

// Resumes. Where the coroutine ends its thread by force its frame is still there.
inline void Resume(std::coroutine_handle<> coroutine) {
  struct DestroyFrame {
    std::coroutine_handle<> coroutine;
    ~DestroyFrame() {
      if (coroutine) coroutine.destroy();
    }
  } by_force = {coroutine};
  coroutine.resume();
  by_force.coroutine = nullptr;
}

template <typename T>
class CoroutineResult final : public Holder<T> {
 public:
  using Holder<T>::Holder;

  Stage* Receive(Stage&) override { return nullptr; }  // it is set
  bool CancelHere() override { return false; }         // it runs
  bool Drop() override {
    this->GiveUp();
    return true;
  }
};

template <typename T>
class CoroutineBase {
 public:
  CoroutineBase() : result_(new CoroutineResult<T>(Home::Here())) {}
  CoroutineBase(const CoroutineBase&) = delete;
  CoroutineBase& operator=(const CoroutineBase&) = delete;
  ~CoroutineBase() { EndCoroutine(result_); }

  struct Start {
    bool await_ready() noexcept { return false; }
    void await_suspend(std::coroutine_handle<> coroutine) {
      Trampoline::Run([coroutine] { Resume(coroutine); });  // may destroy this
    }
    void await_resume() noexcept {}
  };

  Deferred<T> get_return_object() {
    result_->Ref();
    return Access::Make<T>(result_);
  }
  Start initial_suspend() noexcept { return {}; }
  std::suspend_never final_suspend() noexcept { return {}; }
  void unhandled_exception() { result_->Set(Failure::Current()); }

  Stage& result() { return *result_; }

 protected:
  CoroutineResult<T>* const result_;
};

template <typename T>
class CoroutinePromise final : public CoroutineBase<T> {
 public:
  void return_value(Result<T> result) { this->result_->Set(std::move(result)); }
};

template <>
class CoroutinePromise<void> final : public CoroutineBase<void> {
 public:
  void return_void() { result_->Set({}); }
};

// The stage by which a coroutine waits: lives in its frame.
template <typename T, bool kThrows>
class Awaiter final : public Stage {
 public:
  explicit Awaiter(Stage* inner) : Stage(Home::Here()), inner_(inner) {
    in_frame = true;
    forwards = true;
  }
  ~Awaiter() override {
    if (inner_ != nullptr) ReleaseHandle(inner_);
    if (upstream != nullptr) upstream->next = nullptr;
  }

  bool await_ready() {
    if (!IsAtHome(*inner_, "co_await")) {
      inner_ = nullptr;  // leaked: it is not ours to count
      result_.emplace(ElsewhereError("co_await"));
      return true;
    }
    return inner_->fired && !Trampoline::IsBusy();
  }

  template <typename P>
  bool await_suspend(std::coroutine_handle<P> coroutine) {
    if constexpr (requires { coroutine.promise().result().cancel_missed; }) {
      waiter_ = &coroutine.promise().result();
    }
    const absl::Status refused =
        CheckWait(waiter_ != nullptr ? *waiter_ : static_cast<Stage&>(*this), *inner_, "co_await");
    Stage* const inner = std::exchange(inner_, nullptr);
    if (!refused.ok()) {
      ReleaseHandle(inner);
      result_.emplace(refused);
      return false;
    }
    coroutine_ = coroutine;
    if (waiter_ != nullptr) {
      waiter_->upstream = this;
      detached = waiter_->detached;
      cancel_missed = waiter_->cancel_missed;
    }
    if (inner->fired) {
      inner->next = this;
      inner->cancel_missed = cancel_missed;
      upstream = inner;
      Trampoline::Schedule(inner);
      return true;
    }
    Link(*inner, *this);
    if (cancel_missed) CancelPath(this);
    return true;
  }

  std::conditional_t<kThrows, T, Result<T>> await_resume() {
    Result<T> result = Take();
    if constexpr (kThrows) {
      if (!result.ok()) result.failure().Throw();
      return std::move(result).value();
    } else {
      return result;
    }
  }

  Stage* Receive(Stage& from) override {
    result_.emplace(static_cast<Holder<T>&>(from).TakeResult());
    if (waiter_ != nullptr) {
      waiter_->upstream = nullptr;
      waiter_->cancel_missed = waiter_->cancel_missed && cancel_missed;
    }
    workers::ContextScope scope(context);
    Resume(coroutine_);  // may destroy this
    return nullptr;
  }
  const Stage* below() const override { return waiter_; }
  bool Drop() override {
    coroutine_.destroy();
    return false;
  }

 private:
  Result<T> Take() {
    if (inner_ == nullptr) return *std::move(result_);
    Stage* const inner = std::exchange(inner_, nullptr);
    Result<T> result = static_cast<Holder<T>*>(inner)->TakeResult();
    inner->Unref();
    return result;
  }

  Stage* inner_;             // with its Deferred's reference, until it is waited for
  Stage* waiter_ = nullptr;  // the result of the coroutine that waits, if it is one of ours
  std::coroutine_handle<> coroutine_;
  std::optional<Result<T>> result_;
};

}  // namespace internal

template <typename T>
auto operator co_await(Deferred<T>&& deferred) {
  return internal::Awaiter<T, true>(internal::Access::Release(deferred, "co_await"));
}
template <typename T>
auto operator co_await(internal::ResultOf<T>&& awaited) {
  return internal::Awaiter<T, false>(internal::Access::Release(awaited.deferred, "co_await"));
}
// co_await consumes: std::move it in.
template <typename T>
void operator co_await(Deferred<T>& deferred) = delete;

}  // namespace reactor

template <typename T, typename... Arguments>
struct std::coroutine_traits<reactor::Deferred<T>, Arguments...> {
  using promise_type = reactor::internal::CoroutinePromise<T>;
};

#endif  // REACTOR_COROUTINE_H_
