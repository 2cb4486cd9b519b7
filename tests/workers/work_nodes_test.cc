#include "workers/internal/work_nodes.h"

#include <malloc.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace workers::internal {
namespace {

// The caches are on the heap, as in the product: g++ 12 with the address sanitizer does not align
// what is on the stack to 64 bytes.
TEST(WorkNodes, LeaveTheLowBitsOfTheirAddressFree) {
  const auto owned = std::make_unique<WorkNodeCache>();
  WorkNodeCache& cache = *owned;
  WorkNode* const node = cache.New();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(node) & 15, 0u);
  cache.GiveBack(node);
}

TEST(WorkNodes, AreUsedAgain) {
  const auto owned = std::make_unique<WorkNodeCache>();
  WorkNodeCache& cache = *owned;
  SpareNodes spare;
  std::set<WorkNode*> first;
  for (int i = 0; i < 10; ++i) {
    spare.Push(cache.New());
    first.insert(spare.first);
  }
  cache.GiveBack(spare);
  EXPECT_EQ(spare.count, 0);
  EXPECT_EQ(spare.first, nullptr);
  std::set<WorkNode*> second;
  for (int i = 0; i < 10; ++i) second.insert(cache.New());
  EXPECT_EQ(first, second);
  for (WorkNode* node : second) cache.GiveBack(node);
}

// Two at a time, from several threads: no node is ever in two hands. Each thread writes into its
// nodes, so that the thread sanitizer sees it too.
TEST(WorkNodes, AreOneThreadsAtATime) {
  const auto owned = std::make_unique<WorkNodeCache>();
  WorkNodeCache& cache = *owned;
  std::atomic<int> twice = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50'000; ++i) {
        WorkNode* const a = cache.New();
        WorkNode* const b = cache.New();
        a->next = b;
        b->next = a;
        if (a == b || a->next != b || b->next != a) ++twice;
        cache.GiveBack(a);
        cache.GiveBack(b);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(twice, 0);
}

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
// B6.
TEST(WorkNodes, TheMemoryOfABurstIsGivenBack) {
  constexpr int kBurst = 200'000;
  const auto owned = std::make_unique<WorkNodeCache>();
  WorkNodeCache& cache = *owned;
  std::vector<WorkNode*> nodes(kBurst);
  const size_t before = mallinfo2().uordblks;
  for (int burst = 0; burst < 3; ++burst) {
    for (WorkNode*& node : nodes) node = cache.New();
    EXPECT_GE(mallinfo2().uordblks - before, kBurst * sizeof(WorkNode));
    for (WorkNode* node : nodes) cache.GiveBack(node);
    EXPECT_LE(mallinfo2().uordblks - before, 2 * WorkNodeCache::kMaxSpare * 64u);
  }
}
#endif

}  // namespace
}  // namespace workers::internal
