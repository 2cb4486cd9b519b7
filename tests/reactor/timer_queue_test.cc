#include "reactor/timer_queue.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/internal/run_work.h"

namespace {

std::atomic<long> allocations = 0;

}  // namespace

void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace reactor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using workers::Work;

// A queue with a time that the test sets.
class TimerQueueTest : public testing::Test {
 protected:
  DelayedCall Add(absl::Duration delay, Work work = [] {}) {
    auto call = queue_->Add(delay, std::move(work));
    EXPECT_TRUE(call.ok()) << call.status();
    return call.value_or(DelayedCall());
  }
  Work Note(std::string name) {
    return [this, name] { log_.push_back(name); };
  }
  size_t Run(absl::Duration now) {
    now_ = now;
    return queue_->RunDue(now, [](Work& work) { workers::internal::RunWork(work, "timers", {}); });
  }

  absl::Duration now_ = absl::Seconds(100);
  std::vector<std::string> log_;
  std::unique_ptr<TimerQueue> queue_ =
      std::make_unique<TimerQueue>(TimerQueueOptions{.now = [this] { return now_; }});
};

// R11: the original runs calls of the same time in any order.
TEST_F(TimerQueueTest, R11_CallsOfOneTimeRunInTheOrderInWhichTheyWereGiven) {
  for (int i = 0; i < 12; ++i) Add(absl::Seconds(1), Note(std::to_string(i)));
  EXPECT_EQ(Run(absl::Seconds(101)), 12u);
  EXPECT_THAT(log_, ElementsAre("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"));
}

TEST_F(TimerQueueTest, RunsWhatIsDueInTheOrderOfItsTimesAndNothingElse) {
  Add(absl::Seconds(3), Note("3"));
  Add(absl::Seconds(1), Note("1"));
  Add(absl::Seconds(2), Note("2"));
  EXPECT_EQ(queue_->next(), absl::Seconds(101));
  EXPECT_EQ(Run(absl::Seconds(102) - absl::Nanoseconds(1)), 1u);
  EXPECT_EQ(Run(absl::Seconds(102)), 1u);
  EXPECT_THAT(log_, ElementsAre("1", "2"));
  EXPECT_EQ(queue_->next(), absl::Seconds(103));
  EXPECT_EQ(queue_->size(), 1u);
}

TEST_F(TimerQueueTest, WithNoCallThereIsNoNextTime) {
  EXPECT_EQ(queue_->next(), absl::InfiniteDuration());
  Add(absl::ZeroDuration()).Cancel().IgnoreError();
  EXPECT_EQ(queue_->next(), absl::InfiniteDuration());
}

TEST_F(TimerQueueTest, ACallThatGivesItselfAnewWithNoDelayRunsOnceARun) {
  int runs = 0;
  std::function<void()> again = [&] {
    ++runs;
    Add(absl::ZeroDuration(), again);
  };
  Add(absl::ZeroDuration(), again);
  EXPECT_EQ(Run(now_), 1u);
  EXPECT_EQ(Run(now_), 1u);
  EXPECT_EQ(runs, 2);
}

// What a call moves into the past neither runs in the same Run nor keeps others from it.
TEST_F(TimerQueueTest, OnlyWhatWasDueAtEntryRuns) {
  DelayedCall later = Add(absl::Seconds(10), Note("moved"));
  DelayedCall reset = Add(absl::Seconds(10), Note("reset"));
  Add(absl::Seconds(1), [&] {
    log_.push_back("mover");
    EXPECT_TRUE(later.Delay(-absl::Seconds(100)).ok());
    EXPECT_EQ(later.time(), absl::Seconds(10));
    EXPECT_TRUE(reset.Reset(absl::ZeroDuration()).ok());
  });
  Add(absl::Seconds(2), Note("due"));
  EXPECT_EQ(Run(absl::Seconds(105)), 2u);
  EXPECT_THAT(log_, ElementsAre("mover", "due"));
  EXPECT_EQ(Run(absl::Seconds(105)), 2u);
  EXPECT_THAT(log_, ElementsAre("mover", "due", "moved", "reset"));
}

TEST_F(TimerQueueTest, ACallCancelledByOneThatIsDueWithItDoesNotRun) {
  DelayedCall second;
  Add(absl::Seconds(1), [&] { EXPECT_TRUE(second.Cancel().ok()); });
  second = Add(absl::Seconds(1), Note("second"));
  EXPECT_EQ(Run(absl::Seconds(101)), 1u);
  EXPECT_THAT(log_, ElementsAre());
}

