// What a Team counts.

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/workers/team_in_hand.h"
#include "workers/blocking_scope.h"
#include "workers/lock_worker.h"
#include "workers/team.h"
#include "workers/testing/counting_thread_factory.h"
#include "workers/testing/gate.h"
#include "workers/testing/manual_clock.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace workers {
namespace {

// T10: every snapshot adds up, whoever takes it, whenever. (And after each step of all of these
// tests.)
TEST(Team, T10_EachSnapshotAddsUp) {
  std::atomic<bool> done = false;
  auto team = *Team::Create({.coordinator = std::make_unique<LockWorker>(),
                             .create_worker = [] { return ThreadWorker::Create(); },
                             .limits = {.soft_limit = 3, .hard_limit = 4}});
  std::thread reader([&] {
    while (!done) {
      const TeamStatistics s = team->statistics();
      ExpectConsistent(s);
      EXPECT_LE(s.live, 4);
    }
  });
  std::atomic<int> ran = 0;
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(team->Do([&] {
                        BlockingScope blocking;
                        ++ran;
                      })
                      .ok());
    }
    EXPECT_TRUE(team->Shrink(round % 4).ok());
    EXPECT_TRUE(team->Grow(round % 3).ok());
  }
  EXPECT_TRUE(team->Quit().ok());
  EXPECT_TRUE(team->Join().ok());
  done = true;
  reader.join();
  EXPECT_EQ(ran, 1000);
  EXPECT_EQ(team->statistics().completed, 1000);
  EXPECT_EQ(team->statistics().live, 0);
}

// What may only grow has grown.
void ExpectLater(const TeamStatistics& before, const TeamStatistics& now) {
  EXPECT_GE(now.accepted, before.accepted);
  EXPECT_GE(now.completed, before.completed);
  EXPECT_GE(now.failed, before.failed);
  EXPECT_GE(now.dropped, before.dropped);
  EXPECT_GE(now.refused, before.refused);
  EXPECT_GE(now.workers_created, before.workers_created);
  EXPECT_GE(now.creation_failures, before.creation_failures);
}

