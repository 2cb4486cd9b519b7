#include "reactor/reactor_worker.h"

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reactor/deferred.h"
#include "reactor/event_reactor.h"
#include "workers/team.h"
#include "workers/testing/gate.h"
#include "workers/testing/worker_contract.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace reactor {
namespace {

using workers::ErrorHandler;
using workers::IsAlreadyQuit;
using workers::IWorker;
using workers::test::Gate;
using workers::test::MakeFixture;
using workers::test::WorkerFixture;
using workers::test::WorkerTraits;

// A reactor that runs in a thread of its own for as long as this lives.
class Running {
 public:
  Running() : thread_([this] { EXPECT_TRUE(reactor_->Run().ok()); }) {}
  ~Running() {
    EXPECT_TRUE(reactor_->CallFromThread([this] { EXPECT_TRUE(reactor_->Stop().ok()); }).ok());
    thread_.join();
  }
  EventReactor& operator*() { return *reactor_; }

 private:
  std::unique_ptr<EventReactor> reactor_ = *EventReactor::Create({.handle_signals = false});
  std::thread thread_;
};

class ReactorWorkerFixture : public WorkerFixture {
 public:
  WorkerTraits traits() const override { return {.exclusive = true}; }
  std::unique_ptr<IWorker> Make(ErrorHandler on_error) override {
    return std::make_unique<ReactorWorker>(*reactor_,
                                           ReactorWorkerOptions{.on_error = std::move(on_error)});
  }
  // The worker's destructor does not wait. The suite asks this when it is done with the worker:
  // what was taken has run when it returns.
  bool Step() override {
    Gate done;
    EXPECT_TRUE((*reactor_).CallFromThread([&] { done.Open(); }).ok());
    done.Wait();
    return false;
  }

 private:
  Running reactor_;
};

INSTANTIATE_TEST_SUITE_P(ReactorWorker, WorkerContract,
                         testing::Values(MakeFixture<ReactorWorkerFixture>()));

TEST(ReactorWorker, DoRunsOnTheReactorThreadAmongItsOtherCalls) {
  auto reactor = *EventReactor::Create({.handle_signals = false});
  ReactorWorker worker(*reactor);
  std::vector<std::string> log;
  ASSERT_TRUE(reactor->CallFromThread([&] { log.push_back("before"); }).ok());
  ASSERT_TRUE(worker
                  .Do([&] {
                    EXPECT_TRUE(reactor->InReactorThread());
                    workers::AssertDoneBy(worker);
                    log.push_back("work");
                  })
                  .ok());
  ASSERT_TRUE(reactor
                  ->CallFromThread([&] {
                    log.push_back("after");
                    EXPECT_TRUE(reactor->Stop().ok());
                  })
                  .ok());
  ASSERT_TRUE(reactor->Run().ok());
  EXPECT_THAT(log, testing::ElementsAre("before", "work", "after"));
}

TEST(ReactorWorker, QuitClosesTheWorkerAndNotTheLoop) {
  Running reactor;
  ReactorWorker worker(*reactor, {.name = "mine"});
  EXPECT_TRUE(worker.Quit().ok());
  EXPECT_EQ(worker.Do([] {}).message(), "mine has already quit");
  Gate ran;
  ASSERT_TRUE((*reactor).CallFromThread([&] { ran.Open(); }).ok());
  ran.Wait();
}

// The draft in the original's branch called an attribute that does not exist.
TEST(ReactorWorker, QuitMayStopTheReactor) {
  auto reactor = *EventReactor::Create({.handle_signals = false});
  ReactorWorker worker(*reactor, {.quit_stops_reactor = reactor.get()});
  bool ran = false;
  ASSERT_TRUE(worker
                  .Do([&] {
                    EXPECT_TRUE(worker.Do([&] { ran = true; }).ok());
                    EXPECT_TRUE(worker.Quit().ok());
                  })
                  .ok());
  EXPECT_TRUE(reactor->Run().ok());
  EXPECT_TRUE(ran);
}

TEST(ReactorWorker, MayOutliveItsReactor) {
  auto reactor = *EventReactor::Create({.on_error = [](const workers::ErrorReport&) {}});
  ReactorWorker worker(*reactor);
  auto token = std::make_shared<int>();
  ASSERT_TRUE(worker.Do([token] { FAIL(); }).ok());
  reactor = nullptr;
  EXPECT_EQ(token.use_count(), 1);
  workers::Work work = [] { FAIL(); };
  EXPECT_TRUE(IsAlreadyQuit(worker.Do(std::move(work))));
  EXPECT_TRUE(work != nullptr);
  EXPECT_TRUE(worker.Quit().ok());
}

TEST(ReactorWorker, ADeferredThatIsMadeInItsWorkIsAtHomeInTheLoop) {
  auto reactor = *EventReactor::Create({.handle_signals = false});
  ReactorWorker worker(*reactor);
  Promise<int> promise;
  int result = 0;
  ASSERT_TRUE(worker
                  .Do([&] {
                    auto [deferred, its_promise] = MakeDeferred<int>();
                    promise = std::move(its_promise);
                    std::move(deferred)
                        .AddCallback([&](int value) {
                          result = value;
                          EXPECT_TRUE(reactor->Stop().ok());
                        })
                        .Detach();
                  })
                  .ok());
  ASSERT_TRUE(reactor->CallFromThread([&] { EXPECT_TRUE(promise.Callback(7).ok()); }).ok());
  ASSERT_TRUE(reactor->Run().ok());
  EXPECT_EQ(result, 7);
}

TEST(ReactorWorker, CoordinatesATeam) {
  Running reactor;
  workers::TeamOptions options;
  options.coordinator = std::make_unique<ReactorWorker>(*reactor);
  options.create_worker = [] { return workers::ThreadWorker::Create(); };
  options.limits.hard_limit = 2;
  auto team = *workers::Team::Create(std::move(options));
  Gate first;
  Gate second;
  // Each waits for the other: it takes two threads.
  ASSERT_TRUE(team->Do([&] {
                    first.Open();
                    second.Wait();
                  })
                  .ok());
  ASSERT_TRUE(team->Do([&] {
                    second.Open();
                    first.Wait();
                  })
                  .ok());
  EXPECT_TRUE(team->Quit().ok());
  EXPECT_TRUE(team->Join().ok());
  EXPECT_EQ(team->statistics().completed, 2);
}

}  // namespace
}  // namespace reactor
