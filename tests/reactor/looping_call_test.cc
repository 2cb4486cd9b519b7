#include "reactor/looping_call.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reactor/deferred.h"
#include "reactor/event_reactor.h"
#include "reactor/failure.h"
#include "reactor/reactor_time.h"
#include "reactor/testing/clock.h"
#include "reactor/timer_queue.h"
#include "workers/context.h"
#include "workers/worker.h"

namespace reactor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

constexpr absl::Duration kHalf = absl::Milliseconds(500);

int64_t Ms(absl::Duration time) { return absl::ToInt64Milliseconds(time); }

// What a Deferred came to, in words: "" not yet, "OK", or the message of the failure.
class Outcome {
 public:
  explicit Outcome(Deferred<void> deferred)
      : deferred_(std::move(deferred).AddBoth([text = text_](Result<void> result) {
          *text = result.ok() ? "OK" : std::string(result.status().message());
        })) {}
  const std::string& text() const { return *text_; }
  void Cancel() { deferred_.Cancel(); }

 private:
  std::shared_ptr<std::string> text_ = std::make_shared<std::string>();
  Deferred<void> deferred_;
};

class LoopingCallTest : public testing::Test {
 protected:
  int64_t now() const { return Ms(clock_.Now()); }

  test::Clock clock_;
};

TEST_F(LoopingCallTest, CallsAtOnceAndThenEachInterval) {
  std::vector<int64_t> times;
  LoopingCall loop(clock_, [&] { times.push_back(now()); });
  EXPECT_FALSE(loop.running());
  Outcome outcome(loop.Start(absl::Milliseconds(100)));
  EXPECT_TRUE(loop.running());
  clock_.Pump({absl::Milliseconds(50), absl::Milliseconds(100), absl::Milliseconds(100)});
  EXPECT_THAT(times, ElementsAre(0, 150, 250));
  EXPECT_EQ(outcome.text(), "");
  EXPECT_TRUE(loop.Stop().ok());
  EXPECT_EQ(outcome.text(), "OK");
  EXPECT_FALSE(loop.running());
  EXPECT_THAT(clock_.pending(), IsEmpty());
}

TEST_F(LoopingCallTest, ToldSoItBeginsOneIntervalLater) {
  std::vector<int64_t> times;
  LoopingCall loop(clock_, [&] { times.push_back(now()); });
  Outcome outcome(loop.Start(absl::Milliseconds(100), false));
  EXPECT_THAT(times, IsEmpty());
  clock_.Pump({absl::Milliseconds(50), absl::Milliseconds(100), absl::Milliseconds(100)});
  EXPECT_THAT(times, ElementsAre(150, 250));
  EXPECT_TRUE(loop.Stop().ok());
  EXPECT_EQ(outcome.text(), "OK");
  EXPECT_THAT(clock_.pending(), IsEmpty());
}

TEST_F(LoopingCallTest, TicksThatTheTimeLeapsOverAreSkippedAndTheRestIsAligned) {
  std::vector<int64_t> times;
  LoopingCall loop(clock_, [&] { times.push_back(now()); });
  Outcome outcome(loop.Start(kHalf));
  clock_.Advance(absl::Seconds(2));
  clock_.Advance(absl::Seconds(1));
  clock_.Advance(absl::ZeroDuration());
  clock_.Advance(absl::Milliseconds(700));
  EXPECT_THAT(times, ElementsAre(0, 2000, 3000, 3700));
  clock_.Advance(absl::Milliseconds(299));
  EXPECT_EQ(times.size(), 4u);
  clock_.Advance(absl::Milliseconds(1));  // at 4000, not at 4200
  EXPECT_EQ(times.size(), 5u);
}

