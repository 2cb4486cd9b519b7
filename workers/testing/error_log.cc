#include "workers/testing/error_log.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "workers/internal/sync.h"

namespace workers::test {

struct ErrorLog::Shared {
  mutable internal::Mutex mutex;
  std::vector<LoggedError> errors ABSL_GUARDED_BY(mutex);
};

ErrorLog::ErrorLog() : shared_(std::make_shared<Shared>()) {}

ErrorHandler ErrorLog::handler() const {
  return [shared = shared_](const ErrorReport& report) {
    LoggedError error = {std::string(report.worker), report.status, report.exception,
                         report.dropped};
    internal::MutexLock lock(shared->mutex);
    shared->errors.push_back(std::move(error));
  };
}

std::vector<LoggedError> ErrorLog::errors() const {
  internal::MutexLock lock(shared_->mutex);
  return shared_->errors;
}

size_t ErrorLog::size() const {
  internal::MutexLock lock(shared_->mutex);
  return shared_->errors.size();
}

std::vector<std::string> ErrorLog::messages() const {
  std::vector<std::string> messages;
  for (const LoggedError& error : errors()) messages.emplace_back(error.status.message());
  return messages;
}

std::vector<std::string> ErrorLog::lines() const {
  std::vector<std::string> lines;
  for (const LoggedError& error : errors()) {
    lines.push_back(absl::StrCat(error.worker, ": ", error.status.message()));
    if (error.dropped > 0) absl::StrAppend(&lines.back(), " (dropped ", error.dropped, ")");
  }
  return lines;
}

int64_t ErrorLog::dropped() const {
  int64_t dropped = 0;
  for (const LoggedError& error : errors()) dropped += error.dropped;
  return dropped;
}

std::vector<LoggedError> ErrorLog::Take() {
  std::vector<LoggedError> taken;
  internal::MutexLock lock(shared_->mutex);
  taken.swap(shared_->errors);
  return taken;
}

}  // namespace workers::test
