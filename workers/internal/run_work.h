// How a work is run and how an error is told: the one place that catches exceptions.

#ifndef WORKERS_INTERNAL_RUN_WORK_H_
#define WORKERS_INTERNAL_RUN_WORK_H_

#include <cstdint>
#include <type_traits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "workers/worker.h"

namespace workers::internal {

// Runs `work`, destroys its captures, and then, if it threw, tells `handler`. Lets only
// forced unwinding through. `work` is empty afterwards in every case. False: it threw.
bool RunWork(Work& work, absl::string_view worker, const ErrorHandler& handler);

// Throws what RunWork takes for an error that was already reported: it says nothing more.
[[noreturn]] void ThrowReported();

// Calls `f` and makes a status of what it throws: Unknown "<type>: <what>".
absl::Status CatchToStatus(absl::FunctionRef<void()> f);

// In a catch (...): what was caught, as such a status.
absl::Status CurrentExceptionStatus();

// In a catch (...): is the thread being ended by pthread_exit or pthread_cancel? It must go on
// (`throw;`); swallowing it aborts the process.
bool IsForcedUnwinding();

// Tells `handler`, or stderr if it is empty. Swallows what the handler throws.
void Report(const ErrorHandler& handler, const ErrorReport& report);
void Report(const ErrorHandler& handler, absl::string_view worker, absl::Status status);

// Tells `handler` that `dropped` accepted works were destroyed unrun; silent when there are none.
void ReportDropped(const ErrorHandler& handler, absl::string_view worker, int64_t dropped,
                   absl::string_view why);

// InvalidArgument: what every Do says to an empty work.
absl::Status EmptyWorkError(absl::string_view worker);

// Calls `f` when it goes out of scope, also when the thread is being unwound by force.
template <typename F>
class AtEndOfScope {
 public:
  explicit AtEndOfScope(F f) : f_(std::move(f)) {}
  ~AtEndOfScope() { f_(); }
  AtEndOfScope(const AtEndOfScope&) = delete;
  AtEndOfScope& operator=(const AtEndOfScope&) = delete;

 private:
  F f_;
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_RUN_WORK_H_
