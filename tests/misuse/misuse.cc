// Correct code, and between #ifdef MISUSE_... and #endif, wrong code that clang has to reject
// with the words behind the //. Compiled by misuse_test.sh.

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "reactor/coroutine.h"
#include "reactor/deferred.h"
#include "reactor/failure.h"
#include "reactor/reactor.h"
#include "workers/internal/sync.h"
#include "workers/lock_worker.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace {

using workers::AssertDoneBy;
using workers::IExclusiveWorker;

// Data that belongs to a worker.
class Account {
 public:
  explicit Account(std::unique_ptr<IExclusiveWorker> worker) : worker_(std::move(worker)) {}

  absl::Status Deposit(int amount) {
    return worker_->Do([this, amount] {
      AssertDoneBy(*worker_);
      balance_ += amount;
      Audit();
    });
  }

  absl::Status Forget(int amount) {
    return worker_->Do([this, amount] {
#ifdef MISUSE_a_work_without_AssertDoneBy  // requires holding mutex 'worker_' exclusively
      balance_ -= amount;
#endif
      AssertDoneBy(*worker_);
      balance_ -= amount;
    });
  }

#ifdef MISUSE_access_outside_of_any_work  // requires holding mutex 'worker_'
  int balance() const { return balance_; }
#endif

#ifdef MISUSE_a_helper_called_outside_of_the_work  // requires holding mutex 'worker_' exclusively
  void AuditNow() { Audit(); }
#endif

  absl::Status Move(Account& other) {
    return worker_->Do([this, &other] {
      AssertDoneBy(*worker_);
      balance_ = 0;
#ifdef MISUSE_data_of_another_worker  // requires holding mutex 'other.worker_' exclusively
      other.balance_ = 1;
#endif
      (void)other;
    });
  }

 private:
  void Audit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(*worker_) { ++audits_; }

  const std::unique_ptr<IExclusiveWorker> worker_;
  int balance_ ABSL_GUARDED_BY(*worker_) = 0;
  int audits_ ABSL_GUARDED_BY(*worker_) = 0;
};

// The same with a worker that is a member and not behind a pointer.
class Counter {
 public:
  absl::Status Add() {
    return worker_.Do([this] {
      AssertDoneBy(worker_);
      ++count_;
    });
  }

#ifdef MISUSE_access_beside_a_lock_worker  // requires holding mutex 'worker_'
  int count() const { return count_; }
#endif

 private:
  workers::LockWorker worker_;
  int count_ ABSL_GUARDED_BY(worker_) = 0;
};

// Data that belongs to a reactor's thread: the loop is a worker.
class Connections {
 public:
  explicit Connections(reactor::IReactorThreads& reactor)
      : reactor_(reactor), loop_(reactor.worker()) {}

  absl::Status Add() {
    return reactor_.CallFromThread([this] {
      AssertDoneBy(*loop_);
      ++count_;
    });
  }

#ifdef MISUSE_data_of_the_reactor_thread_elsewhere  // requires holding mutex 'loop_'
  int count() const { return count_; }
#endif

#ifdef MISUSE_a_call_from_a_thread_that_nobody_looks_at  // ignoring return value
  void Careless() {
    reactor_.CallFromThread([] {});
  }
#endif

 private:
  reactor::IReactorThreads& reactor_;
  const std::shared_ptr<IExclusiveWorker> loop_;
  int count_ ABSL_GUARDED_BY(*loop_) = 0;
};

// The seam's own lock.
class Guarded {
 public:
  int Get() const {
    workers::internal::MutexLock lock(mutex_);
    return value_;
  }
#ifdef MISUSE_access_without_the_lock  // requires holding mutex 'mutex_'
  int Peek() const { return value_; }
#endif
#ifdef MISUSE_a_lock_that_is_not_released  // mutex 'mutex_' is still held at the end of function
  void Leave() { mutex_.Lock(); }
#endif

 private:
  mutable workers::internal::Mutex mutex_;
  int value_ ABSL_GUARDED_BY(mutex_) = 0;
};

#ifdef MISUSE_a_refusal_that_nobody_looks_at  // ignoring return value
void Careless(workers::IWorker& worker) {
  worker.Do([] {});
}
#endif

// Deferreds.
reactor::Deferred<int> Count() { return reactor::Succeed(1); }

reactor::Deferred<int> Twice(reactor::Deferred<int> n) { co_return 2 * co_await std::move(n); }

reactor::Deferred<int> Chain(reactor::Deferred<int> number) {
  return std::move(number)
      .AddCallback([](int n) { return n + 1; })
      .AddErrback([](const reactor::Failure&) { return 0; });
}

#ifdef MISUSE_a_deferred_of_a_reference  // Deferred<T>: T must not be a reference
void Reference() { reactor::Deferred<int&> deferred; }
#endif

#ifdef MISUSE_a_promise_of_a_reference  // T must not be a reference
void Reference() { reactor::MakeDeferred<int&>().first.Cancel(); }
#endif

#ifdef MISUSE_a_callback_that_returns_a_reference  // must not return a reference
void Reference(int& target) {
  Count().AddCallback([&target](int) -> int& { return target; }).Detach();
}
#endif

#ifdef MISUSE_a_deferred_that_nobody_looks_at  // ignoring return value
void Careless() { Count(); }
#endif

#ifdef MISUSE_a_chain_that_nobody_looks_at  // ignoring return value
void Careless() {
  Count().AddCallback([](int) {});
}
#endif

#ifdef MISUSE_a_callback_that_takes_something_else  // this callback cannot be called with a T
void Mistaken() {
  Count().AddCallback([](std::unique_ptr<int>) {}).Detach();
}
#endif

#ifdef MISUSE_an_errback_that_returns_something_else  // an errback returns what the value it stands
void Mistaken() {
  Count().AddErrback([](const reactor::Failure&) { return std::make_unique<int>(); }).Detach();
}
#endif

#ifdef MISUSE_a_deferred_that_is_copied  // call to implicitly-deleted copy constructor
reactor::Deferred<int> Copy(reactor::Deferred<int>& deferred) { return deferred; }
#endif

#ifdef MISUSE_a_chain_on_a_deferred_that_is_not_moved  // expects an rvalue for object argument
void Consumed(reactor::Deferred<int>& deferred) {
  deferred.AddCallback([](int) {}).Detach();
}
#endif

#ifdef MISUSE_an_await_of_a_deferred_that_is_not_moved  // overload resolution selected deleted
reactor::Deferred<int> Consumed(reactor::Deferred<int> deferred) { co_return co_await deferred; }
#endif

// A usual caller does not care which Quit was the first.
void Close(workers::IWorker& worker) { worker.Quit().IgnoreError(); }

}  // namespace

int main() {
  auto worker = workers::ThreadWorker::Create();
  if (!worker.ok()) return 1;
  Account account(*std::move(worker));
  account.Deposit(1).IgnoreError();
  account.Forget(1).IgnoreError();
  account.Move(account).IgnoreError();
  Counter counter;
  counter.Add().IgnoreError();
  workers::LockWorker lock_worker;
  Close(lock_worker);
  Chain(Twice(Count())).Detach();
  return Guarded().Get();
}
