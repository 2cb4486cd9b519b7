#include "workers/internal/misuse.h"

#include <cstdio>
#include <cstdlib>

namespace workers::internal {

void DieOfMisuse(absl::string_view contract) {
  std::fprintf(stderr, "iworker: %.*s\n", static_cast<int>(contract.size()), contract.data());
  std::abort();
}

}  // namespace workers::internal
