#include "reactor/deferred.h"

#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "reactor/failure.h"
#include "reactor/testing/clock.h"
#include "workers/context.h"
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/serial_worker.h"
#include "workers/testing/gate.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace {

std::atomic<long> allocations = 0;
std::atomic<long> living = 0;

}  // namespace

void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  living.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  if (memory != nullptr) living.fetch_sub(1, std::memory_order_relaxed);
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }

namespace reactor {
namespace {

using workers::Context;
using workers::ContextScope;
using workers::ErrorHandler;
using workers::ErrorReport;
using workers::IExclusiveWorker;
using workers::LockWorker;
using workers::ThreadWorker;
using workers::test::Gate;

constexpr int kMany = 1'000'000;

// What came out of a Deferred.
template <typename T>
struct Got {
  int times = 0;
  std::optional<Result<T>> result;

  bool ok() const { return result.has_value() && result->ok(); }
  absl::StatusCode code() const { return result.has_value() ? result->status().code() : kNone; }
  static constexpr absl::StatusCode kNone = static_cast<absl::StatusCode>(-1);
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

// Takes the failures that nobody handled.
class Reports {
 public:
  Reports()
      : scope_(Context::Current().With(kFailureHandler, ErrorHandler([this](const ErrorReport& r) {
                                         reports_.push_back({r.status, r.exception, r.dropped});
                                       }))) {}
  ~Reports() { EXPECT_EQ(reports_.size(), 0u) << reports_[0].status; }

  // The next one; it must be there.
  ErrorReport Take() {
    if (reports_.empty()) {
      ADD_FAILURE() << "nothing was reported";
      return {};
    }
    Report report = reports_.front();
    reports_.erase(reports_.begin());
    return {"", report.status, report.exception, report.dropped};
  }
  size_t size() const { return reports_.size(); }

 private:
  struct Report {
    absl::Status status;
    std::exception_ptr exception;
    int64_t dropped;
  };
  std::vector<Report> reports_;
  ContextScope scope_;
};

// Runs `f` on a thread with little stack, where recursion would end the process.
void OnSmallStack(std::function<void()> f) {
  auto worker = *ThreadWorker::Create({.thread = {.name = "small", .stack_size = 256 << 10}});
  EXPECT_TRUE(worker->Do(std::move(f)).ok());
  EXPECT_TRUE(worker->Quit().ok());
  EXPECT_TRUE(worker->Join().ok());
}

// --- callbacks and errbacks -----------------------------------------------------------------

TEST(Deferred, ACallbackGetsTheValue) {
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred));
  EXPECT_EQ(got->times, 0);
  EXPECT_TRUE(promise.Callback(7).ok());
  EXPECT_EQ(got->times, 1);
  EXPECT_EQ(got->result->value(), 7);
}

TEST(Deferred, EachCallbackGetsWhatTheOneBeforeReturned) {
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred)
                      .AddCallback([](int n) { return n + 1; })
                      .AddCallback([](int n) { return std::to_string(n); })
                      .AddCallback([](std::string s) { return s + "!"; }));
  EXPECT_TRUE(promise.Callback(1).ok());
  EXPECT_EQ(got->result->value(), "2!");
}

TEST(Deferred, ACallbackMayReturnVoidStatusStatusOrAndResult) {
  auto got = Keep(Succeed(1)
                      .AddCallback([](int) {})
                      .AddCallback([] { return absl::OkStatus(); })
                      .AddCallback([]() -> absl::StatusOr<int> { return 3; })
                      .AddCallback([](int n) -> Result<std::string> { return std::to_string(n); }));
  static_assert(std::is_same_v<decltype(got), std::shared_ptr<Got<std::string>>>);
  EXPECT_EQ(got->result->value(), "3");
}

TEST(Deferred, AStatusThatIsNotOkFails) {
  auto status = Keep(Succeed().AddCallback([] { return absl::NotFoundError("no"); }));
  EXPECT_EQ(status->result->failure().status(), absl::NotFoundError("no"));
  auto status_or =
      Keep(Succeed().AddCallback([]() -> absl::StatusOr<int> { return absl::DataLossError("x"); }));
  EXPECT_EQ(status_or->result->failure().status(), absl::DataLossError("x"));
  auto result = Keep(
      Succeed().AddCallback([]() -> Result<int> { return Failure(absl::UnavailableError("y")); }));
  EXPECT_EQ(result->result->failure().status(), absl::UnavailableError("y"));
}

TEST(Deferred, AFailurePassesCallbacksByAndStopsAtTheErrback) {
  bool called = false;
  auto got = Keep(Fail<int>(absl::NotFoundError("no"))
                      .AddCallback([&](int n) {
                        called = true;
                        return n;
                      })
                      .AddErrback([](const Failure& failure) {
                        EXPECT_EQ(failure.status(), absl::NotFoundError("no"));
                        return 5;
                      })
                      .AddCallback([](int n) { return n + 1; }));
  EXPECT_FALSE(called);
  EXPECT_EQ(got->result->value(), 6);
}

TEST(Deferred, AValuePassesErrbacksBy) {
  bool called = false;
  auto got = Keep(Succeed(4).AddErrback([&](const Failure&) {
    called = true;
    return 0;
  }));
  EXPECT_FALSE(called);
  EXPECT_EQ(got->result->value(), 4);
}

TEST(Deferred, AnErrbackMayPassTheFailureOn) {
  auto got = Keep(Fail<int>(absl::NotFoundError("no")).AddErrback([](const Failure& failure) {
    return failure;
  }));
  EXPECT_EQ(got->result->failure().status(), absl::NotFoundError("no"));
}

TEST(Deferred, AnErrbackMayReturnADeferredAndAStatusOr) {
  auto got = Keep(
      Fail<int>(absl::NotFoundError("no")).AddErrback([](const Failure&) { return Succeed(3); }));
  EXPECT_EQ(got->result->value(), 3);
  auto other = Keep(
      Fail<int>(absl::NotFoundError("no")).AddErrback([](const Failure&) -> absl::StatusOr<int> {
        return absl::AbortedError("worse");
      }));
  EXPECT_EQ(other->code(), absl::StatusCode::kAborted);
}

TEST(Deferred, AddBothGetsEither) {
  const auto describe = [](Result<int> result) {
    return result.ok() ? std::to_string(result.value()) : std::string("failed");
  };
  EXPECT_EQ(Keep(Succeed(1).AddBoth(describe))->result->value(), "1");
  EXPECT_EQ(Keep(Fail<int>(absl::AbortedError("")).AddBoth(describe))->result->value(), "failed");
}

TEST(Deferred, AddCallbacksCallsOneOfTheTwo) {
  const auto value = [](int n) { return n * 2; };
  const auto error = [](const Failure&) { return -1; };
  EXPECT_EQ(Keep(Succeed(4).AddCallbacks(value, error))->result->value(), 8);
  EXPECT_EQ(Keep(Fail<int>(absl::AbortedError("")).AddCallbacks(value, error))->result->value(),
            -1);
}

TEST(Deferred, WhatTheFirstOfAddCallbacksThrowsDoesNotComeToTheSecond) {
  bool called = false;
  auto got = Keep(Succeed(4).AddCallbacks([](int) -> int { throw std::runtime_error("boom"); },
                                          [&](const Failure&) {
                                            called = true;
                                            return 0;
                                          }));
  EXPECT_FALSE(called);
  EXPECT_EQ(got->result->failure().status(), absl::UnknownError("std::runtime_error: boom"));
}

TEST(Deferred, WhatACallbackThrowsIsAFailureWithExactlyThatException) {
  const auto exception = std::make_exception_ptr(std::out_of_range("here"));
  std::exception_ptr got;
  Succeed()
      .AddCallback([&] { std::rethrow_exception(exception); })
      .AddErrback([&](const Failure& failure) { got = failure.exception(); })
      .Detach();
  EXPECT_EQ(got, exception);
}

TEST(Deferred, WhatAnErrbackThrowsIsAFailureToo) {
  auto got = Keep(Fail<void>(absl::AbortedError("")).AddErrback([](const Failure&) { throw 7; }));
  EXPECT_EQ(got->code(), absl::StatusCode::kUnknown);
  EXPECT_NE(got->result->failure().exception(), nullptr);
}

TEST(Deferred, ValuesMayBeMoveOnlyAndCallbacksToo) {
  auto [deferred, promise] = MakeDeferred<std::unique_ptr<int>>();
  auto got = Keep(
      std::move(deferred).AddCallback([add = std::make_unique<int>(2)](std::unique_ptr<int> value) {
        *value += *add;
        return value;
      }));
  EXPECT_TRUE(promise.Callback(std::make_unique<int>(1)).ok());
  EXPECT_EQ(*got->result->value(), 3);
}

