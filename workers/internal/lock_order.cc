#include "workers/internal/lock_order.h"

#include <array>
#include <cstddef>

namespace workers::internal {
namespace {

struct Order {
  uint64_t outer = 0;  // no lock
  uint64_t inner = 0;
  bool is_reported = false;
};

struct Orders {
  std::array<Order, 64> kept = {};
  size_t next = 0;  // the oldest, which is replaced first

  Order* Find(uint64_t outer, uint64_t inner) {
    for (Order& order : kept) {
      if (order.outer == outer && order.inner == inner) return &order;
    }
    return nullptr;
  }
};

using ThisThread = ThreadLocalValue<Orders>;

}  // namespace

uint64_t LockOrder::NewId() {
  static Atomic<uint64_t> last = 0;
  return last.fetch_add(1) + 1;
}

const LockOrder::Held* LockOrder::Acquiring(uint64_t id) {
  const Held* found = nullptr;
  for (const Held* held = ThreadLocalPointer<Held>::Get(); held != nullptr; held = held->outer_) {
    Orders& orders = ThisThread::Get();
    if (Order* const opposite = orders.Find(id, held->id_)) {
      if (opposite->is_reported) continue;
      opposite->is_reported = true;
      found = held;
    } else if (orders.Find(held->id_, id) == nullptr) {
      orders.kept[orders.next] = {held->id_, id};
      orders.next = (orders.next + 1) % orders.kept.size();
    }
  }
  return found;
}

}  // namespace workers::internal
