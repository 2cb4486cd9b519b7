// How an error is described and reported, and how exceptions are caught.

#ifndef WORKERS_INTERNAL_REPORT_H_
#define WORKERS_INTERNAL_REPORT_H_

#include <cstdint>
#include <new>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "workers/worker.h"

namespace workers::internal {

// ResourceExhausted: an operation of the worker `name` found no memory and changed nothing.
absl::Status NoMemoryError(absl::string_view name) noexcept;

// InvalidArgument: what every Do returns for an empty work item.
absl::Status EmptyWorkError(absl::string_view name) noexcept;

// Calls `f` and returns its Status; ResourceExhausted if `f` throws std::bad_alloc. `f` must have
// changed nothing when it throws.
template <typename F>
absl::Status WithoutBadAlloc(absl::string_view name, F&& f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return NoMemoryError(name);
  }
}

// Calls `f` and returns what it throws as a Status: Unknown "<type>: <what>".
absl::Status CatchToStatus(absl::FunctionRef<void()> f);

// In a catch (...): the exception that is being handled as such a Status. A foreign exception
// (another language's) is Unknown "a foreign exception". Does not throw.
absl::Status CurrentExceptionStatus() noexcept;

// In a catch (...): lets forced unwinding (pthread_exit, pthread_cancel) continue, because
// swallowing it aborts the process. Returns for every exception, foreign ones included.
void ContinueForcedUnwinding();

// Calls `handler`, or writes a line to stderr if it is empty. Swallows what the handler throws.
void Report(const ErrorHandler& handler, const ErrorReport& report);
void Report(const ErrorHandler& handler, absl::string_view worker, absl::Status status);

// Reports that `dropped` accepted work items were destroyed unrun; silent when there are none.
void ReportDropped(const ErrorHandler& handler, absl::string_view worker, int64_t dropped,
                   absl::string_view why);

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_REPORT_H_
