// Strands: many exclusive workers on one base, one for each connection.

#ifndef WORKERS_SERIAL_WORKER_H_
#define WORKERS_SERIAL_WORKER_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "workers/clock.h"
#include "workers/internal/strand.h"
#include "workers/worker.h"

namespace workers {

struct SerialOptions {
  std::string name = "serial";
  // The quantum: a time slice on the base ends after this many items (at least 1) or this much
  // time, whichever comes first. It never interrupts an item. If both are unlimited, a worker that
  // never runs out of items never gives the base back.
  int quantum_items = 64;
  absl::Duration quantum_time = absl::Microseconds(500);
  // Receives what items, the base and the clock throw, and how many items were dropped. It may be
  // called until the last accepted item has ended.
  ErrorHandler on_error = {};
};

// What the serial workers of one base share: the base, the options and spare memory. Any thread.
//
// The group may be destroyed before or after its workers; the destructor does not wait. What
// happens afterwards depends on who owns the base:
//
//   SerialGroup(shared_ptr)  The group, its workers and their accepted items keep the base alive,
//                            and the workers go on. Whichever goes last destroys the base, on its
//                            own thread, and waits if the base's destructor waits there.
//   SerialGroup(IWorker&)    The base must outlive the group, and nothing more: the group's
//                            destructor closes its workers, which return AlreadyQuit and do not
//                            touch the base again. Accepted items run to the end of the slice that
//                            the base has already accepted, without regard to the quantum.
//
// `clock` measures quantum_time and outlives all accepted items; null means the steady clock.
//
// In the child of a fork a group of the parent is only good for being destroyed; one that is made
// there works.
class SerialGroup {
 public:
  explicit SerialGroup(IWorker& base, SerialOptions options = {}, Clock* clock = nullptr);
  // Aborts if `base` is null.
  explicit SerialGroup(std::shared_ptr<IWorker> base, SerialOptions options = {},
                       Clock* clock = nullptr);
  ~SerialGroup();

  SerialGroup(const SerialGroup&) = delete;
  SerialGroup& operator=(const SerialGroup&) = delete;

 private:
  friend class SerialWorker;

  internal::StrandGroup* const shared_;  // one reference to it
};

// Runs its items on the base of its group, never two at the same time, in the order of the Do
// calls. Known elsewhere as: strand (Asio), SerialExecutor (folly), SequencedTaskRunner (Chromium).
//
// Use one for each connection, so that the calls of a connection keep their order while all
// connections share the threads of one pool:
//
//   // Executes the queries in order. Returns immediately; accepted queries still run.
//   absl::Status ExecuteAll(workers::SerialGroup& group, std::shared_ptr<Database> database,
//                           const std::vector<std::string>& queries) {
//     auto worker = std::make_unique<workers::SerialWorker>(group);
//     absl::Status accepted;
//     for (const std::string& query : queries) {
//       // The item shares ownership of what it uses: it may run after this function has returned.
//       accepted.Update(worker->Do([database, query] { database->Execute(query); }));
//     }
//     workers::SerialWorker::Release(std::move(worker));
//     return accepted;
//   }
//
// A class that stands for a connection has the worker as a member and releases it in its
// destructor. The state that its items use is not part of that class, but shared with the items.
//
// Beside a mutex: a thread that would wait for a mutex is free for other connections here, and the
// items run in the order of their submission. Prefer a LockWorker or a mutex for short critical
// sections.
//
// Slices. A worker that has items and no time slice submits a slice to the base. A slice runs items
// until there are none or the quantum is used up, and then submits the next slice, which goes to
// the end of the base's queue. On a FIFO base an item of an idle worker therefore waits at most
//
//   (active serial workers x (quantum + longest single item)) / threads of the base.
//
// A worker is at most 64 bytes of heap, has nothing more while it is idle, and never holds a thread
// while it has nothing to run.
//
// Refusal. Accepted items are never lost if the base refuses a slice, or throws, which counts as a
// refusal and is reported:
//
//   the base refuses      | items that are already accepted    | a later Do
//   ----------------------+------------------------------------+--------------------------------
//   the next slice, with  | run to the end in the present      | returns AlreadyQuit
//   AlreadyQuit           | slice                              |
//   the next slice, with  | run in the present slice, which    | returns ResourceExhausted until
//   another error         | asks the base again after each     | the base accepts a slice or all
//                         | quantum                            | have run
//   the first slice: this | run, if other threads submitted    | as above, if there were such
//   Do returns the error, | them behind that item, on the      | items; otherwise the base is
//   its item is untouched | calling thread, as above           | asked again
//
// So a worker that never runs out of items does not hold the base's thread beyond the base's Quit.
// If the base destroys a slice unrun, the items of that slice are dropped and reported.
//
// End. Quit closes the worker; accepted items still run. The destructor quits and waits until they
// have run, for which the base needs a thread: do not destroy a busy worker in another item of a
// base that has no other thread. Inside the worker's own item it does not wait, and the accepted
// items still run. Release never waits.
//
// In the child of a fork Do and Quit return FailedPrecondition, and the accepted items belong to
// the parent; they are leaked.
class SerialWorker final : public IExclusiveWorker {
 public:
  // Any thread; does not wait.
  explicit SerialWorker(SerialGroup& group);
  ~SerialWorker() override;

  // Destroys `worker` as soon as its accepted items have run, and does not wait for that. Any
  // thread, inside the worker's own items too, which may still call Do (it returns AlreadyQuit)
  // and Quit. As for the destructor, no other call may be under way. If the worker is idle and the
  // last owner of its base, the base is destroyed here.
  static void Release(std::unique_ptr<SerialWorker> worker);

  // IWorker implementation:
  absl::Status Do(Work&& work) override;  // does not wait
  absl::Status Quit() override;           // does not wait

 private:
  internal::Strand strand_;
};

static_assert(sizeof(SerialWorker) <= 56, "one alone must fit into 64 bytes of heap");

}  // namespace workers

#endif  // WORKERS_SERIAL_WORKER_H_
