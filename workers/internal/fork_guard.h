// What an object that owns threads or locks does in the child of a fork.

#ifndef WORKERS_INTERNAL_FORK_GUARD_H_
#define WORKERS_INTERNAL_FORK_GUARD_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "workers/internal/make_status.h"
#include "workers/internal/sync.h"

namespace workers::internal {

// A member of an object that owns threads, or locks that other threads hold for a moment. The child
// of a fork inherits the object but none of the threads, and a lock may be held forever: there the
// object's functions return Error, and its destructor leaks what it owns.
class ForkGuard {
 public:
  ForkGuard() { ForkCount::Watch(); }

  // Is this process a child of the one in which the object was made? Any thread.
  bool InChild() const { return count_ != ForkCount::Get(); }

  // FailedPrecondition: the threads of the object `name` belong to the parent.
  absl::Status Error(absl::string_view name) const noexcept {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, name,
                      ": belongs to the parent of this forked process");
  }

  // Keeps a copy of `owner` that is never destroyed. Does not allocate if that is impossible, and
  // then what it owns is destroyed.
  template <typename Owner>
  static void Leak(Owner owner) {
    new Owner(std::move(owner));
  }

 private:
  const int count_ = ForkCount::Get();
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_FORK_GUARD_H_
