// The loop as an exclusive worker.

#ifndef REACTOR_REACTOR_WORKER_H_
#define REACTOR_REACTOR_WORKER_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "reactor/reactor.h"
#include "workers/worker.h"

namespace reactor {

struct ReactorWorkerOptions {
  std::string name = "reactor-worker";
  workers::ErrorHandler on_error = {};  // hears of works that throw
  // The reactor that Quit stops; null: Quit closes this worker only. Outlives the worker.
  IReactorCore* quit_stops_reactor = nullptr;
};

// Runs its work on the reactor thread, in the order of the Do calls and among the reactor's other
// calls from threads: for what takes a worker, and shall be done by the loop. There may be many
// for one reactor, and a Team may have one for its coordinator.
//
// A Deferred that is made in its work has the loop for home, as everything that runs there.
//
// Quit closes this worker and not the loop; what was taken still runs with the loop. When the
// reactor has stopped, Do is AlreadyQuit too. What the reactor drops when it is destroyed, it
// counts and reports.
//
// Destruction quits, and does not wait: what was taken runs later. It may outlive its reactor.
class ReactorWorker final : public workers::IExclusiveWorker {
 public:
  explicit ReactorWorker(IReactorThreads& reactor, ReactorWorkerOptions options = {});
  ~ReactorWorker() override;

  // IWorker implementation:
  absl::Status Do(workers::Work&& work) override;
  absl::Status Quit() override;

 private:
  struct Core;  // shared with works, which may run when the worker is gone
  struct Node;

  const std::shared_ptr<Core> core_;
};

}  // namespace reactor

#endif  // REACTOR_REACTOR_WORKER_H_
