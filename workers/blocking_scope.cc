#include "workers/blocking_scope.h"

#include "workers/internal/team_core.h"

namespace workers {

BlockingScope::BlockingScope(absl::Duration timeout)
    : in_(internal::Runner::Innermost::Get()), has_deadline_(timeout != absl::InfiniteDuration()) {
  if (in_ != nullptr && in_->working && in_->blocking++ == 0) in_->core->Blocked(1);
}

BlockingScope::~BlockingScope() {
  if (awaits_) in_->core->AwaitsNoMore(*in_);
  if (in_ != nullptr && in_->working && --in_->blocking == 0) in_->core->Blocked(-1);
}

absl::Status BlockingScope::Awaits(const WorkHandle& handle) {
  if (in_ == nullptr || !in_->working) return absl::OkStatus();
  awaits_ = true;
  return in_->core->Awaits(*in_, handle, has_deadline_);
}

}  // namespace workers
