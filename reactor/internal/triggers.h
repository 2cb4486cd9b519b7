// What shall happen as a loop starts and as it ends.

#ifndef REACTOR_INTERNAL_TRIGGERS_H_
#define REACTOR_INTERNAL_TRIGGERS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "reactor/deferred.h"
#include "reactor/reactor.h"
#include "workers/worker.h"

namespace reactor::internal {

// What IReactorCore says of system event triggers. One thread.
class Triggers {
 public:
  Triggers(std::string loop, workers::ErrorHandler on_error);

  TriggerId Add(EventPhase phase, SystemEvent event, std::function<Deferred<void>()> f);
  // As one after startup that runs `work`.
  TriggerId AddAfterStartup(workers::Work&& work);
  absl::Status Remove(TriggerId id);  // NotFound: it has run, or never was
  // Destroys all, whose captures may come back here. Returns how many of them were works.
  int64_t Clear();

  // Calls the triggers of one phase one after another, those too that come meanwhile, each once.
  // What fails, now or later, is reported. `*outstanding` is the number of their Deferreds that
  // have not fired; it changes as they do.
  void Fire(SystemEvent event, EventPhase phase,
            const std::shared_ptr<int>& outstanding = std::make_shared<int>(0));

 private:
  struct Trigger {
    std::function<Deferred<void>()> f;
    bool is_work;
  };
  using InOrder = std::map<TriggerId, Trigger>;

  TriggerId Add(EventPhase phase, SystemEvent event, Trigger trigger);

  const std::string loop_;
  const workers::ErrorHandler on_error_;
  TriggerId next_ = 1;
  InOrder all_[2][3];  // [event][phase]
};

}  // namespace reactor::internal

#endif  // REACTOR_INTERNAL_TRIGGERS_H_
