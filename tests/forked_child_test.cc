#include "tests/forked_child.h"

#include <stdexcept>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace workers::test {
namespace {

TEST(ForkedChild, ReturnsWhatTheChildSays) {
  int here = 1;
  EXPECT_EQ(InForkedChild([&]() -> std::string {
              here = 2;
              return "";
            }),
            "");
  EXPECT_EQ(here, 1);
  EXPECT_EQ(InForkedChild([] { return std::string(10'000, 'x'); }), std::string(10'000, 'x'));
}

TEST(ForkedChild, SaysHowAChildEndsThatSaysNothing) {
  EXPECT_EQ(InForkedChild([]() -> std::string { throw std::runtime_error("boom"); }),
            "threw: boom");
  EXPECT_EQ(InForkedChild([]() -> std::string { _exit(3); }), "the child ended with exit status 3");
  EXPECT_EQ(InForkedChild([]() -> std::string {
              raise(SIGKILL);
              return "";
            }),
            "the child died of signal 9");
  EXPECT_EQ(InForkedChild(
                []() -> std::string {
                  for (;;) pause();
                },
                /*seconds=*/1),
            "the child hung");
}

}  // namespace
}  // namespace workers::test
