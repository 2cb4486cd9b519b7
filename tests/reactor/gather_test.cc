#include "reactor/gather.h"

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "reactor/coroutine.h"
#include "reactor/deferred.h"
#include "reactor/failure.h"
#include "workers/context.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace reactor {
namespace {

using workers::Context;
using workers::ContextScope;
using workers::ErrorHandler;
using workers::ErrorReport;

template <typename T>
struct Got {
  int times = 0;
  std::optional<Result<T>> result;

  absl::StatusCode code() const {
    return result.has_value() ? result->status().code() : static_cast<absl::StatusCode>(-1);
  }
};

template <typename T>
std::shared_ptr<Got<T>> Keep(Deferred<T> deferred) {
  auto got = std::make_shared<Got<T>>();
  std::move(deferred)
      .AddBoth([got](Result<T> result) {
        ++got->times;
        got->result.emplace(std::move(result));
      })
      .Detach();
  return got;
}

// Some Deferreds, their Promises, and how often each was cancelled.
template <typename T>
class Several {
 public:
  explicit Several(int count) : cancelled(count) {
    for (int i = 0; i < count; ++i) {
      auto made = MakeDeferred<T>([this, i](Promise<T>&) { ++cancelled[i]; });
      deferreds.push_back(std::move(made.first));
      promises.push_back(std::move(made.second));
    }
  }

  std::vector<int> cancelled;
  std::vector<Deferred<T>> deferreds;
  std::vector<Promise<T>> promises;
};

class GatherTest : public testing::Test {
 protected:
  GatherTest()
      : scope_(Context().With(kFailureHandler, ErrorHandler([this](const ErrorReport& report) {
                                reported_.push_back(report.status);
                              }))) {}
  ~GatherTest() override { EXPECT_EQ(reported_.size(), expected_reports_); }

