// Lists of accepted items, and the spare nodes that they are made of.

#ifndef WORKERS_INTERNAL_WORK_NODES_H_
#define WORKERS_INTERNAL_WORK_NODES_H_

#include <cstdint>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "workers/internal/sync.h"
#include "workers/worker.h"

namespace workers::internal {

// One accepted item. Its address leaves the low four bits free.
struct alignas(16) WorkNode {
  WorkNode* next = nullptr;
  Work work = nullptr;
};

// A list of nodes whose items are gone. Plain data: it does not free what it holds.
struct SpareNodes {
  void Push(WorkNode* node) {
    node->next = std::exchange(first, node);
    if (last == nullptr) last = node;
    ++count;
  }

  WorkNode* first = nullptr;
  WorkNode* last = nullptr;
  int64_t count = 0;
};

// Keeps the spare nodes of many lists, up to a bound, so that a steady state allocates nothing and
// a burst leaves little behind. Any thread may call anything; no function waits, except for the
// few instructions of another one.
class WorkNodeCache {
 public:
  // Up to this many nodes (512 KiB) are kept on either side.
  static constexpr int64_t kMaxSpare = 8192;

  WorkNodeCache() = default;
  ~WorkNodeCache();
  WorkNodeCache(const WorkNodeCache&) = delete;
  WorkNodeCache& operator=(const WorkNodeCache&) = delete;

  // A node without an item, which the caller owns. Throws bad_alloc, and then nothing has changed.
  WorkNode* New();

  // Keeps the nodes, or frees them if enough are kept. Leaves `nodes` empty.
  void GiveBack(SpareNodes& nodes);
  void GiveBack(WorkNode* node);

 private:
  static void Free(WorkNode* first);

  // Threads that submit items and threads that have run them use a lock and a cache line of their
  // own: New takes all that was given back when its own list is empty. Where both locks are held,
  // `new_mutex_` was acquired first.
  alignas(64) Mutex new_mutex_;
  WorkNode* new_ ABSL_GUARDED_BY(new_mutex_) = nullptr;
  alignas(64) Mutex given_back_mutex_;
  SpareNodes given_back_ ABSL_GUARDED_BY(given_back_mutex_);
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_WORK_NODES_H_
