#include "tests/allocations.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "gtest/gtest.h"

namespace {

std::atomic<int64_t> allocations = 0;
std::atomic<int64_t> living = 0;
std::atomic<int64_t> living_bytes = 0;

// A countdown. Above 1: one allocation fewer than that still works; 1: the next one fails; 0: all
// later ones fail, or, if the failure is not sustained, none. Negative: nothing fails.
constexpr int64_t kOff = -1;
thread_local int64_t left_here = kOff;
thread_local bool sustained_here = false;
std::atomic<int64_t> left_anywhere = kOff;
std::atomic<bool> sustained_anywhere = false;

bool FailsHere() {
  if (left_here < 0) return false;
  if (left_here == 0) return sustained_here;
  return --left_here == 0;
}

bool FailsAnywhere() {
  int64_t left = left_anywhere.load();
  while (left > 0 && !left_anywhere.compare_exchange_weak(left, left - 1)) {
  }
  return left == 1 || (left == 0 && sustained_anywhere.load());
}

// Null: it fails. Not inlined, nor is Free: GCC would take malloc and delete for a mismatched pair.
[[gnu::noinline]] void* Allocate(size_t size, size_t alignment) noexcept {
  if (FailsHere() || FailsAnywhere()) return nullptr;
  void* memory = nullptr;
  if (alignment <= alignof(std::max_align_t)) {
    memory = std::malloc(std::max<size_t>(size, 1));
  } else if (posix_memalign(&memory, alignment, std::max<size_t>(size, 1)) != 0) {
    memory = nullptr;
  }
  if (memory == nullptr) return nullptr;
  allocations.fetch_add(1, std::memory_order_relaxed);
  living.fetch_add(1, std::memory_order_relaxed);
  living_bytes.fetch_add(static_cast<int64_t>(malloc_usable_size(memory)),
                         std::memory_order_relaxed);
  return memory;
}

void* AllocateOrThrow(size_t size, size_t alignment = alignof(std::max_align_t)) {
  if (void* const memory = Allocate(size, alignment)) return memory;
  throw std::bad_alloc();
}

[[gnu::noinline]] void Free(void* memory) noexcept {
  if (memory == nullptr) return;
  living.fetch_sub(1, std::memory_order_relaxed);
  living_bytes.fetch_sub(static_cast<int64_t>(malloc_usable_size(memory)),
                         std::memory_order_relaxed);
  std::free(memory);
}

}  // namespace

// All of them: a sanitizer brings its own for those that are missing, and theirs do not match ours.
void* operator new(size_t size) { return AllocateOrThrow(size); }
void* operator new[](size_t size) { return AllocateOrThrow(size); }
void* operator new(size_t size, std::align_val_t alignment) {
  return AllocateOrThrow(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return AllocateOrThrow(size, static_cast<size_t>(alignment));
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return Allocate(size, alignof(std::max_align_t));
}
void* operator new[](size_t size, const std::nothrow_t&) noexcept {
  return Allocate(size, alignof(std::max_align_t));
}
void* operator new(size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return Allocate(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return Allocate(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { Free(memory); }
void operator delete[](void* memory) noexcept { Free(memory); }
void operator delete(void* memory, size_t) noexcept { Free(memory); }
void operator delete[](void* memory, size_t) noexcept { Free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { Free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { Free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { Free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { Free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { Free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { Free(memory); }
void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept {
  Free(memory);
}
void operator delete[](void* memory, std::align_val_t, const std::nothrow_t&) noexcept {
  Free(memory);
}

namespace workers::test {

int64_t Allocations() { return allocations.load(); }
int64_t LivingAllocations() { return living.load(); }
int64_t LivingBytes() { return living_bytes.load(); }

bool FailingAllocations::During(absl::FunctionRef<void()> f) {
  return Run(/*all_threads=*/false, f);
}

bool FailingAllocations::DuringOnAllThreads(absl::FunctionRef<void()> f) {
  return Run(/*all_threads=*/true, f);
}

bool FailingAllocations::Run(bool all_threads, absl::FunctionRef<void()> f) {
  bool completed = true;
  if (all_threads) {
    sustained_anywhere.store(sustained_);
    left_anywhere.store(n_);
  } else {
    sustained_here = sustained_;
    left_here = n_;
  }
  try {
    f();
  } catch (const std::bad_alloc&) {
    completed = false;
  }
  n_ = all_threads ? left_anywhere.exchange(kOff) : left_here;
  left_here = kOff;
  reached_ = n_ == 0;
  return completed;
}

std::string FailingAllocations::description() const {
  const std::string number = std::to_string(first_);
  return sustained_ ? "all allocations fail, from number " + number + " on"
                    : "allocation number " + number + " fails";
}

void SweepAllocations(absl::FunctionRef<void(FailingAllocations&)> trial) {
  constexpr int64_t kEndless = 10'000;
  for (const bool sustained : {false, true}) {
    bool reached = true;
    for (int64_t n = 1; reached; ++n) {
      if (n == kEndless) {
        ADD_FAILURE() << "the allocations have no end";
        return;
      }
      FailingAllocations failing(n, sustained);
      SCOPED_TRACE(failing.description());
      trial(failing);
      if (testing::Test::HasFailure()) {
        ADD_FAILURE() << "in this plan";
        return;
      }
      reached = failing.reached();
    }
  }
}

}  // namespace workers::test
