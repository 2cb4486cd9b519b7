// Everything at once while a reactor is stopped and started: every call ends exactly once, one way
// or the other. Orders come from a seed that a failure prints; IWORKER_SEED=N in the environment
// (--test_env) repeats it.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "reactor/deferred.h"
#include "reactor/event_reactor.h"
#include "reactor/failure.h"
#include "reactor/threads.h"
#include "workers/testing/gate.h"
#include "workers/worker.h"

namespace reactor {
namespace {

using workers::test::Gate;

constexpr int kThreads = 8;
constexpr int kRuns = 200;

uint32_t Seed() {
  const char* given = std::getenv("IWORKER_SEED");
  return given != nullptr ? static_cast<uint32_t>(std::strtoul(given, nullptr, 10))
                          : std::random_device()();
}

// What became of the calls of one kind.
struct Tally {
  std::atomic<int64_t> given = 0;
  std::atomic<int64_t> ended = 0;    // its last callback ran
  std::atomic<int64_t> dropped = 0;  // that was destroyed unrun
  std::atomic<int64_t> ok = 0;
  std::atomic<int64_t> cancelled = 0;
  std::atomic<int64_t> refused = 0;
  std::atomic<int64_t> unavailable = 0;
  std::atomic<int64_t> too_late = 0;
};
struct Tallies {
  Tally defers, waits, timers;
  std::atomic<int64_t> captures = 0;  // of calls, and their results: alive
  std::atomic<int64_t> steps = 0;
  std::atomic<int64_t> on_the_way = 0;  // works that were given and have not begun
};

// A work that is on the way until it begins or is destroyed.
template <typename F>
workers::Work OnTheWay(Tallies& tallies, F f) {
  struct Way {
    explicit Way(Tallies& tallies) : tallies(&tallies) { tallies.on_the_way.fetch_add(1); }
    Way(Way&& other) noexcept : tallies(std::exchange(other.tallies, nullptr)) {}
    Way& operator=(Way&&) = delete;
    ~Way() {
      if (tallies != nullptr) tallies->on_the_way.fetch_sub(1);
    }
    Tallies* tallies;
  };
  return [way = Way(tallies), f = std::move(f)]() mutable {
    {
      const Way begun = std::move(way);
    }
    f();
  };
}

// What each call captures, and what each result is.
class Capture {
 public:
  explicit Capture(Tallies& tallies) : tallies_(&tallies) { tallies.captures.fetch_add(1); }
  Capture(Capture&& other) noexcept : tallies_(std::exchange(other.tallies_, nullptr)) {}
  Capture& operator=(Capture&&) = delete;
  ~Capture() {
    if (tallies_ != nullptr) tallies_->captures.fetch_sub(1);
  }

 private:
  Tallies* tallies_;
};

// The end of a call: it comes once, or is destroyed, once.
class End {
 public:
  explicit End(Tally& tally) : tally_(&tally) { tally.given.fetch_add(1); }
  End(End&& other) noexcept : tally_(std::exchange(other.tally_, nullptr)) {}
  End& operator=(End&&) = delete;
  ~End() {
    if (tally_ != nullptr) tally_->dropped.fetch_add(1);
  }
  void Now(const absl::Status& status) {
    ASSERT_NE(tally_, nullptr);
    if (status.ok()) tally_->ok.fetch_add(1);
    if (absl::IsCancelled(status)) tally_->cancelled.fetch_add(1);
    if (workers::IsAlreadyQuit(status)) tally_->refused.fetch_add(1);
    if (absl::IsUnavailable(status)) tally_->unavailable.fetch_add(1);
    if (absl::IsDeadlineExceeded(status)) tally_->too_late.fetch_add(1);
    std::exchange(tally_, nullptr)->ended.fetch_add(1);
  }

