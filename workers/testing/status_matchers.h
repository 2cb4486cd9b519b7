// Expectations about absl::Status and absl::StatusOr, with readable failures.
//
//   ASSERT_OK(worker->Do([&] { ++ran; }));
//   EXPECT_OK(pool->Quit());
//   EXPECT_THAT(pool->Do([] {}), StatusIsAlreadyQuit());
//   EXPECT_THAT(ThreadPool::Create({.min_threads = -1}),
//               StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at least -1")));

#ifndef WORKERS_TESTING_STATUS_MATCHERS_H_
#define WORKERS_TESTING_STATUS_MATCHERS_H_

#include <ostream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/worker.h"

// Each evaluates its argument, a Status or a StatusOr, once; << adds to the message.
#define ASSERT_OK(expression) ASSERT_THAT(expression, ::workers::test::IsOk())
#define EXPECT_OK(expression) EXPECT_THAT(expression, ::workers::test::IsOk())

namespace workers::test {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}

// The three below match a Status or a StatusOr.
MATCHER(IsOk, negation ? "is not OK" : "is OK") {
  if (StatusOf(arg).ok()) return true;
  *result_listener << "which is " << StatusOf(arg);
  return false;
}

MATCHER(StatusIsAlreadyQuit, negation ? "is not AlreadyQuit" : "is AlreadyQuit") {
  *result_listener << "which is " << StatusOf(arg);
  return IsAlreadyQuit(StatusOf(arg));
}

MATCHER_P2(StatusIs, code, message,
           std::string(negation ? "does not have" : "has") + " the code " +
               absl::StatusCodeToString(code) + " and a message that " +
               testing::DescribeMatcher<std::string>(message)) {
  *result_listener << "which is " << StatusOf(arg);
  return StatusOf(arg).code() == code &&
         testing::ExplainMatchResult(message, std::string(StatusOf(arg).message()),
                                     result_listener);
}

// With any message.
inline auto StatusIs(absl::StatusCode code) { return StatusIs(code, testing::_); }

// Matches a StatusOr whose value matches `value`.
MATCHER_P(IsOkAndHolds, value, "") {
  if (arg.ok()) return testing::ExplainMatchResult(value, *arg, result_listener);
  *result_listener << "which is " << arg.status();
  return false;
}

}  // namespace workers::test

#endif  // WORKERS_TESTING_STATUS_MATCHERS_H_
