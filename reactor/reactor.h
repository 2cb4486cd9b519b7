// What an event loop can do, as small interfaces. EventReactor has all of them; what needs only
// one of them takes only that.
//
// One thread runs Run(). Everything here is called on that thread, the reactor thread, unless its
// comment says "any thread". While no Run is under way, the reactor belongs to whoever owns it, one
// thread at a time. In the wrong thread a debug build dies, naming the method and both threads; in
// a release build a method that returns a status returns FailedPrecondition, and any other does
// nothing and tells the error handler.
//
// Before the first Run, calls, timers, descriptors and pool work are taken and wait for it. From
// the end of Run until the next one begins they are refused with AlreadyQuit, and so for ever if
// there is none; triggers and CallWhenRunning are taken meanwhile, for the next Run.

#ifndef REACTOR_REACTOR_H_
#define REACTOR_REACTOR_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "reactor/deferred.h"
#include "reactor/reactor_time.h"
#include "workers/thread_pool.h"
#include "workers/worker.h"

namespace reactor {

// The way in from other threads, and the way out to them. Any thread may call all of it.
class IReactorThreads {
 public:
  virtual ~IReactorThreads() = default;

  // Runs `work` on the reactor thread, in the order of these calls; never before it returns. Does
  // not wait. Not OK: `work` was left as it was. AlreadyQuit; InvalidArgument: it is empty.
  [[nodiscard]] virtual absl::Status CallFromThread(workers::Work&& work) = 0;

  // Runs `work` on a thread of the pool. Not OK: as CallFromThread, and as ThreadPool::Do.
  [[nodiscard]] virtual absl::Status CallInThread(workers::Work&& work) = 0;

  // The most threads that the pool may have. InvalidArgument: less than its minimum. AlreadyQuit.
  virtual absl::Status SuggestThreadPoolSize(int max) = 0;

  // The pool: made when it is first asked for, started and stopped with the loop, and gone when Run
  // returns. AlreadyQuit.
  virtual absl::StatusOr<workers::ThreadPool*> thread_pool() = 0;

  // Is the caller on the reactor thread of this reactor, inside its Run?
  virtual bool InReactorThread() const = 0;

  // As IReactorCore::running.
  virtual bool running() const = 0;

  // The loop as a worker, for who may outlive the reactor: after that, its Do is AlreadyQuit.
  // All that runs on the loop is its work, and Deferreds that are made there have it for home. Do
  // is CallFromThread. It ends with its reactor: Quit is FailedPrecondition (ReactorWorker has
  // one).
  virtual std::shared_ptr<workers::IExclusiveWorker> worker() = 0;

  // For a thread that waits for the reactor: calls `ended`, once, when the shutdown comes to
  // releasing such threads, on the reactor thread; or when the reactor is destroyed. Returns what
  // UnwatchEnd takes. AlreadyQuit: that has happened.
  virtual absl::StatusOr<uint64_t> WatchEnd(std::function<void()> ended) = 0;
  // `ended` is not called any more, unless it is just being called.
  virtual void UnwatchEnd(uint64_t id) = 0;
};

enum class EventPhase { kBefore, kDuring, kAfter };
enum class SystemEvent { kStartup, kShutdown };
using TriggerId = uint64_t;

class IReactorCore {
 public:
  virtual ~IReactorCore() = default;

  // Runs the loop on this thread until it is stopped. It may be called again afterwards. Returns
  // why it ended: OK after Stop. FailedPrecondition: it runs already, here or in another thread; a
  // work of the loop may not call it.
  virtual absl::Status Run() = 0;

  // Has Run shut down and return. Does not wait. Any thread. FailedPrecondition: it does not run,
  // or was told to stop already.
  virtual absl::Status Stop() = 0;

  // From when the startup comes to `during`, until the shutdown does. Any thread.
  virtual bool running() const = 0;

  // While the loop runs: runs `work` before this returns. Before: when it has started, after
  // the triggers and calls of that phase that were given before. InvalidArgument: it is empty.
  virtual absl::Status CallWhenRunning(workers::Work&& work) = 0;

  // Has `f` called once, when the next event of that kind comes to `phase`: all of `before`, then
  // all of `during`, then all of `after`, each in the order in which they were given. What
  // `before` returns is waited for, the loop turning, before `during` begins; what the others
  // return is not. A failure of any is reported, and the others go on. InvalidArgument: `f` is
  // empty.
  virtual absl::StatusOr<TriggerId> AddSystemEventTrigger(EventPhase phase, SystemEvent event,
                                                          std::function<Deferred<void>()> f) = 0;

  // NotFound: there is none of that id any more.
  virtual absl::Status RemoveSystemEventTrigger(TriggerId id) = 0;
};

// Something with a file descriptor, which it owns.
class IDescriptor {
 public:
  virtual ~IDescriptor() = default;

  // -1: it is closed.
  virtual int fd() const = 0;

  // The reactor has let go of it, because of what DoRead or DoWrite returned, because its
  // descriptor is gone, or at the end of the loop. It is called at most once for each time that it
  // was added.
  virtual void ConnectionLost(absl::Status why) = 0;
};
class IReadDescriptor : public virtual IDescriptor {
 public:
  // It can be read. Not OK: let go of it.
  virtual absl::Status DoRead() = 0;
};
class IWriteDescriptor : public virtual IDescriptor {
 public:
  virtual absl::Status DoWrite() = 0;
};

// Level-triggered: what is ready is called each turn for as long as it is. An object is removed
// before it is destroyed, and before it closes its descriptor; both may happen inside any
// callback, its own too. Idempotent: adding what is there and removing what is not are OK.
class IReactorDescriptors {
 public:
  virtual ~IReactorDescriptors() = default;

  // InvalidArgument: its fd() is -1. AlreadyExists: another object has that descriptor. Otherwise
  // whatever the system has against waiting for it.
  virtual absl::Status AddReader(IReadDescriptor& d) = 0;
  virtual absl::Status AddWriter(IWriteDescriptor& d) = 0;
  // Does not call fd().
  virtual absl::Status RemoveReader(IReadDescriptor& d) = 0;
  virtual absl::Status RemoveWriter(IWriteDescriptor& d) = 0;
};

}  // namespace reactor

#endif  // REACTOR_REACTOR_H_
