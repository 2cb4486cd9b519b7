// A base that refuses, throws, destroys, or finds no memory: no accepted item is lost or doubled,
// and no worker holds its base.

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/workers/serial_on_memory.h"
#include "workers/clock.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/serial_worker.h"
#include "workers/team.h"
#include "workers/testing/gate.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace {

// Allocations of this thread that succeed before one fails; negative: none fails.
thread_local int64_t allocations_left = -1;
thread_local bool all_later_fail = false;
thread_local bool an_allocation_failed = false;

bool Fails() {
  if (allocations_left < 0) return false;
  if (allocations_left > 0) {
    --allocations_left;
    return false;
  }
  if (!all_later_fail) allocations_left = -1;
  an_allocation_failed = true;
  return true;
}

}  // namespace

// Not inlined: GCC would take malloc and free for a mismatched pair.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (!Fails()) {
    if (void* memory = std::malloc(size)) return memory;
  }
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace workers {
namespace {

using test::Gate;
using SerialRefusal = SerialOnMemory;

constexpr absl::Duration kBound = absl::Seconds(60);  // where a fault would be a hang

// --- the base has quit ----------------------------------------------------------------------

TEST_F(SerialRefusal, ABaseThatHasQuitGivesTheItemBack) {
  MakeGroup();
  SerialWorker worker(*group_);
  ASSERT_TRUE(base_.worker->Quit().ok());
  bool ran = false;
  Work item = [&] { ran = true; };
  EXPECT_TRUE(IsAlreadyQuit(worker.Do(std::move(item))));
  ASSERT_TRUE(item != nullptr);
  std::move(item)();
  EXPECT_TRUE(ran);
}

TEST_F(SerialRefusal, ABaseThatQuitsUnderALoadedWorkerLosesNothing) {
  MakeGroupOfQuantum(2);
  SerialWorker worker(*group_);
  for (int i = 1; i <= 5; ++i) Submit(worker, std::to_string(i));
  ASSERT_TRUE(base_.worker->Quit().ok());
  EXPECT_EQ(base_.performer(), Performed::kRan);  // a second slice is refused
  EXPECT_THAT(log_, testing::ElementsAre("1", "2", "3", "4", "5"));
  EXPECT_EQ(base_.performer(), Performed::kFinished);
}

// Submits itself again each time it runs, up to a bound that stands for infinity.
struct Forever {
  SerialWorker& worker;
  int& runs;
  absl::Status& last;
  void operator()() && {
    if (++runs < 100'000) last = worker.Do(Forever{worker, runs, last});
  }
};

// B1. In the first slice two items of the worker run, then the next slice is refused: the worker
// refuses what comes later, and runs what it has accepted.
TEST_F(SerialRefusal, AWorkerThatIsFedForeverEndsWhenItsBaseHasQuit) {
  MakeGroupOfQuantum(2);
  SerialWorker worker(*group_);
  int runs = 0;
  absl::Status last;
  ASSERT_TRUE(worker.Do(Forever{worker, runs, last}).ok());
  ASSERT_TRUE(base_.worker->Quit().ok());
  EXPECT_EQ(base_.performer(), Performed::kRan);
  EXPECT_EQ(runs, 3);
  EXPECT_TRUE(IsAlreadyQuit(last)) << last;
  EXPECT_EQ(base_.performer(), Performed::kFinished);
  EXPECT_TRUE(IsAlreadyQuit(worker.Do([] {})));
  EXPECT_TRUE(worker.Quit().ok());  // the first Quit of this worker
  EXPECT_TRUE(IsAlreadyQuit(worker.Quit()));
}

// B1, on a pool: Join returns, and an item of another worker that was accepted before runs.
TEST(SerialRefusalOnPool, AWorkerThatIsFedForeverDoesNotHoldThePoolBeyondQuit) {
  auto pool = *MakePool({.limits = {.soft_limit = 1}});
  SerialGroup group(*pool);
  SerialWorker hot(group);
  SerialWorker cold(group);
  std::atomic<bool> stop = false;  // only after a failure
  std::atomic<bool> cold_ran = false;
  Gate started;
  std::function<void()> again = [&] {
    if (stop) return;
    hot.Do([&] { again(); }).IgnoreError();
  };
  ASSERT_TRUE(hot.Do([&] {
                   again();
                   started.Open();
                 })
                  .ok());
  started.Wait();
  ASSERT_TRUE(cold.Do([&] { cold_ran = true; }).ok());
  ASSERT_TRUE(pool->Quit().ok());
  EXPECT_TRUE(pool->Join(kBound).ok());
  EXPECT_TRUE(cold_ran);
  EXPECT_TRUE(IsAlreadyQuit(hot.Do([] {})));
  stop = true;
}

// B1, where strands stand on strands: what the pool says reaches the uppermost.
TEST_F(SerialRefusal, AWorkerOnAWorkerEndsWhenTheLowestBaseHasQuit) {
  MakeGroupOfQuantum(2);
  SerialWorker lower(*group_);
  SerialGroup upper_group(lower, {.quantum_items = 2, .quantum_time = absl::InfiniteDuration()});
  SerialWorker upper(upper_group);
  int runs = 0;
  absl::Status last;
  ASSERT_TRUE(upper.Do(Forever{upper, runs, last}).ok());
  ASSERT_TRUE(base_.worker->Quit().ok());
  EXPECT_EQ(base_.performer(), Performed::kRan);
  EXPECT_LT(runs, 20);
  EXPECT_TRUE(IsAlreadyQuit(last)) << last;
  EXPECT_EQ(base_.performer(), Performed::kFinished);
}

// --- the base is full -----------------------------------------------------------------------

// The worker is as full as its base, so that it cannot hold the base's thread; when it has run what
// it had accepted it asks again.
TEST_F(SerialRefusal, AWorkerThatIsFedForeverRefusesWhileItsBaseIsFull) {
  ScriptedBase base;
  SerialGroup group(base, {.quantum_items = 2, .quantum_time = absl::InfiniteDuration()});
  SerialWorker worker(group);
  int runs = 0;
  absl::Status last;
  ASSERT_TRUE(worker.Do(Forever{worker, runs, last}).ok());
  base.answer = [](int) { return Answer::kFull; };
  base.StepToTheEnd();
  EXPECT_EQ(runs, 3);
  EXPECT_TRUE(absl::IsResourceExhausted(last)) << last;
  EXPECT_EQ(last.message(), "serial: the worker below is full");
  EXPECT_EQ(worker.Do([] {}).message(), "base is full");  // it was asked
  base.answer = [](int) { return Answer::kAccept; };
  bool ran = false;
  EXPECT_TRUE(worker.Do([&] { ran = true; }).ok());
  base.StepToTheEnd();
  EXPECT_TRUE(ran);
}

TEST_F(SerialRefusal, AWorkerAsksItsFullBaseAgainAfterEachQuantum) {
  ScriptedBase base;
  SerialGroup group(base, {.quantum_items = 2, .quantum_time = absl::InfiniteDuration()});
  SerialWorker hot(group);
  SerialWorker cold(group);
  for (int i = 1; i <= 7; ++i) Submit(hot, "hot" + std::to_string(i));
  Submit(cold, "cold");
  base.answer = [](int n) { return n < 4 ? Answer::kFull : Answer::kAccept; };
  base.StepToTheEnd();
  EXPECT_THAT(log_,
              testing::ElementsAre("hot1", "hot2", "hot3", "hot4", "hot5", "hot6", "cold", "hot7"));
  Submit(hot, "open again");
  base.StepToTheEnd();
}

// The state "full" ends with the slice that the base accepts, not when the worker is idle.
TEST_F(SerialRefusal, AWorkerAcceptsAgainAsSoonAsItsBaseHasAcceptedASlice) {
  ScriptedBase base;
  SerialGroup group(base, {.quantum_items = 1, .quantum_time = absl::InfiniteDuration()});
  SerialWorker worker(group);
  std::vector<absl::StatusCode> inside;
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(worker.Do([&] { inside.push_back(worker.Do([] {}).code()); }).ok());
  }
  base.answer = [](int n) { return n == 1 ? Answer::kFull : Answer::kAccept; };
  base.StepToTheEnd();
  EXPECT_THAT(inside,
              testing::ElementsAre(absl::StatusCode::kOk, absl::StatusCode::kResourceExhausted,
                                   absl::StatusCode::kOk, absl::StatusCode::kOk));
}

// --- the first slice is refused -------------------------------------------------------------

TEST_F(SerialRefusal, ItemsBehindARefusedSliceRunOnTheCaller) {
  ScriptedBase base;
  base.answer = [](int) { return Answer::kFull; };
  SerialGroup group(base);
  SerialWorker worker(group);
  base.before_answer = [&] {  // between our Do and the base's answer
    Submit(worker, "behind1");
    EXPECT_TRUE(worker
                    .Do([&] {
                      log_.push_back("behind2");
                      EXPECT_TRUE(WorkerScope::RunsIn(worker));
                    })
                    .ok());
  };
  Work item = [&] { log_.push_back("refused"); };
  EXPECT_EQ(worker.Do(std::move(item)), absl::ResourceExhaustedError("base is full"));
  EXPECT_TRUE(item != nullptr);
  EXPECT_THAT(log_, testing::ElementsAre("behind1", "behind2"));
}

// B1, for the thread that runs the items behind a refused slice.
TEST_F(SerialRefusal, ItemsBehindARefusedSliceDoNotHoldTheCaller) {
  for (Answer answer : {Answer::kFull, Answer::kQuit}) {
    ScriptedBase base;
    base.answer = [&](int) { return answer; };
    SerialGroup group(base, {.quantum_items = 1'000'000,
                             .quantum_time = absl::InfiniteDuration(),
                             .on_error = reports_.handler()});
    SerialWorker worker(group);
    int runs = 0;
    absl::Status last;
    base.before_answer = [&] { EXPECT_TRUE(worker.Do(Forever{worker, runs, last}).ok()); };
    EXPECT_FALSE(worker.Do([] {}).ok());
    EXPECT_EQ(runs, 1);
    EXPECT_FALSE(last.ok());
    EXPECT_EQ(IsAlreadyQuit(last), answer == Answer::kQuit);
  }
}

// The caller hands the items over as soon as the base accepts a slice.
TEST_F(SerialRefusal, ItemsBehindARefusedSliceGoToTheBaseWhenItHasRoom) {
  ScriptedBase base;
  base.answer = [](int n) { return n == 0 ? Answer::kFull : Answer::kAccept; };
  SerialGroup group(base, {.quantum_items = 1, .quantum_time = absl::InfiniteDuration()});
  SerialWorker worker(group);
  base.before_answer = [&] {
    for (int i = 1; i <= 3; ++i) Submit(worker, "behind" + std::to_string(i));
  };
  EXPECT_FALSE(worker.Do([] {}).ok());
  EXPECT_THAT(log_, testing::ElementsAre("behind1"));
  base.StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("behind1", "behind2", "behind3"));
}

// A base that opens again, as a loop's between two Runs, finds its idle workers open.
TEST_F(SerialRefusal, AnIdleWorkerAsksItsBaseEachTime) {
  ScriptedBase base;
  base.answer = [](int n) { return n < 2 ? Answer::kQuit : Answer::kAccept; };
  SerialGroup group(base);
  SerialWorker worker(group);
  EXPECT_TRUE(IsAlreadyQuit(worker.Do([] {})));
  EXPECT_TRUE(IsAlreadyQuit(worker.Do([] {})));
  EXPECT_TRUE(worker.Do([] {}).ok());
  base.StepToTheEnd();
}

// --- after a refusal the worker is as before --------------------------------------------------

TEST_F(SerialRefusal, AnItemMayDestroyItsWorkerAfterASliceWasRefused) {
  for (Answer answer : {Answer::kFull, Answer::kQuit, Answer::kThrow}) {
    ScriptedBase base;
    base.answer = [&](int n) { return n == 0 ? Answer::kAccept : answer; };
    SerialGroup group(base, {.quantum_items = 1,
                             .quantum_time = absl::InfiniteDuration(),
                             .on_error = reports_.handler()});
    auto worker = std::make_unique<SerialWorker>(group);
    Submit(*worker, "1");
    ASSERT_TRUE(worker->Do([&] { worker = nullptr; }).ok());
    Submit(*worker, "3");
    Submit(*worker, "4");
    base.StepToTheEnd();
    EXPECT_EQ(worker, nullptr);
    EXPECT_THAT(std::exchange(log_, {}), testing::ElementsAre("1", "3", "4"));
  }
}

TEST_F(SerialRefusal, AnItemKnowsItsWorkerAfterASliceWasRefused) {
  ScriptedBase base;
  base.answer = [](int n) { return n == 0 ? Answer::kAccept : Answer::kFull; };
  SerialGroup group(base, {.quantum_items = 1, .quantum_time = absl::InfiniteDuration()});
  SerialWorker worker(group);
  int inside = 0;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(worker.Do([&] { inside += WorkerScope::RunsIn(worker); }).ok());
  }
  // While the base is asked, the thread is in no item.
  base.before_answer = [&] { EXPECT_FALSE(WorkerScope::RunsIn(worker)); };
  base.StepToTheEnd();
  EXPECT_EQ(inside, 3);
}

