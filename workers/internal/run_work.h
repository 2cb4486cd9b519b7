// Runs one work item.

#ifndef WORKERS_INTERNAL_RUN_WORK_H_
#define WORKERS_INTERNAL_RUN_WORK_H_

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "workers/worker.h"

namespace workers::internal {

// Runs `work`, destroys its captures and then, if it threw, calls `handler`. Only forced unwinding
// leaves it. `work` is empty afterwards in every case. Returns false if it threw.
bool RunWork(Work& work, absl::string_view worker, const ErrorHandler& handler);

// The same for what is not a Work: `run` calls the item and, on every way out, destroys it.
bool RunGuarded(absl::FunctionRef<void()> run, absl::string_view worker,
                const ErrorHandler& handler);

// Throws an exception for which RunWork returns false without calling the handler: the error has
// already been reported.
[[noreturn]] void ThrowReported();

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_RUN_WORK_H_
