#include "reactor/resolver.h"

#include <netdb.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reactor/event_reactor.h"
#include "reactor/failure.h"
#include "reactor/testing/clock.h"
#include "workers/context.h"
#include "workers/internal/sync.h"
#include "workers/testing/counting_thread_factory.h"
#include "workers/testing/failing_thread_factory.h"
#include "workers/testing/gate.h"
#include "workers/testing/manual_clock.h"
#include "workers/thread_factory.h"
#include "workers/worker.h"

namespace reactor {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;
using workers::IsAlreadyQuit;
using workers::internal::MutexLock;
using workers::test::CountingThreadFactory;
using workers::test::Gate;

using Addresses = std::vector<Address>;

// A LookUp that does what the test says. Outlives the test where a look-up does.
class Names : public std::enable_shared_from_this<Names> {
 public:
  struct Held {
    Gate began;
    Gate open;
  };

  LookUp look_up() {
    return [self = shared_from_this()](const std::string& host, int family) {
      return self->Find(host, family);
    };
  }
  // The look-ups of `host` wait for the gate `open`.
  std::shared_ptr<Held> Hold(const std::string& host) {
    MutexLock lock(mutex_);
    return held_[host] = std::make_shared<Held>();
  }
  void Answer(const std::string& host, absl::StatusOr<Addresses> answer) {
    MutexLock lock(mutex_);
    answers_.insert_or_assign(host, std::move(answer));
  }
  // What has begun, in order.
  std::vector<std::string> asked() const {
    MutexLock lock(mutex_);
    return asked_;
  }

 private:
  absl::StatusOr<Addresses> Find(const std::string& host, int family) {
    std::shared_ptr<Held> held;
    absl::StatusOr<Addresses> answer = Addresses{*Address::Parse("192.0.2.1")};
    {
      MutexLock lock(mutex_);
      asked_.push_back(family == AF_UNSPEC  ? host
                       : family == AF_INET6 ? host + " IPv6"
                                            : host + " IPv4");
      if (const auto it = held_.find(host); it != held_.end()) held = it->second;
      if (const auto it = answers_.find(host); it != answers_.end()) answer = it->second;
    }
    if (held != nullptr) {
      held->began.Open();
      held->open.Wait();
    }
    return answer;
  }

  mutable workers::internal::Mutex mutex_;
  std::map<std::string, std::shared_ptr<Held>> held_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, absl::StatusOr<Addresses>> answers_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> asked_ ABSL_GUARDED_BY(mutex_);
};

// Reports, as text, from any thread.
class Reports {
 public:
  workers::ErrorHandler handler() {
    return [this](const workers::ErrorReport& report) {
      MutexLock lock(mutex_);
      all_.push_back(absl::StrCat(report.worker, ": ", report.status.ToString()));
    };
  }
  std::vector<std::string> all() const {
    MutexLock lock(mutex_);
    return all_;
  }

 private:
  mutable workers::internal::Mutex mutex_;
  std::vector<std::string> all_ ABSL_GUARDED_BY(mutex_);
};

std::string ToString(const Result<Addresses>& result) {
  if (!result.ok()) return result.status().ToString();
  std::string text;
  for (const Address& address : result.value()) {
    absl::StrAppend(&text, text.empty() ? "" : " ", address.ToString());
  }
  return text;
}

// A reactor that runs on the test's thread, and a resolver with a clock that stands still.
class ResolverTest : public testing::Test {
 protected:
  ResolverTest() { Make(); }

  void Make(ResolverOptions options = {}) {
    if (!options.look_up) options.look_up = names_->look_up();
    if (!options.on_error) options.on_error = reports_.handler();
    auto resolver = Resolver::Create(*reactor_, clock_, std::move(options));
    ASSERT_TRUE(resolver.ok()) << resolver.status();
    resolver_ = *std::move(resolver);
  }
  // With so many threads at most.
  void MakeWith(int threads, int64_t max_backlog = 100) {
    Make({.limits = {.hard_limit = threads, .max_backlog = max_backlog}});
  }

  // Asks, and logs "<label>: <what came>".
  Deferred<void> Ask(const std::string& host, ResolveOptions options = {}, std::string label = "") {
    if (label.empty()) label = host;
    return resolver_->Resolve(host, options).AddBoth([this, label](Result<Addresses> result) {
      Log(absl::StrCat(label, ": ", ToString(result)));
    });
  }
  void Log(std::string line) {
    log_.push_back(std::move(line));
    if (log_.size() == until_) Stop();
  }
  void Stop() { EXPECT_TRUE(reactor_->Stop().ok()); }

  // Runs the loop, with `body` in it, until the log has `lines` lines; 0: until the test stops it.
  void Run(size_t lines, std::function<void()> body) {
    until_ = lines;
    ASSERT_TRUE(reactor_->CallWhenRunning(std::move(body)).ok());
    const absl::Status status = reactor_->Run();
    EXPECT_TRUE(status.ok()) << status;
  }