// --- whatever the base does -------------------------------------------------------------------

// Counts what becomes of items.
struct Tally {
  int submitted = 0;
  int accepted = 0;
  int given_back = 0;  // refused, and untouched
  int ran = 0;
  int destroyed = 0;  // after it ran, or unrun, but not where it was moved from
  int last = -1;
  bool in_order = true;
};

class Item {
 public:
  Item(Tally& tally, int number) : tally_(&tally), number_(number) {}
  Item(Item&& other) noexcept
      : tally_(std::exchange(other.tally_, nullptr)), number_(other.number_) {}
  Item& operator=(Item&&) = delete;
  ~Item() {
    if (tally_ != nullptr) ++tally_->destroyed;
  }
  void operator()() && {
    ++tally_->ran;
    if (number_ <= tally_->last) tally_->in_order = false;
    tally_->last = number_;
  }

 private:
  Tally* tally_;
  const int number_;
};

// B2. Each answer at each call of the base, that one only or that one and all later ones: an item
// is refused and untouched, or runs once, or is dropped and counted; and the worker can end.
TEST_F(SerialRefusal, WhateverTheBaseAnswersEachItemHasOneOutcome) {
  for (Answer answer : kAnswers) {
    for (int at = 0; at < 6; ++at) {
      for (bool once : {true, false}) {
        SCOPED_TRACE(testing::Message() << "answer " << static_cast<int>(answer) << " at " << at
                                        << (once ? "" : " and later"));
        ReportLog reports;
        Tally tally;
        ScriptedBase base;
        base.answer = [&](int n) {
          return n == at || (n > at && !once) ? answer : Answer::kAccept;
        };
        {
          SerialGroup group(base, {.quantum_items = 2,
                                   .quantum_time = absl::InfiniteDuration(),
                                   .on_error = reports.handler()});
          SerialWorker worker(group);
          const auto submit = [&] {
            Work item = Item(tally, tally.submitted++);
            const bool ok = worker.Do(std::move(item)).ok();
            tally.accepted += ok;
            tally.given_back += !ok && item != nullptr;
          };
          for (int round = 0; round < 4; ++round) {
            for (int i = 0; i < 5; ++i) submit();
            base.Step();
            submit();
            base.StepToTheEnd();
          }
        }
        EXPECT_EQ(tally.accepted + tally.given_back, tally.submitted);
        EXPECT_EQ(tally.accepted, tally.ran + reports.dropped());
        EXPECT_EQ(tally.destroyed, tally.submitted);
        EXPECT_TRUE(tally.in_order);
        const bool drops = answer == Answer::kTakeAndAccept;
        if (!drops) {
          EXPECT_EQ(reports.dropped(), 0);
        }
      }
    }
  }
}

