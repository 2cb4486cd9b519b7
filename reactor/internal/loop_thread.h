// Which thread a loop runs on, and what happens to a call from another.

#ifndef REACTOR_INTERNAL_LOOP_THREAD_H_
#define REACTOR_INTERNAL_LOOP_THREAD_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "workers/internal/sync.h"

namespace reactor::internal {

// OK on thread `owner`, and where there is none (a ThreadId of nobody). Elsewhere a debug build
// dies, naming the method and both threads; a release build says the same as FailedPrecondition.
absl::Status CheckLoopThread(absl::string_view loop, absl::string_view method,
                             workers::internal::ThreadId owner);

}  // namespace reactor::internal

#endif  // REACTOR_INTERNAL_LOOP_THREAD_H_
