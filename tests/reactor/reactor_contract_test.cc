// Every reactor keeps the contract.

#include "reactor/testing/reactor_contract.h"

#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "reactor/event_reactor.h"
#include "reactor/poll_poller.h"
#include "reactor/poller.h"
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

}  // namespace
}  // namespace reactor
