// The creations of workers that are under way in a Team.

#ifndef WORKERS_INTERNAL_CREATION_SLOTS_H_
#define WORKERS_INTERNAL_CREATION_SLOTS_H_

#include <bit>
#include <cstdint>

namespace workers::internal {

// Each creation has a slot from its decision to its outcome, so that a mark stays with the worker
// that it was made for. Plain data, guarded by its owner.
class CreationSlots {
 public:
  static constexpr int kMax = 16;

  int used() const { return std::popcount(used_); }
  int marked() const { return std::popcount(marked_); }

  // Takes a free slot; there must be one. `grown`: the worker is one of growth_per_second's.
  int Take(bool grown) {
    const int slot = std::countr_one(used_);
    used_ |= Bit(slot);
    if (grown) grown_ |= Bit(slot);
    return slot;
  }
  struct Freed {
    bool marked;
    bool grown;
  };
  Freed Free(int slot) {
    const Freed freed = {(marked_ & Bit(slot)) != 0, (grown_ & Bit(slot)) != 0};
    used_ &= ~Bit(slot);
    marked_ &= ~Bit(slot);
    grown_ &= ~Bit(slot);
    return freed;
  }

  // Marks a worker that is being created to leave as soon as it has been. Returns false if none is
  // left unmarked.
  bool Mark() {
    const uint32_t unmarked = used_ & ~marked_;
    marked_ |= std::bit_floor(unmarked);
    return unmarked != 0;
  }
  // Takes one such mark back. Returns false if there is none.
  bool Unmark() {
    const bool had_one = marked_ != 0;
    marked_ &= marked_ - 1;
    return had_one;
  }

 private:
  static uint32_t Bit(int slot) { return uint32_t{1} << slot; }

  uint32_t used_ = 0;
  uint32_t marked_ = 0;
  uint32_t grown_ = 0;
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_CREATION_SLOTS_H_
