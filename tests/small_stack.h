// Runs code where deep recursion would end the process.

#ifndef TESTS_SMALL_STACK_H_
#define TESTS_SMALL_STACK_H_

#include <pthread.h>

#include <cstddef>
#include <cstdlib>
#include <functional>
#include <utility>

namespace workers::test {

// Runs `f` on a new thread whose stack has 256 KiB, outside of all work items, and returns when it
// has ended.
inline void OnSmallStack(std::function<void()> f) {
  constexpr size_t kStackSize = 256 << 10;
  pthread_attr_t attributes;
  pthread_t thread;
  const auto main = [](void* argument) -> void* {
    const std::function<void()> run = std::move(*static_cast<std::function<void()>*>(argument));
    run();
    return nullptr;
  };
  if (pthread_attr_init(&attributes) != 0 ||
      pthread_attr_setstacksize(&attributes, kStackSize) != 0 ||
      pthread_create(&thread, &attributes, main, &f) != 0) {
    std::abort();
  }
  pthread_attr_destroy(&attributes);
  pthread_join(thread, nullptr);
}

}  // namespace workers::test

#endif  // TESTS_SMALL_STACK_H_