TEST_F(SerialRefusal, ABaseThatThrowsIsReportedAndRefuses) {
  for (Answer answer : {Answer::kThrow, Answer::kTakeAndThrow}) {
    ReportLog reports;
    ScriptedBase base;
    base.answer = [&](int) { return answer; };
    SerialGroup group(base, {.on_error = reports.handler()});
    SerialWorker worker(group);
    Work item = [] {};
    const absl::Status status = worker.Do(std::move(item));
    EXPECT_TRUE(absl::IsUnknown(status)) << status;
    EXPECT_TRUE(item != nullptr);
    EXPECT_THAT(reports.lines(), testing::ElementsAre("serial: std::runtime_error: base 0"));
  }
  ScriptedBase base;
  base.answer = [&](int) { return Answer::kThrowNoMemory; };
  SerialGroup group(base, {.on_error = reports_.handler()});
  SerialWorker worker(group);
  EXPECT_TRUE(absl::IsResourceExhausted(worker.Do([] {})));
  EXPECT_THAT(reports_.lines(), testing::ElementsAre("serial: serial: out of memory 0"));
}

// A base that runs items inside its Do: the slices of a worker do not nest in each other.
TEST_F(SerialRefusal, ABaseThatRunsItemsInItsDoNeedsNoDeepStack) {
  ScriptedBase base;
  base.answer = [](int) { return Answer::kRunHere; };
  SerialGroup group(base, {.quantum_items = 1, .quantum_time = absl::InfiniteDuration()});
  SerialWorker worker(group);
  int runs = 0;
  absl::Status last;
  EXPECT_TRUE(worker.Do(Forever{worker, runs, last}).ok());
  EXPECT_EQ(runs, 100'000);
}

// Forced unwinding out of the base's Do: the item is not accepted, those behind it run.
TEST_F(SerialRefusal, ABaseThatEndsTheThreadByForceLosesNothing) {
  ScriptedBase base;
  SerialGroup group(base, {.quantum_items = 1, .quantum_time = absl::InfiniteDuration()});
  SerialWorker worker(group);
  std::thread([&] {
    base.before_answer = [&] {
      Submit(worker, "behind");
      pthread_exit(nullptr);
    };
    worker.Do([&] { log_.push_back("never accepted"); }).IgnoreError();
  }).join();
  EXPECT_THAT(log_, testing::ElementsAre("behind"));
  for (int i = 1; i <= 3; ++i) Submit(worker, std::to_string(i));
  std::thread([&] {
    base.before_answer = [&] { pthread_exit(nullptr); };
    base.StepToTheEnd();
  }).join();
  base.StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("behind", "1", "2", "3"));
}

