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
#include "workers/worker.h"

namespace workers {

struct ThreadPoolOptions {
  int min_threads = 5;
  int max_threads = 20;
  // Its limits on the number of workers and their idle time are the two above instead.
  PoolOptions pool = {};
};

// Work that is given before Start waits for it. After Stop it is refused. What waits is run by at
// most max_threads threads; at least min_threads are kept from Start on.
//
// Any thread may call anything. Only Stop and the destructor wait.
class ThreadPool final : public IWorker {
 public:
  // InvalidArgument: not 0 <= min_threads <= max_threads, or as MakePool.
  static absl::StatusOr<std::unique_ptr<ThreadPool>> Create(ThreadPoolOptions options = {});

  // Stops, and waits; inside one of its own works it does not wait.
  ~ThreadPool() override;

  // Makes the threads that waiting work needs, and min_threads at least. OK if it runs already;
  // FailedPrecondition after Stop or Quit.
  absl::Status Start();

  // Refuses later work, runs what was taken and waits until the threads have ended. Where it was
  // never started there is nobody to run it: that is dropped and reported. Any number of times.
  // DeadlineExceeded: `timeout` passed first. FailedPrecondition: called in one of the pool's own
  // works, it does all this but does not wait.
  absl::Status Stop(absl::Duration timeout = absl::InfiniteDuration());

  // Quits, destroys unrun what waits, and returns how many works that were. Also after Quit, and
  // any number of times. What runs already goes on.
  int64_t QuitNow();

  // Changes one or both. Before Start and after Stop they are only kept. InvalidArgument: as
  // Create.
  absl::Status AdjustPoolSize(std::optional<int> min, std::optional<int> max);

  // One thread more. ResourceExhausted: there are max_threads. FailedPrecondition: not running.
  absl::Status StartAWorker();
  // One thread less, as soon as one is idle. FailedPrecondition: not running, or there is none.
  absl::Status StopAWorker();

  // Do, in the caller's Context: a snapshot of it is current in the work, and in the error
  // handler, if the work throws.
  [[nodiscard]] absl::Status CallInThread(Work&& work);

  // As CallInThread; then `then`, if there is one, as Team::DoThen says, in the same Context.
  [[nodiscard]] absl::StatusOr<Team::Ticket> Enqueue(Work&& work, Work&& then = nullptr);

  // Calls f() on a thread of the pool, in the caller's Context, then, in the same thread and
  // Context, on_result(what f returned). The thread counts as idle already: what on_result gives
  // to the pool needs no thread more. R is what f returns; for void and Status on_result takes an
  // absl::Status, for StatusOr<R> that, else a StatusOr<R>; what f throws is Unknown
  // "<type>: <what>". What on_result throws goes to the error handler.
  template <typename F, typename OnResult>
  [[nodiscard]] absl::Status CallInThreadWithCallback(OnResult on_result, F f);

  // A line for people: how many threads, works that wait, and so on.
  std::string DumpStats() const;

  int min() const;
  int max() const;
  int workers() const;  // threads that are started or being started, and not told to end
  int waiters() const;  // of these: idle
  int working() const;  // of these: busy
  int64_t queued() const;
  TeamStatistics statistics() const;

  // IWorker implementation:
  absl::Status Do(Work&& work) override;
  // Refuses and drains; Stop also waits.
  absl::Status Quit() override;

 private:
  struct Shared;  // with the team, which asks for the maximum, and with works

  template <typename R>
  struct Call;

  ThreadPool(std::shared_ptr<Shared> shared, std::unique_ptr<Team> team);

  absl::Status FitTeam();

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
    State(F f, OnResult on_result) : f(std::move(f)), on_result(std::move(on_result)) {}
    std::optional<F> f;
    OnResult on_result;
    typename C::Result result;
  };
  auto state = std::make_shared<State>(std::move(f), std::move(on_result));
  return Enqueue(
             [state] {
               const absl::Status thrown =
                   internal::CatchToStatus([&state] { C::Run(*state->f, state->result); });
               if (!thrown.ok()) state->result = thrown;
               state->f.reset();  // f and what it holds are gone before on_result hears of it
             },
             [state] { std::move(state->on_result)(std::move(state->result)); })
      .status();
}

}  // namespace workers

#endif  // WORKERS_THREAD_POOL_H_
