#include "workers/testing/worker_contract.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "gmock/gmock.h"
#include "workers/thread_factory.h"
#include "workers/worker_scope.h"

namespace {

using ::testing::HasSubstr;
using ::workers::ErrorReport;
using ::workers::IsAlreadyQuit;
using ::workers::IWorker;
using ::workers::Work;
using ::workers::WorkerScope;
using ::workers::internal::Atomic;
using ::workers::internal::CurrentThread;
using ::workers::internal::Mutex;
using ::workers::internal::MutexLock;
using ::workers::internal::ThreadId;
using ::workers::test::Gate;
using ::workers::test::ToldError;

// Runs `f(0)` ... `f(count - 1)`, each on a thread of its own, and waits for all.
void OnThreads(int count, const std::function<void(int)>& f) {
  std::vector<std::unique_ptr<workers::Thread>> threads;
  for (int i = 0; i < count; ++i) {
    auto thread =
        workers::DefaultThreadFactory().Start({.name = "contract-test"}, [&f, i] { f(i); });
    ASSERT_TRUE(thread.ok()) << thread.status();
    threads.push_back(*std::move(thread));
  }
  for (auto& thread : threads) thread->Join();
}

// Calls `f` when it is destroyed, but not where it was moved from.
class OnDestruction {
 public:
  explicit OnDestruction(std::function<void()> f) : f_(std::move(f)) {}
  OnDestruction(OnDestruction&& other) noexcept : f_(std::move(other.f_)) { other.f_ = nullptr; }
  OnDestruction& operator=(OnDestruction&&) = delete;
  ~OnDestruction() {
    if (f_) f_();
  }

 private:
  std::function<void()> f_;
};

// A list that any thread may add to.
class Log {
 public:
  void Add(std::string entry) {
    MutexLock lock(mutex_);
    entries_.push_back(std::move(entry));
  }
  std::vector<std::string> entries() const {
    MutexLock lock(mutex_);
    return entries_;
  }

 private:
  mutable Mutex mutex_;
  std::vector<std::string> entries_ ABSL_GUARDED_BY(mutex_);
};

// A number of events, and a gate that opens with the last.
class Countdown {
 public:
  explicit Countdown(int64_t count) : left_(count) {
    if (count == 0) zero_.Open();
  }
  void Down() {
    if (left_.fetch_add(-1) == 1) zero_.Open();
  }
  const Gate& zero() const { return zero_; }

 private:
  Atomic<int64_t> left_;
  Gate zero_;
};

}  // namespace

WorkerContract::WorkerContract() : fixture_(GetParam()()) {
  worker_ = fixture_->Make([this](const ErrorReport& report) {
    MutexLock lock(mutex_);
    errors_.push_back(
        {std::string(report.worker), report.status, report.exception, report.dropped});
  });
}

WorkerContract::~WorkerContract() {
  EndWorker();
  StepToTheEnd();
}

void WorkerContract::EndWorker() {
  if (worker_ == nullptr) return;
  worker_->Quit().IgnoreError();
  StepToTheEnd();  // what stands on MemoryWorkers waits for it in its destructor
  worker_ = nullptr;
}

void WorkerContract::Do(Work work) {
  const absl::Status status = worker_->Do(std::move(work));
  ASSERT_TRUE(status.ok()) << status;
}

void WorkerContract::Await(const Gate& gate) {
  if (traits().stepped) {
    while (!gate.IsOpen()) ASSERT_TRUE(fixture_->Step()) << "nothing is left that could open it";
  }
  gate.Wait();
}

void WorkerContract::StepToTheEnd() {
  while (fixture_->Step()) {
  }
}

std::vector<ToldError> WorkerContract::errors() const {
  MutexLock lock(mutex_);
  return errors_;
}

// --- Do -----------------------------------------------------------------------------------

TEST_P(WorkerContract, DoRunsTheWorkOnce) {
  int runs = 0;
  Gate ran;
  Do([&] {
    ++runs;
    ran.Open();
  });
  Await(ran);
  StepToTheEnd();
  EXPECT_EQ(runs, 1);
}

