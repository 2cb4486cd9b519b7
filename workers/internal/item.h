// A closure in place: placed once, never moved afterwards.

#ifndef WORKERS_INTERNAL_ITEM_H_
#define WORKERS_INTERNAL_ITEM_H_

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "absl/cleanup/cleanup.h"

namespace workers::internal {

// Is `f` a function pointer, std::function or the like that holds nothing to call?
template <typename F>
bool IsEmptyFunction(const F& f) {
  if constexpr (std::is_constructible_v<bool, const F&>) {
    return !static_cast<bool>(f);
  } else {
    return false;
  }
}

// Holds any closure, without an allocation if it has at most kInline bytes. The owner sees to it
// that one thread at a time uses it.
class Item {
 public:
  static constexpr size_t kInline = 64;

  Item() = default;
  ~Item() { Reset(); }
  Item(const Item&) = delete;
  Item& operator=(const Item&) = delete;

  bool empty() const { return operate_ == nullptr; }

  // Places `f`; this must be empty. Throws what constructing a decayed F throws, and bad_alloc if
  // it does not fit; then nothing was placed and, if F is nothrow-movable, nothing was moved.
  template <typename F>
  void Place(F&& f) {
    using Closure = std::decay_t<F>;
    if constexpr (Fits<Closure>) {
      ::new (static_cast<void*>(storage_)) Closure(std::forward<F>(f));
      operate_ = &Operate<Closure>;
    } else {
      ::new (static_cast<void*>(storage_))
          Boxed<Closure>{std::make_unique<Closure>(std::forward<F>(f))};
      operate_ = &Operate<Boxed<Closure>>;
    }
  }

  // Gives the closure that Place moved from `f` back to it.
  template <typename Closure>
  void GiveBackTo(Closure& f) noexcept {
    std::destroy_at(&f);
    if constexpr (Fits<Closure>) {
      std::construct_at(&f, std::move(*As<Closure>()));
    } else {
      std::construct_at(&f, std::move(*As<Boxed<Closure>>()->closure));
    }
    Reset();
  }

  // Calls the closure and destroys it, on every way out.
  void Run() { operate_(*this, /*run=*/true); }
  // Destroys the closure, if there is one.
  void Reset() {
    if (operate_ != nullptr) operate_(*this, /*run=*/false);
  }

 private:
  template <typename Closure>
  static constexpr bool Fits =
      sizeof(Closure) <= kInline && alignof(Closure) <= alignof(std::max_align_t);

  template <typename Closure>
  struct Boxed {
    std::unique_ptr<Closure> closure;
    void operator()() && { std::move (*closure)(); }
  };

  template <typename Closure>
  Closure* As() {
    return std::launder(reinterpret_cast<Closure*>(storage_));
  }

  template <typename Closure>
  static void Operate(Item& item, bool run) {
    Closure& closure = *item.As<Closure>();
    absl::Cleanup destroy = [&] {
      item.operate_ = nullptr;
      closure.~Closure();
    };
    if (run) static_cast<void>(std::move(closure)());
  }

  void (*operate_)(Item& item, bool run) = nullptr;
  alignas(std::max_align_t) std::byte storage_[kInline];
};

}  // namespace workers::internal

#endif  // WORKERS_INTERNAL_ITEM_H_
