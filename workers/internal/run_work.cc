#include "workers/internal/run_work.h"

#include <exception>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "workers/internal/report.h"

namespace workers::internal {
namespace {

struct Reported {};

}  // namespace

bool RunWork(Work& work, absl::string_view worker, const ErrorHandler& handler) {
  const auto run = [&work] {
    // On every way out, forced unwinding included, the captures die before anything else.
    absl::Cleanup destroy_captures = [&work] { work = nullptr; };
    std::move(work)();
  };
  return RunGuarded(run, worker, handler);
}

bool RunGuarded(absl::FunctionRef<void()> run, absl::string_view worker,
                const ErrorHandler& handler) {
  ErrorReport report;
  try {
    run();
    return true;
  } catch (const Reported&) {
    return false;
  } catch (...) {
    ContinueForcedUnwinding();
    report.status = CurrentExceptionStatus();
    report.exception = std::current_exception();
  }
  report.worker = worker;
  Report(handler, report);
  return false;
}

void ThrowReported() { throw Reported(); }

}  // namespace workers::internal
