// How misuse ends: one line with the contract's words, then abort.

#ifndef WORKERS_INTERNAL_MISUSE_H_
#define WORKERS_INTERNAL_MISUSE_H_

#include "absl/strings/string_view.h"

namespace workers::internal {

// Prints "iworker: <contract>" on stderr and aborts. For what a program must never do; what
// a caller can meet in a correct program is a Status instead.
[[noreturn]] void DieOfMisuse(absl::string_view contract);

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_MISUSE_H_
