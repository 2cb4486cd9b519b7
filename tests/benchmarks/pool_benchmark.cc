// Pools and serial workers beside those of Asio, in one process.
//
//   apt-get install libasio-dev
//   bazel run -c opt --force_pic //tests/benchmarks:pool_benchmark
//   bazel run ... -- ROUNDS          another number of rounds than 11
//   bazel run ... -- ROUNDS TEXT     only measurements with TEXT in "<case>/<implementation>",
//                                    say pool/threads:2/iworker: for a profiler
//
// Each round makes each measurement once, each with a fresh pool whose threads have had work
// before; the implementations take turns at going first. What is printed are medians, least and
// most of all rounds, in nanoseconds per operation. Single figures depend on the machine and on
// its other load: compare ratios, and only within one run.

#include <algorithm>
#include <asio.hpp>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "workers/pool.h"
#include "workers/serial_worker.h"
#include "workers/team.h"

namespace {

constexpr int kTasks = 200'000;
constexpr int kWarmUpTasks = 20'000;
constexpr int kSerials = 10'000;

// --- the implementations --------------------------------------------------------------------

struct Iworker {
  static constexpr absl::string_view kName = "iworker";

  class Pool {
   public:
    explicit Pool(int threads) {
      absl::StatusOr<std::unique_ptr<workers::Team>> made =
          workers::MakePool({.limits = {.min_workers = threads, .soft_limit = threads}});
      if (!made.ok()) std::abort();
      team_ = *std::move(made);
    }
    template <typename Task>
    void Post(Task task) {
      if (!team_->Do(task).ok()) std::abort();
    }
    workers::Team& get() { return *team_; }

   private:
    std::unique_ptr<workers::Team> team_;
  };

  class Serials {
   public:
    Serials(Pool& pool, int count) : group_(pool.get()) {
      for (int i = 0; i < count; ++i) serials_.emplace_back(group_);
    }
    template <typename Task>
    void Post(int serial, Task task) {
      if (!serials_[serial].Do(task).ok()) std::abort();
    }

   private:
    workers::SerialGroup group_;
    std::deque<workers::SerialWorker> serials_;
  };
};

struct Asio {
  static constexpr absl::string_view kName = "asio";

  class Pool {
   public:
    explicit Pool(int threads) : pool_(threads) {}
    ~Pool() { pool_.join(); }
    template <typename Task>
    void Post(Task task) {
      asio::post(pool_, task);
    }
    asio::thread_pool& get() { return pool_; }

   private:
    asio::thread_pool pool_;
  };

  class Serials {
   public:
    Serials(Pool& pool, int count) {
      for (int i = 0; i < count; ++i) serials_.emplace_back(pool.get().get_executor());
    }
    template <typename Task>
    void Post(int serial, Task task) {
      asio::post(serials_[serial], task);
    }

   private:
    std::deque<asio::strand<asio::thread_pool::executor_type>> serials_;
  };
};

// --- the bodies, the same for each ----------------------------------------------------------

// Counts down; the waiting thread is woken once.
class Countdown {
 public:
  explicit Countdown(int from) : left_(from) {}
  void Count() {
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) done_.set_value();
  }
  void Wait() { done_.get_future().wait(); }

 private:
  std::atomic<int> left_;
  std::promise<void> done_;
};

// The empty task: two pointers, of which one counts it down.
struct Task {
  Countdown* countdown;
  void* unused;
  void operator()() const { countdown->Count(); }
};

using Clock = std::chrono::steady_clock;

double NanosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

template <typename Implementation>
double PostToPool(int threads) {
  typename Implementation::Pool pool(threads);
  const auto post = [&pool](int tasks) {
    const auto countdown = std::make_unique<Countdown>(tasks);
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < tasks; ++i) pool.Post(Task{countdown.get(), nullptr});
    countdown->Wait();
    return NanosecondsSince(start) / tasks;
  };
  post(kWarmUpTasks);
  return post(kTasks);
}