// --- the base destroys a slice ----------------------------------------------------------------

TEST_F(SerialRefusal, ABaseThatDestroysASliceDropsItsItemsAndReports) {
  MakeGroup({.name = "connection", .on_error = reports_.handler()});
  SerialWorker worker(*group_);
  auto alive = std::make_shared<int>();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(worker.Do([alive] { FAIL(); }).ok());
  EXPECT_EQ(base_.performer.Drop(), 1u);
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_THAT(reports_.lines(),
              testing::ElementsAre("connection: accepted work items were dropped without running: "
                                   "the worker below destroyed the time slice 3"));
  // The base is open: the worker goes on.
  Submit(worker, "after");
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("after"));
}

TEST_F(SerialRefusal, DroppingTravelsThroughSerialWorkers) {
  MakeGroup({.name = "lower", .on_error = reports_.handler()});
  SerialWorker lower(*group_);
  SerialGroup upper_group(lower, {.name = "upper", .on_error = reports_.handler()});
  SerialWorker upper(upper_group);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(upper.Do([] { FAIL(); }).ok());
  EXPECT_EQ(base_.performer.Drop(), 1u);
  EXPECT_THAT(reports_.lines(),
              testing::ElementsAre("upper: accepted work items were dropped without running: the "
                                   "worker below destroyed the time slice 4",
                                   "lower: accepted work items were dropped without running: the "
                                   "worker below destroyed the time slice 1"));
}

