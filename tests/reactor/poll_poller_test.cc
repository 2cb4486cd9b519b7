#include "reactor/poll_poller.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

// What holds for every poller is in poller_test.cc.
namespace reactor {
namespace {

TEST(PollPoller, SeesThatARegisteredDescriptorWasClosed) {
  PollPoller poller;
  const int fd = eventfd(0, EFD_NONBLOCK);
  const PollToken token = *poller.Add(fd, {.read = true});
  close(fd);
  std::vector<Ready> ready;
  ASSERT_TRUE(poller.Wait(absl::InfiniteDuration(), ready).ok());
  ASSERT_THAT(ready, testing::SizeIs(1));
  EXPECT_EQ(ready[0].token, token);
  EXPECT_TRUE(ready[0].closed);
  EXPECT_TRUE(ready[0].read);
}

TEST(PollPoller, RemovingOneLeavesTheOthers) {
  PollPoller poller;
  std::vector<int> fds;
  std::vector<PollToken> tokens;
  for (int i = 0; i < 4; ++i) {
    fds.push_back(eventfd(1, EFD_NONBLOCK));
    tokens.push_back(*poller.Add(fds.back(), {.read = true}));
  }
  poller.Remove(tokens[1]);
  poller.Remove(tokens[3]);
  std::vector<Ready> ready;
  ASSERT_TRUE(poller.Wait(absl::InfiniteDuration(), ready).ok());
  std::vector<PollToken> told;
  for (const Ready& one : ready) told.push_back(one.token);
  EXPECT_THAT(told, testing::UnorderedElementsAre(tokens[0], tokens[2]));
  for (int fd : fds) close(fd);
}

}  // namespace
}  // namespace reactor
