// The queue of a Team: accepted items in their order.

#ifndef WORKERS_INTERNAL_BACKLOG_H_
#define WORKERS_INTERNAL_BACKLOG_H_

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "workers/internal/item.h"
#include "workers/worker.h"

namespace workers::internal {

struct HandleState;  // team_core.h: what a WorkHandle knows about an item

// One accepted item, from Do to the destruction of its captures.
struct Job {
  Job* next = nullptr;      // in the backlog, or of the spare ones
  Job* previous = nullptr;  // in the backlog
  int64_t number = 0;       // in the order of acceptance
  Item work;
  Work then = nullptr;
  std::shared_ptr<HandleState> handle = nullptr;
  // When it was accepted; infinite where it did not have to wait.
  absl::Duration since = absl::InfiniteDuration();
};

// A container: no lock, no callback. Guarded by its owner. It never calls or destroys an item.
class Backlog {
 public:
  Backlog() = default;
  ~Backlog();
  Backlog(const Backlog&) = delete;
  Backlog& operator=(const Backlog&) = delete;

  Job* first() const { return first_; }
  int64_t spare() const { return spare_count_; }  // jobs that are kept for reuse

  Job* TakeSpare();  // null: there is none
  // Keeps `job`, whose items are gone, as a spare one, or frees it: at most 4096 are kept, so that
  // the memory of a burst is given back.
  void Keep(Job* job);

  void PushBack(Job* job);
  void PutBack(Job* job);  // in its place by number
  void Remove(Job* job);
  Job* TakeFirst();  // there must be one
  Job* TakeAll();    // linked by `next`, the oldest first

 private:
  void InsertAfter(Job* job, Job* previous);

  Job* first_ = nullptr;
  Job* last_ = nullptr;
  Job* spare_ = nullptr;
  int64_t spare_count_ = 0;
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_BACKLOG_H_
