// The races of serial workers: for every point at which the first thread can be stopped, the second
// runs to its end there.

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/interleaving.h"
#include "workers/internal/sync.h"
#include "workers/memory_worker.h"
#include "workers/serial_worker.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace workers {
namespace {

// One schedule: two threads meet, on serial workers over a base that the test steps. Counts what
// becomes of items, and checks the contract when it is destroyed.
class Meeting {
 public:
  explicit Meeting(int quantum_items = 1) {
    group_.emplace(base_, SerialOptions{.quantum_items = quantum_items,
                                        .quantum_time = absl::InfiniteDuration(),
                                        .on_error = [this](const ErrorReport& report) {
                                          dropped_ += static_cast<int>(report.dropped);
                                        }});
    worker_ = std::make_unique<SerialWorker>(*group_);
  }
  // All accepted items have one outcome, and nothing keeps the base: the group, the workers and
  // their slices are gone.
  ~Meeting() {
    StepToTheEnd();
    worker_ = nullptr;
    group_.reset();
    EXPECT_EQ(accepted_, ran_ + dropped_);
    EXPECT_EQ(destroyed_, submitted_);
    EXPECT_EQ(overlaps_, 0);
    EXPECT_TRUE(in_order_);
    EXPECT_EQ(base_.use_count(), 1);
  }

  // Any thread. `also` runs inside the item.
  absl::Status Submit(std::function<void()> also = [] {}) {
    const int number = submitted_++;
    std::shared_ptr<void> probe(nullptr, [this](void*) { ++destroyed_; });
    Work item = [this, number, also = std::move(also), probe = std::move(probe)] {
      if (inside_.exchange(true)) ++overlaps_;
      if (accepted_in_order_ && number < last_) in_order_ = false;
      last_ = number;
      ++ran_;
      also();
      inside_ = false;
    };
    const absl::Status status = worker_->Do(std::move(item));
    if (status.ok()) ++accepted_;
    EXPECT_EQ(item == nullptr, status.ok());
    return status;
  }
  // Runs one slice. Any thread, one at a time.
  bool Step() { return performer_() == Performed::kRan; }
  void StepToTheEnd() {
    while (Step()) {
    }
  }

  SerialWorker& worker() { return *worker_; }
  std::unique_ptr<SerialWorker>& owner() { return worker_; }
  std::optional<SerialGroup>& group() { return group_; }
  IWorker& base() { return *base_; }
  MemoryPerformer& performer() { return performer_; }
  int accepted() const { return accepted_; }
  int ran() const { return ran_; }
  // Two threads submit, so that numbers are not in the order of acceptance.
  void NumbersAreNotInOrder() { accepted_in_order_ = false; }

