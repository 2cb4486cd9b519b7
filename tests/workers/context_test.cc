#include "workers/context.h"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "workers/testing/gate.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace {

std::atomic<long> allocations = 0;

}  // namespace

// Not inlined: GCC would take malloc and free for a mismatched pair.
[[gnu::noinline]] void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace workers {
namespace {

using test::Gate;

constexpr ContextKey<int> kA("a");
constexpr ContextKey<int> kB("b");
constexpr ContextKey<std::string> kUser("user");

// Adds one value to the current context.
template <typename T>
Context CurrentWith(const ContextKey<T>& key, std::type_identity_t<T> value) {
  return Context::Current().With(key, std::move(value));
}

// The current value, or -1.
int Read(const ContextKey<int>& key) {
  const int* const value = key.Get();
  return value == nullptr ? -1 : *value;
}

// --- as Twisted's test_context --------------------------------------------------------------

TEST(Context, AKeyThatWasNotSetHasNoValue) { EXPECT_EQ(kUser.Get(), nullptr); }

TEST(Context, AValueIsSeenByWhatTheScopeCalls) {
  ContextScope scope(CurrentWith(kUser, "ann"));
  [] {
    ASSERT_NE(kUser.Get(), nullptr);
    EXPECT_EQ(*kUser.Get(), "ann");
  }();
}

TEST(Context, AfterTheScopeTheValueIsUnset) {
  {
    ContextScope scope(CurrentWith(kUser, "ann"));
  }
  EXPECT_EQ(kUser.Get(), nullptr);
}

// Twisted's setDefault writes into a dictionary that all threads share, which is what made its
// test_callbackContext vacuous. Here null tells "was not set" from every value.
TEST(Context, ADefaultIsTheReaders) {
  const auto user_or = [](const std::string& fallback) {
    return kUser.Get() == nullptr ? fallback : *kUser.Get();
  };
  EXPECT_EQ(user_or("nobody"), "nobody");
  ContextScope scope(CurrentWith(kUser, ""));
  EXPECT_EQ(user_or("nobody"), "");
}

// --- scopes -----------------------------------------------------------------------------------

TEST(ContextScope, NestsAndAddsUp) {
  ContextScope outer(CurrentWith(kA, 1));
  {
    ContextScope inner(CurrentWith(kB, 2));
    EXPECT_EQ(Read(kA), 1);
    EXPECT_EQ(Read(kB), 2);
  }
  EXPECT_EQ(Read(kA), 1);
  EXPECT_EQ(Read(kB), -1);
}

TEST(ContextScope, OvershadowsUntilItEnds) {
  ContextScope outer(CurrentWith(kA, 1).With(kB, 2));
  {
    ContextScope inner(CurrentWith(kA, 10));
    EXPECT_EQ(Read(kA), 10);
    EXPECT_EQ(Read(kB), 2);
  }
  EXPECT_EQ(Read(kA), 1);
  EXPECT_EQ(Read(kB), 2);
}

TEST(ContextScope, OfAnEmptyContextHidesEverything) {
  ContextScope outer(CurrentWith(kA, 1));
  {
    ContextScope inner{Context()};
    EXPECT_EQ(Read(kA), -1);
    EXPECT_EQ(Context::Current().Get(kA), nullptr);
  }
  EXPECT_EQ(Read(kA), 1);
}

TEST(ContextScope, PutsTheOldContextBackWhenAnExceptionLeavesIt) {
  ContextScope outer(CurrentWith(kA, 1));
  try {
    ContextScope middle(CurrentWith(kA, 2));
    ContextScope inner(CurrentWith(kA, 3));
    EXPECT_EQ(Read(kA), 3);
    throw std::runtime_error("out");
  } catch (const std::runtime_error&) {
    EXPECT_EQ(Read(kA), 1);
  }
  EXPECT_EQ(Read(kA), 1);
}

TEST(ContextScope, IsTheThreadsOwn) {
  ContextScope scope(CurrentWith(kA, 1));
  std::thread([] {
    EXPECT_EQ(Read(kA), -1);
    ContextScope scope(CurrentWith(kA, 2));
    EXPECT_EQ(Read(kA), 2);
  }).join();
  EXPECT_EQ(Read(kA), 1);
}

TEST(ContextScopeDeathTest, DiesBeforeAnInnerScope) {
  const auto end_the_outer_first = [] {
    auto outer = std::make_unique<ContextScope>(CurrentWith(kA, 1));
    ContextScope inner(CurrentWith(kA, 2));
    outer = nullptr;
  };
  EXPECT_DEATH(end_the_outer_first(), "iworker: ContextScope: .* before an inner scope");
}

TEST(ContextScopeDeathTest, DiesOnAnotherThread) {
  const auto end_elsewhere = [] {
    auto scope = std::make_unique<ContextScope>(CurrentWith(kA, 1));
    std::thread([&] { scope = nullptr; }).join();
  };
  EXPECT_DEATH(end_elsewhere(), "iworker: ContextScope: destroyed on another thread");
}

// --- snapshots --------------------------------------------------------------------------------

TEST(Context, IsEmptyByDefaultAndOutsideOfScopes) {
  EXPECT_TRUE(Context().empty());
  EXPECT_EQ(Context().Get(kA), nullptr);
  EXPECT_TRUE(Context::Current().empty());
  EXPECT_EQ(Context::Current().Get(kA), nullptr);
  EXPECT_FALSE(Context().With(kA, 1).empty());
}

TEST(Context, WithLeavesTheContextAsItWas) {
  const Context empty;
  const Context one = empty.With(kA, 1);
  const Context two = one.With(kA, 2).With(kB, 3);
  EXPECT_EQ(empty.Get(kA), nullptr);
  EXPECT_EQ(*one.Get(kA), 1);
  EXPECT_EQ(one.Get(kB), nullptr);
  EXPECT_EQ(*two.Get(kA), 2);
  EXPECT_EQ(*two.Get(kB), 3);
}

TEST(Context, OutlivesTheScopeItWasTakenIn) {
  Context snapshot;
  {
    ContextScope scope(CurrentWith(kUser, "ann"));
    snapshot = Context::Current();
  }
  EXPECT_EQ(kUser.Get(), nullptr);
  EXPECT_EQ(*snapshot.Get(kUser), "ann");
}

TEST(Context, TwoKeysOfOneTypeAndNameDoNotMix) {
  static constexpr ContextKey<int> kFirst("same");
  static constexpr ContextKey<int> kSecond("same");
  const Context first = Context().With(kFirst, 1);
  EXPECT_EQ(first.Get(kSecond), nullptr);
  const Context both = first.With(kSecond, 2);
  EXPECT_EQ(*both.Get(kFirst), 1);
  EXPECT_EQ(*both.Get(kSecond), 2);
  EXPECT_STREQ(kSecond.name(), "same");
}

// Twisted captures the innermost dictionary only, by reference: its thread sees no a, and 99.
TEST(Context, P9_AThreadSeesAllOfTheCallersContextAsItWas) {
  Gate taken;
  Gate changed;
  std::thread thread;
  int a = 0;
  int b = 0;
  int b_before = 0;
  {
    ContextScope outer(CurrentWith(kA, 1));
    ContextScope inner(CurrentWith(kB, 2));
    thread = std::thread([&, context = Context::Current()] {
      b_before = Read(kB);
      ContextScope scope(context);
      taken.Open();
      changed.Wait();
      a = Read(kA);
      b = Read(kB);
    });
    taken.Wait();
    ContextScope later(CurrentWith(kA, 98).With(kB, 99));
    EXPECT_EQ(Read(kB), 99);  // the caller's side has changed while the thread has yet to read
    changed.Open();
    thread.join();
  }
  EXPECT_EQ(b_before, -1);  // nothing comes by itself
  EXPECT_EQ(a, 1);
  EXPECT_EQ(b, 2);
}

// The example of the header.
TEST(Context, AWorkThatTakesItAlongRunsInIt) {
  std::vector<std::string> users;
  {
    auto worker = *ThreadWorker::Create();
    for (const char* user : {"ann", "bob"}) {
      ContextScope scope(CurrentWith(kUser, user));
      EXPECT_TRUE(worker
                      ->Do([&users, context = Context::Current()] {
                        EXPECT_EQ(kUser.Get(), nullptr);
                        ContextScope scope(context);
                        users.push_back(*kUser.Get());
                      })
                      .ok());
    }
  }
  EXPECT_EQ(users, (std::vector<std::string>{"ann", "bob"}));
}

// For ThreadSanitizer: copies, derived contexts and reads of one value, with no lock.
TEST(Context, ManyThreadsShareOneSnapshot) {
  Context shared = Context().With(kA, 1).With(kUser, "ann");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([i, context = shared] {
      for (int round = 0; round < 1000; ++round) {
        ContextScope outer(context);
        ContextScope inner(CurrentWith(kA, i));
        EXPECT_EQ(Read(kA), i);
        EXPECT_EQ(*kUser.Get(), "ann");
      }
    });
  }
  shared = Context();
  for (std::thread& thread : threads) thread.join();
}

// --- values -----------------------------------------------------------------------------------

constexpr ContextKey<std::shared_ptr<int>> kProbe("probe");

TEST(Context, AValueIsDestroyedWithTheLastSnapshot) {
  auto probe = std::make_shared<int>(1);
  const std::weak_ptr<int> watch = probe;
  Context snapshot;
  {
    ContextScope scope(CurrentWith(kProbe, std::move(probe)));
    snapshot = Context::Current();
    ContextScope inner(CurrentWith(kProbe, nullptr));
    EXPECT_FALSE(watch.expired());  // overshadowed is not destroyed
  }
  EXPECT_FALSE(watch.expired());
  Context derived = snapshot.With(kA, 1);
  snapshot = Context();
  EXPECT_FALSE(watch.expired());
  const Context without = derived.With(kProbe, nullptr);
  EXPECT_EQ(watch.use_count(), 1);
  derived = Context();
  EXPECT_TRUE(watch.expired());  // although a context that was derived from it lives
  EXPECT_EQ(*without.Get(kA), 1);
}

// Where the value is destroyed, and what the context is there.
struct Witness {
  std::thread::id thread;
  int a = 0;
  int destroyed = 0;
};
struct TellsWhenDestroyed {
  explicit TellsWhenDestroyed(Witness* witness) : witness(witness) {}
  TellsWhenDestroyed(TellsWhenDestroyed&& other) noexcept
      : witness(std::exchange(other.witness, nullptr)) {}
  ~TellsWhenDestroyed() {
    if (witness == nullptr) return;
    witness->thread = std::this_thread::get_id();
    witness->a = Read(kA);
    ++witness->destroyed;
  }
  Witness* witness;
};
constexpr ContextKey<TellsWhenDestroyed> kTells("tells");

TEST(Context, AValueIsDestroyedOnTheThreadOfTheLastSnapshot) {
  Witness witness;
  Gate scope_ended;
  std::thread thread;
  {
    ContextScope scope(CurrentWith(kTells, TellsWhenDestroyed(&witness)));
    thread = std::thread([&scope_ended, context = Context::Current()]() mutable {
      scope_ended.Wait();
      context = Context();
    });
  }
  EXPECT_EQ(witness.destroyed, 0);
  const std::thread::id other = thread.get_id();
  scope_ended.Open();
  thread.join();
  EXPECT_EQ(witness.destroyed, 1);
  EXPECT_EQ(witness.thread, other);
}

TEST(Context, TheDestructorOfAValueIsInTheOuterContext) {
  Witness witness;
  ContextScope outer(CurrentWith(kA, 1));
  {
    ContextScope inner(CurrentWith(kA, 2).With(kTells, TellsWhenDestroyed(&witness)));
  }
  EXPECT_EQ(witness.destroyed, 1);
  EXPECT_EQ(witness.a, 1);
}

TEST(Context, AMoveOnlyValueIsReadInPlace) {
  static constexpr ContextKey<std::unique_ptr<int>> kOwned("owned");
  auto owned = std::make_unique<int>(7);
  int* const raw = owned.get();
  const Context context = Context().With(kOwned, std::move(owned));
  const Context copy = context;
  EXPECT_EQ(copy.Get(kOwned)->get(), raw);
  EXPECT_EQ(copy.Get(kOwned), context.Get(kOwned));
}

struct Large {
  char bytes[1 << 20] = {};
};

TEST(Context, ALargeValueIsShared) {
  static constexpr ContextKey<Large> kLarge("large");
  auto large = std::make_unique<Large>();
  ContextScope scope(CurrentWith(kLarge, *large));
  const Large* const value = kLarge.Get();
  std::thread([context = CurrentWith(kA, 1), value] {
    ContextScope scope(context);
    EXPECT_EQ(kLarge.Get(), value);
  }).join();
}

// --- many, and what it costs ------------------------------------------------------------------

// A call that defers itself for ever, each time in a context derived from its own.
TEST(Context, DerivedAHundredThousandTimesItHoldsNoMoreThanItsKeys) {
  Witness witness;
  Context context;
  for (int i = 0; i < 100'000; ++i) {
    context = context.With(kTells, TellsWhenDestroyed(&witness)).With(kA, i);
  }
  EXPECT_EQ(witness.destroyed, 99'999);
  EXPECT_EQ(*context.Get(kA), 99'999);
  context = Context();
  EXPECT_EQ(witness.destroyed, 100'000);
}

// Nothing recurses: a hundred thousand snapshots, each derived from the one before, die from the
// newest to the oldest and the other way round.
TEST(Context, AHundredThousandDerivedSnapshotsDieInEitherOrder) {
  for (const bool newest_first : {true, false}) {
    std::vector<Context> snapshots(1);
    for (int i = 0; i < 100'000; ++i) snapshots.push_back(snapshots.back().With(kA, i));
    EXPECT_EQ(*snapshots[50'000].Get(kA), 49'999);
    if (newest_first) {
      while (!snapshots.empty()) snapshots.pop_back();
    } else {
      for (Context& snapshot : snapshots) snapshot = Context();
    }
  }
}

TEST(Context, ReadingAndTakingASnapshotAllocateNothing) {
  const long start = allocations.load();
  ContextScope outer(CurrentWith(kA, 1).With(kB, 2).With(kUser, "ann"));
  EXPECT_GT(allocations.load(), start);  // the hook counts
  int sum = 0;
  const long before = allocations.load();
  for (int i = 0; i < 1000; ++i) {
    const Context snapshot = Context::Current();
    ContextScope scope(snapshot);
    sum += *kA.Get() + *snapshot.Get(kB);
  }
  EXPECT_EQ(allocations.load(), before);
  EXPECT_EQ(sum, 3000);
}

TEST(Context, AThreadThatNeverUsedOneAllocatesNothing) {
  long allocated = -1;
  std::thread([&] {
    const long before = allocations.load();
    const Context snapshot = Context::Current();
    ContextScope scope(snapshot);
    const bool none = kA.Get() == nullptr;
    allocated = allocations.load() - before;
    EXPECT_TRUE(none);
  }).join();
  EXPECT_EQ(allocated, 0);
}

}  // namespace
}  // namespace workers