template <typename Implementation>
double PostToSerials(int threads) {
  typename Implementation::Pool pool(threads);
  typename Implementation::Serials serials(pool, kSerials);
  const auto post = [&serials](int tasks) {
    const auto countdown = std::make_unique<Countdown>(tasks);
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < tasks; ++i) serials.Post(i % kSerials, Task{countdown.get(), nullptr});
    countdown->Wait();
    return NanosecondsSince(start) / tasks;
  };
  post(kWarmUpTasks);
  return post(kTasks);
}

template <typename Implementation>
double CreateAndDestroySerials(int threads) {
  typename Implementation::Pool pool(threads);
  const auto create_and_destroy = [&pool] {
    const Clock::time_point start = Clock::now();
    {
      typename Implementation::Serials serials(pool, kSerials);
    }
    return NanosecondsSince(start) / kSerials;
  };
  create_and_destroy();
  return create_and_destroy();
}

// --- rounds and the table -------------------------------------------------------------------

struct Measurement {
  std::string name;
  std::function<double()> body;
  std::vector<double> nanoseconds = {};  // one a round

  double Median() {
    std::sort(nanoseconds.begin(), nanoseconds.end());
    return nanoseconds[nanoseconds.size() / 2];
  }
  std::string Cell() {
    if (nanoseconds.empty()) return "";
    char cell[80];
    const double median = Median();
    std::snprintf(cell, sizeof(cell), "%.0f (%.0f..%.0f)", median, nanoseconds.front(),
                  nanoseconds.back());
    return cell;
  }
};

struct Case {
  std::string name;
  Measurement iworker;
  Measurement asio;
};

Case MakeCase(const std::string& name, double (*iworker)(int), double (*asio)(int), int threads) {
  return {name,
          {absl::StrCat(name, "/", Iworker::kName), [=] { return iworker(threads); }},
          {absl::StrCat(name, "/", Asio::kName), [=] { return asio(threads); }}};
}

std::vector<Case> MakeCases() {
  std::vector<Case> cases;
  for (int threads : {2, 4, 10}) {
    cases.push_back(MakeCase(absl::StrCat("pool/threads:", threads), &PostToPool<Iworker>,
                             &PostToPool<Asio>, threads));
  }
  for (int threads : {2, 4}) {
    cases.push_back(MakeCase(absl::StrCat("serial/threads:", threads), &PostToSerials<Iworker>,
                             &PostToSerials<Asio>, threads));
  }
  cases.push_back(MakeCase("serial/create_destroy", &CreateAndDestroySerials<Iworker>,
                           &CreateAndDestroySerials<Asio>, 2));
  return cases;
}

void Run(int rounds, absl::string_view text) {
  std::vector<Case> cases = MakeCases();
  for (int round = 0; round < rounds; ++round) {
    for (Case& a_case : cases) {
      Measurement* order[] = {&a_case.iworker, &a_case.asio};
      if (round % 2 == 1) std::swap(order[0], order[1]);
      for (Measurement* measurement : order) {
        if (!absl::StrContains(measurement->name, text)) continue;
        measurement->nanoseconds.push_back(measurement->body());
      }
    }
  }
  std::printf("%-24s %-24s %-24s %s\n", "ns, of each round",
              std::string(Iworker::kName).append(", median").c_str(),
              std::string(Asio::kName).append(", median").c_str(), "ratio");
  for (Case& a_case : cases) {
    const std::string iworker = a_case.iworker.Cell();
    const std::string asio = a_case.asio.Cell();
    if (iworker.empty() && asio.empty()) continue;
    std::printf("%-24s %-24s %-24s", a_case.name.c_str(), iworker.c_str(), asio.c_str());
    if (!iworker.empty() && !asio.empty()) {
      std::printf(" %.2f", a_case.iworker.Median() / a_case.asio.Median());
    }
    std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 11;
  if (rounds < 1 || argc > 3) {
    std::fprintf(stderr, "usage: %s [ROUNDS [TEXT]]\n", argv[0]);
    return 2;
  }
  Run(rounds, argc > 2 ? argv[2] : "");
}
