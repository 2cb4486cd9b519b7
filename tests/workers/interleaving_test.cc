// Forces the races that Twisted's workers lose: for every point at which the first thread can
// be stopped, the second runs to its end there. Where a fault of the original is named, a
// straight port of the original stands beside it, and the same schedules catch it.

#include "tests/interleaving.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workers/clock.h"
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/serial_worker.h"
#include "workers/team.h"
#include "workers/testing/counting_thread_factory.h"
#include "workers/testing/gate.h"
#include "workers/testing/manual_clock.h"
#include "workers/thread_factory.h"
#include "workers/thread_pool.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace workers {
namespace {

using internal::CondVar;
using internal::Mutex;
using internal::MutexLock;
using internal::SyncOp;
using test::Gate;

// --- straight ports of the original ---------------------------------------------------------

// twisted._threads._convenience.Quit: check, then set.
class PortedQuit {
 public:
  absl::Status Set() {
    if (absl::Status status = Check(); !status.ok()) return status;
    set_.store(true);
    return absl::OkStatus();
  }
  absl::Status Check() const { return set_.load() ? AlreadyQuitError("port") : absl::OkStatus(); }

 private:
  internal::Atomic<bool> set_ = false;
};

// twisted._threads._threadworker.ThreadWorker: check, then put; set, then put the stop marker.
class PortedThreadWorker final : public IExclusiveWorker {
 public:
  PortedThreadWorker() : thread_([this] { Main(); }) {}
  ~PortedThreadWorker() override {
    Quit().IgnoreError();
    thread_.join();
  }
  absl::Status Do(Work&& work) override {
    if (absl::Status status = quit_.Check(); !status.ok()) return status;
    Put(std::move(work));
    return absl::OkStatus();
  }
  absl::Status Quit() override {
    if (absl::Status status = quit_.Set(); !status.ok()) return status;
    Put(nullptr);
    return absl::OkStatus();
  }

 private:
  void Put(Work work) {
    {
      MutexLock lock(mutex_);
      queue_.push_back(std::move(work));
    }
    put_.Signal();
  }
  void Main() {
    for (;;) {
      Work work;
      {
        MutexLock lock(mutex_);
        while (queue_.empty()) put_.Wait(mutex_);
        work = std::move(queue_.front());
        queue_.pop_front();
      }
      if (!work) return;
      std::move(work)();
    }
  }

  PortedQuit quit_;
  Mutex mutex_;
  CondVar put_;
  std::deque<Work> queue_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// twisted._threads._threadworker.LockWorker: checks before it acquires, marks itself working
// before it acquires, and keeps the mark in one place per thread.
class PortedLockWorker final : public IExclusiveWorker {
 public:
  struct Local {
    std::vector<Work>* working = nullptr;
  };
  explicit PortedLockWorker(Local& local) : local_(local) {}
  absl::Status Do(Work&& work) override {
    if (absl::Status status = quit_.Check(); !status.ok()) return status;
    if (local_.working != nullptr) {
      local_.working->push_back(std::move(work));
      return absl::OkStatus();
    }
    auto* queue = new std::vector<Work>;  // leaked where an exception leaves the mark behind
    local_.working = queue;
    lock_.Lock();
    std::move(work)();
    for (size_t i = 0; i < queue->size(); ++i) std::move((*queue)[i])();
    lock_.Unlock();
    local_.working = nullptr;
    delete queue;
    return absl::OkStatus();
  }
  absl::Status Quit() override { return quit_.Set(); }

 private:
  Local& local_;
  PortedQuit quit_;
  Mutex lock_;
};

// --- Do against Quit ------------------------------------------------------------------------

struct Outcome {
  int schedules = 0;
  int lost = 0;     // accepted, and did not run
  int revived = 0;  // refused, and ran, or the work was taken away from the caller
};

// Makes a worker for each schedule, lets Do and Quit meet, and waits for the worker's end.
// Do is the thread that is stopped, or Quit is.
template <typename MakeWorker>
Outcome DoAgainstQuit(bool stop_do, MakeWorker make) {
  Outcome outcome;
  for (int point = 0;; ++point) {
    bool ran = false;
    bool accepted = false;
    bool kept = false;
    bool reached;
    {
      auto worker = make();
      Interleaving schedule(point);
      auto call_do = [&] {
        Work work = [&ran] { ran = true; };
        accepted = worker->Do(std::move(work)).ok();
        kept = work != nullptr;
      };
      auto call_quit = [&] { worker->Quit().IgnoreError(); };
      if (stop_do) {
        schedule.Run(call_do, call_quit);
      } else {
        schedule.Run(call_quit, call_do);
      }
      reached = schedule.reached();
      worker = nullptr;  // waits for its end
    }
    ++outcome.schedules;
    if (accepted && !ran) ++outcome.lost;
    if (!accepted && (ran || !kept)) ++outcome.revived;
    if (!reached) return outcome;
  }
}

std::unique_ptr<IExclusiveWorker> NewThreadWorker() { return *ThreadWorker::Create(); }
std::unique_ptr<IExclusiveWorker> NewLockWorker() { return std::make_unique<LockWorker>(); }

// A MemoryWorker whose performer is stepped to the end when the worker is destroyed.
class SteppedAtTheEnd final : public IExclusiveWorker {
 public:
  ~SteppedAtTheEnd() override {
    memory_.worker->Quit().IgnoreError();
    while (memory_.performer() == Performed::kRan) {
    }
  }
  absl::Status Do(Work&& work) override { return memory_.worker->Do(std::move(work)); }
  absl::Status Quit() override { return memory_.worker->Quit(); }

