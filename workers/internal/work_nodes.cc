#include "workers/internal/work_nodes.h"

namespace workers::internal {

WorkNodeCache::~WorkNodeCache() {
  Free(new_);
  Free(given_back_.first);
}

WorkNode* WorkNodeCache::New() {
  {
    MutexLock lock(new_mutex_);
    if (new_ == nullptr) {
      MutexLock lock_given_back(given_back_mutex_);
      new_ = std::exchange(given_back_, SpareNodes()).first;
    }
    if (WorkNode* const node = new_; node != nullptr) {
      new_ = node->next;
      return node;
    }
  }
  return new WorkNode;
}

void WorkNodeCache::GiveBack(SpareNodes& nodes) {
  if (nodes.count == 0) return;
  SpareNodes given = std::exchange(nodes, SpareNodes());
  {
    MutexLock lock(given_back_mutex_);
    if (given_back_.count + given.count <= kMaxSpare) {
      given.last->next = given_back_.first;
      if (given_back_.last == nullptr) given_back_.last = given.last;
      given_back_.first = given.first;
      given_back_.count += given.count;
      return;
    }
  }
  Free(given.first);
}

void WorkNodeCache::GiveBack(WorkNode* node) {
  SpareNodes nodes;
  nodes.Push(node);
  GiveBack(nodes);
}

void WorkNodeCache::Free(WorkNode* first) {
  while (first != nullptr) delete std::exchange(first, first->next);
}

}  // namespace workers::internal
