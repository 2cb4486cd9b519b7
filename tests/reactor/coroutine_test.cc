#include "reactor/coroutine.h"

#include <pthread.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "reactor/deferred.h"
#include "reactor/failure.h"
#include "workers/context.h"
#include "workers/memory_worker.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace reactor {
namespace {

using workers::Context;
using workers::ContextScope;
using workers::ErrorHandler;
using workers::ErrorReport;
using workers::ThreadWorker;

constexpr int kMany = 1'000'000;

template <typename T>
struct Got {
  int times = 0;
  std::optional<Result<T>> result;

  bool ok() const { return result.has_value() && result->ok(); }
  absl::StatusCode code() const {
    return result.has_value() ? result->status().code() : static_cast<absl::StatusCode>(-1);
  }
};

template <typename T>
std::shared_ptr<Got<T>> Keep(Deferred<T> deferred) {
  auto got = std::make_shared<Got<T>>();
  std::move(deferred)
      .AddBoth([got](Result<T> result) {
        ++got->times;
        got->result.emplace(std::move(result));
      })
      .Detach();
  return got;
}

void OnSmallStack(std::function<void()> f) {
  auto worker = *ThreadWorker::Create({.thread = {.name = "small", .stack_size = 256 << 10}});
  EXPECT_TRUE(worker->Do(std::move(f)).ok());
  EXPECT_TRUE(worker->Quit().ok());
  EXPECT_TRUE(worker->Join().ok());
}

// Sets a flag when it is destroyed.
class Probe {
 public:
  explicit Probe(bool* destroyed) : destroyed_(destroyed) {}
  Probe(Probe&& other) noexcept : destroyed_(std::exchange(other.destroyed_, nullptr)) {}
  Probe& operator=(Probe&&) = delete;
  ~Probe() {
    if (destroyed_ != nullptr) *destroyed_ = true;
  }

