#include "workers/worker.h"

#include <utility>

#include "gtest/gtest.h"

namespace workers {
namespace {

TEST(AlreadyQuitError, IsRecognisedAndNamesTheWorker) {
  const absl::Status status = AlreadyQuitError("disk");
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_TRUE(IsAlreadyQuit(status));
  EXPECT_EQ(status.message(), "disk has already quit");
}

TEST(AlreadyQuitError, IsNotEveryFailedPrecondition) {
  EXPECT_FALSE(IsAlreadyQuit(absl::FailedPreconditionError("disk is closed")));
  EXPECT_FALSE(IsAlreadyQuit(absl::OkStatus()));
}

TEST(AlreadyQuitError, IsStillRecognisedAfterItWasCopied) {
  const absl::Status original = AlreadyQuitError("disk");
  const absl::Status copy = original;
  EXPECT_TRUE(IsAlreadyQuit(copy));
}

TEST(ErrorReport, SaysNothingByDefault) {
  const ErrorReport report;
  EXPECT_TRUE(report.status.ok());
  EXPECT_EQ(report.exception, nullptr);
  EXPECT_EQ(report.dropped, 0);
}

}  // namespace
}  // namespace workers