 private:
  MemoryWorker memory_ = CreateMemoryWorker();
};

TEST(Interleaving, W1_TheStraightPortLosesAcceptedWork) {
  const Outcome outcome =
      DoAgainstQuit(true, [] { return std::make_unique<PortedThreadWorker>(); });
  EXPECT_GT(outcome.lost, 0);
}

TEST(Interleaving, W1_DoAndQuitOfAThreadWorkerAreLinearizable) {
  for (bool stop_do : {true, false}) {
    const Outcome outcome = DoAgainstQuit(stop_do, NewThreadWorker);
    EXPECT_GT(outcome.schedules, 2);
    EXPECT_EQ(outcome.lost, 0);
    EXPECT_EQ(outcome.revived, 0);
  }
}

TEST(Interleaving, W6_DoAndQuitOfAMemoryWorkerAreLinearizable) {
  for (bool stop_do : {true, false}) {
    const Outcome outcome =
        DoAgainstQuit(stop_do, [] { return std::make_unique<SteppedAtTheEnd>(); });
    EXPECT_GT(outcome.schedules, 2);
    EXPECT_EQ(outcome.lost, 0);
    EXPECT_EQ(outcome.revived, 0);
  }
}

TEST(Interleaving, L4_DoAndQuitOfALockWorkerAreLinearizable) {
  for (bool stop_do : {true, false}) {
    const Outcome outcome = DoAgainstQuit(stop_do, NewLockWorker);
    EXPECT_GT(outcome.schedules, 1);
    EXPECT_EQ(outcome.lost, 0);
    EXPECT_EQ(outcome.revived, 0);
  }
}

// A SerialWorker with a base of its own, which dies after it.
class SerialOnThread final : public IExclusiveWorker {
 public:
  absl::Status Do(Work&& work) override { return worker_.Do(std::move(work)); }
  absl::Status Quit() override { return worker_.Quit(); }

 private:
  std::unique_ptr<ThreadWorker> base_ = *ThreadWorker::Create();
  SerialGroup group_{*base_};
  SerialWorker worker_{group_};
};

TEST(Interleaving, DoAndQuitOfASerialWorkerAreLinearizable) {
  for (bool stop_do : {true, false}) {
    const Outcome outcome =
        DoAgainstQuit(stop_do, [] { return std::make_unique<SerialOnThread>(); });
    EXPECT_GT(outcome.schedules, 1);
    EXPECT_EQ(outcome.lost, 0);
    EXPECT_EQ(outcome.revived, 0);
  }
}

// The base quits, instead of the serial worker: its refusal comes at every point of a Do.
TEST(Interleaving, ABaseThatQuitsUnderADoOfASerialWorkerLosesNothing) {
  for (bool stop_do : {true, false}) {
    for (int point = 0;; ++point) {
      bool ran = false;
      bool accepted = false;
      bool reached;
      {
        auto base = *ThreadWorker::Create();
        SerialGroup group(*base);
        SerialWorker worker(group);
        Interleaving schedule(point);
        auto call_do = [&] { accepted = worker.Do([&ran] { ran = true; }).ok(); };
        auto call_quit = [&] { EXPECT_TRUE(base->Quit().ok()); };
        if (stop_do) {
          schedule.Run(call_do, call_quit);
        } else {
          schedule.Run(call_quit, call_do);
        }
        reached = schedule.reached();
        EXPECT_TRUE(base->Join().ok());  // its thread ends before the schedule does
      }
      EXPECT_EQ(ran, accepted);
      if (!reached) break;
    }
  }
}

TEST(Interleaving, T1_DoAndQuitOfAPoolAreLinearizable) {
  for (bool stop_do : {true, false}) {
    const Outcome outcome = DoAgainstQuit(
        stop_do, [] { return *MakePool({.limits = {.min_workers = 1, .soft_limit = 2}}); });
    EXPECT_GT(outcome.schedules, 10);
    EXPECT_EQ(outcome.lost, 0);
    EXPECT_EQ(outcome.revived, 0);
  }
}

// --- QuitNow against everything ---------------------------------------------------------------

// A Team of MemoryWorkers, one by the soft limit, in which each work is counted from Do to the end
// of its captures. Two threads of a schedule may use it at once.
class TeamScene {
 public:
  using Made = absl::StatusOr<std::unique_ptr<IWorker>>;

  explicit TeamScene(std::unique_ptr<IExclusiveWorker> coordinator) {
    team_ = *Team::Create(
        {.coordinator = std::move(coordinator),
         .create_worker = [this] { return create(); },
         .limits = {.soft_limit = 1},
         .on_error =
             [this](const ErrorReport& report) { reported_ += static_cast<int>(report.dropped); }});
  }

  Team& team() { return *team_; }
  // How a worker is made, for tests that make none.
  std::function<Made()> create = [this] { return Create(); };
  // What the destructor of the captures of each work that is given next does.
  std::function<void()> at_destruction = {};

  void Give() {
    Work work = [this, probe = std::make_unique<Probe>(gone_, at_destruction)] { ++ran_; };
    if (team_->Do(std::move(work)).ok()) {
      ++accepted_;
    } else {
      EXPECT_TRUE(work != nullptr);
      ++refused_;
    }
  }
  void QuitNow() { counted_ += static_cast<int>(team_->QuitNow()); }
  // Waits until the first worker has a work.
  void AwaitWork() {
    while (first() == nullptr || first()->queued() == 0) std::this_thread::yield();
  }
  // One work of the first worker.
  void Step() { EXPECT_EQ((*first())(), Performed::kRan); }

  // Steps all to the end, and expects that each accepted work ran or was counted as dropped, once.
  void End() {
    team_->Quit().IgnoreError();
    int waits = 0;
    for (; waits < 10'000; ++waits) {
      for (size_t i = 0; i < made(); ++i) {
        while (workers_[i]() == Performed::kRan) {
        }
      }
      if (team_->Join(absl::Milliseconds(1)).ok()) break;
    }
    if (waits == 10'000) {
      ADD_FAILURE() << "the Team has no end";
      team_.release();
      return;
    }
    const TeamStatistics s = team_->statistics();
    EXPECT_EQ(accepted_, ran_ + counted_ + reported_);
    EXPECT_EQ(gone_, accepted_ + refused_);
    EXPECT_EQ(s.accepted, accepted_);
    EXPECT_EQ(s.refused, refused_);
    EXPECT_EQ(s.completed, ran_);
    EXPECT_EQ(s.dropped, counted_ + reported_);
    EXPECT_EQ(s.backlogged, 0);
    EXPECT_EQ(s.live, 0);
    EXPECT_EQ(s.workers_created, static_cast<int64_t>(made()));
    for (MemoryPerformer& worker : workers_) EXPECT_EQ(worker(), Performed::kFinished);
    team_ = nullptr;
  }

