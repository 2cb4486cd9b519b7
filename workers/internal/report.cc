#include "workers/internal/report.h"

#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <typeinfo>
#include <utility>

#include "absl/strings/str_cat.h"
#include "workers/internal/make_status.h"

namespace workers::internal {
namespace {

// The type of the exception that is being handled, as a person writes it.
std::string CurrentExceptionType() {
  const std::type_info* type = abi::__cxa_current_exception_type();
  if (type == nullptr) return "unknown exception";
  int status = 0;
  std::unique_ptr<char, void (*)(void*)> name(
      abi::__cxa_demangle(type->name(), nullptr, nullptr, &status), std::free);
  return status == 0 ? name.get() : type->name();
}

absl::Status DescribeCurrentException() {
  if (std::current_exception() == nullptr) return absl::UnknownError("a foreign exception");
  const std::string type = CurrentExceptionType();
  try {
    throw;
  } catch (const std::exception& e) {
    return absl::UnknownError(absl::StrCat(type, ": ", e.what()));
  } catch (...) {
    return absl::UnknownError(absl::StrCat(type, ": thrown by a work item"));
  }
}

// Piece by piece, because there may be no memory for a line.
void WriteLine(const ErrorReport& report) {
  const absl::string_view worker = report.worker;
  const absl::string_view message = report.status.message();
  const std::string code = absl::StatusCodeToString(report.status.code());  // at most 19 bytes
  char dropped[48] = "";
  if (report.dropped > 0) {
    std::snprintf(dropped, sizeof(dropped), " (dropped %lld)",
                  static_cast<long long>(report.dropped));
  }
  std::fprintf(stderr, "iworker: %.*s: %s: %.*s%s\n", static_cast<int>(worker.size()),
               worker.data(), code.c_str(), static_cast<int>(message.size()), message.data(),
               dropped);
}

}  // namespace

absl::Status NoMemoryError(absl::string_view name) noexcept {
  return MakeStatus(absl::StatusCode::kResourceExhausted, name, ": out of memory");
}

absl::Status EmptyWorkError(absl::string_view name) noexcept {
  return MakeStatus(absl::StatusCode::kInvalidArgument, name, ": the work item is empty");
}

absl::Status CatchToStatus(absl::FunctionRef<void()> f) {
  try {
    f();
    return absl::OkStatus();
  } catch (...) {
    ContinueForcedUnwinding();
    return CurrentExceptionStatus();
  }
}

absl::Status CurrentExceptionStatus() noexcept {
  try {
    return DescribeCurrentException();
  } catch (...) {  // no memory for the description
    return absl::Status(absl::StatusCode::kUnknown, "");
  }
}

// Neither forced unwinding nor a foreign exception is a C++ exception that current_exception knows.
// The C++ runtime tells them apart when it looks for a handler of __foreign_exception, which does
// not exist as an object: the reference is bound to nothing, and nothing looks at it.
__attribute__((no_sanitize("null"))) void ContinueForcedUnwinding() {
  if (std::current_exception() != nullptr) return;
  try {
    throw;
  } catch (const abi::__foreign_exception&) {
  }
}

void Report(const ErrorHandler& handler, const ErrorReport& report) {
  try {
    if (handler) return handler(report);
    WriteLine(report);
  } catch (...) {
    ContinueForcedUnwinding();
    // What a handler throws is swallowed: there is nobody left to report it to.
  }
}

void Report(const ErrorHandler& handler, absl::string_view worker, absl::Status status) {
  ErrorReport report;
  report.worker = worker;
  report.status = std::move(status);
  Report(handler, report);
}

void ReportDropped(const ErrorHandler& handler, absl::string_view worker, int64_t dropped,
                   absl::string_view why) {
  if (dropped == 0) return;
  ErrorReport report;
  report.worker = worker;
  report.status = MakeStatus(absl::StatusCode::kAborted,
                             "accepted work items were dropped without running: ", why);
  report.dropped = dropped;
  Report(handler, report);
}

}  // namespace workers::internal