  std::vector<absl::Status> reported_;
  size_t expected_reports_ = 0;
  ContextScope scope_;
};

// --- DeferredList ---------------------------------------------------------------------------

TEST_F(GatherTest, AListHasWhatBecameOfEachInOrder) {
  Several<int> several(3);
  auto got = Keep(DeferredList(std::move(several.deferreds)));
  EXPECT_TRUE(several.promises[2].Callback(3).ok());
  EXPECT_TRUE(several.promises[0].Callback(1).ok());
  EXPECT_EQ(got->times, 0);
  EXPECT_TRUE(several.promises[1].Errback(absl::NotFoundError("no")).ok());
  EXPECT_EQ(got->times, 1);
  const auto& list = got->result->value();
  EXPECT_EQ(list.results[0].value(), 1);
  EXPECT_EQ(list.results[1].status(), absl::NotFoundError("no"));
  EXPECT_EQ(list.results[2].value(), 3);
  EXPECT_EQ(list.first, std::nullopt);
}

TEST_F(GatherTest, AListOfWhatHasFiredFiresAtOnce) {
  std::vector<Deferred<int>> deferreds;
  deferreds.push_back(Succeed(1));
  deferreds.push_back(Fail<int>(absl::NotFoundError("no")));
  auto got = Keep(DeferredList(std::move(deferreds)));
  EXPECT_EQ(got->result->value().results[0].value(), 1);
  EXPECT_FALSE(got->result->value().results[1].ok());
}

TEST_F(GatherTest, AListOfVoidAndOfMoveOnlyValues) {
  Several<void> voids(1);
  auto got_voids = Keep(DeferredList(std::move(voids.deferreds)));
  EXPECT_TRUE(voids.promises[0].Callback().ok());
  EXPECT_TRUE(got_voids->result->value().results[0].ok());
  Several<std::unique_ptr<int>> pointers(1);
  auto got_pointers = Keep(DeferredList(std::move(pointers.deferreds)));
  EXPECT_TRUE(pointers.promises[0].Callback(std::make_unique<int>(4)).ok());
  EXPECT_EQ(*got_pointers->result->value().results[0].value(), 4);
}

TEST_F(GatherTest, D4_AListOfNothingFiresAtOnce) {
  auto got = Keep(DeferredList(std::vector<Deferred<int>>()));
  EXPECT_EQ(got->times, 1);
  EXPECT_TRUE(got->result->value().results.empty());
  auto errback = Keep(DeferredList(std::vector<Deferred<int>>(), {.fire_on_one_errback = true}));
  EXPECT_TRUE(errback->result->ok());
}

TEST_F(GatherTest, D4_AListOfNothingThatFiresOnOneCallbackIsInvalidArgument) {
  auto got = Keep(DeferredList(std::vector<Deferred<int>>(), {.fire_on_one_callback = true}));
  EXPECT_EQ(got->code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GatherTest, FireOnOneCallbackFiresWithTheFirstSuccessAndCancelsTheOthers) {
  Several<int> several(3);
  auto got = Keep(DeferredList(std::move(several.deferreds), {.fire_on_one_callback = true}));
  EXPECT_TRUE(several.promises[0].Errback(absl::NotFoundError("no")).ok());
  EXPECT_EQ(got->times, 0);
  EXPECT_TRUE(several.promises[1].Callback(2).ok());
  EXPECT_EQ(got->times, 1);
  const auto& list = got->result->value();
  EXPECT_EQ(list.first, 1u);
  EXPECT_EQ(list.results[0].status(), absl::NotFoundError("no"));
  EXPECT_EQ(list.results[1].value(), 2);
  EXPECT_TRUE(absl::IsCancelled(list.results[2].status()));
  EXPECT_EQ(several.cancelled, (std::vector<int>{0, 0, 1}));
}

TEST_F(GatherTest, FireOnOneCallbackWithoutASuccessIsTheListOfFailures) {
  Several<int> several(2);
  auto got = Keep(DeferredList(std::move(several.deferreds), {.fire_on_one_callback = true}));
  EXPECT_TRUE(several.promises[0].Errback(absl::NotFoundError("a")).ok());
  EXPECT_TRUE(several.promises[1].Errback(absl::NotFoundError("b")).ok());
  EXPECT_EQ(got->result->value().first, std::nullopt);
  EXPECT_EQ(got->result->value().results[1].status(), absl::NotFoundError("b"));
}

TEST_F(GatherTest, FireOnOneErrbackFailsWithFirstErrorAndCancelsTheOthers) {
  Several<int> several(3);
  auto got = Keep(DeferredList(std::move(several.deferreds), {.fire_on_one_errback = true}));
  EXPECT_TRUE(several.promises[0].Callback(1).ok());
  EXPECT_TRUE(several.promises[1].Errback(absl::NotFoundError("no")).ok());
  ASSERT_FALSE(got->result->ok());
  const FirstError* error = FirstError::From(got->result->failure());
  ASSERT_NE(error, nullptr);
  EXPECT_EQ(error->index(), 1u);
  EXPECT_EQ(error->failure().status(), absl::NotFoundError("no"));
  EXPECT_EQ(got->result->status(), absl::NotFoundError("Deferred 1 failed first: no"));
  EXPECT_EQ(several.cancelled, (std::vector<int>{0, 0, 1}));
}

TEST_F(GatherTest, WithoutConsumeErrorsFailuresAreReportedToo) {
  expected_reports_ = 1;
  Several<int> several(2);
  auto got = Keep(DeferredList(std::move(several.deferreds), {.consume_errors = false}));
  EXPECT_TRUE(several.promises[0].Errback(absl::NotFoundError("no")).ok());
  EXPECT_TRUE(several.promises[1].Callback(2).ok());
  EXPECT_FALSE(got->result->value().results[0].ok());
  ASSERT_EQ(reported_.size(), 1u);
  EXPECT_EQ(reported_[0], absl::NotFoundError("no"));
}

TEST_F(GatherTest, CancelCancelsAllThatHaveNotFired) {
  Several<int> several(3);
  auto list = DeferredList(std::move(several.deferreds));
  EXPECT_TRUE(several.promises[1].Callback(1).ok());
  list.Cancel();
  list.Cancel();
  EXPECT_EQ(several.cancelled, (std::vector<int>{1, 0, 1}));
  EXPECT_EQ(Keep(std::move(list))->code(), absl::StatusCode::kCancelled);
}

TEST_F(GatherTest, CancelInACallbackDoesTheSame) {
  Several<int> several(2);
  auto list = DeferredList(std::move(several.deferreds));
  Succeed().AddCallback([&] { list.Cancel(); }).Detach();
  EXPECT_EQ(several.cancelled, (std::vector<int>{1, 1}));
  EXPECT_EQ(Keep(std::move(list))->code(), absl::StatusCode::kCancelled);
}

TEST_F(GatherTest, ACancellerThatThrowsStopsNoOther) {
  expected_reports_ = 1;
  Several<int> several(2);
  std::vector<Deferred<int>> deferreds;
  auto throwing = MakeDeferred<int>([](Promise<int>&) { throw std::runtime_error("boom"); });
  deferreds.push_back(std::move(several.deferreds[0]));
  deferreds.push_back(std::move(throwing.first));
  deferreds.push_back(std::move(several.deferreds[1]));
  auto list = DeferredList(std::move(deferreds));
  list.Cancel();
  EXPECT_EQ(several.cancelled, (std::vector<int>{1, 1}));
  EXPECT_EQ(Keep(std::move(list))->code(), absl::StatusCode::kCancelled);
}

TEST_F(GatherTest, CancelOfOneThatHasFiredDoesNothing) {
  Several<int> several(1);
  auto list = DeferredList(std::move(several.deferreds));
  EXPECT_TRUE(several.promises[0].Callback(1).ok());
  list.Cancel();
  EXPECT_EQ(several.cancelled, (std::vector<int>{0}));
  EXPECT_TRUE(Keep(std::move(list))->result->ok());
}

TEST_F(GatherTest, D5_CancelGoesToWhatAListThatHasFiredWaitsFor) {
  Several<int> several(1);
  int called = 0;
  auto made = MakeDeferred<int>([&](Promise<int>&) { ++called; });
  auto last =
      DeferredList(std::move(several.deferreds)).AddCallback([&](const DeferredListResult<int>&) {
        return std::move(made.first);
      });
  EXPECT_TRUE(several.promises[0].Callback(1).ok());
  last.Cancel();
  EXPECT_EQ(called, 1);
  EXPECT_EQ(several.cancelled, (std::vector<int>{0}));
  EXPECT_EQ(Keep(std::move(last))->code(), absl::StatusCode::kCancelled);
}

TEST_F(GatherTest, AListThatNobodyHoldsStillWaits) {
  Several<int> several(1);
  bool ran = false;
  DeferredList(std::move(several.deferreds))
      .AddCallback([&](const DeferredListResult<int>&) { ran = true; })
      .Detach();
  EXPECT_TRUE(several.promises[0].Callback(1).ok());
  EXPECT_TRUE(ran);
}

TEST_F(GatherTest, APromiseThatDiesIsAnAbortedInTheList) {
  Several<int> several(2);
  auto got = Keep(DeferredList(std::move(several.deferreds)));
  several.promises.clear();
  EXPECT_TRUE(absl::IsAborted(got->result->value().results[1].status()));
}

// --- GatherResults --------------------------------------------------------------------------

TEST_F(GatherTest, GatherResultsHasAllValues) {
  Several<std::string> several(2);
  auto got = Keep(GatherResults(std::move(several.deferreds)));
  EXPECT_TRUE(several.promises[1].Callback("b").ok());
  EXPECT_TRUE(several.promises[0].Callback("a").ok());
  EXPECT_EQ(got->result->value(), (std::vector<std::string>{"a", "b"}));
}

TEST_F(GatherTest, GatherResultsOfVoidAndOfNothing) {
  Several<void> several(2);
  auto got = Keep(GatherResults(std::move(several.deferreds)));
  EXPECT_TRUE(several.promises[0].Callback().ok());
  EXPECT_EQ(got->times, 0);
  EXPECT_TRUE(several.promises[1].Callback().ok());
  EXPECT_TRUE(got->result->ok());
  EXPECT_TRUE(Keep(GatherResults(std::vector<Deferred<int>>()))->result->value().empty());
  EXPECT_TRUE(Keep(GatherResults(std::vector<Deferred<void>>()))->result->ok());
}

TEST_F(GatherTest, GatherResultsFailsWithTheFirstErrorAndCancelsTheRest) {
  Several<int> several(3);
  auto got = Keep(GatherResults(std::move(several.deferreds)));
  const auto exception = std::make_exception_ptr(std::runtime_error("boom"));
  EXPECT_TRUE(several.promises[2].Errback(Failure(exception)).ok());
  const FirstError* error = FirstError::From(got->result->failure());
  ASSERT_NE(error, nullptr);
  EXPECT_EQ(error->index(), 2u);
  EXPECT_EQ(error->failure().exception(), exception);
  EXPECT_EQ(several.cancelled, (std::vector<int>{1, 1, 0}));
}

TEST_F(GatherTest, GatherResultsOfWhatHasFailedCancelsTheRestToo) {
  Several<int> several(2);
  std::vector<Deferred<int>> deferreds;
  deferreds.push_back(std::move(several.deferreds[0]));
  deferreds.push_back(Fail<int>(absl::NotFoundError("no")));
  deferreds.push_back(std::move(several.deferreds[1]));
  auto got = Keep(GatherResults(std::move(deferreds)));
  EXPECT_EQ(FirstError::From(got->result->failure())->index(), 1u);
  EXPECT_EQ(several.cancelled, (std::vector<int>{1, 1}));
}

TEST_F(GatherTest, GatherResultsMayBeCancelledAndAwaited) {
  Several<int> several(2);
  const auto sum = [](std::vector<Deferred<int>> deferreds) -> Deferred<int> {
    int sum = 0;
    for (const int n : co_await GatherResults(std::move(deferreds))) sum += n;
    co_return sum;
  };
  auto cancelled = sum(std::move(several.deferreds));
  cancelled.Cancel();
  EXPECT_EQ(several.cancelled, (std::vector<int>{1, 1}));
  EXPECT_EQ(Keep(std::move(cancelled))->code(), absl::StatusCode::kCancelled);
  Several<int> others(2);
  auto got = Keep(sum(std::move(others.deferreds)));
  EXPECT_TRUE(others.promises[0].Callback(1).ok());
  EXPECT_TRUE(others.promises[1].Callback(2).ok());
  EXPECT_EQ(got->result->value(), 3);
}

// --- FirstError -----------------------------------------------------------------------------

TEST(FirstError, IsComparable) {
  const Failure no(absl::NotFoundError("no"));
  EXPECT_TRUE(FirstError(1, no) == FirstError(1, no));
  EXPECT_FALSE(FirstError(1, no) == FirstError(2, no));
  EXPECT_FALSE(FirstError(1, no) == FirstError(1, Failure(absl::NotFoundError("other"))));
}

TEST(FirstError, OfAFailureThatIsNoneIsNull) {
  EXPECT_EQ(FirstError::From(Failure(absl::NotFoundError("no"))), nullptr);
  EXPECT_EQ(FirstError::From(Failure(std::make_exception_ptr(1))), nullptr);
  EXPECT_EQ(FailureGroup::From(Failure(std::make_exception_ptr(1))), nullptr);
}

// --- Race -----------------------------------------------------------------------------------

TEST_F(GatherTest, ARaceGivesTheFirstSuccessAndCancelsTheRest) {
  Several<std::unique_ptr<int>> several(3);
  auto got = Keep(Race(std::move(several.deferreds)));
  EXPECT_TRUE(several.promises[0].Errback(absl::NotFoundError("no")).ok());
  EXPECT_EQ(got->times, 0);
  EXPECT_TRUE(several.promises[2].Callback(std::make_unique<int>(7)).ok());
  EXPECT_EQ(got->result->value().index, 2u);
  EXPECT_EQ(*got->result->value().value, 7);
  EXPECT_EQ(several.cancelled, (std::vector<int>{0, 1, 0}));
}

TEST_F(GatherTest, ARaceOfVoid) {
  Several<void> several(2);
  auto got = Keep(Race(std::move(several.deferreds)));
  EXPECT_TRUE(several.promises[1].Callback().ok());
  EXPECT_EQ(got->result->value().index, 1u);
}

TEST_F(GatherTest, ARaceThatAllLoseFailsWithAllTheirFailures) {
  Several<int> several(2);
  auto got = Keep(Race(std::move(several.deferreds)));
  EXPECT_TRUE(several.promises[1].Errback(absl::NotFoundError("b")).ok());
  EXPECT_TRUE(several.promises[0].Errback(absl::DataLossError("a")).ok());
  const FailureGroup* group = FailureGroup::From(got->result->failure());
  ASSERT_NE(group, nullptr);
  ASSERT_EQ(group->failures().size(), 2u);
  EXPECT_EQ(group->failures()[0].status(), absl::DataLossError("a"));
  EXPECT_EQ(group->failures()[1].status(), absl::NotFoundError("b"));
  EXPECT_EQ(got->result->status(), absl::DataLossError("all 2 failed, the first: a"));
}

TEST_F(GatherTest, CancelOfARaceCancelsAll) {
  Several<int> several(2);
  auto race = Race(std::move(several.deferreds));
  race.Cancel();
  EXPECT_EQ(several.cancelled, (std::vector<int>{1, 1}));
  EXPECT_EQ(Keep(std::move(race))->code(), absl::StatusCode::kCancelled);
}

TEST_F(GatherTest, D4_ARaceOfNothingIsInvalidArgument) {
  EXPECT_EQ(Keep(Race(std::vector<Deferred<int>>()))->code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GatherTest, TheLateFiringOfALoserWithoutACancellerIsSwallowed) {
  std::vector<Deferred<int>> deferreds;
  auto a = MakeDeferred<int>();
  auto b = MakeDeferred<int>();
  deferreds.push_back(std::move(a.first));
  deferreds.push_back(std::move(b.first));
  auto got = Keep(Race(std::move(deferreds)));
  EXPECT_TRUE(a.second.Callback(1).ok());
  EXPECT_TRUE(b.second.Callback(2).ok());
  EXPECT_EQ(got->result->value().value, 1);
}

// A loser whose first part came with the winner is cancelled in its second.
TEST_F(GatherTest, ALoserThatIsAboutToWaitIsCancelledToo) {
  auto start = MakeDeferred<void>();
  auto a = MakeDeferred<int>();
  auto b = MakeDeferred<int>();
  int cancelled = 0;
  auto slow = MakeDeferred<int>([&](Promise<int>&) { ++cancelled; });
  std::vector<Deferred<int>> deferreds;
  deferreds.push_back(std::move(a.first));
  deferreds.push_back(std::move(b.first).AddCallback([&](int) { return std::move(slow.first); }));
  auto got = Keep(Race(std::move(deferreds)));
  std::move(start.first)
      .AddCallback([&] {
        EXPECT_TRUE(a.second.Callback(1).ok());
        EXPECT_TRUE(b.second.Callback(2).ok());
      })
      .Detach();
  EXPECT_TRUE(start.second.Callback().ok());
  EXPECT_EQ(got->result->value().value, 1);
  EXPECT_EQ(cancelled, 1);
}

// Once it is over nothing of it is kept, however long a loser takes.
TEST_F(GatherTest, ValuesThatNobodyGetsAreDestroyedWhenItIsOver) {
  for (const bool cancel : {false, true}) {
    auto value = std::make_shared<int>(1);
    auto fails = MakeDeferred<std::shared_ptr<int>>();
    auto never = MakeDeferred<std::shared_ptr<int>>();
    const auto stubborn =
        [](Deferred<void> first,
           Deferred<std::shared_ptr<int>> second) -> Deferred<std::shared_ptr<int>> {
      (void)co_await AsResult(std::move(first));
      co_return co_await std::move(second);
    };
    auto first = MakeDeferred<void>();
    std::vector<Deferred<std::shared_ptr<int>>> deferreds;
    deferreds.push_back(Succeed(value));
    deferreds.push_back(std::move(fails.first));
    deferreds.push_back(stubborn(std::move(first.first), std::move(never.first)));
    auto all = GatherResults(std::move(deferreds));
    EXPECT_EQ(value.use_count(), 2);
    if (cancel) {
      all.Cancel();
    } else {
      EXPECT_TRUE(fails.second.Errback(absl::NotFoundError("no")).ok());
    }
    EXPECT_EQ(value.use_count(), 1);
    EXPECT_FALSE(Keep(std::move(all))->result->ok());
    EXPECT_TRUE(never.second.Callback(nullptr).ok());
  }
}

// A loser that does not let itself be cancelled goes on alone.
TEST_F(GatherTest, ALoserMayTakeItsTimeToEnd) {
  Several<int> several(1);
  auto wait = MakeDeferred<int>();
  auto later = MakeDeferred<int>();
  bool ended = false;
  const auto stubborn = [](bool& ended, Deferred<int> first,
                           Deferred<int> second) -> Deferred<int> {
    (void)co_await AsResult(std::move(first));
    const int n = co_await std::move(second);
    ended = true;
    co_return n;
  };
  several.deferreds.push_back(stubborn(ended, std::move(wait.first), std::move(later.first)));
  auto got = Keep(Race(std::move(several.deferreds)));
  EXPECT_TRUE(several.promises[0].Callback(1).ok());
  EXPECT_EQ(got->result->value().value, 1);
  EXPECT_FALSE(ended);
  EXPECT_TRUE(later.second.Callback(2).ok());
  EXPECT_TRUE(ended);
}

// --- depth ----------------------------------------------------------------------------------

TEST(GatherDepth, AHundredThousandDeferredsInOneList) {
  auto worker =
      *workers::ThreadWorker::Create({.thread = {.name = "small", .stack_size = 256 << 10}});
  EXPECT_TRUE(worker
                  ->Do([] {
                    for (const bool cancel : {false, true}) {
                      std::vector<Deferred<int>> deferreds;
                      std::vector<Promise<int>> promises;
                      for (int i = 0; i < 100'000; ++i) {
                        auto made = MakeDeferred<int>();
                        deferreds.push_back(std::move(made.first));
                        promises.push_back(std::move(made.second));
                      }
                      auto all = GatherResults(std::move(deferreds));
                      if (cancel) all.Cancel();
                      auto got = Keep(std::move(all));
                      for (Promise<int>& promise : promises) EXPECT_TRUE(promise.Callback(1).ok());
                      EXPECT_EQ(got->result->ok(), !cancel);
                    }
                  })
                  .ok());
  EXPECT_TRUE(worker->Quit().ok());
  EXPECT_TRUE(worker->Join().ok());
}

}  // namespace
}  // namespace reactor