TEST_F(TimerQueueTest, ActiveAndTimeTellOfTheCall) {
  DelayedCall call = Add(absl::Seconds(5));
  DelayedCall self;
  bool active_inside = true;
  self = Add(absl::Seconds(5), [&] { active_inside = self.active(); });
  EXPECT_TRUE(call.active());
  EXPECT_EQ(call.time(), absl::Seconds(105));
  Run(absl::Seconds(200));
  EXPECT_FALSE(active_inside);
  EXPECT_FALSE(call.active());
  EXPECT_EQ(call.time(), absl::Seconds(105));
}

TEST_F(TimerQueueTest, ACancelledOneCannotBeCancelledResetOrDelayed) {
  DelayedCall call = Add(absl::Seconds(5), Note("call"));
  EXPECT_TRUE(call.Cancel().ok());
  EXPECT_FALSE(call.active());
  for (const absl::Status& status :
       {call.Cancel(), call.Reset(absl::Seconds(1)), call.Delay(absl::Seconds(1))}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status));
    EXPECT_THAT(status.message(), HasSubstr("already cancelled"));
  }
  EXPECT_EQ(Run(absl::Seconds(200)), 0u);
}

TEST_F(TimerQueueTest, OneThatWasCalledCannotBeCancelledResetOrDelayed) {
  DelayedCall call = Add(absl::Seconds(5));
  Run(absl::Seconds(200));
  for (const absl::Status& status :
       {call.Cancel(), call.Reset(absl::Seconds(1)), call.Delay(absl::Seconds(1))}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status));
    EXPECT_THAT(status.message(), HasSubstr("already called"));
  }
}

TEST_F(TimerQueueTest, ResetCountsFromNowBothWays) {
  DelayedCall later = Add(absl::Seconds(5), Note("later"));
  DelayedCall sooner = Add(absl::Seconds(50), Note("sooner"));
  now_ = absl::Seconds(103);
  EXPECT_TRUE(later.Reset(absl::Seconds(5)).ok());
  EXPECT_TRUE(sooner.Reset(absl::Seconds(1)).ok());
  EXPECT_EQ(later.time(), absl::Seconds(108));
  EXPECT_EQ(queue_->next(), absl::Seconds(104));
  Run(absl::Seconds(107));
  EXPECT_THAT(log_, ElementsAre("sooner"));
  Run(absl::Seconds(108));
  EXPECT_THAT(log_, ElementsAre("sooner", "later"));
}

TEST_F(TimerQueueTest, DelayCountsFromTheTimeOfTheCallBothWays) {
  DelayedCall call = Add(absl::Seconds(5), Note("call"));
  now_ = absl::Seconds(103);
  EXPECT_TRUE(call.Delay(absl::Seconds(5)).ok());
  EXPECT_EQ(call.time(), absl::Seconds(110));
  EXPECT_TRUE(call.Delay(-absl::Seconds(4)).ok());
  EXPECT_EQ(queue_->next(), absl::Seconds(106));
  Run(absl::Seconds(106));
  EXPECT_THAT(log_, ElementsAre("call"));
}

TEST_F(TimerQueueTest, WhatIsResetRunsBehindWhatHasThatTimeAlready) {
  DelayedCall first = Add(absl::Seconds(5), Note("first"));
  Add(absl::Seconds(5), Note("second"));
  EXPECT_TRUE(first.Reset(absl::Seconds(5)).ok());
  Run(absl::Seconds(105));
  EXPECT_THAT(log_, ElementsAre("second", "first"));
}

// Whoever divides by zero gets a NaN or an infinity; absl makes infinities of both.
TEST_F(TimerQueueTest, NegativeAndInfiniteDelaysAreInvalid) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  DelayedCall call = Add(absl::Seconds(1));
  for (absl::Duration wrong :
       {-absl::Nanoseconds(1), absl::InfiniteDuration(), -absl::InfiniteDuration(),
        absl::Seconds(nan), absl::Seconds(-nan)}) {
    Work work = Note("call");
    EXPECT_TRUE(absl::IsInvalidArgument(queue_->Add(wrong, std::move(work)).status())) << wrong;
    EXPECT_TRUE(work != nullptr);  // still the caller's
    EXPECT_TRUE(absl::IsInvalidArgument(call.Reset(wrong))) << wrong;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(call.Delay(absl::InfiniteDuration())));
  EXPECT_TRUE(absl::IsInvalidArgument(call.Delay(-absl::InfiniteDuration())));
  EXPECT_TRUE(absl::IsInvalidArgument(queue_->Add(absl::Seconds(1), nullptr).status()));
  EXPECT_EQ(call.time(), absl::Seconds(101));
  EXPECT_EQ(queue_->size(), 1u);
}

