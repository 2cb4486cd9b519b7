// Locks, semaphores and queues for what waits by Deferreds: nothing here blocks a thread.

#ifndef REACTOR_DEFERRED_LOCK_H_
#define REACTOR_DEFERRED_LOCK_H_

#include <cstddef>
#include <deque>
#include <limits>
#include <list>
#include <memory>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "reactor/deferred.h"
#include "reactor/failure.h"

namespace reactor {

namespace internal {

class Tokens;  // what a semaphore and the holds of its tokens share

}  // namespace internal

// A token of a DeferredSemaphore, or a DeferredLock: gives it back when it is destroyed, also when
// an exception leaves a coroutine. Move-only. Same home as the Deferred that it came by; it may
// outlive the semaphore.
class [[nodiscard]] DeferredHold {
 public:
  DeferredHold() = default;  // of nothing
  DeferredHold(DeferredHold&& other) noexcept = default;
  DeferredHold& operator=(DeferredHold&& other) noexcept;
  ~DeferredHold() { Release(); }

  // Gives it back now; then it holds nothing.
  void Release();
  bool holds() const { return tokens_ != nullptr; }

 private:
  friend class internal::Tokens;

  explicit DeferredHold(std::shared_ptr<internal::Tokens> tokens) : tokens_(std::move(tokens)) {}

  std::shared_ptr<internal::Tokens> tokens_;
};

// So many may hold a token at once; the others wait, first come first served.
//
//   Deferred<void> Save(DeferredSemaphore& writers, Data data) {
//     DeferredHold hold = co_await writers.Acquire();
//     co_await Write(data);
//   }  // given back here, whatever came
//
// Not thread-safe: all of it on one home. A token goes from who gives it back straight to who has
// waited longest; whoever comes in between waits behind. That is a loop and no recursion, however
// many wait. A cancelled Acquire is out of the line; one that already has its token is as any
// Deferred that has fired. A token that comes to a Deferred nobody holds comes back at once. When
// the semaphore is destroyed, those who wait fail with Aborted.
class DeferredSemaphore {
 public:
  // At least one; else it dies.
  explicit DeferredSemaphore(size_t tokens);
  ~DeferredSemaphore();

  DeferredSemaphore(const DeferredSemaphore&) = delete;
  DeferredSemaphore& operator=(const DeferredSemaphore&) = delete;

  Deferred<DeferredHold> Acquire();

  // Calls f with a token held, until what it returns (as a callback may) has come.
  template <typename F>
  auto Run(F f) -> Deferred<internal::UnwrapOf<F, void>>;

  size_t limit() const;
  size_t available() const;  // tokens that nobody holds
  size_t waiting() const;    // Acquires that have no token yet

 private:
  const std::shared_ptr<internal::Tokens> tokens_;
};

// A semaphore of one token.
class DeferredLock {
 public:
  DeferredLock() = default;

  Deferred<DeferredHold> Acquire() { return semaphore_.Acquire(); }
  template <typename F>
  auto Run(F f) -> Deferred<internal::UnwrapOf<F, void>> {
    return semaphore_.Run(std::move(f));
  }

  bool locked() const { return semaphore_.available() == 0; }
  size_t waiting() const { return semaphore_.waiting(); }

 private:
  DeferredSemaphore semaphore_ = DeferredSemaphore(1);
};

struct DeferredQueueOptions {
  size_t max_items = std::numeric_limits<size_t>::max();    // that nobody has got yet
  size_t max_waiting = std::numeric_limits<size_t>::max();  // Gets that have nothing yet
};

// Values from who has them to who waits for them, both first come first served. Not thread-safe:
// all of it on one home. A cancelled Get is out of the line. When the queue is destroyed, those who
// wait fail with Aborted.
template <typename T>
class DeferredQueue {
 public:
  explicit DeferredQueue(DeferredQueueOptions options = {})
      : state_(std::make_unique<State>(options)) {}

  // Gives `item` to the Get that has waited longest, or keeps it. ResourceExhausted: there are
  // max_items already; `item` was left as it was.
  absl::Status Put(T&& item);

  // The oldest item, or the next that comes. Fails with ResourceExhausted where max_waiting wait.
  Deferred<T> Get();

  size_t items() const { return state_->items.size(); }
  size_t waiting() const { return state_->waiting.size(); }

 private:
  // Stays where it is when the queue is moved: cancellers know it.
  struct State {
    explicit State(DeferredQueueOptions its_options) : options(its_options) {}
    ~State() {
      // One by one: what this fires may cancel others of them.
      while (!waiting.empty()) {
        const Promise<T> first = std::move(waiting.front());
        waiting.pop_front();
      }
    }

    const DeferredQueueOptions options;
    std::deque<T> items;  // empty where somebody waits
    std::list<Promise<T>> waiting;
  };

  std::unique_ptr<State> state_;
};

// --- implementation: nothing to read below for who uses it ----------------------------------

template <typename F>
auto DeferredSemaphore::Run(F f) -> Deferred<internal::UnwrapOf<F, void>> {
  using U = internal::UnwrapOf<F, void>;
  return Acquire().AddCallback([f = std::move(f)](DeferredHold hold) mutable {
    return MaybeDeferred(std::move(f)).AddBoth([hold = std::move(hold)](Result<U> result) mutable {
      hold.Release();
      return result;
    });
  });
}

template <typename T>
absl::Status DeferredQueue<T>::Put(T&& item) {
  if (!state_->waiting.empty()) {
    Promise<T> first = std::move(state_->waiting.front());
    state_->waiting.pop_front();
    return first.Callback(std::move(item));
  }
  if (state_->items.size() >= state_->options.max_items) {
    return absl::ResourceExhaustedError("DeferredQueue: it is full");
  }
  state_->items.push_back(std::move(item));
  return absl::OkStatus();
}

template <typename T>
Deferred<T> DeferredQueue<T>::Get() {
  if (!state_->items.empty()) {
    T item = std::move(state_->items.front());
    state_->items.pop_front();
    return Succeed(std::move(item));
  }
  if (state_->waiting.size() >= state_->options.max_waiting) {
    return Fail<T>(absl::ResourceExhaustedError("DeferredQueue: too many wait for an item"));
  }
  std::list<Promise<T>>& waiting = state_->waiting;
  const auto place = waiting.emplace(waiting.end());
  auto [deferred, promise] = MakeDeferred<T>([&waiting, place](Promise<T>&) {
    waiting.erase(place);  // its Promise dies in the canceller: it is Cancelled
  });
  *place = std::move(promise);
  return std::move(deferred);
}

}  // namespace reactor

#endif  // REACTOR_DEFERRED_LOCK_H_
