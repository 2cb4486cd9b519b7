#include "workers/thread_factory.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "workers/internal/misuse.h"
#include "workers/internal/report.h"
#include "workers/internal/sync.h"

namespace workers {
namespace {

constexpr size_t kMaxName = 15;  // what the system keeps of a thread's name

// The first `size` bytes at most, without half a UTF-8 character at the end.
absl::string_view Cut(absl::string_view text, size_t size) {
  if (text.size() <= size) return text;
  while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
  return text.substr(0, size);
}

// `name` with `tail` at its end, in at most kMaxName bytes.
std::string WithTail(absl::string_view name, absl::string_view tail) {
  return absl::StrCat(Cut(name, kMaxName - tail.size()), tail);
}

// `name` in at most kMaxName bytes; "-<number>" at its end, which tells threads apart, stays.
std::string ShortName(absl::string_view name) {
  if (name.empty()) return "worker";
  size_t dash = name.size();
  while (dash > 0 && absl::ascii_isdigit(static_cast<unsigned char>(name[dash - 1]))) --dash;
  absl::string_view tail = name.substr(dash);
  if (dash == 0 || tail.empty() || name[dash - 1] != '-' || tail.size() + 1 > kMaxName / 2) {
    return std::string(Cut(name, kMaxName));
  }
  return WithTail(name.substr(0, dash - 1), name.substr(dash - 1));
}

// The attributes of a thread that is to be started.
class Attributes {
 public:
  Attributes() { pthread_attr_init(&attributes_); }
  ~Attributes() { pthread_attr_destroy(&attributes_); }
  Attributes(const Attributes&) = delete;
  Attributes& operator=(const Attributes&) = delete;

  absl::Status Set(const ThreadOptions& options) {
    if (options.name.find('\0') != std::string::npos) {
      return absl::InvalidArgumentError("thread name: has a NUL byte");
    }
    if (options.stack_size != 0) {
      const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
      const size_t least = static_cast<size_t>(sysconf(_SC_THREAD_STACK_MIN));
      if (options.stack_size < least || options.stack_size > SIZE_MAX - page) {
        return absl::InvalidArgumentError(absl::StrCat("thread ", options.name, ": stack size ",
                                                       options.stack_size,
                                                       " is not possible; the least is ", least));
      }
      pthread_attr_setstacksize(&attributes_, (options.stack_size + page - 1) / page * page);
    }
    if (!options.cpus.empty()) {
      cpu_set_t cpus;
      CPU_ZERO(&cpus);
      for (int cpu : options.cpus) {
        if (cpu < 0 || cpu >= CPU_SETSIZE) {
          return absl::InvalidArgumentError(
              absl::StrCat("thread ", options.name, ": there is no processor ", cpu));
        }
        CPU_SET(cpu, &cpus);
      }
      pthread_attr_setaffinity_np(&attributes_, sizeof(cpus), &cpus);
    }
    return absl::OkStatus();
  }

  const pthread_attr_t& get() const { return attributes_; }

 private:
  pthread_attr_t attributes_;
};

// One started thread, as seen by itself, its owner and its factory.
struct Record {
  explicit Record(Work main) : main(std::move(main)) {}

  Work main;                             // the starter's until the thread runs, then the thread's
  std::string name;                      // what the system shows; set before the thread runs
  internal::NativeThread native;         // the starter's
  internal::Atomic<bool> ended = false;  // nothing but the return from the thread is left
};

// What the factory's threads share with it.
struct State {
  internal::Mutex mutex;
  std::set<std::string> names ABSL_GUARDED_BY(mutex);  // of the living
  std::vector<std::shared_ptr<Record>> orphans ABSL_GUARDED_BY(mutex);
  size_t owned ABSL_GUARDED_BY(mutex) = 0;  // threads whose owner may still join them

  std::string TakeName(absl::string_view wanted) {
    const std::string name = ShortName(wanted);
    internal::MutexLock lock(mutex);
    std::string unique = name;
    for (int n = 2; !names.insert(unique).second; ++n) {
      unique = WithTail(name, absl::StrCat("~", n));
    }
    return unique;
  }

  void GiveNameBack(const std::string& name) {
    internal::MutexLock lock(mutex);
    names.erase(name);
  }
};

struct StartedThread {
  std::shared_ptr<State> state;
  std::shared_ptr<Record> record;
};

void* ThreadMain(void* argument) {
  StartedThread self = std::move(*static_cast<StartedThread*>(argument));
  delete static_cast<StartedThread*>(argument);
  pthread_setname_np(pthread_self(), self.record->name.c_str());
  // At the end of the scope: also when the thread is ended by force.
  absl::Cleanup end([&self] {
    self.record->main = nullptr;
    self.state->GiveNameBack(self.record->name);
    self.record->ended.store(true);
  });
  std::move(self.record->main)();
  return nullptr;
}

class SystemThread final : public Thread {
 public:
  SystemThread(std::shared_ptr<State> state, std::shared_ptr<Record> record)
      : state_(std::move(state)), record_(std::move(record)) {
    internal::MutexLock lock(state_->mutex);
    ++state_->owned;
  }

  ~SystemThread() override {
    if (record_ == nullptr) return;
    internal::MutexLock lock(state_->mutex);
    state_->orphans.push_back(std::move(record_));
    --state_->owned;
  }

