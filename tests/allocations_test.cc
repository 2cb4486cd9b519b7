#include "tests/allocations.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace workers::test {
namespace {

// A new expression of which nothing is made may be optimised away; this may not.
void AllocateAndFree() { operator delete(operator new(8)); }

// Does an allocation fail now?
bool Fails() {
  void* const memory = operator new(8, std::nothrow);
  operator delete(memory);
  return memory == nullptr;
}

struct alignas(64) Aligned {
  char bytes[64] = {};
};

TEST(Allocations, CountsEachFormOfNew) {
  const int64_t before = Allocations();
  const int64_t living = LivingAllocations();
  const int64_t bytes = LivingBytes();
  auto one = std::make_unique<int>(1);
  EXPECT_EQ(Allocations() - before, 1);
  auto several = std::make_unique<char[]>(1000);
  auto aligned = std::make_unique<Aligned>();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(aligned.get()) % 64, 0u);
  std::unique_ptr<int> silent(new (std::nothrow) int(2));
  EXPECT_EQ(Allocations() - before, 4);
  EXPECT_EQ(LivingAllocations() - living, 4);
  EXPECT_GE(LivingBytes() - bytes, 1000 + 64);
  one = nullptr;
  several = nullptr;
  aligned = nullptr;
  silent = nullptr;
  EXPECT_EQ(Allocations() - before, 4);
  EXPECT_EQ(LivingAllocations(), living);
  EXPECT_EQ(LivingBytes(), bytes);
}

TEST(Allocations, OneFailsAlone) {
  std::vector<bool> null;
  null.reserve(4);
  FailingAllocations failing(2, /*sustained=*/false);
  EXPECT_TRUE(failing.During([&] {
    for (int i = 0; i < 4; ++i) null.push_back(Fails());
  }));
  EXPECT_THAT(null, testing::ElementsAre(false, true, false, false));
  EXPECT_TRUE(failing.reached());
}

TEST(Allocations, AllFailFromOneOn) {
  std::vector<bool> null;
  null.reserve(4);
  FailingAllocations failing(3, /*sustained=*/true);
  for (int i = 0; i < 4; ++i) {  // counts on from call to call
    EXPECT_TRUE(failing.During([&] { null.push_back(Fails()); }));
    EXPECT_FALSE(Fails());  // outside nothing fails, nor counts
  }
  EXPECT_THAT(null, testing::ElementsAre(false, false, true, true));
  EXPECT_TRUE(failing.reached());
}

TEST(Allocations, AFailureIsBadAllocAndOfItsThreadOnly) {
  FailingAllocations failing(1, /*sustained=*/true);
  EXPECT_FALSE(failing.During([] { AllocateAndFree(); }));
  EXPECT_TRUE(failing.reached());

  std::atomic<bool> turn = false;  // the other thread's
  bool other_failed = false;
  std::thread other([&] {
    while (!turn) std::this_thread::yield();
    other_failed = Fails();
    turn = false;
  });
  FailingAllocations here(1, /*sustained=*/true);
  EXPECT_TRUE(here.During([&] {
    turn = true;
    while (turn) std::this_thread::yield();
  }));
  other.join();
  EXPECT_FALSE(here.reached());
  EXPECT_FALSE(other_failed);
}

TEST(Allocations, OnAllThreadsTheFirstToComeFails) {
  std::atomic<bool> go = false;
  std::atomic<int> failed = 0;
  std::atomic<int> done = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      while (!go) std::this_thread::yield();
      failed += Fails();
      ++done;
    });
  }
  FailingAllocations failing(2, /*sustained=*/false);
  EXPECT_TRUE(failing.DuringOnAllThreads([&] {
    go = true;
    while (done < 4) std::this_thread::yield();
  }));
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 1);
}

TEST(Allocations, ASweepMeetsEachAllocationTwiceAndEnds) {
  std::vector<int> completed;
  SweepAllocations([&](FailingAllocations& failing) {
    int steps = 0;
    failing.During([&] {
      for (; steps < 3; ++steps) AllocateAndFree();
    });
    completed.push_back(steps);
  });
  EXPECT_THAT(completed, testing::ElementsAre(0, 1, 2, 3, 0, 1, 2, 3));
}

}  // namespace
}  // namespace workers::test