TEST_F(SerialRefusal, ADroppedCaptureMayHoldTheLastReferenceToTheWorker) {
  MakeGroup({.name = "connection", .on_error = reports_.handler()});
  auto worker = std::make_unique<SerialWorker>(*group_);
  SerialWorker* const raw = worker.get();
  ASSERT_TRUE(raw->Do([own = std::move(worker)] { FAIL(); }).ok());
  ASSERT_TRUE(raw->Do([] { FAIL(); }).ok());
  EXPECT_EQ(base_.performer.Drop(), 1u);
  EXPECT_EQ(reports_.dropped(), 2);
}

// Items that come while a slice is dropped are not of that slice. So a worker that is fed forever
// does not hold the thread that drops, either.
TEST_F(SerialRefusal, ItemsThatComeWhileASliceIsDroppedGetTheNextOne) {
  SerialWorker* fed = nullptr;
  MakeGroup({.on_error = [&](const ErrorReport&) { Submit(*fed, "later"); }});
  SerialWorker worker(*group_);
  fed = &worker;
  ASSERT_TRUE(worker.Do([] { FAIL(); }).ok());
  EXPECT_EQ(base_.performer.Drop(), 1u);
  EXPECT_EQ(base_.performer.queued(), 1u);
  StepToTheEnd();
  EXPECT_THAT(log_, testing::ElementsAre("later"));
}