TEST(Deferred, OfVoid) {
  auto [deferred, promise] = MakeDeferred<void>();
  auto got = Keep(std::move(deferred).AddCallback([] { return 1; }));
  EXPECT_TRUE(promise.Callback().ok());
  EXPECT_EQ(got->result->value(), 1);
}

TEST(Deferred, SucceedAndFailHaveFired) {
  EXPECT_TRUE(Succeed(1).fired());
  EXPECT_TRUE(Succeed().fired());
  auto failed = Fail<int>(absl::AbortedError(""));
  EXPECT_TRUE(failed.fired());
  EXPECT_EQ(Keep(std::move(failed))->code(), absl::StatusCode::kAborted);
}

TEST(Deferred, SaysWhatBecameOfIt) {
  auto [deferred, promise] = MakeDeferred<int>();
  EXPECT_TRUE(absl::StartsWith(deferred.ToString(), "it waits"));
  EXPECT_TRUE(promise.Callback(1).ok());
  EXPECT_TRUE(absl::StartsWith(deferred.ToString(), "it has a value"));
  auto failed = Fail<int>(absl::NotFoundError("no"));
  EXPECT_TRUE(absl::StartsWith(failed.ToString(), "it failed: NOT_FOUND: no"));
  EXPECT_FALSE(Keep(std::move(failed))->ok());
  EXPECT_EQ(Deferred<int>().ToString(), "it is empty");
#ifdef NDEBUG
  EXPECT_EQ(deferred.ToString(), "it has a value");
#else
  EXPECT_TRUE(absl::StrContains(deferred.ToString(), "deferred_test.cc:"));
#endif
}

// The callback is destroyed straight after it ran or was passed over, before the next one runs.
TEST(Deferred, CallbacksAreDestroyedStraightAway) {
  auto ran = std::make_shared<int>(0);
  auto passed_by = std::make_shared<int>(0);
  auto [deferred, promise] = MakeDeferred<void>();
  auto got = Keep(std::move(deferred)
                      .AddCallback([ran] {})
                      .AddErrback([passed_by](const Failure&) {})
                      .AddCallback([&] { return ran.use_count() * 10 + passed_by.use_count(); }));
  EXPECT_EQ(ran.use_count(), 2);
  EXPECT_TRUE(promise.Callback().ok());
  EXPECT_EQ(got->result->value(), 11);
}

TEST(Deferred, ACallbackThatThrowsIsDestroyedToo) {
  auto capture = std::make_shared<int>(0);
  auto got = Keep(Succeed().AddCallback([capture] { throw std::runtime_error("boom"); }));
  EXPECT_EQ(capture.use_count(), 1);
  EXPECT_FALSE(got->ok());
}

// --- firing ---------------------------------------------------------------------------------

TEST(Promise, FiringTwiceIsFailedPrecondition) {
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred));
  EXPECT_TRUE(promise.Callback(1).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(promise.Callback(2)));
  EXPECT_TRUE(absl::IsFailedPrecondition(promise.Errback(absl::AbortedError(""))));
  EXPECT_EQ(got->times, 1);
  EXPECT_EQ(got->result->value(), 1);
}

TEST(Promise, FiringAfterAnErrbackIsFailedPrecondition) {
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred));
  EXPECT_TRUE(promise.Errback(absl::AbortedError("")).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(promise.Callback(1)));
  EXPECT_EQ(got->code(), absl::StatusCode::kAborted);
}

TEST(Promise, FiringAnEmptyOneIsFailedPrecondition) {
  Promise<int> empty;
  EXPECT_TRUE(absl::IsFailedPrecondition(empty.Callback(1)));
  auto [deferred, promise] = MakeDeferred<int>();
  Promise<int> other = std::move(promise);
  EXPECT_TRUE(absl::IsFailedPrecondition(promise.Callback(1)));
  EXPECT_TRUE(other.Callback(1).ok());
}

#ifndef NDEBUG
// Twisted: setDebugging shows where it was made and where it was fired first.
TEST(Promise, InDebugBuildsTheErrorSaysWhereItWasMadeAndFired) {
  const int line = __LINE__;
  auto [deferred, promise] = MakeDeferred<int>();
  EXPECT_TRUE(promise.Callback(1).ok());
  const std::string what(promise.Callback(2).message());
  EXPECT_TRUE(absl::StrContains(what, "made at ")) << what;
  EXPECT_TRUE(absl::StrContains(what, "deferred_test.cc:" + std::to_string(line + 1))) << what;
  EXPECT_TRUE(absl::StrContains(what, "deferred_test.cc:" + std::to_string(line + 2))) << what;
}
#endif

TEST(Promise, ThatDiesUnfiredFailsItsDeferredWithAborted) {
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred));
  {
    Promise<int> dies = std::move(promise);
  }
  EXPECT_EQ(got->code(), absl::StatusCode::kAborted);
}

TEST(Promise, ThatIsAssignedToDiesToo) {
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred));
  promise = Promise<int>();
  EXPECT_EQ(got->code(), absl::StatusCode::kAborted);
}

TEST(Promise, MayBeDestroyedByWhatItFires) {
  auto [deferred, promise] = MakeDeferred<int>();
  auto owned = std::make_unique<Promise<int>>(std::move(promise));
  auto got = Keep(std::move(deferred).AddCallback([&](int n) {
    owned = nullptr;
    return n;
  }));
  EXPECT_TRUE(owned->Callback(1).ok());
  EXPECT_EQ(owned, nullptr);
  EXPECT_EQ(got->result->value(), 1);
}

TEST(Promise, FireTakesAResult) {
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred));
  EXPECT_TRUE(promise.Fire(Failure(absl::NotFoundError("no"))).ok());
  EXPECT_EQ(got->code(), absl::StatusCode::kNotFound);
}

// --- order ----------------------------------------------------------------------------------

TEST(DeferredOrder, ACallbackAddedToAFiredOneRunsAtOnce) {
  bool ran = false;
  Deferred<void> deferred = Succeed();
  deferred = std::move(deferred).AddCallback([&] { ran = true; });
  EXPECT_TRUE(ran);
}

TEST(DeferredOrder, CallbacksAddedInACallbackRunAfterItInOrder) {
  std::string order;
  auto [first, promise] = MakeDeferred<void>();
  Deferred<void> deferred;
  deferred = std::move(first).AddCallback([&] {
    deferred =
        std::move(deferred).AddCallback([&] { order += "b"; }).AddCallback([&] { order += "c"; });
    order += "a";
  });
  EXPECT_TRUE(promise.Callback().ok());
  EXPECT_EQ(order, "abc");
}

// Never inside, and before what follows in the same chain: as Twisted, but for the rest of the
// callback that fires.
TEST(DeferredOrder, WhatFiresInACallbackRunsAfterItAndBeforeWhatFollows) {
  std::string order;
  auto [d1, p1] = MakeDeferred<void>();
  auto [d2, p2] = MakeDeferred<void>();
  auto [d3, p3] = MakeDeferred<void>();
  std::move(d1)
      .AddCallback([&, p2 = std::move(p2), p3 = std::move(p3)]() mutable {
        order += "1(";
        EXPECT_TRUE(p2.Callback().ok());
        EXPECT_TRUE(p3.Callback().ok());
        Succeed().AddCallback([&] { order += "s"; }).Detach();
        order += ")";
      })
      .AddCallback([&] { order += "4"; })
      .Detach();
  std::move(d2).AddCallback([&] { order += "2"; }).AddCallback([&] { order += "b"; }).Detach();
  std::move(d3).AddCallback([&] { order += "3"; }).Detach();
  EXPECT_TRUE(p1.Callback().ok());
  EXPECT_EQ(order, "1()2b3s4");
}

// A LockWorker's Do runs its work before it returns, also inside a callback, and with it what
// becomes ready there: after it nothing of it may run outside of the lock.
TEST(DeferredOrder, AnotherWorkersWorkInsideACallbackIsDoneWhenItReturns) {
  LockWorker worker;
  bool ran = false;
  bool ran_in_time = false;
  Succeed()
      .AddCallback([&] {
        EXPECT_TRUE(worker.Do([&] { Succeed().AddCallback([&] { ran = true; }).Detach(); }).ok());
        ran_in_time = ran;
      })
      .Detach();
  EXPECT_TRUE(ran_in_time);
}

// --- a callback that returns a Deferred -----------------------------------------------------

TEST(DeferredChain, TheOuterWaitsForADeferredThatACallbackReturns) {
  auto [inner, promise] = MakeDeferred<int>();
  bool early = false;
  auto got =
      Keep(Succeed()
               .AddCallback([&, inner = std::move(inner)]() mutable { return std::move(inner); })
               .AddCallback([&](int n) {
                 early = true;
                 return n + 1;
               }));
  EXPECT_FALSE(early);
  EXPECT_TRUE(promise.Callback(1).ok());
  EXPECT_EQ(got->result->value(), 2);
}

