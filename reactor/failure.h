// What comes of an operation that may fail: a value, or a Failure.

#ifndef REACTOR_FAILURE_H_
#define REACTOR_FAILURE_H_

#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/context.h"
#include "workers/worker.h"

namespace reactor {

// Why there is no value: a Status or an exception. It gives back exactly what it got. Immutable;
// a copy is cheap; any thread.
class Failure {
 public:
  // `status` is not OK (an Internal one takes its place otherwise).
  explicit Failure(absl::Status status);
  // `exception` is not null (an Internal status takes its place otherwise).
  explicit Failure(std::exception_ptr exception);

  // In a catch (...): what was caught. What Throw made of a Status becomes just that Status again;
  // any other exception is kept as it is. Forced unwinding (pthread_exit, pthread_cancel) goes on.
  static Failure Current();

  // The Status that it was made of. Of an exception: what a StatusError (or a type derived from
  // it) carries; of any other Unknown "<type>: <what>".
  const absl::Status& status() const { return status_; }
  // The exception that it was made of; null where it was made of a Status.
  const std::exception_ptr& exception() const { return exception_; }

  // Throws the exception that it was made of, or, where it was made of a Status, a StatusError.
  [[noreturn]] void Throw() const;

 private:
  absl::Status status_;
  std::exception_ptr exception_;
};

// A Status on its way through code that throws, as a coroutine is that awaits something failed.
class StatusError : public std::exception {
 public:
  explicit StatusError(absl::Status status);

  const absl::Status& status() const { return status_; }
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  absl::Status status_;
  std::string what_;
};

// Where failures go that nobody handled: into the context in which a Deferred is made. It may be
// called on any thread. Where there is none: one line on stderr.
//
//   workers::ContextScope scope(workers::Context::Current().With(
//       reactor::kFailureHandler, [](const workers::ErrorReport& report) { ... }));
inline constexpr workers::ContextKey<workers::ErrorHandler> kFailureHandler("failure handler");

// Dies saying that Result::value was called on a failure.
[[noreturn]] void DieOfNoValue(const Failure& failure);

namespace internal {

template <typename T>
struct IsNoValue : std::false_type {};
template <>
struct IsNoValue<Failure> : std::true_type {};
template <>
struct IsNoValue<absl::Status> : std::true_type {};
template <typename T>
struct IsNoValue<absl::StatusOr<T>> : std::true_type {};

}  // namespace internal

// A T or the Failure that came instead of it. T may be void or move-only. Not thread-safe.
template <typename T>
class Result {
  static_assert(!std::is_reference_v<T>,
                "Result<T>: T must not be a reference; use a value, a pointer or "
                "std::reference_wrapper");
  static_assert(std::is_object_v<T> && !std::is_const_v<T> && !std::is_array_v<T>,
                "Result<T>: T must be void, or an object type without const");
  static_assert(!internal::IsNoValue<T>::value,
                "Result<T>: T must not be a Status, StatusOr or Failure; those are what a Result "
                "holds instead of a T");

 public:
  using value_type = T;

  // From what a T can be made of.
  template <typename U = T,
            typename = std::enable_if_t<std::is_convertible_v<U&&, T> &&
                                        !internal::IsNoValue<std::decay_t<U>>::value &&
                                        !std::is_same_v<std::decay_t<U>, Result>>>
  Result(U&& value) : held_(std::in_place_index<0>, std::forward<U>(value)) {}    // NOLINT
  Result(Failure failure) : held_(std::in_place_index<1>, std::move(failure)) {}  // NOLINT
  // `status` is not OK (see Failure).
  Result(absl::Status status)  // NOLINT
      : held_(std::in_place_index<1>, std::move(status)) {}
  Result(absl::StatusOr<T> value)  // NOLINT
      : held_(value.ok() ? Held(std::in_place_index<0>, *std::move(value))
                         : Held(std::in_place_index<1>, std::move(value).status())) {}

  bool ok() const { return held_.index() == 0; }
  // Dies where there is none.
  T& value() & { return Checked(), *std::get_if<0>(&held_); }
  const T& value() const& { return Checked(), *std::get_if<0>(&held_); }
  T&& value() && { return Checked(), std::move(*std::get_if<0>(&held_)); }
  // Only where it is not ok.
  const Failure& failure() const { return *std::get_if<1>(&held_); }
  // OK where there is a value.
  absl::Status status() const { return ok() ? absl::OkStatus() : failure().status(); }

 private:
  using Held = std::variant<T, Failure>;

  void Checked() const {
    if (!ok()) DieOfNoValue(failure());
  }

  Held held_;
};

template <>
class Result<void> {
 public:
  using value_type = void;

  Result() = default;
  Result(Failure failure) : failure_(std::move(failure)) {}  // NOLINT
  // OK: there is no failure.
  Result(absl::Status status) {  // NOLINT
    if (!status.ok()) failure_.emplace(std::move(status));
  }

  bool ok() const { return !failure_.has_value(); }
  // Dies where it is a failure.
  void value() const {
    if (!ok()) DieOfNoValue(*failure_);
  }
  // Only where it is not ok.
  const Failure& failure() const { return *failure_; }
  // OK where there is no failure.
  absl::Status status() const { return ok() ? absl::OkStatus() : failure_->status(); }

 private:
  std::optional<Failure> failure_;
};

}  // namespace reactor

#endif  // REACTOR_FAILURE_H_
