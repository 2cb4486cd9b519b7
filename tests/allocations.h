// Counts the allocations of a test, and makes them fail.
//
// //tests:allocations replaces operator new and delete of the whole program. What does not come
// from operator new (malloc, the stacks of threads, thrown exceptions) neither counts nor fails.

#ifndef TESTS_ALLOCATIONS_H_
#define TESTS_ALLOCATIONS_H_

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"

namespace workers::test {

// How many there have been since the program's start, on all threads, failed ones not counted.
int64_t Allocations();
// How many of them are not freed yet, and how many bytes these have, as malloc rounds them.
int64_t LivingAllocations();
int64_t LivingBytes();

// One plan of failure: the n-th allocation, counted from 1, fails, and all later ones if it is
// `sustained`. Nothing fails outside of During.
class FailingAllocations {
 public:
  FailingAllocations(int64_t n, bool sustained) : n_(n), sustained_(sustained) {}

  // Runs `f` while the plan is in force for the calling thread: it counts on from call to call.
  // Returns false if std::bad_alloc left `f`. Expectations belong behind it, not into it: they
  // allocate.
  bool During(absl::FunctionRef<void()> f);
  // As During, on all threads at the same time.
  bool DuringOnAllThreads(absl::FunctionRef<void()> f);

  // Has an allocation failed?
  bool reached() const { return reached_; }
  std::string description() const;

 private:
  bool Run(bool all_threads, absl::FunctionRef<void()> f);

  int64_t n_;  // the allocations before the one that fails are taken off
  const int64_t first_ = n_;
  const bool sustained_;
  bool reached_ = false;
};

// Calls `trial` with every plan: for n = 1, 2, 3 … one that fails the n-th allocation alone, and
// then one that fails all from the n-th on, until no allocation fails any more. Stops at the first
// plan with a failed expectation, which it names.
//
//   SweepAllocations([](FailingAllocations& failing) {
//     LockWorker worker;
//     absl::Status status;
//     EXPECT_TRUE(failing.During([&] { status = worker.Do([] {}); }));
//     EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
//   });
void SweepAllocations(absl::FunctionRef<void(FailingAllocations&)> trial);

}  // namespace workers::test

#endif  // TESTS_ALLOCATIONS_H_