  // Returns when nothing uses what the resolver was given any more. A turn that had the resolver's
  // part for a moment longer leaves its threads to the factory.
  void DestroyAndAwait(CountingThreadFactory& factory) {
    resolver_ = nullptr;
    while (factory.joined() + factory.orphaned() < factory.started()) std::this_thread::yield();
    factory.Finish();
  }

  std::shared_ptr<Names> names_ = std::make_shared<Names>();
  Reports reports_;
  std::unique_ptr<EventReactor> reactor_ = *EventReactor::Create({.handle_signals = false});
  test::Clock clock_;
  std::vector<std::string> log_;
  size_t until_ = 0;
  std::unique_ptr<Resolver> resolver_;  // the last: its destructor completes what waits
};

// --- what can be said at once --------------------------------------------------------------------

TEST_F(ResolverTest, LiteralsAreAnsweredAtOnceWithoutAThread) {
  CountingThreadFactory factory;
  Make({.factory = &factory});
  Run(0, [&] {
    Ask("127.0.0.1", {.port = 80}).Detach();
    Ask("::1", {.port = 443, .family = AF_INET6}).Detach();
    Ask("2001:DB8:0::7").Detach();
    Ask("fe80::1%3").Detach();
    Ask("10.0.0.1", {.family = AF_INET, .timeout = absl::ZeroDuration()}).Detach();
    EXPECT_EQ(log_.size(), 5u);
    Stop();
  });
  EXPECT_THAT(log_, ElementsAre("127.0.0.1: 127.0.0.1:80", "::1: [::1]:443",
                                "2001:DB8:0::7: [2001:db8::7]:0", "fe80::1%3: [fe80::1%3]:0",
                                "10.0.0.1: 10.0.0.1:0"));
  // No reactor is needed either.
  Ask("127.0.0.1").Detach();
  EXPECT_EQ(log_.size(), 6u);
  EXPECT_EQ(factory.started(), 0);
  EXPECT_THAT(clock_.pending(), IsEmpty());
  EXPECT_THAT(names_->asked(), IsEmpty());
  resolver_ = nullptr;
}

TEST_F(ResolverTest, ALiteralOfTheOtherFamilyIsNotFound) {
  Ask("127.0.0.1", {.family = AF_INET6}).Detach();
  Ask("::1", {.family = AF_INET}).Detach();
  EXPECT_THAT(log_,
              ElementsAre("127.0.0.1: NOT_FOUND: resolving 127.0.0.1: there is no IPv6 address",
                          "::1: NOT_FOUND: resolving ::1: there is no IPv4 address"));
}

// The original left the caller without an answer for ever.
TEST_F(ResolverTest, R7_ImpossibleNamesFailAtOnceOnceAndSayWhatIsWrong) {
  const std::string label63(63, 'a');
  const std::string most =
      absl::StrCat(label63, ".", label63, ".", label63, ".", std::string(61, 'a'));  // 253 bytes
  const std::vector<std::pair<std::string, std::string>> names = {
      {"", "is empty"},
      {".", "has an empty label"},
      {"a..b", "has an empty label"},
      {".a", "has an empty label"},
      {"a..", "has an empty label"},
      {label63 + "a.b", "has a label of 64 bytes"},
      {most + "a", "has 254 bytes"},
      {std::string(1 << 20, 'a'), "has 1048576 bytes"},
      {std::string("a\0b", 3), "has a '\\x00'"},
      {std::string("127.0.0.1\0", 10), "has a '\\x00'"},
      {"b\xC3\xBC\x63her.example", "is not ASCII; give it in its \"xn--\" form"},
      {"\xFF", "is not ASCII"},
      {"a b", "has a ' '"},
      {"a\n", "has a '\\n'"},
      {"http//a", "has a '/'"},
      {"a:80", "is not an IP address"},
      {"[::1]", "is not an IP address"},
      {"fe80::1%no-such-if", "no network interface \"no-such-if\""},
  };
  for (const auto& [name, why] : names) {
    log_.clear();
    Ask(name, {}, "it").Detach();
    ASSERT_EQ(log_.size(), 1u) << name;
    EXPECT_THAT(log_[0], AllOf(HasSubstr("it: INVALID_ARGUMENT"), HasSubstr(why))) << name;
    EXPECT_LT(log_[0].size(), 400u);
  }
  // These are possible.
  const std::vector<std::string> possible = {most, most + ".", "_dns.a-b.c1.", "localhost"};
  log_.clear();
  Run(possible.size(), [&] {
    for (const std::string& name : possible) Ask(name, {}, "it").Detach();
  });
  EXPECT_THAT(log_, testing::Each("it: 192.0.2.1:0"));
}

TEST_F(ResolverTest, R7_ImpossibleOptionsFailAtOnce) {
  Ask("a", {.port = -1}).Detach();
  Ask("a", {.port = 65536}).Detach();
  Ask("127.0.0.1", {.family = AF_UNIX}).Detach();
  Ask("a", {.timeout = -absl::Seconds(1)}).Detach();
  EXPECT_THAT(log_,
              ElementsAre("a: INVALID_ARGUMENT: Resolve: -1 is not a port",
                          "a: INVALID_ARGUMENT: Resolve: 65536 is not a port",
                          "127.0.0.1: INVALID_ARGUMENT: Resolve: the family 1 is not one of IP",
                          "a: INVALID_ARGUMENT: Resolve: the timeout is negative"));
  EXPECT_THAT(names_->asked(), IsEmpty());
}

TEST_F(ResolverTest, WhatThePoolCannotBeMadeOfIsInvalidArgument) {
  EXPECT_TRUE(absl::IsInvalidArgument(
      Resolver::Create(*reactor_, clock_, {.limits = {.max_backlog = 0}}).status()));
}

// --- results -------------------------------------------------------------------------------------

TEST_F(ResolverTest, AResultComesOnTheReactorThreadWithThePort) {
  names_->Answer("a.example",
                 Addresses{*Address::Parse("2001:db8::1", 7), *Address::Parse("192.0.2.7", 8)});
  Run(1, [&] {
    Ask("a.example", {.port = 443}).Detach();
    EXPECT_THAT(log_, IsEmpty());
    resolver_->Resolve("a.example")
        .AddCallback([&](Addresses) { EXPECT_TRUE(reactor_->InReactorThread()); })
        .Detach();
  });
  EXPECT_THAT(log_, ElementsAre("a.example: [2001:db8::1]:443 192.0.2.7:443"));
  EXPECT_THAT(clock_.pending(), IsEmpty());  // its timer is gone
  EXPECT_THAT(reports_.all(), IsEmpty());
}

TEST_F(ResolverTest, AResolveBeforeRunIsAnsweredInRun) {
  Ask("a").Detach();
  Run(1, [] {});
  EXPECT_THAT(log_, ElementsAre("a: 192.0.2.1:0"));
}

TEST_F(ResolverTest, TheFamilyIsAskedFor) {
  MakeWith(1);  // in order
  Run(3, [&] {
    Ask("a", {.family = AF_INET}).Detach();
    Ask("a", {.family = AF_INET6}).Detach();
    Ask("a", {.family = AF_UNSPEC}).Detach();
  });
  EXPECT_THAT(names_->asked(), ElementsAre("a IPv4", "a IPv6", "a"));
}

TEST_F(ResolverTest, AFailureComesOnceAndIsNotReported) {
  MakeWith(1);
  names_->Answer("none", absl::NotFoundError("no such name"));
  names_->Answer("empty", Addresses());
  Run(2, [&] {
    Ask("none").Detach();
    Ask("empty", {.family = AF_INET6}).Detach();
  });
  EXPECT_THAT(log_, ElementsAre("none: NOT_FOUND: no such name",
                                "empty: NOT_FOUND: resolving empty: there is no IPv6 address"));
  EXPECT_THAT(reports_.all(), IsEmpty());
}

TEST_F(ResolverTest, R7_WhatALookUpThrowsIsTheFailureOfEachWhoWaits) {
  Make({.look_up = [](const std::string& host, int) -> absl::StatusOr<Addresses> {
    throw std::runtime_error(host);
  }});
  int caught = 0;
  const auto rethrow = [&](const Failure& failure) -> Result<Addresses> {
    EXPECT_TRUE(absl::IsUnknown(failure.status()));
    try {
      failure.Throw();
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "a");
      if (++caught == 2) Stop();
    }
    return Addresses();
  };
  Run(0, [&] {
    resolver_->Resolve("a").AddErrback(rethrow).Detach();
    resolver_->Resolve("a").AddErrback(rethrow).Detach();
  });
  EXPECT_EQ(caught, 2);
  EXPECT_THAT(reports_.all(), IsEmpty());
}

