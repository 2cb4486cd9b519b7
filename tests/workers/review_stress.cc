// Random use of pools, for the sanitizers.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/team.h"
#include "workers/thread_factory.h"
#include "workers/thread_worker.h"

using namespace workers;

class Flaky : public ThreadFactory {
 public:
  absl::StatusOr<std::unique_ptr<Thread>> Start(const ThreadOptions& o, Work&& main) override {
    if (fail_of > 0 && (n.fetch_add(1) * 7 + 3) % 10 < fail_of)
      return absl::ResourceExhaustedError("flaky");
    return DefaultThreadFactory().Start(o, std::move(main));
  }
  size_t Reap() override { return DefaultThreadFactory().Reap(); }
  std::atomic<int> n{0};
  int fail_of = 0;
};

#define CHECK(x)                                                                               \
  do {                                                                                         \
    if (!(x)) {                                                                                \
      std::fprintf(stderr, "FAILED line %d round %d seed %u: %s\n", __LINE__, g_round, g_seed, \
                   #x);                                                                        \
      std::abort();                                                                            \
    }                                                                                          \
  } while (0)
int g_round;
unsigned g_seed;

struct Shared {
  std::unique_ptr<Team> team;
};

void Check(const TeamStatistics& s, bool end) {
  CHECK(s.idle + s.busy + s.starting + s.ending == s.live);
  CHECK(s.blocked <= s.busy && s.idle >= 0 && s.busy >= 0 && s.starting >= 0 && s.ending >= 0 &&
        s.blocked >= 0);
  int64_t in = s.accepted - s.completed - s.failed - s.dropped - s.withdrawn;
  CHECK(in >= s.backlogged);
  if (end) CHECK(in == 0 && s.backlogged == 0 && s.live == 0);
}

void Round(unsigned seed) {
  g_seed = seed;
  std::mt19937 rng(seed);
  auto pick = [&](int n) { return static_cast<int>(rng() % n); };
  Flaky& factory = *new Flaky;  // leaked: a core may outlive its team
  factory.fail_of = pick(3) == 0 ? 1 + pick(4) : 0;
  const int soft = 1 + pick(4);
  struct Counts {
    std::atomic<int64_t> ran{0}, asked{0}, destroyed{0}, thens{0}, taken{0};
    std::atomic<bool> throwing_limit{false};
  };
  Counts& counts = *new Counts;
  auto& [ran, asked, destroyed, thens, taken, throwing_limit] = counts;
  std::unique_ptr<Team> owner;
  Team* team = nullptr;
  PoolOptions options;
  options.factory = &factory;
  options.on_error = [](const ErrorReport&) {};
  if (pick(4) == 0) options.limits.min_workers = pick(3);
  options.limits.soft_limit = [&counts, soft] {
    if (counts.throwing_limit.load() && counts.asked.fetch_add(1) % 3 == 2)
      throw std::runtime_error("limit");
    return soft;
  };
  throwing_limit = pick(8) == 0;
  if (pick(3) == 0) options.limits.hard_limit = std::max(options.limits.min_workers, 1 + pick(4));
  if (pick(4) == 0) options.limits.growth_per_second = 10000;
  if (pick(4) == 0) options.limits.idle_timeout = absl::Microseconds(pick(200));
  if (pick(4) == 0) options.limits.max_backlog = 1 + pick(5);
  if (pick(4) == 0) options.limits.stall_warning = absl::Microseconds(50);
  options.limits.retry_after = absl::Microseconds(100);
  const int coordinator = pick(6);
  absl::StatusOr<std::unique_ptr<Team>> made = absl::UnknownError("");
  std::unique_ptr<SteadyClock> clock;
  if (coordinator == 0) {
    clock = std::make_unique<SteadyClock>();
    TeamOptions t;
    auto c = ThreadWorker::Create({});
    CHECK(c.ok());
    t.coordinator = *std::move(c);
    t.create_worker = [&factory]() -> absl::StatusOr<std::unique_ptr<IWorker>> {
      ThreadWorkerOptions o;
      o.factory = &factory;
      return ThreadWorker::Create(std::move(o));
    };
    t.limits = options.limits;
    t.on_error = options.on_error;
    t.clock = clock.get();
    t.one_wake_at_a_time = true;
    made = Team::Create(std::move(t));
  } else {
    made = MakePool(std::move(options));
  }
  CHECK(made.ok());
  owner = *std::move(made);
  team = owner.get();
  struct Guard {
    std::atomic<int64_t>* d;
    explicit Guard(std::atomic<int64_t>* d) : d(d) {}
    ~Guard() { d->fetch_add(1); }
  };
  std::function<void(int)> give;
  auto user = [&](unsigned s) {
    std::mt19937 r(s);
    std::vector<Team::Ticket> tickets;
    for (int i = 0; i < 25; ++i) {
      int what = r() % 16;
      if (coordinator == 1 && (what == 5 || what == 6)) what = 7;
      const int kind = r() % 8;
      auto guard = std::make_unique<Guard>(&destroyed);
      Work work = [&, kind, g = std::move(guard)] {
        ran.fetch_add(1);
        if (kind == 0) throw std::runtime_error("x");
        if (kind == 1) {
          BlockingScope b;
          BlockingScope c;
          std::this_thread::yield();
        }
        if (kind == 2 || kind == 3) {
          auto g2 = std::make_unique<Guard>(&destroyed);
          Work inner = [&, g = std::move(g2)] { ran.fetch_add(1); };
          if (kind == 3) {
            auto t = team->Enqueue(std::move(inner));
            if (t.ok()) {
              taken.fetch_add(1);
              BlockingScope b;
              (void)b.Awaits(*t);
              if (t->IsBacklogged()) t->Withdraw();
            } else {
              inner = nullptr;
              destroyed.fetch_sub(1);
            }
          } else if (team->Do(std::move(inner)).ok())
            taken.fetch_add(1);
          else {
            inner = nullptr;
            destroyed.fetch_sub(1);
          }
        }
        if (kind == 4) team->Shrink(1).IgnoreError();
      };
      bool ok = false;
      switch (what) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4:
          ok = team->Do(std::move(work)).ok();
          break;
        case 5:
        case 6:
          ok = team->DoThen(std::move(work),
                            [&] {
                              thens.fetch_add(1);
                              auto g2 = std::make_unique<Guard>(&destroyed);
                              Work inner = [&, g = std::move(g2)] { ran.fetch_add(1); };
                              if (team->Do(std::move(inner)).ok())
                                taken.fetch_add(1);
                              else {
                                inner = nullptr;
                                destroyed.fetch_sub(1);
                              }
                            })
                   .ok();
          break;
        case 7:
        case 8:
        case 9: {
          auto t = team->Enqueue(std::move(work));
          ok = t.ok();
          if (ok) {
            tickets.push_back(*t);
            if (r() % 2) t->Withdraw();
          }
          break;
        }
        case 10:
          team->Shrink(r() % 3).IgnoreError();
          break;
        case 11:
          team->Grow(r() % 2).IgnoreError();
          break;
        case 12: {
          int l = r() % 3;
          team->Fit(l, l + r() % 3).IgnoreError();
          break;
        }
        case 13:
          Check(team->statistics(), false);
          break;
        case 14:
          if (!tickets.empty()) tickets[r() % tickets.size()].Withdraw();
          break;
        case 15:
          team->Poke();
          if (r() % 12 == 0) team->QuitNow();
          break;
      }
      if (ok)
        taken.fetch_add(1);
      else if (what < 10) {
        work = nullptr;
        destroyed.fetch_sub(1);
      } else {
        work = nullptr;
        destroyed.fetch_sub(1);
      }
    }
  };
  {
    std::vector<std::thread> users;
    const int n = 1 + pick(3);
    for (int i = 0; i < n; ++i) users.emplace_back(user, rng());
    for (auto& u : users) u.join();
  }
  // All of it must come to an end without another visit.
  if (coordinator != 1) {
    team->Quit().IgnoreError();
    CHECK(team->Join(absl::Seconds(60)).ok());
    Check(team->statistics(), true);
    CHECK(team->statistics().accepted == taken.load());
    owner = nullptr;
  } else {
    // Destroyed on one of its own threads, or dropped.
    std::promise<void> gone;
    struct End {
      std::promise<void>* p;
      Team* t;
      ~End() {
        delete t;
        p->set_value();
      }
    };
    Team* raw = owner.release();
    auto* end = new End{&gone, raw};
    // Works still in the backlog use `team`: only when all that was taken has ended.
    int spins = 0;
    for (;;) {
      auto s = raw->statistics();
      if (s.accepted == s.completed + s.failed + s.dropped + s.withdrawn) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (++spins == 20000) {
        std::fprintf(stderr,
                     "STALLED seed %u live %d idle %d busy %d starting %d ending %d blocked %d "
                     "backlogged %ld accepted %ld completed %ld failed %ld dropped %ld withdrawn "
                     "%ld failures %ld soft %d fail_of %d\n",
                     g_seed, s.live, s.idle, s.busy, s.starting, s.ending, s.blocked,
                     (long)s.backlogged, (long)s.accepted, (long)s.completed, (long)s.failed,
                     (long)s.dropped, (long)s.withdrawn, (long)s.creation_failures, soft,
                     factory.fail_of);
        raise(SIGSTOP);
      }
    }
    Work w = [end] { delete end; };
    if (raw->Do(std::move(w)).ok())
      gone.get_future().wait();
    else
      delete end;
    // destroyed by a refused work too
    while (ran.load() < 0) {
    }
    // (the factory outlives all threads: wait for the counts)
  }
  if (coordinator != 1) CHECK(destroyed.load() == taken.load());
}

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 1000;
  const unsigned seed = argc > 2 ? std::atoi(argv[2]) : 1;
  for (int i = 0; i < rounds; ++i) {
    g_round = i;
    alarm(120);
    if (i % 20 == 0) {
      std::printf("round %d\n", i);
      std::fflush(stdout);
    }
    Round(seed + i);
  }
  std::printf("%d rounds fine\n", rounds);
}
