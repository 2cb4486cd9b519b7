#include "workers/internal/backlog.h"

#include <cstdint>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace workers::internal {
namespace {

Job* Numbered(Backlog& backlog, int64_t number) {
  Job* job = backlog.TakeSpare();
  if (job == nullptr) job = new Job;
  job->number = number;
  return job;
}

std::vector<int64_t> TakeNumbers(Backlog& backlog) {
  std::vector<int64_t> numbers;
  while (backlog.first() != nullptr) {
    Job* const job = backlog.TakeFirst();
    numbers.push_back(job->number);
    backlog.Keep(job);
  }
  return numbers;
}

TEST(Backlog, IsFirstInFirstOut) {
  Backlog backlog;
  for (int64_t i = 0; i < 5; ++i) backlog.PushBack(Numbered(backlog, i));
  EXPECT_THAT(TakeNumbers(backlog), testing::ElementsAre(0, 1, 2, 3, 4));
}

TEST(Backlog, AnItemGoesBackToItsPlace) {
  Backlog backlog;
  for (int64_t i = 0; i < 4; ++i) backlog.PushBack(Numbered(backlog, i));
  Job* const first = backlog.TakeFirst();
  Job* const second = backlog.TakeFirst();
  backlog.PutBack(second);
  backlog.PutBack(first);
  EXPECT_THAT(TakeNumbers(backlog), testing::ElementsAre(0, 1, 2, 3));
}

TEST(Backlog, AnItemCanBeRemovedFromAnywhere) {
  for (int64_t removed = 0; removed < 3; ++removed) {
    Backlog backlog;
    Job* jobs[3];
    for (int64_t i = 0; i < 3; ++i) backlog.PushBack(jobs[i] = Numbered(backlog, i));
    backlog.Remove(jobs[removed]);
    backlog.Keep(jobs[removed]);
    backlog.PushBack(Numbered(backlog, 3));
    EXPECT_EQ(TakeNumbers(backlog).size(), 3u);
  }
}

// FAULTS B6. (Under the address sanitizer a job that was freed twice, or not at all, fails too.)
TEST(Backlog, GivesTheMemoryOfABurstBack) {
  Backlog backlog;
  for (int64_t i = 0; i < 100'000; ++i) backlog.PushBack(Numbered(backlog, i));
  while (backlog.first() != nullptr) backlog.Keep(backlog.TakeFirst());
  EXPECT_LE(backlog.spare(), 4096);
}

TEST(Backlog, TakeAllLinksTheOldestFirst) {
  Backlog backlog;
  for (int64_t i = 0; i < 3; ++i) backlog.PushBack(Numbered(backlog, i));
  Job* jobs = backlog.TakeAll();
  EXPECT_EQ(backlog.first(), nullptr);
  for (int64_t i = 0; jobs != nullptr; ++i) {
    EXPECT_EQ(jobs->number, i);
    Job* const next = jobs->next;
    backlog.Keep(jobs);
    jobs = next;
  }
}

}  // namespace
}  // namespace workers::internal
