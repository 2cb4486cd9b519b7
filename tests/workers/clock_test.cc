#include "workers/clock.h"

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/testing/counting_thread_factory.h"
#include "workers/testing/failing_thread_factory.h"
#include "workers/testing/gate.h"
#include "workers/worker.h"

namespace workers {
namespace {

using test::CountingThreadFactory;
using test::FailingThreadFactory;
using test::Gate;

TEST(SteadyClock, NeverGoesBack) {
  SteadyClock clock;
  absl::Duration last = clock.Now();
  for (int i = 0; i < 10'000; ++i) {
    const absl::Duration now = clock.Now();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(SteadyClock, RunsNothingBeforeItsTime) {
  SteadyClock clock;
  Gate ran;
  absl::Duration ran_at;
  const absl::Duration when = clock.Now() + absl::Milliseconds(20);
  ASSERT_TRUE(clock
                  .RunAt(when,
                         [&] {
                           ran_at = clock.Now();
                           ran.Open();
                         })
                  .ok());
  ran.Wait();
  EXPECT_GE(ran_at, when);
}

TEST(SteadyClock, RunsInTheOrderOfTimesAndEqualTimesAsGiven) {
  SteadyClock clock;
  std::vector<std::string> order;
  Gate held;
  Gate release;
  Gate done;
  // While the clock's thread is held, everything else is given in another order.
  ASSERT_TRUE(clock
                  .RunAt(clock.Now(),
                         [&] {
                           held.Open();
                           release.Wait();
                         })
                  .ok());
  held.Wait();
  const absl::Duration now = clock.Now();
  ASSERT_TRUE(clock.RunAt(now + absl::Microseconds(3), [&] { done.Open(); }).ok());
  ASSERT_TRUE(clock.RunAt(now + absl::Microseconds(2), [&] { order.push_back("b1"); }).ok());
  ASSERT_TRUE(clock.RunAt(now + absl::Microseconds(2), [&] { order.push_back("b2"); }).ok());
  ASSERT_TRUE(clock.RunAt(now + absl::Microseconds(1), [&] { order.push_back("a"); }).ok());
  release.Open();
  done.Wait();
  EXPECT_THAT(order, testing::ElementsAre("a", "b1", "b2"));
}

TEST(SteadyClock, AnEarlierWorkOvertakesTheOneThatIsWaitedFor) {
  SteadyClock clock;
  Gate ran;
  ASSERT_TRUE(clock.RunAt(absl::InfiniteDuration(), [] { FAIL(); }).ok());
  ASSERT_TRUE(clock.RunAt(clock.Now() + absl::Hours(100'000'000), [] { FAIL(); }).ok());
  ASSERT_TRUE(clock.RunAt(-absl::InfiniteDuration(), [&] { ran.Open(); }).ok());
  ran.Wait();
}

TEST(SteadyClock, HasNoThreadBeforeTheFirstRunAt) {
  CountingThreadFactory factory;
  {
    SteadyClock clock({.factory = &factory});
    clock.Now();
    EXPECT_EQ(factory.started(), 0);
    ASSERT_TRUE(clock.RunAt(absl::InfiniteDuration(), [] {}).ok());
    ASSERT_TRUE(clock.RunAt(absl::InfiniteDuration(), [] {}).ok());
    EXPECT_EQ(factory.started(), 1);
  }
  EXPECT_EQ(factory.joined(), 1);
}

TEST(SteadyClock, DestroysWhatIsNotDueYet) {
  auto alive = std::make_shared<int>();
  {
    SteadyClock clock;
    ASSERT_TRUE(clock.RunAt(absl::InfiniteDuration(), [alive] { FAIL(); }).ok());
    EXPECT_EQ(alive.use_count(), 2);
  }
  EXPECT_EQ(alive.use_count(), 1);
}

TEST(SteadyClock, AThreadThatCannotBeStartedLosesNothing) {
  FailingThreadFactory factory;
  SteadyClock clock({.factory = &factory});
  Gate ran;
  Work work = [&] { ran.Open(); };
  factory.FailNext(1);
  EXPECT_TRUE(absl::IsResourceExhausted(clock.RunAt(clock.Now(), std::move(work))));
  ASSERT_TRUE(work != nullptr);
  ASSERT_TRUE(clock.RunAt(clock.Now(), std::move(work)).ok());
  ran.Wait();
}

TEST(SteadyClock, EmptyWorkIsInvalidArgument) {
  SteadyClock clock;
  EXPECT_TRUE(absl::IsInvalidArgument(clock.RunAt(clock.Now(), nullptr)));
}

TEST(SteadyClock, AThrowingWorkIsReportedAndTheNextRuns) {
  std::string told;
  Gate done;
  {
    SteadyClock clock({.on_error = [&](const ErrorReport& report) {
      told = std::string(report.worker) + ": " + std::string(report.status.message());
    }});
    ASSERT_TRUE(clock.RunAt(clock.Now(), [] { throw std::runtime_error("boom"); }).ok());
    ASSERT_TRUE(clock.RunAt(clock.Now(), [&] { done.Open(); }).ok());
    done.Wait();
  }
  EXPECT_EQ(told, "timer: std::runtime_error: boom");
}

TEST(SteadyClock, AWorkMayGiveTheNextAndDestroyTheClock) {
  CountingThreadFactory factory;
  Gate gone;
  auto clock = std::make_unique<SteadyClock>(SteadyClockOptions{.factory = &factory});
  SteadyClock* const raw = clock.get();
  ASSERT_TRUE(raw->RunAt(raw->Now(),
                         [&, own = std::move(clock)]() mutable {
                           EXPECT_TRUE(own->RunAt(own->Now(), [] { FAIL(); }).ok());
                           own = nullptr;
                           gone.Open();
                         })
                  .ok());
  gone.Wait();
  factory.Finish();
  EXPECT_EQ(factory.orphaned(), 1);
  EXPECT_EQ(factory.joined(), 1);
}

}  // namespace
}  // namespace workers
