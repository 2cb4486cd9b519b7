#include "workers/internal/backlog.h"

#include <utility>

namespace workers::internal {
namespace {

constexpr int64_t kMaxSpare = 4096;  // 512 KiB

}  // namespace

Backlog::~Backlog() {
  while (spare_ != nullptr) delete std::exchange(spare_, spare_->next);
}

Job* Backlog::TakeSpare() {
  Job* const job = spare_;
  if (job == nullptr) return nullptr;
  spare_ = job->next;
  --spare_count_;
  return job;
}

void Backlog::Keep(Job* job) {
  if (spare_count_ >= kMaxSpare) {
    delete job;
    return;
  }
  ++spare_count_;
  job->next = std::exchange(spare_, job);
}

void Backlog::PushBack(Job* job) { InsertAfter(job, last_); }

void Backlog::PutBack(Job* job) {
  Job* previous = nullptr;
  for (Job* at = first_; at != nullptr && at->number < job->number; at = at->next) previous = at;
  InsertAfter(job, previous);
}

void Backlog::InsertAfter(Job* job, Job* previous) {
  job->previous = previous;
  job->next = std::exchange(previous == nullptr ? first_ : previous->next, job);
  (job->next == nullptr ? last_ : job->next->previous) = job;
}

void Backlog::Remove(Job* job) {
  (job->previous == nullptr ? first_ : job->previous->next) = job->next;
  (job->next == nullptr ? last_ : job->next->previous) = job->previous;
}

Job* Backlog::TakeFirst() {
  Job* const job = first_;
  Remove(job);
  return job;
}

Job* Backlog::TakeAll() {
  last_ = nullptr;
  return std::exchange(first_, nullptr);
}

}  // namespace workers::internal
