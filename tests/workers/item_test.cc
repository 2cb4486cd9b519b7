#include "workers/internal/item.h"

#include <array>
#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>

#include "gtest/gtest.h"

namespace workers::internal {
namespace {

TEST(Item, RunsOnceAndDestroysWhatItRan) {
  auto owned = std::make_shared<int>(0);
  Item item;
  EXPECT_TRUE(item.empty());
  item.Place([owned] { ++*owned; });
  EXPECT_FALSE(item.empty());
  EXPECT_EQ(owned.use_count(), 2);
  item.Run();
  EXPECT_EQ(*owned, 1);
  EXPECT_EQ(owned.use_count(), 1);
  EXPECT_TRUE(item.empty());
  item.Reset();
}

TEST(Item, DestroysWhatThrew) {
  auto owned = std::make_shared<int>(0);
  Item item;
  item.Place([owned] { throw std::runtime_error("thrown"); });
  EXPECT_THROW(item.Run(), std::runtime_error);
  EXPECT_EQ(owned.use_count(), 1);
  EXPECT_TRUE(item.empty());
}

TEST(Item, DestroysWhatItHolds) {
  auto owned = std::make_shared<int>(0);
  {
    Item item;
    item.Place([owned] { ++*owned; });
    item.Reset();
    EXPECT_EQ(owned.use_count(), 1);
    item.Place([owned] { ++*owned; });
  }
  EXPECT_EQ(owned.use_count(), 1);
  EXPECT_EQ(*owned, 0);
}

// A closure that cannot be copied, of any size.
template <size_t size>
struct Sized {
  explicit Sized(int* sum) : sum(sum), one(std::make_unique<int>(1)) {}
  int* sum;
  std::unique_ptr<int> one;
  std::array<char, size> rest = {};
  void operator()() && { *sum += *one; }
};

template <typename Closure>
void ExpectItComesBack() {
  int sum = 0;
  Closure closure(&sum);
  Item item;
  item.Place(std::move(closure));
  EXPECT_EQ(closure.one, nullptr);
  item.GiveBackTo(closure);
  EXPECT_TRUE(item.empty());
  ASSERT_NE(closure.one, nullptr);
  std::move(closure)();
  EXPECT_EQ(sum, 1);
  item.Place(std::move(closure));
  item.Run();
  EXPECT_EQ(sum, 2);
}

TEST(Item, GivesASmallClosureBack) { ExpectItComesBack<Sized<8>>(); }
TEST(Item, GivesALargeClosureBack) { ExpectItComesBack<Sized<1000>>(); }

TEST(Item, KnowsEmptyFunctions) {
  EXPECT_TRUE(IsEmptyFunction(std::function<void()>()));
  EXPECT_TRUE(IsEmptyFunction(static_cast<void (*)()>(nullptr)));
  EXPECT_FALSE(IsEmptyFunction(std::function<void()>([] {})));
  int x = 0;
  EXPECT_FALSE(IsEmptyFunction([x] { static_cast<void>(x); }));
}

}  // namespace
}  // namespace workers::internal
