#include "workers/testing/status_matchers.h"

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest-spi.h"
#include "gtest/gtest.h"
#include "workers/lock_worker.h"
#include "workers/worker.h"

namespace workers::test {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::Pointee;

template <typename M, typename T>
std::string Explain(const M& matcher, const T& value) {
  testing::StringMatchResultListener listener;
  testing::ExplainMatchResult(matcher, value, &listener);
  return listener.str();
}

TEST(StatusMatchers, OkIsOk) {
  ASSERT_OK(absl::OkStatus());
  EXPECT_OK(absl::StatusOr<int>(1));
  EXPECT_OK(LockWorker().Do([] {})) << "with a text";
  EXPECT_THAT(absl::InternalError("x"), Not(IsOk()));
  EXPECT_THAT(absl::StatusOr<int>(absl::InternalError("x")), Not(IsOk()));
}

TEST(StatusMatchers, AFailureNamesTheStatus) {
  EXPECT_NONFATAL_FAILURE(EXPECT_OK(absl::NotFoundError("no cup")), "NOT_FOUND: no cup");
  EXPECT_FATAL_FAILURE(ASSERT_OK(absl::StatusOr<int>(absl::NotFoundError("no cup"))),
                       "NOT_FOUND: no cup");
  EXPECT_THAT(Explain(StatusIs(absl::StatusCode::kInternal), absl::NotFoundError("no cup")),
              HasSubstr("NOT_FOUND: no cup"));
}

TEST(StatusMatchers, EvaluatesItsArgumentOnce) {
  int calls = 0;
  const auto status = [&calls] {
    ++calls;
    return absl::OkStatus();
  };
  EXPECT_OK(status());
  EXPECT_EQ(calls, 1);
}

TEST(StatusMatchers, StatusIsComparesCodeAndMessage) {
  const absl::Status status = absl::NotFoundError("no cup");
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, "no cup"));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, HasSubstr("cup")));
  EXPECT_THAT(status, Not(StatusIs(absl::StatusCode::kNotFound, "cup")));
  EXPECT_THAT(status, Not(StatusIs(absl::StatusCode::kInternal)));
  EXPECT_THAT(absl::StatusOr<std::unique_ptr<int>>(status),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("cup")));
}

TEST(StatusMatchers, AlreadyQuitIsToldFromOtherFailedPreconditions) {
  LockWorker worker;
  ASSERT_OK(worker.Quit());
  EXPECT_THAT(worker.Quit(), StatusIsAlreadyQuit());
  EXPECT_THAT(absl::FailedPreconditionError("x"), Not(StatusIsAlreadyQuit()));
  EXPECT_THAT(absl::OkStatus(), Not(StatusIsAlreadyQuit()));
}

TEST(StatusMatchers, IsOkAndHoldsComparesTheValue) {
  EXPECT_THAT(absl::StatusOr<int>(1), IsOkAndHolds(1));
  EXPECT_THAT(absl::StatusOr<int>(1), Not(IsOkAndHolds(2)));
  EXPECT_THAT(absl::StatusOr<int>(absl::NotFoundError("no cup")), Not(IsOkAndHolds(1)));
  EXPECT_THAT(absl::StatusOr<std::unique_ptr<int>>(std::make_unique<int>(3)),
              IsOkAndHolds(Pointee(3)));
}

}  // namespace
}  // namespace workers::test
