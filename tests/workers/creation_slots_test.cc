#include "workers/internal/creation_slots.h"

#include "gtest/gtest.h"

namespace workers::internal {
namespace {

TEST(CreationSlots, AMarkStaysWithItsSlot) {
  CreationSlots slots;
  const int first = slots.Take(/*grown=*/false);
  const int second = slots.Take(/*grown=*/true);
  EXPECT_TRUE(slots.Mark());  // the newer one
  EXPECT_EQ(slots.marked(), 1);
  CreationSlots::Freed freed = slots.Free(first);
  EXPECT_FALSE(freed.marked);
  EXPECT_FALSE(freed.grown);
  freed = slots.Free(second);
  EXPECT_TRUE(freed.marked);
  EXPECT_TRUE(freed.grown);
  EXPECT_EQ(slots.used(), 0);
  EXPECT_EQ(slots.marked(), 0);
}

TEST(CreationSlots, AFreedSlotStartsWithoutMarks) {
  CreationSlots slots;
  slots.Mark();
  const int slot = slots.Take(/*grown=*/true);
  slots.Mark();
  slots.Free(slot);
  const CreationSlots::Freed freed = slots.Free(slots.Take(/*grown=*/false));
  EXPECT_FALSE(freed.marked);
  EXPECT_FALSE(freed.grown);
}

TEST(CreationSlots, MarksAtMostWhatIsUsed) {
  CreationSlots slots;
  EXPECT_FALSE(slots.Mark());
  EXPECT_FALSE(slots.Unmark());
  for (int i = 0; i < CreationSlots::kMax; ++i) slots.Take(/*grown=*/false);
  int marked = 0;
  while (slots.Mark()) ++marked;
  EXPECT_EQ(marked, CreationSlots::kMax);
  while (slots.Unmark()) --marked;
  EXPECT_EQ(marked, 0);
}

}  // namespace
}  // namespace workers::internal
