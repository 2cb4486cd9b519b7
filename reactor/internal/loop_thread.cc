#include "reactor/internal/loop_thread.h"

#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "workers/internal/misuse.h"

namespace reactor::internal {

using workers::internal::ThreadId;

namespace {

std::string ToString(ThreadId thread) {
  std::ostringstream text;
  text << thread;
  return text.str();
}

}  // namespace

absl::Status CheckLoopThread(absl::string_view loop, absl::string_view method, ThreadId owner) {
  const ThreadId caller = workers::internal::CurrentThread();
  if (owner == ThreadId() || owner == caller) return absl::OkStatus();
  const std::string message =
      absl::StrCat(loop, ": ", method, " was called on thread ", ToString(caller),
                   ", and the reactor runs on thread ", ToString(owner));
#ifndef NDEBUG
  workers::internal::DieOfMisuse(message);
#else
  return absl::FailedPreconditionError(message);
#endif
}

}  // namespace reactor::internal
