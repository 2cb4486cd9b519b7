#include "workers/internal/run_work.h"

#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <typeinfo>

#include "absl/strings/str_cat.h"

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

void WriteLine(const ErrorReport& report) {
  std::string line =
      absl::StrCat("iworker: ", report.worker, ": ", report.status.ToString(),
                   report.dropped > 0 ? absl::StrCat(" (dropped ", report.dropped, ")") : "", "\n");
  std::fwrite(line.data(), 1, line.size(), stderr);
}

struct Reported {};

}  // namespace

// What is thrown then is no C++ exception. (The documented way, catching abi::__forced_unwind&,
// binds a reference to nothing.)
bool IsForcedUnwinding() { return std::current_exception() == nullptr; }

absl::Status CurrentExceptionStatus() {
  const std::string type = CurrentExceptionType();
  try {
    throw;
  } catch (const std::exception& e) {
    return absl::UnknownError(absl::StrCat(type, ": ", e.what()));
  } catch (...) {
    return absl::UnknownError(absl::StrCat(type, ": thrown by a work"));
  }
}

bool RunWork(Work& work, absl::string_view worker, const ErrorHandler& handler) {
  ErrorReport report;
  {
    // On every way out, forced unwinding included, the captures die before anything else.
    AtEndOfScope destroy_captures([&work] { work = nullptr; });
    try {
      std::move(work)();
      return true;
    } catch (const Reported&) {
      return false;
    } catch (...) {
      if (IsForcedUnwinding()) throw;
      report.status = CurrentExceptionStatus();
      report.exception = std::current_exception();
    }
  }
  report.worker = worker;
  Report(handler, report);
  return false;
}

void ThrowReported() { throw Reported(); }

absl::Status CatchToStatus(absl::FunctionRef<void()> f) {
  try {
    f();
    return absl::OkStatus();
  } catch (...) {
    if (IsForcedUnwinding()) throw;
    return CurrentExceptionStatus();
  }
}

void Report(const ErrorHandler& handler, const ErrorReport& report) {
  if (!handler) return WriteLine(report);
  try {
    handler(report);
  } catch (...) {
    if (IsForcedUnwinding()) throw;
    // What a handler throws: there is nobody left to tell.
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
  report.status = absl::AbortedError(absl::StrCat("accepted work was dropped unrun: ", why));
  report.dropped = dropped;
  Report(handler, report);
}

absl::Status EmptyWorkError(absl::string_view worker) {
  return absl::InvalidArgumentError(absl::StrCat(worker, ": the work is empty"));
}

}  // namespace workers::internal