TEST(DeferredChain, AReturnedDeferredThatHasFiredIsTakenAtOnce) {
  auto got = Keep(Succeed().AddCallback([] { return Succeed(3); }));
  EXPECT_EQ(got->result->value(), 3);
}

TEST(DeferredChain, TheFailureOfAReturnedDeferredIsTheOutersAndReportedOnce) {
  Reports reports;
  auto [inner, promise] = MakeDeferred<int>();
  auto got = Keep(
      Succeed().AddCallback([inner = std::move(inner)]() mutable { return std::move(inner); }));
  EXPECT_TRUE(promise.Errback(absl::NotFoundError("no")).ok());
  EXPECT_EQ(got->code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(reports.size(), 0u);
}

TEST(DeferredChain, AReturnedDeferredThatHasFailedIsTakenAtOnce) {
  Reports reports;
  auto got = Keep(Succeed().AddCallback([] { return Fail<int>(absl::NotFoundError("no")); }));
  EXPECT_EQ(got->code(), absl::StatusCode::kNotFound);
}

TEST(DeferredChain, CallbacksMayBeAddedWhileTheOuterWaits) {
  auto [inner, promise] = MakeDeferred<int>();
  Deferred<int> outer =
      Succeed().AddCallback([inner = std::move(inner)]() mutable { return std::move(inner); });
  auto got = Keep(std::move(outer).AddCallback([](int n) { return n * 3; }));
  EXPECT_TRUE(promise.Callback(2).ok());
  EXPECT_EQ(got->result->value(), 6);
}

TEST(DeferredChain, AnEmptyDeferredThatIsReturnedIsMisuse) {
  EXPECT_DEATH(Succeed().AddCallback([] { return Deferred<int>(); }).Detach(),
               "a callback returned an empty Deferred: the Deferred is empty");
}

// A Deferred cannot be returned from its own callback, which is given before there is a Deferred
// of what it returns; but through a variable that one, or a later one of the chain, can be.
TEST(DeferredChain, ADeferredReturnedFromItsOwnCallbackFailsTheChain) {
  for (const int steps : {0, 1, 5}) {
    Reports reports;
    auto [first, promise] = MakeDeferred<void>();
    Deferred<void> last;
    absl::Status seen;
    last = std::move(first).AddCallback([&]() -> Deferred<void> { return std::move(last); });
    for (int i = 0; i < steps; ++i) {
      last = std::move(last).AddBoth([&](Result<void> result) {
        seen = result.status();
        return result;
      });
    }
    EXPECT_TRUE(promise.Callback().ok());
    if (steps > 0) {
      EXPECT_TRUE(absl::IsFailedPrecondition(seen));
    }
    const absl::Status status = reports.Take().status;
    EXPECT_TRUE(absl::IsFailedPrecondition(status));
    EXPECT_TRUE(absl::StrContains(status.message(), "its own Deferred")) << status;
  }
}

TEST(DeferredChain, ChainToFiresThePromise) {
  auto [from, from_promise] = MakeDeferred<int>();
  auto [to, to_promise] = MakeDeferred<int>();
  auto got = Keep(std::move(to));
  std::move(from).ChainTo(std::move(to_promise));
  EXPECT_TRUE(from_promise.Callback(9).ok());
  EXPECT_EQ(got->result->value(), 9);
  auto [other, other_promise] = MakeDeferred<int>();
  auto failed = Keep(std::move(other));
  Fail<int>(absl::DataLossError("x")).ChainTo(std::move(other_promise));
  EXPECT_EQ(failed->code(), absl::StatusCode::kDataLoss);
}

// --- no recursion ---------------------------------------------------------------------------

TEST(DeferredDepth, AMillionCallbacks) {
  OnSmallStack([] {
    auto [first, promise] = MakeDeferred<int>();
    Deferred<int> deferred = std::move(first);
    for (int i = 0; i < kMany; ++i) {
      deferred = std::move(deferred).AddCallback([](int n) { return n + 1; });
    }
    auto got = Keep(std::move(deferred));
    EXPECT_TRUE(promise.Callback(0).ok());
    EXPECT_EQ(got->result->value(), kMany);
  });
}

TEST(DeferredDepth, AMillionUnfiredCallbacksThatNobodyWaitsForAnyMore) {
  OnSmallStack([] {
    Reports reports;
    {
      auto [first, promise] = MakeDeferred<int>();
      Deferred<int> deferred = std::move(first);
      for (int i = 0; i < kMany; ++i) {
        deferred = std::move(deferred).AddCallback([](int n) { return n + 1; });
      }
      // The Promise dies first or last.
    }
    EXPECT_EQ(reports.Take().status.code(), absl::StatusCode::kAborted);
    {
      Promise<int> promise;
      {
        auto [first, made] = MakeDeferred<int>();
        promise = std::move(made);
        Deferred<int> deferred = std::move(first);
        for (int i = 0; i < kMany; ++i) {
          deferred = std::move(deferred).AddCallback([](int n) { return n + 1; });
        }
      }
    }
    EXPECT_EQ(reports.Take().status.code(), absl::StatusCode::kAborted);
  });
}

TEST(DeferredDepth, CancelGoesUpAMillionCallbacks) {
  OnSmallStack([] {
    auto [first, promise] = MakeDeferred<int>();
    Deferred<int> deferred = std::move(first);
    for (int i = 0; i < kMany; ++i) {
      deferred = std::move(deferred).AddCallback([](int n) { return n; });
    }
    deferred.Cancel();
    EXPECT_EQ(Keep(std::move(deferred))->code(), absl::StatusCode::kCancelled);
  });
}

// Every turn returns the next one, which has fired.
Deferred<int> CountDown(int n) {
  if (n == 0) return Succeed(42);
  return Succeed(n).AddCallback([](int n) { return CountDown(n - 1); });
}

TEST(DeferredDepth, AMillionFiredDeferredsReturnedFromOneAnother) {
  OnSmallStack([] { EXPECT_EQ(Keep(CountDown(kMany))->result->value(), 42); });
}

// The next turn is pending when it is returned, and fired by plain code later: one at a time.
Deferred<int> PendingCountDown(int n, std::vector<Promise<int>>& promises) {
  if (n == 0) return Succeed(42);
  auto [deferred, promise] = MakeDeferred<int>();
  promises.push_back(std::move(promise));
  return std::move(deferred).AddCallback(
      [&promises](int n) { return PendingCountDown(n - 1, promises); });
}

TEST(DeferredDepth, AMillionPendingDeferredsReturnedFromOneAnother) {
  OnSmallStack([] {
    std::vector<Promise<int>> promises;
    auto got = Keep(PendingCountDown(kMany, promises));
    for (int n = kMany; n > 0; --n) {
      Promise<int> promise = std::move(promises.back());
      promises.pop_back();
      EXPECT_TRUE(promise.Callback(n).ok());
    }
    EXPECT_EQ(got->result->value(), 42);
  });
}

// Inner ones of a million Deferreds that wait for one another, with steps in between.
TEST(DeferredDepth, AMillionDeferredsThatWaitForOneAnother) {
  OnSmallStack([] {
    auto [first, promise] = MakeDeferred<int>();
    Deferred<int> deferred = std::move(first);
    for (int i = 0; i < kMany; ++i) {
      deferred = Succeed().AddCallback([inner = std::move(deferred)]() mutable {
        return std::move(inner).AddCallback([](int n) { return n + 1; });
      });
    }
    auto got = Keep(std::move(deferred));
    EXPECT_TRUE(promise.Callback(0).ok());
    EXPECT_EQ(got->result->value(), kMany);
  });
}

// D2: in Twisted 3,000 of these are too many.
TEST(DeferredDepth, D2_AMillionDeferredsChainedByHand) {
  OnSmallStack([] {
    auto [deferred, first] = MakeDeferred<int>();
    for (int i = 0; i < kMany; ++i) {
      auto [next, promise] = MakeDeferred<int>();
      std::move(deferred).ChainTo(std::move(promise));
      deferred = std::move(next);
    }
    auto got = Keep(std::move(deferred));
    EXPECT_TRUE(first.Callback(1).ok());
    EXPECT_EQ(got->result->value(), 1);
  });
}

// Each callback owns the Promise of the next chain and lets it die.
TEST(DeferredDepth, AMillionPromisesThatOwnOneAnother) {
  OnSmallStack([] {
    auto [last, last_promise] = MakeDeferred<void>();
    auto got = Keep(std::move(last));
    Promise<void> promise = std::move(last_promise);
    for (int i = 0; i < kMany; ++i) {
      auto [deferred, next] = MakeDeferred<void>();
      std::move(deferred)
          .AddErrback([](const Failure&) {})
          .AddCallback([promise = std::move(promise)] {})
          .Detach();
      promise = std::move(next);
    }
    promise = Promise<void>();
    EXPECT_EQ(got->code(), absl::StatusCode::kAborted);
  });
}

// --- cancel ---------------------------------------------------------------------------------

TEST(DeferredCancel, WithoutACancellerItFailsWithCancelledAndOneFiringIsSwallowed) {
  auto [deferred, promise] = MakeDeferred<int>();
  deferred.Cancel();
  auto got = Keep(std::move(deferred));
  EXPECT_EQ(got->code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(promise.Callback(1).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(promise.Callback(1)));
  EXPECT_EQ(got->times, 1);
}

TEST(DeferredCancel, WithoutACancellerOneErrbackIsSwallowed) {
  Reports reports;
  auto [deferred, promise] = MakeDeferred<int>();
  deferred.Cancel();
  auto got = Keep(std::move(deferred));
  EXPECT_TRUE(promise.Errback(absl::DataLossError("late")).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(promise.Errback(absl::DataLossError("later"))));
}

TEST(DeferredCancel, TheCancellerIsCalledOnceAndMayFireAValue) {
  int called = 0;
  auto [deferred, promise] = MakeDeferred<int>([&](Promise<int>& p) {
    ++called;
    EXPECT_TRUE(p.Callback(3).ok());
  });
  deferred.Cancel();
  deferred.Cancel();
  EXPECT_EQ(called, 1);
  EXPECT_EQ(Keep(std::move(deferred))->result->value(), 3);
  EXPECT_TRUE(absl::IsFailedPrecondition(promise.Callback(4)));
}

TEST(DeferredCancel, TheCancellerMayFireItsOwnFailure) {
  auto [deferred, promise] =
      MakeDeferred<int>([](Promise<int>& p) { p.Errback(absl::DataLossError("x")).IgnoreError(); });
  deferred.Cancel();
  EXPECT_EQ(Keep(std::move(deferred))->code(), absl::StatusCode::kDataLoss);
}

TEST(DeferredCancel, ACancellerThatFiresNothingMeansCancelledAndLaterFiringIsAnError) {
  int called = 0;
  auto [deferred, promise] = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  deferred.Cancel();
  deferred.Cancel();
  EXPECT_EQ(called, 1);
  EXPECT_EQ(Keep(std::move(deferred))->code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(absl::IsFailedPrecondition(promise.Callback(4)));
}

TEST(DeferredCancel, D3_WhatACancellerThrowsIsReportedAndItFailsWithCancelled) {
  Reports reports;
  auto [deferred, promise] =
      MakeDeferred<int>([](Promise<int>&) { throw std::runtime_error("boom"); });
  deferred.Cancel();
  const ErrorReport report = reports.Take();
  EXPECT_EQ(report.status, absl::UnknownError("std::runtime_error: boom"));
  EXPECT_NE(report.exception, nullptr);
  EXPECT_EQ(Keep(std::move(deferred))->code(), absl::StatusCode::kCancelled);
}

TEST(DeferredCancel, ACancellerMayCancelAgainAndMoveThePromiseAway) {
  Deferred<int> deferred;
  Promise<int> kept;
  int called = 0;
  auto made = MakeDeferred<int>([&](Promise<int>& p) {
    ++called;
    deferred.Cancel();
    kept = std::move(p);
  });
  deferred = std::move(made.first);
  deferred.Cancel();
  EXPECT_EQ(called, 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(kept.Callback(1)));
  EXPECT_EQ(Keep(std::move(deferred))->code(), absl::StatusCode::kCancelled);
}

TEST(DeferredCancel, ACancellerMayDestroyThePromiseOfTheProducer) {
  std::unique_ptr<Promise<int>> producer;
  auto made = MakeDeferred<int>([&](Promise<int>& p) {
    Promise<int> own = std::move(*producer);
    producer = nullptr;
    EXPECT_TRUE(own.Errback(absl::NotFoundError("mine")).ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(p.Callback(1)));
  });
  producer = std::make_unique<Promise<int>>(std::move(made.second));
  made.first.Cancel();
  EXPECT_EQ(Keep(std::move(made.first))->code(), absl::StatusCode::kNotFound);
}

TEST(DeferredCancel, ACancellerMayLetThePromiseDie) {
  Promise<int> producer;
  auto [deferred, promise] = MakeDeferred<int>([&](Promise<int>&) { producer = Promise<int>(); });
  producer = std::move(promise);
  deferred.Cancel();
  EXPECT_EQ(Keep(std::move(deferred))->code(), absl::StatusCode::kCancelled);
}

TEST(DeferredCancel, ReachesFromTheLastOfTheChain) {
  int called = 0;
  auto [first, promise] = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  Deferred<std::string> last =
      std::move(first).AddCallback([](int n) { return n + 1; }).AddCallback([](int n) {
        return std::to_string(n);
      });
  last.Cancel();
  EXPECT_EQ(called, 1);
  EXPECT_EQ(Keep(std::move(last))->code(), absl::StatusCode::kCancelled);
}

TEST(DeferredCancel, AnErrbackMayMakeAValueOfIt) {
  auto [first, promise] = MakeDeferred<int>();
  Deferred<int> last = std::move(first).AddErrback([](const Failure& failure) {
    EXPECT_TRUE(absl::IsCancelled(failure.status()));
    return 5;
  });
  last.Cancel();
  EXPECT_EQ(Keep(std::move(last))->result->value(), 5);
}

TEST(DeferredCancel, OfOneThatHasFiredDoesNothing) {
  int called = 0;
  auto [deferred, promise] = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  EXPECT_TRUE(promise.Callback(1).ok());
  deferred.Cancel();
  EXPECT_EQ(called, 0);
  EXPECT_EQ(Keep(std::move(deferred))->result->value(), 1);
}

TEST(DeferredCancel, OfOneThatWaitsForAnotherGoesToThatOne) {
  int outer_called = 0;
  int inner_called = 0;
  auto [inner, inner_promise] = MakeDeferred<int>([&](Promise<int>&) { ++inner_called; });
  auto [first, promise] = MakeDeferred<void>([&](Promise<void>&) { ++outer_called; });
  Deferred<int> outer = std::move(first).AddCallback(
      [inner = std::move(inner)]() mutable { return std::move(inner); });
  EXPECT_TRUE(promise.Callback().ok());
  outer.Cancel();
  EXPECT_EQ(outer_called, 0);
  EXPECT_EQ(inner_called, 1);
  EXPECT_EQ(Keep(std::move(outer))->code(), absl::StatusCode::kCancelled);
}

TEST(DeferredCancel, GoesDownSeveralLevels) {
  int called = 0;
  auto [deepest, promise] = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  Deferred<int> deferred = std::move(deepest);
  for (int i = 0; i < 5; ++i) {
    deferred = Succeed().AddCallback([deferred = std::move(deferred)]() mutable {
      return std::move(deferred).AddCallback([](int n) { return n; });
    });
  }
  deferred.Cancel();
  EXPECT_EQ(called, 1);
  EXPECT_EQ(Keep(std::move(deferred))->code(), absl::StatusCode::kCancelled);
}

TEST(DeferredCancel, TheCancellerIsReleasedByFiring) {
  auto capture = std::make_shared<int>(0);
  auto [deferred, promise] = MakeDeferred<int>([capture](Promise<int>&) {});
  EXPECT_EQ(capture.use_count(), 2);
  EXPECT_TRUE(promise.Callback(1).ok());
  EXPECT_EQ(capture.use_count(), 1);
  auto [cancelled, other] = MakeDeferred<int>([capture](Promise<int>&) {});
  cancelled.Cancel();
  EXPECT_EQ(capture.use_count(), 1);
  Keep(std::move(cancelled));
}

// What a canceller captured may add to the Deferred when it is destroyed, as that has fired.
TEST(DeferredCancel, TheEndOfACancellerMayAddACallback) {
  for (const bool fires : {false, true}) {
    auto start = MakeDeferred<void>();
    Deferred<int> deferred;
    int times = 0;
    auto other = MakeDeferred<void>();
    auto got_other = Keep(std::move(other.first));
    std::shared_ptr<void> capture(nullptr, [&](void*) {
      deferred = std::move(deferred).AddBoth([&](Result<int>) {
        ++times;
        return 1;
      });
      EXPECT_TRUE(other.second.Callback().ok());
    });
    auto made = MakeDeferred<int>([capture](Promise<int>&) {});
    capture = nullptr;
    deferred = std::move(made.first);
    std::move(start.first)
        .AddCallback([&, promise = std::move(made.second)]() mutable {
          if (fires) {
            EXPECT_TRUE(promise.Callback(1).ok());
          }
          promise = Promise<int>();
        })
        .Detach();
    EXPECT_TRUE(start.second.Callback().ok());
    EXPECT_EQ(times, 1);
    EXPECT_EQ(got_other->times, 1);
    EXPECT_TRUE(Keep(std::move(deferred))->ok());
  }
}

// A Cancel finds what the chain waited for fired, and what it waits for next not begun.
TEST(DeferredCancel, BetweenTwoWaitsGoesToTheNextOne) {
  for (const bool fired_before : {false, true}) {
    int called = 0;
    auto start = MakeDeferred<void>();
    auto first = MakeDeferred<int>();
    auto second = MakeDeferred<int>([&](Promise<int>&) { ++called; });
    Deferred<int> chain;
    const auto add = [&] {
      chain = std::move(first.first).AddCallback([](int n) { return n; }).AddCallback([&](int) {
        return std::move(second.first);
      });
    };
    if (!fired_before) add();
    std::move(start.first)
        .AddCallback([&] {
          EXPECT_TRUE(first.second.Callback(1).ok());
          if (fired_before) add();
          chain.Cancel();
          EXPECT_EQ(called, 0);
        })
        .Detach();
    EXPECT_TRUE(start.second.Callback().ok());
    EXPECT_EQ(called, 1);
    EXPECT_EQ(Keep(std::move(chain))->code(), absl::StatusCode::kCancelled);
  }
}

// It goes to one wait, and to none that was added below where it was asked for.
TEST(DeferredCancel, BetweenTwoWaitsGoesToNoOther) {
  for (const bool waits : {false, true}) {
    int called = 0;
    auto start = MakeDeferred<void>();
    auto first = MakeDeferred<int>();
    auto second = MakeDeferred<int>([&](Promise<int>&) { ++called; });
    auto third = MakeDeferred<int>([&](Promise<int>&) { called += 10; });
    Deferred<int> chain = std::move(first.first).AddCallback([&](int n) {
      return waits ? std::move(second.first) : Succeed(n);
    });
    const auto add = [&] {
      chain = std::move(chain).AddBoth([&](Result<int>) { return std::move(third.first); });
    };
    if (waits) add();
    std::move(start.first)
        .AddCallback([&] {
          EXPECT_TRUE(first.second.Callback(1).ok());
          chain.Cancel();
          if (!waits) add();
        })
        .Detach();
    EXPECT_TRUE(start.second.Callback().ok());
    EXPECT_EQ(called, waits ? 1 : 0);
    EXPECT_FALSE(chain.fired());
    chain.Cancel();
    EXPECT_EQ(called, waits ? 11 : 10);
    Keep(std::move(chain));
  }
}

TEST(DeferredCancel, InsideItsOwnCallbackDoesNothing) {
  auto [first, promise] = MakeDeferred<int>();
  Deferred<int> deferred;
  deferred = std::move(first).AddCallback([&](int n) {
    deferred.Cancel();
    return n;
  });
  EXPECT_TRUE(promise.Callback(1).ok());
  EXPECT_EQ(Keep(std::move(deferred))->result->value(), 1);
}

// --- failures that nobody handles -----------------------------------------------------------

TEST(DeferredUnhandled, IsReportedOnceWhenTheDeferredDies) {
  Reports reports;
  {
    auto [deferred, promise] = MakeDeferred<int>();
    EXPECT_TRUE(promise.Errback(absl::NotFoundError("no")).ok());
    EXPECT_EQ(reports.size(), 0u);
  }
  const ErrorReport report = reports.Take();
  EXPECT_EQ(report.status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StartsWith(report.status.message(), "nobody handled this failure: no"))
      << report.status;
}

TEST(DeferredUnhandled, CarriesTheException) {
  Reports reports;
  const auto exception = std::make_exception_ptr(std::runtime_error("boom"));
  Fail<int>(Failure(exception)).Detach();
  EXPECT_EQ(reports.Take().exception, exception);
}

TEST(DeferredUnhandled, OfAChainThatNobodyHoldsIsReportedWhenItComes) {
  Reports reports;
  auto [deferred, promise] = MakeDeferred<int>();
  bool ran = false;
  std::move(deferred)
      .AddCallback([&](int) {
        ran = true;
        throw std::runtime_error("boom");
      })
      .Detach();
  EXPECT_EQ(reports.size(), 0u);
  EXPECT_TRUE(promise.Callback(1).ok());
  EXPECT_TRUE(ran);
  EXPECT_TRUE(absl::StrContains(reports.Take().status.message(), "std::runtime_error: boom"));
}

TEST(DeferredUnhandled, IsNotReportedWhereItWasHandledOrIsNoFailure) {
  Reports reports;
  Fail<int>(absl::AbortedError("")).AddErrback([](const Failure&) { return 0; }).Detach();
  Succeed(1).Detach();
}

TEST(DeferredUnhandled, AFailureInTheErrbackReplacesTheFirst) {
  Reports reports;
  Fail<int>(absl::AbortedError("first"))
      .AddErrback([](const Failure&) -> int { throw std::runtime_error("second"); })
      .Detach();
  EXPECT_TRUE(absl::StrContains(reports.Take().status.message(), "second"));
}

TEST(DeferredUnhandled, PromiseWithoutDeferredReportsAtTheFiring) {
  Reports reports;
  auto [deferred, promise] = MakeDeferred<int>();
  std::move(deferred).Detach();
  EXPECT_TRUE(promise.Errback(absl::NotFoundError("no")).ok());
  EXPECT_EQ(reports.Take().status.code(), absl::StatusCode::kNotFound);
}

TEST(DeferredUnhandled, CancelledAndLetGoIsReportedAtOnceThoughThePromiseLives) {
  Reports reports;
  auto [deferred, promise] = MakeDeferred<int>();
  deferred.Cancel();
  std::move(deferred).Detach();
  EXPECT_EQ(reports.Take().status.code(), absl::StatusCode::kCancelled);
}

// The last reference is the Promise's while the handler is told, and the handler ends it.
TEST(DeferredUnhandled, TheHandlerMayEndThePromise) {
  for (const bool fires : {false, true}) {
    Promise<int> promise;
    int reports = 0;
    ContextScope scope(
        Context::Current().With(kFailureHandler, ErrorHandler([&](const ErrorReport& report) {
                                  ++reports;
                                  EXPECT_TRUE(absl::IsCancelled(report.status));
                                  if (fires) {
                                    EXPECT_TRUE(promise.Callback(1).ok());
                                  } else {
                                    promise = Promise<int>();
                                  }
                                })));
    auto made = MakeDeferred<int>();
    promise = std::move(made.second);
    made.first.Cancel();
    std::move(made.first).Detach();
    EXPECT_EQ(reports, 1);
  }
}

TEST(DeferredUnhandled, TheStatusKeepsItsPayloads) {
  Reports reports;
  absl::Status status = absl::NotFoundError("no");
  status.SetPayload("key", absl::Cord("value"));
  Fail<int>(status).Detach();
  EXPECT_EQ(reports.Take().status.GetPayload("key"), absl::Cord("value"));
}

#ifndef NDEBUG
TEST(DeferredUnhandled, InDebugBuildsTheReportSaysWhereItWasMadeAndFired) {
  Reports reports;
  const int line = __LINE__;
  auto [deferred, promise] = MakeDeferred<int>();
  std::move(deferred).AddCallback([](int n) { return n; }).Detach();
  EXPECT_TRUE(promise.Errback(absl::NotFoundError("no")).ok());
  const std::string what(reports.Take().status.message());
  EXPECT_TRUE(absl::StrContains(what, "made at ")) << what;
  EXPECT_TRUE(absl::StrContains(what, "deferred_test.cc:" + std::to_string(line + 1))) << what;
  EXPECT_TRUE(absl::StrContains(what, "fired at ")) << what;
  EXPECT_TRUE(absl::StrContains(what, "deferred_test.cc:" + std::to_string(line + 3))) << what;
}
#endif

TEST(DeferredUnhandled, WithoutAHandlerItIsALineOnStderr) {
  testing::internal::CaptureStderr();
  Fail<int>(absl::NotFoundError("a line")).Detach();
  EXPECT_TRUE(absl::StrContains(testing::internal::GetCapturedStderr(),
                                "iworker: Deferred: NOT_FOUND: nobody handled this failure: a "
                                "line"));
}

// --- context --------------------------------------------------------------------------------

inline constexpr workers::ContextKey<int> kRequest("request");

// Twisted #9807, #9824.
TEST(DeferredContext, ACallbackRunsInTheContextOfItsAdd) {
  auto [deferred, promise] = MakeDeferred<void>();
  int first = 0;
  bool second_is_empty = false;
  Deferred<void> chain;
  {
    ContextScope scope(Context().With(kRequest, 1));
    chain = std::move(deferred).AddCallback([&] { first = *kRequest.Get(); });
  }
  std::move(chain).AddCallback([&] { second_is_empty = kRequest.Get() == nullptr; }).Detach();
  ContextScope scope(Context().With(kRequest, 2));
  EXPECT_TRUE(promise.Callback().ok());
  EXPECT_EQ(first, 1);
  EXPECT_TRUE(second_is_empty);
  EXPECT_EQ(*kRequest.Get(), 2);
}

TEST(DeferredContext, WhatIsMadeInACallbackInheritsTheFailureHandler) {
  Promise<void> promise;
  std::vector<std::string> told;
  {
    ContextScope scope(Context().With(kFailureHandler, ErrorHandler([&](const ErrorReport& r) {
                                        told.emplace_back(r.status.message());
                                      })));
    auto [deferred, made] = MakeDeferred<void>();
    promise = std::move(made);
    std::move(deferred)
        .AddCallback([] { Fail<int>(absl::NotFoundError("inner")).Detach(); })
        .Detach();
  }
  EXPECT_TRUE(promise.Callback().ok());
  ASSERT_EQ(told.size(), 1u);
  EXPECT_TRUE(absl::StrContains(told[0], "inner"));
}

// --- MaybeDeferred --------------------------------------------------------------------------

TEST(MaybeDeferred, TakesWhateverAFunctionDoes) {
  EXPECT_EQ(Keep(MaybeDeferred([] { return 1; }))->result->value(), 1);
  EXPECT_TRUE(Keep(MaybeDeferred([] {}))->ok());
  EXPECT_EQ(Keep(MaybeDeferred([] { return absl::NotFoundError("no"); }))->code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(Keep(MaybeDeferred([]() -> absl::StatusOr<int> { return 2; }))->result->value(), 2);
  EXPECT_EQ(
      Keep(MaybeDeferred([]() -> Result<int> { return Failure(absl::AbortedError("")); }))->code(),
      absl::StatusCode::kAborted);
  EXPECT_EQ(Keep(MaybeDeferred([] { return Succeed(3); }))->result->value(), 3);
}

TEST(MaybeDeferred, MakesAFailureOfAnException) {
  const auto exception = std::make_exception_ptr(std::runtime_error("boom"));
  auto got = Keep(MaybeDeferred([&]() -> int { std::rethrow_exception(exception); }));
  EXPECT_EQ(got->result->failure().exception(), exception);
}

TEST(MaybeDeferred, AReturnedDeferredMayBePending) {
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(MaybeDeferred([&] { return std::move(deferred); }));
  EXPECT_EQ(got->times, 0);
  EXPECT_TRUE(promise.Callback(4).ok());
  EXPECT_EQ(got->result->value(), 4);
}

// --- timeouts -------------------------------------------------------------------------------

TEST(DeferredTimeout, AResultInTimeIsPassedOnAndTheCallTakenBack) {
  test::Clock clock;
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred).AddTimeout(absl::Seconds(10), clock));
  EXPECT_EQ(clock.pending().size(), 1u);
  clock.Advance(absl::Seconds(9));
  EXPECT_TRUE(promise.Callback(1).ok());
  EXPECT_EQ(got->result->value(), 1);
  EXPECT_EQ(clock.pending().size(), 0u);
}

TEST(DeferredTimeout, AFailureInTimeIsPassedOn) {
  test::Clock clock;
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred).AddTimeout(absl::Seconds(10), clock));
  EXPECT_TRUE(promise.Errback(absl::NotFoundError("no")).ok());
  EXPECT_EQ(got->code(), absl::StatusCode::kNotFound);
  clock.Advance(absl::Seconds(20));
  EXPECT_EQ(got->times, 1);
}