// Any thread may call anything, and each snapshot that anybody takes meanwhile adds up; with a
// coordinator that is inline, and with one that has a thread of its own.
TEST(Team, AnyThreadMayCallAnythingAndEachSnapshotAddsUp) {
  for (bool own_thread : {false, true}) {
    CountingThreadFactory factory;
    ManualClock clock;
    std::unique_ptr<IExclusiveWorker> coordinator = std::make_unique<LockWorker>();
    if (own_thread) coordinator = *ThreadWorker::Create();
    std::atomic<int> tried = 0;
    std::atomic<int64_t> reported = 0;
    auto team =
        *Team::Create({.coordinator = std::move(coordinator),
                       .create_worker = [&]() -> Made {
                         const int number = tried++;
                         if (number % 5 == 0) return absl::UnavailableError("no thread left");
                         if (number % 7 == 1) return nullptr;
                         return ThreadWorker::Create({.factory = &factory});
                       },
                       .limits = {.min_workers = 1,
                                  .soft_limit = 3,
                                  .growth_per_second = 1000,
                                  .hard_limit = 5,
                                  .idle_timeout = absl::Milliseconds(5),
                                  .max_backlog = 50},
                       .on_error = [&](const ErrorReport& report) { reported += report.dropped; },
                       .clock = &clock});
    std::atomic<bool> done = false;
    std::atomic<int64_t> accepted = 0;
    std::atomic<int64_t> ran = 0;
    std::atomic<int64_t> thens = 0;
    std::atomic<int64_t> counted = 0;
    const auto caller = [&](int seed) {
      TeamStatistics before = team->statistics();
      const auto look = [&] {
        const TeamStatistics now = team->statistics();
        ExpectConsistent(now);
        EXPECT_LE(now.live, 5);
        EXPECT_LE(now.backlogged, 50 + 5);  // five may have been idle
        ExpectLater(before, now);
        before = now;
      };
      for (int i = 0; i < 300; ++i) {
        switch ((i * 7 + seed * 5) % 12) {
          case 0:
            team->Grow(seed).IgnoreError();
            break;
          case 1:
            team->Shrink(1).IgnoreError();
            break;
          case 2:
            team->SetSize(1, 4).IgnoreError();
            break;
          case 3:
            team->Grow(0).IgnoreError();
            break;
          case 4:
            if (i > 200) team->Quit().IgnoreError();
            break;
          case 5:
            if (i > 250) counted += team->QuitNow();
            break;
          case 6:
            EXPECT_FALSE(team->Join(absl::ZeroDuration()).ok() && team->statistics().live > 0);
            break;
          case 7: {
            accepted += team->Enqueue([&] { ++ran; }, [&] { ++thens; }).ok();
            break;
          }
          case 8:
            accepted += team->Do([&] {
                              ++ran;
                              throw 1;
                            })
                            .ok();
            break;
          case 9:
            accepted += team->Do([&] {
                              BlockingScope blocking;
                              ExpectConsistent(team->statistics());
                              ++ran;
                            })
                            .ok();
            break;
          default:
            accepted += team->Do([&] { ++ran; }).ok();
        }
        look();
      }
    };
    std::thread time([&] {
      while (!done) clock.Advance(absl::Milliseconds(1));
    });
    Gate begun;  // the first creation has failed, and a later one has not
    accepted += team->Do([&] {
                      ++ran;
                      begun.Open();
                    })
                    .ok();
    begun.Wait();
    std::vector<std::thread> callers;
    for (int i = 0; i < 3; ++i) callers.emplace_back(caller, i);
    for (std::thread& thread : callers) thread.join();
    counted += team->QuitNow();
    EXPECT_TRUE(team->Join().ok());
    done = true;
    time.join();
    EXPECT_EQ(accepted, ran + counted + reported);
    const TeamStatistics s = team->statistics();
    EXPECT_EQ(s.accepted, accepted);
    EXPECT_EQ(s.completed + s.failed, ran);
    EXPECT_EQ(s.dropped, counted + reported);
    EXPECT_EQ(s.live + s.backlogged, 0);
    team = nullptr;
    factory.Finish();
    EXPECT_EQ(factory.started(), s.workers_created);
    EXPECT_EQ(factory.joined(), factory.started());
  }
}

// Nothing that waits for its time is left behind, however often workers come and go.
TEST_F(TeamInHand, ManyCyclesOfUseAndReleaseLeaveNothingAtTheClock) {
  TeamLimits limits = Soft();
  limits.idle_timeout = absl::Seconds(10);
  limits.growth_per_second = 1;
  Make(std::move(limits));
  for (int cycle = 0; cycle < 10'000; ++cycle) {
    const int first = made();
    Give(2);
    Coordinate();
    Advance(absl::Seconds(1));  // one more by growth
    ASSERT_EQ(made(), first + 2);
    StepEach();
    for (int look = 0; look < 10; ++look) {
      Advance(absl::Milliseconds(1));
      team_->Grow(0).IgnoreError();
      Coordinate();
    }
    ASSERT_LE(clock_.pending(), 4u);
    Advance(absl::Seconds(10));
    StepEach();
    ASSERT_EQ(statistics().live, 0);
    workers_.clear();
  }
  EXPECT_EQ(statistics().workers_created, 20'000);
  Advance(absl::Seconds(10));
  EXPECT_EQ(clock_.pending(), 0u);
}

// The coordinator is held before a decision. A statistics() that waits for it hangs.
TEST(Team, StatisticsDoNotWaitForTheCoordinator) {
  auto owned = std::make_unique<GatedCoordinator>();
  GatedCoordinator& coordinator = *owned;
  auto team = *Team::Create(
      {.coordinator = std::move(owned), .create_worker = [] { return ThreadWorker::Create(); }});
  coordinator.hold_next = true;
  std::thread caller([&] { EXPECT_TRUE(team->Do([] {}).ok()); });
  coordinator.held.Wait();
  const TeamStatistics held = team->statistics();
  EXPECT_EQ(held.accepted, 1);
  EXPECT_EQ(held.backlogged, 1);
  coordinator.release.Open();
  caller.join();
}

}  // namespace
}  // namespace workers