// A time that its own calls move on: a call of f takes that long.
class SlowTime final : public IReactorTime {
 public:
  void Take(absl::Duration time) { now_ += time; }
  bool RunNext() {
    const absl::Duration due = timers_.next();
    return timers_.RunDue(now_ = std::max(now_, due), [](workers::Work& work) {
      std::move(work)();
      work = nullptr;
    }) > 0;
  }
  absl::Duration next() const { return timers_.next(); }
  absl::Duration Now() const override { return now_; }
  absl::StatusOr<DelayedCall> CallLater(absl::Duration delay, workers::Work&& work) override {
    return timers_.Add(delay, std::move(work));
  }

 private:
  absl::Duration now_;
  TimerQueue timers_{{.now = [this] { return now_; }}};
};

TEST_F(LoopingCallTest, TicksThatACallTakesAreSkipped) {
  SlowTime time;
  std::vector<int64_t> times;
  absl::Duration takes = absl::Seconds(2);
  LoopingCall loop(time, [&] {
    times.push_back(Ms(time.Now()));
    time.Take(takes);
  });
  Outcome outcome(loop.Start(kHalf));
  // A tick at 2.0 would be now, and not in the future.
  EXPECT_EQ(time.next(), absl::Milliseconds(2500));
  takes = absl::Seconds(1);
  EXPECT_TRUE(time.RunNext());
  takes = absl::ZeroDuration();
  EXPECT_TRUE(time.RunNext());
  EXPECT_THAT(times, ElementsAre(0, 2500, 4000));
}

TEST_F(LoopingCallTest, TheCountTellsHowManyIntervalsHavePassed) {
  std::vector<std::pair<int64_t, int64_t>> calls;
  LoopingCall loop(clock_, [&](int64_t count) { calls.emplace_back(now(), count); });
  Outcome outcome(loop.Start(kHalf));
  clock_.Advance(absl::Milliseconds(510));
  clock_.Advance(absl::Milliseconds(1510));
  clock_.Advance(absl::ZeroDuration());
  EXPECT_THAT(calls, ElementsAre(Pair(0, 1), Pair(510, 1), Pair(2020, 3)));
}

// Called at 2.75 intervals and then at 3 it has missed none.
TEST_F(LoopingCallTest, ALateCallDoesNotCountForMore) {
  std::vector<int64_t> counts;
  LoopingCall loop(clock_, [&](int64_t count) { counts.push_back(count); });
  Outcome outcome(loop.Start(kHalf));
  clock_.Pump({absl::Milliseconds(510), absl::Milliseconds(875), absl::Milliseconds(125)});
  EXPECT_THAT(counts, ElementsAre(1, 1, 1, 1));
}

// The original counts in floating point, where a tenth is not exact. So is a third here.
TEST_F(LoopingCallTest, TheCountIsNeverZeroAndAddsUpAlsoWhereTheIntervalIsNotExact) {
  int64_t sum = 0;
  int64_t least = 1;
  LoopingCall loop(clock_, [&](int64_t count) {
    sum += count;
    least = std::min(least, count);
  });
  const absl::Duration interval = absl::Seconds(1.0 / 3);
  Outcome outcome(loop.Start(interval, false));
  for (int i = 0; i < 3000; ++i) clock_.Advance(i % 7 == 0 ? 2 * interval : interval / 2);
  EXPECT_EQ(sum, clock_.Now() / interval);
  EXPECT_EQ(least, 1);
}

TEST_F(LoopingCallTest, AnIntervalOfZeroIsOneCallATurn) {
  std::vector<int64_t> counts;
  std::optional<LoopingCall> loop;
  loop.emplace(clock_, [&](int64_t count) {
    counts.push_back(count);
    return counts.size() == 5 ? loop->Stop() : absl::OkStatus();
  });
  Outcome outcome(loop->Start(absl::ZeroDuration(), false));
  EXPECT_THAT(counts, IsEmpty());
  for (int i = 0; i < 4; ++i) clock_.Advance(absl::Seconds(i));
  EXPECT_EQ(counts.size(), 4u);
  EXPECT_EQ(outcome.text(), "");
  for (int i = 0; i < 4; ++i) clock_.Advance(absl::ZeroDuration());
  EXPECT_THAT(counts, ElementsAre(1, 1, 1, 1, 1));
  EXPECT_EQ(outcome.text(), "OK");
}

