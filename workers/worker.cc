#include "workers/worker.h"

#include "absl/strings/match.h"
#include "workers/internal/make_status.h"

namespace workers {
namespace {

constexpr absl::string_view kAlreadyQuit = " has already quit";

}  // namespace

absl::Status AlreadyQuitError(absl::string_view who) {
  return internal::MakeStatus(absl::StatusCode::kFailedPrecondition, who, kAlreadyQuit);
}

bool IsAlreadyQuit(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) && absl::EndsWith(status.message(), kAlreadyQuit);
}

}  // namespace workers
