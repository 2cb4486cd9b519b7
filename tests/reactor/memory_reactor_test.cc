#include "reactor/testing/memory_reactor.h"

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reactor/defer_later.h"
#include "reactor/deferred.h"
#include "reactor/reactor.h"
#include "reactor/reactor_time.h"
#include "workers/testing/gate.h"
#include "workers/thread_factory.h"
#include "workers/thread_pool.h"
#include "workers/worker.h"

namespace reactor::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using workers::IsAlreadyQuit;

// A descriptor without a file.
class Fake final : public IReadDescriptor, public IWriteDescriptor {
 public:
  explicit Fake(int fd) : fd_(fd) {}
  int fd() const override { return fd_; }
  absl::Status DoRead() override { return ++reads, absl::OkStatus(); }
  absl::Status DoWrite() override { return ++writes, absl::OkStatus(); }
  void ConnectionLost(absl::Status) override { ++lost; }

  int reads = 0;
  int writes = 0;
  int lost = 0;

 private:
  const int fd_;
};

std::vector<std::string> Texts(const std::vector<workers::ErrorReport>& reports) {
  std::vector<std::string> texts;
  for (const auto& report : reports) {
    texts.push_back(std::string(report.status.message()) + " " + std::to_string(report.dropped));
  }
  return texts;
}

// The whole of what takes a thread otherwise: away from the loop, and back.
TEST(MemoryReactor, NothingHappensButInAStep) {
  MemoryReactor reactor;
  ASSERT_TRUE(reactor.Start().ok());
  std::vector<std::string> log;
  ASSERT_TRUE(reactor
                  .CallInThread([&] {
                    EXPECT_FALSE(reactor.InReactorThread());
                    log.push_back("read");
                    EXPECT_TRUE(reactor
                                    .CallFromThread([&] {
                                      EXPECT_TRUE(reactor.InReactorThread());
                                      log.push_back("told");
                                    })
                                    .ok());
                  })
                  .ok());
  EXPECT_FALSE(reactor.Turn());
  EXPECT_THAT(log, IsEmpty());
  EXPECT_TRUE(reactor.StepThread());
  EXPECT_THAT(log, ElementsAre("read"));
  EXPECT_EQ(reactor.queued_calls(), 1u);
  EXPECT_FALSE(reactor.StepThread());
  EXPECT_TRUE(reactor.Turn());
  EXPECT_THAT(log, ElementsAre("read", "told"));
  EXPECT_FALSE(reactor.Turn());
}

TEST(MemoryReactor, ATurnRunsOnlyTheCallsThatWereThereBefore) {
  MemoryReactor reactor;
  ASSERT_TRUE(reactor.Start().ok());
  std::string log;
  ASSERT_TRUE(reactor
                  .CallFromThread([&] {
                    log += 'a';
                    EXPECT_TRUE(reactor.CallFromThread([&] { log += 'c'; }).ok());
                  })
                  .ok());
  ASSERT_TRUE(reactor.CallFromThread([&] { log += 'b'; }).ok());
  EXPECT_TRUE(reactor.Turn());
  EXPECT_EQ(log, "ab");
  EXPECT_TRUE(reactor.Turn());
  EXPECT_EQ(log, "abc");
}

TEST(MemoryReactor, TheTimeStandsStillUntilItIsAdvanced) {
  MemoryReactor reactor;
  ASSERT_TRUE(reactor.Start().ok());
  int fired = 0;
  ASSERT_TRUE(reactor.CallLater(absl::Seconds(5), [&] { ++fired; }).ok());
  EXPECT_EQ(reactor.delayed_calls().size(), 1u);
  reactor.Settle();
  EXPECT_EQ(reactor.Now(), absl::ZeroDuration());
  reactor.Advance(absl::Seconds(4));
  EXPECT_EQ(fired, 0);
  reactor.Advance(absl::Seconds(1));
  EXPECT_EQ(fired, 1);
  EXPECT_THAT(reactor.delayed_calls(), IsEmpty());
}

