// Every reactor keeps the contract.

#include "reactor/testing/reactor_contract.h"

#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "reactor/event_reactor.h"
#include "reactor/poll_poller.h"
#include "reactor/poller.h"
#include "reactor/testing/clock.h"
#include "reactor/testing/memory_reactor.h"
#include "workers/worker.h"

namespace reactor {
namespace {

test::ReactorParts MakeEpoll(workers::ErrorHandler on_error) {
  return test::PartsOf(
      *EventReactor::Create({.on_error = std::move(on_error), .handle_signals = false}));
}

test::ReactorParts MakePoll(workers::ErrorHandler on_error) {
  return test::PartsOf(
      *EventReactor::Create({.create_poller = [] { return std::make_unique<PollPoller>(); },
                             .on_error = std::move(on_error),
                             .handle_signals = false}));
}

test::ReactorParts MakeMemory(workers::ErrorHandler on_error) {
  auto reactor = std::make_unique<test::MemoryReactor>(
      test::MemoryReactorOptions{.on_error = std::move(on_error)});
  test::MemoryReactor* const memory = reactor.get();
  test::ReactorParts parts = test::PartsOf(std::move(reactor));
  parts.set_ready = [memory](IDescriptor& d, Interest ready) { memory->SetReady(d, ready); };
  return parts;
}

INSTANTIATE_TEST_SUITE_P(Epoll, ReactorContract, testing::Values(test::ReactorFactory(MakeEpoll)));
INSTANTIATE_TEST_SUITE_P(Poll, ReactorContract, testing::Values(test::ReactorFactory(MakePoll)));
INSTANTIATE_TEST_SUITE_P(Memory, ReactorContract,
                         testing::Values(test::ReactorFactory(MakeMemory)));

INSTANTIATE_TEST_SUITE_P(Epoll, ReactorTimeContract,
                         testing::Values(test::TimeFactory([](workers::ErrorHandler on_error) {
                           return test::TimeOf(MakeEpoll(std::move(on_error)));
                         })));
INSTANTIATE_TEST_SUITE_P(Memory, ReactorTimeContract,
                         testing::Values(test::TimeFactory([](workers::ErrorHandler on_error) {
                           return test::TimeOf(MakeMemory(std::move(on_error)));
                         })));
INSTANTIATE_TEST_SUITE_P(Clock, ReactorTimeContract,
                         testing::Values(test::TimeFactory([](workers::ErrorHandler on_error) {
                           auto clock = std::make_shared<test::Clock>(std::move(on_error));
                           return test::TimeParts{
                               .owner = clock,
                               .time = clock.get(),
                               .pass = [c = clock.get()](absl::Duration d) {
                                 c->Pump({absl::ZeroDuration(), absl::ZeroDuration(), d});
                               }};
                         })));

}  // namespace
}  // namespace reactor
