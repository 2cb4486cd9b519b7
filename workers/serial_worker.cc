#include "workers/serial_worker.h"

#include <utility>

#include "workers/internal/misuse.h"

namespace workers {

using internal::StrandGroup;

SerialGroup::SerialGroup(IWorker& base, SerialOptions options, Clock* clock)
    : shared_(new StrandGroup(base, nullptr, std::move(options.name), options.quantum_items,
                              options.quantum_time, std::move(options.on_error), clock)) {}

SerialGroup::SerialGroup(std::shared_ptr<IWorker> base, SerialOptions options, Clock* clock)
    : shared_([&] {
        if (base == nullptr) internal::DieOfMisuse("SerialGroup: the base is null");
        IWorker& worker = *base;
        return new StrandGroup(worker, std::move(base), std::move(options.name),
                               options.quantum_items, options.quantum_time,
                               std::move(options.on_error), clock);
      }()) {}

SerialGroup::~SerialGroup() {
  if (shared_->guard.InChild()) return;  // leaked: threads of the parent may hold its locks
  if (shared_->owned_base == nullptr) shared_->closed.store(true);
  shared_->Unref();
}

SerialWorker::SerialWorker(SerialGroup& group) : strand_(*group.shared_, *this) {}

SerialWorker::~SerialWorker() { strand_.End(); }

void SerialWorker::Release(std::unique_ptr<SerialWorker> worker) {
  if (worker != nullptr && !worker->strand_.Release()) worker.release();  // its last slice owns it
}

absl::Status SerialWorker::Do(Work&& work) { return strand_.Do(std::move(work)); }

absl::Status SerialWorker::Quit() { return strand_.Quit(); }

}  // namespace workers
