#include "reactor/failure.h"

#include "absl/strings/str_cat.h"
#include "workers/internal/misuse.h"
#include "workers/internal/run_work.h"

namespace reactor {

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
  if (workers::internal::IsForcedUnwinding()) throw;
  try {
    throw;
  } catch (const StatusError& error) {
    if (typeid(error) == typeid(StatusError)) return Failure(error.status());
    return Failure(std::current_exception());
  } catch (...) {
    return Failure(std::current_exception());
  }
}

void Failure::Throw() const {
  if (exception_ != nullptr) std::rethrow_exception(exception_);
  throw StatusError(status_);
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
