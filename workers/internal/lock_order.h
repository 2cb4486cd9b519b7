// In which order a thread acquires locks.

#ifndef WORKERS_INTERNAL_LOCK_ORDER_H_
#define WORKERS_INTERNAL_LOCK_ORDER_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "workers/internal/sync.h"

namespace workers::internal {

// Finds two locks that one thread has acquired in both orders: two threads that do so can wait for
// each other forever. Each thread knows only its own orders, the last 64 of them, so nothing is
// shared. For debug builds.
class LockOrder {
 public:
  // An identity that is never used again. Any thread.
  static uint64_t NewId();

  // On the stack of a thread for as long as it holds a lock.
  class Held {
   public:
    Held(uint64_t id, absl::string_view name)
        : id_(id), name_(name), outer_(ThreadLocalPointer<Held>::Get()) {
      ThreadLocalPointer<Held>::Set(this);
    }
    ~Held() { ThreadLocalPointer<Held>::Set(outer_); }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;

    absl::string_view name() const { return name_; }

   private:
    friend class LockOrder;
    const uint64_t id_;
    const absl::string_view name_;
    Held* const outer_;
  };

  // Called by a thread that is about to acquire the lock `id`. Returns a lock that it holds and has
  // acquired before while it held `id`; null if there is none, or if this was returned before.
  static const Held* Acquiring(uint64_t id);
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_LOCK_ORDER_H_
