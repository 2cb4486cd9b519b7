// An error handler that collects what is reported.

#ifndef WORKERS_TESTING_ERROR_LOG_H_
#define WORKERS_TESTING_ERROR_LOG_H_

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "workers/worker.h"

namespace workers::test {

// What an ErrorReport said, kept after the call.
struct LoggedError {
  std::string worker;
  absl::Status status;
  std::exception_ptr exception;
  int64_t dropped = 0;
};

// Any thread may call anything; nothing waits. Its handlers may outlive it.
//
//   TEST(Orders, ABadOrderIsReported) {
//     ErrorLog errors;
//     auto pool = MakePool({.name = "orders", .on_error = errors.handler()});
//     ...
//     EXPECT_THAT(errors.lines(), ElementsAre("orders: std::runtime_error: no such order"));
//   }
class ErrorLog {
 public:
  ErrorLog();

  ErrorHandler handler() const;

  std::vector<LoggedError> errors() const;
  size_t size() const;
  // The messages of the statuses.
  std::vector<std::string> messages() const;
  // "<worker>: <message>", with " (dropped <n>)" behind it where items were dropped.
  std::vector<std::string> lines() const;
  // How many work items were reported as dropped, in sum.
  int64_t dropped() const;

  // Returns the errors so far, and forgets them.
  std::vector<LoggedError> Take();

 private:
  struct Shared;  // with the handlers

  const std::shared_ptr<Shared> shared_;
};

}  // namespace workers::test

#endif  // WORKERS_TESTING_ERROR_LOG_H_
