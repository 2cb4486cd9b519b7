// Declares that a work item of a Team blocks.

#ifndef WORKERS_BLOCKING_SCOPE_H_
#define WORKERS_BLOCKING_SCOPE_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "workers/work_handle.h"

namespace workers {

namespace internal {
struct Runner;
}  // namespace internal

// While it lives, the worker of a Team that runs the calling item is blocked: it does not count
// against the soft limit, so that items which would end the wait can have a worker. Does nothing
// outside a Team's item. Scopes nest. Known elsewhere as: ScopedBlockingCall (Chromium).
//
//   absl::StatusOr<Row> Ask(Database& database, const Query& query) {
//     workers::BlockingScope blocking;
//     return database.Ask(query);
//   }
class BlockingScope {
 public:
  // `timeout` is the time after which the wait ends in any case; infinite: it has none.
  explicit BlockingScope(absl::Duration timeout = absl::InfiniteDuration());
  ~BlockingScope();

  BlockingScope(const BlockingScope&) = delete;
  BlockingScope& operator=(const BlockingScope&) = delete;

  // Declares that this scope waits for the item of `handle`. Any thread, one at a time, while the
  // scope lives. Returns FailedPrecondition if that would never end: the item is in the backlog of
  // a team that has its hard limit of workers, or runs on a blocked worker, and every worker on
  // which its end depends waits in the same way, without a deadline. The caller must then not wait.
  absl::Status Awaits(const WorkHandle& handle);

 private:
  internal::Runner* const in_;  // the caller's item, or null
  const bool has_deadline_;
  bool awaits_ = false;  // something was declared
};

}  // namespace workers

#endif  // WORKERS_BLOCKING_SCOPE_H_
