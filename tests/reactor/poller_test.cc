#include "reactor/poller.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reactor/epoll_poller.h"
#include "reactor/poll_poller.h"
#include "workers/internal/sync.h"

namespace reactor {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

TEST(PollMilliseconds, RoundsUpAndKnowsForEver) {
  EXPECT_EQ(PollMilliseconds(absl::ZeroDuration()), 0);
  EXPECT_EQ(PollMilliseconds(-absl::Seconds(1)), 0);
  EXPECT_EQ(PollMilliseconds(absl::Nanoseconds(1)), 1);
  EXPECT_EQ(PollMilliseconds(absl::Milliseconds(1)), 1);
  EXPECT_EQ(PollMilliseconds(absl::Milliseconds(1) + absl::Nanoseconds(1)), 2);
  EXPECT_EQ(PollMilliseconds(absl::InfiniteDuration()), -1);
  EXPECT_EQ(PollMilliseconds(absl::Hours(24 * 365 * 100)), std::numeric_limits<int>::max());
}

class FilePair {
 public:
  FilePair() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds_), 0); }
  ~FilePair() {
    for (int fd : fds_) {
      if (fd >= 0) close(fd);
    }
  }
  int near() const { return fds_[0]; }
  int far() const { return fds_[1]; }
  void Send() { EXPECT_EQ(write(fds_[1], "x", 1), 1); }
  void CloseNear() { close(std::exchange(fds_[0], -1)); }
  void CloseFar() { close(std::exchange(fds_[1], -1)); }

 private:
  int fds_[2];
};

using Maker = std::function<std::unique_ptr<Poller>()>;

// What every poller promises.
class PollerTest : public testing::TestWithParam<Maker> {
 protected:
  PollToken Add(int fd, Interest interest) {
    auto token = poller_->Add(fd, interest);
    EXPECT_TRUE(token.ok()) << token.status();
    return token.value_or(0);
  }
  std::vector<Ready> Wait(absl::Duration timeout = absl::ZeroDuration()) {
    std::vector<Ready> ready = {{}, {}};  // leavings
    EXPECT_TRUE(poller_->Wait(timeout, ready).ok());
    return ready;
  }

  std::unique_ptr<Poller> poller_ = GetParam()();
};

constexpr Interest kRead = {.read = true};
constexpr Interest kWrite = {.write = true};
constexpr Interest kBoth = {.read = true, .write = true};

TEST_P(PollerTest, TellsWhatIsReadyForAsLongAsItIs) {
  FilePair pair;
  const PollToken token = Add(pair.near(), kRead);
  EXPECT_THAT(Wait(), IsEmpty());
  pair.Send();
  for (int i = 0; i < 3; ++i) {
    const std::vector<Ready> ready = Wait(absl::InfiniteDuration());
    ASSERT_THAT(ready, SizeIs(1));
    EXPECT_EQ(ready[0].token, token);
    EXPECT_TRUE(ready[0].read);
    EXPECT_FALSE(ready[0].write);
    EXPECT_FALSE(ready[0].closed);
  }
  char byte;
  ASSERT_EQ(read(pair.near(), &byte, 1), 1);
  EXPECT_THAT(Wait(), IsEmpty());
}

TEST_P(PollerTest, TellsOnlyWhatWasAskedFor) {
  FilePair pair;
  pair.Send();
  const PollToken token = Add(pair.near(), kWrite);
  ASSERT_THAT(Wait(), SizeIs(1));
  EXPECT_FALSE(Wait()[0].read);
  EXPECT_TRUE(Wait()[0].write);
  ASSERT_TRUE(poller_->Change(token, kBoth).ok());
  ASSERT_THAT(Wait(), SizeIs(1));
  EXPECT_TRUE(Wait()[0].read);
  EXPECT_TRUE(Wait()[0].write);
  ASSERT_TRUE(poller_->Change(token, kRead).ok());
  EXPECT_TRUE(Wait()[0].read);
  EXPECT_FALSE(Wait()[0].write);
}

TEST_P(PollerTest, AHangUpIsReadyForWhatWasAsked) {
  FilePair reads;
  FilePair writes;
  const PollToken reader = Add(reads.near(), kRead);
  const PollToken writer = Add(writes.near(), kWrite);
  reads.CloseFar();
  writes.CloseFar();
  const std::vector<Ready> ready = Wait();
  ASSERT_THAT(ready, SizeIs(2));
  for (const Ready& one : ready) {
    EXPECT_EQ(one.read, one.token == reader);
    EXPECT_EQ(one.write, one.token == writer);
  }
}

TEST_P(PollerTest, WhatIsRemovedIsNotTold) {
  FilePair pair;
  pair.Send();
  const PollToken token = Add(pair.near(), kRead);
  EXPECT_TRUE(poller_->IsCurrent(token));
  poller_->Remove(token);
  EXPECT_FALSE(poller_->IsCurrent(token));
  EXPECT_THAT(Wait(), IsEmpty());
  poller_->Remove(token);  // again is ignored
  EXPECT_TRUE(absl::IsNotFound(poller_->Change(token, kRead)));
  EXPECT_NE(Add(pair.near(), kRead), token);
  EXPECT_THAT(Wait(), SizeIs(1));
}