TEST_F(TimerQueueTest, FarFuturesAreKept) {
  DelayedCall century = Add(absl::Hours(24 * 365 * 100), Note("century"));
  DelayedCall last = Add(absl::Seconds(std::numeric_limits<int64_t>::max()), Note("last"));
  Add(absl::Seconds(1), Note("soon"));
  EXPECT_EQ(Run(absl::Hours(24 * 365 * 99)), 1u);
  EXPECT_EQ(queue_->next(), absl::Seconds(100) + absl::Hours(24 * 365 * 100));
  EXPECT_EQ(Run(century.time()), 1u);
  EXPECT_TRUE(last.active());
  EXPECT_TRUE(last.Reset(absl::ZeroDuration()).ok());
  EXPECT_EQ(Run(now_), 1u);
  EXPECT_THAT(log_, ElementsAre("soon", "century", "last"));
}

TEST_F(TimerQueueTest, AHandleOutlivesItsQueue) {
  DelayedCall call = Add(absl::Seconds(1), Note("call"));
  queue_ = nullptr;
  EXPECT_FALSE(call.active());
  EXPECT_EQ(call.time(), absl::Seconds(101));
  const absl::Status status = call.Cancel();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(status.message(), HasSubstr("its reactor is gone"));
  EXPECT_THAT(log_, ElementsAre());
}

TEST_F(TimerQueueTest, AHandleOutlivesTheQueueThatDiesInItsCall) {
  DelayedCall other = Add(absl::Seconds(2), Note("other"));
  DelayedCall call = Add(absl::Seconds(1), [this] { queue_ = nullptr; });
  EXPECT_EQ(Run(absl::Seconds(102)), 1u);
  EXPECT_THAT(call.Cancel().message(), HasSubstr("already called"));
  EXPECT_THAT(other.Cancel().message(), HasSubstr("its reactor is gone"));
}

// Captures may come back to the queue while they are destroyed.
TEST_F(TimerQueueTest, CapturesAreDestroyedAtCancelAndMayUseTheQueue) {
  struct OnDestruction {
    std::function<void()> f;
    explicit OnDestruction(std::function<void()> f) : f(std::move(f)) {}
    OnDestruction(OnDestruction&& other) noexcept : f(std::exchange(other.f, nullptr)) {}
    ~OnDestruction() {
      if (f) f();
    }
    void operator()() const {}
  };
  DelayedCall other = Add(absl::Seconds(2), Note("other"));
  DelayedCall call = Add(absl::Seconds(1), OnDestruction([&] {
                           log_.push_back("destroyed");
                           EXPECT_THAT(call.Cancel().message(), HasSubstr("already cancelled"));
                           EXPECT_TRUE(other.Cancel().ok());
                           Add(absl::Seconds(3), Note("new"));
                         }));
  EXPECT_TRUE(call.Cancel().ok());
  EXPECT_THAT(log_, ElementsAre("destroyed"));
  EXPECT_EQ(queue_->size(), 1u);
  // At the end too: it cannot add any more, and what was to be dropped with it cannot be cancelled.
  bool refused = false;
  Add(absl::Seconds(1), OnDestruction([&] {
        refused = workers::IsAlreadyQuit(queue_->Add(absl::Seconds(1), Note("late")).status());
      }));
  queue_.~unique_ptr();
  new (&queue_) std::unique_ptr<TimerQueue>();
  EXPECT_TRUE(refused);
}

TEST_F(TimerQueueTest, DropDestroysAllInOrderAndCounts) {
  auto token = std::make_shared<int>();
  for (int i = 0; i < 3; ++i) Add(absl::Seconds(i), [token] { FAIL(); });
  EXPECT_EQ(token.use_count(), 4);
  EXPECT_EQ(queue_->Drop(), 3u);
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_EQ(queue_->next(), absl::InfiniteDuration());
}

TEST_F(TimerQueueTest, PendingIsInTheOrderOfTheirTimes) {
  Add(absl::Seconds(3));
  Add(absl::Seconds(1));
  Add(absl::Seconds(2));
  std::vector<absl::Duration> times;
  for (const DelayedCall& call : queue_->pending()) times.push_back(call.time());
  EXPECT_THAT(times, ElementsAre(absl::Seconds(101), absl::Seconds(102), absl::Seconds(103)));
}

