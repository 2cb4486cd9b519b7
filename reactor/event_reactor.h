// The event loop.

#ifndef REACTOR_EVENT_REACTOR_H_
#define REACTOR_EVENT_REACTOR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "reactor/poller.h"
#include "reactor/reactor.h"
#include "reactor/reactor_time.h"
#include "workers/thread_pool.h"
#include "workers/worker.h"

namespace reactor {

struct EventReactorOptions {
  std::string name = "reactor";
  // Makes the poller. Empty: an EpollPoller.
  std::function<absl::StatusOr<std::unique_ptr<Poller>>()> create_poller = {};
  // Of the pool that thread_pool() makes. An empty name is "<name>-pool"; an empty handler is
  // that of the reactor.
  workers::ThreadPoolOptions pool = {.min_threads = 0, .max_threads = 10, .pool = {.name = ""}};
  // Hears of works that throw, of failures of triggers, of what is dropped, and of phases of the
  // shutdown that took too long. Must not throw.
  workers::ErrorHandler on_error = {};
  // SIGINT, SIGTERM and SIGHUP stop the reactor, from `during` startup until Run returns. One that
  // the process ignores stays ignored. All running reactors with this option share the handlers;
  // the last one to end puts back what was there before.
  bool handle_signals = true;
  // How many calls from threads run in one turn, before timers and descriptors have theirs.
  int calls_per_turn = 256;
  // How long Run waits for the Deferreds of `before` startup, of `before` shutdown, and for the
  // pool's works.
  absl::Duration startup_timeout = absl::Seconds(60);
  absl::Duration shutdown_timeout = absl::Seconds(60);
  absl::Duration pool_timeout = absl::Seconds(60);
};

// Has something run on the loop, from a signal handler. See EventReactor::MakeSignalTrigger.
class SignalTrigger {
 public:
  SignalTrigger(SignalTrigger&&) = default;
  SignalTrigger& operator=(SignalTrigger&& other) noexcept;
  // Its work runs no more; it is destroyed by the loop. Not in a signal handler.
  ~SignalTrigger();

  // Has the work run soon, once for all Triggers before it begins. Any thread and a signal handler:
  // takes no lock, allocates nothing, leaves errno as it was. False: the reactor has stopped or is
  // gone; the work runs in its next Run, or not at all.
  bool Trigger() const;

 private:
  friend class EventReactor;
  struct State;

  explicit SignalTrigger(std::shared_ptr<State> state) : state_(std::move(state)) {}
  void Close();

