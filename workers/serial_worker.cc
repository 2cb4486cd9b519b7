#include "workers/serial_worker.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "workers/internal/misuse.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"
#include "workers/worker_scope.h"

namespace workers {

// One accepted work.
struct SerialWorker::Node {
  Node* next = nullptr;
  Work work;
};

// A turn while it runs, or is dropped: on the stack of the thread that does it. It outlives a
// worker that is destroyed inside it.
struct SerialWorker::Turn {
  SerialWorker* worker;  // null once the worker is destroyed
  Node* ready;           // taken, in order, not begun
  bool drops = false;    // destroys the works instead of running them
  int64_t dropped = 0;   // how many of them were not reported yet
};

// What the base is given: one pointer. Destroyed unrun, it drops the turn.
class SerialWorker::TurnWork {
 public:
  explicit TurnWork(SerialWorker& worker) : worker_(&worker) {}
  TurnWork(TurnWork&& other) noexcept : worker_(std::exchange(other.worker_, nullptr)) {}
  TurnWork& operator=(TurnWork&&) = delete;
  ~TurnWork() {
    if (worker_ != nullptr && worker_->turn_ != &kRefused) worker_->DropTurn();
  }
  void operator()() && { std::exchange(worker_, nullptr)->RunTurn(); }

 private:
  SerialWorker* worker_;
};

SerialWorker::Turn SerialWorker::kRefused;

// The low bits of SerialWorker::head_, which a node's address leaves free.
namespace {

constexpr uintptr_t kActive = 1;   // the base has a turn of this worker, or runs it
constexpr uintptr_t kQuit = 2;     // nothing enters any more
constexpr uintptr_t kAwaited = 4;  // the destructor waits for the end of kActive
constexpr uintptr_t kFlags = kActive | kQuit | kAwaited;

// Spare nodes beyond this go back to the heap.
constexpr int64_t kMostSpare = 1 << 16;

}  // namespace

struct SerialGroup::Shared {
  using Node = SerialWorker::Node;

  Shared(IWorker& base, SerialOptions options, Clock* clock)
      : base(base),
        name(std::move(options.name)),
        quantum_works(options.quantum_works > 1 ? options.quantum_works : 1),
        quantum_time(options.quantum_time),
        on_error(std::move(options.on_error)),
        clock(clock) {}

  bool IsForked() const { return fork_count != internal::ForkCount::Get(); }
  absl::Status ForkedError() const {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": its turns belong to the parent of this forked process"));
  }

  absl::Duration Now() const { return clock != nullptr ? clock->Now() : internal::SteadyNow(); }

  // A node for `work`: a spare one, or new. Only one thread at a time pops, so that a node
  // cannot be popped and come back under another pop's feet.
  Node* NewNode(Work&& work) {
    Node* node;
    {
      internal::MutexLock lock(pop);
      node = spare.load();
      while (node != nullptr && !spare.compare_exchange_weak(node, node->next)) {
      }
    }
    if (node == nullptr) {
      node = new Node;
    } else {
      spare_count.fetch_add(-1);
    }
    node->work = std::move(work);
    return node;
  }

  // Keeps `node`, whose work is gone, as a spare one.
  void Keep(Node* node) {
    if (spare_count.fetch_add(1) >= kMostSpare) {
      spare_count.fetch_add(-1);
      delete node;
      return;
    }
    node->next = spare.load();
    while (!spare.compare_exchange_weak(node->next, node)) {
    }
  }

  // Immutable.
  IWorker& base;
  const std::string name;
  const int quantum_works;
  const absl::Duration quantum_time;
  const ErrorHandler on_error;
  Clock* const clock;
  const int fork_count = internal::ForkCount::Get();

  // Any thread.
  internal::Atomic<Node*> spare = nullptr;
  internal::Atomic<int64_t> spare_count = 0;
  internal::Mutex pop;
  internal::Mutex mutex;
  internal::CondVar ended;  // an awaited worker is idle, or a turn without a worker has ended
  int64_t workers ABSL_GUARDED_BY(mutex) = 0;
  int64_t orphaned_turns ABSL_GUARDED_BY(mutex) = 0;  // whose worker was destroyed inside them
};