 private:
  Tally* tally_;
};

// A call that takes no time, or a while unless it is asked to stop, or that throws.
Deferred<Capture> Defer(EventReactor& reactor, Tallies& tallies, uint32_t kind) {
  switch (kind % 3) {
    case 0:
      return DeferToThread(reactor,
                           [capture = Capture(tallies), &tallies] { return Capture(tallies); });
    case 1:
      return DeferToThread(reactor, [capture = Capture(tallies), &tallies](std::stop_token stop) {
        for (int i = 0; i < 100 && !stop.stop_requested(); ++i) std::this_thread::yield();
        return Capture(tallies);
      });
    default:
      return DeferToThread(reactor, [capture = Capture(tallies)]() -> Capture {
        throw std::runtime_error("stress");
      });
  }
}

// In the loop: a call, which is cancelled at once, after a while, or not.
void DeferInLoop(EventReactor& reactor, Tallies& tallies, uint32_t random) {
  Deferred<void> deferred =
      Defer(reactor, tallies, random)
          .AddBoth([end = End(tallies.defers)](Result<Capture> result) mutable {
            end.Now(result.status());
          });
  switch (random / 8 % 4) {
    case 0:
      return deferred.Cancel();
    case 1: {
      // Where the loop ends first, the timer is kept for the next one.
      auto shared = std::make_shared<Deferred<void>>(std::move(deferred));
      reactor.CallLater(absl::Microseconds(random % 200), [shared] { shared->Cancel(); })
          .status()
          .IgnoreError();
      return;
    }
    default:
      std::move(deferred).Detach();
  }
}

void Wait(EventReactor& reactor, Tallies& tallies, uint32_t random) {
  End end(tallies.waits);
  const absl::Duration timeout = random % 3 == 0   ? absl::InfiniteDuration()
                                 : random % 3 == 1 ? absl::Microseconds(random / 8 % 300)
                                                   : absl::Hours(1);
  switch (random / 4 % 4) {
    case 0:
      return end.Now(BlockingCallFromThread(reactor, [capture = Capture(tallies)] {}, timeout));
    case 1:  // it may go on when the time is up, and `tallies` is still there
      try {
        return end.Now(BlockingCallFromThread(
                           reactor,
                           [capture = Capture(tallies), &reactor, &tallies, random] {
                             return Defer(reactor, tallies, random);
                           },
                           timeout)
                           .status());
      } catch (const std::runtime_error&) {
        return end.Now(absl::OkStatus());
      }
    case 2:
      return end.Now(BlockingCallFromThread(
          reactor,
          [capture = Capture(tallies), &reactor] {
            return DeferToThread(reactor, [] {}).AddCallback([&reactor] {
              return DeferToThread(reactor, [] {});
            });
          },
          timeout));
    default:
      return end.Now(BlockingCallFromThread(reactor, [] { return absl::OkStatus(); }, timeout));
  }
}

void GiveOne(EventReactor& reactor, Tallies& tallies, uint32_t random) {
  switch (random % 4) {
    case 0:
      reactor
          .CallFromThread(
              OnTheWay(tallies, [&, random] { DeferInLoop(reactor, tallies, random / 4); }))
          .IgnoreError();
      return;
    case 1:
      return Wait(reactor, tallies, random / 4);
    case 2:
      reactor.CallInThread(OnTheWay(tallies, [&, random] { Wait(reactor, tallies, random / 4); }))
          .IgnoreError();
      return;
    default:
      reactor
          .CallFromThread(OnTheWay(tallies,
                                   [&, random] {
                                     reactor
                                         .CallLater(absl::Microseconds(random / 4 % 500),
                                                    [end = End(tallies.timers)]() mutable {
                                                      end.Now(absl::OkStatus());
                                                    })
                                         .status()
                                         .IgnoreError();
                                   }))
          .IgnoreError();
  }
}

TEST(ReactorStress, EachCallEndsOnceWhileTheReactorIsStoppedAndStarted) {
  const uint32_t seed = Seed();
  SCOPED_TRACE(testing::Message() << "IWORKER_SEED=" << seed);
  Tallies tallies;
  {
    EventReactorOptions options;
    options.on_error = [](const workers::ErrorReport&) {};
    options.handle_signals = false;
    auto reactor = *EventReactor::Create(std::move(options));
    std::atomic<bool> over = false;
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        std::minstd_rand random(seed + static_cast<uint32_t>(i));
        while (!over) {
          // Else the queues would grow: giving is faster.
          if (tallies.on_the_way.load() > 4 * kThreads) {
            std::this_thread::yield();
            continue;
          }
          GiveOne(*reactor, tallies, static_cast<uint32_t>(random()));
          tallies.steps.fetch_add(1);
        }
      });
    }
    std::minstd_rand random(seed + kThreads);
    for (int run = 0; run < kRuns; ++run) {
      Gate started;
      std::thread runner([&] {
        ASSERT_TRUE(reactor->CallWhenRunning([&] { started.Open(); }).ok());
        ASSERT_TRUE(reactor->Run().ok());
      });
      started.Wait();
      const int64_t until = tallies.steps.load() + static_cast<int64_t>(random() % 100);
      while (tallies.steps.load() < until) std::this_thread::yield();
      EXPECT_TRUE(reactor->Stop().ok());
      runner.join();
    }
    over = true;
    for (std::thread& thread : threads) thread.join();
  }
  EXPECT_EQ(tallies.defers.ended, tallies.defers.given);
  EXPECT_EQ(tallies.waits.ended, tallies.waits.given);
  EXPECT_EQ(tallies.timers.ended + tallies.timers.dropped, tallies.timers.given);
  EXPECT_EQ(tallies.captures, 0);
  // Each way to end was gone.
  EXPECT_GT(tallies.defers.ok, 0);
  EXPECT_GT(tallies.defers.cancelled, 0);
  EXPECT_GT(tallies.waits.ok, 0);
  EXPECT_GT(tallies.waits.unavailable, 0);
  EXPECT_GT(tallies.waits.too_late, 0);
  EXPECT_GT(tallies.timers.ended, 0);
}

}  // namespace
}  // namespace reactor