TEST_P(WorkerContract, DoRunsInlineOrNotBeforeItIsTheWorkersTurn) {
  bool ran = false;
  Gate done;
  ThreadId thread;
  Do([&] {
    ran = true;
    thread = CurrentThread();
    done.Open();
  });
  if (traits().runs_inline) {
    EXPECT_TRUE(ran);
    EXPECT_EQ(thread, CurrentThread());
  }
  if (traits().stepped) {
    EXPECT_FALSE(ran);
  }
  Await(done);
  if (!traits().runs_inline && !traits().stepped) {
    EXPECT_NE(thread, CurrentThread());
  }
}

TEST_P(WorkerContract, AnyThreadMayCallDo) {
  constexpr int kThreads = 4;
  constexpr int kEach = 500;
  Atomic<int> runs = 0;
  Countdown all(kThreads * kEach);
  OnThreads(kThreads, [&](int) {
    for (int i = 0; i < kEach; ++i) {
      Do([&] {
        runs.fetch_add(1);
        all.Down();
      });
    }
  });
  Await(all.zero());
  EXPECT_EQ(runs.load(), kThreads * kEach);
}

TEST_P(WorkerContract, DoInsideItsOwnWorkIsTaken) {
  Log log;
  Countdown both(2);
  Do([&] {
    Do([&] {
      log.Add("inner");
      both.Down();
    });
    log.Add("outer");
    both.Down();
  });
  Await(both.zero());
  if (traits().exclusive) {
    // Never nested, however it calls back.
    EXPECT_THAT(log.entries(), testing::ElementsAre("outer", "inner"));
  } else {
    EXPECT_THAT(log.entries(), testing::UnorderedElementsAre("outer", "inner"));
  }
}