TEST_F(LoopingCallTest, WrongIntervalsAreInvalid) {
  LoopingCall loop(clock_, [] { FAIL(); });
  for (absl::Duration interval :
       {absl::Seconds(-1), absl::InfiniteDuration(), -absl::InfiniteDuration()}) {
    EXPECT_THAT(Outcome(loop.Start(interval)).text(), HasSubstr("not an interval"));
    EXPECT_FALSE(loop.running());
  }
}

TEST_F(LoopingCallTest, WhereItDoesNotRunStopAndResetAreErrorsAndSoIsASecondStart) {
  LoopingCall loop(clock_, [] {});
  EXPECT_TRUE(absl::IsFailedPrecondition(loop.Stop()));
  EXPECT_TRUE(absl::IsFailedPrecondition(loop.Reset()));
  Outcome first(loop.Start(kHalf));
  EXPECT_THAT(Outcome(loop.Start(kHalf)).text(), HasSubstr("runs already"));
  EXPECT_EQ(first.text(), "");
  EXPECT_TRUE(loop.Stop().ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(loop.Stop()));
}

TEST_F(LoopingCallTest, StoppedBeforeItsFirstCallItNeverCalls) {
  for (absl::Duration interval : {absl::ZeroDuration(), absl::Seconds(10)}) {
    LoopingCall loop(clock_, [] { FAIL(); });
    Outcome outcome(loop.Start(interval, false));
    EXPECT_TRUE(loop.Stop().ok());
    EXPECT_EQ(outcome.text(), "OK");
    EXPECT_THAT(clock_.pending(), IsEmpty());
    clock_.Advance(absl::Seconds(20));
  }
}

TEST_F(LoopingCallTest, ResetBeginsAnew) {
  std::vector<std::pair<int64_t, int64_t>> calls;
  LoopingCall loop(clock_, [&](int64_t count) { calls.emplace_back(now(), count); });
  Outcome outcome(loop.Start(absl::Seconds(2), false));
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(loop.Reset().ok());
  clock_.Advance(absl::Seconds(1));
  EXPECT_THAT(calls, IsEmpty());
  clock_.Pump({absl::Seconds(1), absl::Seconds(1), absl::Seconds(1)});
  EXPECT_THAT(calls, ElementsAre(Pair(3000, 1), Pair(5000, 1)));
}

TEST_F(LoopingCallTest, ResetInsideItsOwnCallBeginsAnewFromThere) {
  std::vector<int64_t> times;
  std::optional<LoopingCall> loop;
  loop.emplace(clock_, [&] {
    times.push_back(now());
    return loop->Reset();
  });
  Outcome outcome(loop->Start(absl::Seconds(2)));
  clock_.Pump({absl::Seconds(3), absl::Seconds(1), absl::Seconds(1)});
  EXPECT_THAT(times, ElementsAre(0, 3000, 5000));
}

TEST_F(LoopingCallTest, AFailureStopsItAndIsItsResult) {
  const std::vector<std::function<absl::Status()>> failing = {
      [] { return absl::InternalError("bad"); },
      []() -> absl::Status { throw std::runtime_error("bad"); }};
  for (const auto& f : failing) {
    LoopingCall loop(clock_, f);
    Outcome outcome(loop.Start(kHalf));
    EXPECT_THAT(outcome.text(), HasSubstr("bad"));
    EXPECT_FALSE(loop.running());
    EXPECT_THAT(clock_.pending(), IsEmpty());
  }
}

