// What a Team decides, without threads: the rule "no decision needed, therefore no effects" for all
// short sequences of facts, and single rules.

#include "workers/internal/team_plan.h"

#include <deque>
#include <limits>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "workers/internal/creation_slots.h"
#include "workers/internal/idle_list.h"
#include "workers/team_options.h"

namespace workers::internal {
namespace {

// A plan with the rest of a team: whoever performs the effects, and workers.
class Model {
 public:
  Model(const TeamLimits& limits, bool throttle) : limits_(limits), plan_(limits, true, throttle) {}

  TeamPlan& plan() { return plan_; }
  bool NeedsDecision() const { return plan_.NeedsDecision(waking_ != nullptr); }

  // Each is one fact. False: it is not possible now.
  bool Apply(char fact) {
    switch (fact) {
      case 'A':
        if (plan_.has_quit()) return false;
        plan_.Accepted();
        return true;
      case 'F':  // the worker that has been busy longest finishes
        if (busy_.empty()) return false;
        Finish();
        return true;
      case 'W':  // the worker that was woken begins
        if (waking_ == nullptr) return false;
        waking_ = nullptr;
        return true;
      case 'C':
        if (slots_ == 0) return false;
        workers_.emplace_back();
        plan_.Created(TakeSlot(), workers_.back(), now_);
        return true;
      case 'X':
        if (slots_ == 0) return false;
        plan_.CreationFailed(TakeSlot(), TeamPlan::Failure::kError, now_);
        return true;
      case 'E':
        if (retiring_ == 0) return false;
        --retiring_;
        plan_.WorkerEnded();
        return true;
      case 'R':  // a worker refuses the item that it was given
        if (busy_.empty()) return false;
        if (waking_ == busy_.back()) waking_ = nullptr;
        plan_.WorkerRefused(*busy_.back(), now_);
        busy_.pop_back();
        return true;
      case 'w':
        if (plan_.statistics().backlogged == 0) return false;
        plan_.Withdrawn();
        return true;
      case 'G':
        plan_.Grow(1);
        return true;
      case 'S':
        plan_.Shrink(1);
        return true;
      case 'Z':
        plan_.SetSize(1, 1);
        return true;
      case 'B':
        if (plan_.statistics().blocked >= plan_.statistics().busy) return false;
        plan_.Blocked(1);
        return true;
      case 'T': {  // the earliest timer fires
        if (timers_.empty()) return false;
        size_t earliest = 0;
        for (size_t i = 1; i < timers_.size(); ++i) {
          if (timers_[i].when < timers_[earliest].when) earliest = i;
        }
        const Timer timer = timers_[earliest];
        timers_.erase(timers_.begin() + static_cast<std::ptrdiff_t>(earliest));
        if (timer.when > now_) now_ = timer.when;
        plan_.TimerFired(timer.id, now_);
        return true;
      }
      case 'Q':
        if (plan_.has_quit()) return false;
        plan_.Quit();
        return true;
      case 'D':
        return !Decide().empty();
    }
    return false;
  }

  TeamEffects Decide() {
    TeamEffects effects;
    const int64_t backlogged = plan_.statistics().backlogged;
    plan_.Decide(now_, waking_ != nullptr, effects);
    int64_t runs = 0;
    for (PlannedWorker* worker = effects.run; worker != nullptr; worker = worker->next, ++runs) {
      busy_.push_back(worker);
      waking_ = worker;
    }
    EXPECT_LE(runs, backlogged);
    for (PlannedWorker* at = effects.retire; at != nullptr; at = at->next) ++retiring_;
    EXPECT_EQ(slots_ & effects.create, 0u);
    slots_ |= effects.create;
    if (effects.arm_id != 0) timers_.push_back({effects.arm_id, effects.arm_at});
    if (effects.end) ended_ = true;
    return effects;
  }

  void Check() const {
    const TeamStatistics& s = plan_.statistics();
    EXPECT_EQ(s.idle + s.busy + s.starting + s.ending, s.live);
    EXPECT_EQ(s.busy, static_cast<int>(busy_.size()));
    EXPECT_EQ(s.ending, retiring_);
    EXPECT_LE(s.live, limits_.hard_limit);
    EXPECT_GE(s.idle, 0);
    EXPECT_GE(s.backlogged, 0);
    if (!ended_) return;
    EXPECT_EQ(s.live, 0);
    EXPECT_EQ(s.backlogged, 0);
    EXPECT_EQ(slots_, 0u);
  }

  int pending_timers() const { return static_cast<int>(timers_.size()); }
  absl::Duration now() const { return now_; }