TEST(MemoryReactor, ThePoolHasItsMaximumOfThreadsAndTheRestWaits) {
  MemoryReactor reactor({.max_threads = 2});
  ASSERT_TRUE(reactor.Start().ok());
  std::string log;
  for (char name : {'a', 'b', 'c', 'd', 'e'}) {
    ASSERT_TRUE(reactor.CallInThread([&log, name] { log += name; }).ok());
  }
  workers::ThreadPool* const pool = *reactor.thread_pool();
  EXPECT_EQ(pool->working(), 2);
  EXPECT_EQ(pool->queued(), 3);
  EXPECT_TRUE(reactor.StepThread());
  EXPECT_EQ(log, "acde");  // the second thread has not begun
  EXPECT_EQ(pool->working(), 1);
  EXPECT_TRUE(reactor.StepThread());
  EXPECT_EQ(log, "acdeb");
  EXPECT_EQ(pool->waiters(), 2);
  EXPECT_FALSE(reactor.StepThread());
}

TEST(MemoryReactor, SettleGoesOnUntilNeitherCallsNorWorksAreLeft) {
  MemoryReactor reactor;
  ASSERT_TRUE(reactor.Start().ok());
  int hops = 0;
  std::function<void()> hop = [&] {
    if (++hops == 20) return;
    if (hops % 2 == 0) {
      EXPECT_TRUE(reactor.CallInThread(hop).ok());
    } else {
      EXPECT_TRUE(reactor.CallFromThread(hop).ok());
    }
  };
  hop();
  reactor.Settle();
  EXPECT_EQ(hops, 20);
}

TEST(MemoryReactor, ADescriptorIsCalledEachTurnForAsLongAsItIsReady) {
  MemoryReactor reactor;
  ASSERT_TRUE(reactor.Start().ok());
  Fake d(7);
  ASSERT_TRUE(reactor.AddReader(d).ok());
  EXPECT_THAT(reactor.readers(), ElementsAre(&d));
  EXPECT_THAT(reactor.writers(), IsEmpty());
  EXPECT_FALSE(reactor.Turn());
  reactor.SetReady(d, {.read = true, .write = true});
  EXPECT_TRUE(reactor.Turn());
  EXPECT_TRUE(reactor.Turn());
  EXPECT_EQ(d.reads, 2);
  EXPECT_EQ(d.writes, 0);
  ASSERT_TRUE(reactor.AddWriter(d).ok());
  reactor.SetReady(d, {.write = true});
  EXPECT_TRUE(reactor.Turn());
  EXPECT_EQ(d.reads, 2);
  EXPECT_EQ(d.writes, 1);
  ASSERT_TRUE(reactor.RemoveReader(d).ok());
  ASSERT_TRUE(reactor.RemoveWriter(d).ok());
  ASSERT_TRUE(reactor.AddReader(d).ok());  // what was ready is forgotten
  EXPECT_FALSE(reactor.Turn());
}

TEST(MemoryReactor, TheShutdownGoesOnTurnByTurn) {
  MemoryReactor reactor;
  Promise<void> before;
  std::vector<std::string> log;
  ASSERT_TRUE(reactor
                  .AddSystemEventTrigger(EventPhase::kBefore, SystemEvent::kShutdown,
                                         [&] {
                                           auto made = MakeDeferred<void>();
                                           before = std::move(made.second);
                                           log.push_back("before");
                                           return std::move(made.first);
                                         })
                  .ok());
  ASSERT_TRUE(reactor
                  .AddSystemEventTrigger(EventPhase::kDuring, SystemEvent::kShutdown,
                                         [&] {
                                           log.push_back("during");
                                           return Succeed();
                                         })
                  .ok());
  ASSERT_TRUE(reactor.Start().ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(reactor.Start()));
  ASSERT_TRUE(reactor.CallInThread([&] { log.push_back("pool"); }).ok());
  ASSERT_TRUE(reactor.Stop().ok());
  EXPECT_THAT(log, IsEmpty());
  EXPECT_TRUE(reactor.Turn());
  EXPECT_FALSE(reactor.Turn());
  EXPECT_THAT(log, ElementsAre("before"));
  ASSERT_TRUE(reactor.CallFromThread([&] { EXPECT_TRUE(before.Callback().ok()); }).ok());
  EXPECT_TRUE(reactor.Turn());
  EXPECT_TRUE(IsAlreadyQuit(reactor.CallInThread([] { FAIL(); })));
  EXPECT_THAT(log, ElementsAre("before"));  // the pool is not done
  EXPECT_TRUE(reactor.running());
  while (reactor.StepThread()) {
  }
  EXPECT_TRUE(reactor.Turn());
  EXPECT_THAT(log, ElementsAre("before", "pool", "during"));
  EXPECT_FALSE(reactor.running());
  EXPECT_TRUE(IsAlreadyQuit(reactor.CallFromThread([] { FAIL(); })));
  EXPECT_FALSE(reactor.Turn());  // nothing more
}

