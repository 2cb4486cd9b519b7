// The one seam: every lock, wait, atomic, thread, thread identity, thread-local pointer and
// clock that workers/ and reactor/ use comes from here.
//
// In an ordinary build each of them is the plain primitive and costs nothing more. One build
// setting for the whole program, `--//workers:simulation`, makes each of them call the
// installed SyncObserver first: there a test decides which thread goes on
// (tests/interleaving.h), and there the simulation of schedules will stand. It is a
// setting of the build and never a macro of one target, so that a program cannot mix the two.

#ifndef WORKERS_INTERNAL_SYNC_H_
#define WORKERS_INTERNAL_SYNC_H_

#include <pthread.h>
#include <time.h>

#include <atomic>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"

namespace workers::internal {

// --- scheduling points --------------------------------------------------------------------

// What the calling thread is about to do, or has just done.
enum class SyncOp {
  kLock,      // is about to acquire a Mutex, and may wait for it
  kLocked,    // has acquired it
  kUnlocked,  // has released it
  kWait,      // is about to release a Mutex and wait on a CondVar
  kSignal,    // is about to signal a CondVar
  kAtomic,    // is about to read or write an Atomic
  kStart,     // is about to start a thread
  kJoin,      // is about to wait for a thread to end
};

class SyncObserver {
 public:
  virtual ~SyncObserver() = default;
  // Called by the thread that does `op` on `object`; it goes on when this returns.
  virtual void At(SyncOp op, const void* object) = 0;
};

#ifdef IWORKER_SIMULATION
inline constexpr bool kSimulation = true;
inline std::atomic<SyncObserver*> sync_observer = nullptr;
inline void SyncPoint(SyncOp op, const void* object) {
  if (SyncObserver* observer = sync_observer.load()) observer->At(op, object);
}
#else
inline constexpr bool kSimulation = false;
inline void SyncPoint(SyncOp, const void*) {}
#endif

// --- locks and waits ----------------------------------------------------------------------

// A mutual exclusion lock; not recursive. Who meets a holder looks again for a moment before it
// sleeps: what is done under these locks is shorter than a sleep.
class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    SyncPoint(SyncOp::kLock, this);
    pthread_mutex_lock(&mutex_);
    SyncPoint(SyncOp::kLocked, this);
  }
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    pthread_mutex_unlock(&mutex_);
    SyncPoint(SyncOp::kUnlocked, this);
  }
  // Tells clang that the caller holds it, where the caller knows that in another way.
  void AssertHeld() const ABSL_ASSERT_EXCLUSIVE_LOCK() {}

 private:
  friend class CondVar;
  pthread_mutex_t mutex_ = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_.Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// A condition variable. Waits may end early: the caller tests its condition in a loop. Signal
// after unlocking, never before: the woken thread must not run into the lock.
class CondVar {
 public:
  CondVar() = default;
  CondVar(const CondVar&) = delete;
  CondVar& operator=(const CondVar&) = delete;

  void Wait(Mutex& mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    SyncPoint(SyncOp::kWait, &mutex);
    pthread_cond_wait(&condition_, &mutex.mutex_);
    SyncPoint(SyncOp::kLocked, &mutex);
  }
  // Waits until `deadline` (as SteadyNow counts) at the latest.
  void WaitUntil(Mutex& mutex, absl::Duration deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (deadline == absl::InfiniteDuration()) return Wait(mutex);
    SyncPoint(SyncOp::kWait, &mutex);
    const timespec when = absl::ToTimespec(deadline);
    pthread_cond_clockwait(&condition_, &mutex.mutex_, CLOCK_MONOTONIC, &when);
    SyncPoint(SyncOp::kLocked, &mutex);
  }
  void Signal() {
    SyncPoint(SyncOp::kSignal, this);
    pthread_cond_signal(&condition_);
  }
  void SignalAll() {
    SyncPoint(SyncOp::kSignal, this);
    pthread_cond_broadcast(&condition_);
  }

