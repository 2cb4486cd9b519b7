// Errors that can be returned when there is no memory for their text.

#ifndef WORKERS_INTERNAL_MAKE_STATUS_H_
#define WORKERS_INTERNAL_MAKE_STATUS_H_

#include <new>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace workers::internal {

// A Status whose message is the concatenation of `pieces`; the bare code if there is no memory for
// the message. Any thread; does not throw.
template <typename... Pieces>
absl::Status MakeStatus(absl::StatusCode code, const Pieces&... pieces) noexcept {
  try {
    return absl::Status(code, absl::StrCat(pieces...));
  } catch (const std::bad_alloc&) {
    return absl::Status(code, "");
  }
}

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_MAKE_STATUS_H_