TEST_F(LoopingCallTest, AFailureOfACallThatHasStoppedItIsItsResultToo) {
  std::optional<LoopingCall> loop;
  loop.emplace(clock_, [&]() -> absl::Status {
    EXPECT_TRUE(loop->Stop().ok());
    throw std::runtime_error("bad");
  });
  Outcome outcome(loop->Start(kHalf, false));
  clock_.Advance(kHalf);
  EXPECT_EQ(outcome.text(), "std::runtime_error: bad");
}

TEST_F(LoopingCallTest, TheDeferredOfACallIsWaitedForAndThatTimeIsSkipped) {
  std::vector<std::pair<int64_t, int64_t>> calls;
  std::optional<Promise<void>> promise;
  LoopingCall loop(clock_, [&](int64_t count) {
    calls.emplace_back(now(), count);
    auto made = MakeDeferred<void>();
    promise = std::move(made.second);
    return std::move(made.first);
  });
  Outcome outcome(loop.Start(absl::Milliseconds(200), false));
  clock_.Pump({absl::Milliseconds(200), absl::Milliseconds(450)});
  EXPECT_THAT(calls, ElementsAre(Pair(200, 1)));
  EXPECT_THAT(clock_.pending(), IsEmpty());  // nothing can come in between
  ASSERT_TRUE(promise->Callback().ok());
  EXPECT_EQ(calls.size(), 1u);
  clock_.Advance(absl::Milliseconds(150));
  EXPECT_THAT(calls, ElementsAre(Pair(200, 1), Pair(800, 3)));
  // Stopped meanwhile, it is over when that call is.
  EXPECT_TRUE(loop.Stop().ok());
  EXPECT_EQ(outcome.text(), "");
  ASSERT_TRUE(promise->Callback().ok());
  EXPECT_EQ(outcome.text(), "OK");
  EXPECT_THAT(clock_.pending(), IsEmpty());
}

TEST_F(LoopingCallTest, AFailedDeferredStopsIt) {
  LoopingCall loop(clock_, [&]() -> Deferred<int> {
    return Succeed(1).AddCallback(
        [](int) -> absl::StatusOr<int> { return absl::UnavailableError("gone"); });
  });
  Outcome outcome(loop.Start(kHalf));
  EXPECT_EQ(outcome.text(), "gone");
  EXPECT_FALSE(loop.running());
  EXPECT_THAT(clock_.pending(), IsEmpty());
}

TEST_F(LoopingCallTest, CancelStopsItAndFails) {
  int calls = 0;
  LoopingCall loop(clock_, [&] { ++calls; });
  Outcome outcome(loop.Start(kHalf));
  outcome.Cancel();
  EXPECT_THAT(outcome.text(), HasSubstr("cancelled"));
  EXPECT_FALSE(loop.running());
  EXPECT_THAT(clock_.pending(), IsEmpty());
  EXPECT_EQ(calls, 1);
  // It can be started again.
  Outcome again(loop.Start(kHalf));
  EXPECT_EQ(calls, 2);
  EXPECT_TRUE(loop.Stop().ok());
  EXPECT_EQ(again.text(), "OK");
}

TEST_F(LoopingCallTest, AFailureThatComesAfterCancelIsReported) {
  std::vector<std::string> reports;
  workers::ContextScope scope(
      workers::Context::Current().With(kFailureHandler, [&](const workers::ErrorReport& report) {
        reports.push_back(std::string(report.status.message()));
      }));
  auto [deferred, promise] = MakeDeferred<void>();
  LoopingCall loop(clock_, [&] { return std::move(deferred); });
  Outcome outcome(loop.Start(kHalf));
  outcome.Cancel();
  EXPECT_THAT(outcome.text(), HasSubstr("cancelled"));
  EXPECT_THAT(reports, IsEmpty());
  ASSERT_TRUE(promise.Errback(absl::InternalError("late")).ok());
  EXPECT_THAT(reports, ElementsAre(HasSubstr("late")));
}

