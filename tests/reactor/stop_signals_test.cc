#include "reactor/stop_signals.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <iterator>
#include <memory>

#include "gtest/gtest.h"

namespace reactor {
namespace {

constexpr int kAll[] = {SIGINT, SIGTERM, SIGHUP};

// Whatever the program was started with, each test begins with the system's handlers.
class StopSignalsTest : public testing::Test {
 protected:
  StopSignalsTest() {
    for (size_t i = 0; i < std::size(kAll); ++i) {
      sigaction(kAll[i], nullptr, &before_[i]);
      signal(kAll[i], SIG_DFL);
    }
  }
  ~StopSignalsTest() override {
    for (size_t i = 0; i < std::size(kAll); ++i) sigaction(kAll[i], &before_[i], nullptr);
  }
  static void (*Handler(int signal))(int) {
    struct sigaction now;
    sigaction(signal, nullptr, &now);
    return now.sa_handler;
  }
  static bool IsReadable(const StopSignals& signals) { return IsReadable(signals.fd()); }
  static bool IsReadable(int fd) {
    pollfd one = {fd, POLLIN, 0};
    return poll(&one, 1, 0) == 1;
  }

 private:
  struct sigaction before_[3];
};

TEST_F(StopSignalsTest, EachSignalIsHeardByEachThatLives) {
  auto a = *StopSignals::Install();
  auto b = *StopSignals::Install();
  for (int signal : kAll) {
    EXPECT_FALSE(IsReadable(*a));
    raise(signal);
    for (StopSignals* signals : {a.get(), b.get()}) {
      EXPECT_TRUE(IsReadable(*signals));
      const StopSignals::Taken taken = signals->Take();
      EXPECT_EQ(taken.count, 1);
      EXPECT_EQ(taken.signal, signal);
      EXPECT_FALSE(IsReadable(*signals));
      EXPECT_EQ(signals->Take().count, 0);
    }
  }
  b = nullptr;
  raise(SIGTERM);
  raise(SIGTERM);
  EXPECT_EQ(a->Take().count, 2);
}

TEST_F(StopSignalsTest, TheLastOnePutsTheHandlersBack) {
  static int told = 0;
  const auto own = [](int) { ++told; };
  signal(SIGTERM, own);
  auto a = *StopSignals::Install();
  auto b = *StopSignals::Install();
  EXPECT_NE(Handler(SIGINT), SIG_DFL);
  a = nullptr;
  raise(SIGTERM);
  EXPECT_EQ(told, 0);
  EXPECT_EQ(b->Take().count, 1);
  b = nullptr;
  EXPECT_EQ(Handler(SIGINT), SIG_DFL);
  EXPECT_EQ(Handler(SIGHUP), SIG_DFL);
  raise(SIGTERM);
  EXPECT_EQ(told, 1);
}

TEST_F(StopSignalsTest, WhatIsIgnoredStaysIgnored) {
  signal(SIGHUP, SIG_IGN);
  auto signals = *StopSignals::Install();
  EXPECT_EQ(Handler(SIGHUP), SIG_IGN);
  signals = nullptr;
  EXPECT_EQ(Handler(SIGHUP), SIG_IGN);
}

TEST_F(StopSignalsTest, WhatSomebodyHasReplacedMeanwhileStays) {
  const auto theirs = [](int) {};
  auto signals = *StopSignals::Install();
  signal(SIGINT, theirs);
  signals = nullptr;
  EXPECT_EQ(Handler(SIGINT), +theirs);
  EXPECT_EQ(Handler(SIGTERM), SIG_DFL);
}

TEST_F(StopSignalsTest, LeavingsOfTheLastAreNotHeardByTheNext) {
  auto signals = *StopSignals::Install();
  raise(SIGINT);
  signals = nullptr;
  signals = *StopSignals::Install();
  EXPECT_FALSE(IsReadable(*signals));
  EXPECT_EQ(signals->Take().count, 0);
}

// Descriptors are shared with the child of a fork; the signals of one are not the other's.
TEST_F(StopSignalsTest, AChildOfAForkHasItsOwn) {
  auto lives = *StopSignals::Install();
  auto gone = *StopSignals::Install();
  const int free_fd = gone->fd();
  gone = nullptr;
  const pid_t child = fork();
  if (child == 0) {
    auto own = *StopSignals::Install();
    raise(SIGTERM);
    bool good = IsReadable(*own) && own->Take().count == 1;
    raise(SIGTERM);
    lives = nullptr;  // the parent's
    good = good && Handler(SIGTERM) != SIG_DFL;
    own = nullptr;
    _exit(good && Handler(SIGTERM) == SIG_DFL ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(IsReadable(*lives));
  EXPECT_FALSE(IsReadable(free_fd));
  lives = nullptr;
  EXPECT_EQ(Handler(SIGTERM), SIG_DFL);
}

}  // namespace
}  // namespace reactor