  std::shared_ptr<State> state_;
};

struct EventReactorStatistics {
  int64_t turns = 0;    // of the loop
  int64_t calls = 0;    // from threads, that ran
  int64_t wakeups = 0;  // system calls that ended a sleep, or were to
  int64_t dropped = 0;  // accepted works that were destroyed unrun
};

// An event loop on one thread: the four interfaces of a reactor. The comments there say what each
// method does, and on which thread. There may be any number of them, each on its thread.
//
//   auto reactor = reactor::EventReactor::Create();
//   if (!reactor.ok()) return reactor.status();
//   (*reactor)->CallLater(absl::Seconds(1), [&] { (*reactor)->Stop().IgnoreError(); }).status();
//   return (*reactor)->Run();
//
//   state     | Run goes on with            | left by
//   idle      | (it was never run)          | Run
//   starting  | triggers of the startup     | all of them done; Stop
//   running   | turns                       | Stop, a signal, an error of the poller
//   stopping  | the shutdown, below         | the end of it
//   stopped   | (it has returned)           | Run
//
// A turn waits until something is there, and then runs triggers of signals, descriptors that are
// ready, timers that are due, and a bounded number of calls from threads: no kind starves the
// others. A call from a thread makes a system call only if the loop sleeps, and then only the
// first.
//
// The shutdown: (1) triggers of `before`, and their Deferreds, with everything still open.
// (2) CallInThread and WatchEnd are refused; who waits (WatchEnd) is released. (3) The pool
// finishes what it took, while the loop turns and runs its results. (4) Descriptors that are left
// get their ConnectionLost; triggers of `during`. (5) Triggers of `after`. (6) The queue of
// CallFromThread is closed, and what was taken runs. A phase that takes longer than its timeout is
// reported and left: the pool drops its backlog, and a thread that is stuck is joined by another
// thread, which is left to the pool's ThreadFactory. A second signal ends all waiting at once.
//
// Timers that still wait when Run returns are kept for the next Run. Run returns OK after Stop,
// Cancelled after a signal, and what the poller said if that failed.
//
// Destruction: not while it runs. It destroys, unrun, on the calling thread, what was taken and
// has not run: calls, timers, triggers; it counts them, and reports all but the triggers.
// Handles (DelayedCall, SignalTrigger, worker()) may outlive it.
//
// In the child of a fork everything is FailedPrecondition, and the destructor leaks.
class EventReactor final : public IReactorTime,
                           public IReactorThreads,
                           public IReactorCore,
                           public IReactorDescriptors {
 public:
  // ResourceExhausted: no descriptor is left. InvalidArgument: the options contradict each other.
  static absl::StatusOr<std::unique_ptr<EventReactor>> Create(EventReactorOptions options = {});

  ~EventReactor() override;

  // Makes a trigger that has `work`, which is not empty, run on the loop, any number of times. Any
  // thread.
  SignalTrigger MakeSignalTrigger(absl::AnyInvocable<void()> work);

  // Handles of the timers that wait, in the order in which they are due. Reactor thread.
  std::vector<DelayedCall> delayed_calls() const;

  // Removes all readers and writers, and returns them. Reactor thread.
  std::vector<IDescriptor*> RemoveAll();

  // Any thread.
  EventReactorStatistics statistics() const;

  // IReactorTime implementation:
  absl::Duration Now() const override;
  absl::StatusOr<DelayedCall> CallLater(absl::Duration delay, workers::Work&& work) override;

  // IReactorThreads implementation:
  [[nodiscard]] absl::Status CallFromThread(workers::Work&& work) override;
  [[nodiscard]] absl::Status CallInThread(workers::Work&& work) override;
  absl::Status SuggestThreadPoolSize(int max) override;
  absl::StatusOr<workers::ThreadPool*> thread_pool() override;
  bool InReactorThread() const override;
  std::shared_ptr<workers::IExclusiveWorker> worker() override;
  absl::StatusOr<uint64_t> WatchEnd(std::function<void()> ended) override;
  void UnwatchEnd(uint64_t id) override;

  // IReactorCore implementation:
  absl::Status Run() override;
  absl::Status Stop() override;
  bool running() const override;  // IReactorThreads' too
  absl::Status CallWhenRunning(workers::Work&& work) override;
  absl::StatusOr<TriggerId> AddSystemEventTrigger(EventPhase phase, SystemEvent event,
                                                  std::function<Deferred<void>()> f) override;
  absl::Status RemoveSystemEventTrigger(TriggerId id) override;

  // IReactorDescriptors implementation:
  absl::Status AddReader(IReadDescriptor& d) override;
  absl::Status AddWriter(IWriteDescriptor& d) override;
  absl::Status RemoveReader(IReadDescriptor& d) override;
  absl::Status RemoveWriter(IWriteDescriptor& d) override;

 private:
  friend class SignalTrigger;
  struct Core;  // what any thread may touch; shared with handles, which outlive the reactor
  class Loop;   // what only the reactor thread may touch

  EventReactor(std::shared_ptr<Core> core, std::unique_ptr<Loop> loop);

  const std::shared_ptr<Core> core_;
  std::unique_ptr<Loop> loop_;
};

}  // namespace reactor

#endif  // REACTOR_EVENT_REACTOR_H_
