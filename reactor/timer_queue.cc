#include "reactor/timer_queue.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "workers/internal/misuse.h"
#include "workers/internal/report.h"

namespace reactor {

using workers::Work;

// The heap is 4-ary: the children of i are 4i+1 ... 4i+4, none of which comes before i. Each
// timer knows its place in it.
struct TimerQueue::Core {
  struct Node {
    absl::Duration when;  // not before the `now` of a RunDue that is under way when it is set
    uint64_t sequence;
    Timer* timer;  // waits, owns itself, and has this place

    bool IsBefore(const Node& other) const {
      return when != other.when ? when < other.when : sequence < other.sequence;
    }
  };

  explicit Core(TimerQueueOptions options) : options(std::move(options)) {}

  absl::Status Check(absl::string_view method) const {
    return options.check_thread ? options.check_thread(method) : absl::OkStatus();
  }
  // For methods that return no status.
  bool MayCall(absl::string_view method) const {
    const absl::Status status = Check(method);
    if (!status.ok()) workers::internal::Report(options.on_error, options.name, status);
    return status.ok();
  }

  Node MakeNode(absl::Duration when, Timer* timer) {
    return {std::max(when, running_at), next_sequence++, timer};
  }
  void Push(Node node);
  // Takes out the node at `place`.
  void Remove(size_t place);
  // Puts `node` where it belongs; `place` is free.
  void SiftUp(size_t place, Node node);
  void SiftDown(size_t place, Node node);
  void Put(size_t place, Node node);

  const TimerQueueOptions options;
  std::vector<Node> heap;
  uint64_t next_sequence = 0;
  // The `now` of the RunDue that is under way. Whatever is given meanwhile has a place behind
  // all that was due when it began, and so is met only after these.
  absl::Duration running_at = -absl::InfiniteDuration();
  bool closed = false;  // the queue is gone
};

class TimerQueue::Timer final : public DelayedCall::Entry {
 public:
  Timer(std::shared_ptr<Core> core, absl::Duration time) : core(std::move(core)), time_(time) {}

  // Out of the queue; the caller keeps it.
  std::shared_ptr<Timer> Leave(absl::string_view why) {
    state = why;
    return std::move(self);
  }
  bool waits() const { return self != nullptr; }

  // DelayedCall::Entry implementation:
  bool active() const override { return core->MayCall("DelayedCall::active") && waits(); }
  absl::Duration time() const override {
    return core->MayCall("DelayedCall::time") ? time_ : absl::ZeroDuration();
  }
  absl::Status Cancel() override {
    if (absl::Status status = CheckWaits("DelayedCall::Cancel"); !status.ok()) return status;
    core->Remove(place);
    const std::shared_ptr<Timer> held = Leave("already cancelled");
    Work captures = std::move(work);  // destroyed last, as they may come back here
    return absl::OkStatus();
  }
  absl::Status Reset(absl::Duration from_now) override {
    if (absl::Status status = CheckWaits("DelayedCall::Reset"); !status.ok()) return status;
    if (!(from_now >= absl::ZeroDuration()) || from_now == absl::InfiniteDuration()) {
      return absl::InvalidArgumentError(absl::StrCat("DelayedCall::Reset: not a time from now: ",
                                                     absl::FormatDuration(from_now)));
    }
    MoveTo(core->options.now() + from_now);
    return absl::OkStatus();
  }
  absl::Status Delay(absl::Duration more) override {
    if (absl::Status status = CheckWaits("DelayedCall::Delay"); !status.ok()) return status;
    if (more == absl::InfiniteDuration() || more == -absl::InfiniteDuration()) {
      return absl::InvalidArgumentError("DelayedCall::Delay: not a finite time");
    }
    MoveTo(time_ + more);
    return absl::OkStatus();
  }

  // The queue's part. Who waits owns itself.
  const std::shared_ptr<Core> core;
  Work work;
  std::shared_ptr<Timer> self;  // null once it has left the queue
  size_t place = 0;             // in the heap

 private:
  absl::Status CheckWaits(absl::string_view method) const {
    if (absl::Status status = core->Check(method); !status.ok()) return status;
    if (waits()) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(method, ": ", state));
  }
  void MoveTo(absl::Duration time) {
    time_ = time;
    core->Remove(place);
    core->Push(core->MakeNode(time, this));
  }

  absl::Duration time_;     // what it was set to; the node's `when` may be later
  absl::string_view state;  // why it does not wait
};

void TimerQueue::Core::Put(size_t place, Node node) {
  heap[place] = node;
  node.timer->place = place;
}

