#include "workers/quit_flag.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "workers/worker.h"

namespace workers {
namespace {

TEST(QuitFlag, IsInitiallyNotSet) {
  QuitFlag flag;
  EXPECT_FALSE(flag.IsSet());
  EXPECT_TRUE(flag.Check().ok());
}

TEST(QuitFlag, SetSets) {
  QuitFlag flag;
  EXPECT_TRUE(flag.Set().ok());
  EXPECT_TRUE(flag.IsSet());
}

TEST(QuitFlag, CheckAfterSetIsAlreadyQuit) {
  QuitFlag flag("disk");
  EXPECT_TRUE(flag.Set().ok());
  EXPECT_TRUE(IsAlreadyQuit(flag.Check()));
  EXPECT_EQ(flag.Check().message(), "disk has already quit");
}

TEST(QuitFlag, SetTwiceIsAlreadyQuit) {
  QuitFlag flag;
  EXPECT_TRUE(flag.Set().ok());
  EXPECT_TRUE(IsAlreadyQuit(flag.Set()));
  EXPECT_TRUE(flag.IsSet());
}

TEST(QuitFlag, OfManySettersOneWins) {
  for (int round = 0; round < 200; ++round) {
    QuitFlag flag;
    std::atomic<int> winners = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        if (flag.Set().ok()) ++winners;
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(winners, 1);
  }
}

}  // namespace
}  // namespace workers