  int accepted() const { return accepted_; }
  int ran() const { return ran_; }
  int counted() const { return counted_; }
  int reported() const { return reported_; }

 private:
  struct Probe {
    Probe(std::atomic<int>& gone, std::function<void()> then) : gone(gone), then(std::move(then)) {}
    ~Probe() {
      ++gone;
      if (then) then();
    }
    std::atomic<int>& gone;
    const std::function<void()> then;
  };

  Made Create() {
    MemoryWorker worker = CreateMemoryWorker("worker");
    std::lock_guard lock(mutex_);
    workers_.push_back(std::move(worker.performer));
    return std::move(worker.worker);
  }
  size_t made() {
    std::lock_guard lock(mutex_);
    return workers_.size();
  }
  MemoryPerformer* first() {
    std::lock_guard lock(mutex_);
    return workers_.empty() ? nullptr : &workers_.front();
  }

  std::atomic<int> accepted_ = 0;
  std::atomic<int> refused_ = 0;
  std::atomic<int> ran_ = 0;
  std::atomic<int> gone_ = 0;      // works whose captures are destroyed
  std::atomic<int> counted_ = 0;   // by QuitNow
  std::atomic<int> reported_ = 0;  // as dropped, to the error handler
  std::mutex mutex_;
  std::deque<MemoryPerformer> workers_;  // of its own mutex; stepped by one thread at a time
  std::unique_ptr<Team> team_;
};

using SceneStep = std::function<void(TeamScene&)>;

// QuitNow meets `other` at each point of either, after `prepare`: with a coordinator that is
// inline, and with one that has a thread of its own.
void QuitNowAgainst(
    const SceneStep& prepare, const SceneStep& other, const SceneStep& check = [](TeamScene&) {}) {
  const SceneStep quit_now = [](TeamScene& scene) { scene.QuitNow(); };
  for (bool inline_coordinator : {true, false}) {
    for (bool stop_quit_now : {true, false}) {
      for (int point = 0;; ++point) {
        SCOPED_TRACE(testing::Message() << "inline " << inline_coordinator << ", QuitNow stops "
                                        << stop_quit_now << ", point " << point);
        Interleaving schedule(point);
        TeamScene scene(inline_coordinator ? NewLockWorker() : NewThreadWorker());
        prepare(scene);
        schedule.Run([&] { (stop_quit_now ? quit_now : other)(scene); },
                     [&] { (stop_quit_now ? other : quit_now)(scene); });
        const bool reached = schedule.reached();
        scene.End();
        check(scene);
        if (testing::Test::HasFailure()) return;
        if (reached) continue;
        EXPECT_GT(point, 2);
        break;
      }
    }
  }
}

// One is with its worker or on its way there, two wait.
void GiveThree(TeamScene& scene) {
  for (int i = 0; i < 3; ++i) scene.Give();
}

// One is with its worker, two wait.
void GiveThreeAndAwaitWork(TeamScene& scene) {
  GiveThree(scene);
  scene.AwaitWork();
}

// It was given before, and drops are for those that were not.
void ExpectOnlyTheFirstRan(TeamScene& scene) { EXPECT_EQ(scene.ran(), 1); }

TEST(Interleaving, QuitNowAgainstADo) {
  QuitNowAgainst(
      GiveThreeAndAwaitWork, [](TeamScene& scene) { scene.Give(); }, ExpectOnlyTheFirstRan);
}

// Nobody is there yet: that Do has a worker made.
TEST(Interleaving, QuitNowAgainstADoThatMakesAWorker) {
  QuitNowAgainst([](TeamScene&) {}, [](TeamScene& scene) { scene.Give(); });
}

TEST(Interleaving, QuitNowAgainstACreationThatFails) {
  for (bool fails : {true, false}) {
    QuitNowAgainst(
        [fails](TeamScene& scene) {
          scene.create = [fails]() -> TeamScene::Made {
            if (fails) return absl::UnavailableError("no thread left");
            return nullptr;
          };
        },
        [](TeamScene& scene) { scene.Give(); },
        [](TeamScene& scene) { EXPECT_EQ(scene.ran(), 0); });
  }
}

// Its work ends, and it is about to take the next one.
TEST(Interleaving, QuitNowAgainstAWorkerThatHasJustFinished) {
  QuitNowAgainst(
      GiveThreeAndAwaitWork, [](TeamScene& scene) { scene.Step(); },
      [](TeamScene& scene) { EXPECT_GE(scene.ran(), 1); });
}

TEST(Interleaving, QuitNowAgainstQuit) {
  std::atomic<int> won = 0;
  QuitNowAgainst(
      [&won](TeamScene& scene) {
        won = 0;
        GiveThreeAndAwaitWork(scene);
      },
      [&won](TeamScene& scene) { won += scene.team().Quit().ok(); },
      [&won](TeamScene& scene) {
        EXPECT_LE(won, 1);
        ExpectOnlyTheFirstRan(scene);
      });
}

// Each work is counted by one of the two.
TEST(Interleaving, QuitNowAgainstQuitNow) {
  QuitNowAgainst(
      GiveThreeAndAwaitWork, [](TeamScene& scene) { scene.QuitNow(); },
      [](TeamScene& scene) {
        EXPECT_EQ(scene.accepted(), 3);
        EXPECT_EQ(scene.counted(), 2);
        ExpectOnlyTheFirstRan(scene);
        EXPECT_EQ(scene.reported(), 0);
      });
}

TEST(Interleaving, QuitNowAgainstGrowAndShrink) {
  QuitNowAgainst(GiveThree, [](TeamScene& scene) { scene.team().Grow(2).IgnoreError(); });
  QuitNowAgainst(GiveThree, [](TeamScene& scene) { scene.team().Shrink().IgnoreError(); });
  QuitNowAgainst(GiveThree, [](TeamScene& scene) { scene.team().SetSize(2, 3).IgnoreError(); });
}

// What it drops calls the Team, while another thread does too.
TEST(Interleaving, QuitNowWhoseDroppedCapturesCallTheTeamAgainstAWorkerThatHasJustFinished) {
  const SceneStep calls[] = {
      [](TeamScene& scene) { scene.Give(); },
      [](TeamScene& scene) { scene.team().Quit().IgnoreError(); },
      [](TeamScene& scene) { scene.QuitNow(); },
  };
  for (const SceneStep& call : calls) {
    QuitNowAgainst(
        [&call](TeamScene& scene) {
          scene.at_destruction = [&call, &scene] { call(scene); };
          GiveThreeAndAwaitWork(scene);
          scene.at_destruction = {};  // not for those that are given from there
        },
        [](TeamScene& scene) { scene.Step(); });
  }
}

// --- ThreadPool -------------------------------------------------------------------------------

// A started ThreadPool whose threads have all ended before the schedule does.
class PoolScene {
 public:
  PoolScene(int min, int max)
      : pool(*ThreadPool::Create(
            {.min_threads = min,
             .max_threads = max,
             .pool = {.factory = &factory_, .on_error = [this](const ErrorReport& report) {
                        dropped += static_cast<int>(report.dropped);
                      }}})) {}
  ~PoolScene() {
    pool = nullptr;
    factory_.Finish();
    EXPECT_EQ(factory_.started(), factory_.joined());
  }