TEST_F(ResolverTest, R7_ALookUpThatEndsItsThreadFailsAndTheNextOneHasAnother) {
  Make({.look_up = [](const std::string& host, int) -> absl::StatusOr<Addresses> {
          if (host == "end") pthread_exit(nullptr);
          return Addresses{*Address::Parse("192.0.2.2")};
        },
        .limits = {.hard_limit = 1}});
  Run(2, [&] {
    Ask("end").Detach();
    Ask("next").Detach();
  });
  EXPECT_THAT(log_, ElementsAre("end: ABORTED: the look-up ended its thread", "next: 192.0.2.2:0"));
}

constexpr workers::ContextKey<std::string> kUser("user");

TEST_F(ResolverTest, ALookUpRunsInTheContextOfWhoAskedFirst) {
  Make({.look_up = [](const std::string&, int) -> absl::StatusOr<Addresses> {
    return absl::NotFoundError(kUser.Get() != nullptr ? *kUser.Get() : "nobody");
  }});
  Run(1, [&] {
    workers::ContextScope scope(workers::Context::Current().With(kUser, "ann"));
    Ask("a").Detach();
  });
  EXPECT_THAT(log_, ElementsAre("a: NOT_FOUND: ann"));
}

// --- coalescing, cancel, timeout -----------------------------------------------------------------

