// The readers and writers of a loop.

#ifndef REACTOR_INTERNAL_DESCRIPTORS_H_
#define REACTOR_INTERNAL_DESCRIPTORS_H_

#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "reactor/poller.h"
#include "reactor/reactor.h"
#include "workers/worker.h"

namespace reactor::internal {

// What IReactorDescriptors says, over a poller, which outlives it. One thread.
class Descriptors {
 public:
  struct Watched {
    PollToken token;
    int fd;
    IReadDescriptor* reader;  // null: not wanted
    IWriteDescriptor* writer;
  };

  // `forgotten` is told of each object that is not watched any more, before the object is.
  Descriptors(std::string loop, workers::ErrorHandler on_error, Poller& poller,
              std::function<void(IDescriptor&)> forgotten = nullptr);

  // Adds the object as what is not null.
  absl::Status Add(IDescriptor& d, IReadDescriptor* reader, IWriteDescriptor* writer);
  absl::Status Remove(IDescriptor& d, bool reader, bool writer);
  std::vector<IDescriptor*> RemoveAll();  // in the order in which they were added

  // Calls those that `ready` is of, if that still is current: whatever a callback before has
  // removed, closed or registered anew, nothing is told to the wrong object. False: it is not.
  bool Run(const reactor::Ready& ready);
  // Tells those that could not be told when they were let go. False: there were none.
  bool RunLost();
  bool HasLost() const { return !lost_.empty(); }
  // Refuses new ones until Open, and lets all go, in the order in which they were added.
  void LoseAll();
  void Open() { open_ = true; }

  // In the order in which they were added.
  std::vector<std::pair<IDescriptor*, Watched>> watched() const;

 private:
  // Calls `f`, and makes a status of what it throws, after reporting that.
  absl::Status Guarded(absl::FunctionRef<absl::Status()> f) const;
  void Forget(IDescriptor& d);
  void LetGo(IDescriptor& d, absl::Status why);

  const std::string loop_;
  const workers::ErrorHandler on_error_;
  Poller& poller_;
  const std::function<void(IDescriptor&)> forgotten_;

  bool open_ = true;
  // The three agree: an object is in all of them or in none.
  std::unordered_map<IDescriptor*, Watched> watched_;
  std::unordered_map<PollToken, IDescriptor*> by_token_;
  std::unordered_map<int, IDescriptor*> by_fd_;
  // Objects that were let go where they could not be told, and why. Who is added or removed
  // meanwhile is taken out.
  std::map<IDescriptor*, absl::Status> lost_;
};

}  // namespace reactor::internal

#endif  // REACTOR_INTERNAL_DESCRIPTORS_H_
