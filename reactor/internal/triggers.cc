#include "reactor/internal/triggers.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "reactor/failure.h"
#include "workers/internal/report.h"
#include "workers/internal/run_work.h"

namespace reactor::internal {

using workers::Work;

Triggers::Triggers(std::string loop, workers::ErrorHandler on_error)
    : loop_(std::move(loop)), on_error_(std::move(on_error)) {}

TriggerId Triggers::Add(EventPhase phase, SystemEvent event, Trigger trigger) {
  const TriggerId id = next_++;
  all_[static_cast<int>(event)][static_cast<int>(phase)].emplace(id, std::move(trigger));
  return id;
}

TriggerId Triggers::Add(EventPhase phase, SystemEvent event, std::function<Deferred<void>()> f) {
  return Add(phase, event, Trigger{.f = std::move(f), .is_work = false});
}

TriggerId Triggers::AddAfterStartup(Work&& work) {
  // Shared, because a function can be copied and a work cannot.
  auto kept = std::make_shared<Work>(std::move(work));
  const auto run = [kept] {
    Work work = std::move(*kept);
    std::move(work)();
    return Succeed();
  };
  return Add(EventPhase::kAfter, SystemEvent::kStartup, Trigger{.f = run, .is_work = true});
}

absl::Status Triggers::Remove(TriggerId id) {
  for (auto& phases : all_) {
    for (InOrder& triggers : phases) {
      if (auto node = triggers.extract(id)) return absl::OkStatus();
    }
  }
  return absl::NotFoundError(absl::StrCat(loop_, ": there is no trigger ", id, ", or it has run"));
}

int64_t Triggers::Clear() {
  int64_t works = 0;
  for (auto& phases : all_) {
    for (InOrder& triggers : phases) {
      // One by one, each out of the map before it is destroyed.
      while (!triggers.empty()) works += triggers.extract(triggers.begin()).mapped().is_work;
    }
  }
  return works;
}

void Triggers::Fire(SystemEvent event, EventPhase phase, const std::shared_ptr<int>& outstanding) {
  InOrder& triggers = all_[static_cast<int>(event)][static_cast<int>(phase)];
  while (!triggers.empty()) {
    auto trigger = triggers.extract(triggers.begin());
    Work work = [&] {
      Deferred<void> deferred = trigger.mapped().f();
      ++*outstanding;
      std::move(deferred)
          .AddBoth([outstanding, loop = loop_, on_error = on_error_](Result<void> result) {
            --*outstanding;
            if (!result.ok()) workers::internal::Report(on_error, loop, result.failure().status());
          })
          .Detach();
    };
    workers::internal::RunWork(work, loop_, on_error_);
  }
}

}  // namespace reactor::internal