TEST_F(LoopingCallTest, StoppedAndStartedInsideItsOwnCallItDoesNotOverlap) {
  std::vector<int64_t> times;
  std::optional<LoopingCall> loop;
  std::optional<Outcome> second;
  int depth = 0;
  loop.emplace(clock_, [&] {
    EXPECT_EQ(++depth, 1);
    times.push_back(now());
    if (times.size() == 1) {
      EXPECT_TRUE(loop->Stop().ok());
      second.emplace(loop->Start(absl::Seconds(1)));
      EXPECT_TRUE(loop->running());
      EXPECT_EQ(times.size(), 1u);
    }
    --depth;
  });
  Outcome first(loop->Start(kHalf));
  EXPECT_EQ(first.text(), "OK");
  EXPECT_EQ(second->text(), "");
  clock_.Advance(absl::ZeroDuration());
  clock_.Advance(kHalf);
  clock_.Advance(kHalf);
  EXPECT_THAT(times, ElementsAre(0, 0, 1000));
  EXPECT_TRUE(loop->Stop().ok());
  EXPECT_EQ(second->text(), "OK");
}

TEST_F(LoopingCallTest, StartedAnewWhileADeferredIsOutstandingItWaitsForThat) {
  std::vector<int64_t> times;
  std::optional<Promise<void>> promise;
  LoopingCall loop(clock_, [&]() -> Deferred<void> {
    times.push_back(now());
    if (times.size() > 1) return Succeed();
    auto made = MakeDeferred<void>();
    promise = std::move(made.second);
    return std::move(made.first);
  });
  Outcome first(loop.Start(kHalf));
  EXPECT_TRUE(loop.Stop().ok());
  Outcome stopped(loop.Start(kHalf));  // a run that ends before it could begin
  EXPECT_TRUE(loop.Stop().ok());
  EXPECT_EQ(stopped.text(), "OK");
  Outcome second(loop.Start(kHalf, false));
  clock_.Advance(absl::Milliseconds(1200));
  EXPECT_EQ(times.size(), 1u);
  // The failure is of the first; the second goes on.
  ASSERT_TRUE(promise->Errback(absl::InternalError("bad")).ok());
  EXPECT_EQ(first.text(), "bad");
  EXPECT_TRUE(loop.running());
  clock_.Advance(absl::Milliseconds(300));
  EXPECT_THAT(times, ElementsAre(0, 1500));
  EXPECT_EQ(second.text(), "");
}

TEST_F(LoopingCallTest, ItMayBeDestroyedInsideItsOwnCall) {
  auto token = std::make_shared<int>();
  std::optional<LoopingCall> loop;
  loop.emplace(clock_, [&loop, token] {
    loop.reset();
    EXPECT_EQ(*token, 0);  // f is still there
  });
  Outcome outcome(loop->Start(kHalf, false));
  clock_.Advance(kHalf);
  EXPECT_EQ(outcome.text(), "OK");
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_THAT(clock_.pending(), IsEmpty());
  // Also where Start itself makes the call.
  loop.emplace(clock_, [&loop] { loop.reset(); });
  EXPECT_EQ(Outcome(loop->Start(kHalf)).text(), "OK");
}

TEST_F(LoopingCallTest, DestroyedWhileADeferredIsOutstandingItKeepsItsFunctionUntilThen) {
  auto token = std::make_shared<int>();
  auto [deferred, promise] = MakeDeferred<void>();
  std::optional<LoopingCall> loop;
  loop.emplace(clock_, [&deferred, token] { return std::move(deferred); });
  Outcome outcome(loop->Start(kHalf));
  loop.reset();
  EXPECT_EQ(token.use_count(), 2);
  EXPECT_EQ(outcome.text(), "");
  ASSERT_TRUE(promise.Callback().ok());
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_EQ(outcome.text(), "OK");
  EXPECT_THAT(clock_.pending(), IsEmpty());
}

