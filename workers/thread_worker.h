// An own thread and a queue.

#ifndef WORKERS_THREAD_WORKER_H_
#define WORKERS_THREAD_WORKER_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "workers/thread_factory.h"
#include "workers/worker.h"

namespace workers {

struct ThreadWorkerOptions {
  ThreadOptions thread = {};         // its name is the worker's too; empty: "thread-worker"
  ThreadFactory* factory = nullptr;  // null: DefaultThreadFactory(); outlives the worker
  ErrorHandler on_error = {};
  size_t max_queued =
      SIZE_MAX;  // a Do beyond it is ResourceExhausted; the running work is not counted
  // Runs as the last act of the thread, after the last work's captures are destroyed.
  absl::AnyInvocable<void() &&> on_exit = {};
};

// Runs its work on a thread of its own, one after another, in the order of the Do calls: for
// what must stay on one thread (a database handle, a library that is not thread-safe) and for
// what blocks.
//
//   auto worker = workers::ThreadWorker::Create({.thread = {.name = "disk"}});
//   if (!worker.ok()) return worker.status();
//   absl::Status taken = (*worker)->Do([] { WriteTheFile(); });
//
// Do and Quit never wait. Do allocates nothing once the queue has had its size before, and
// makes a system call only when the thread sleeps.
//
// Destruction quits and waits until everything that was taken has run; on the worker's own
// thread it does not wait: the thread goes on, ends, and is joined by its factory.
//
// A work that ends the thread by force (pthread_exit, pthread_cancel) closes the worker as
// Quit does; what was taken runs while the thread unwinds, and must not do so again.
//
// In the child of a fork the thread does not exist: Do, Quit and Join are FailedPrecondition,
// and the destructor leaks what the thread owns.
class ThreadWorker final : public IExclusiveWorker {
 public:
  // A thread that cannot be started is an error here (ThreadFactory::Start has the codes),
  // never a worker that does nothing. The options' on_exit is then destroyed unrun.
  static absl::StatusOr<std::unique_ptr<ThreadWorker>> Create(ThreadWorkerOptions options = {});

  ~ThreadWorker() override;

  // Waits until the thread has ended: all work has run, on_exit has returned. Any number of
  // calls, from any other thread. FailedPrecondition: before Quit, or on the worker's own
  // thread. DeadlineExceeded: `timeout` passed first.
  absl::Status Join(absl::Duration timeout = absl::InfiniteDuration());

  // How many works were taken and have not begun. Any thread.
  size_t queued() const;

  // IWorker implementation:
  absl::Status Do(Work&& work) override;
  absl::Status Quit() override;

 private:
  struct Core;  // shared with the thread, which may outlive the worker

  explicit ThreadWorker(std::shared_ptr<Core> core);

  const std::shared_ptr<Core> core_;
};

}  // namespace workers

#endif  // WORKERS_THREAD_WORKER_H_