TEST_F(ResolverTest, IdenticalLookUpsInFlightAreOne) {
  const auto held = names_->Hold("a.example");
  Run(4, [&] {
    Ask("a.example", {.port = 1}).Detach();
    held->began.Wait();
    Ask("A.EXAMPLE", {.port = 2}).Detach();  // while it runs
    Ask("a.example", {.port = 3}).Detach();
    Ask("a.example", {.port = 4, .family = AF_INET}).Detach();  // another one
    held->open.Open();
  });
  EXPECT_THAT(log_, UnorderedElementsAre("a.example: 192.0.2.1:1", "A.EXAMPLE: 192.0.2.1:2",
                                         "a.example: 192.0.2.1:3", "a.example: 192.0.2.1:4"));
  EXPECT_THAT(names_->asked(), ElementsAre("a.example", "a.example IPv4"));
  // In the order in which they asked.
  EXPECT_LT(std::find(log_.begin(), log_.end(), "a.example: 192.0.2.1:1"),
            std::find(log_.begin(), log_.end(), "A.EXAMPLE: 192.0.2.1:2"));
  // Nothing is kept.
  Run(5, [&] { Ask("a.example").Detach(); });
  EXPECT_EQ(names_->asked().size(), 3u);
}

TEST_F(ResolverTest, CancelOfOneLeavesTheOthers) {
  const auto held = names_->Hold("a");
  Run(3, [&] {
    Deferred<void> first = Ask("a", {}, "first");
    Ask("a", {}, "second").Detach();
    Deferred<void> third = Ask("a", {}, "third");
    held->began.Wait();
    first.Cancel();
    third.Cancel();
    third.Cancel();
    EXPECT_THAT(log_, ElementsAre("first: CANCELLED: resolving a: cancelled",
                                  "third: CANCELLED: resolving a: cancelled"));
    EXPECT_EQ(clock_.pending().size(), 1u);
    held->open.Open();
  });
  EXPECT_EQ(log_.back(), "second: 192.0.2.1:0");
  EXPECT_EQ(log_.size(), 3u);
}

TEST_F(ResolverTest, AQueuedLookUpIsWithdrawnWithItsLastWaiter) {
  MakeWith(1);
  const auto held = names_->Hold("blocker");
  Run(6, [&] {
    Ask("blocker").Detach();
    held->began.Wait();
    Deferred<void> one = Ask("gone", {}, "one");
    Deferred<void> two = Ask("gone", {}, "two");
    Ask("stays").Detach();
    one.Cancel();
    two.Cancel();
    // It is asked for anew, behind what waits by now. Its turn is the shell of the other.
    Ask("last").Detach();
    Ask("gone").Detach();
    held->open.Open();
  });
  EXPECT_THAT(names_->asked(), ElementsAre("blocker", "stays", "last", "gone"));
  EXPECT_THAT(log_, ElementsAre("one: CANCELLED: resolving gone: cancelled",
                                "two: CANCELLED: resolving gone: cancelled", "blocker: 192.0.2.1:0",
                                "stays: 192.0.2.1:0", "last: 192.0.2.1:0", "gone: 192.0.2.1:0"));
}

TEST_F(ResolverTest, AFullBacklogIsResourceExhaustedAndWithdrawnLookUpsDoNotCount) {
  MakeWith(/*threads=*/1, /*max_backlog=*/1);
  const auto held = names_->Hold("blocker");
  Run(205, [&] {
    Ask("blocker").Detach();
    held->began.Wait();
    for (int i = 0; i < 100; ++i) {
      Deferred<void> queued = Ask("queued");
      Ask("refused").Detach();
      EXPECT_THAT(log_.back(), HasSubstr("refused: RESOURCE_EXHAUSTED"));
      queued.Cancel();
      EXPECT_THAT(log_.back(), HasSubstr("queued: CANCELLED"));
    }
    Ask("queued").Detach();
    Ask("queued").Detach();  // joins it
    Ask("127.0.0.1").Detach();
    EXPECT_EQ(clock_.pending().size(), 3u);
    held->open.Open();
    Ask("queued").Detach();
  });
  EXPECT_THAT(names_->asked(), ElementsAre("blocker", "queued"));
}

TEST_F(ResolverTest, ARunningLookUpGoesOnForWhoAsksNext) {
  const auto held = names_->Hold("stuck");
  Run(102, [&] {
    Deferred<void> first = Ask("stuck");
    held->began.Wait();
    first.Cancel();
    // However often a stuck name is tried, it takes one thread.
    for (int i = 0; i < 100; ++i) Ask("stuck").Cancel();
    Ask("stuck", {}, "patient").Detach();
    held->open.Open();
  });
  EXPECT_EQ(log_.back(), "patient: 192.0.2.1:0");
  EXPECT_THAT(names_->asked(), ElementsAre("stuck"));
}