TEST(DeferredTimeout, AfterTheTimeItIsCancelledAndFailsWithDeadlineExceeded) {
  test::Clock clock;
  int called = 0;
  auto [deferred, promise] = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  auto got = Keep(std::move(deferred).AddTimeout(absl::Seconds(10), clock));
  clock.Advance(absl::Seconds(10));
  EXPECT_EQ(called, 1);
  EXPECT_EQ(got->result->status(),
            absl::DeadlineExceededError("the Deferred did not fire within 10s"));
}

TEST(DeferredTimeout, ACancelInTimeIsACancel) {
  test::Clock clock;
  auto [deferred, promise] = MakeDeferred<int>();
  Deferred<int> timed = std::move(deferred).AddTimeout(absl::Seconds(10), clock);
  timed.Cancel();
  EXPECT_EQ(Keep(std::move(timed))->code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(clock.pending().size(), 0u);
}

TEST(DeferredTimeout, WhatTheCancellerFiresOnTimeOutIsPassedOn) {
  test::Clock clock;
  auto [deferred, promise] =
      MakeDeferred<int>([](Promise<int>& p) { EXPECT_TRUE(p.Callback(3).ok()); });
  auto got = Keep(std::move(deferred).AddTimeout(absl::Seconds(10), clock));
  clock.Advance(absl::Seconds(10));
  EXPECT_EQ(got->result->value(), 3);
  auto [other, other_promise] =
      MakeDeferred<int>([](Promise<int>& p) { p.Errback(absl::DataLossError("x")).IgnoreError(); });
  auto failed = Keep(std::move(other).AddTimeout(absl::Seconds(10), clock));
  clock.Advance(absl::Seconds(10));
  EXPECT_EQ(failed->code(), absl::StatusCode::kDataLoss);
}

TEST(DeferredTimeout, D3_ACancellerThatThrowsDoesNotStopIt) {
  Reports reports;
  test::Clock clock;
  auto [deferred, promise] =
      MakeDeferred<int>([](Promise<int>&) { throw std::runtime_error("boom"); });
  auto got = Keep(std::move(deferred).AddTimeout(absl::Seconds(10), clock));
  clock.Advance(absl::Seconds(10));
  EXPECT_EQ(got->code(), absl::StatusCode::kDeadlineExceeded);
  reports.Take();
}

TEST(DeferredTimeout, AnOnTimeoutIsCalledInPlace) {
  test::Clock clock;
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred).AddTimeout(absl::Seconds(10), clock, [](Result<int> result) {
    EXPECT_TRUE(absl::IsCancelled(result.status()));
    return -1;
  }));
  clock.Advance(absl::Seconds(10));
  EXPECT_EQ(got->result->value(), -1);
}

