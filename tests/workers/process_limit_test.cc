// A thread that the system really refuses to start loses nothing.
//
// The limit on a user's processes does not hold for root, so that root becomes nobody for the
// time of the test; that needs a run outside of the sandbox.

#include <sys/resource.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "workers/clock.h"
#include "workers/testing/gate.h"
#include "workers/thread_factory.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"

namespace workers {
namespace {

using test::Gate;

// Forbids this process, and takes back in the end, to start threads.
class NoMoreThreads {
 public:
  NoMoreThreads() {
    if (getuid() == 0) {
      EXPECT_EQ(setresuid(65534, 65534, 0), 0);
    }
    EXPECT_EQ(getrlimit(RLIMIT_NPROC, &before_), 0);
    rlimit none = before_;
    none.rlim_cur = 0;
    EXPECT_EQ(setrlimit(RLIMIT_NPROC, &none), 0);
  }
  ~NoMoreThreads() {
    EXPECT_EQ(setrlimit(RLIMIT_NPROC, &before_), 0);
    uid_t real, effective, saved;
    getresuid(&real, &effective, &saved);
    if (saved == 0) {
      EXPECT_EQ(setresuid(0, 0, 0), 0);
    }
  }

 private:
  rlimit before_;
};

TEST(ProcessLimit, AThreadThatTheSystemRefusesLosesNothing) {
  auto factory = CreateThreadFactory();
  SteadyClock clock({.factory = factory.get()});
  Gate main_ran;
  Gate work_ran;
  Work main = [&] { main_ran.Open(); };
  Work work = [&] { work_ran.Open(); };
  {
    NoMoreThreads limit;
    const absl::Status worker = ThreadWorker::Create({.factory = factory.get()}).status();
    EXPECT_TRUE(absl::IsResourceExhausted(worker)) << worker;
    const absl::Status thread = factory->Start({.name = "refused"}, std::move(main)).status();
    EXPECT_TRUE(absl::IsResourceExhausted(thread)) << thread;
    const absl::Status timed = clock.RunAt(clock.Now(), std::move(work));
    EXPECT_TRUE(absl::IsResourceExhausted(timed)) << timed;
    ASSERT_TRUE(main != nullptr);
    ASSERT_TRUE(work != nullptr);
  }
  // And when the system can again, so can we.
  auto worker = ThreadWorker::Create({.factory = factory.get()});
  ASSERT_TRUE(worker.ok()) << worker.status();
  auto thread = factory->Start({.name = "refused"}, std::move(main));
  ASSERT_TRUE(thread.ok()) << thread.status();
  (*thread)->Join();
  ASSERT_TRUE(clock.RunAt(clock.Now(), std::move(work)).ok());
  main_ran.Wait();
  work_ran.Wait();
}

}  // namespace
}  // namespace workers
