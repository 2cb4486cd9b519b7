#include "reactor/deferred_lock.h"

#include <pthread.h>

#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "reactor/coroutine.h"
#include "reactor/deferred.h"
#include "reactor/failure.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace reactor {
namespace {

constexpr int kWaiters = 100'000;

template <typename T>
struct Got {
  int times = 0;
  std::optional<Result<T>> result;

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

// The hold that came.
DeferredHold Taken(const std::shared_ptr<Got<DeferredHold>>& got) {
  EXPECT_TRUE(got->result.has_value() && got->result->ok());
  return std::move(*got->result).value();
}

void OnSmallStack(std::function<void()> f) {
  auto worker =
      *workers::ThreadWorker::Create({.thread = {.name = "small", .stack_size = 256 << 10}});
  EXPECT_TRUE(worker->Do(std::move(f)).ok());
  EXPECT_TRUE(worker->Quit().ok());
  EXPECT_TRUE(worker->Join().ok());
}

// --- DeferredLock ---------------------------------------------------------------------------

TEST(DeferredLock, IsHeldByOneAtATimeInOrder) {
  DeferredLock lock;
  auto first = Keep(lock.Acquire());
  auto second = Keep(lock.Acquire());
  auto third = Keep(lock.Acquire());
  EXPECT_TRUE(lock.locked());
  EXPECT_EQ(lock.waiting(), 2u);
  EXPECT_EQ(second->times, 0);
  Taken(first).Release();
  EXPECT_EQ(second->times, 1);
  EXPECT_EQ(third->times, 0);
  {
    DeferredHold hold = Taken(second);
  }
  EXPECT_EQ(third->times, 1);
  EXPECT_TRUE(lock.locked());
  Taken(third).Release();
  EXPECT_FALSE(lock.locked());
}

TEST(DeferredLock, ReleasingTwiceDoesNothingMore) {
  DeferredLock lock;
  DeferredHold hold = Taken(Keep(lock.Acquire()));
  EXPECT_TRUE(hold.holds());
  hold.Release();
  hold.Release();
  EXPECT_FALSE(hold.holds());
  auto a = Keep(lock.Acquire());
  auto b = Keep(lock.Acquire());
  EXPECT_EQ(a->times, 1);
  EXPECT_EQ(b->times, 0);
}

TEST(DeferredLock, AssigningToAHoldReleasesWhatItHeld) {
  DeferredLock a;
  DeferredLock b;
  DeferredHold hold = Taken(Keep(a.Acquire()));
  hold = Taken(Keep(b.Acquire()));
  EXPECT_FALSE(a.locked());
  EXPECT_TRUE(b.locked());
}

TEST(DeferredLock, RunHoldsItWhileTheFunctionsDeferredWaits) {
  DeferredLock lock;
  auto made = MakeDeferred<int>();
  auto got = Keep(lock.Run([&] {
    EXPECT_TRUE(lock.locked());
    return std::move(made.first);
  }));
  bool ran = false;
  auto second = Keep(lock.Run([&] { ran = true; }));
  EXPECT_TRUE(lock.locked());
  EXPECT_FALSE(ran);
  EXPECT_TRUE(made.second.Callback(4).ok());
  EXPECT_EQ(got->result->value(), 4);
  EXPECT_TRUE(ran);
  EXPECT_FALSE(lock.locked());
}

TEST(DeferredLock, RunReleasesItWhereTheFunctionThrowsOrFails) {
  DeferredLock lock;
  EXPECT_EQ(Keep(lock.Run([] { throw std::runtime_error("boom"); }))->result->status(),
            absl::UnknownError("std::runtime_error: boom"));
  EXPECT_FALSE(lock.locked());
  EXPECT_EQ(Keep(lock.Run([] { return Fail<int>(absl::NotFoundError("no")); }))->code(),
            absl::StatusCode::kNotFound);
  EXPECT_FALSE(lock.locked());
}

TEST(DeferredLock, ACancelledRunThatWaitsNeverRuns) {
  DeferredLock lock;
  DeferredHold hold = Taken(Keep(lock.Acquire()));
  bool ran = false;
  auto run = lock.Run([&] { ran = true; });
  run.Cancel();
  EXPECT_EQ(Keep(std::move(run))->code(), absl::StatusCode::kCancelled);
  hold.Release();
  EXPECT_FALSE(ran);
  EXPECT_FALSE(lock.locked());
}

TEST(DeferredLock, ACancelledAcquireIsOutOfTheLine) {
  DeferredLock lock;
  DeferredHold hold = Taken(Keep(lock.Acquire()));
  Deferred<DeferredHold> cancelled = lock.Acquire();
  auto next = Keep(lock.Acquire());
  cancelled.Cancel();
  EXPECT_EQ(lock.waiting(), 1u);
  EXPECT_EQ(Keep(std::move(cancelled))->code(), absl::StatusCode::kCancelled);
  hold.Release();
  EXPECT_EQ(next->times, 1);
  EXPECT_TRUE(lock.locked());
}

TEST(DeferredLock, CancellingAnAcquireThatHasTheLockDoesNothing) {
  DeferredLock lock;
  Deferred<DeferredHold> acquired = lock.Acquire();
  acquired.Cancel();
  EXPECT_TRUE(lock.locked());
  EXPECT_TRUE(Keep(std::move(acquired))->result->ok());
}

TEST(DeferredLock, ALockThatComesToADeferredNobodyHoldsIsFreeAgain) {
  DeferredLock lock;
  lock.Acquire().Detach();
  EXPECT_FALSE(lock.locked());
  DeferredHold hold = Taken(Keep(lock.Acquire()));
  lock.Acquire().Detach();
  auto last = Keep(lock.Acquire());
  hold.Release();
  EXPECT_EQ(last->times, 1);
}

TEST(DeferredLock, WhoWaitsWhenItIsDestroyedFailsWithAborted) {
  DeferredHold hold;
  std::shared_ptr<Got<DeferredHold>> a;
  Deferred<DeferredHold> b;
  std::optional<DeferredLock> lock(std::in_place);
  hold = Taken(Keep(lock->Acquire()));
  // The first one cancels the second.
  a = Keep(lock->Acquire().AddErrback([&](const Failure& failure) {
    b.Cancel();
    return failure;
  }));
  b = lock->Acquire();
  lock.reset();
  EXPECT_EQ(a->code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Keep(std::move(b))->code(), absl::StatusCode::kCancelled);
  hold.Release();
}

// Whoever asks while the lock is handed over comes after those who waited.
// A callback that ends its thread by force takes its own token's turn, and nobody else's.
TEST(DeferredLock, AHolderThatEndsItsThreadByForceGivesItBackToTheNext) {
  std::string order;
  pthread_t thread;
  ASSERT_EQ(
      pthread_create(
          &thread, nullptr,
          [](void* argument) -> void* {
            std::string* const order = static_cast<std::string*>(argument);
            DeferredLock lock;
            DeferredHold held;
            lock.Acquire().AddCallback([&](DeferredHold hold) { held = std::move(hold); }).Detach();
            lock.Acquire()
                .AddCallback([order](DeferredHold) {
                  *order += "a";
                  pthread_exit(nullptr);
                })
                .AddErrback([](const Failure&) {})
                .Detach();
            lock.Acquire()
                .AddBoth([order](Result<DeferredHold> hold) { *order += hold.ok() ? "b" : "x"; })
                .Detach();
            held.Release();
            *order += "never";
            return nullptr;
          },
          &order),
      0);
  pthread_join(thread, nullptr);
  EXPECT_EQ(order, "ab");
}

TEST(DeferredLock, WhoAsksDuringTheHandOverComesLast) {
  DeferredLock lock;
  std::string order;
  DeferredHold hold = Taken(Keep(lock.Acquire()));
  std::shared_ptr<Got<void>> late;
  auto a = Keep(lock.Run([&] {
    order += "a";
    late = Keep(lock.Run([&] { order += "c"; }));
  }));
  auto b = Keep(lock.Run([&] { order += "b"; }));
  hold.Release();
  EXPECT_EQ(order, "abc");
}

TEST(DeferredLock, ACoroutineHoldsItInAScopeAlsoWhenItThrows) {
  DeferredLock lock;
  auto made = MakeDeferred<void>();
  const auto run = [](DeferredLock& lock, Deferred<void> wait) -> Deferred<void> {
    DeferredHold hold = co_await lock.Acquire();
    co_await std::move(wait);
  };
  auto got = Keep(run(lock, std::move(made.first)));
  auto second = Keep(run(lock, Succeed()));
  EXPECT_TRUE(lock.locked());
  EXPECT_EQ(second->times, 0);
  EXPECT_TRUE(made.second.Errback(absl::NotFoundError("no")).ok());
  EXPECT_EQ(got->code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(second->result->ok());
  EXPECT_FALSE(lock.locked());
}

TEST(DeferredLock, ACancelledCoroutineThatWaitsForItIsOutOfTheLine) {
  DeferredLock lock;
  DeferredHold hold = Taken(Keep(lock.Acquire()));
  const auto run = [](DeferredLock& lock) -> Deferred<void> {
    DeferredHold hold = co_await lock.Acquire();
  };
  Deferred<void> waits = run(lock);
  EXPECT_EQ(lock.waiting(), 1u);
  waits.Cancel();
  EXPECT_EQ(lock.waiting(), 0u);
  EXPECT_EQ(Keep(std::move(waits))->code(), absl::StatusCode::kCancelled);
}

// In Twisted 3,000 waiters are too many, and leave the lock locked.
TEST(DeferredLock, D1_AHundredThousandWaitersAreServedOneAfterTheOther) {
  OnSmallStack([] {
    DeferredLock lock;
    DeferredHold hold = Taken(Keep(lock.Acquire()));
    int ran = 0;
    for (int i = 0; i < kWaiters; ++i) {
      lock.Run([&ran, i] { EXPECT_EQ(ran++, i); }).Detach();
    }
    hold.Release();
    EXPECT_EQ(ran, kWaiters);
    EXPECT_FALSE(lock.locked());
  });
}

TEST(DeferredLock, D1_AHundredThousandWaitersThatNobodyHolds) {
  OnSmallStack([] {
    DeferredLock lock;
    DeferredHold hold = Taken(Keep(lock.Acquire()));
    for (int i = 0; i < kWaiters; ++i) lock.Acquire().Detach();
    auto last = Keep(lock.Acquire());
    hold.Release();
    EXPECT_EQ(last->times, 1);
  });
}

TEST(DeferredLock, D1_AHundredThousandCoroutinesWait) {
  OnSmallStack([] {
    DeferredLock lock;
    DeferredHold hold = Taken(Keep(lock.Acquire()));
    int ran = 0;
    const auto run = [](DeferredLock& lock, int& ran) -> Deferred<void> {
      DeferredHold hold = co_await lock.Acquire();
      ++ran;
    };
    for (int i = 0; i < kWaiters; ++i) run(lock, ran).Detach();
    // Released inside a callback, too.
    Succeed().AddCallback([&] { hold.Release(); }).Detach();
    EXPECT_EQ(ran, kWaiters);
    EXPECT_FALSE(lock.locked());
  });
}

TEST(DeferredLock, D1_AHundredThousandWaitersAreCancelledOrAborted) {
  OnSmallStack([] {
    int failed = 0;
    std::optional<DeferredLock> lock(std::in_place);
    DeferredHold hold = Taken(Keep(lock->Acquire()));
    std::vector<Deferred<void>> waiting;
    for (int i = 0; i < kWaiters; ++i) {
      waiting.push_back(lock->Run([] {}).AddErrback([&](const Failure&) { ++failed; }));
    }
    for (int i = 0; i < kWaiters; i += 2) waiting[i].Cancel();
    EXPECT_EQ(failed, kWaiters / 2);
    EXPECT_EQ(lock->waiting(), static_cast<size_t>(kWaiters / 2));
    lock.reset();
    EXPECT_EQ(failed, kWaiters);
  });
}

// --- DeferredSemaphore ----------------------------------------------------------------------

TEST(DeferredSemaphore, SoManyHoldATokenAtOnce) {
  DeferredSemaphore semaphore(2);
  EXPECT_EQ(semaphore.limit(), 2u);
  auto a = Keep(semaphore.Acquire());
  auto b = Keep(semaphore.Acquire());
  auto c = Keep(semaphore.Acquire());
  auto d = Keep(semaphore.Acquire());
  EXPECT_EQ(b->times, 1);
  EXPECT_EQ(c->times, 0);
  EXPECT_EQ(semaphore.available(), 0u);
  EXPECT_EQ(semaphore.waiting(), 2u);
  Taken(b).Release();
  EXPECT_EQ(c->times, 1);
  EXPECT_EQ(d->times, 0);
  Taken(a).Release();
  EXPECT_EQ(d->times, 1);
  Taken(c).Release();
  Taken(d).Release();
  EXPECT_EQ(semaphore.available(), 2u);
}

TEST(DeferredSemaphore, RunHoldsATokenWhileTheFunctionsDeferredWaits) {
  DeferredSemaphore semaphore(2);
  auto made = MakeDeferred<int>();
  auto got = Keep(semaphore.Run([&] { return std::move(made.first); }));
  EXPECT_EQ(semaphore.available(), 1u);
  EXPECT_TRUE(made.second.Callback(1).ok());
  EXPECT_EQ(semaphore.available(), 2u);
  EXPECT_EQ(got->result->value(), 1);
}

TEST(DeferredSemaphore, ACancelledAcquireIsOutOfTheLine) {
  DeferredSemaphore semaphore(1);
  DeferredHold hold = Taken(Keep(semaphore.Acquire()));
  Deferred<DeferredHold> waits = semaphore.Acquire();
  waits.Cancel();
  EXPECT_EQ(semaphore.waiting(), 0u);
  EXPECT_EQ(Keep(std::move(waits))->code(), absl::StatusCode::kCancelled);
  hold.Release();
  EXPECT_EQ(semaphore.available(), 1u);
}

TEST(DeferredSemaphoreDeathTest, WithoutATokenDies) {
  EXPECT_DEATH(DeferredSemaphore(0), "DeferredSemaphore: it needs a token at least");
}

// --- DeferredQueue --------------------------------------------------------------------------

TEST(DeferredQueue, WhatIsPutIsGotInOrder) {
  DeferredQueue<int> queue;
  EXPECT_TRUE(queue.Put(1).ok());
  EXPECT_TRUE(queue.Put(2).ok());
  EXPECT_EQ(queue.items(), 2u);
  EXPECT_EQ(Keep(queue.Get())->result->value(), 1);
  EXPECT_EQ(Keep(queue.Get())->result->value(), 2);
}

TEST(DeferredQueue, WhoWaitsIsServedInOrder) {
  DeferredQueue<std::unique_ptr<int>> queue;
  auto a = Keep(queue.Get());
  auto b = Keep(queue.Get());
  EXPECT_EQ(queue.waiting(), 2u);
  EXPECT_TRUE(queue.Put(std::make_unique<int>(1)).ok());
  EXPECT_EQ(b->times, 0);
  EXPECT_TRUE(queue.Put(std::make_unique<int>(2)).ok());
  EXPECT_EQ(*a->result->value(), 1);
  EXPECT_EQ(*b->result->value(), 2);
  EXPECT_EQ(queue.items(), 0u);
}

TEST(DeferredQueue, AFullOneRefusesAndLeavesTheItem) {
  DeferredQueue<std::string> queue({.max_items = 1});
  EXPECT_TRUE(queue.Put("a").ok());
  std::string b = "b";
  EXPECT_TRUE(absl::IsResourceExhausted(queue.Put(std::move(b))));
  EXPECT_EQ(b, "b");
  EXPECT_EQ(Keep(queue.Get())->result->value(), "a");
  EXPECT_TRUE(queue.Put(std::move(b)).ok());
}

TEST(DeferredQueue, OfNoItemsOnlyHandsOver) {
  DeferredQueue<int> queue({.max_items = 0});
  EXPECT_TRUE(absl::IsResourceExhausted(queue.Put(1)));
  auto got = Keep(queue.Get());
  EXPECT_TRUE(queue.Put(2).ok());
  EXPECT_EQ(got->result->value(), 2);
}

TEST(DeferredQueue, TooManyWhoWaitAreRefused) {
  DeferredQueue<int> queue({.max_waiting = 1});
  auto a = Keep(queue.Get());
  EXPECT_EQ(Keep(queue.Get())->code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(queue.Put(1).ok());
  EXPECT_EQ(a->result->value(), 1);
}

TEST(DeferredQueue, ACancelledGetIsOutOfTheLine) {
  DeferredQueue<int> queue;
  Deferred<int> cancelled = queue.Get();
  auto next = Keep(queue.Get());
  cancelled.Cancel();
  EXPECT_EQ(queue.waiting(), 1u);
  EXPECT_EQ(Keep(std::move(cancelled))->code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(queue.Put(1).ok());
  EXPECT_EQ(next->result->value(), 1);
}

TEST(DeferredQueue, CancellingAGetThatHasItsItemDoesNothing) {
  DeferredQueue<int> queue;
  EXPECT_TRUE(queue.Put(1).ok());
  Deferred<int> got = queue.Get();
  got.Cancel();
  EXPECT_EQ(Keep(std::move(got))->result->value(), 1);
}

TEST(DeferredQueue, WhoWaitsWhenItIsDestroyedFailsWithAborted) {
  std::optional<DeferredQueue<int>> queue(std::in_place);
  Deferred<int> b;
  auto a = Keep(queue->Get().AddErrback([&](const Failure& failure) {
    b.Cancel();
    return failure;
  }));
  b = queue->Get();
  queue.reset();
  EXPECT_EQ(a->code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Keep(std::move(b))->code(), absl::StatusCode::kCancelled);
}

TEST(DeferredQueue, ACoroutineServesAHundredThousandItems) {
  OnSmallStack([] {
    DeferredQueue<int> queue;
    int sum = 0;
    const auto serve = [](DeferredQueue<int>& queue, int& sum) -> Deferred<void> {
      for (;;) sum += co_await queue.Get();
    };
    Deferred<void> server = serve(queue, sum);
    for (int i = 0; i < kWaiters; ++i) EXPECT_TRUE(queue.Put(1).ok());
    EXPECT_EQ(sum, kWaiters);
    server.Cancel();
    EXPECT_EQ(Keep(std::move(server))->code(), absl::StatusCode::kCancelled);
  });
}

}  // namespace
}  // namespace reactor