// Compared with a plain list, step by step.
TEST_F(TimerQueueTest, RandomAddsCancelsAndMovesKeepTheOrder) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  struct Model {
    absl::Duration time;
    int sequence;
    int id;
    DelayedCall call;
  };
  std::vector<Model> model;
  std::vector<int> ran;
  int sequence = 0;
  for (int step = 0; step < 20'000; ++step) {
    const absl::Duration delay = absl::Seconds(random() % 50);
    switch (random() % 5) {
      case 0:
      case 1:
        model.push_back(
            {now_ + delay, sequence++, step, Add(delay, [&ran, step] { ran.push_back(step); })});
        break;
      case 2:
        if (!model.empty()) {
          const size_t i = random() % model.size();
          EXPECT_TRUE(model[i].call.Cancel().ok());
          model.erase(model.begin() + i);
        }
        break;
      case 3:
        if (!model.empty()) {
          Model& one = model[random() % model.size()];
          EXPECT_TRUE(one.call.Reset(delay).ok());
          one.time = now_ + delay;
          one.sequence = sequence++;
        }
        break;
      case 4: {
        Run(now_ + absl::Seconds(random() % 3));
        std::sort(model.begin(), model.end(), [](const Model& a, const Model& b) {
          return std::tie(a.time, a.sequence) < std::tie(b.time, b.sequence);
        });
        std::vector<int> expected;
        while (!model.empty() && model.front().time <= now_) {
          expected.push_back(model.front().id);
          model.erase(model.begin());
        }
        ASSERT_EQ(ran, expected);
        ran.clear();
      }
    }
    ASSERT_EQ(queue_->size(), model.size());
  }
}

TEST_F(TimerQueueTest, AMillionLiveTimers) {
  constexpr int kCalls = 1'000'000;
  std::vector<DelayedCall> calls;
  calls.reserve(kCalls);
  int64_t ran = 0;
  for (int i = 0; i < kCalls; ++i) {
    // In an order that is neither ascending nor descending.
    const absl::Duration delay = absl::Milliseconds(int64_t{i} * 7919 % kCalls);
    calls.push_back(Add(delay, [&ran] { ++ran; }));
  }
  EXPECT_EQ(queue_->size(), size_t{kCalls});
  for (int i = 0; i < kCalls; i += 2) ASSERT_TRUE(calls[i].Cancel().ok());
  for (int i = 1; i < kCalls; i += 4) ASSERT_TRUE(calls[i].Reset(absl::Seconds(1)).ok());
  EXPECT_EQ(queue_->size(), size_t{kCalls / 2});
  EXPECT_EQ(Run(absl::Hours(1)), size_t{kCalls / 2});
  EXPECT_EQ(ran, kCalls / 2);
}

TEST_F(TimerQueueTest, ACallCostsOneAllocation) {
  std::vector<DelayedCall> warm;
  for (int i = 0; i < 1000; ++i) warm.push_back(Add(absl::Seconds(1)));
  EXPECT_EQ(Run(absl::Seconds(200)), 1000u);
  const long before = allocations.load();
  for (int i = 0; i < 1000; ++i) warm[i] = Add(absl::Seconds(1), [this] { log_.clear(); });
  EXPECT_EQ(allocations.load() - before, 1000);
  for (DelayedCall& call : warm) ASSERT_TRUE(call.Reset(absl::Seconds(2)).ok());
  for (DelayedCall& call : warm) ASSERT_TRUE(call.Cancel().ok());
  EXPECT_EQ(allocations.load() - before, 1000);
}

TEST_F(TimerQueueTest, WrongThreadsAreAskedAboutByName) {
  std::vector<std::string> asked;
  std::vector<std::string> told;
  absl::Status answer;
  queue_ = std::make_unique<TimerQueue>(TimerQueueOptions{
      .now = [this] { return now_; },
      .check_thread =
          [&](absl::string_view method) {
            asked.emplace_back(method);
            return answer;
          },
      .on_error = [&](const workers::ErrorReport& r) { told.push_back(r.status.ToString()); }});
  DelayedCall call = Add(absl::Seconds(1));
  answer = absl::FailedPreconditionError("wrong thread");
  EXPECT_FALSE(call.active());
  EXPECT_EQ(call.time(), absl::ZeroDuration());
  EXPECT_EQ(call.Cancel(), answer);
  EXPECT_EQ(call.Reset(absl::Seconds(1)), answer);
  EXPECT_EQ(call.Delay(absl::Seconds(1)), answer);
  EXPECT_THAT(asked, ElementsAre("DelayedCall::active", "DelayedCall::time", "DelayedCall::Cancel",
                                 "DelayedCall::Reset", "DelayedCall::Delay"));
  EXPECT_THAT(told, ElementsAre(answer.ToString(), answer.ToString()));
  answer = absl::OkStatus();
  EXPECT_TRUE(call.active());
}

using TimerQueueDeathTest = TimerQueueTest;

TEST_F(TimerQueueDeathTest, DiesWhenItIsRunInsideItself) {
  Add(absl::ZeroDuration(), [this] { Run(now_); });
  EXPECT_DEATH(Run(now_), "RunDue inside RunDue");
}

}  // namespace
}  // namespace reactor