  std::atomic<int> dropped = 0;

 private:
  test::CountingThreadFactory factory_;

 public:
  std::unique_ptr<ThreadPool> pool;
};

// `first` and `second` meet at each point of either; then `check`.
void EachScheduleOfAPool(int min, int max, const std::function<void(PoolScene&)>& prepare,
                         const std::function<void(PoolScene&)>& first,
                         const std::function<void(PoolScene&)>& second,
                         const std::function<void(PoolScene&)>& check) {
  for (bool stop_first : {true, false}) {
    for (int point = 0;; ++point) {
      SCOPED_TRACE(testing::Message() << "the first stops " << stop_first << ", point " << point);
      Interleaving schedule(point);
      PoolScene scene(min, max);
      prepare(scene);
      schedule.Run([&] { (stop_first ? first : second)(scene); },
                   [&] { (stop_first ? second : first)(scene); });
      check(scene);
      if (testing::Test::HasFailure()) return;
      if (schedule.reached()) continue;
      EXPECT_GT(point, 2);
      break;
    }
  }
}

void StartPool(PoolScene& scene) { EXPECT_TRUE(scene.pool->Start().ok()); }

// P7: in the original two that resize at once read and write the size in turn.
TEST(Interleaving, P7_OfTwoResizesOneIsTheLast) {
  EachScheduleOfAPool(
      0, 8, StartPool, [](PoolScene& scene) { EXPECT_TRUE(scene.pool->AdjustPoolSize(4, 4).ok()); },
      [](PoolScene& scene) { EXPECT_TRUE(scene.pool->AdjustPoolSize(2, 2).ok()); },
      [](PoolScene& scene) {
        EXPECT_EQ(scene.pool->min(), scene.pool->max());
        EXPECT_EQ(scene.pool->workers(), scene.pool->max());
      });
}

TEST(Interleaving, P7_AResizeWhileThePoolStartsIsNotLost) {
  EachScheduleOfAPool(
      1, 1, [](PoolScene&) {}, StartPool,
      [](PoolScene& scene) { EXPECT_TRUE(scene.pool->AdjustPoolSize(3, 3).ok()); },
      [](PoolScene& scene) { EXPECT_EQ(scene.pool->workers(), 3); });
}

// P12: of two that want the last thread that is possible, one gets it and the other is told.
TEST(Interleaving, P12_OfTwoThatStartTheLastWorkerOneIsRefused) {
  std::atomic<int> started = 0;
  const auto start = [&started](PoolScene& scene) {
    const absl::Status status = scene.pool->StartAWorker();
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    if (status.ok()) ++started;
  };
  EachScheduleOfAPool(
      0, 1,
      [&started](PoolScene& scene) {
        started = 0;
        StartPool(scene);
      },
      start, start,
      [&started](PoolScene& scene) {
        EXPECT_EQ(started, 1);
        EXPECT_EQ(scene.pool->workers(), 1);
      });
}

// And none is refused where there is room for both.
TEST(Interleaving, P12_TwoThatStartAWorkerStartTwo) {
  const auto start = [](PoolScene& scene) { EXPECT_TRUE(scene.pool->StartAWorker().ok()); };
  EachScheduleOfAPool(0, 2, StartPool, start, start,
                      [](PoolScene& scene) { EXPECT_EQ(scene.pool->workers(), 2); });
}

TEST(Interleaving, P12_ThereAreNoMoreThreadsThanTheMaximumWhereWorkComesWhileOneIsStarted) {
  Gate* release = nullptr;
  EachScheduleOfAPool(
      0, 1,
      [&release](PoolScene& scene) {
        release = new Gate;
        StartPool(scene);
      },
      [](PoolScene& scene) { scene.pool->StartAWorker().IgnoreError(); },
      [&release](PoolScene& scene) {
        EXPECT_TRUE(scene.pool->CallInThread([gate = release] { gate->Wait(); }).ok());
      },
      [&release](PoolScene& scene) {
        EXPECT_EQ(scene.pool->workers(), 1);
        release->Open();
        EXPECT_TRUE(scene.pool->Stop().ok());
        delete release;
        EXPECT_EQ(scene.pool->statistics().completed, 1);
      });
}

// Whoever starts a thread while the maximum falls does not go beyond it.
TEST(Interleaving, P12_AThreadIsStartedWhileTheMaximumFalls) {
  EachScheduleOfAPool(
      2, 4, StartPool, [](PoolScene& scene) { scene.pool->StartAWorker().IgnoreError(); },
      [](PoolScene& scene) { EXPECT_TRUE(scene.pool->AdjustPoolSize(1, 1).ok()); },
      [](PoolScene& scene) { EXPECT_EQ(scene.pool->workers(), 1); });
}

// P1, P10: a call meets Stop in another thread: it is refused, or it runs and is answered.
TEST(Interleaving, P10_ACallAgainstStopRunsOrIsRefused) {
  std::atomic<int> taken = 0;
  std::atomic<int> answered = 0;
  EachScheduleOfAPool(
      1, 1,
      [&](PoolScene& scene) {
        taken = 0;
        answered = 0;
        StartPool(scene);
      },
      [&](PoolScene& scene) {
        const absl::Status status = scene.pool->CallInThreadWithCallback(
            [&answered](absl::StatusOr<int> result) { answered += *result; }, [] { return 1; });
        EXPECT_TRUE(status.ok() || IsAlreadyQuit(status)) << status;
        taken = status.ok();
      },
      [](PoolScene& scene) { EXPECT_TRUE(scene.pool->Stop().ok()); },
      [&](PoolScene& scene) {
        EXPECT_TRUE(scene.pool->Stop().ok());
        EXPECT_EQ(answered, taken);
      });
}

// Work that waits for Start, which meets Stop: it runs, or it is dropped and reported.
TEST(Interleaving, P10_StartAgainstStopRunsWhatWasTakenOrReportsIt) {
  std::atomic<int> ran = 0;
  EachScheduleOfAPool(
      0, 1,
      [&ran](PoolScene& scene) {
        ran = 0;
        for (int i = 0; i < 3; ++i) {
          EXPECT_TRUE(scene.pool->CallInThread([&ran] { ++ran; }).ok());
        }
      },
      [](PoolScene& scene) { scene.pool->Start().IgnoreError(); },
      [](PoolScene& scene) { EXPECT_TRUE(scene.pool->Stop().ok()); },
      [&ran](PoolScene& scene) {
        EXPECT_TRUE(scene.pool->Stop().ok());
        EXPECT_EQ(ran + scene.dropped, 3);
        EXPECT_EQ(scene.pool->workers(), 0);
      });
}

// --- wake-ups ---------------------------------------------------------------------------------

class SignalCounter final : public internal::SyncObserver {
 public:
  SignalCounter() { internal::sync_observer.store(this); }
  ~SignalCounter() override { internal::sync_observer.store(nullptr); }
  void At(SyncOp op, const void*) override {
    if (op == SyncOp::kSignal) signals_.fetch_add(1);
  }
  int signals() const { return signals_.load(); }

