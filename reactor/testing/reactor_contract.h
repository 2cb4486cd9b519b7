// What reactor/reactor.h and reactor_time.h promise as tests, for any reactor, yours too.
//
// Say how your reactor is made, and instantiate the suite:
//
//   INSTANTIATE_TEST_SUITE_P(
//       MyReactor, ReactorContract,
//       testing::Values(reactor::test::ReactorFactory([](workers::ErrorHandler on_error) {
//         return reactor::test::PartsOf(std::make_unique<MyReactor>(std::move(on_error)));
//       })));
//
// and depend on @iworker//reactor/testing:reactor_contract. Its Run has to stop by itself for
// Stop, and to handle no signals. Whatever the tests want of other threads they have got before
// they call Run: so the suite is also for a reactor whose time leaps, as that of a MemoryReactor.
//
// ReactorTimeContract is the part of it that is for anything that only can call later, as a Clock.

#ifndef REACTOR_TESTING_REACTOR_CONTRACT_H_
#define REACTOR_TESTING_REACTOR_CONTRACT_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "reactor/deferred.h"
#include "reactor/poller.h"
#include "reactor/reactor.h"
#include "reactor/reactor_time.h"
#include "workers/internal/sync.h"
#include "workers/thread_pool.h"
#include "workers/worker.h"

namespace reactor::test {

// One reactor, by its interfaces.
struct ReactorParts {
  std::shared_ptr<void> owner;
  IReactorTime* time = nullptr;
  IReactorThreads* threads = nullptr;
  IReactorCore* core = nullptr;
  IReactorDescriptors* descriptors = nullptr;
  // For a reactor that cannot see itself what is ready: it is told, before the object is added
  // and at each change.
  std::function<void(IDescriptor& d, Interest ready)> set_ready = {};
};

// Makes a reactor that tells `on_error` what goes wrong. Called several times by some tests.
using ReactorFactory = std::function<ReactorParts(workers::ErrorHandler on_error)>;

template <typename R>
ReactorParts PartsOf(std::unique_ptr<R> reactor) {
  const std::shared_ptr<R> owner = std::move(reactor);
  return {.owner = owner,
          .time = owner.get(),
          .threads = owner.get(),
          .core = owner.get(),
          .descriptors = owner.get()};
}

// Something that can call later.
struct TimeParts {
  std::shared_ptr<void> owner;
  IReactorTime* time = nullptr;
  // Lets so much time pass, and runs what becomes due; at least two turns. Called once.
  std::function<void(absl::Duration)> pass = {};
};

using TimeFactory = std::function<TimeParts(workers::ErrorHandler on_error)>;

// Time passes while the reactor runs.
TimeParts TimeOf(ReactorParts reactor);

}  // namespace reactor::test

// In the global namespace, so that INSTANTIATE_TEST_SUITE_P names it from anywhere.
class ReactorContract : public testing::TestWithParam<reactor::test::ReactorFactory> {
 protected:
  // All interfaces as one.
  class Reactor {
   public:
    explicit Reactor(reactor::test::ReactorParts parts) : parts_(std::move(parts)) {}

    const reactor::test::ReactorParts& parts() const { return parts_; }

    absl::Duration Now() const { return parts_.time->Now(); }
    absl::StatusOr<reactor::DelayedCall> CallLater(absl::Duration delay, workers::Work&& work) {
      return parts_.time->CallLater(delay, std::move(work));
    }

    absl::Status CallFromThread(workers::Work&& work) {
      return parts_.threads->CallFromThread(std::move(work));
    }
    absl::Status CallInThread(workers::Work&& work) {
      return parts_.threads->CallInThread(std::move(work));
    }
    absl::Status SuggestThreadPoolSize(int max) {
      return parts_.threads->SuggestThreadPoolSize(max);
    }
    absl::StatusOr<workers::ThreadPool*> thread_pool() { return parts_.threads->thread_pool(); }
    bool InReactorThread() const { return parts_.threads->InReactorThread(); }
    std::shared_ptr<workers::IExclusiveWorker> worker() { return parts_.threads->worker(); }
    absl::StatusOr<uint64_t> WatchEnd(std::function<void()> ended) {
      return parts_.threads->WatchEnd(std::move(ended));
    }
    void UnwatchEnd(uint64_t id) { parts_.threads->UnwatchEnd(id); }

    absl::Status Run() { return parts_.core->Run(); }
    absl::Status Stop() { return parts_.core->Stop(); }
    bool running() const {
      EXPECT_EQ(parts_.core->running(), parts_.threads->running());
      return parts_.core->running();
    }
    absl::Status CallWhenRunning(workers::Work&& work) {
      return parts_.core->CallWhenRunning(std::move(work));
    }
    absl::StatusOr<reactor::TriggerId> AddSystemEventTrigger(
        reactor::EventPhase phase, reactor::SystemEvent event,
        std::function<reactor::Deferred<void>()> f) {
      return parts_.core->AddSystemEventTrigger(phase, event, std::move(f));
    }
    absl::Status RemoveSystemEventTrigger(reactor::TriggerId id) {
      return parts_.core->RemoveSystemEventTrigger(id);
    }

    absl::Status AddReader(reactor::IReadDescriptor& d) { return parts_.descriptors->AddReader(d); }
    absl::Status AddWriter(reactor::IWriteDescriptor& d) {
      return parts_.descriptors->AddWriter(d);
    }
    absl::Status RemoveReader(reactor::IReadDescriptor& d) {
      return parts_.descriptors->RemoveReader(d);
    }
    absl::Status RemoveWriter(reactor::IWriteDescriptor& d) {
      return parts_.descriptors->RemoveWriter(d);
    }

   private:
    const reactor::test::ReactorParts parts_;
  };

  // Destroys the reactor that there is, and makes one.
  Reactor* New();
  void Destroy() { reactor_ = nullptr; }
  // What its error handler was told, as text: the status, and how many were dropped.
  std::vector<std::string> errors() const;

  // What the descriptors of the tests call. Level-triggered, as the reactor.
  void SetReady(reactor::IDescriptor& d, reactor::Interest ready);
  // Stops the loop when it has had `turns` more turns.
  void StopIn(int turns);

 private:
  mutable workers::internal::Mutex mutex_;
  std::vector<std::string> errors_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Reactor> reactor_;
};

class ReactorTimeContract : public testing::TestWithParam<reactor::test::TimeFactory> {
 protected:
  reactor::DelayedCall Later(absl::Duration delay, workers::Work work);
  absl::Duration Now() const { return parts_.time->Now(); }
  void Pass(absl::Duration time) { parts_.pass(time); }
  void Destroy() { parts_ = {}; }

  std::vector<std::string> errors_;
  reactor::test::TimeParts parts_ = GetParam()([this](const workers::ErrorReport& report) {
    errors_.push_back(std::string(report.status.message()) +
                      (report.dropped > 0 ? " " + std::to_string(report.dropped) : ""));
  });
};

#endif  // REACTOR_TESTING_REACTOR_CONTRACT_H_