SerialGroup::SerialGroup(IWorker& base, SerialOptions options, Clock* clock)
    : shared_(std::make_unique<Shared>(base, std::move(options), clock)) {}

SerialGroup::~SerialGroup() {
  if (shared_->IsForked()) {
    shared_.release();  // leaked: its lock may be held by a thread of the parent
    return;
  }
  {
    internal::MutexLock lock(shared_->mutex);
    if (shared_->workers != 0) internal::DieOfMisuse("SerialGroup: destroyed before its workers");
    while (shared_->orphaned_turns != 0) shared_->ended.Wait(shared_->mutex);
  }
  SerialWorker::Node* node = shared_->spare.load();
  while (node != nullptr) delete std::exchange(node, node->next);
}

SerialWorker::SerialWorker(SerialGroup& group) : group_(*group.shared_) {
  internal::MutexLock lock(group_.mutex);
  ++group_.workers;
}

SerialWorker::~SerialWorker() {
  SerialGroup::Shared& group = group_;
  if (group.IsForked()) return;  // its turn may be the parent's: what was taken is leaked
  if (WorkerScope::RunsIn(*this)) {
    // The turn that runs this goes on without us, with all that was taken.
    head_.fetch_or(kQuit);
    Node** end = &turn_->ready;
    while (*end != nullptr) end = &(*end)->next;
    *end = TakeAll();
    turn_->worker = nullptr;
    WorkerScope::Forget(*this);
    internal::MutexLock lock(group.mutex);
    --group.workers;
    ++group.orphaned_turns;
    return;
  }
  const uintptr_t head = head_.fetch_or(kQuit | kAwaited);
  internal::MutexLock lock(group.mutex);
  if (head & kActive) {
    while (head_.load() & kActive) group.ended.Wait(group.mutex);
  }
  --group.workers;
}

absl::Status SerialWorker::Do(Work&& work) {
  if (!work) return internal::EmptyWorkError(group_.name);
  if (group_.IsForked()) return group_.ForkedError();
  Node* const node = group_.NewNode(std::move(work));
  uintptr_t head = head_.load();
  do {
    if (head & kQuit) {
      work = std::move(node->work);
      group_.Keep(node);
      return AlreadyQuitError(group_.name);
    }
    node->next = reinterpret_cast<Node*>(head & ~kFlags);
  } while (!head_.compare_exchange_weak(
      head, reinterpret_cast<uintptr_t>(node) | (head & kFlags) | kActive));
  // From here on the work may have run, and destroyed this worker, unless the turn is ours.
  if (head & kActive) return absl::OkStatus();
  absl::Status status = AskForTurn();
  if (status.ok()) return status;
  // Ours is the oldest, and goes back. What came behind it was taken on the strength of our
  // turn, and runs here.
  TakeAll();
  Turn turn = {this, node->next};
  work = std::move(node->work);
  group_.Keep(node);
  GoThrough(turn, /*to_the_end=*/true);
  return status;
}

absl::Status SerialWorker::Quit() {
  if (group_.IsForked()) return group_.ForkedError();
  return head_.fetch_or(kQuit) & kQuit ? AlreadyQuitError(group_.name) : absl::OkStatus();
}

// Gives the base a turn; OK: this object may already be gone. Anything else: no turn, and still
// the right to make one.
absl::Status SerialWorker::AskForTurn() {
  Work turn = TurnWork(*this);
  absl::Status status = group_.base.Do(std::move(turn));
  if (status.ok()) return status;
  turn_ = &kRefused;  // so that it drops nothing
  turn = nullptr;
  turn_ = nullptr;
  return status;
}

