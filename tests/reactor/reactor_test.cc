#include "reactor/reactor.h"

#include <type_traits>

#include "gtest/gtest.h"
#include "reactor/event_reactor.h"
#include "reactor/testing/clock.h"

namespace reactor {
namespace {

// What needs one interface takes only that one, and the reactor has all of them.
TEST(Reactor, OneObjectHasAllInterfaces) {
  static_assert(std::is_convertible_v<EventReactor*, IReactorTime*>);
  static_assert(std::is_convertible_v<EventReactor*, IReactorThreads*>);
  static_assert(std::is_convertible_v<EventReactor*, IReactorCore*>);
  static_assert(std::is_convertible_v<EventReactor*, IReactorDescriptors*>);
  static_assert(std::is_convertible_v<test::Clock*, IReactorTime*>);
  auto reactor = EventReactor::Create();
  ASSERT_TRUE(reactor.ok());
  IReactorCore& core = **reactor;
  IReactorThreads& threads = **reactor;
  EXPECT_FALSE(core.running());
  EXPECT_FALSE(threads.running());
  EXPECT_TRUE(core.CallWhenRunning([&] {
                    EXPECT_TRUE(threads.running());
                    EXPECT_TRUE(core.Stop().ok());
                  })
                  .ok());
  EXPECT_TRUE(core.Run().ok());
}

}  // namespace
}  // namespace reactor
