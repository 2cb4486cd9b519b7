// A flag that is set once, by one winner.

#ifndef WORKERS_QUIT_FLAG_H_
#define WORKERS_QUIT_FLAG_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "workers/internal/sync.h"
#include "workers/worker.h"

namespace workers {

// Any thread may call anything; nothing waits.
//
// Of any number of callers of Set exactly one gets OK. The flag alone makes nothing
// linearizable: "check, then enqueue" loses what is enqueued after a Set in between. Check it
// in the critical section that enqueues.
class QuitFlag {
 public:
  // `who` names the worker in errors.
  explicit QuitFlag(std::string who = "worker") : who_(std::move(who)) {}

  // OK for one caller of all, AlreadyQuit for the rest.
  absl::Status Set() { return set_.exchange(true) ? AlreadyQuitError(who_) : absl::OkStatus(); }

  // OK until it is set, AlreadyQuit from then on.
  absl::Status Check() const { return IsSet() ? AlreadyQuitError(who_) : absl::OkStatus(); }

  bool IsSet() const { return set_.load(); }

 private:
  const std::string who_;
  internal::Atomic<bool> set_ = false;
};

}  // namespace workers

#endif  // WORKERS_QUIT_FLAG_H_
