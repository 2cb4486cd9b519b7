// Serial workers on a base that a test steps, and whose answers it chooses.

#ifndef TESTS_WORKERS_SERIAL_ON_MEMORY_H_
#define TESTS_WORKERS_SERIAL_ON_MEMORY_H_

#include <deque>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "workers/clock.h"
#include "workers/memory_worker.h"
#include "workers/serial_worker.h"
#include "workers/worker.h"

namespace workers {

// What a base can do with an item.
enum class Answer {
  kAccept,
  kFull,           // ResourceExhausted
  kQuit,           // AlreadyQuit
  kThrow,          // std::runtime_error
  kThrowNoMemory,  // std::bad_alloc
  // Against the contract, but seen:
  kTakeAndRefuse,  // destroys the item and returns an error
  kTakeAndThrow,   // destroys the item and throws, as a push_back by value
  kTakeAndAccept,  // destroys the item and returns OK
  kKeepAndThrow,   // queues the item and throws, as a wake-up that fails
  kRunHere,        // runs the item before Do returns, and nests
};
constexpr Answer kAnswers[] = {
    Answer::kAccept,        Answer::kFull,          Answer::kQuit,         Answer::kThrow,
    Answer::kThrowNoMemory, Answer::kTakeAndRefuse, Answer::kTakeAndThrow, Answer::kTakeAndAccept,
    Answer::kKeepAndThrow,  Answer::kRunHere};

// A base whose queue is stepped, by one thread.
class ScriptedBase final : public IWorker {
 public:
  // The answer to the n-th Do, counted from 0.
  std::function<Answer(int)> answer = [](int) { return Answer::kAccept; };
  // Called by the next Do, before it touches the item.
  std::function<void()> before_answer;

  absl::Status Do(Work&& work) override {
    if (before_answer) std::exchange(before_answer, nullptr)();
    switch (answer(calls_++)) {
      case Answer::kAccept:
        break;
      case Answer::kFull:
        return absl::ResourceExhaustedError("base is full");
      case Answer::kQuit:
        return AlreadyQuitError("base");
      case Answer::kThrow:
        throw std::runtime_error("base");
      case Answer::kThrowNoMemory:
        throw std::bad_alloc();
      case Answer::kTakeAndRefuse: {
        Work taken = std::move(work);
        return absl::InternalError("base");
      }
      case Answer::kTakeAndThrow: {
        Work taken = std::move(work);
        throw std::runtime_error("base");
      }
      case Answer::kTakeAndAccept: {
        Work taken = std::move(work);
        return absl::OkStatus();
      }
      case Answer::kKeepAndThrow:
        queue_.push_back(std::move(work));
        throw std::runtime_error("base");
      case Answer::kRunHere: {
        Work taken = std::move(work);
        std::move(taken)();
        return absl::OkStatus();
      }
    }
    queue_.push_back(std::move(work));
    return absl::OkStatus();
  }
  absl::Status Quit() override { return absl::OkStatus(); }

  // Runs the oldest item. False: there is none.
  bool Step() {
    if (queue_.empty()) return false;
    Work work = std::move(queue_.front());
    queue_.pop_front();
    std::move(work)();
    return true;
  }
  void StepToTheEnd() {
    while (Step()) {
    }
  }
  // Destroys what is queued.
  void Drop() { std::exchange(queue_, {}).clear(); }
  int calls() const { return calls_; }
  int queued() const { return static_cast<int>(queue_.size()); }

 private:
  std::deque<Work> queue_;
  int calls_ = 0;
};

// Reports as lines: "<worker>: <message> <dropped>".
class ReportLog {
 public:
  ErrorHandler handler() {
    return [this](const ErrorReport& report) {
      lines_.push_back(std::string(report.worker) + ": " + std::string(report.status.message()) +
                       " " + std::to_string(report.dropped));
      dropped_ += report.dropped;
    };
  }
  const std::vector<std::string>& lines() const { return lines_; }
  int64_t dropped() const { return dropped_; }

 private:
  std::vector<std::string> lines_;
  int64_t dropped_ = 0;
};

// A group on a MemoryWorker. Unless a test says otherwise, the quantum is not measured in time, so
// that a slow machine changes nothing.
class SerialOnMemory : public testing::Test {
 protected:
  void MakeGroup(SerialOptions options = {.quantum_time = absl::InfiniteDuration()},
                 Clock* clock = nullptr) {
    group_.emplace(*base_.worker, std::move(options), clock);
  }
  // A group whose slices end after `items` items.
  void MakeGroupOfQuantum(int items) {
    MakeGroup({.quantum_items = items,
               .quantum_time = absl::InfiniteDuration(),
               .on_error = reports_.handler()});
  }
  void Submit(SerialWorker& worker, std::string entry) {
    ASSERT_TRUE(worker.Do([this, entry = std::move(entry)] { log_.push_back(entry); }).ok());
  }
  void StepToTheEnd() {
    while (base_.performer() == Performed::kRan) {
    }
  }

  std::vector<std::string> log_;
  ReportLog reports_;
  MemoryWorker base_ = CreateMemoryWorker("base");
  std::optional<SerialGroup> group_;
};

}  // namespace workers

#endif  // TESTS_WORKERS_SERIAL_ON_MEMORY_H_