  void Join() override {
    if (record_ == nullptr) internal::DieOfMisuse("Thread::Join: called twice");
    if (record_->native.IsCurrent()) {
      internal::DieOfMisuse("Thread::Join: called on the thread itself");
    }
    record_->native.Join();
    record_ = nullptr;
    internal::MutexLock lock(state_->mutex);
    --state_->owned;
  }

 private:
  const std::shared_ptr<State> state_;
  std::shared_ptr<Record> record_;  // null once it is joined
};

class SystemThreadFactory final : public ThreadFactory {
 public:
  SystemThreadFactory() { internal::ForkCount::Watch(); }

  ~SystemThreadFactory() override {
    if (IsInForkedChild()) {
      new std::shared_ptr<State>(std::move(state_));  // leaked: its threads and lock are not ours
      return;
    }
    {
      internal::MutexLock lock(state_->mutex);
      if (state_->owned != 0) {
        internal::DieOfMisuse("ThreadFactory: destroyed before the owner of one of its threads");
      }
    }
    JoinOrphans();
  }

  // Waits for every orphan except the calling thread.
  void JoinOrphans() {
    for (const std::shared_ptr<Record>& orphan : TakeOrphans([](const Record&) { return true; })) {
      orphan->native.Join();
    }
  }

  bool IsInForkedChild() const { return fork_count_ != internal::ForkCount::Get(); }

  // ThreadFactory implementation:
  absl::StatusOr<std::unique_ptr<Thread>> Start(const ThreadOptions& options,
                                                Work&& main) override {
    if (IsInForkedChild()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "thread ", options.name, ": its factory belongs to the parent of this forked process"));
    }
    if (!main) return internal::EmptyWorkError(absl::StrCat("thread ", options.name));
    Attributes attributes;
    if (absl::Status status = attributes.Set(options); !status.ok()) return status;
    Reap();

    auto record = std::make_shared<Record>(std::move(main));
    record->name = state_->TakeName(options.name);
    auto started = std::make_unique<StartedThread>(StartedThread{state_, record});
    const int error =
        internal::NativeThread::Start(attributes.get(), ThreadMain, started.get(), record->native);
    if (error != 0) {
      state_->GiveNameBack(record->name);
      main = std::move(record->main);
      return StartError(options, error);
    }
    started.release();  // the thread's
    return std::make_unique<SystemThread>(state_, std::move(record));
  }

  size_t Reap() override {
    if (IsInForkedChild()) return 0;
    const auto ended = TakeOrphans([](const Record& record) { return record.ended.load(); });
    for (const std::shared_ptr<Record>& orphan : ended) orphan->native.Join();
    return ended.size();
  }

 private:
  static absl::Status StartError(const ThreadOptions& options, int error) {
    const std::string message = absl::StrCat(
        "thread ", options.name, ": the system cannot start it: ", std::strerror(error));
    // EINVAL can only mean the processors here: the rest was checked before.
    return error == EINVAL ? absl::InvalidArgumentError(message)
                           : absl::ResourceExhaustedError(message);
  }

  // Takes the orphans for which `which` is true out of the list. The calling thread, which
  // cannot join itself, stays in it.
  template <typename Which>
  std::vector<std::shared_ptr<Record>> TakeOrphans(Which which) {
    internal::MutexLock lock(state_->mutex);
    auto taken = std::partition(
        state_->orphans.begin(), state_->orphans.end(),
        [&](const auto& orphan) { return orphan->native.IsCurrent() || !which(*orphan); });
    std::vector<std::shared_ptr<Record>> result(taken, state_->orphans.end());
    state_->orphans.erase(taken, state_->orphans.end());
    return result;
  }

  const int fork_count_ = internal::ForkCount::Get();
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

// The process-wide factory. Never destroyed; replaced, and the parent's leaked, in the child
// of a fork.
class DefaultFactory final : public ThreadFactory {
 public:
  DefaultFactory() : current_(new SystemThreadFactory) {
    std::atexit([] {
      auto& self = static_cast<DefaultFactory&>(DefaultThreadFactory());
      SystemThreadFactory& factory = *self.current_.load();
      if (!factory.IsInForkedChild()) factory.JoinOrphans();
    });
  }

  // ThreadFactory implementation:
  absl::StatusOr<std::unique_ptr<Thread>> Start(const ThreadOptions& options,
                                                Work&& main) override {
    return Current().Start(options, std::move(main));
  }
  size_t Reap() override { return Current().Reap(); }

 private:
  SystemThreadFactory& Current() {
    SystemThreadFactory* factory = current_.load();
    if (factory->IsInForkedChild()) {
      auto fresh = std::make_unique<SystemThreadFactory>();
      if (current_.compare_exchange_strong(factory, fresh.get())) return *fresh.release();
    }
    return *factory;
  }

  internal::Atomic<SystemThreadFactory*> current_;
};

}  // namespace

std::unique_ptr<ThreadFactory> CreateThreadFactory() {
  return std::make_unique<SystemThreadFactory>();
}

ThreadFactory& DefaultThreadFactory() {
  static auto* const factory = new DefaultFactory;
  return *factory;
}

}  // namespace workers
