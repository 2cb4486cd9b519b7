// A pool of threads between a minimum and a maximum, as twisted.python.threadpool.

#ifndef WORKERS_THREAD_POOL_H_
#define WORKERS_THREAD_POOL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "workers/internal/report.h"
#include "workers/pool.h"
#include "workers/team.h"
#include "workers/work_handle.h"
#include "workers/worker.h"

namespace workers {

struct ThreadPoolOptions {
  int min_threads = 5;
  int max_threads = 20;
  // Its limits on the number of workers and their idle time are the two above instead.
  PoolOptions pool = {};
};

// Items that are submitted before Start wait for it; after Stop they are refused. At most
// max_threads threads run them; at least min_threads are kept from Start on. Known elsewhere as: a
// fixed or elastic thread pool.
//
// Any thread may call anything. Only Stop and the destructor wait.
class ThreadPool final : public IWorker {
 public:
  // InvalidArgument: not 0 <= min_threads <= max_threads, or as MakePool.
  static absl::StatusOr<std::unique_ptr<ThreadPool>> Create(ThreadPoolOptions options = {});

  // Stops, and waits; inside one of its own works it does not wait.
  ~ThreadPool() override;

  // Starts the threads that waiting items need, and min_threads or more. OK if it has started
  // already; FailedPrecondition after Stop or Quit.
  absl::Status Start();

  // Refuses later items, runs the accepted ones and waits until the threads have ended. If the pool
  // was never started, accepted items are dropped and reported. Any number of times.
  // DeadlineExceeded: `timeout` passed first. FailedPrecondition: inside one of the pool's own
  // items it does all this but does not wait.
  absl::Status Stop(absl::Duration timeout = absl::InfiniteDuration());

  // Quits, destroys the waiting items without running them and returns how many those were. Also
  // after Quit, and any number of times. Items that run are not interrupted.
  int64_t QuitNow();

  // Changes one or both. Before Start and after Stop they are only kept. InvalidArgument: as
  // Create.
  absl::Status AdjustPoolSize(std::optional<int> min, std::optional<int> max);

  // One thread more. ResourceExhausted: there are max_threads. FailedPrecondition: not running.
  absl::Status StartAWorker();
  // One thread fewer, as soon as one is idle; items that already wait do not have it replaced.
  // FailedPrecondition: not running, or there are only min_threads.
  absl::Status StopAWorker();

  // Do, in the caller's Context: a snapshot of it is current in the item, and in the error handler
  // if the item throws.
  [[nodiscard]] absl::Status CallInThread(Work&& work);

  // As CallInThread; then `then`, if there is one, as Team::Enqueue says, in the same Context.
  [[nodiscard]] absl::StatusOr<WorkHandle> Enqueue(Work&& work, Work&& then = nullptr);

  // Calls f() on a thread of the pool, in the caller's Context, then, in the same thread and
  // Context, on_result(what f returned). The thread counts as idle already: an item that on_result
  // submits to the pool needs no further thread. R is what f returns; for void and Status on_result
  // takes an absl::Status, for StatusOr<R> that, else a StatusOr<R>; what f throws is Unknown
  // "<type>: <what>". What on_result throws goes to the error handler.
  template <typename F, typename OnResult>
  [[nodiscard]] absl::Status CallInThreadWithCallback(OnResult on_result, F f);

  // One line for people: how many threads, waiting items, and so on.
  std::string DumpStats() const;

  const std::string& name() const;
  int min() const;
  int max() const;
  int workers() const;  // threads that have been started or are being started, and are to stay
  int waiters() const;  // of these: idle
  int working() const;  // of these: busy
  int64_t queued() const;
  TeamStatistics statistics() const;

  // IWorker implementation:
  absl::Status Do(Work&& work) override;
  // Refuses and drains; Stop also waits.
  absl::Status Quit() override;

 private:
  struct Shared;  // with work items

  template <typename R>
  struct Call;

  ThreadPool(std::shared_ptr<Shared> shared, std::unique_ptr<Team> team);

  absl::Status ResizeTeam();
  absl::Status CheckRunning() const;

  const std::shared_ptr<Shared> shared_;
  const std::unique_ptr<Team> team_;
};

// What f returns, as on_result takes it.
template <typename R>
struct ThreadPool::Call {
  using Result = absl::StatusOr<R>;
  template <typename F>
  static void Run(F& f, Result& result) {
    result = f();
  }
};
template <>
struct ThreadPool::Call<void> {
  using Result = absl::Status;
  template <typename F>
  static void Run(F& f, Result&) {
    f();
  }
};
template <>
struct ThreadPool::Call<absl::Status> {
  using Result = absl::Status;
  template <typename F>
  static void Run(F& f, Result& result) {
    result = f();
  }
};
template <typename R>
struct ThreadPool::Call<absl::StatusOr<R>> : ThreadPool::Call<R> {};

template <typename F, typename OnResult>
absl::Status ThreadPool::CallInThreadWithCallback(OnResult on_result, F f) {
  using C = Call<std::decay_t<std::invoke_result_t<F&>>>;
  struct State {
    State(F&& function, OnResult&& deliver)
        : f(std::move(function)), on_result(std::move(deliver)) {}
    std::optional<F> f;
    OnResult on_result;
    typename C::Result result;
  };
  return internal::WithoutBadAlloc(name(), [&] {
    auto state = std::make_shared<State>(std::move(f), std::move(on_result));
    return Enqueue(
               [state] {
                 const absl::Status thrown =
                     internal::CatchToStatus([&state] { C::Run(*state->f, state->result); });
                 if (!thrown.ok()) state->result = thrown;
                 state->f.reset();  // f and its captures are gone before on_result runs
               },
               [state] { std::move(state->on_result)(std::move(state->result)); })
        .status();
  });
}

}  // namespace workers

#endif  // WORKERS_THREAD_POOL_H_
