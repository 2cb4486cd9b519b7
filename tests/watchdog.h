// A bound for a test that can hang.

#ifndef TESTS_WATCHDOG_H_
#define TESTS_WATCHDOG_H_

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace workers::test {

// Ends the process with a message if it still exists after `bound`: a test that hangs then fails
// in that time, under its own name. Has a thread of its own, so that it works whatever the test's
// threads wait for. A fork()ed child inherits none: it has its own bound (tests/forked_child.h).
//
//   TEST(Team, JoinReturns) {
//     Watchdog watchdog("Join does not return");
//     ...
class Watchdog {
 public:
  // The default leaves a busy machine with sanitizers time, and is within a small test's 60 s.
  explicit Watchdog(std::string what, std::chrono::milliseconds bound = std::chrono::seconds(50))
      : thread_([this, what = std::move(what), bound] { Watch(what, bound); }) {}
  ~Watchdog() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  void Watch(const std::string& what, std::chrono::milliseconds bound) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (changed_.wait_for(lock, bound, [this] { return over_; })) return;
    std::fprintf(stderr, "Watchdog: after %lld ms: %s\n", static_cast<long long>(bound.count()),
                 what.c_str());
    std::abort();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;  // after what it uses
};

}  // namespace workers::test

#endif  // TESTS_WATCHDOG_H_
