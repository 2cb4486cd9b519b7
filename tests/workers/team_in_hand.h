// A Team of MemoryWorkers that a test steps by hand, with doubles for its coordinator and clock.

#ifndef TESTS_WORKERS_TEAM_IN_HAND_H_
#define TESTS_WORKERS_TEAM_IN_HAND_H_

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
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
#include "workers/blocking_scope.h"
#include "workers/clock.h"
#include "workers/lock_worker.h"
#include "workers/memory_worker.h"
#include "workers/pool.h"
#include "workers/team.h"
#include "workers/testing/counting_thread_factory.h"
#include "workers/testing/gate.h"
#include "workers/testing/manual_clock.h"
#include "workers/thread_worker.h"
#include "workers/work_handle.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace workers {
using test::CountingThreadFactory;
using test::Gate;
using test::ManualClock;

using Made = absl::StatusOr<std::unique_ptr<IWorker>>;

// Calls `f` when it is destroyed, however often it was moved before.
template <typename F>
auto OnDestruction(F f) {
  struct Caller {
    F f;
    explicit Caller(F f) : f(std::move(f)) {}
    ~Caller() { f(); }
  };
  return std::make_unique<Caller>(std::move(f));
}

// Expects of a snapshot what is true of every one.
inline void ExpectConsistent(const TeamStatistics& s) {
  EXPECT_EQ(s.idle + s.busy + s.starting + s.ending, s.live);
  EXPECT_LE(s.blocked, s.busy);
  EXPECT_GE(s.idle, 0);
  EXPECT_GE(s.busy, 0);
  EXPECT_GE(s.starting, 0);
  EXPECT_GE(s.ending, 0);
  EXPECT_GE(s.blocked, 0);
  EXPECT_GE(s.accepted, s.completed + s.failed + s.dropped + s.backlogged);
}

// A Team of MemoryWorkers that a test holds in its hands, with the coordinator and the time.
class TeamInHand : public testing::Test {
 protected:
  static constexpr size_t kManySteps = 1'000'000;

  void TearDown() override { End(); }
  // Called by a test whose Team refers to what the test has on its stack.
  void End() {
    if (team_ != nullptr) team_->Quit().IgnoreError();
    StepToTheEnd();
    team_ = nullptr;
    create_ = nullptr;
  }

  void Make(TeamLimits limits = {}) { MakeWith(std::move(limits), &clock_); }
  void MakeWith(TeamLimits limits, Clock* clock) {
    MemoryWorker coordinator = CreateMemoryWorker("coordinator");
    coordinator_.emplace(std::move(coordinator.performer));
    MakeWith(std::move(coordinator.worker), std::move(limits), clock);
  }
  void MakeWith(std::unique_ptr<IExclusiveWorker> coordinator, TeamLimits limits, Clock* clock) {
    auto team = Team::Create({.coordinator = std::move(coordinator),
                              .create_worker = [this] { return create_(); },
                              .limits = std::move(limits),
                              .on_error = record_,
                              .clock = clock,
                              .throttle_wakeups = throttle_wakeups_});
    ASSERT_TRUE(team.ok()) << team.status();
    team_ = *std::move(team);
  }
  // With a coordinator that is not stepped: what is decided, is decided at once.
  void MakeInline(TeamLimits limits = {}) {
    MakeWith(std::make_unique<LockWorker>(), std::move(limits), &clock_);
  }
  // Changes the soft limit of a team that there is already.
  void SetSoftLimit(int limit) {
    soft_limit_ = limit;
    team_->SetSize(0, limit).IgnoreError();  // AlreadyQuit
  }
  TeamLimits Soft() {
    TeamLimits limits;
    limits.soft_limit = soft_limit_;
    return limits;
  }

  // The newest worker is workers_.back().
  Made CreateMemory() {
    MemoryWorker worker = CreateMemoryWorker("worker");
    workers_.emplace_back(std::move(worker.performer));
    return std::move(worker.worker);
  }
  // Until `most` were made.
  Made CreateUpTo(size_t most) {
    if (workers_.size() >= most) return nullptr;
    return CreateMemory();
  }
  int made() const { return static_cast<int>(workers_.size()); }

  Work Logging(std::string entry) {
    return [this, entry = std::move(entry)] { log_.push_back(entry); };
  }
  void Give(std::string entry) { ASSERT_TRUE(team_->Do(Logging(std::move(entry))).ok()); }
  void Give(int count) {
    for (int i = 0; i < count; ++i) Give(std::to_string(i));
  }