 private:
  bool* destroyed_;
};

// --- values and failures --------------------------------------------------------------------

Deferred<int> AddOne(Deferred<int> n) { co_return co_await std::move(n) + 1; }

TEST(Coroutine, AwaitsWhatHasFired) { EXPECT_EQ(Keep(AddOne(Succeed(1)))->result->value(), 2); }

TEST(Coroutine, AwaitsWhatFiresLater) {
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(AddOne(std::move(deferred)));
  EXPECT_EQ(got->times, 0);
  EXPECT_TRUE(promise.Callback(2).ok());
  EXPECT_EQ(got->times, 1);
  EXPECT_EQ(got->result->value(), 3);
}

TEST(Coroutine, RunsAtOnceUpToItsFirstWait) {
  std::string order;
  auto [deferred, promise] = MakeDeferred<void>();
  const auto run = [](std::string& order, Deferred<void> wait) -> Deferred<void> {
    order += "a";
    co_await std::move(wait);
    order += "c";
  };
  auto got = Keep(run(order, std::move(deferred)));
  order += "b";
  EXPECT_TRUE(promise.Callback().ok());
  EXPECT_EQ(order, "abc");
  EXPECT_TRUE(got->ok());
}

Deferred<std::unique_ptr<int>> MoveOnly(Deferred<std::unique_ptr<int>> value) {
  std::unique_ptr<int> mine = co_await std::move(value);
  ++*mine;
  co_return mine;
}

TEST(Coroutine, ValuesMayBeMoveOnly) {
  EXPECT_EQ(*Keep(MoveOnly(Succeed(std::make_unique<int>(1))))->result->value(), 2);
}

Deferred<int> Returns(int which) {
  if (which == 0) co_return 1;
  if (which == 1) co_return absl::NotFoundError("no");
  if (which == 2) co_return Failure(absl::AbortedError("x"));
  if (which == 3) co_return absl::StatusOr<int>(2);
  co_return Result<int>(3);
}

TEST(Coroutine, ReturnsWhateverAResultIsMadeOf) {
  EXPECT_EQ(Keep(Returns(0))->result->value(), 1);
  EXPECT_EQ(Keep(Returns(1))->result->status(), absl::NotFoundError("no"));
  EXPECT_EQ(Keep(Returns(2))->result->status(), absl::AbortedError("x"));
  EXPECT_EQ(Keep(Returns(3))->result->value(), 2);
  EXPECT_EQ(Keep(Returns(4))->result->value(), 3);
}

TEST(Coroutine, AwaitThrowsTheVeryExceptionAndItLeavesAsItIs) {
  const auto exception = std::make_exception_ptr(std::out_of_range("here"));
  bool caught = false;
  const auto run = [](bool& caught, Deferred<int> n) -> Deferred<int> {
    try {
      co_return co_await std::move(n);
    } catch (const std::out_of_range&) {
      caught = true;
      throw;
    }
  };
  auto got = Keep(run(caught, Fail<int>(Failure(exception))));
  EXPECT_TRUE(caught);
  EXPECT_EQ(got->result->failure().exception(), exception);
}

TEST(Coroutine, AwaitThrowsAStatusErrorWhichBecomesThatStatusAgain) {
  absl::Status status = absl::NotFoundError("no");
  status.SetPayload("key", absl::Cord("value"));
  absl::Status seen;
  const auto run = [](absl::Status& seen, Deferred<int> n) -> Deferred<int> {
    try {
      co_return co_await std::move(n);
    } catch (const StatusError& error) {
      seen = error.status();
      throw;
    }
  };
  auto got = Keep(run(seen, Fail<int>(status)));
  EXPECT_EQ(seen, status);
  EXPECT_EQ(got->result->failure().status(), status);
  EXPECT_EQ(got->result->failure().exception(), nullptr);
}

TEST(Coroutine, AFailureMayBeCaught) {
  const auto run = [](Deferred<int> n) -> Deferred<int> {
    int fallback = 0;
    try {
      co_return co_await std::move(n);
    } catch (const StatusError&) {
      fallback = 5;
    }
    co_return fallback + co_await Succeed(1);
  };
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(run(std::move(deferred)));
  EXPECT_TRUE(promise.Errback(absl::NotFoundError("no")).ok());
  EXPECT_EQ(got->result->value(), 6);
}

TEST(Coroutine, AsResultDoesNotThrow) {
  const auto run = [](Deferred<int> n) -> Deferred<std::string> {
    Result<int> result = co_await AsResult(std::move(n));
    if (!result.ok()) co_return std::string(result.status().message());
    co_return std::to_string(result.value());
  };
  EXPECT_EQ(Keep(run(Succeed(1)))->result->value(), "1");
  EXPECT_EQ(Keep(run(Fail<int>(absl::NotFoundError("no"))))->result->value(), "no");
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(run(std::move(deferred)));
  EXPECT_TRUE(promise.Errback(absl::NotFoundError("later")).ok());
  EXPECT_EQ(got->result->value(), "later");
}

TEST(Coroutine, AsResultOfVoid) {
  const auto run = [](Deferred<void> wait) -> Deferred<int> {
    Result<void> result = co_await AsResult(std::move(wait));
    co_return result.ok() ? 1 : 0;
  };
  EXPECT_EQ(Keep(run(Succeed()))->result->value(), 1);
  EXPECT_EQ(Keep(run(Fail<void>(absl::AbortedError(""))))->result->value(), 0);
}

TEST(Coroutine, WhatItThrowsBeforeItsFirstWaitFailsItsDeferred) {
  const auto run = []() -> Deferred<int> {
    throw std::runtime_error("boom");
    co_return 0;
  };
  EXPECT_EQ(Keep(run())->result->status(), absl::UnknownError("std::runtime_error: boom"));
}

TEST(Coroutine, WhatNobodyHandlesIsReported) {
  std::vector<absl::Status> reported;
  ContextScope scope(Context().With(kFailureHandler, ErrorHandler([&](const ErrorReport& report) {
                                      reported.push_back(report.status);
                                    })));
  auto [deferred, promise] = MakeDeferred<int>();
  AddOne(std::move(deferred)).Detach();
  EXPECT_TRUE(promise.Errback(absl::NotFoundError("no")).ok());
  ASSERT_EQ(reported.size(), 1u);
  EXPECT_TRUE(absl::IsNotFound(reported[0]));
}

TEST(Coroutine, MayBeACallbackAndAMaybeDeferred) {
  auto got = Keep(Succeed(1).AddCallback(
      [](int n) -> Deferred<int> { co_return co_await AddOne(Succeed(n)) * 10; }));
  EXPECT_EQ(got->result->value(), 20);
  EXPECT_EQ(Keep(MaybeDeferred([] { return AddOne(Succeed(3)); }))->result->value(), 4);
}

TEST(Coroutine, CoroutinesAwaitCoroutines) {
  const auto level = [](const auto& self, int depth, Deferred<int> n) -> Deferred<int> {
    if (depth == 0) co_return co_await std::move(n);
    co_return 1 + co_await self(self, depth - 1, std::move(n));
  };
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(level(level, 10, std::move(deferred)));
  EXPECT_TRUE(promise.Callback(5).ok());
  EXPECT_EQ(got->result->value(), 15);
}

TEST(Coroutine, OneThatAwaitsItselfFails) {
  Deferred<void> own;
  auto [deferred, promise] = MakeDeferred<void>();
  const auto run = [](Deferred<void>& own, Deferred<void> wait) -> Deferred<void> {
    co_await std::move(wait);
    co_await std::move(own);
  };
  absl::Status seen;
  own = run(own, std::move(deferred));
  own = std::move(own).AddBoth([&](Result<void> result) { seen = result.status(); });
  EXPECT_TRUE(promise.Callback().ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(seen)) << seen;
}

// Through a coroutine a chain comes to wait for itself.
TEST(Coroutine, AChainThatReturnsTheCoroutineThatWaitsForItFails) {
  Deferred<int> own;
  auto [deferred, promise] = MakeDeferred<int>();
  const auto run = [](Deferred<int> wait, absl::Status& seen) -> Deferred<int> {
    Result<int> result = co_await AsResult(std::move(wait));
    seen = result.status();
    co_return 0;
  };
  absl::Status seen;
  own = run(std::move(deferred)
                .AddCallback([&](int) { return std::move(own); })
                .AddErrback([](const Failure& failure) { return failure; }),
            seen);
  EXPECT_TRUE(promise.Callback(1).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(seen)) << seen;
}

TEST(Coroutine, TwoThatAwaitOneAnotherFail) {
  auto start = MakeDeferred<void>();
  const auto run = [](Deferred<void> wait, Deferred<void>& other,
                      absl::Status& seen) -> Deferred<void> {
    co_await std::move(wait);
    seen = (co_await AsResult(std::move(other))).status();
  };
  Deferred<void> a;
  Deferred<void> b;
  absl::Status seen_by_a;
  absl::Status seen_by_b;
  a = run(std::move(start.first), b, seen_by_a);
  b = run(Succeed(), a, seen_by_b);
  EXPECT_TRUE(start.second.Callback().ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(seen_by_a)) << seen_by_a;
  EXPECT_TRUE(seen_by_b.ok()) << seen_by_b;
}

// A coroutine of another library's.
struct Foreign {
  struct promise_type {
    Foreign get_return_object() {
      return {std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
  std::coroutine_handle<promise_type> handle;
};

// What it awaits may have fired by then, and be about to resume it.
TEST(Coroutine, OneOfAnotherLibrarysMayBeDestroyedWhileItWaits) {
  for (const bool fires : {false, true}) {
    auto start = MakeDeferred<void>();
    auto made = MakeDeferred<int>();
    bool resumed = false;
    const auto run = [](Deferred<int> wait, bool& resumed) -> Foreign {
      co_await std::move(wait);
      resumed = true;
    };
    const Foreign foreign = run(std::move(made.first), resumed);
    std::move(start.first)
        .AddCallback([&] {
          if (fires) {
            EXPECT_TRUE(made.second.Callback(1).ok());
          }
          foreign.handle.destroy();
        })
        .Detach();
    EXPECT_TRUE(start.second.Callback().ok());
    EXPECT_FALSE(resumed);
    EXPECT_EQ(made.second.Callback(1).ok(), !fires);
  }
}

// --- ends -----------------------------------------------------------------------------------

TEST(Coroutine, LocalsAndParametersAreDestroyedBeforeWhatWaitsForItRuns) {
  bool local = false;
  bool parameter = false;
  auto [deferred, promise] = MakeDeferred<void>();
  const auto run = [](bool& local, Probe, Deferred<void> wait) -> Deferred<int> {
    Probe probe(&local);
    co_await std::move(wait);
    co_return 1;
  };
  bool both = false;
  run(local, Probe(&parameter), std::move(deferred))
      .AddCallback([&](int) { both = local && parameter; })
      .Detach();
  EXPECT_FALSE(local);
  EXPECT_TRUE(promise.Callback().ok());
  EXPECT_TRUE(both);
}

TEST(Coroutine, OneThatNobodyHoldsRunsOn) {
  bool ran = false;
  auto [deferred, promise] = MakeDeferred<void>();
  const auto run = [](bool& ran, Deferred<void> wait) -> Deferred<void> {
    co_await std::move(wait);
    ran = true;
  };
  run(ran, std::move(deferred)).Detach();
  EXPECT_TRUE(promise.Callback().ok());
  EXPECT_TRUE(ran);
}

TEST(Coroutine, WhatItAwaitsMayDieUnfired) {
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(AddOne(std::move(deferred)));
  promise = Promise<int>();
  EXPECT_EQ(got->code(), absl::StatusCode::kAborted);
}

// The home of what a coroutine awaits has quit when the Promise dies elsewhere: the frame goes.
TEST(Coroutine, IsDestroyedWhereItsHomeIsGone) {
  int64_t dropped = 0;
  ContextScope scope(Context().With(kFailureHandler, ErrorHandler([&](const ErrorReport& report) {
                                      EXPECT_TRUE(absl::IsAborted(report.status));
                                      dropped += report.dropped;
                                    })));
  auto memory = workers::CreateMemoryWorker();
  bool inner_gone = false;
  bool outer_gone = false;
  Promise<int> promise;
  const auto inner = [](bool& gone, Deferred<int> n) -> Deferred<int> {
    Probe probe(&gone);
    co_return co_await std::move(n);
  };
  const auto outer = [](bool& gone, Deferred<int> n) -> Deferred<int> {
    Probe probe(&gone);
    co_return co_await std::move(n);
  };
  EXPECT_TRUE(memory.worker
                  ->Do([&] {
                    auto made = MakeDeferred<int>(*memory.worker);
                    promise = std::move(made.second);
                    outer(outer_gone, inner(inner_gone, std::move(made.first)))
                        .AddBoth([](Result<int>) {})
                        .Detach();
                  })
                  .ok());
  memory.performer();
  EXPECT_TRUE(memory.worker->Quit().ok());
  EXPECT_FALSE(inner_gone);
  promise = Promise<int>();
  EXPECT_TRUE(inner_gone);
  EXPECT_TRUE(outer_gone);
  EXPECT_EQ(dropped, 3);  // two coroutines and a callback
}

TEST(Coroutine, ThatEndsItsThreadByForceFailsAndTheRestRuns) {
  struct Seen {
    bool local_destroyed = false;
    absl::Status status;
  } seen;
  pthread_t thread;
  ASSERT_EQ(pthread_create(
                &thread, nullptr,
                [](void* argument) -> void* {
                  Seen& seen = *static_cast<Seen*>(argument);
                  auto [deferred, promise] = MakeDeferred<void>();
                  const auto run = [](Seen& seen, Deferred<void> wait) -> Deferred<void> {
                    Probe probe(&seen.local_destroyed);
                    co_await std::move(wait);
                    pthread_exit(nullptr);
                  };
                  run(seen, std::move(deferred))
                      .AddBoth([&seen](Result<void> result) { seen.status = result.status(); })
                      .Detach();
                  promise.Callback().IgnoreError();
                  return nullptr;
                },
                &seen),
            0);
  pthread_join(thread, nullptr);
  EXPECT_TRUE(seen.local_destroyed);
  EXPECT_TRUE(absl::IsAborted(seen.status));
}

// --- order ----------------------------------------------------------------------------------

TEST(CoroutineOrder, WhatItFiresRunsWhenItWaitsOrEnds) {
  std::string order;
  auto [deferred, promise] = MakeDeferred<void>();
  auto [wait, resume] = MakeDeferred<void>();
  std::move(deferred).AddCallback([&] { order += "b"; }).Detach();
  const auto run = [](std::string& order, Promise<void> promise,
                      Deferred<void> wait) -> Deferred<void> {
    promise.Callback().IgnoreError();
    order += "a";
    co_await std::move(wait);
    order += "c";
  };
  auto got = Keep(run(order, std::move(promise), std::move(wait)));
  EXPECT_EQ(order, "ab");
  EXPECT_TRUE(resume.Callback().ok());
  EXPECT_EQ(order, "abc");
}

// It cannot keep what is ready from running by never waiting.
TEST(CoroutineOrder, ALoopThatNeverReallyWaitsLetsOthersRun) {
  bool stop = false;
  auto [deferred, promise] = MakeDeferred<void>();
  std::move(deferred).AddCallback([&] { stop = true; }).Detach();
  const auto run = [](bool& stop, Promise<void> promise) -> Deferred<int> {
    promise.Callback().IgnoreError();
    int turns = 0;
    while (!stop) {
      co_await Succeed();
      ++turns;
    }
    co_return turns;
  };
  EXPECT_EQ(Keep(run(stop, std::move(promise)))->result->value(), 1);
}

// --- depth ----------------------------------------------------------------------------------

TEST(CoroutineDepth, AMillionAwaitsOfWhatHasFired) {
  OnSmallStack([] {
    const auto run = []() -> Deferred<int> {
      int sum = 0;
      for (int i = 0; i < kMany; ++i) sum += co_await Succeed(1);
      co_return sum;
    };
    EXPECT_EQ(Keep(run())->result->value(), kMany);
  });
}

TEST(CoroutineDepth, AMillionAwaitsOfWhatFiresLater) {
  OnSmallStack([] {
    Promise<int> promise;
    const auto run = [](Promise<int>& promise) -> Deferred<int> {
      int sum = 0;
      for (int i = 0; i < kMany; ++i) {
        auto made = MakeDeferred<int>();
        promise = std::move(made.second);
        sum += co_await std::move(made.first);
      }
      co_return sum;
    };
    auto got = Keep(run(promise));
    for (int i = 0; i < kMany; ++i) {
      Promise<int> now = std::move(promise);
      EXPECT_TRUE(now.Callback(1).ok());
    }
    EXPECT_EQ(got->result->value(), kMany);
  });
}

TEST(CoroutineDepth, AMillionCoroutinesThatAwaitOneAnother) {
  OnSmallStack([] {
    auto [deferred, promise] = MakeDeferred<int>();
    Deferred<int> last = std::move(deferred);
    for (int i = 0; i < kMany; ++i) last = AddOne(std::move(last));
    auto got = Keep(std::move(last));
    EXPECT_TRUE(promise.Callback(0).ok());
    EXPECT_EQ(got->result->value(), kMany);
  });
}

TEST(CoroutineDepth, AFailureAndACancelGoThroughAHundredThousandCoroutines) {
  for (const bool cancel : {false, true}) {
    OnSmallStack([cancel] {
      auto [deferred, promise] = MakeDeferred<int>();
      Deferred<int> last = std::move(deferred);
      for (int i = 0; i < kMany / 10; ++i) last = AddOne(std::move(last));
      if (cancel) {
        last.Cancel();
      } else {
        EXPECT_TRUE(promise.Errback(absl::NotFoundError("no")).ok());
      }
      EXPECT_EQ(Keep(std::move(last))->code(),
                cancel ? absl::StatusCode::kCancelled : absl::StatusCode::kNotFound);
    });
  }
}

TEST(CoroutineDepth, AHundredThousandCoroutinesAreDroppedWhereTheirHomeIsGone) {
  OnSmallStack([] {
    int64_t dropped = 0;
    ContextScope scope(Context().With(
        kFailureHandler, ErrorHandler([&](const ErrorReport& r) { dropped += r.dropped; })));
    auto memory = workers::CreateMemoryWorker();
    Promise<int> promise;
    EXPECT_TRUE(memory.worker
                    ->Do([&] {
                      auto made = MakeDeferred<int>(*memory.worker);
                      promise = std::move(made.second);
                      Deferred<int> last = std::move(made.first);
                      for (int i = 0; i < kMany / 10; ++i) last = AddOne(std::move(last));
                    })
                    .ok());
    memory.performer();
    EXPECT_TRUE(memory.worker->Quit().ok());
    promise = Promise<int>();
    EXPECT_EQ(dropped, kMany / 10);
  });
}

// --- cancel ---------------------------------------------------------------------------------

TEST(CoroutineCancel, GoesToWhatItWaitsFor) {
  int called = 0;
  auto [deferred, promise] = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  Deferred<int> outer = AddOne(std::move(deferred));
  outer.Cancel();
  EXPECT_EQ(called, 1);
  EXPECT_EQ(Keep(std::move(outer))->code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(absl::IsFailedPrecondition(promise.Callback(1)));
}

TEST(CoroutineCancel, WithoutACancellerOneLateFiringIsSwallowed) {
  auto [deferred, promise] = MakeDeferred<int>();
  Deferred<int> outer = AddOne(std::move(deferred));
  outer.Cancel();
  EXPECT_EQ(Keep(std::move(outer))->code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(promise.Callback(1).ok());
}

TEST(CoroutineCancel, TheCancellerMayFireAValueAndTheCoroutineGoesOn) {
  auto [deferred, promise] =
      MakeDeferred<int>([](Promise<int>& p) { EXPECT_TRUE(p.Callback(7).ok()); });
  Deferred<int> outer = AddOne(std::move(deferred));
  outer.Cancel();
  EXPECT_EQ(Keep(std::move(outer))->result->value(), 8);
}

TEST(CoroutineCancel, TheCancellerMayFireItsOwnFailure) {
  auto [deferred, promise] = MakeDeferred<int>(
      [](Promise<int>& p) { EXPECT_TRUE(p.Errback(absl::DataLossError("x")).ok()); });
  Deferred<int> outer = AddOne(std::move(deferred));
  outer.Cancel();
  EXPECT_EQ(Keep(std::move(outer))->code(), absl::StatusCode::kDataLoss);
}

TEST(CoroutineCancel, MayBeCaughtAndMadeAValue) {
  const auto run = [](Deferred<int> n) -> Deferred<int> {
    Result<int> result = co_await AsResult(std::move(n));
    co_return absl::IsCancelled(result.status()) ? -1 : result.value();
  };
  auto [deferred, promise] = MakeDeferred<int>();
  Deferred<int> outer = run(std::move(deferred));
  outer.Cancel();
  EXPECT_EQ(Keep(std::move(outer))->result->value(), -1);
}

TEST(CoroutineCancel, MayBeCaughtAndReplaced) {
  const auto run = [](Deferred<int> n) -> Deferred<int> {
    try {
      co_return co_await std::move(n);
    } catch (const StatusError&) {
    }
    throw std::runtime_error("instead");
  };
  auto [deferred, promise] = MakeDeferred<int>();
  Deferred<int> outer = run(std::move(deferred));
  outer.Cancel();
  EXPECT_EQ(Keep(std::move(outer))->result->status(),
            absl::UnknownError("std::runtime_error: instead"));
}

Deferred<int> FirstOrSecond(Deferred<int> first, Deferred<int> second) {
  Result<int> result = co_await AsResult(std::move(first));
  if (result.ok()) co_return result;
  co_return co_await std::move(second);
}

TEST(CoroutineCancel, OneThatCatchesItMayWaitForAnother) {
  auto [first, first_promise] = MakeDeferred<int>();
  auto [second, second_promise] = MakeDeferred<int>();
  Deferred<int> outer = FirstOrSecond(std::move(first), std::move(second));
  outer.Cancel();
  auto got = Keep(std::move(outer));
  EXPECT_EQ(got->times, 0);
  EXPECT_TRUE(second_promise.Callback(2).ok());
  EXPECT_EQ(got->result->value(), 2);
}

TEST(CoroutineCancel, TheSecondTimeGoesToTheSecondWait) {
  int first_called = 0;
  int second_called = 0;
  auto [first, first_promise] = MakeDeferred<int>([&](Promise<int>&) { ++first_called; });
  auto [second, second_promise] = MakeDeferred<int>([&](Promise<int>&) { ++second_called; });
  Deferred<int> outer = FirstOrSecond(std::move(first), std::move(second));
  outer.Cancel();
  EXPECT_EQ(second_called, 0);
  outer.Cancel();
  EXPECT_EQ(first_called, 1);
  EXPECT_EQ(second_called, 1);
  EXPECT_EQ(Keep(std::move(outer))->code(), absl::StatusCode::kCancelled);
}

TEST(CoroutineCancel, GoesDownThroughLevelsOfCoroutinesAndCallbacks) {
  int called = 0;
  auto [deepest, promise] = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  Deferred<int> outer = AddOne(std::move(deepest));
  for (int level = 0; level < 5; ++level) {
    outer = AddOne(std::move(outer));
    outer = std::move(outer).AddCallback([](int n) { return n; });
    outer =
        Succeed().AddCallback([outer = std::move(outer)]() mutable { return std::move(outer); });
  }
  outer.Cancel();
  EXPECT_EQ(called, 1);
  EXPECT_EQ(Keep(std::move(outer))->code(), absl::StatusCode::kCancelled);
}

// The inner level catches the Cancelled: the outer one never hears of it.
TEST(CoroutineCancel, AnInnerCoroutineMayHideItFromTheOuter) {
  const auto inner = [](Deferred<int> n) -> Deferred<int> {
    co_return (co_await AsResult(std::move(n))).ok() ? 1 : 2;
  };
  auto [deferred, promise] = MakeDeferred<int>();
  Deferred<int> outer = AddOne(inner(std::move(deferred)));
  outer.Cancel();
  EXPECT_EQ(Keep(std::move(outer))->result->value(), 3);
}

TEST(CoroutineCancel, OfOneThatHasEndedDoesNothing) {
  int called = 0;
  auto [deferred, promise] = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  Deferred<int> outer = AddOne(std::move(deferred));
  EXPECT_TRUE(promise.Callback(1).ok());
  outer.Cancel();
  EXPECT_EQ(called, 0);
  EXPECT_EQ(Keep(std::move(outer))->result->value(), 2);
}

TEST(CoroutineCancel, WhatACancellerThrowsIsReportedAndItIsCancelled) {
  std::vector<absl::Status> reported;
  ContextScope scope(Context().With(kFailureHandler, ErrorHandler([&](const ErrorReport& report) {
                                      reported.push_back(report.status);
                                    })));
  auto [deferred, promise] =
      MakeDeferred<int>([](Promise<int>&) { throw std::runtime_error("boom"); });
  Deferred<int> outer = AddOne(std::move(deferred));
  outer.Cancel();
  EXPECT_EQ(Keep(std::move(outer))->code(), absl::StatusCode::kCancelled);
  ASSERT_EQ(reported.size(), 1u);
}

TEST(CoroutineCancel, WhileItRunsGoesToItsNextWait) {
  int called = 0;
  Deferred<int> outer;
  auto [first, first_promise] = MakeDeferred<void>();
  auto [second, second_promise] = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  const auto run = [](Deferred<int>& outer, Deferred<void> first,
                      Deferred<int> second) -> Deferred<int> {
    co_await std::move(first);
    outer.Cancel();
    co_await Succeed();  // no wait
    co_return co_await std::move(second);
  };
  outer = run(outer, std::move(first), std::move(second));
  EXPECT_TRUE(first_promise.Callback().ok());
  EXPECT_EQ(called, 1);
  EXPECT_EQ(Keep(std::move(outer))->code(), absl::StatusCode::kCancelled);
}

// What it waited for has fired, but a callback that runs now cancels before it is resumed.
TEST(CoroutineCancel, JustBeforeItIsResumedGoesToItsNextWait) {
  int called = 0;
  Deferred<int> outer;
  auto [start, start_promise] = MakeDeferred<void>();
  auto [first, first_promise] = MakeDeferred<int>();
  auto [second, second_promise] = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  const auto run = [](Deferred<int> first, Deferred<int> second) -> Deferred<int> {
    const int n = co_await std::move(first);
    co_return n + co_await std::move(second);
  };
  outer = run(std::move(first), std::move(second));
  std::move(start)
      .AddCallback([&, p = std::move(first_promise)]() mutable {
        EXPECT_TRUE(p.Callback(1).ok());
        outer.Cancel();
      })
      .Detach();
  EXPECT_TRUE(start_promise.Callback().ok());
  EXPECT_EQ(called, 1);
  EXPECT_EQ(Keep(std::move(outer))->code(), absl::StatusCode::kCancelled);
}

// As above, but the next wait is at the end of a chain that is about to begin.
TEST(CoroutineCancel, WhileItRunsGoesToTheWaitOfACallback) {
  int called = 0;
  Deferred<int> outer;
  auto first = MakeDeferred<void>();
  auto second = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  const auto run = [](Deferred<int>& outer, Deferred<void> first,
                      Deferred<int> second) -> Deferred<int> {
    co_await std::move(first);
    outer.Cancel();
    Deferred<int> chain =
        Succeed().AddCallback([second = std::move(second)]() mutable { return std::move(second); });
    co_return co_await std::move(chain);
  };
  outer = run(outer, std::move(first.first), std::move(second.first));
  EXPECT_TRUE(first.second.Callback().ok());
  EXPECT_EQ(called, 1);
  EXPECT_EQ(Keep(std::move(outer))->code(), absl::StatusCode::kCancelled);
}

// As two above, with a callback and a coroutine between what fires and the one that is cancelled.
TEST(CoroutineCancel, JustBeforeItIsResumedGoesThroughLevels) {
  int called = 0;
  auto start = MakeDeferred<void>();
  auto first = MakeDeferred<int>();
  auto second = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  const auto run = [](Deferred<int> first, Deferred<int> second) -> Deferred<int> {
    const int n = co_await std::move(first);
    co_return n + co_await std::move(second);
  };
  Deferred<int> outer = run(AddOne(std::move(first.first).AddCallback([](int n) { return n; })),
                            std::move(second.first));
  std::move(start.first)
      .AddCallback([&] {
        EXPECT_TRUE(first.second.Callback(1).ok());
        outer.Cancel();
      })
      .Detach();
  EXPECT_TRUE(start.second.Callback().ok());
  EXPECT_EQ(called, 1);
  EXPECT_EQ(Keep(std::move(outer))->code(), absl::StatusCode::kCancelled);
}

TEST(CoroutineCancel, LocalsAreDestroyed) {
  bool destroyed = false;
  auto [deferred, promise] = MakeDeferred<void>();
  const auto run = [](bool& destroyed, Deferred<void> wait) -> Deferred<void> {
    Probe probe(&destroyed);
    co_await std::move(wait);
  };
  Deferred<void> outer = run(destroyed, std::move(deferred));
  outer.Cancel();
  EXPECT_TRUE(destroyed);
  Keep(std::move(outer));
}

// --- context --------------------------------------------------------------------------------

inline constexpr workers::ContextKey<int> kRequest("request");

TEST(CoroutineContext, IsTheCallersAlsoAfterAWait) {
  auto [deferred, promise] = MakeDeferred<void>();
  std::vector<int> seen;
  const auto run = [](std::vector<int>& seen, Deferred<void> wait) -> Deferred<void> {
    seen.push_back(*kRequest.Get());
    co_await std::move(wait);
    seen.push_back(*kRequest.Get());
    co_await Succeed();
    seen.push_back(*kRequest.Get());
  };
  {
    ContextScope scope(Context().With(kRequest, 1));
    run(seen, std::move(deferred)).Detach();
  }
  ContextScope scope(Context().With(kRequest, 2));
  EXPECT_TRUE(promise.Callback().ok());
  EXPECT_EQ(seen, (std::vector<int>{1, 1, 1}));
  EXPECT_EQ(*kRequest.Get(), 2);
}

TEST(CoroutineContext, AScopeInsideEndsBeforeTheNextWait) {
  auto [deferred, promise] = MakeDeferred<void>();
  std::vector<int> seen;
  const auto run = [](std::vector<int>& seen, Deferred<void> wait) -> Deferred<void> {
    {
      ContextScope scope(Context::Current().With(kRequest, 5));
      seen.push_back(*kRequest.Get());
    }
    co_await std::move(wait);
    seen.push_back(*kRequest.Get());
  };
  ContextScope scope(Context().With(kRequest, 1));
  run(seen, std::move(deferred)).Detach();
  EXPECT_TRUE(promise.Callback().ok());
  EXPECT_EQ(seen, (std::vector<int>{5, 1}));
}

// --- on a worker ----------------------------------------------------------------------------

TEST(CoroutineHome, RunsInTheWorkOfItsWorkerAlsoAfterAWait) {
  auto memory = workers::CreateMemoryWorker();
  Promise<int> promise;
  std::shared_ptr<Got<int>> got;
  EXPECT_TRUE(memory.worker
                  ->Do([&] {
                    auto made = MakeDeferred<int>();
                    promise = std::move(made.second);
                    got = Keep(AddOne(std::move(made.first)));
                  })
                  .ok());
  EXPECT_TRUE(memory.worker->Do([&] { EXPECT_TRUE(promise.Callback(1).ok()); }).ok());
  memory.performer();
  memory.performer();
  EXPECT_EQ(got->result->value(), 2);
}

}  // namespace
}  // namespace reactor
