#include "reactor/failure.h"

#include "absl/strings/str_cat.h"
#include "workers/internal/misuse.h"
#include "workers/internal/report.h"

namespace reactor {
namespace {

// What Throw makes of a Status: known from a StatusError of the user's, which stays an exception.
class ThrownStatus final : public StatusError {
 public:
  using StatusError::StatusError;
};

}  // namespace

Failure::Failure(absl::Status status) : status_(std::move(status)) {
  if (status_.ok()) status_ = absl::InternalError("a Failure was made of an OK status");
}

Failure::Failure(std::exception_ptr exception) : exception_(std::move(exception)) {
  if (exception_ == nullptr) {
    status_ = absl::InternalError("a Failure was made of no exception");
    return;
  }
  try {
    std::rethrow_exception(exception_);
  } catch (const StatusError& error) {
    status_ = error.status();
  } catch (...) {
    status_ = workers::internal::CurrentExceptionStatus();
  }
}

Failure Failure::Current() {
  workers::internal::ContinueForcedUnwinding();
  try {
    throw;
  } catch (const ThrownStatus& error) {
    return Failure(error.status());
  } catch (...) {
    return Failure(std::current_exception());
  }
}

void Failure::Throw() const {
  if (exception_ != nullptr) std::rethrow_exception(exception_);
  throw ThrownStatus(status_);
}

StatusError::StatusError(absl::Status status)
    : status_(status.ok() ? absl::InternalError("a StatusError was made of an OK status")
                          : std::move(status)),
      what_(status_.ToString()) {}

void DieOfNoValue(const Failure& failure) {
  workers::internal::DieOfMisuse(
      absl::StrCat("Result::value: there is none: ", failure.status().ToString()));
}

}  // namespace reactor
