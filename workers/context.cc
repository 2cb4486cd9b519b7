#include "workers/context.h"

#include <algorithm>

#include "workers/internal/misuse.h"
#include "workers/internal/sync.h"

namespace workers {
namespace {

// Points into the innermost scope, which owns what it points to.
using InnermostContext = internal::ThreadLocalPointer<const Context>;

}  // namespace

Context Context::Current() {
  const Context* const context = Innermost();
  return context == nullptr ? Context() : *context;
}

const Context* Context::Innermost() { return InnermostContext::Get(); }

// Copies the entries instead of linking to them: keys are few, and a context that is derived
// from itself for ever stays as small as its keys and keeps no value that nobody can read.
Context Context::WithEntry(Entry entry) const {
  auto entries = std::make_shared<std::vector<Entry>>();
  if (entries_ != nullptr) {
    entries->reserve(entries_->size() + 1);
    *entries = *entries_;
  }
  const auto same_key = [&entry](const Entry& other) { return other.key == entry.key; };
  const auto place = std::find_if(entries->begin(), entries->end(), same_key);
  if (place == entries->end()) {
    entries->push_back(std::move(entry));
  } else {
    *place = std::move(entry);
  }
  Context result;
  result.entries_ = std::move(entries);
  return result;
}

const void* Context::Find(const void* key) const {
  if (entries_ == nullptr) return nullptr;
  for (const Entry& entry : *entries_) {
    if (entry.key == key) return entry.value.get();
  }
  return nullptr;
}

ContextScope::ContextScope(Context context)
    : context_(std::move(context)), outer_(InnermostContext::Get()) {
  InnermostContext::Set(&context_);
}

ContextScope::~ContextScope() {
  if (InnermostContext::Get() != &context_) {
    internal::DieOfMisuse("ContextScope: destroyed on another thread or before an inner scope");
  }
  InnermostContext::Set(outer_);
}

}  // namespace workers