 private:
  std::atomic<int> submitted_ = 0;
  std::atomic<int> accepted_ = 0;
  std::atomic<int> ran_ = 0;
  std::atomic<int> dropped_ = 0;
  std::atomic<int> destroyed_ = 0;
  std::atomic<int> overlaps_ = 0;
  std::atomic<bool> inside_ = false;
  bool accepted_in_order_ = true;
  bool in_order_ = true;  // the strand's
  int last_ = -1;         // likewise
  MemoryWorker memory_ = CreateMemoryWorker("base");
  MemoryPerformer performer_ = std::move(memory_.performer);
  std::shared_ptr<IWorker> base_ = std::move(memory_.worker);
  std::optional<SerialGroup> group_;
  std::unique_ptr<SerialWorker> worker_;
};

// Tries every point at which `first` can be stopped for `second`, and then the other way round.
// `prepare` makes the meeting, `check` looks at it when both have ended.
using Action = std::function<void(Meeting&)>;
void ForEachMeeting(
    int quantum_items, const Action& prepare, const Action& a, const Action& b,
    const Action& check = [](Meeting&) {}) {
  for (bool stop_a : {true, false}) {
    int point = 0;
    for (;; ++point) {
      SCOPED_TRACE(testing::Message() << (stop_a ? "the first" : "the second")
                                      << " is stopped at its point " << point);
      Meeting meeting(quantum_items);
      prepare(meeting);
      bool reached;
      {
        Interleaving schedule(point);
        const auto call_a = [&] { a(meeting); };
        const auto call_b = [&] { b(meeting); };
        if (stop_a) {
          schedule.Run(call_a, call_b);
        } else {
          schedule.Run(call_b, call_a);
        }
        reached = schedule.reached();
      }
      check(meeting);
      if (!reached) break;
    }
    EXPECT_GT(point, 0);
  }
}

Action Submits(int count) {
  return [count](Meeting& meeting) {
    for (int i = 0; i < count; ++i) meeting.Submit().IgnoreError();
  };
}
void Steps(Meeting& meeting) { meeting.Step(); }
void StepsToTheEnd(Meeting& meeting) { meeting.StepToTheEnd(); }
void Nothing(Meeting&) {}

TEST(SerialInterleaving, DoAgainstTheEndOfASlice) {
  ForEachMeeting(64, Submits(1), Submits(1), Steps,
                 [](Meeting& meeting) { EXPECT_EQ(meeting.accepted(), 2); });
}

TEST(SerialInterleaving, DoAgainstTheEndOfAQuantum) {
  ForEachMeeting(1, Submits(2), Submits(1), Steps,
                 [](Meeting& meeting) { EXPECT_EQ(meeting.accepted(), 3); });
}

TEST(SerialInterleaving, TwoDos) {
  ForEachMeeting(
      64, [](Meeting& meeting) { meeting.NumbersAreNotInOrder(); }, Submits(1), Submits(1),
      [](Meeting& meeting) { EXPECT_EQ(meeting.accepted(), 2); });
}

// Spare nodes are there, and both threads take of them: no node may have two owners.
TEST(SerialInterleaving, TwoDosThatTakeSpareNodes) {
  ForEachMeeting(
      64,
      [](Meeting& meeting) {
        meeting.NumbersAreNotInOrder();
        Submits(4)(meeting);
        meeting.StepToTheEnd();
      },
      Submits(2), Submits(2), [](Meeting& meeting) { EXPECT_EQ(meeting.accepted(), 8); });
}

// And one of them gives a node back meanwhile, so that the head of a list is the same again (ABA).
TEST(SerialInterleaving, ADoThatTakesASpareNodeAgainstASliceThatGivesSomeBack) {
  ForEachMeeting(
      64,
      [](Meeting& meeting) {
        meeting.NumbersAreNotInOrder();
        Submits(4)(meeting);
        meeting.StepToTheEnd();
        Submits(2)(meeting);
      },
      Submits(2),
      [](Meeting& meeting) {
        meeting.Submit().IgnoreError();
        meeting.StepToTheEnd();
      });
}

TEST(SerialInterleaving, QuitAgainstDo) {
  ForEachMeeting(1, Nothing, Submits(2),
                 [](Meeting& meeting) { EXPECT_TRUE(meeting.worker().Quit().ok()); });
}

TEST(SerialInterleaving, QuitAgainstTheEndOfAQuantum) {
  ForEachMeeting(
      1, Submits(3), Steps, [](Meeting& meeting) { EXPECT_TRUE(meeting.worker().Quit().ok()); },
      [](Meeting& meeting) {
        EXPECT_TRUE(IsAlreadyQuit(meeting.Submit()));
        meeting.StepToTheEnd();
        EXPECT_EQ(meeting.ran(), 3);
      });
}

// The base has quit, so that the end of the quantum closes the worker while it quits.
TEST(SerialInterleaving, QuitAgainstTheEndOfAQuantumThatIsRefused) {
  ForEachMeeting(
      1,
      [](Meeting& meeting) {
        Submits(3)(meeting);
        EXPECT_TRUE(meeting.base().Quit().ok());
      },
      Steps, [](Meeting& meeting) { EXPECT_TRUE(meeting.worker().Quit().ok()); },
      [](Meeting& meeting) {
        EXPECT_EQ(meeting.ran(), 3);
        EXPECT_TRUE(IsAlreadyQuit(meeting.worker().Quit()));
      });
}

TEST(SerialInterleaving, QuitOfTheBaseAgainstDo) {
  ForEachMeeting(1, Nothing, Submits(2),
                 [](Meeting& meeting) { EXPECT_TRUE(meeting.base().Quit().ok()); });
}

TEST(SerialInterleaving, QuitOfTheBaseAgainstTheEndOfAQuantum) {
  ForEachMeeting(
      1, Submits(3), StepsToTheEnd,
      [](Meeting& meeting) { EXPECT_TRUE(meeting.base().Quit().ok()); },
      [](Meeting& meeting) { EXPECT_EQ(meeting.ran(), 3); });
}

// A Do against the slice that learns that the base has quit: it is refused, or its item runs.
TEST(SerialInterleaving, DoAgainstTheEndOfAQuantumThatIsRefused) {
  ForEachMeeting(
      1,
      [](Meeting& meeting) {
        Submits(2)(meeting);
        EXPECT_TRUE(meeting.base().Quit().ok());
      },
      Submits(2), Steps, [](Meeting& meeting) { EXPECT_TRUE(IsAlreadyQuit(meeting.Submit())); });
}

// Two Dos on a base that has quit: the items of the one may be behind the other's.
TEST(SerialInterleaving, TwoDosOnABaseThatHasQuit) {
  ForEachMeeting(
      1,
      [](Meeting& meeting) {
        meeting.NumbersAreNotInOrder();
        EXPECT_TRUE(meeting.base().Quit().ok());
      },
      Submits(1), Submits(2));
}

TEST(SerialInterleaving, ReleaseAgainstTheEndOfASlice) {
  ForEachMeeting(
      64, Submits(2), Steps,
      [](Meeting& meeting) { SerialWorker::Release(std::move(meeting.owner())); },
      [](Meeting& meeting) { EXPECT_EQ(meeting.ran(), 2); });
}

TEST(SerialInterleaving, ReleaseAgainstTheEndOfAQuantum) {
  ForEachMeeting(
      1, Submits(3), StepsToTheEnd,
      [](Meeting& meeting) { SerialWorker::Release(std::move(meeting.owner())); },
      [](Meeting& meeting) {
        meeting.StepToTheEnd();
        EXPECT_EQ(meeting.ran(), 3);
      });
}

TEST(SerialInterleaving, ReleaseAgainstTheEndOfAQuantumThatIsRefused) {
  ForEachMeeting(
      1,
      [](Meeting& meeting) {
        Submits(3)(meeting);
        EXPECT_TRUE(meeting.base().Quit().ok());
      },
      Steps, [](Meeting& meeting) { SerialWorker::Release(std::move(meeting.owner())); },
      [](Meeting& meeting) { EXPECT_EQ(meeting.ran(), 3); });
}

TEST(SerialInterleaving, ReleaseAgainstASliceThatIsDestroyed) {
  ForEachMeeting(
      64, Submits(2), [](Meeting& meeting) { meeting.performer().Drop(); },
      [](Meeting& meeting) { SerialWorker::Release(std::move(meeting.owner())); },
      [](Meeting& meeting) { EXPECT_EQ(meeting.ran(), 0); });
}

TEST(SerialInterleaving, DoAgainstASliceThatIsDestroyed) {
  ForEachMeeting(1, Submits(2), Submits(1), [](Meeting& meeting) { meeting.performer().Drop(); });
}

// The destructor of the worker waits for the slice, which is not to touch it afterwards.
TEST(SerialInterleaving, DestructionAgainstTheEndOfASlice) {
  ForEachMeeting(
      64, Submits(2), Steps, [](Meeting& meeting) { meeting.owner() = nullptr; },
      [](Meeting& meeting) { EXPECT_EQ(meeting.ran(), 2); });
}

TEST(SerialInterleaving, DestructionAgainstTheEndOfAQuantum) {
  ForEachMeeting(
      1, Submits(3), StepsToTheEnd, [](Meeting& meeting) { meeting.owner() = nullptr; },
      [](Meeting& meeting) { EXPECT_EQ(meeting.ran(), 3); });
}

// The group goes first, so that the last reference to it and to the base is the worker's or the
// slice's.
TEST(SerialInterleaving, ReleaseOfTheLastOwnerAgainstTheEndOfASlice) {
  ForEachMeeting(
      1,
      [](Meeting& meeting) {
        Submits(2)(meeting);
        meeting.group().reset();
      },
      StepsToTheEnd, [](Meeting& meeting) { SerialWorker::Release(std::move(meeting.owner())); });
}

TEST(SerialInterleaving, DestructionOfTheLastOwnerAgainstTheEndOfASlice) {
  ForEachMeeting(
      1,
      [](Meeting& meeting) {
        Submits(2)(meeting);
        meeting.group().reset();
      },
      StepsToTheEnd, [](Meeting& meeting) { meeting.owner() = nullptr; });
}

TEST(SerialInterleaving, DestructionOfTheGroupAgainstASlice) {
  ForEachMeeting(1, Submits(3), StepsToTheEnd, [](Meeting& meeting) { meeting.group().reset(); });
}

// An item that destroys its worker against the other references.
TEST(SerialInterleaving, AnOrphanedSliceAgainstTheDestructionOfTheGroup) {
  ForEachMeeting(
      1,
      [](Meeting& meeting) {
        meeting.Submit([&meeting] { meeting.owner() = nullptr; }).IgnoreError();
        Submits(3)(meeting);
      },
      StepsToTheEnd, [](Meeting& meeting) { meeting.group().reset(); },
      [](Meeting& meeting) {
        meeting.StepToTheEnd();
        EXPECT_EQ(meeting.ran(), 4);
      });
}

// A group that does not own its base, and goes while a slice submits the next one: the slice has
// seen the group, or has not, and loses nothing.
TEST(SerialInterleaving, DestructionOfAGroupThatDoesNotOwnItsBaseAgainstASlice) {
  for (bool stop_slices : {true, false}) {
    for (int point = 0;; ++point) {
      SCOPED_TRACE(point);
      MemoryWorker base = CreateMemoryWorker("base");
      std::optional<SerialGroup> group;
      group.emplace(*base.worker, SerialOptions{.quantum_items = 1});
      SerialWorker worker(*group);
      int ran = 0;
      for (int i = 0; i < 3; ++i) ASSERT_TRUE(worker.Do([&] { ++ran; }).ok());
      bool reached;
      {
        Interleaving schedule(point);
        const auto step = [&] {
          while (base.performer() == Performed::kRan) {
          }
        };
        const auto destroy = [&] { group.reset(); };
        if (stop_slices) {
          schedule.Run(step, destroy);
        } else {
          schedule.Run(destroy, step);
        }
        reached = schedule.reached();
      }
      EXPECT_EQ(ran, 3);
      EXPECT_TRUE(IsAlreadyQuit(worker.Do([] {})));
      if (!reached) break;
    }
  }
}

// A full base that has room again, against a Do: refused for the time being, or accepted, and never
// closed.
TEST(SerialInterleaving, DoAgainstASliceOfAFullBase) {
  class Full final : public IWorker {
   public:
    absl::Status Do(Work&& work) override {
      if (calls_.fetch_add(1) == 1) return absl::ResourceExhaustedError("full");
      return memory_.worker->Do(std::move(work));
    }
    absl::Status Quit() override { return absl::OkStatus(); }
    bool Step() { return memory_.performer() == Performed::kRan; }

   private:
    internal::Atomic<int> calls_ = 0;
    MemoryWorker memory_ = CreateMemoryWorker("base");
  };
  for (bool stop_do : {true, false}) {
    for (int point = 0;; ++point) {
      SCOPED_TRACE(point);
      Full base;
      SerialGroup group(base, {.quantum_items = 1, .quantum_time = absl::InfiniteDuration()});
      SerialWorker worker(group);
      int ran = 0;
      for (int i = 0; i < 3; ++i) ASSERT_TRUE(worker.Do([&] { ++ran; }).ok());
      absl::Status status;
      bool reached;
      {
        Interleaving schedule(point);
        const auto submit = [&] { status = worker.Do([&] { ++ran; }); };
        const auto step = [&] {
          while (base.Step()) {
          }
        };
        if (stop_do) {
          schedule.Run(submit, step);
        } else {
          schedule.Run(step, submit);
        }
        reached = schedule.reached();
      }
      while (base.Step()) {
      }
      EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
      EXPECT_EQ(ran, status.ok() ? 4 : 3);
      EXPECT_TRUE(worker.Do([] {}).ok());
      while (base.Step()) {
      }
      if (!reached) break;
    }
  }
}

// On a thread, which runs freely meanwhile.
TEST(SerialInterleaving, ReleaseAgainstTheDestructionOfTheGroupOnAThread) {
  for (bool stop_release : {true, false}) {
    for (int point = 0;; ++point) {
      SCOPED_TRACE(point);
      std::atomic<int> ran = 0;
      bool reached;
      {
        auto base = *ThreadWorker::Create();
        auto group = std::make_unique<SerialGroup>(*base, SerialOptions{.quantum_items = 1});
        auto worker = std::make_unique<SerialWorker>(*group);
        for (int i = 0; i < 3; ++i) ASSERT_TRUE(worker->Do([&] { ++ran; }).ok());
        Interleaving schedule(point);
        const auto release = [&] { SerialWorker::Release(std::move(worker)); };
        const auto destroy = [&] { group = nullptr; };
        if (stop_release) {
          schedule.Run(release, destroy);
        } else {
          schedule.Run(destroy, release);
        }
        reached = schedule.reached();
        EXPECT_TRUE(base->Quit().ok());
        EXPECT_TRUE(base->Join().ok());  // its thread ends before the schedule does
      }
      EXPECT_EQ(ran, 3);
      if (!reached) break;
    }
  }
}

}  // namespace
}  // namespace workers