void TimerQueue::Core::SiftUp(size_t place, Node node) {
  while (place > 0) {
    const size_t parent = (place - 1) / 4;
    if (!node.IsBefore(heap[parent])) break;
    Put(place, heap[parent]);
    place = parent;
  }
  Put(place, node);
}

void TimerQueue::Core::SiftDown(size_t place, Node node) {
  while (true) {
    const size_t first = 4 * place + 1;
    if (first >= heap.size()) break;
    const size_t end = std::min(first + 4, heap.size());
    size_t least = first;
    for (size_t child = first + 1; child < end; ++child) {
      if (heap[child].IsBefore(heap[least])) least = child;
    }
    if (!heap[least].IsBefore(node)) break;
    Put(place, heap[least]);
    place = least;
  }
  Put(place, node);
}

void TimerQueue::Core::Push(Node node) {
  heap.push_back(node);
  SiftUp(heap.size() - 1, node);
}

void TimerQueue::Core::Remove(size_t place) {
  const Node last = heap.back();
  heap.pop_back();
  if (place < heap.size()) {
    if (place > 0 && last.IsBefore(heap[(place - 1) / 4])) {
      SiftUp(place, last);
    } else {
      SiftDown(place, last);
    }
  }
  // A quarter: so that it takes as many removals again before the next copy.
  if (heap.capacity() > 1024 && heap.size() < heap.capacity() / 4) {
    std::vector<Node> smaller;
    smaller.reserve(heap.capacity() / 2);
    smaller.assign(heap.begin(), heap.end());
    heap.swap(smaller);
  }
}

TimerQueue::TimerQueue(TimerQueueOptions options)
    : core_(std::make_shared<Core>(std::move(options))) {}

TimerQueue::~TimerQueue() {
  core_->closed = true;
  Drop();
}

absl::StatusOr<DelayedCall> TimerQueue::Add(absl::Duration delay, Work&& work) {
  const std::string& name = core_->options.name;
  if (!work) return workers::internal::EmptyWorkError(name);
  if (core_->closed) return workers::AlreadyQuitError(name);
  if (delay < absl::ZeroDuration() || delay == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": not a delay: ", absl::FormatDuration(delay)));
  }
  const absl::Duration when = core_->options.now() + delay;
  auto timer = std::make_shared<Timer>(core_, when);
  core_->Push(core_->MakeNode(when, timer.get()));
  timer->work = std::move(work);
  timer->self = timer;
  return DelayedCall(std::move(timer));
}

size_t TimerQueue::RunDue(absl::Duration now, absl::FunctionRef<void(Work&)> run) {
  const std::shared_ptr<Core> core = core_;  // `run` may destroy the queue
  if (core->running_at != -absl::InfiniteDuration()) {
    workers::internal::DieOfMisuse("TimerQueue: RunDue inside RunDue");
  }
  core->running_at = now;
  absl::Cleanup end([&core] { core->running_at = -absl::InfiniteDuration(); });
  const uint64_t limit = core->next_sequence;
  size_t count = 0;
  while (!core->heap.empty()) {
    const Core::Node first = core->heap.front();
    if (first.when > now || first.sequence >= limit) break;
    core->Remove(0);
    const std::shared_ptr<Timer> timer = first.timer->Leave("already called");
    ++count;
    run(timer->work);
  }
  return count;
}

absl::Duration TimerQueue::next() const {
  return core_->heap.empty() ? absl::InfiniteDuration() : core_->heap.front().when;
}

size_t TimerQueue::size() const { return core_->heap.size(); }

std::vector<DelayedCall> TimerQueue::pending() const {
  std::vector<Core::Node> nodes = core_->heap;
  std::sort(nodes.begin(), nodes.end(),
            [](const Core::Node& a, const Core::Node& b) { return a.IsBefore(b); });
  std::vector<DelayedCall> calls;
  calls.reserve(nodes.size());
  for (const Core::Node& node : nodes) calls.emplace_back(node.timer->self);
  return calls;
}

size_t TimerQueue::Drop() {
  std::vector<Core::Node> nodes;
  nodes.swap(core_->heap);
  std::sort(nodes.begin(), nodes.end(),
            [](const Core::Node& a, const Core::Node& b) { return a.IsBefore(b); });
  std::vector<std::shared_ptr<Timer>> timers;
  timers.reserve(nodes.size());
  // All of them have left before the first destructor of a capture may come back here.
  for (const Core::Node& node : nodes) timers.push_back(node.timer->Leave("its reactor is gone"));
  for (const std::shared_ptr<Timer>& timer : timers) timer->work = nullptr;
  return timers.size();
}

}  // namespace reactor
