#include "workers/testing/counting_thread_factory.h"

#include <utility>

namespace workers::test {

struct CountingThreadFactory::Record {
  explicit Record(Work main) : main(std::move(main)) {}

  Work main;                             // the starter's until the thread runs, then the thread's
  internal::Atomic<bool> ended = false;  // `main` has returned and is destroyed
  std::unique_ptr<Thread> thread;        // the owner's, then the factory's
};

class CountingThreadFactory::CountedThread final : public Thread {
 public:
  CountedThread(CountingThreadFactory& factory, std::shared_ptr<Record> record)
      : factory_(factory), record_(std::move(record)) {}

  ~CountedThread() override {
    if (record_ == nullptr) return;
    factory_.orphaned_.fetch_add(1);
    internal::MutexLock lock(factory_.mutex_);
    factory_.orphans_.push_back(std::move(record_));
  }

  void Join() override {
    record_->thread->Join();
    record_ = nullptr;
    factory_.joined_.fetch_add(1);
  }

 private:
  CountingThreadFactory& factory_;
  std::shared_ptr<Record> record_;  // null once it is joined
};

CountingThreadFactory::CountingThreadFactory() : inner_(CreateThreadFactory()) {}

CountingThreadFactory::~CountingThreadFactory() { Finish(); }

void CountingThreadFactory::Finish() { JoinOrphans(/*wait_for_the_running=*/true); }

absl::StatusOr<std::unique_ptr<Thread>> CountingThreadFactory::Start(const ThreadOptions& options,
                                                                     Work&& main) {
  if (!main) return inner_->Start(options, std::move(main));  // which says what is wrong
  Reap();
  auto record = std::make_shared<Record>(std::move(main));
  auto thread = inner_->Start(options, [record] {
    std::move(record->main)();
    record->main = nullptr;
    record->ended.store(true);
  });
  if (!thread.ok()) {
    main = std::move(record->main);
    return thread.status();
  }
  record->thread = *std::move(thread);
  started_.fetch_add(1);
  return std::make_unique<CountedThread>(*this, std::move(record));
}

size_t CountingThreadFactory::Reap() { return JoinOrphans(/*wait_for_the_running=*/false); }

size_t CountingThreadFactory::JoinOrphans(bool wait_for_the_running) {
  std::vector<std::shared_ptr<Record>> mine;
  {
    internal::MutexLock lock(mutex_);
    std::vector<std::shared_ptr<Record>> left;
    for (std::shared_ptr<Record>& orphan : orphans_) {
      (wait_for_the_running || orphan->ended.load() ? mine : left).push_back(std::move(orphan));
    }
    orphans_ = std::move(left);
  }
  for (const std::shared_ptr<Record>& orphan : mine) {
    orphan->thread->Join();
    joined_.fetch_add(1);
  }
  return mine.size();
}

}  // namespace workers::test