// And if the base refuses that one, they are dropped as well, and the worker refuses more.
TEST_F(SerialRefusal, ItemsThatComeWhileABaseThatHasQuitDropsAreDroppedAsWell) {
  SerialWorker* fed = nullptr;
  int accepted = 1;
  int64_t dropped = 0;
  MakeGroup({.on_error = [&](const ErrorReport& report) {
    dropped += report.dropped;
    if (accepted < 100'000) accepted += fed->Do([] { FAIL(); }).ok();
  }});
  SerialWorker worker(*group_);
  fed = &worker;
  ASSERT_TRUE(worker.Do([] { FAIL(); }).ok());
  ASSERT_TRUE(base_.worker->Quit().ok());
  EXPECT_EQ(base_.performer.Drop(), 1u);
  EXPECT_EQ(dropped, accepted);
  EXPECT_LT(accepted, 10);
  EXPECT_TRUE(IsAlreadyQuit(worker.Do([] {})));
}

// --- no memory --------------------------------------------------------------------------------

// B2. The n-th allocation fails, for every n: in Do, and in the slices of the base.
TEST(SerialMemory, WhateverAllocationFailsEachItemHasOneOutcome) {
  for (bool sustained : {false, true}) {
    for (int64_t n = 0;; ++n) {
      SCOPED_TRACE(testing::Message() << "allocation " << n << (sustained ? " and later" : ""));
      Tally tally;
      int64_t dropped = 0;
      bool reached = false;
      MemoryWorker base = CreateMemoryWorker("base");
      {
        SerialGroup group(*base.worker,
                          {.quantum_items = 1,
                           .quantum_time = absl::InfiniteDuration(),
                           .on_error = [&](const ErrorReport& r) { dropped += r.dropped; }});
        SerialWorker worker(group);
        Work items[8];
        for (int i = 0; i < 8; ++i) items[i] = Item(tally, i);
        const auto arm = [&] {
          an_allocation_failed = false;
          all_later_fail = sustained;
          allocations_left = n;
        };
        const auto disarm = [&] {
          allocations_left = -1;
          reached |= an_allocation_failed;
        };
        bool only_no_memory = true;
        arm();
        for (Work& item : items) {
          ++tally.submitted;
          const absl::Status status = worker.Do(std::move(item));
          only_no_memory &= status.ok() || absl::IsResourceExhausted(status);
          tally.accepted += status.ok();
          tally.given_back += !status.ok() && item != nullptr;
        }
        disarm();
        EXPECT_TRUE(only_no_memory);
        for (Work& item : items) item = nullptr;
        // The slices: each asks the base for the next one.
        arm();
        while (base.performer() == Performed::kRan) {
        }
        disarm();
        ASSERT_TRUE(worker.Do(Item(tally, 100)).ok());
        ++tally.submitted;
        ++tally.accepted;
        while (base.performer() == Performed::kRan) {
        }
      }
      EXPECT_EQ(tally.accepted + tally.given_back, tally.submitted);
      EXPECT_EQ(tally.accepted, tally.ran);
      EXPECT_EQ(tally.destroyed, tally.submitted);
      EXPECT_EQ(dropped, 0);
      EXPECT_TRUE(tally.in_order);
      if (!reached) break;
    }
  }
}

// B2, at the end of a quantum, without doubt: the base finds no memory for the next slice.
TEST(SerialMemory, NoMemoryAtTheEndOfAQuantumLosesNothing) {
  for (Answer answer : {Answer::kFull, Answer::kThrowNoMemory}) {
    Tally tally;
    ScriptedBase base;
    base.answer = [&](int n) { return n == 0 ? Answer::kAccept : answer; };
    SerialGroup group(base, {.quantum_items = 1,
                             .quantum_time = absl::InfiniteDuration(),
                             .on_error = [](const ErrorReport&) {}});
    SerialWorker worker(group);
    for (int i = 0; i < 8; ++i) ASSERT_TRUE(worker.Do(Item(tally, i)).ok());
    base.StepToTheEnd();
    EXPECT_EQ(tally.ran, 8);
    EXPECT_EQ(tally.destroyed, 8);
    EXPECT_TRUE(tally.in_order);
    EXPECT_EQ(base.calls(), 8);
  }
}

TEST(SerialMemory, RefusingAfterQuitNeedsNoMemory) {
  MemoryWorker base = CreateMemoryWorker();
  SerialGroup group(*base.worker);
  SerialWorker worker(group);
  ASSERT_TRUE(worker.Quit().ok());
  Work item = [] {};
  all_later_fail = true;
  allocations_left = 0;
  const bool refused = IsAlreadyQuit(worker.Do(std::move(item))) && IsAlreadyQuit(worker.Quit());
  allocations_left = -1;
  EXPECT_TRUE(refused);
  EXPECT_TRUE(item != nullptr);
}

// --- what else is the user's ------------------------------------------------------------------

class ThrowingClock final : public Clock {
 public:
  absl::Duration Now() const override { throw std::runtime_error("clock"); }
  absl::Status RunAt(absl::Duration, Work&&) override { return absl::OkStatus(); }
};

// It is reported once a slice, and the quantum is counted in items.
TEST_F(SerialRefusal, AClockThatThrowsIsReportedAndTheItemsRun) {
  ThrowingClock clock;
  MakeGroup({.quantum_items = 2, .on_error = reports_.handler()}, &clock);
  SerialWorker worker(*group_);
  for (int i = 1; i <= 3; ++i) Submit(worker, std::to_string(i));
  EXPECT_EQ(base_.performer(), Performed::kRan);
  EXPECT_THAT(log_, testing::ElementsAre("1", "2"));
  EXPECT_EQ(base_.performer(), Performed::kRan);
  EXPECT_THAT(log_, testing::ElementsAre("1", "2", "3"));
  EXPECT_THAT(reports_.lines(), testing::ElementsAre("serial: std::runtime_error: clock 0",
                                                     "serial: std::runtime_error: clock 0"));
}

}  // namespace
}  // namespace workers