 private:
  pthread_cond_t condition_ = PTHREAD_COND_INITIALIZER;
};

// --- atomics ------------------------------------------------------------------------------

template <typename T>
class Atomic {
 public:
  constexpr Atomic(T value = T()) : value_(value) {}  // NOLINT: as std::atomic
  T load(std::memory_order order = std::memory_order_seq_cst) const {
    SyncPoint(SyncOp::kAtomic, this);
    return value_.load(order);
  }
  void store(T value, std::memory_order order = std::memory_order_seq_cst) {
    SyncPoint(SyncOp::kAtomic, this);
    value_.store(value, order);
  }
  T exchange(T value, std::memory_order order = std::memory_order_seq_cst) {
    SyncPoint(SyncOp::kAtomic, this);
    return value_.exchange(value, order);
  }
  T fetch_add(T change, std::memory_order order = std::memory_order_seq_cst) {
    SyncPoint(SyncOp::kAtomic, this);
    return value_.fetch_add(change, order);
  }
  T fetch_or(T bits) {
    SyncPoint(SyncOp::kAtomic, this);
    return value_.fetch_or(bits);
  }
  bool compare_exchange_weak(T& expected, T desired) {
    SyncPoint(SyncOp::kAtomic, this);
    return value_.compare_exchange_weak(expected, desired);
  }
  bool compare_exchange_strong(T& expected, T desired) {
    SyncPoint(SyncOp::kAtomic, this);
    return value_.compare_exchange_strong(expected, desired);
  }

 private:
  std::atomic<T> value_;
};

// --- threads ------------------------------------------------------------------------------

using ThreadId = std::thread::id;  // the default one is no thread
inline ThreadId CurrentThread() { return std::this_thread::get_id(); }

// A thread of the system that was started and has to be joined once.
class NativeThread {
 public:
  // Starts `main(argument)`. Returns 0, or an errno and starts nothing.
  static int Start(const pthread_attr_t& attributes, void* (*main)(void*), void* argument,
                   NativeThread& thread) {
    SyncPoint(SyncOp::kStart, &thread);
    return pthread_create(&thread.thread_, &attributes, main, argument);
  }
  void Join() {
    SyncPoint(SyncOp::kJoin, &thread_);
    pthread_join(thread_, nullptr);
  }
  bool IsCurrent() const { return pthread_equal(thread_, pthread_self()) != 0; }

 private:
  pthread_t thread_;
};

// One pointer a thread, null at first. `Owner` is the class that it points to.
template <typename Owner>
class ThreadLocalPointer {
 public:
  static Owner* Get() { return pointer_; }
  static void Set(Owner* pointer) { pointer_ = pointer; }

 private:
  static inline constinit thread_local Owner* pointer_ = nullptr;
};

// One value a thread, which needs no destructor.
template <typename T>
class ThreadLocalValue {
 public:
  static T& Get() { return value_; }

 private:
  static inline constinit thread_local T value_ = {};
};

// How many forks lie between the program's start and this process. Whoever owns threads
// compares it with the value it was made under: in the child of a fork they are gone.
class ForkCount {
 public:
  static int Get() { return count_.load(std::memory_order_relaxed); }
  // Begins to count. Called by whoever is about to start a thread.
  static void Watch() {
    static const int error = pthread_atfork(nullptr, nullptr, [] {
      count_.store(count_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    });
    (void)error;
  }

 private:
  static inline std::atomic<int> count_ = 0;
};

// --- time ---------------------------------------------------------------------------------

// The time since an arbitrary zero; never goes back.
inline absl::Duration SteadyNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::DurationFromTimespec(now);
}

// As SteadyNow, or some milliseconds before it; several times cheaper.
inline absl::Duration CoarseSteadyNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return absl::DurationFromTimespec(now);
}

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_SYNC_H_
