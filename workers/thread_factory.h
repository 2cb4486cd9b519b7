// How a thread is started and joined: the seam where tests make threads fail.

#ifndef WORKERS_THREAD_FACTORY_H_
#define WORKERS_THREAD_FACTORY_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "workers/worker.h"

namespace workers {

struct ThreadOptions {
  // The system shows the first 15 bytes ("-<number>" at the end is kept); if a living thread
  // of the factory has that name already, its end is replaced by "~2", "~3" and so on.
  std::string name = {};
  size_t stack_size = 0;       // bytes; 0: the system's default
  std::vector<int> cpus = {};  // the processors it may run on; empty: wherever its starter may
};

// A started thread. Owned by whoever started it.
class Thread {
 public:
  // Without a Join before it, hands the thread to its factory, which joins it; does not wait.
  virtual ~Thread() = default;

  // Waits until the thread's `main` has returned and its captures are destroyed. At most once,
  // and never on the thread itself.
  virtual void Join() = 0;
};

// Any thread may call anything.
//
// A thread whose owner goes without a Join (a worker that is destroyed in its own work has no
// other way) becomes an orphan of its factory. Orphans that have ended are joined at the next
// Start and in Reap. The factory's destructor waits for the rest; a thread that still has an
// owner must not outlive its factory.
class ThreadFactory {
 public:
  virtual ~ThreadFactory() = default;

  // Starts a thread that runs `main`, then destroys it, then ends; an exception that leaves
  // `main` ends the process. InvalidArgument: bad options, empty main. ResourceExhausted: the
  // system has no thread left. Whenever it is not OK, `main` was left as it was.
  virtual absl::StatusOr<std::unique_ptr<Thread>> Start(const ThreadOptions& options,
                                                        Work&& main) = 0;

  // Joins the orphans that have ended and returns how many those were. Waits for none that
  // still runs.
  virtual size_t Reap() = 0;
};

// A factory of the system's threads.
std::unique_ptr<ThreadFactory> CreateThreadFactory();

// The only process-wide object of workers/: a factory that is never destroyed, so that it
// works during the program's end too. At exit() it joins its orphans. In the child of a fork
// it starts anew, without the parent's threads.
ThreadFactory& DefaultThreadFactory();

}  // namespace workers

#endif  // WORKERS_THREAD_FACTORY_H_
