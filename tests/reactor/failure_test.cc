#include "reactor/failure.h"

#include <memory>
#include <stdexcept>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "gtest/gtest.h"

namespace reactor {
namespace {

TEST(Failure, GivesBackExactlyTheStatusThatItGot) {
  absl::Status status = absl::NotFoundError("no");
  status.SetPayload("key", absl::Cord("value"));
  const Failure failure(status);
  EXPECT_EQ(failure.status(), status);
  EXPECT_EQ(failure.exception(), nullptr);
}

TEST(Failure, GivesBackExactlyTheExceptionThatItGot) {
  const auto exception = std::make_exception_ptr(std::runtime_error("boom"));
  const Failure failure(exception);
  EXPECT_EQ(failure.exception(), exception);
  EXPECT_EQ(failure.status(), absl::UnknownError("std::runtime_error: boom"));
}

TEST(Failure, OfNothingIsInternal) {
  EXPECT_TRUE(absl::IsInternal(Failure(absl::OkStatus()).status()));
  EXPECT_TRUE(absl::IsInternal(Failure(std::exception_ptr()).status()));
}

TEST(Failure, ThrowsTheVeryException) {
  const auto exception = std::make_exception_ptr(std::runtime_error("boom"));
  try {
    Failure(exception).Throw();
  } catch (...) {
    EXPECT_EQ(std::current_exception(), exception);
  }
}

TEST(Failure, ThrowsAStatusErrorOfItsStatusWhichBecomesThatStatusAgain) {
  absl::Status status = absl::NotFoundError("no");
  status.SetPayload("key", absl::Cord("value"));
  try {
    Failure(status).Throw();
  } catch (const StatusError& error) {
    EXPECT_EQ(error.status(), status);
    EXPECT_EQ(error.what(), status.ToString());
    const Failure again = Failure::Current();
    EXPECT_EQ(again.status(), status);
    EXPECT_EQ(again.exception(), nullptr);
  }
}

TEST(Failure, OfAStatusErrorOfTheUsersKeepsTheExceptionAndHasItsStatus) {
  try {
    throw StatusError(absl::DataLossError("mine"));
  } catch (...) {
    const Failure failure = Failure::Current();
    EXPECT_EQ(failure.exception(), std::current_exception());
    EXPECT_EQ(failure.status(), absl::DataLossError("mine"));
  }
}

struct DerivedError : StatusError {
  DerivedError() : StatusError(absl::DataLossError("derived")) {}
};

TEST(Failure, OfATypeDerivedFromStatusErrorKeepsTheExceptionAndHasItsStatus) {
  try {
    throw DerivedError();
  } catch (...) {
    const Failure failure = Failure::Current();
    EXPECT_EQ(failure.exception(), std::current_exception());
    EXPECT_EQ(failure.status(), absl::DataLossError("derived"));
  }
}

TEST(Result, HoldsAValueOrAFailure) {
  Result<int> value = 1;
  EXPECT_TRUE(value.ok());
  EXPECT_EQ(value.value(), 1);
  EXPECT_TRUE(value.status().ok());
  Result<int> failure = Failure(absl::NotFoundError("no"));
  EXPECT_FALSE(failure.ok());
  EXPECT_EQ(failure.failure().status(), absl::NotFoundError("no"));
  EXPECT_EQ(failure.status(), absl::NotFoundError("no"));
}

TEST(Result, IsMadeOfWhatATIsMadeOf) {
  Result<std::string> text = "text";
  EXPECT_EQ(text.value(), "text");
  Result<std::string> status_or = absl::StatusOr<std::string>("other");
  EXPECT_EQ(status_or.value(), "other");
  Result<std::string> refused = absl::StatusOr<std::string>(absl::AbortedError("x"));
  EXPECT_EQ(refused.status(), absl::AbortedError("x"));
  Result<std::unique_ptr<int>> pointer = std::make_unique<int>(1);
  std::unique_ptr<int> taken = std::move(pointer).value();
  EXPECT_EQ(*taken, 1);
}

TEST(Result, OfVoid) {
  EXPECT_TRUE(Result<void>().ok());
  EXPECT_TRUE(Result<void>(absl::OkStatus()).ok());
  Result<void> failure = absl::NotFoundError("no");
  EXPECT_FALSE(failure.ok());
  EXPECT_EQ(failure.status(), absl::NotFoundError("no"));
}

TEST(ResultDeathTest, TheValueOfAFailureDies) {
  Result<int> failure = absl::NotFoundError("no");
  EXPECT_DEATH((void)failure.value(), "Result::value: there is none: NOT_FOUND: no");
}

}  // namespace
}  // namespace reactor