TEST_F(ResolverTest, AResultThatNobodyWaitsForIsDropped) {
  MakeWith(1);  // so that it is over when the next one is
  const auto held = names_->Hold("late");
  Run(2, [&] {
    Deferred<void> asked = Ask("late");
    held->began.Wait();
    asked.Cancel();
    held->open.Open();
    Ask("other").Detach();
  });
  EXPECT_THAT(log_,
              ElementsAre("late: CANCELLED: resolving late: cancelled", "other: 192.0.2.1:0"));
}

TEST_F(ResolverTest, TheTimeoutCountsFromTheRequestAndSaysWhetherItWasQueued) {
  MakeWith(1);
  const auto held = names_->Hold("running");
  Run(5, [&] {
    Ask("running", {.timeout = absl::Seconds(5)}, "short").Detach();
    held->began.Wait();
    clock_.Advance(absl::Seconds(1));
    Ask("running", {.timeout = absl::Seconds(5)}, "later").Detach();
    Ask("running", {.timeout = absl::InfiniteDuration()}, "patient").Detach();
    Ask("queued", {.timeout = absl::Seconds(3)}).Detach();
    Ask("next", {.timeout = absl::Seconds(100)}).Detach();
    EXPECT_EQ(clock_.pending().size(), 4u);
    clock_.Advance(absl::Seconds(3));
    EXPECT_THAT(log_,
                ElementsAre("queued: DEADLINE_EXCEEDED: resolving queued: no answer in 3s; it "
                            "was still queued behind other look-ups"));
    clock_.Advance(absl::Seconds(1));
    EXPECT_EQ(log_.size(), 2u);
    EXPECT_EQ(
        log_.back(),
        "short: DEADLINE_EXCEEDED: resolving running: no answer in 5s; it was being looked up");
    held->open.Open();
  });
  EXPECT_THAT(std::vector<std::string>(log_.begin() + 2, log_.end()),
              ElementsAre("later: 192.0.2.1:0", "patient: 192.0.2.1:0", "next: 192.0.2.1:0"));
  EXPECT_THAT(names_->asked(), ElementsAre("running", "next"));
  EXPECT_THAT(clock_.pending(), IsEmpty());
}

TEST_F(ResolverTest, WithTheReactorsOwnTimeALookUpTimesOut) {
  const auto held = names_->Hold("stuck");
  resolver_ = *Resolver::Create(*reactor_, *reactor_, {.look_up = names_->look_up()});
  Run(1, [&] {
    Ask("stuck", {.timeout = absl::ZeroDuration()}).Detach();
    EXPECT_THAT(log_, IsEmpty());
  });
  EXPECT_THAT(log_[0], HasSubstr("DEADLINE_EXCEEDED"));
  held->open.Open();
}

TEST_F(ResolverTest, ACallbackMayAskAgainCancelOthersAndDestroyTheResolver) {
  const auto held = names_->Hold("a");
  Deferred<void> third;
  Run(5, [&] {
    resolver_->Resolve("a")
        .AddCallback([&](Addresses) {
          third.Cancel();
          Ask("a", {}, "again").Detach();
          resolver_ = nullptr;
          Log("destroyed");
        })
        .Detach();
    Ask("a", {}, "second").Detach();
    third = Ask("a", {}, "third");
    held->began.Wait();
    Ask("other").Detach();
    held->open.Open();
  });
  // Each once. "other" may have come before; "again" runs.
  EXPECT_EQ(log_.size(), 5u);
  EXPECT_THAT(
      log_, testing::IsSupersetOf(
                {std::string("third: CANCELLED: resolving a: cancelled"), std::string("destroyed"),
                 std::string("again: ABORTED: resolver: the resolver is gone"),
                 std::string("second: ABORTED: resolver: the resolver is gone")}));
}

// --- threads -------------------------------------------------------------------------------------

TEST_F(ResolverTest, AReactorPoolFullOfBlockedWorkHoldsUpNoLookUp) {
  Gate open;
  Run(1, [&] {
    std::vector<Gate> began(10);
    for (Gate& gate : began) {
      ASSERT_TRUE(reactor_
                      ->CallInThread([&] {
                        gate.Open();
                        open.Wait();
                      })
                      .ok());
    }
    for (Gate& gate : began) gate.Wait();
    ASSERT_TRUE(reactor_->CallInThread([&] { EXPECT_TRUE(open.IsOpen()); }).ok());  // it is full
    resolver_->Resolve("a")
        .AddBoth([&](Result<Addresses> result) {
          EXPECT_FALSE(open.IsOpen());
          open.Open();
          Log(ToString(result));
        })
        .Detach();
  });
  EXPECT_THAT(log_, ElementsAre("192.0.2.1:0"));
}

