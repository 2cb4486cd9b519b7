#include "reactor/waker.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace reactor {
namespace {

bool IsReadable(const Waker& waker) {
  pollfd fd = {waker.fd(), POLLIN, 0};
  return poll(&fd, 1, 0) == 1;
}

TEST(Waker, IsReadableFromWakeToClear) {
  auto waker = *Waker::Create();
  EXPECT_FALSE(IsReadable(*waker));
  waker->Clear();  // of nothing does not wait
  waker->Wake();
  waker->Wake();
  EXPECT_TRUE(IsReadable(*waker));
  waker->Clear();
  EXPECT_FALSE(IsReadable(*waker));
  EXPECT_EQ(waker->writes(), 2);
}

TEST(Waker, EndsTheSleepOfAnotherThread) {
  auto waker = *Waker::Create();
  std::thread other([&] { waker->Wake(); });
  pollfd fd = {waker->fd(), POLLIN, 0};
  EXPECT_EQ(poll(&fd, 1, -1), 1);
  other.join();
}

// test_wakerOverflow: a waker that is full is awake, and nobody waits or fails.
TEST(Waker, AFullOneIsStillAwake) {
  auto waker = *Waker::Create();
  const uint64_t most = 0xfffffffffffffffe;
  ASSERT_EQ(write(waker->fd(), &most, sizeof(most)), static_cast<ssize_t>(sizeof(most)));
  errno = 7;
  waker->Wake();
  EXPECT_EQ(errno, 7);
  EXPECT_TRUE(IsReadable(*waker));
  waker->Clear();
  EXPECT_FALSE(IsReadable(*waker));
}

Waker* woken_by_signal = nullptr;

TEST(Waker, MayBeWokenInASignalHandler) {
  auto waker = *Waker::Create();
  woken_by_signal = waker.get();
  struct sigaction action = {};
  struct sigaction before;
  action.sa_handler = [](int) { woken_by_signal->Wake(); };
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  raise(SIGUSR1);
  sigaction(SIGUSR1, &before, nullptr);
  EXPECT_TRUE(IsReadable(*waker));
}

TEST(Waker, WithNoDescriptorLeftSaysSo) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none = {0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status status = Waker::Create().status();
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

}  // namespace
}  // namespace reactor
