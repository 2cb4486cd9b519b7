#include "workers/testing/error_log.h"

#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/worker.h"

namespace workers::test {
namespace {

using testing::ElementsAre;

void Report(const ErrorHandler& handler, absl::string_view worker, absl::string_view message) {
  ErrorReport report;
  report.worker = worker;
  report.status = absl::InternalError(message);
  report.dropped = 1;
  handler(report);
}

TEST(ErrorLog, CollectsWhatWorkersReport) {
  ErrorLog log;
  LockWorker worker({.name = "orders", .on_error = log.handler()});
  EXPECT_EQ(log.size(), 0u);
  ASSERT_TRUE(worker.Do([] { throw std::runtime_error("no such order"); }).ok());
  ASSERT_EQ(log.size(), 1u);
  EXPECT_THAT(log.messages(), ElementsAre("std::runtime_error: no such order"));
  EXPECT_THAT(log.lines(), ElementsAre("orders: std::runtime_error: no such order"));
  EXPECT_EQ(log.dropped(), 0);
  const LoggedError error = log.errors()[0];
  EXPECT_EQ(error.worker, "orders");
  EXPECT_TRUE(absl::IsUnknown(error.status));
  EXPECT_THROW(std::rethrow_exception(error.exception), std::runtime_error);
}

TEST(ErrorLog, CountsDroppedItems) {
  ErrorLog log;
  {
    MemoryWorker memory = CreateMemoryWorker("memory", log.handler());
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(memory.worker->Do([] {}).ok());
  }
  EXPECT_EQ(log.dropped(), 3);
  EXPECT_THAT(log.lines(), ElementsAre("memory: accepted work items were dropped without running: "
                                       "its performer was destroyed (dropped 3)"));
}

TEST(ErrorLog, TakeForgets) {
  ErrorLog log;
  Report(log.handler(), "a", "one");
  EXPECT_EQ(log.Take().size(), 1u);
  EXPECT_EQ(log.size(), 0u);
  Report(log.handler(), "a", "two");
  EXPECT_THAT(log.lines(), ElementsAre("a: two (dropped 1)"));
}

TEST(ErrorLog, AHandlerMayOutliveItsLog) {
  auto log = std::make_unique<ErrorLog>();
  const ErrorHandler handler = log->handler();
  log = nullptr;
  Report(handler, "late", "x");
}

TEST(ErrorLog, AnyThreadMayReport) {
  ErrorLog log;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([handler = log.handler()] {
      for (int j = 0; j < 100; ++j) Report(handler, "a", "x");
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(log.size(), 400u);
  EXPECT_EQ(log.dropped(), 400);
}

}  // namespace
}  // namespace workers::test
