#include "reactor/epoll_poller.h"

#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

// What holds for every poller is in poller_test.cc.
namespace reactor {
namespace {

TEST(EpollPoller, WithNoDescriptorLeftSaysSo) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none = {0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status status = EpollPoller::Create().status();
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

// dup2 onto itself is no change; dup2 of the same file back onto its number is, for epoll, one.
TEST(EpollPoller, AFileThatComesBackUnderItsNumberIsRegisteredAnew) {
  auto poller = *EpollPoller::Create();
  const int fd = eventfd(1, EFD_NONBLOCK);
  const int duplicate = dup(fd);
  const PollToken old = *poller->Add(fd, {.read = true});
  close(fd);
  ASSERT_EQ(dup2(duplicate, fd), fd);
  poller->Remove(old);
  const auto token = poller->Add(fd, {.read = true});
  ASSERT_TRUE(token.ok()) << token.status();
  std::vector<Ready> ready;
  ASSERT_TRUE(poller->Wait(absl::InfiniteDuration(), ready).ok());
  ASSERT_THAT(ready, testing::SizeIs(1));
  EXPECT_EQ(ready[0].token, *token);
  close(duplicate);
  close(fd);
}

}  // namespace
}  // namespace reactor
