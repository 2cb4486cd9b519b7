#include "workers/worker.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace workers {
namespace {

// Status compares neither identity nor type; a payload makes this one recognisable.
constexpr absl::string_view kAlreadyQuit = "iworker/already_quit";

}  // namespace

absl::Status AlreadyQuitError(absl::string_view who) {
  absl::Status status = absl::FailedPreconditionError(absl::StrCat(who, " has already quit"));
  status.SetPayload(kAlreadyQuit, absl::Cord());
  return status;
}

bool IsAlreadyQuit(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) && status.GetPayload(kAlreadyQuit).has_value();
}

}  // namespace workers