TEST(MemoryReactor, RunLeapsFromTimerToTimer) {
  MemoryReactor reactor;
  DeferLater(reactor, absl::Hours(5), [&] { return reactor.Stop(); }).Detach();
  EXPECT_TRUE(reactor.Run().ok());
  EXPECT_EQ(reactor.Now(), absl::Hours(5));
}

TEST(MemoryReactor, RunSaysSoWhenNothingIsLeftThatCouldStopIt) {
  MemoryReactor reactor;
  EXPECT_TRUE(absl::IsUnavailable(reactor.Run()));
  EXPECT_TRUE(reactor.running());
  EXPECT_TRUE(reactor.Stop().ok());
  EXPECT_TRUE(reactor.Turn());
  EXPECT_FALSE(reactor.running());
}

// A work that waits for the loop is stepped by another thread.
TEST(MemoryReactor, AWorkThatWaitsForTheLoopIsSteppedByAnotherThread) {
  MemoryReactor reactor;
  ASSERT_TRUE(reactor.Start().ok());
  workers::test::Gate given;
  workers::test::Gate done;
  ASSERT_TRUE(reactor
                  .CallInThread([&] {
                    EXPECT_TRUE(reactor.CallFromThread([&] { done.Open(); }).ok());
                    given.Open();
                    done.Wait();
                  })
                  .ok());
  auto thread = workers::DefaultThreadFactory().Start({.name = "stepper"},
                                                      [&] { EXPECT_TRUE(reactor.StepThread()); });
  ASSERT_TRUE(thread.ok());
  given.Wait();
  EXPECT_FALSE(reactor.StepThread());
  EXPECT_TRUE(reactor.Turn());
  (*thread)->Join();
}

TEST(MemoryReactor, DestroyedWhileItRunsItDropsWhatIsLeftAndReports) {
  std::vector<workers::ErrorReport> reports;
  auto token = std::make_shared<int>();
  {
    MemoryReactor reactor(
        {.name = "double", .max_threads = 1, .on_error = [&](const workers::ErrorReport& report) {
           reports.push_back(report);
           reports.back().worker = "";
         }});
    ASSERT_TRUE(reactor.Start().ok());
    ASSERT_TRUE(reactor.CallFromThread([token] { FAIL(); }).ok());
    ASSERT_TRUE(reactor.CallLater(absl::Seconds(1), [token] { FAIL(); }).ok());
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(reactor.CallInThread([token] { FAIL(); }).ok());
  }
  EXPECT_EQ(token.use_count(), 1);
  int64_t dropped = 0;
  for (const auto& report : reports) dropped += report.dropped;
  EXPECT_EQ(dropped, 5) << testing::PrintToString(Texts(reports));
}

TEST(MemoryReactorDeathTest, NoticesMisuse) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  MemoryReactor reactor({.name = "double"});
  EXPECT_DEATH(reactor.Turn(), "double: a step before the first Start");
  EXPECT_DEATH(reactor.Advance(absl::Seconds(-1)), "double: time does not go back");
  EXPECT_DEATH(MemoryReactor({.min_threads = 2, .max_threads = 1}), "a pool of 2 to 1 threads");
  ASSERT_TRUE(reactor.Start().ok());
  ASSERT_TRUE(reactor.CallFromThread([&] { reactor.Turn(); }).ok());
  EXPECT_DEATH(reactor.Turn(), "Turn inside another step of the loop");
  ASSERT_TRUE(reactor
                  .CallWhenRunning(
                      [&] { EXPECT_DEATH(reactor.StepThread(), "StepThread inside the loop"); })
                  .ok());
  reactor.CallFromThread([] {}).IgnoreError();
}

}  // namespace
}  // namespace reactor::test