 private:
  struct Timer {
    int64_t id;
    absl::Duration when;
  };
  int TakeSlot() {
    int slot = 0;
    while ((slots_ >> slot & 1) == 0) ++slot;
    slots_ &= ~(uint32_t{1} << slot);
    return slot;
  }
  void Finish() {
    PlannedWorker& worker = *busy_.front();
    if (plan_.statistics().blocked == static_cast<int>(busy_.size())) plan_.Blocked(-1);
    if (waking_ == &worker) waking_ = nullptr;
    if (plan_.Finished(worker, &TeamStatistics::completed, now_, true)) return;
    busy_.pop_front();
  }

  const TeamLimits limits_;
  TeamPlan plan_;
  std::deque<PlannedWorker> workers_;
  std::deque<PlannedWorker*> busy_;
  PlannedWorker* waking_ = nullptr;
  uint32_t slots_ = 0;
  int retiring_ = 0;
  bool ended_ = false;
  std::vector<Timer> timers_;
  absl::Duration now_ = absl::Seconds(100);
};

// Runs all sequences of at most `depth` facts, each from the beginning.
void EnumerateFrom(const TeamLimits& limits, bool throttle, std::string& facts, int depth,
                   int64_t& states) {
  for (const char fact : std::string("AFWCXERwGSZBTQD")) {
    facts.push_back(fact);
    Model model(limits, throttle);
    bool possible = true;
    for (const char one : facts) possible = possible && model.Apply(one);
    if (possible) {
      ++states;
      model.Check();
      if (!model.NeedsDecision()) {
        EXPECT_TRUE(model.Decide().empty()) << facts;
        model.Check();
      }
      if (depth > 1 && !testing::Test::HasFailure()) {
        EnumerateFrom(limits, throttle, facts, depth - 1, states);
      }
    }
    facts.pop_back();
  }
}

TEST(TeamPlan, WhereNoDecisionIsNeededADecisionHasNoEffects) {
  TeamLimits plain;
  TeamLimits soft;
  soft.soft_limit = 1;
  TeamLimits kept;
  kept.min_workers = 1;
  kept.soft_limit = 2;
  kept.hard_limit = 2;
  TeamLimits timed;
  timed.soft_limit = 1;
  timed.growth_per_second = 1;
  timed.idle_timeout = absl::Seconds(10);
  timed.stall_warning = absl::Seconds(5);
  for (const TeamLimits& limits : {plain, soft, kept, timed}) {
    for (const bool throttle : {false, true}) {
      std::string facts;
      int64_t states = 0;
      EnumerateFrom(limits, throttle, facts, 6, states);
      EXPECT_GT(states, 10'000);
    }
  }
}

TEST(TeamPlan, EachRunOfFactsEnds) {
  TeamLimits limits;
  limits.soft_limit = 2;
  for (const bool throttle : {false, true}) {
    Model model(limits, throttle);
    for (const char fact : std::string("AAADGSASZ")) model.Apply(fact);
    model.Apply('Q');
    for (int step = 0; step < 1000 && !model.plan().has_quit(); ++step) model.Apply('D');
    for (int step = 0; step < 1000; ++step) {
      for (const char fact : std::string("DCWFE")) model.Apply(fact);
    }
    EXPECT_EQ(model.plan().statistics().live, 0);
    EXPECT_EQ(model.plan().statistics().backlogged, 0);
    EXPECT_EQ(model.plan().statistics().completed, 4);
  }
}

// FAULTS A9: facts that one decision sees together come to what they come to one by one.
TEST(TeamPlan, ItemsAfterAGrowUseItsWorkers) {
  Model model(TeamLimits(), false);
  model.Decide();
  model.plan().Grow(10);
  for (int i = 0; i < 5; ++i) model.Apply('A');
  model.Decide();
  EXPECT_EQ(model.plan().statistics().starting, 10);
}

TEST(TeamPlan, ItemsBeforeAGrowHaveWorkersOfTheirOwn) {
  Model model(TeamLimits(), false);
  model.Decide();
  for (int i = 0; i < 5; ++i) model.Apply('A');
  model.plan().Grow(3);
  model.Decide();
  EXPECT_EQ(model.plan().statistics().starting, 8);
}

TEST(TeamPlan, GrowCountsForItemsThatWait) {
  TeamLimits limits;
  limits.soft_limit = 0;
  Model model(limits, false);
  for (int i = 0; i < 5; ++i) model.Apply('A');
  model.Decide();
  EXPECT_EQ(model.plan().statistics().starting, 0);
  model.plan().Grow(5);
  model.Decide();
  EXPECT_EQ(model.plan().statistics().starting, 5);
}

// FAULTS A8: a mark goes with what it marks.
TEST(TeamPlan, AFailedCreationTakesItsOwnMark) {
  Model model(TeamLimits(), false);
  model.plan().Grow(2);
  model.Decide();
  model.plan().Shrink(1);  // marks the newer one
  model.Decide();
  model.plan().CreationFailed(1, TeamPlan::Failure::kError, model.now());
  PlannedWorker worker;
  model.plan().Created(0, worker, model.now());
  TeamEffects effects;
  model.plan().Decide(model.now(), false, effects);
  EXPECT_EQ(effects.retire, nullptr);
  EXPECT_EQ(model.plan().statistics().idle, 1);
}

TEST(TeamPlan, ARefusalTakesAMarkWithIt) {
  Model model(TeamLimits(), false);
  for (const char fact : std::string("DAADCCD")) model.Apply(fact);
  ASSERT_EQ(model.plan().statistics().busy, 2);
  model.plan().Shrink(1);
  model.Decide();
  model.Apply('R');
  model.Apply('w');
  model.Apply('F');
  model.Decide();
  EXPECT_EQ(model.plan().statistics().ending, 0);
  EXPECT_EQ(model.plan().statistics().idle, 1);
}

// FAULTS A4: after a failure one creation at a time is tried, until one works.
TEST(TeamPlan, AfterAFailureOneCreationIsTriedAtATime) {
  Model model(TeamLimits(), false);
  for (int i = 0; i < 500; ++i) model.Apply('A');
  model.Decide();
  int tries = model.plan().statistics().starting;
  EXPECT_EQ(tries, CreationSlots::kMax);
  while (model.plan().statistics().starting > 0) model.Apply('X');
  for (int i = 0; i < 500; ++i) {
    model.Apply('A');
    if (!model.NeedsDecision()) continue;
    model.Decide();
    tries += model.plan().statistics().starting;
    EXPECT_LE(model.plan().statistics().starting, 1);
    model.Apply('X');
  }
  EXPECT_LE(tries, CreationSlots::kMax + 1);
  model.Apply('T');
  model.Decide();
  EXPECT_EQ(model.plan().statistics().starting, 1);
  model.Apply('C');
  model.Decide();
  EXPECT_EQ(model.plan().statistics().starting, CreationSlots::kMax);
}

// Without a worker, Quit during the pause after a failure has one creation more, which decides
// whether the accepted items run.
TEST(TeamPlan, QuitWhileCreationIsHeldTriesOnceMore) {
  for (const char outcome : {'C', 'X'}) {
    Model model(TeamLimits(), false);
    for (const char fact : std::string("ADXD")) model.Apply(fact);
    ASSERT_EQ(model.plan().statistics().live, 0);
    model.Apply('Q');
    model.Decide();
    EXPECT_EQ(model.plan().statistics().starting, 1);
    EXPECT_EQ(model.plan().statistics().backlogged, 1);
    model.Apply(outcome);
    model.Decide();
    model.Check();
    EXPECT_EQ(model.plan().statistics().busy, outcome == 'C' ? 1 : 0);
    EXPECT_EQ(model.plan().statistics().dropped, outcome == 'C' ? 0 : 1);
  }
}

// FAULTS A1: an arming has an identity; they do not pile up.
TEST(TeamPlan, AStaleTimerIsIgnoredAndTimersDoNotPileUp) {
  TeamLimits limits;
  limits.idle_timeout = absl::Hours(1);
  Model model(limits, false);
  for (int i = 0; i < 1000; ++i) {
    model.Apply('A');
    model.Decide();
    model.Apply('X');
    model.Decide();
    if (i % 2 == 0) model.Apply('T');
    model.Decide();
    model.Apply('C');
    model.Decide();
    model.Apply('F');
    model.Decide();
    EXPECT_LE(model.pending_timers(), 4);
  }
  model.plan().TimerFired(123456, model.now());
  EXPECT_FALSE(model.NeedsDecision());
}

// FAULTS A6: creations that fail do not hide a stall.
TEST(TeamPlan, AStallIsReportedOnceWhereCreationsFail) {
  TeamLimits limits;
  limits.stall_warning = absl::Seconds(5);
  Model model(limits, false);
  for (const char fact : std::string("DADCDBA")) model.Apply(fact);
  int reports = 0;
  for (int i = 0; i < 200; ++i) {
    reports += model.Decide().report_stall;
    model.Apply('X');
    reports += model.Decide().report_stall;
    model.Apply('T');
  }
  EXPECT_GT(model.now(), absl::Seconds(106));
  EXPECT_EQ(reports, 1);
}

}  // namespace
}  // namespace workers::internal
