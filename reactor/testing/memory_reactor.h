// A reactor that a test steps by hand.

#ifndef REACTOR_TESTING_MEMORY_REACTOR_H_
#define REACTOR_TESTING_MEMORY_REACTOR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "reactor/deferred.h"
#include "reactor/internal/descriptors.h"
#include "reactor/internal/triggers.h"
#include "reactor/poller.h"
#include "reactor/reactor.h"
#include "reactor/reactor_time.h"
#include "reactor/timer_queue.h"
#include "workers/thread_pool.h"
#include "workers/worker.h"

namespace reactor::test {

struct MemoryReactorOptions {
  std::string name = "memory-reactor";
  int min_threads = 0;  // of its pool
  int max_threads = 10;
  workers::ErrorHandler on_error = {};  // as that of an EventReactor
};

// All of a reactor, without a thread, a descriptor or a clock: nothing happens but in a step, and a
// step happens in the thread that calls it. For tests of code that is given an IReactorTime,
// IReactorThreads, IReactorCore or IReactorDescriptors.
//
//   reactor::test::MemoryReactor reactor;
//   ASSERT_TRUE(reactor.Start().ok());
//   Fetcher fetcher(reactor);      // reads in the pool, and tells in the loop; has a timeout
//   fetcher.Fetch();
//   EXPECT_TRUE(reactor.StepThread());  // the read
//   EXPECT_EQ(reactor.queued_calls(), 1u);
//   EXPECT_TRUE(reactor.Turn());   // what is told
//   reactor.Advance(absl::Seconds(30));
//
// The comments of the interfaces hold, with the time standing still but in Advance and Run. All
// that runs in Start, Turn, Advance, Settle and Run is work of the loop: Deferreds that are made in
// there have it for home. The pool is a ThreadPool of MemoryWorkers: its works run in StepThread,
// which is no work of the loop.
//
// Steps of the loop are made by one thread at a time, and not inside one another. StepThread may be
// called by another thread meanwhile: a work that blocks until the loop has done something (as
// BlockingCallFromThread does) needs that.
//
// The shutdown is that of an EventReactor, a part of it in each turn; it has no timeouts: what a
// phase waits for, the test brings about, or it stays there. There are no signals.
//
// Destruction, not inside its own step: as that of an EventReactor, but it may be running. What the
// pool has taken and not begun is dropped too.
class MemoryReactor final : public IReactorTime,
                            public IReactorThreads,
                            public IReactorCore,
                            public IReactorDescriptors {
 public:
  explicit MemoryReactor(MemoryReactorOptions options = {});
  ~MemoryReactor() override;

  // Begins as Run does: the startup, as far as no Deferred is to be waited for; later turns go on
  // with that. FailedPrecondition: it runs already.
  absl::Status Start();

  // One turn of the loop: descriptors that are ready, timers that are due, the calls that were
  // given before it. Then the startup or the shutdown goes on, if it can. False: nothing ran. Dies
  // before the first Start; when it has stopped it does nothing.
  bool Turn();

  // Moves the time on by `by` (not negative), in one leap, and runs the timers that are due; what
  // these themselves give waits. Dies and does nothing as Turn.
  void Advance(absl::Duration by);

  // Lets one thread of the pool run, of those that were given a work the one that ran longest ago:
  // it runs that work, and then, as threads of a pool do, what waits in the backlog. Any thread,
  // not inside the loop (dies). False: none was given a work.
  bool StepThread();

  // Turns and works of the pool, until nothing is left of calls and works. Descriptors that stay
  // ready, and timers that are due but were given meanwhile, do not keep it going.
  void Settle();

  // The turns in which an EventReactor would call `d` next call it: level-triggered, until it is
  // set to something else. It may be set before it is added, and is forgotten when it is removed.
  void SetReady(IDescriptor& d, Interest ready);

  // What is there. Reactor thread; queued_calls: any thread.
  std::vector<DelayedCall> delayed_calls() const { return timers_.pending(); }
  std::vector<IReadDescriptor*> readers() const;
  std::vector<IWriteDescriptor*> writers() const;
  size_t queued_calls() const;

  // IReactorTime implementation:
  absl::Duration Now() const override;
  absl::StatusOr<DelayedCall> CallLater(absl::Duration delay, workers::Work&& work) override;

  // IReactorThreads implementation:
  absl::Status CallFromThread(workers::Work&& work) override;
  absl::Status CallInThread(workers::Work&& work) override;
  absl::Status SuggestThreadPoolSize(int max) override;
  absl::StatusOr<workers::ThreadPool*> thread_pool() override;
  bool InReactorThread() const override;  // in a step of the loop
  std::shared_ptr<workers::IExclusiveWorker> worker() override;
  absl::StatusOr<uint64_t> WatchEnd(std::function<void()> ended) override;
  void UnwatchEnd(uint64_t id) override;

  // IReactorCore implementation:
  // Starts, and then turns and runs works of the pool, leaping to the next timer each time that
  // nothing else is left, until it is stopped. Unavailable: nothing is left that could stop it; it
  // is running still, or stopping.
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
  struct Core;     // what any thread may touch; shared with worker()
  struct Threads;  // the pool's, and what steps them
  // Calls `f` as a step of the loop.
  void Enter(const char* method, absl::FunctionRef<void()> f);
  void RunWork(workers::Work& work);
  void Report(absl::Status status) const;

  // Any thread: it may go meanwhile, but not while somebody has it.
  absl::StatusOr<std::shared_ptr<workers::ThreadPool>> Pool();

  bool TurnInside();
  bool RunCalls();
  bool RunDescriptors();

  bool GoOn();
  void EndShutdown();
  void ReleaseWatchers();
  bool IsPoolDone();

  const std::shared_ptr<Core> core_;
  const std::shared_ptr<Threads> threads_;

  // The reactor thread's.
  TimerQueue timers_;
  internal::Triggers triggers_;
  std::shared_ptr<int> waiting_ = std::make_shared<int>(0);  // Deferreds of `before`, not fired
  std::shared_ptr<workers::ThreadPool> draining_;            // told to quit; until the end
  const std::unique_ptr<Poller> poller_;
  internal::Descriptors descriptors_;
  std::map<IDescriptor*, Interest> ready_;
};

}  // namespace reactor::test

#endif  // REACTOR_TESTING_MEMORY_REACTOR_H_