void SerialWorker::RunTurn() {
  Turn turn = {this, std::exchange(ready_, nullptr)};
  GoThrough(turn, /*to_the_end=*/false);
}

// The base destroyed the turn unrun: so are the works that depended on it.
void SerialWorker::DropTurn() {
  Turn turn = {this, std::exchange(ready_, nullptr), /*drops=*/true};
  GoThrough(turn, /*to_the_end=*/true);
}

// Runs (or drops) works until there are none, or the quantum is used up and the base has taken
// the next turn. After that the worker belongs to others, or is gone.
void SerialWorker::GoThrough(Turn& turn, bool to_the_end) {
  SerialGroup::Shared& group = group_;
  WorkerScope scope(*this);
  turn_ = &turn;
  const absl::Duration start = group.Now();
  int works = 0;
  bool ended = false;
  const auto go = [&] {
    while (!ended) {
      if (turn.ready == nullptr && turn.worker != nullptr) turn.ready = turn.worker->TakeAll();
      if (turn.ready == nullptr) {
        internal::ReportDropped(group.on_error, group.name, std::exchange(turn.dropped, 0),
                                "the worker below destroyed the turn");
        ended = End(turn, group);
        continue;
      }
      if (!to_the_end && turn.worker != nullptr && works > 0 &&
          (works >= group.quantum_works || group.Now() - start >= group.quantum_time)) {
        if (turn.worker->Yield(turn)) {
          ended = true;
          return;
        }
        to_the_end = true;
      }
      Node* const node = std::exchange(turn.ready, turn.ready->next);
      ++works;
      // Kept also where the work ends the thread by force.
      absl::Cleanup keep([&group, node] { group.Keep(node); });
      if (turn.drops) {
        ++turn.dropped;
        node->work = nullptr;
      } else {
        internal::RunWork(node->work, group.name, group.on_error);
      }
    }
  };
  // A work that ends its thread by force takes nobody with it: the rest runs as it unwinds.
  absl::Cleanup run_rest([&] {
    to_the_end = true;
    go();
  });
  go();
}

// Nothing is ready: makes the worker idle. False: more has come.
bool SerialWorker::End(Turn& turn, SerialGroup::Shared& group) {
  if (turn.worker == nullptr) {
    internal::MutexLock lock(group.mutex);
    --group.orphaned_turns;
    group.ended.SignalAll();  // under the lock: who waits may destroy the group
    return true;
  }
  SerialWorker& worker = *turn.worker;
  worker.turn_ = nullptr;
  uintptr_t head = worker.head_.load();
  for (;;) {
    if (head & ~kFlags) {
      worker.turn_ = &turn;
      return false;
    }
    if (head & kAwaited) {  // nothing can enter any more
      internal::MutexLock lock(group.mutex);
      worker.head_.store(kQuit | kAwaited);
      group.ended.SignalAll();  // likewise
      return true;
    }
    if (worker.head_.compare_exchange_weak(head, head & ~kActive)) return true;
  }
}

// Lets others have the base and goes to its end. False: the base wants no more turns.
bool SerialWorker::Yield(Turn& turn) {
  ready_ = turn.ready;
  turn_ = nullptr;
  if (AskForTurn().ok()) return true;
  turn_ = &turn;
  turn.ready = std::exchange(ready_, nullptr);
  return false;
}

// Takes what has entered, the oldest first.
SerialWorker::Node* SerialWorker::TakeAll() {
  uintptr_t head = head_.load();
  while (!head_.compare_exchange_weak(head, head & kFlags)) {
  }
  Node* newest = reinterpret_cast<Node*>(head & ~kFlags);
  Node* oldest = nullptr;
  while (newest != nullptr) {
    Node* const next = std::exchange(newest->next, oldest);
    oldest = std::exchange(newest, next);
  }
  return oldest;
}

}  // namespace workers
