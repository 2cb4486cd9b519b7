// What a debug build finds about the order of LockWorkers.

#include "workers/internal/lock_order.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/lock_worker.h"
#include "workers/worker.h"

// The thread sanitizer finds such orders too, and would end the test that has one on purpose.
extern "C" const char* __tsan_default_options() { return "detect_deadlocks=0"; }

namespace workers {
namespace {

class LockOrder : public testing::Test {
 protected:
  void SetUp() override {
#ifdef NDEBUG
    GTEST_SKIP() << "release builds do not look at it";
#endif
  }
  std::unique_ptr<LockWorker> New(std::string name) {
    return std::make_unique<LockWorker>(
        LockWorkerOptions{.name = std::move(name), .on_error = [this](const ErrorReport& report) {
                            reports.emplace_back(report.status.message());
                          }});
  }
  static void Nest(LockWorker& outer, LockWorker& inner) {
    EXPECT_TRUE(outer.Do([&] { EXPECT_TRUE(inner.Do([] {}).ok()); }).ok());
  }

  std::vector<std::string> reports;
};

TEST_F(LockOrder, TwoThatAreEnteredInOppositeOrdersAreReportedOnce) {
  const auto accounts = New("accounts"), log = New("log");
  Nest(*accounts, *log);
  Nest(*accounts, *log);
  EXPECT_THAT(reports, testing::IsEmpty());
  Nest(*log, *accounts);
  Nest(*log, *accounts);
  Nest(*accounts, *log);
  EXPECT_THAT(reports, testing::ElementsAre(
                           "lock order: this thread enters accounts inside log, and has entered "
                           "log inside accounts; two threads that do both can wait forever"));
}

TEST_F(LockOrder, AnOrderThroughAThirdIsSeen) {
  const auto a = New("a"), b = New("b"), c = New("c");
  EXPECT_TRUE(a->Do([&] { Nest(*b, *c); }).ok());
  EXPECT_THAT(reports, testing::IsEmpty());
  Nest(*c, *a);
  EXPECT_THAT(reports, testing::SizeIs(1));
}

TEST_F(LockOrder, ANewWorkerHasNoneOfTheOrdersOfAnOldOne) {
  const auto a = New("a");
  for (int i = 0; i < 200; ++i) {
    const auto b = New("b");
    if (i % 2 == 0) {
      Nest(*a, *b);
    } else {
      Nest(*b, *a);
    }
  }
  EXPECT_THAT(reports, testing::IsEmpty());
}

TEST_F(LockOrder, ANestedItemOfTheSameWorkerHasNoOrder) {
  const auto a = New("a");
  Nest(*a, *a);
  EXPECT_THAT(reports, testing::IsEmpty());
}

}  // namespace
}  // namespace workers