TEST_P(WorkerContract, AWorkThatGivesItselfAnewRunsOftenWithoutRecursion) {
  struct Again {
    IWorker& worker;
    int left;
    Gate& done;
    void operator()() && {
      if (left == 0) return done.Open();
      EXPECT_TRUE(worker.Do(Again{worker, left - 1, done}).ok());
    }
  };
  Gate done;
  Do(Again{worker(), 100'000, done});
  Await(done);
}

TEST_P(WorkerContract, EmptyWorkIsInvalidArgument) {
  EXPECT_TRUE(absl::IsInvalidArgument(worker().Do(Work())));
  worker().Quit().IgnoreError();
  EXPECT_TRUE(absl::IsInvalidArgument(worker().Do(nullptr)));
}

TEST_P(WorkerContract, RefusedWorkIsLeftAsItWas) {
  ASSERT_TRUE(worker().Quit().ok());
  int runs = 0;
  int destroyed = 0;
  {
    Work work = [&runs, probe = OnDestruction([&] { ++destroyed; })] { ++runs; };
    EXPECT_TRUE(IsAlreadyQuit(worker().Do(std::move(work))));
    EXPECT_EQ(destroyed, 0);
    ASSERT_TRUE(work != nullptr);
    EXPECT_EQ(runs, 0);
    std::move(work)();  // the caller still has it, and may run it itself
    EXPECT_EQ(runs, 1);
  }
  EXPECT_EQ(destroyed, 1);
}

TEST_P(WorkerContract, WorkMayBeMoveOnlyAndLarge) {
  struct Large {
    char bytes[1000] = {1};
  };
  int sum = 0;
  Gate done;
  Do([&, large = Large(), one = std::make_unique<int>(41)] {
    sum = *one + large.bytes[0];
    done.Open();
  });
  Await(done);
  EXPECT_EQ(sum, 42);
}

// --- order, exclusion, visibility -----------------------------------------------------------

TEST_P(WorkerContract, AnExclusiveWorkerRunsInTheOrderOfDo) {
  if (!traits().exclusive) return;
  std::vector<int> order;
  Gate done;
  for (int i = 0; i < 1000; ++i) Do([&order, i] { order.push_back(i); });
  Do([&] { done.Open(); });
  Await(done);
  ASSERT_EQ(order.size(), 1000u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_P(WorkerContract, AnExclusiveWorkerKeepsTheOrderOfEachProducer) {
  if (!traits().exclusive) return;
  constexpr int kThreads = 4;
  constexpr int kEach = 500;
  std::vector<int> last(kThreads, -1);
  int disorder = 0;
  Countdown all(kThreads * kEach);
  OnThreads(kThreads, [&](int producer) {
    for (int i = 0; i < kEach; ++i) {
      Do([&, producer, i] {
        if (last[producer] != i - 1) ++disorder;
        last[producer] = i;
        all.Down();
      });
    }
  });
  Await(all.zero());
  EXPECT_EQ(disorder, 0);
}

// The counter is a plain int: TSan sees it if two works ever run at once, or if one does not
// see what the one before it did.
TEST_P(WorkerContract, AnExclusiveWorkerNeverRunsTwoWorksAtOnce) {
  if (!traits().exclusive) return;
  constexpr int kThreads = 4;
  constexpr int kEach = 1000;
  int counter = 0;
  bool inside = false;
  int nested = 0;
  Countdown all(kThreads * kEach);
  OnThreads(kThreads, [&](int) {
    for (int i = 0; i < kEach; ++i) {
      Do([&] {
        if (std::exchange(inside, true)) ++nested;
        ++counter;
        inside = false;
        all.Down();
      });
    }
  });
  Await(all.zero());
  EXPECT_EQ(counter, kThreads * kEach);
  EXPECT_EQ(nested, 0);
}

TEST_P(WorkerContract, WhatHappensBeforeDoIsVisibleToTheWork) {
  std::vector<int> plain;
  Gate done;
  int seen = 0;
  OnThreads(1, [&](int) {
    plain.assign(100, 7);
    Do([&] {
      for (int value : plain) seen += value;
      done.Open();
    });
  });
  Await(done);
  EXPECT_EQ(seen, 700);
}

TEST_P(WorkerContract, OpensAScopeAroundItsWorkOnly) {
  if (!traits().opens_scope) return;
  EXPECT_FALSE(WorkerScope::RunsIn(worker()));
  Gate done;
  bool in_work = false;
  bool in_destructor = false;
  Do([&, probe = OnDestruction([&] {
           in_destructor = WorkerScope::RunsIn(worker());
           done.Open();
         })] { in_work = WorkerScope::RunsIn(worker()); });
  Await(done);
  EXPECT_TRUE(in_work);
  EXPECT_TRUE(in_destructor);
  EXPECT_FALSE(WorkerScope::RunsIn(worker()));
}

// --- captures -------------------------------------------------------------------------------

// If captures were kept until the next work, or until the worker has gone to sleep, the gate
// would never open: there is no next work.
TEST_P(WorkerContract, CapturesAreDestroyedStraightAfterTheWork) {
  Log log;
  Gate gone;
  Do([&, probe = OnDestruction([&] {
           log.Add("captures");
           gone.Open();
         })] { log.Add("work"); });
  Await(gone);
  EXPECT_THAT(log.entries(), testing::ElementsAre("work", "captures"));
}

TEST_P(WorkerContract, CapturesAreDestroyedBeforeTheNextWork) {
  if (!traits().exclusive) return;
  Log log;
  Gate done;
  Do([&] {  // so that the next two are in the queue together
    Do([&, probe = OnDestruction([&] { log.Add("captures of first"); })] { log.Add("first"); });
    Do([&] {
      log.Add("second");
      done.Open();
    });
  });
  Await(done);
  EXPECT_THAT(log.entries(), testing::ElementsAre("first", "captures of first", "second"));
}

TEST_P(WorkerContract, CapturesAreDestroyedOnTheThreadOfTheWork) {
  Gate gone;
  ThreadId work_thread;
  ThreadId captures_thread;
  Do([&, probe = OnDestruction([&] {
           captures_thread = CurrentThread();
           gone.Open();
         })] { work_thread = CurrentThread(); });
  Await(gone);
  EXPECT_EQ(work_thread, captures_thread);
}

TEST_P(WorkerContract, ADestructorOfACaptureMayCallDo) {
  Gate done;
  Do([&, probe = OnDestruction([&] { Do([&] { done.Open(); }); })] {});
  Await(done);
}

TEST_P(WorkerContract, ADestructorOfACaptureMayCallQuit) {
  Gate done;
  absl::Status quit = absl::InternalError("not called");
  Do([&, probe = OnDestruction([&] {
           quit = worker().Quit();
           done.Open();
         })] {});
  Await(done);
  EXPECT_TRUE(quit.ok()) << quit;
  EXPECT_TRUE(IsAlreadyQuit(worker().Do([] {})));
}

// --- errors ---------------------------------------------------------------------------------

TEST_P(WorkerContract, AThrowingWorkIsReportedOnceAndTheNextRuns) {
  Gate done;
  Do([] { throw std::runtime_error("boom"); });
  Do([&] { done.Open(); });
  Await(done);
  EndWorker();  // a worker that is not exclusive may still be at it
  ASSERT_EQ(errors().size(), 1u);
  const ToldError error = errors()[0];
  EXPECT_FALSE(error.worker.empty());
  EXPECT_TRUE(absl::IsUnknown(error.status)) << error.status;
  EXPECT_EQ(error.status.message(), "std::runtime_error: boom");
  EXPECT_EQ(error.dropped, 0);
  ASSERT_TRUE(error.exception != nullptr);
  EXPECT_THROW(std::rethrow_exception(error.exception), std::runtime_error);
}

TEST_P(WorkerContract, AThrownIntIsReportedToo) {
  Gate done;
  Do([] { throw 42; });
  Do([&] { done.Open(); });
  Await(done);
  EndWorker();
  ASSERT_EQ(errors().size(), 1u);
  EXPECT_THAT(errors()[0].status.message(), HasSubstr("int"));
  EXPECT_THROW(std::rethrow_exception(errors()[0].exception), int);
}

TEST_P(WorkerContract, TheCapturesOfAThrowingWorkAreDestroyed) {
  Gate gone;
  Do([probe = OnDestruction([&] { gone.Open(); })] { throw std::runtime_error("boom"); });
  Await(gone);
}

TEST_P(WorkerContract, ManyThrowingWorksHurtNobody) {
  constexpr int kWorks = 200;
  Countdown all(kWorks);
  for (int i = 0; i < kWorks; ++i) {
    Do([i, probe = OnDestruction([&] { all.Down(); })] {
      if (i % 2 == 0) throw std::runtime_error("boom");
    });
  }
  Await(all.zero());
  EndWorker();
  EXPECT_EQ(errors().size(), kWorks / 2u);
}

// --- Quit -----------------------------------------------------------------------------------

TEST_P(WorkerContract, AfterQuitDoAndQuitAreAlreadyQuit) {
  EXPECT_TRUE(worker().Quit().ok());
  const absl::Status again = worker().Quit();
  EXPECT_TRUE(IsAlreadyQuit(again)) << again;
  EXPECT_TRUE(absl::IsFailedPrecondition(again)) << again;
  const absl::Status refused = worker().Do([] { ADD_FAILURE() << "refused work ran"; });
  EXPECT_TRUE(IsAlreadyQuit(refused)) << refused;
  StepToTheEnd();
}

TEST_P(WorkerContract, WhatWasTakenBeforeQuitStillRuns) {
  constexpr int kWorks = 100;
  Countdown all(kWorks);
  for (int i = 0; i < kWorks; ++i) Do([&] { all.Down(); });
  EXPECT_TRUE(worker().Quit().ok());
  Await(all.zero());
}

TEST_P(WorkerContract, QuitInsideItsOwnWork) {
  Countdown both(2);
  Log log;
  Do([&] {
    Do([&] {
      log.Add("taken before");
      both.Down();
    });
    EXPECT_TRUE(worker().Quit().ok());
    EXPECT_TRUE(IsAlreadyQuit(worker().Quit()));
    EXPECT_TRUE(IsAlreadyQuit(worker().Do([&] { log.Add("given after"); })));
    both.Down();
  });
  Await(both.zero());
  StepToTheEnd();
  EXPECT_THAT(log.entries(), testing::ElementsAre("taken before"));
}

TEST_P(WorkerContract, OfManyQuitsOneWins) {
  Atomic<int> winners = 0;
  Atomic<int> losers = 0;
  OnThreads(8, [&](int) {
    const absl::Status status = worker().Quit();
    if (status.ok()) winners.fetch_add(1);
    if (IsAlreadyQuit(status)) losers.fetch_add(1);
  });
  EXPECT_EQ(winners.load(), 1);
  EXPECT_EQ(losers.load(), 7);
}

TEST_P(WorkerContract, WhatIsAcceptedWhileQuitRacesRunsAndWhatIsRefusedDoesNot) {
  Atomic<int> accepted = 0;
  Atomic<int> ran = 0;
  Gate go;
  OnThreads(4, [&](int thread) {
    if (thread == 0) {
      for (int i = 0; i < 100; ++i) {
        if (worker().Do([&] { ran.fetch_add(1); }).ok()) accepted.fetch_add(1);
      }
      go.Open();
      worker().Quit().IgnoreError();
      return;
    }
    go.Wait();
    for (int i = 0; i < 1000; ++i) {
      if (worker().Do([&] { ran.fetch_add(1); }).ok()) accepted.fetch_add(1);
    }
  });
  EXPECT_GE(accepted.load(), 100);
  EndWorker();
  if (traits().waits_in_destructor || traits().stepped) {
    EXPECT_EQ(ran.load(), accepted.load());
  }
}

// --- waiting --------------------------------------------------------------------------------

// While a work is stuck, only a Do that runs inline may wait for it; Quit never does.
TEST_P(WorkerContract, DoAndQuitDoNotWaitForAStuckWork) {
  if (traits().stepped) return;  // its work runs in Step, and sticks only there
  Gate stuck;
  Gate release;
  Gate tried;
  Atomic<int> ran = 0;
  OnThreads(2, [&](int thread) {
    if (thread == 0) {
      Do([&] {
        stuck.Open();
        release.Wait();
        ran.fetch_add(1);
      });
      return;
    }
    stuck.Wait();
    if (!traits().runs_inline) {
      for (int i = 0; i < 100; ++i) Do([&] { ran.fetch_add(1); });
    }
    EXPECT_TRUE(worker().Quit().ok());
    tried.Open();
    release.Open();
  });
  Await(tried);
  TakeWorker();
  StepToTheEnd();  // what does not wait in its destructor
  if (traits().waits_in_destructor) {
    EXPECT_EQ(ran.load(), traits().runs_inline ? 1 : 101);
  }
}

// --- the end --------------------------------------------------------------------------------

TEST_P(WorkerContract, DestructionWaitsForWhatWasTaken) {
  if (!traits().waits_in_destructor) return;
  constexpr int kWorks = 100;
  Atomic<int> ran = 0;
  for (int i = 0; i < kWorks; ++i) Do([&] { ran.fetch_add(1); });
  EndWorker();
  EXPECT_EQ(ran.load(), kWorks);
}

TEST_P(WorkerContract, DestructionWithoutWorkReturns) { EndWorker(); }

TEST_P(WorkerContract, DestroyedInItsOwnWorkItRunsWhatWasTaken) {
  if (!traits().may_die_in_own_work) return;
  std::unique_ptr<IWorker> own = TakeWorker();
  IWorker* const raw = own.get();
  Gate done;
  Atomic<int> ran = 0;
  Countdown all(10);
  const absl::Status status = raw->Do([&, own = std::move(own)]() mutable {
    for (int i = 0; i < 10; ++i) {
      EXPECT_TRUE(own->Do([&] {
                       ran.fetch_add(1);
                       all.Down();
                     })
                      .ok());
    }
    own = nullptr;
    done.Open();
  });
  ASSERT_TRUE(status.ok()) << status;
  Await(done);
  Await(all.zero());
  EXPECT_EQ(ran.load(), 10);
}

TEST_P(WorkerContract, AWorkMayHoldTheLastReferenceToItsWorker) {
  if (!traits().may_die_in_own_work) return;
  std::unique_ptr<IWorker> own = TakeWorker();
  IWorker* const raw = own.get();
  Gate gone;
  // Captures die in reverse order: the probe after the worker.
  const absl::Status status =
      raw->Do([probe = OnDestruction([&] { gone.Open(); }), own = std::move(own)] {});
  ASSERT_TRUE(status.ok()) << status;
  Await(gone);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(WorkerContract);
