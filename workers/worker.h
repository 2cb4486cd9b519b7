// A worker is anything that can `Do` work and can `Quit`.
//
// Everything in this project is a worker, or is put together from workers. This header is
// the interface and its contract; `workers/testing/worker_contract.h` is the same contract
// as tests, for every worker here and for those you write yourself. The idea and the two
// words are Twisted's (twisted._threads, IWorker).

#ifndef WORKERS_WORKER_H_
#define WORKERS_WORKER_H_

#include <cstdint>
#include <exception>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace workers {

// Work is called once. A capture of up to two pointers needs no allocation.
using Work = absl::AnyInvocable<void() &&>;

// The contract of every worker. Known elsewhere as: executor.
//
//  1. Any thread may call `Do` and `Quit`, also work that the same worker is running.
//  2. `Do` says OK: the work was taken, and exactly one of two things follows: it runs,
//     once; or it is destroyed unrun, once, by an operation whose comment says that it drops
//     and that reports how many. There is no third way.
//  3. `Do` says anything else: `work` was left as it was and will never run; the caller
//     still has it. InvalidArgument: it is empty. `IsAlreadyQuit`: the worker has quit.
//     ResourceExhausted: the worker is full, or there is no memory.
//  4. `Do` and `Quit` are linearizable: a `Do` comes before a racing `Quit`, and its work
//     runs, or after it, and it is refused.
//  5. For any `Do(work)`: what happened before the call is visible to the work. For any two
//     works of an exclusive worker: what the first did is visible to the second.
//  6. The captures of a work are destroyed in the worker's context straight after it ran,
//     before the next work and before the worker waits, with no lock held (a LockWorker's
//     own excepted). Their destructors may call the worker. Works are moved under locks: the
//     move constructors of captures may not.
//  7. A work that throws does not hurt its worker. The error handler is told, once, on the
//     thread where it happened, and the next work runs. What a handler throws is swallowed.
//     Forced unwinding (pthread_exit, pthread_cancel) is not: it goes on, and what was taken
//     still runs. As everywhere in C++, a capture whose *destructor* throws ends the process.
//  8. A work item that runs after its `Do` has returned runs with no lock held. No `Do` waits for
//     a work item to run, except a LockWorker's. A pool's `Do` may wait briefly for its
//     coordinator.
//  9. A `Do` that finds no memory returns ResourceExhausted and leaves `work` untouched.
//
// How a worker ends: `Quit` closes it and does not wait. Where a worker has a `Join`, that
// waits. Its destructor does both; inside the worker's own work it does not wait: what was
// taken still runs. No other call may be under way when the destructor starts, except those
// of the works it waits for.
//
// Not promised: which thread runs the work, that two works run on the same one, that a work
// runs soon. A class that promises more says so.
class IWorker {
 public:
  virtual ~IWorker() = default;

  // Takes `work`, or says why not. Any thread; does not wait (LockWorker's does).
  [[nodiscard]] virtual absl::Status Do(Work&& work) = 0;

  // Refuses every later `Do`; what was taken before still runs. OK for the first call,
  // AlreadyQuit for each later one. Any thread; does not wait.
  virtual absl::Status Quit() = 0;
};

// A worker that never runs two works at once, and runs them in the order in which their `Do`
// calls took effect.
//
// Known elsewhere as: sequenced executor, serial executor.
//
// It is a capability that clang's thread safety analysis knows: data may be
// ABSL_GUARDED_BY(worker), and then only a work that begins with AssertDoneBy(worker)
// (worker_scope.h) may touch it.
class ABSL_LOCKABLE IExclusiveWorker : public IWorker {};

// FailedPrecondition, recognised by IsAlreadyQuit. `who` is the name of the worker.
absl::Status AlreadyQuitError(absl::string_view who);
bool IsAlreadyQuit(const absl::Status& status);

// What a work or a factory did wrong, or what was dropped.
struct ErrorReport {
  absl::string_view worker;      // the worker's name; valid during the call
  absl::Status status;           // never OK; for an exception: Unknown "<type>: <what>"
  std::exception_ptr exception;  // null when nothing was thrown
  int64_t dropped = 0;           // accepted works that were destroyed unrun
};

// Called on the thread where it happened, possibly by several threads at once, with no lock
// held (a LockWorker's own excepted). May call any worker. An empty handler means one line
// on stderr.
using ErrorHandler = std::function<void(const ErrorReport&)>;

}  // namespace workers

#endif  // WORKERS_WORKER_H_