TEST_P(PollerTest, WhatCannotBeRegisteredIsAnError) {
  FilePair pair;
  const PollToken token = Add(pair.near(), kRead);
  EXPECT_TRUE(absl::IsAlreadyExists(poller_->Add(pair.near(), kRead).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(poller_->Add(pair.far(), Interest()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(poller_->Add(-1, kRead).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(poller_->Change(token, Interest())));
  const int closed = pair.far();
  pair.CloseFar();
  EXPECT_TRUE(absl::IsFailedPrecondition(poller_->Add(closed, kRead).status()));
}

// The number of a closed descriptor comes back: what was told of the old one is not current.
TEST_P(PollerTest, ANumberThatComesBackHasANewToken) {
  FilePair old;
  old.Send();
  const int number = old.near();
  const PollToken old_token = Add(number, kRead);
  const std::vector<Ready> ready = Wait();
  ASSERT_THAT(ready, SizeIs(1));
  old.CloseNear();
  poller_->Remove(old_token);  // after it was closed
  FilePair fresh;
  ASSERT_EQ(dup2(fresh.near(), number), number);
  const PollToken token = Add(number, kRead);
  EXPECT_FALSE(poller_->IsCurrent(ready[0].token));
  EXPECT_THAT(Wait(), IsEmpty());
  fresh.Send();
  ASSERT_THAT(Wait(), SizeIs(1));
  EXPECT_EQ(Wait()[0].token, token);
  close(number);
}

// A duplicate keeps the old file open behind the poller's back.
TEST_P(PollerTest, AClosedDescriptorWithADuplicateTellsNothing) {
  FilePair old;
  old.Send();
  const int number = old.near();
  const int duplicate = dup(number);
  const PollToken token = Add(number, kRead);
  old.CloseNear();
  poller_->Remove(token);
  FilePair fresh;
  ASSERT_EQ(dup2(fresh.near(), number), number);
  const PollToken fresh_token = Add(number, kRead);
  EXPECT_THAT(Wait(), IsEmpty());
  // Nor does it keep a Wait from waiting, time and again.
  const absl::Duration begin = workers::internal::SteadyNow();
  EXPECT_THAT(Wait(absl::Milliseconds(20)), IsEmpty());
  EXPECT_GE(workers::internal::SteadyNow() - begin, absl::Milliseconds(20));
  fresh.Send();
  ASSERT_THAT(Wait(absl::InfiniteDuration()), SizeIs(1));
  EXPECT_EQ(Wait()[0].token, fresh_token);
  close(duplicate);
  close(number);
}

TEST_P(PollerTest, RegularFilesAreAlwaysReady) {
  std::string path = testing::TempDir() + "/poller_test.XXXXXX";
  const int file = mkstemp(path.data());
  ASSERT_GE(file, 0);
  unlink(path.c_str());
  FilePair pair;
  Add(pair.near(), kRead);
  const PollToken token = Add(file, kRead);
  for (int i = 0; i < 2; ++i) {
    const std::vector<Ready> ready = Wait(absl::InfiniteDuration());
    ASSERT_THAT(ready, SizeIs(1));
    EXPECT_EQ(ready[0].token, token);
    EXPECT_TRUE(ready[0].read);
    EXPECT_FALSE(ready[0].write);
  }
  ASSERT_TRUE(poller_->Change(token, kBoth).ok());
  EXPECT_TRUE(Wait()[0].write);
  pair.Send();
  EXPECT_THAT(Wait(), SizeIs(2));
  poller_->Remove(token);
  EXPECT_FALSE(poller_->IsCurrent(token));
  EXPECT_THAT(Wait(), SizeIs(1));
  close(file);
}

TEST_P(PollerTest, NeverWaitsShorterThanItIsAsked) {
  for (absl::Duration timeout : {absl::Nanoseconds(1), absl::Microseconds(900),
                                 absl::Microseconds(1001), absl::Microseconds(2500)}) {
    const absl::Duration begin = workers::internal::SteadyNow();
    EXPECT_THAT(Wait(timeout), IsEmpty());
    EXPECT_GE(workers::internal::SteadyNow() - begin, timeout);
  }
}

TEST_P(PollerTest, ASignalEndsTheWaitWithoutAnError) {
  struct sigaction action = {};
  struct sigaction before;
  action.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  workers::internal::Atomic<bool> done = false;
  const pthread_t waiter = pthread_self();
  // Until it is heard: the first may come before the wait.
  std::thread other([&] {
    while (!done.load()) {
      pthread_kill(waiter, SIGUSR1);
      poll(nullptr, 0, 1);
    }
  });
  EXPECT_THAT(Wait(absl::InfiniteDuration()), IsEmpty());
  done.store(true);
  other.join();
  sigaction(SIGUSR1, &before, nullptr);
}

TEST_P(PollerTest, MoreDescriptorsThanOneWaitTellsAreAllTold) {
  std::vector<std::unique_ptr<FilePair>> pairs;
  std::vector<PollToken> left;
  for (int i = 0; i < 300; ++i) {
    pairs.push_back(std::make_unique<FilePair>());
    pairs.back()->Send();
    left.push_back(Add(pairs.back()->near(), kRead));
  }
  for (int round = 0; round < 10 && !left.empty(); ++round) {
    for (const Ready& one : Wait()) std::erase(left, one.token);
  }
  EXPECT_THAT(left, IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Epoll, PollerTest, testing::Values([]() -> std::unique_ptr<Poller> {
                           return *EpollPoller::Create();
                         }));
INSTANTIATE_TEST_SUITE_P(Poll, PollerTest, testing::Values([]() -> std::unique_ptr<Poller> {
                           return std::make_unique<PollPoller>();
                         }));

}  // namespace
}  // namespace reactor