TEST_F(ResolverTest, LookUpsThatBlockHoldUpNoWorkOfTheReactorsPool) {
  MakeWith(2);
  const auto first = names_->Hold("first");
  const auto second = names_->Hold("second");
  Run(0, [&] {
    Ask("first").Detach();
    Ask("second").Detach();
    Ask("third").Detach();
    first->began.Wait();
    second->began.Wait();
    Gate ran;
    ASSERT_TRUE(reactor_->CallInThread([&] { ran.Open(); }).ok());
    ran.Wait();
    EXPECT_THAT(log_, IsEmpty());
    until_ = 3;
    first->open.Open();
    second->open.Open();
  });
  EXPECT_THAT(log_, UnorderedElementsAre("first: 192.0.2.1:0", "second: 192.0.2.1:0",
                                         "third: 192.0.2.1:0"));
}

TEST_F(ResolverTest, ThePoolGrowsWhileLookUpsWaitForStuckOnes) {
  CountingThreadFactory factory;
  workers::test::ManualClock pool_clock;
  Make({.limits = {.soft_limit = 1, .growth_per_second = 1, .hard_limit = 2},
        .factory = &factory,
        .clock = &pool_clock});
  const auto stuck = names_->Hold("stuck");
  Run(0, [&] {
    Ask("stuck").Detach();
    stuck->began.Wait();
    Ask("a").Detach();
    EXPECT_THAT(names_->asked(), ElementsAre("stuck"));
    until_ = 1;
    pool_clock.Advance(absl::Seconds(1));
  });
  EXPECT_EQ(log_[0], "a: 192.0.2.1:0");
  stuck->open.Open();
  DestroyAndAwait(factory);
}

TEST_F(ResolverTest, AThreadThatCannotBeStartedIsReportedAndTheLookUpWaitsForTheNext) {
  CountingThreadFactory counting;
  workers::test::FailingThreadFactory factory(counting);
  workers::test::ManualClock pool_clock;
  Make({.factory = &factory, .clock = &pool_clock});
  factory.FailNext(1);
  Run(2, [&] {
    Ask("a", {.timeout = absl::Seconds(1)}).Detach();
    EXPECT_THAT(reports_.all(), ElementsAre("resolver: RESOURCE_EXHAUSTED: injected"));
    clock_.Advance(absl::Seconds(1));
    EXPECT_THAT(log_, ElementsAre(HasSubstr("still queued")));
    Ask("b").Detach();
    pool_clock.Advance(absl::Seconds(1));
  });
  EXPECT_EQ(log_.back(), "b: 192.0.2.1:0");
  DestroyAndAwait(counting);
}

TEST_F(ResolverTest, EachThreadIsJoined) {
  CountingThreadFactory factory;
  Make({.factory = &factory});
  Run(100, [&] {
    for (int i = 0; i < 100; ++i) Ask(absl::StrCat("host-", i)).Detach();
  });
  EXPECT_GE(factory.started(), 1);
  EXPECT_LE(factory.started(), 17);  // of the timer too
  DestroyAndAwait(factory);
  EXPECT_EQ(factory.joined(), factory.started());
  EXPECT_THAT(reports_.all(), IsEmpty());
}

// --- the end ------------------------------------------------------------------------------------

TEST_F(ResolverTest, AtTheReactorsEndAllFailsOnceAndTheNextRunLooksAgain) {
  MakeWith(1);
  const auto held = names_->Hold("running");
  Run(0, [&] {
    Ask("running").Detach();
    held->began.Wait();
    Ask("queued").Detach();
    Stop();
  });
  EXPECT_THAT(log_, ElementsAre("running: UNAVAILABLE: resolver: the reactor ends",
                                "queued: UNAVAILABLE: resolver: the reactor ends"));
  EXPECT_THAT(clock_.pending(), IsEmpty());
  absl::Status status;
  resolver_->Resolve("a")
      .AddErrback([&](const Failure& failure) -> Result<Addresses> {
        status = failure.status();
        return failure;
      })
      .AddErrback([](const Failure&) { return Addresses(); })
      .Detach();
  EXPECT_TRUE(IsAlreadyQuit(status)) << status;
  EXPECT_EQ(log_.size(), 2u);

  // The look-up of the last Run still runs. Its late result is not that of the new one.
  names_->Answer("running", Addresses{*Address::Parse("192.0.2.9")});
  const auto again = names_->Hold("running");
  Run(3, [&] {
    Ask("running").Detach();
    held->open.Open();
    again->began.Wait();
    again->open.Open();
  });
  EXPECT_THAT(log_.back(), "running: 192.0.2.9:0");
  EXPECT_THAT(names_->asked(), ElementsAre("running", "running"));
}

TEST_F(ResolverTest, BeforeTriggersOfTheShutdownMayStillResolve) {
  ASSERT_TRUE(reactor_
                  ->AddSystemEventTrigger(EventPhase::kBefore, SystemEvent::kShutdown,
                                          [&] { return Ask("a"); })
                  .ok());
  ASSERT_TRUE(reactor_
                  ->AddSystemEventTrigger(EventPhase::kDuring, SystemEvent::kShutdown,
                                          [&] { return Ask("b"); })
                  .ok());
  Run(0, [&] { Stop(); });
  EXPECT_THAT(log_, ElementsAre("a: 192.0.2.1:0", HasSubstr("b: FAILED_PRECONDITION")));
}

