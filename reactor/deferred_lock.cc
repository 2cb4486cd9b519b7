#include "reactor/deferred_lock.h"

#include "absl/cleanup/cleanup.h"
#include "workers/internal/misuse.h"

namespace reactor {
namespace internal {

class Tokens : public std::enable_shared_from_this<Tokens> {
 public:
  explicit Tokens(size_t count) : limit_(count), available_(count) {}

  Deferred<DeferredHold> Acquire() {
    if (available_ > 0 && waiting_.empty()) {
      --available_;
      return Succeed(DeferredHold(shared_from_this()));
    }
    const auto place = waiting_.emplace(waiting_.end());
    auto [deferred, promise] = MakeDeferred<DeferredHold>([this, place](Promise<DeferredHold>&) {
      waiting_.erase(place);  // its Promise dies in the canceller: it is Cancelled
    });
    *place = std::move(promise);
    return std::move(deferred);
  }

  // A token has come back. Firing may bring more of them back, and ask for some: the outermost call
  // sees to all of it.
  void GiveBack() {
    ++available_;
    if (is_giving_) return;
    const std::shared_ptr<Tokens> self = shared_from_this();
    is_giving_ = true;
    const auto give = [this, &self] {
      while (available_ > 0 && !waiting_.empty()) {
        Promise<DeferredHold> first = std::move(waiting_.front());
        waiting_.pop_front();
        --available_;
        first.Callback(DeferredHold(self)).IgnoreError();
      }
    };
    absl::Cleanup end([&] {
      give();  // the others, where a callback has ended its thread by force
      is_giving_ = false;
    });
    give();
  }

  // The semaphore is gone: those who wait will get nothing.
  void Close() {
    while (!waiting_.empty()) {  // one by one: what this fires may cancel others of them
      const Promise<DeferredHold> first = std::move(waiting_.front());
      waiting_.pop_front();
    }
  }

  size_t limit() const { return limit_; }
  size_t available() const { return available_; }
  size_t waiting() const { return waiting_.size(); }

 private:
  const size_t limit_;
  size_t available_;  // none where somebody waits, but in GiveBack
  bool is_giving_ = false;
  std::list<Promise<DeferredHold>> waiting_;
};

}  // namespace internal

DeferredHold& DeferredHold::operator=(DeferredHold&& other) noexcept {
  if (this != &other) {
    DeferredHold old(std::move(*this));
    tokens_ = std::move(other.tokens_);
  }
  return *this;
}

void DeferredHold::Release() {
  const std::shared_ptr<internal::Tokens> tokens = std::move(tokens_);
  if (tokens != nullptr) tokens->GiveBack();
}

DeferredSemaphore::DeferredSemaphore(size_t tokens)
    : tokens_(std::make_shared<internal::Tokens>(tokens)) {
  if (tokens == 0) {
    workers::internal::DieOfMisuse("DeferredSemaphore: it needs a token at least");
  }
}

DeferredSemaphore::~DeferredSemaphore() { tokens_->Close(); }

Deferred<DeferredHold> DeferredSemaphore::Acquire() { return tokens_->Acquire(); }

size_t DeferredSemaphore::limit() const { return tokens_->limit(); }
size_t DeferredSemaphore::available() const { return tokens_->available(); }
size_t DeferredSemaphore::waiting() const { return tokens_->waiting(); }

}  // namespace reactor
