// Forces two threads to meet at every point at which they can.

#ifndef TESTS_INTERLEAVING_H_
#define TESTS_INTERLEAVING_H_

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "workers/internal/sync.h"

namespace workers {

static_assert(internal::kSimulation, "built by simulated_test only, see tests/simulation.bzl");

// One schedule of two threads: the first stops at its `point`-th scheduling point (counted from
// 0); there the second runs to its end; then the first goes on. If the second needs a lock that
// the first holds, the first goes on at that moment: no schedule of the real program could do
// otherwise. All other threads run freely.
//
// Trying every point until one is not reached any more is every schedule with one preemption:
//
//   for (int point = 0;; ++point) {
//     Interleaving schedule(point);
//     ... schedule.Run(f, g), check ...
//     if (!schedule.reached()) break;
//   }
class Interleaving final : public internal::SyncObserver {
 public:
  explicit Interleaving(int point) : point_(point) { internal::sync_observer.store(this); }
  ~Interleaving() override { internal::sync_observer.store(nullptr); }

  void Run(const std::function<void()>& first, const std::function<void()>& second) {
    std::thread thread([&] { AsFirst(first); });
    AsSecond(second);
    thread.join();
  }

  // Makes the calling thread the first, for as long as `f` runs.
  void AsFirst(const std::function<void()>& f) {
    Role() = kFirst;
    f();
    Role() = kNone;
    std::lock_guard<std::mutex> lock(mutex_);
    first_ = kEnded;
    changed_.notify_all();
  }

  // Waits until the first has stopped (or ended, or waits for another thread), runs `f` as the
  // second, and lets the first go.
  void AsSecond(const std::function<void()>& f) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return first_ != kRunning || first_waits_; });
    }
    Role() = kSecond;
    f();
    Role() = kNone;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      second_ended_ = true;
    }
    LetFirstGoOn();
  }

  // Did the first thread get to its point?
  bool reached() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return reached_;
  }
  // What it was about to do there.
  internal::SyncOp op() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return op_;
  }

  // SyncObserver implementation:
  void At(internal::SyncOp op, const void* object) override {
    if (Role() == kFirst) AtFirst(op, object);
    if (Role() == kSecond) AtSecond(op, object);
  }

 private:
  enum ThreadRole { kNone, kFirst, kSecond };
  static ThreadRole& Role() {
    static thread_local ThreadRole role = kNone;
    return role;
  }

  void AtFirst(internal::SyncOp op, const void* object) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (op == internal::SyncOp::kLocked) held_.push_back(object);
    if (op == internal::SyncOp::kUnlocked || op == internal::SyncOp::kWait) {
      held_.erase(std::find(held_.begin(), held_.end(), object));
    }
    if (op == internal::SyncOp::kWait || op == internal::SyncOp::kJoin) {
      first_waits_ = true;
      changed_.notify_all();
    }
    if (count_++ != point_) return;
    // About to wait, it still holds the lock.
    if (op == internal::SyncOp::kWait) held_.push_back(object);
    reached_ = true;
    op_ = op;
    if (second_ended_ || second_waits_ || Holds(second_wants_)) return;
    first_ = kStopped;
    changed_.notify_all();
    changed_.wait(lock, [this] { return first_ != kStopped; });
    if (op == internal::SyncOp::kWait) held_.pop_back();
  }

  void AtSecond(internal::SyncOp op, const void* object) {
    bool needs_first = false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (op == internal::SyncOp::kLock) {
        second_wants_ = object;
        needs_first = Holds(object);
      }
      if (op == internal::SyncOp::kLocked) second_wants_ = nullptr;
      // It may wait for a third thread that needs a lock of the first, or for the first itself.
      second_waits_ = op == internal::SyncOp::kWait || op == internal::SyncOp::kJoin;
      needs_first |= second_waits_;
    }
    if (needs_first) LetFirstGoOn();
  }

  // Does the first thread hold the lock? With mutex_ held.
  bool Holds(const void* lock) const {
    return std::find(held_.begin(), held_.end(), lock) != held_.end();
  }

  void LetFirstGoOn() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (first_ == kStopped) first_ = kGoingOn;
    changed_.notify_all();
  }

  const int point_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  enum { kRunning, kStopped, kGoingOn, kEnded } first_ = kRunning;
  bool first_waits_ = false;
  bool second_ended_ = false;
  bool second_waits_ = false;  // for a third thread, or for the first itself
  bool reached_ = false;
  internal::SyncOp op_ = internal::SyncOp::kLock;
  int count_ = 0;
  std::vector<const void*> held_;       // by the first thread
  const void* second_wants_ = nullptr;  // the lock that the second is about to acquire
};

// Counts the locks that each thread holds, to show what runs under none.
class LockTracker final : public internal::SyncObserver {
 public:
  LockTracker() { internal::sync_observer.store(this); }
  ~LockTracker() override { internal::sync_observer.store(nullptr); }

  // How many locks the calling thread holds.
  static int Held() { return Count(); }
  // How many threads were started by a thread that held a lock.
  int started_under_lock() const { return started_under_lock_.load(); }
  int started() const { return started_.load(); }

  // SyncObserver implementation:
  void At(internal::SyncOp op, const void*) override {
    if (op == internal::SyncOp::kLocked) ++Count();
    if (op == internal::SyncOp::kUnlocked || op == internal::SyncOp::kWait) --Count();
    if (op == internal::SyncOp::kStart) {
      started_.fetch_add(1);
      if (Count() != 0) started_under_lock_.fetch_add(1);
    }
  }

 private:
  static int& Count() {
    static thread_local int count = 0;
    return count;
  }

  std::atomic<int> started_ = 0;
  std::atomic<int> started_under_lock_ = 0;
};

}  // namespace workers

#endif  // TESTS_INTERLEAVING_H_