TEST_F(ResolverTest, DestroyedItFailsWhatWaitsAndLeavesBehindAndReportsWhatRuns) {
  CountingThreadFactory factory;
  Make({.name = "names", .limits = {.hard_limit = 1}, .factory = &factory});
  const auto held = names_->Hold("stuck");
  Run(0, [&] {
    Ask("stuck").Detach();
    held->began.Wait();
    Ask("queued").Detach();
    resolver_ = nullptr;  // does not wait: the gate is closed
    Stop();
  });
  EXPECT_THAT(log_, ElementsAre("stuck: ABORTED: names: the resolver is gone",
                                "queued: ABORTED: names: the resolver is gone"));
  EXPECT_THAT(reports_.all(), ElementsAre("names: ABORTED: look-ups still run, and are left behind "
                                          "with their threads: stuck"));
  EXPECT_THAT(clock_.pending(), IsEmpty());
  EXPECT_EQ(factory.started(), 1);
  EXPECT_EQ(factory.orphaned() + factory.joined(), 0);
  // When it ends after all, it ends the pool.
  held->open.Open();
  while (factory.orphaned() == 0) std::this_thread::yield();
  factory.Finish();
  EXPECT_EQ(factory.joined(), 1);
  EXPECT_THAT(names_->asked(), ElementsAre("stuck"));
  EXPECT_EQ(log_.size(), 2u);
}

// Starts threads that do nothing before the gate opens.
class LateThreadFactory final : public workers::ThreadFactory {
 public:
  Gate open;

  // ThreadFactory implementation:
  absl::StatusOr<std::unique_ptr<workers::Thread>> Start(const workers::ThreadOptions& options,
                                                         workers::Work&& main) override {
    return workers::DefaultThreadFactory().Start(options, [this, main = std::move(main)]() mutable {
      open.Wait();
      std::move(main)();
      main = nullptr;
      ended.Open();
    });
  }
  size_t Reap() override { return workers::DefaultThreadFactory().Reap(); }

  Gate ended;
};

// The pool has given the turn to a thread, and cannot take it back.
TEST_F(ResolverTest, DestroyedWhileATurnIsAboutToBeginItDoesNotWaitAndNothingIsLookedUp) {
  LateThreadFactory factory;
  Make({.limits = {.hard_limit = 1}, .factory = &factory});
  Run(0, [&] {
    Ask("given").Detach();
    Ask("queued").Detach();
    resolver_ = nullptr;
    Stop();
  });
  EXPECT_THAT(log_, ElementsAre("given: ABORTED: resolver: the resolver is gone",
                                "queued: ABORTED: resolver: the resolver is gone"));
  EXPECT_THAT(reports_.all(), IsEmpty());
  factory.open.Open();
  factory.ended.Wait();
  EXPECT_THAT(names_->asked(), IsEmpty());
}

TEST_F(ResolverTest, DestroyedBeforeRunItFailsWhatWaits) {
  names_->Hold("a")->open.Open();
  Ask("a").Detach();
  Ask("b").Detach();
  resolver_ = nullptr;
  EXPECT_EQ(log_.size(), 2u);
  Run(0, [&] { Stop(); });
  EXPECT_THAT(log_, ElementsAre("a: ABORTED: resolver: the resolver is gone",
                                "b: ABORTED: resolver: the resolver is gone"));
}

// Exactly one completion each, whatever comes together: results, Cancel, timeouts, the end.
TEST_F(ResolverTest, OfAThousandAtRandomEachCompletesOnce) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  const auto below = [&](uint32_t n) { return random() % n; };
  std::vector<int> completions;
  std::vector<Deferred<void>> asked;
  int steps = 0;
  std::function<void()> step = [&] {
    for (int i = 0; i < 10; ++i) {
      completions.push_back(0);
      asked.push_back(resolver_
                          ->Resolve(absl::StrCat("host-", below(8)),
                                    {.port = static_cast<int>(below(100)),
                                     .family = below(2) == 0 ? AF_UNSPEC : AF_INET,
                                     .timeout = absl::Milliseconds(1 + below(20))})
                          .AddBoth([&completions, n = completions.size() - 1](Result<Addresses>) {
                            ++completions[n];
                          }));
      if (below(3) == 0) asked[below(asked.size())].Cancel();
    }
    clock_.Advance(absl::Milliseconds(below(5)));
    if (++steps == 100) return Stop();
    EXPECT_TRUE(reactor_->CallFromThread([&] { step(); }).ok());
  };
  MakeWith(2);
  Run(0, step);
  asked.clear();
  EXPECT_THAT(completions, testing::Each(1));
  EXPECT_EQ(completions.size(), 1000u);
  EXPECT_THAT(clock_.pending(), IsEmpty());
  resolver_ = nullptr;
}