TEST_F(LoopingCallTest, DestroyedWhileItRunsItIsStopped) {
  auto token = std::make_shared<int>();
  std::optional<LoopingCall> loop;
  loop.emplace(clock_, [token] {});
  Outcome outcome(loop->Start(kHalf));
  loop.reset();
  EXPECT_EQ(outcome.text(), "OK");
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_THAT(clock_.pending(), IsEmpty());
}

TEST_F(LoopingCallTest, WhereItsTimeIsDestroyedItFailsWithAborted) {
  auto clock = std::make_unique<test::Clock>();
  std::optional<LoopingCall> loop;
  loop.emplace(*clock, [] {});
  Outcome outcome(loop->Start(kHalf));
  clock = nullptr;
  EXPECT_THAT(outcome.text(), HasSubstr("its reactor is gone"));
  EXPECT_FALSE(loop->running());
  loop.reset();
}

// --- on the loop --------------------------------------------------------------------------------

TEST(LoopingCallOnTheLoop, RunsThereEachTurnUntilItIsStopped) {
  auto reactor = *EventReactor::Create({.handle_signals = false});
  int calls = 0;
  std::optional<LoopingCall> loop;
  loop.emplace(*reactor, [&] {
    EXPECT_TRUE(reactor->InReactorThread());
    return ++calls == 6 ? loop->Stop() : absl::OkStatus();
  });
  loop->Start(absl::ZeroDuration(), false).AddCallback([&] { return reactor->Stop(); }).Detach();
  ASSERT_TRUE(reactor->Run().ok());
  EXPECT_EQ(calls, 6);
}

TEST(LoopingCallOnTheLoop, StoppedInACallOfTheLoopItNeverCalls) {
  auto reactor = *EventReactor::Create({.handle_signals = false});
  LoopingCall loop(*reactor, [] { FAIL(); });
  loop.Start(absl::Milliseconds(1), false)
      .AddCallback([&] {
        return reactor->CallLater(absl::Milliseconds(2), [&] { reactor->Stop().IgnoreError(); })
            .status();
      })
      .Detach();
  ASSERT_TRUE(reactor->CallWhenRunning([&] { EXPECT_TRUE(loop.Stop().ok()); }).ok());
  ASSERT_TRUE(reactor->Run().ok());
}

// Its Deferred is the loop's, whose thread may look after that when the loop has ended.
TEST(LoopingCallOnTheLoop, StartedThereItMayBeDestroyedAfterRun) {
  auto reactor = *EventReactor::Create({.handle_signals = false});
  std::string result;
  auto token = std::make_shared<int>();
  {
    LoopingCall loop(*reactor, [token] {});
    ASSERT_TRUE(reactor
                    ->CallWhenRunning([&] {
                      loop.Start(absl::Hours(1))
                          .AddBoth([&](Result<void> end) { result = end.status().ToString(); })
                          .Detach();
                      reactor->Stop().IgnoreError();
                    })
                    .ok());
    ASSERT_TRUE(reactor->Run().ok());
  }
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_EQ(result, "OK");
}

#ifndef NDEBUG
TEST(LoopingCallDeathTest, DiesWhenItIsStoppedElsewhere) {
  auto reactor = *EventReactor::Create({.handle_signals = false});
  LoopingCall loop(*reactor, [] {});
  ASSERT_TRUE(reactor
                  ->CallWhenRunning([&] {
                    loop.Start(absl::Hours(1)).Detach();
                    reactor->Stop().IgnoreError();
                  })
                  .ok());
  std::thread([&] { ASSERT_TRUE(reactor->Run().ok()); }).join();
  EXPECT_DEATH(loop.Stop().IgnoreError(), "LoopingCall::Stop: called on");
  EXPECT_DEATH(loop.Reset().IgnoreError(), "LoopingCall::Reset: called on");
}
#endif

}  // namespace
}  // namespace reactor
