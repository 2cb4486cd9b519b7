// What a call takes along without naming it: for whom, for which request, in which trace.

#ifndef WORKERS_CONTEXT_H_
#define WORKERS_CONTEXT_H_

#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/base/attributes.h"

namespace workers {

// Names one value of a context. Any thread. What counts is the key's address, so it is a static
// object, and an `inline` one in a header; the name is for people.
//
//   inline constexpr ContextKey<std::string> kUser("user");
//
//   absl::Status Handle(const Request& request, IWorker& disk) {
//     ContextScope scope(Context::Current().With(kUser, request.user));
//     return disk.Do([context = Context::Current()] {
//       ContextScope scope(context);  // no worker does this by itself
//       Log(*kUser.Get());
//     });
//   }
template <typename T>
class ContextKey {
 public:
  explicit constexpr ContextKey(const char* name) : name_(name) {}
  ContextKey(const ContextKey&) = delete;
  ContextKey& operator=(const ContextKey&) = delete;

  // The value in the calling thread's current context; null if it has none, and then the reader
  // knows a default. Valid until this thread's innermost scope ends. Allocates and counts nothing.
  const T* Get() const;
  const char* name() const { return name_; }

 private:
  const char* const name_;
};

// An immutable set of values, one a key. A copy is a snapshot of all of it for one reference
// count; nothing that anybody does later is seen in it, and any thread may have its own. The
// contexts that hold a value share it, so several threads may read it at once; it is destroyed
// when the last of them goes, on whatever thread that is.
//
// Rejected: Twisted's global map from a thread to its dictionaries, captured by reference, where
// a call sees only the innermost dictionary, and sees it change.
class Context {
 public:
  Context() = default;
  bool empty() const { return entries_ == nullptr; }

  // The calling thread's: that of its innermost scope, empty outside of any.
  [[nodiscard]] static Context Current();

  // This context with `value` for `key`, in place of the one it may have. T may be move-only.
  template <typename T>
  [[nodiscard]] Context With(const ContextKey<T>& key, std::type_identity_t<T> value) const {
    return WithEntry({&key, std::make_shared<const T>(std::move(value))});
  }

  // Null if it has none. Valid as long as this context, or a copy of it, holds the value.
  template <typename T>
  const T* Get(const ContextKey<T>& key) const ABSL_ATTRIBUTE_LIFETIME_BOUND {
    return static_cast<const T*>(Find(&key));
  }

 private:
  template <typename T>
  friend class ContextKey;

  struct Entry {
    const void* key;
    std::shared_ptr<const void> value;
  };

  static const Context* Innermost();  // null outside of any scope
  Context WithEntry(Entry entry) const;
  const void* Find(const void* key) const;

  std::shared_ptr<const std::vector<Entry>> entries_;  // null: empty; else at least one
};

// Makes `context` the calling thread's current one for as long as the scope lives; then the one
// before it is back, also when an exception leaves the scope. Scopes nest. Stands on the stack:
// it dies if it is destroyed on another thread or before a scope inside it, as happens to one
// that is held across a co_await.
class [[nodiscard]] ContextScope {
 public:
  explicit ContextScope(Context context);
  ~ContextScope();

  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;

 private:
  const Context context_;  // destroyed when the outer one is back
  const Context* const outer_;
};

template <typename T>
const T* ContextKey<T>::Get() const {
  const Context* const context = Context::Innermost();
  return context == nullptr ? nullptr : context->Get(*this);
}

}  // namespace workers

#endif  // WORKERS_CONTEXT_H_