  // Steps the coordinator until it has nothing to do.
  void Coordinate() {
    for (size_t step = 0; (*coordinator_)() == Performed::kRan; ++step) {
      ASSERT_LT(step, kManySteps) << "the coordinator goes round for ever";
      if (team_ != nullptr) ExpectConsistent(team_->statistics());
    }
  }
  // One work of a worker, and what the coordinator makes of it.
  void Step(int worker) {
    EXPECT_EQ((*workers_[worker])(), Performed::kRan);
    if (coordinator_.has_value()) Coordinate();
  }
  // Of all workers there are, one after another.
  void StepEach() {
    const int count = made();
    for (int i = 0; i < count; ++i) {
      if (queued(i) > 0) Step(i);
    }
  }
  void StepToTheEnd() {
    for (size_t step = 0, ran = 1; ran > 0; ++step) {
      ASSERT_LT(step, kManySteps) << "there is no end";
      ran = 0;
      if (coordinator_.has_value() && (*coordinator_)() == Performed::kRan) ++ran;
      for (size_t i = 0; i < workers_.size(); ++i) {
        if (workers_[i].has_value() && (*workers_[i])() == Performed::kRan) ++ran;
      }
    }
  }
  size_t queued(int worker) const {
    return workers_[worker].has_value() ? workers_[worker]->queued() : 0;
  }
  // How many have done their last work, quit and gone.
  int ended() {
    int count = 0;
    for (std::optional<MemoryPerformer>& worker : workers_) {
      if (worker.has_value() && worker->queued() == 0 && (*worker)() == Performed::kFinished) {
        ++count;
      }
    }
    return count;
  }
  void Advance(absl::Duration by) {
    clock_.Advance(by);
    Coordinate();
  }
  TeamStatistics statistics() const {
    const TeamStatistics statistics = team_->statistics();
    ExpectConsistent(statistics);
    return statistics;
  }

  std::vector<std::string> log_;
  std::vector<std::string> errors_;
  ErrorHandler record_ = [this](const ErrorReport& report) {
    EXPECT_FALSE(report.status.ok());
    errors_.push_back(std::string(report.worker) + ": " + std::string(report.status.message()) +
                      " " + std::to_string(report.dropped));
  };
  int soft_limit_ = 1;
  bool throttle_wakeups_ = false;
  std::function<Made()> create_ = [this] { return CreateMemory(); };
  ManualClock clock_;
  std::deque<std::optional<MemoryPerformer>> workers_;  // in the order in which they were made
  std::optional<MemoryPerformer> coordinator_;
  std::unique_ptr<Team> team_;
};

// A coordinator that holds one Do back at a gate, and counts Quits.
class GatedCoordinator final : public IExclusiveWorker {
 public:
  absl::Status Do(Work&& work) override {
    if (hold_next.exchange(false)) {
      held.Open();
      release.Wait();
    }
    return inner_.Do([this, &work] {  // before this Do returns
      WorkerScope scope(*this);
      std::move(work)();
      work = nullptr;
    });
  }
  absl::Status Quit() override {
    ++quits;
    return inner_.Quit();
  }

  std::atomic<bool> hold_next = false;
  Gate held;
  Gate release;
  std::atomic<int> quits = 0;

 private:
  LockWorker inner_;
};

// A clock that cannot take works, for a time.
class RefusingClock final : public Clock {
 public:
  absl::Duration Now() const override { return inner.Now(); }
  absl::Status RunAt(absl::Duration when, Work&& work) override {
    if (refuse) return absl::ResourceExhaustedError("no thread for the timer");
    return inner.RunAt(when, std::move(work));
  }
  ManualClock inner;
  bool refuse = true;
};

// A coordinator of which a test decides what it does.
class CoordinatorInHand final : public IExclusiveWorker {
 public:
  explicit CoordinatorInHand(std::function<absl::Status(Work&&)> f) : do_(std::move(f)) {}
  absl::Status Do(Work&& work) override { return do_(std::move(work)); }
  absl::Status Quit() override { return absl::OkStatus(); }

 private:
  const std::function<absl::Status(Work&&)> do_;
};

// A clock that takes nothing.
class DeafClock final : public Clock {
 public:
  absl::Duration Now() const override { return absl::ZeroDuration(); }
  absl::Status RunAt(absl::Duration, Work&&) override { return absl::UnavailableError("deaf"); }
};

}  // namespace workers

#endif  // TESTS_WORKERS_TEAM_IN_HAND_H_
