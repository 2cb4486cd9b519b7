// What TeamCore keeps on the stack of a thread that performs its effects.

#ifndef WORKERS_INTERNAL_TEAM_ITEMS_H_
#define WORKERS_INTERNAL_TEAM_ITEMS_H_

#include "workers/internal/team_core.h"

namespace workers::internal {

struct TeamCore::Performing {
  explicit Performing(const TeamCore& core) : core(&core), outer(Innermost::Get()) {
    Innermost::Set(this);
  }
  ~Performing() { Innermost::Set(outer); }
  Performing(const Performing&) = delete;
  Performing& operator=(const Performing&) = delete;

  // The outermost of this thread for `core`, or null.
  static Performing* Find(const TeamCore& core) {
    Performing* found = nullptr;
    for (Performing* at = Innermost::Get(); at != nullptr; at = at->outer) {
      if (at->core == &core) found = at;
    }
    return found;
  }

  using Innermost = ThreadLocalPointer<Performing>;
  const TeamCore* const core;
  Performing* const outer;
  bool more = false;  // effects have come since, which it performs
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_TEAM_ITEMS_H_