TEST_F(ResolverTest, InTheChildOfAForkEverythingIsRefused) {
  const auto held = names_->Hold("a");
  Ask("a").Detach();
  held->began.Wait();
  const pid_t child = fork();
  if (child == 0) {
    Ask("b").Detach();
    const bool refused = log_.size() == 1 && log_[0].find("FAILED_PRECONDITION") != log_[0].npos;
    resolver_ = nullptr;
    _exit(refused ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  held->open.Open();
  resolver_ = nullptr;
  EXPECT_THAT(log_, ElementsAre(HasSubstr("a: ABORTED")));
}

// --- misuse, and the end of the process ----------------------------------------------------------

using ResolverDeathTest = ResolverTest;

TEST_F(ResolverDeathTest, TheWrongThreadIsDetectedInEveryBuild) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Gate running;
  ASSERT_TRUE(reactor_->CallWhenRunning([&] { running.Open(); }).ok());
  std::thread thread([&] { EXPECT_TRUE(reactor_->Run().ok()); });
  running.Wait();
#ifdef NDEBUG
  Ask("a").Detach();
  EXPECT_THAT(log_, ElementsAre(HasSubstr("FAILED_PRECONDITION: resolver: Resolver::Resolve was "
                                          "called on another thread than the reactor's")));
  resolver_ = nullptr;
  EXPECT_THAT(reports_.all(), ElementsAre(HasSubstr("~Resolver was called on another thread")));
#else
  EXPECT_DEATH(Ask("a").Detach(),
               "resolver: Resolver::Resolve was called on another thread than the reactor's");
  EXPECT_DEATH(resolver_ = nullptr, "resolver: ~Resolver was called on another thread");
#endif
  Stop();
  thread.join();
}

TEST_F(ResolverDeathTest, AStuckLookUpDoesNotHoldUpTheEndOfTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        Make({.look_up = names_->look_up(), .on_error = [](const workers::ErrorReport& report) {
                fputs(report.status.ToString().c_str(), stderr);
              }});
        const auto held = names_->Hold("stuck");
        Run(0, [&] {
          Ask("stuck").Detach();
          held->began.Wait();
          Stop();
        });
        resolver_ = nullptr;
        reactor_ = nullptr;
        exit(7);
      },
      testing::ExitedWithCode(7), "left behind with their threads: stuck");
}

TEST_F(ResolverDeathTest, NorDoesOneOfAResolverThatIsAStatic) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        static std::unique_ptr<EventReactor> reactor = std::move(reactor_);
        static std::unique_ptr<Resolver> resolver =
            *Resolver::Create(*reactor, *reactor, {.look_up = names_->look_up()});
        const auto held = names_->Hold("stuck");
        ASSERT_TRUE(reactor
                        ->CallWhenRunning([&] {
                          resolver->Resolve("stuck")
                              .AddErrback([](const Failure&) { return Addresses(); })
                              .Detach();
                          held->began.Wait();
                          EXPECT_TRUE(reactor->Stop().ok());
                        })
                        .ok());
        reactor->Run().IgnoreError();
        exit(7);
      },
      testing::ExitedWithCode(7), "left behind with their threads: stuck");
}

// --- the system's --------------------------------------------------------------------------------

TEST_F(ResolverTest, TheSystemKnowsLocalhost) {
  resolver_ = *Resolver::Create(*reactor_, *reactor_, {});
  Run(1, [&] { Ask("localhost", {.port = 80}).Detach(); });
  EXPECT_THAT(log_, ElementsAre(testing::AnyOf(HasSubstr("127.0.0.1:80"), HasSubstr("[::1]:80"))));
}

TEST(SystemLookUp, GivesTheFamilyThatIsAskedFor) {
  const auto addresses = SystemLookUp("127.0.0.1", AF_INET);
  ASSERT_TRUE(addresses.ok()) << addresses.status();
  EXPECT_THAT(*addresses, ElementsAre(*Address::Parse("127.0.0.1")));
  EXPECT_TRUE(absl::IsNotFound(SystemLookUp("127.0.0.1", AF_INET6).status()));
}

TEST(LookUpErrorTest, SaysWhatGetaddrinfoSaid) {
  const auto code = [](int error, int system_error = 0) {
    const absl::Status status = LookUpError("a.example", error, system_error);
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr("resolving a.example: "), HasSubstr(gai_strerror(error))));
    return status.code();
  };
  EXPECT_EQ(code(EAI_NONAME), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(EAI_NODATA), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(EAI_ADDRFAMILY), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(EAI_AGAIN), absl::StatusCode::kUnavailable);
  EXPECT_EQ(code(EAI_MEMORY), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(code(EAI_FAMILY), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(EAI_SYSTEM, EMFILE), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(code(EAI_FAIL), absl::StatusCode::kUnknown);
}

}  // namespace
}  // namespace reactor