 private:
  std::atomic<int> signals_ = 0;
};

// A signal is a futex wake at most.
TEST(Interleaving, PostsToABusyPoolWakeNobody) {
  std::atomic<int> ran = 0;
  SignalCounter counter;
  {
    Gate held[4];
    Gate release;
    auto pool = *MakePool({.limits = {.soft_limit = 4}});
    for (Gate& gate : held) {
      EXPECT_TRUE(pool->Do([&] {
                        gate.Open();
                        release.Wait();
                      })
                      .ok());
    }
    for (Gate& gate : held) gate.Wait();
    const int before = counter.signals();
    for (int i = 0; i < 100'000; ++i) EXPECT_TRUE(pool->Do([&] { ++ran; }).ok());
    EXPECT_LE(counter.signals() - before, 10);
    release.Open();
  }
  EXPECT_EQ(ran, 100'000);
}

// Holds every thread that wakes from a wait, until it is let go.
class SleepersHeld final : public internal::SyncObserver {
 public:
  explicit SleepersHeld(int sleepers) : sleepers_(sleepers) { internal::sync_observer.store(this); }
  ~SleepersHeld() override { internal::sync_observer.store(nullptr); }

  void WaitUntilAllSleep() { all_sleep_.get_future().wait(); }
  void LetGo() { let_go_.set_value(); }
  int signals() const { return signals_.load(); }

  // SyncObserver implementation:
  void At(SyncOp op, const void*) override {
    static thread_local bool slept = false;
    if (op == SyncOp::kSignal) signals_.fetch_add(1);
    if (op == SyncOp::kWait) {
      slept = true;
      if (asleep_.fetch_add(1) + 1 == sleepers_) all_sleep_.set_value();
    }
    if (op == SyncOp::kLocked && std::exchange(slept, false)) gone_.wait();
  }

 private:
  const int sleepers_;
  std::atomic<int> asleep_ = 0;
  std::atomic<int> signals_ = 0;
  std::promise<void> all_sleep_;
  std::promise<void> let_go_;
  const std::shared_future<void> gone_ = let_go_.get_future().share();
};

TEST(Interleaving, OneWakeOfAPoolIsInFlightAtMost) {
  std::atomic<int> ran = 0;
  SleepersHeld threads(/*sleepers=*/4);
  {
    auto pool = *MakePool({.limits = {.min_workers = 4, .soft_limit = 4}});
    threads.WaitUntilAllSleep();
    const int before = threads.signals();
    for (int i = 0; i < 1000; ++i) EXPECT_TRUE(pool->Do([&] { ++ran; }).ok());
    EXPECT_EQ(threads.signals() - before, 1);
    threads.LetGo();
  }
  EXPECT_EQ(ran, 1000);
}

// --- two Quits ------------------------------------------------------------------------------

template <typename MakeWorker>
std::pair<int, int> FewestAndMostWinnersOfTwoQuits(MakeWorker make) {
  int fewest = 2;
  int most = 0;
  for (int point = 0;; ++point) {
    auto quits = make();
    bool first_won = false;
    bool second_won = false;
    Interleaving schedule(point);
    schedule.Run([&] { first_won = quits().ok(); }, [&] { second_won = quits().ok(); });
    fewest = std::min(fewest, first_won + second_won);
    most = std::max(most, first_won + second_won);
    quits = nullptr;  // its threads end before the schedule does
    if (!schedule.reached()) return {fewest, most};
  }
}

// Calls `Set` or `Quit` of an object that it owns.
template <typename T>
std::function<absl::Status()> SetOf() {
  return [flag = std::make_shared<T>()] { return flag->Set(); };
}
std::function<absl::Status()> QuitOf(std::unique_ptr<IWorker> worker) {
  return [worker = std::shared_ptr<IWorker>(std::move(worker))] { return worker->Quit(); };
}

TEST(Interleaving, W2_TheStraightPortLetsTwoQuitsWin) {
  EXPECT_EQ(FewestAndMostWinnersOfTwoQuits(SetOf<PortedQuit>), std::make_pair(1, 2));
}

TEST(Interleaving, W2_OfTwoQuitsExactlyOneWins) {
  const auto one = std::make_pair(1, 1);
  EXPECT_EQ(FewestAndMostWinnersOfTwoQuits([] { return QuitOf(NewThreadWorker()); }), one);
  EXPECT_EQ(FewestAndMostWinnersOfTwoQuits([] { return QuitOf(NewLockWorker()); }), one);
  EXPECT_EQ(
      FewestAndMostWinnersOfTwoQuits([] { return QuitOf(std::make_unique<SteppedAtTheEnd>()); }),
      one);
  EXPECT_EQ(
      FewestAndMostWinnersOfTwoQuits([] { return QuitOf(std::make_unique<SerialOnThread>()); }),
      one);
  EXPECT_EQ(FewestAndMostWinnersOfTwoQuits(
                [] { return QuitOf(*MakePool({.limits = {.min_workers = 1}})); }),
            one);
}

// --- LockWorker -----------------------------------------------------------------------------

// Stops Do where it is about to acquire the lock, lets Quit complete there, and says whether Do
// then ran the work.
template <typename MakeWorker>
bool RunsWorkAfterQuit(MakeWorker make) {
  for (int point = 0;; ++point) {
    auto worker = make();
    bool ran = false;
    Interleaving schedule(point);
    schedule.Run([&] { worker->Do([&] { ran = true; }).IgnoreError(); },
                 [&] { EXPECT_TRUE(worker->Quit().ok()); });
    if (schedule.reached() && schedule.op() == SyncOp::kLock) return ran;
    if (!schedule.reached()) {
      ADD_FAILURE() << "Do acquires no lock";
      return false;
    }
  }
}

TEST(Interleaving, L4_TheStraightPortRunsWorkAfterQuit) {
  PortedLockWorker::Local local;
  EXPECT_TRUE(RunsWorkAfterQuit([&] { return std::make_unique<PortedLockWorker>(local); }));
}

TEST(Interleaving, L4_ADoThatWaitedForTheLockLooksAgainForQuit) {
  EXPECT_FALSE(RunsWorkAfterQuit(NewLockWorker));
}

// Throws when a lock is about to be acquired: what Ctrl-C does to Python.
class InterruptingObserver final : public internal::SyncObserver {
 public:
  InterruptingObserver() { internal::sync_observer.store(this); }
  ~InterruptingObserver() override { internal::sync_observer.store(nullptr); }
  void At(SyncOp op, const void*) override {
    if (op == SyncOp::kLock) throw std::runtime_error("interrupted");
  }
};

// True if a work that is given after an interrupted Do runs.
bool RunsAfterAnInterruptedDo(IExclusiveWorker& worker) {
  bool first_ran = false;
  bool second_ran = false;
  {
    InterruptingObserver observer;
    Work work = [&] { first_ran = true; };
    EXPECT_THROW(worker.Do(std::move(work)).IgnoreError(), std::runtime_error);
    EXPECT_TRUE(work != nullptr);
  }
  EXPECT_TRUE(worker.Do([&] { second_ran = true; }).ok());
  EXPECT_FALSE(first_ran);
  return second_ran;
}

TEST(Interleaving, L2_TheStraightPortIsDeafAfterAnInterruptedDo) {
  PortedLockWorker::Local local;
  PortedLockWorker worker(local);
  EXPECT_FALSE(RunsAfterAnInterruptedDo(worker));
  for (Work& lost : *local.working) lost = nullptr;
  delete local.working;
}

TEST(Interleaving, L2_AnInterruptedDoLeavesNoMark) {
  LockWorker worker;
  EXPECT_TRUE(RunsAfterAnInterruptedDo(worker));
}

// --- ThreadWorker: the thread itself is stopped ---------------------------------------------

// Starts a thread that is the first of a schedule once `begin` is open: the schedule begins
// when whoever starts the thread has returned.
class FirstThreadFactory final : public ThreadFactory {
 public:
  FirstThreadFactory(Interleaving& schedule, Gate& begin) : schedule_(schedule), begin_(begin) {}
  absl::StatusOr<std::unique_ptr<Thread>> Start(const ThreadOptions& options,
                                                Work&& main) override {
    return DefaultThreadFactory().Start(options, [this, main = std::move(main)]() mutable {
      begin_.Wait();
      schedule_.AsFirst([&] { std::move(main)(); });
    });
  }
  size_t Reap() override { return DefaultThreadFactory().Reap(); }

 private:
  Interleaving& schedule_;
  Gate& begin_;
};

// A wake-up that is lost anywhere between "the queue is empty" and "asleep" hangs this test.
TEST(Interleaving, NoWakeUpOfAThreadWorkerIsLost) {
  for (int point = 0;; ++point) {
    int ran = 0;
    Interleaving schedule(point);
    Gate begin;
    FirstThreadFactory factory(schedule, begin);
    auto worker = *ThreadWorker::Create({.factory = &factory});
    begin.Open();
    schedule.AsSecond([&] {
      EXPECT_TRUE(worker->Do([&] { ++ran; }).ok());
      EXPECT_TRUE(worker->Do([&] { ++ran; }).ok());
      EXPECT_TRUE(worker->Quit().ok());
    });
    worker = nullptr;
    EXPECT_EQ(ran, 2);
    if (!schedule.reached()) break;
  }
}

// The work destroys the worker while the thread that gave it is anywhere in Do.
TEST(Interleaving, Hazard2_AWorkerMayDieWhileItsDoReturns) {
  for (int point = 0;; ++point) {
    Gate gone;
    Interleaving schedule(point);
    test::CountingThreadFactory factory;  // whose end waits for the worker's thread
    std::unique_ptr<ThreadWorker> worker = *ThreadWorker::Create({.factory = &factory});
    ThreadWorker* const raw = worker.get();
    schedule.Run(
        [&] {
          EXPECT_TRUE(raw->Do([&gone, worker = std::move(worker)]() mutable {
                           worker = nullptr;
                           gone.Open();
                         })
                          .ok());
        },
        [&] {});
    gone.Wait();
    if (!schedule.reached()) break;
  }
}

// --- QuitNow: the coordinator's thread, or the worker's, is stopped ---------------------------

TEST(Interleaving, QuitNowAtEachPointOfTheCoordinatorsThread) {
  for (int point = 0;; ++point) {
    SCOPED_TRACE(point);
    Interleaving schedule(point);
    Gate begin;
    FirstThreadFactory factory(schedule, begin);
    TeamScene scene(*ThreadWorker::Create({.factory = &factory}));
    GiveThree(scene);
    begin.Open();
    schedule.AsSecond([&] {
      scene.Give();
      scene.QuitNow();
    });
    scene.End();
    if (!schedule.reached() || testing::Test::HasFailure()) break;
  }
}

TEST(Interleaving, QuitNowAtEachPointOfAPoolsThread) {
  for (int point = 0;; ++point) {
    SCOPED_TRACE(point);
    int ran = 0;
    int64_t dropped = 0;
    Interleaving schedule(point);
    Gate begin;
    FirstThreadFactory factory(schedule, begin);
    auto pool = *MakePool({.limits = {.soft_limit = 1}, .factory = &factory});
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(pool->Do([&] { ++ran; }).ok());
    begin.Open();
    schedule.AsSecond([&] { dropped = pool->QuitNow(); });
    EXPECT_TRUE(pool->Join().ok());
    EXPECT_EQ(pool->statistics().completed, ran);
    EXPECT_EQ(pool->statistics().dropped, dropped);
    pool = nullptr;
    EXPECT_EQ(ran + dropped, 3);
    EXPECT_GE(ran, 1);
    if (!schedule.reached() || testing::Test::HasFailure()) break;
  }
}

// --- statistics -------------------------------------------------------------------------------

void ExpectToAddUp(const TeamStatistics& s) {
  EXPECT_EQ(s.idle + s.busy + s.starting + s.ending, s.live);
  EXPECT_LE(s.blocked, s.busy);
  EXPECT_GE(s.accepted, s.completed + s.failed + s.dropped + s.backlogged);
}

// T10: a snapshot that is taken at each point of each call, and of the end of a work, adds up.
TEST(Interleaving, T10_EachSnapshotAtEachPointAddsUp) {
  const SceneStep calls[] = {
      [](TeamScene& scene) { scene.Give(); },
      [](TeamScene& scene) { scene.Step(); },
      [](TeamScene& scene) { EXPECT_TRUE(scene.team().Grow(2).ok()); },
      [](TeamScene& scene) {
        EXPECT_TRUE(scene.team().Grow(2).ok());
        EXPECT_TRUE(scene.team().Shrink().ok());
      },
      [](TeamScene& scene) { EXPECT_TRUE(scene.team().SetSize(2, 2).ok()); },
      [](TeamScene& scene) { EXPECT_TRUE(scene.team().Quit().ok()); },
      [](TeamScene& scene) { scene.QuitNow(); },
  };
  for (const SceneStep& call : calls) {
    for (int point = 0;; ++point) {
      SCOPED_TRACE(testing::Message() << "call " << &call - calls << ", point " << point);
      Interleaving schedule(point);
      TeamScene scene(NewLockWorker());
      GiveThree(scene);
      schedule.Run([&] { call(scene); }, [&] { ExpectToAddUp(scene.team().statistics()); });
      scene.End();
      ASSERT_FALSE(testing::Test::HasFailure());
      if (!schedule.reached()) break;
    }
  }
}

// And at each point of the coordinator's thread.
TEST(Interleaving, T10_EachSnapshotAtEachPointOfTheCoordinatorsThreadAddsUp) {
  for (int point = 0;; ++point) {
    SCOPED_TRACE(point);
    Interleaving schedule(point);
    Gate begin;
    FirstThreadFactory factory(schedule, begin);
    TeamScene scene(*ThreadWorker::Create({.factory = &factory}));
    GiveThree(scene);
    EXPECT_TRUE(scene.team().Grow(2).ok());
    EXPECT_TRUE(scene.team().Shrink(1).ok());
    begin.Open();
    schedule.AsSecond([&] { ExpectToAddUp(scene.team().statistics()); });
    scene.End();
    ASSERT_FALSE(testing::Test::HasFailure());
    if (!schedule.reached()) break;
  }
}

// --- nothing foreign under a lock -----------------------------------------------------------

class HeldProbe {
 public:
  explicit HeldProbe(std::vector<int>& held) : held_(&held) {}
  HeldProbe(HeldProbe&& other) noexcept : held_(std::exchange(other.held_, nullptr)) {}
  ~HeldProbe() {
    if (held_ != nullptr) held_->push_back(LockTracker::Held());
  }

 private:
  std::vector<int>* held_;
};

// Runs a work that throws, and records the locks held in the work, in the handler and in the
// destructor of its captures.
template <typename Worker>
void RecordHeld(Worker& worker, std::vector<int>& held) {
  EXPECT_TRUE(worker
                  .Do([&held, probe = HeldProbe(held)] {
                    held.push_back(LockTracker::Held());
                    throw std::runtime_error("boom");
                  })
                  .ok());
}

TEST(Interleaving, Hazard3_AThreadWorkerRunsNothingForeignUnderALock) {
  std::vector<int> held;
  LockTracker tracker;
  ErrorHandler on_error = [&](const ErrorReport&) { held.push_back(LockTracker::Held()); };
  {
    auto worker = *ThreadWorker::Create(
        {.on_error = on_error, .on_exit = [&] { held.push_back(LockTracker::Held()); }});
    RecordHeld(*worker, held);
  }
  // The work, the captures, the handler, the exit.
  EXPECT_THAT(held, testing::ElementsAre(0, 0, 0, 0));
}

TEST(Interleaving, Hazard3_ALockWorkerHoldsItsOwnLockOnly) {
  std::vector<int> held;
  LockTracker tracker;
  {
    LockWorker worker(
        {.on_error = [&](const ErrorReport&) { held.push_back(LockTracker::Held()); }});
    RecordHeld(worker, held);
  }
  EXPECT_THAT(held, testing::ElementsAre(1, 1, 1));
}

TEST(Interleaving, Hazard3_AMemoryWorkerRunsAndDropsNothingUnderALock) {
  std::vector<int> held;
  LockTracker tracker;
  {
    MemoryWorker memory = CreateMemoryWorker(
        "memory", [&](const ErrorReport&) { held.push_back(LockTracker::Held()); });
    RecordHeld(*memory.worker, held);
    EXPECT_EQ(memory.performer(), Performed::kRan);
    RecordHeld(*memory.worker, held);
    EXPECT_EQ(memory.performer.Drop(), 1u);
    RecordHeld(*memory.worker, held);
  }
  // Run: work, captures, handler. Dropped: captures. Dropped by the end: captures, handler.
  EXPECT_THAT(held, testing::ElementsAre(0, 0, 0, 0, 0, 0));
}

// Notes, by name, the most locks that a thread has held at some place.
class MostHeld {
 public:
  void Note(const std::string& place) {
    std::lock_guard lock(mutex_);
    int& most = places_[place];
    most = std::max(most, LockTracker::Held());
  }
  std::map<std::string, int> places() const {
    std::lock_guard lock(mutex_);
    return places_;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, int> places_;
};

class NotingWorker final : public IWorker {
 public:
  NotingWorker(MostHeld& held, std::unique_ptr<IWorker> inner)
      : held_(held), inner_(std::move(inner)) {}
  ~NotingWorker() override { held_.Note("the worker's destructor"); }
  absl::Status Do(Work&& work) override {
    held_.Note("the worker's Do");
    return inner_->Do(std::move(work));
  }
  absl::Status Quit() override {
    held_.Note("the worker's Quit");
    return inner_->Quit();
  }

 private:
  MostHeld& held_;
  const std::unique_ptr<IWorker> inner_;
};

class NotingClock final : public Clock {
 public:
  explicit NotingClock(MostHeld& held) : held_(held) {}
  absl::Duration Now() const override { return inner.Now(); }
  absl::Status RunAt(absl::Duration when, Work&& work) override {
    held_.Note("the clock's RunAt");
    return inner.RunAt(when, std::move(work));
  }
  test::ManualClock inner;

 private:
  MostHeld& held_;
};

struct NotingCapture {
  NotingCapture(MostHeld& held, std::string place) : held(held), place(std::move(place)) {}
  ~NotingCapture() { held.Note(place); }
  MostHeld& held;
  const std::string place;
};

TEST(Interleaving, Hazard3_ATeamCallsNothingForeignUnderALock) {
  MostHeld held;
  LockTracker tracker;
  test::CountingThreadFactory factory;
  NotingClock clock(held);
  const auto capture = [&held](std::string place) {
    return std::make_unique<NotingCapture>(held, std::move(place));
  };
  {
    std::atomic<bool> fail = true;
    auto team = *Team::Create({.coordinator = NewLockWorker(),
                               .create_worker = [&]() -> absl::StatusOr<std::unique_ptr<IWorker>> {
                                 held.Note("create_worker");
                                 if (fail.exchange(false))
                                   return absl::UnavailableError("no thread left");
                                 return std::make_unique<NotingWorker>(
                                     held, *ThreadWorker::Create({.factory = &factory}));
                               },
                               .limits = {.soft_limit = 1, .idle_timeout = absl::Seconds(1)},
                               .on_error = [&](const ErrorReport&) { held.Note("the handler"); },
                               .clock = &clock});
    EXPECT_TRUE(team->Do([&held, probe = capture("captures")] {
                      held.Note("work");
                      throw std::runtime_error("boom");
                    })
                    .ok());
    clock.inner.Advance(absl::Seconds(1));  // the worker is made
    Gate idle;
    EXPECT_TRUE(team->Enqueue([&held, probe = capture("captures")] { held.Note("work"); },
                              [&, probe = capture("captures of then")] {
                                held.Note("then");
                                idle.Open();
                              })
                    .ok());
    idle.Wait();
    EXPECT_TRUE(team->Grow(1).ok());
    EXPECT_TRUE(team->Shrink(1).ok());
    Gate busy;
    Gate release;
    EXPECT_TRUE(team->Do([&] {
                      busy.Open();
                      release.Wait();
                    })
                    .ok());
    busy.Wait();
    EXPECT_TRUE(team->Do([probe = capture("dropped captures")] {}).ok());
    EXPECT_EQ(team->QuitNow(), 1);
    release.Open();
  }
  factory.Finish();
  EXPECT_THAT(held.places(),
              testing::UnorderedElementsAre(
                  testing::Pair("captures", 0), testing::Pair("captures of then", 0),
                  testing::Pair("create_worker", 0), testing::Pair("dropped captures", 0),
                  testing::Pair("the clock's RunAt", 0), testing::Pair("the handler", 0),
                  testing::Pair("the worker's Do", 0), testing::Pair("the worker's Quit", 0),
                  testing::Pair("the worker's destructor", 0), testing::Pair("then", 0),
                  testing::Pair("work", 0)));
  EXPECT_GT(tracker.started(), 0);
  EXPECT_EQ(tracker.started_under_lock(), 0);
}

TEST(Interleaving, Hazard3_ASerialWorkerRunsAndDropsNothingUnderALock) {
  std::vector<int> held;
  LockTracker tracker;
  {
    MemoryWorker base = CreateMemoryWorker("base");
    SerialGroup group(*base.worker, {.on_error = [&](const ErrorReport&) {
      held.push_back(LockTracker::Held());
    }});
    SerialWorker worker(group);
    RecordHeld(worker, held);
    EXPECT_EQ(base.performer(), Performed::kRan);
    RecordHeld(worker, held);
    EXPECT_EQ(base.performer.Drop(), 1u);
  }
  // Run: work, captures, handler. Dropped: captures, handler.
  EXPECT_THAT(held, testing::ElementsAre(0, 0, 0, 0, 0));
}

// L6: in the original whoever coordinates starts threads with the lock held.
TEST(Interleaving, L6_NoThreadIsStartedUnderALock) {
  LockTracker tracker;
  {
    NewThreadWorker();
  }
  {
    SteadyClock clock;
    Gate ran;
    EXPECT_TRUE(clock.RunAt(clock.Now(), [&] { ran.Open(); }).ok());
    ran.Wait();
  }
  {
    auto pool = *MakePool({.limits = {.min_workers = 1, .idle_timeout = absl::Hours(1)}});
    EXPECT_TRUE(pool->Grow(1).ok());  // and a timer
  }
  EXPECT_EQ(tracker.started(), 5);
  EXPECT_EQ(tracker.started_under_lock(), 0);
}

}  // namespace
}  // namespace workers
