// Makes any worker exclusive: one per connection.

#ifndef WORKERS_SERIAL_WORKER_H_
#define WORKERS_SERIAL_WORKER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "workers/clock.h"
#include "workers/internal/sync.h"
#include "workers/worker.h"

namespace workers {

struct SerialOptions {
  std::string name = "serial";
  // A serial worker gives the base back after so many works, or so much time, whichever comes
  // first; it never interrupts a work.
  int quantum_works = 64;
  absl::Duration quantum_time = absl::Microseconds(500);
  ErrorHandler on_error = {};
};

// What the serial workers of one base share: the base, the options and spare memory. Any
// thread. It outlives its workers (it dies otherwise), and `base` and `clock` outlive it.
class SerialGroup {
 public:
  // `clock` measures quantum_time; null: the machine's steady clock.
  SerialGroup(IWorker& base, SerialOptions options = {}, Clock* clock = nullptr);
  ~SerialGroup();

  SerialGroup(const SerialGroup&) = delete;
  SerialGroup& operator=(const SerialGroup&) = delete;

 private:
  friend class SerialWorker;
  struct Shared;

  std::unique_ptr<Shared> shared_;
};

// Runs its works on the group's base, never two at once, in the order of the Do calls. Made for
// many: one is 64 bytes of heap, has nothing more while it is idle, and never holds a thread
// while it has nothing to do.
//
// Whenever it has work and no turn on the base, it asks the base for one: a turn runs works
// until there are none or the quantum is used up, and then goes to the base's end. On a base
// that is first in first out a quiet serial worker therefore waits at most
//
//   (active serial workers x (quantum + longest single work)) / threads of the base.
//
// If the base refuses a turn (it has quit, or is full), the thread that learns it runs what was
// taken: the base's own at the end of a quantum, or, where the first Do of a turn is refused
// while others were taken behind it, that caller, whose own work goes back to it. If the base
// destroys a turn unrun, the works of that turn are dropped and reported.
//
// Do and Quit do not wait. Destruction quits and waits until what was taken has run, for which the
// base needs a thread: do not destroy a busy one in another work of a base that has no other.
// Inside the worker's own work it does not wait, and what was taken still runs.
//
// In the child of a fork Do and Quit are FailedPrecondition, and what was taken is leaked.
class SerialWorker final : public IExclusiveWorker {
 public:
  explicit SerialWorker(SerialGroup& group);
  ~SerialWorker() override;

  // IWorker implementation:
  absl::Status Do(Work&& work) override;
  absl::Status Quit() override;

 private:
  friend class SerialGroup;
  struct Node;
  struct Turn;
  class TurnWork;

  static Turn kRefused;  // what turn_ points to while a refused turn is destroyed

  absl::Status AskForTurn();
  void RunTurn();
  void DropTurn();
  void GoThrough(Turn& turn, bool to_the_end);
  static bool End(Turn& turn, SerialGroup::Shared& group);
  bool Yield(Turn& turn);
  Node* TakeAll();

  SerialGroup::Shared& group_;
  // The newest of the works that no turn has taken yet, and flags in its low bits.
  internal::Atomic<uintptr_t> head_ = 0;
  // The turn's.
  Node* ready_ = nullptr;  // taken, in order, not begun
  Turn* turn_ = nullptr;   // while it runs
};

static_assert(sizeof(SerialWorker) <= 56, "one alone is to fit into 64 bytes of heap");

}  // namespace workers

#endif  // WORKERS_SERIAL_WORKER_H_