TEST(DeferredTimeout, AnOnTimeoutIsNotCalledInTime) {
  test::Clock clock;
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred).AddTimeout(absl::Seconds(10), clock,
                                                 [](Result<int>) -> Result<int> { return -1; }));
  EXPECT_TRUE(promise.Callback(1).ok());
  EXPECT_EQ(got->result->value(), 1);
}

TEST(DeferredTimeout, CoversOnlyWhatWasAddedBefore) {
  test::Clock clock;
  auto [first, first_promise] = MakeDeferred<int>();
  auto [second, second_promise] = MakeDeferred<int>();
  auto got = Keep(std::move(first).AddTimeout(absl::Seconds(10), clock).AddCallback([&](int) {
    return std::move(second);
  }));
  EXPECT_TRUE(first_promise.Callback(1).ok());
  clock.Advance(absl::Seconds(20));
  EXPECT_EQ(got->times, 0);
  EXPECT_TRUE(second_promise.Callback(2).ok());
  EXPECT_EQ(got->result->value(), 2);
}

TEST(DeferredTimeout, CoversADeferredThatACallbackBeforeItReturned) {
  test::Clock clock;
  int called = 0;
  auto [inner, promise] = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  auto got = Keep(
      Succeed().AddCallback([&] { return std::move(inner); }).AddTimeout(absl::Seconds(10), clock));
  clock.Advance(absl::Seconds(10));
  EXPECT_EQ(called, 1);
  EXPECT_EQ(got->code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(DeferredTimeout, SeveralOfThemEachCoverTheirPart) {
  test::Clock clock;
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred)
                      .AddTimeout(absl::Seconds(20), clock)
                      .AddTimeout(absl::Seconds(10), clock));
  clock.Advance(absl::Seconds(10));
  EXPECT_EQ(got->code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(clock.pending().size(), 0u);
}

TEST(DeferredTimeout, OfOneThatHasFiredSetsNoTime) {
  test::Clock clock;
  EXPECT_EQ(Keep(Succeed(1).AddTimeout(absl::Seconds(10), clock))->result->value(), 1);
  EXPECT_EQ(clock.pending().size(), 0u);
}

// Let go, it runs on and its time with it.
TEST(DeferredTimeout, HoldsForAChainThatNobodyHolds) {
  Reports reports;
  test::Clock clock;
  auto [deferred, promise] = MakeDeferred<int>();
  std::move(deferred).AddTimeout(absl::Seconds(10), clock).Detach();
  clock.Advance(absl::Seconds(10));
  EXPECT_EQ(reports.Take().status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(DeferredTimeout, WhereNoTimeCanBeSetItFailsWithTheReason) {
  test::Clock clock;
  auto [deferred, promise] = MakeDeferred<int>();
  auto got = Keep(std::move(deferred).AddTimeout(absl::InfiniteDuration(), clock));
  EXPECT_EQ(got->code(), absl::StatusCode::kInvalidArgument);
}

// --- home -----------------------------------------------------------------------------------

TEST(DeferredHome, IsTheInnermostExclusiveWorker) {
  auto memory = workers::CreateMemoryWorker();
  Deferred<int> deferred;
  Promise<int> promise;
  std::shared_ptr<Got<int>> got;
  EXPECT_TRUE(memory.worker
                  ->Do([&] {
                    auto made = MakeDeferred<int>();
                    promise = std::move(made.second);
                    got = Keep(std::move(made.first));
                  })
                  .ok());
  EXPECT_TRUE(memory.worker->Do([&] { EXPECT_TRUE(promise.Callback(1).ok()); }).ok());
  memory.performer();
  memory.performer();
  EXPECT_EQ(got->result->value(), 1);
}

// The works of a serial worker run on several threads; they are one home.
TEST(DeferredHome, OfASerialWorkerIsTheWorkerAndNotTheThread) {
  auto one = *ThreadWorker::Create();
  auto two = *ThreadWorker::Create();
  // Gives its works to the two in turn.
  class Alternating final : public workers::IWorker {
   public:
    Alternating(IWorker& a, IWorker& b) : workers_{&a, &b} {}
    absl::Status Do(workers::Work&& work) override {
      return workers_[next_.fetch_add(1) % 2]->Do(std::move(work));
    }
    absl::Status Quit() override { return absl::OkStatus(); }

   private:
    IWorker* workers_[2];
    std::atomic<int> next_ = 0;
  } base(*one, *two);
  workers::SerialGroup group(base, {.quantum_items = 1});
  workers::SerialWorker serial(group);
  Gate done;
  std::shared_ptr<Got<int>> got;
  Promise<int> promise;
  std::thread::id first;
  std::thread::id second;
  EXPECT_TRUE(serial
                  .Do([&] {
                    auto made = MakeDeferred<int>();
                    promise = std::move(made.second);
                    got = Keep(std::move(made.first));
                    first = std::this_thread::get_id();
                    EXPECT_TRUE(serial
                                    .Do([&] {
                                      EXPECT_TRUE(promise.Callback(5).ok());
                                      second = std::this_thread::get_id();
                                      done.Open();
                                    })
                                    .ok());
                  })
                  .ok());
  done.Wait();
  EXPECT_EQ(got->result->value(), 5);
  EXPECT_NE(first, second);
}

#ifndef NDEBUG

using DeferredHomeDeathTest = testing::Test;

TEST(DeferredHomeDeathTest, TouchingItInAnotherWorkersWorkDies) {
  LockWorker worker;
  Deferred<int> deferred;
  Promise<int> promise;
  EXPECT_TRUE(worker
                  .Do([&] {
                    auto made = MakeDeferred<int>();
                    deferred = std::move(made.first);
                    promise = std::move(made.second);
                  })
                  .ok());
  const std::string belongs = ": called on thread .*, but the Deferred belongs to worker ";
  EXPECT_DEATH(deferred.Cancel(), "Deferred::Cancel" + belongs);
  EXPECT_DEATH((void)deferred.fired(), "Deferred::fired" + belongs);
  EXPECT_DEATH(std::move(deferred).AddCallback([](int) {}).Detach(),
               "Deferred::AddCallback" + belongs);
  EXPECT_DEATH(std::move(deferred).AddErrback([](const Failure& f) { return f; }).Detach(),
               "Deferred::AddErrback" + belongs);
  EXPECT_DEATH(std::move(deferred).AddBoth([](Result<int>) {}).Detach(),
               "Deferred::AddBoth" + belongs);
  EXPECT_DEATH(std::move(deferred).Detach(), "~Deferred" + belongs);
  EXPECT_DEATH((void)promise.Callback(1), "Promise::Callback" + belongs);
  EXPECT_DEATH(promise = Promise<int>(), "~Promise" + belongs);
  EXPECT_TRUE(worker
                  .Do([&] {
                    promise.Callback(1).IgnoreError();
                    deferred = Deferred<int>();
                  })
                  .ok());
}

TEST(DeferredHomeDeathTest, TouchingItOnAnotherThreadDies) {
  auto [deferred, promise] = MakeDeferred<int>();
  EXPECT_DEATH(std::thread([&] { deferred.Cancel(); }).join(),
               "Deferred::Cancel: called on thread .*, but the Deferred belongs to thread ");
}

TEST(DeferredHomeDeathTest, WaitingForADeferredOfAnotherHomeDies) {
  auto [made, promise] = MakeDeferred<int>();
  Deferred<int>& inner = made;
  EXPECT_DEATH(
      {
        LockWorker worker;  // one of the parent's refuses in the child
        worker.Do([&] { Succeed().AddCallback([&] { return std::move(inner); }).Detach(); })
            .IgnoreError();
      },
      "a Deferred of worker .* cannot wait for one of thread ");
}

#else

TEST(DeferredHome, ElsewhereAReleaseBuildAnswersAndDoesNothing) {
  Reports reports;
  LockWorker worker;
  Deferred<int> deferred;
  Promise<int> promise;
  EXPECT_TRUE(worker
                  .Do([&] {
                    ContextScope scope(Context::Current());
                    auto made = MakeDeferred<int>();
                    deferred = std::move(made.first);
                    promise = std::move(made.second);
                  })
                  .ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(promise.Callback(1)));
  EXPECT_TRUE(absl::IsFailedPrecondition(reports.Take().status));
  deferred.Cancel();
  EXPECT_TRUE(absl::IsFailedPrecondition(reports.Take().status));
  EXPECT_FALSE(deferred.fired());
  EXPECT_TRUE(absl::IsFailedPrecondition(reports.Take().status));
  bool ran = false;
  EXPECT_EQ(Keep(std::move(deferred).AddCallback([&](int) { ran = true; }))->code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::IsFailedPrecondition(reports.Take().status));
  EXPECT_FALSE(ran);
  EXPECT_TRUE(worker.Do([&] { EXPECT_TRUE(promise.Callback(1).ok()); }).ok());
}

#endif

TEST(DeferredHomeDeathTest, TouchingAnEmptyOneDies) {
  Deferred<int> deferred;
  EXPECT_DEATH(deferred.Cancel(), "Deferred::Cancel: the Deferred is empty");
  EXPECT_DEATH(std::move(deferred).AddCallback([](int) {}).Detach(),
               "Deferred::AddCallback: the Deferred is empty");
}

// What waits at a thread may wait for what fires there in a worker's work, as before a reactor's
// loop begins to turn.
TEST(DeferredHome, AThreadsMayWaitForAWorkersOnThatThread) {
  auto memory = workers::CreateMemoryWorker();
  auto [first, first_promise] = MakeDeferred<void>();
  Promise<int> promise;
  auto got = Keep(std::move(first).AddCallback([&] {
    auto made = MakeDeferred<int>();
    promise = std::move(made.second);
    return std::move(made.first);
  }));
  EXPECT_TRUE(memory.worker
                  ->Do([&, first_promise = std::move(first_promise)]() mutable {
                    EXPECT_TRUE(first_promise.Callback().ok());
                  })
                  .ok());
  EXPECT_TRUE(memory.worker->Do([&] { EXPECT_TRUE(promise.Callback(2).ok()); }).ok());
  memory.performer();
  memory.performer();
  EXPECT_EQ(got->result->value(), 2);
}

TEST(DeferredHome, APromiseWithAnExplicitHomeMayDieElsewhere) {
  auto home = *ThreadWorker::Create();
  Gate done;
  absl::Status status;
  bool at_home = false;
  auto [deferred, promise] = MakeDeferred<int>(*home);
  EXPECT_TRUE(home->Do([&, deferred = std::move(deferred)]() mutable {
                    std::move(deferred)
                        .AddBoth([&](Result<int> result) {
                          status = result.status();
                          at_home = workers::WorkerScope::RunsIn(*home);
                          done.Open();
                        })
                        .Detach();
                  })
                  .ok());
  std::thread([promise = std::move(promise)]() mutable { promise = Promise<int>(); }).join();
  done.Wait();
  EXPECT_TRUE(absl::IsAborted(status));
  EXPECT_TRUE(at_home);
}

// The Deferred is cancelled, and its chain over, while the news of the Promise's death is on its
// way.
TEST(DeferredHome, APromiseMayDieElsewhereAfterACancel) {
  auto memory = workers::CreateMemoryWorker();
  auto [deferred, promise] = MakeDeferred<int>(*memory.worker);
  std::shared_ptr<Got<int>> got;
  EXPECT_TRUE(memory.worker
                  ->Do([&, deferred = std::move(deferred)]() mutable {
                    deferred.Cancel();
                    got = Keep(std::move(deferred));
                  })
                  .ok());
  {
    Promise<int> dies = std::move(promise);
  }
  EXPECT_EQ(memory.performer.queued(), 2u);
  memory.performer();
  EXPECT_EQ(got->code(), absl::StatusCode::kCancelled);
  memory.performer();
  EXPECT_EQ(got->times, 1);
}

// The home refuses the news; the Deferred still lives, in a work that the home has taken before.
TEST(DeferredHome, WhereTheHomeHasQuitTheDeferredIsAbortedWhenItIsNextTouched) {
  for (const bool cancel : {false, true}) {
    auto memory = workers::CreateMemoryWorker();
    auto [deferred, promise] = MakeDeferred<int>(*memory.worker);
    std::shared_ptr<Got<int>> got = std::make_shared<Got<int>>();
    EXPECT_TRUE(memory.worker
                    ->Do([got, cancel, deferred = std::move(deferred)]() mutable {
                      Deferred<void> last = std::move(deferred).AddBoth([got](Result<int> result) {
                        ++got->times;
                        got->result.emplace(std::move(result));
                      });
                      if (cancel) last.Cancel();
                    })
                    .ok());
    EXPECT_TRUE(memory.worker->Quit().ok());
    {
      Promise<int> dies = std::move(promise);
    }
    memory.performer();
    EXPECT_EQ(got->times, 1);
    EXPECT_EQ(got->code(), cancel ? absl::StatusCode::kCancelled : absl::StatusCode::kAborted);
  }
}

// The home refuses or drops the news, and nobody holds the chain: its callbacks are destroyed
// unrun, and that is said.
TEST(DeferredHome, WhereTheHomeIsGoneAChainThatNobodyHoldsIsDroppedAndReported) {
  for (const bool refused : {true, false}) {
    for (const bool waits_for_another : {true, false}) {
      Reports reports;
      auto memory = workers::CreateMemoryWorker("memory", [](const ErrorReport&) {});
      auto capture = std::make_shared<int>(0);
      Promise<int> promise;
      EXPECT_TRUE(memory.worker
                      ->Do([&] {
                        auto made = MakeDeferred<int>(*memory.worker);
                        promise = std::move(made.second);
                        Deferred<int> chain = std::move(made.first);
                        if (waits_for_another) {
                          chain = Succeed().AddCallback(
                              [chain = std::move(chain)]() mutable { return std::move(chain); });
                        }
                        std::move(chain)
                            .AddBoth([capture](Result<int>) {})
                            .AddCallback([capture] {})
                            .Detach();
                      })
                      .ok());
      memory.performer();
      EXPECT_EQ(capture.use_count(), 3);
      if (refused) memory.worker->Quit().IgnoreError();
      promise = Promise<int>();
      if (!refused) {
        EXPECT_EQ(capture.use_count(), 3);
        EXPECT_EQ(memory.performer.Drop(), 1u);
      }
      EXPECT_EQ(capture.use_count(), 1);
      const ErrorReport report = reports.Take();
      EXPECT_TRUE(absl::IsAborted(report.status));
      EXPECT_EQ(report.dropped, 2);
    }
  }
}

TEST(DeferredHome, OfAFiredOneThatMovedToAnotherThreadTheDeathIsHarmless) {
  auto deferred = Succeed(std::make_unique<int>(1));
  std::thread([deferred = std::move(deferred)]() mutable { std::move(deferred).Detach(); }).join();
}

// Two sides of a chain end at the same time, on two threads, round after round.
TEST(DeferredHome, BothEndsMayGoAtTheSameTime) {
  for (int round = 0; round < 300; ++round) {
    std::atomic<int> ran = 0;
    {
      auto home = *ThreadWorker::Create({.on_error = [](const ErrorReport&) {}});
      Gate start;
      Gate entered;
      ContextScope scope(
          Context().With(kFailureHandler, ErrorHandler([&](const ErrorReport& report) {
                           ran.fetch_add(static_cast<int>(report.dropped));
                         })));
      auto [deferred, promise] = MakeDeferred<int>(*home);
      EXPECT_TRUE(
          home->Do([&, context = Context::Current(), deferred = std::move(deferred)]() mutable {
                ContextScope scope(context);
                Deferred<void> last =
                    std::move(deferred).AddBoth([&ran](Result<int>) { ran.fetch_add(1); });
                entered.Open();
                start.Wait();
                if (last.fired()) return;
                std::move(last).Detach();
              })
              .ok());
      entered.Wait();
      if (round % 2) home->Quit().IgnoreError();
      std::thread other([&, promise = std::move(promise)]() mutable {
        start.Wait();
        promise = Promise<int>();
      });
      start.Open();
      other.join();
    }
    EXPECT_EQ(ran.load(), 1);
  }
}

// --- forced unwinding -----------------------------------------------------------------------

TEST(DeferredForce, ACallbackThatEndsItsThreadFailsItsChainAndTheRestRuns) {
  std::string order;
  absl::Status status;
  pthread_t thread;
  struct Arguments {
    std::string* order;
    absl::Status* status;
  } arguments = {&order, &status};
  ASSERT_EQ(pthread_create(
                &thread, nullptr,
                [](void* argument) -> void* {
                  auto [order, status] = *static_cast<Arguments*>(argument);
                  auto [deferred, promise] = MakeDeferred<void>();
                  std::move(deferred)
                      .AddCallback([order = order] {
                        Succeed().AddCallback([order] { *order += "b"; }).Detach();
                        *order += "a";
                        pthread_exit(nullptr);
                      })
                      .AddBoth([order = order, status = status](Result<void> result) {
                        *order += "c";
                        *status = result.status();
                      })
                      .Detach();
                  promise.Callback().IgnoreError();
                  *order += "never";
                  return nullptr;
                },
                &arguments),
            0);
  pthread_join(thread, nullptr);
  EXPECT_EQ(order, "abc");
  EXPECT_TRUE(absl::IsAborted(status));
}

// --- cost -----------------------------------------------------------------------------------

TEST(DeferredCost, OneAllocationForADeferredAndItsPromiseAndOneForEachAdd) {
  long before = allocations.load();
  auto [deferred, promise] = MakeDeferred<int>();
  EXPECT_EQ(allocations.load() - before, 1);
  before = allocations.load();
  int got = 0;
  auto last = std::move(deferred)
                  .AddCallback([](int n) { return n + 1; })
                  .AddErrback([](const Failure&) { return 0; })
                  .AddBoth([&got](Result<int> result) { got = result.value(); });
  EXPECT_EQ(allocations.load() - before, 3);
  before = allocations.load();
  EXPECT_TRUE(promise.Callback(1).ok());
  EXPECT_EQ(allocations.load() - before, 0);
  EXPECT_EQ(got, 2);
  before = allocations.load();
  auto fired = Succeed(1);
  EXPECT_EQ(allocations.load() - before, 1);
}

// A loop of callbacks that return its next turn keeps a bounded number of stages.
Deferred<void> Turn(int left, std::vector<Promise<void>>& promises) {
  if (left == 0) return Succeed();
  auto [deferred, promise] = MakeDeferred<void>();
  promises.push_back(std::move(promise));
  return std::move(deferred).AddCallback([left, &promises] { return Turn(left - 1, promises); });
}

TEST(DeferredCost, ALoopOfReturnedDeferredsDoesNotGrow) {
  std::vector<Promise<void>> promises;
  promises.reserve(4);
  auto got = Keep(Turn(1000, promises));
  const auto turn = [&] {
    Promise<void> promise = std::move(promises.back());
    promises.pop_back();
    EXPECT_TRUE(promise.Callback().ok());
  };
  for (int i = 0; i < 10; ++i) turn();
  const long before = living.load();
  for (int i = 10; i < 999; ++i) {
    turn();
    EXPECT_EQ(living.load(), before);
  }
  turn();
  EXPECT_TRUE(got->ok());
}

}  // namespace
}  // namespace reactor
