// Many Deferreds as one: all of them, the first of them, or the first that fails.

#ifndef REACTOR_GATHER_H_
#define REACTOR_GATHER_H_

#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "reactor/deferred.h"
#include "reactor/failure.h"

namespace reactor {

// All of these consume their Deferreds; the one that they return belongs to the same home.
//
// Cancel on it cancels those that have not fired yet, each on its own: what one canceller does
// stops no other; it then fails with Cancelled. Once it has fired, a Cancel further down the chain
// goes where the chain waits now, as ever. Whoever need not be waited for any more is cancelled:
// the losers. What comes of losers is not reported, and their values are destroyed.
//
// Cost: an allocation for each Deferred, and a few for all of them together.

// One of several Deferreds failed, and that was the end. The exception of a Failure; its status is
// that of the Deferred's, with a word of which it was.
class FirstError : public StatusError {
 public:
  FirstError(size_t index, Failure failure);

  size_t index() const { return index_; }
  const Failure& failure() const { return failure_; }

  // What `failure` carries, if that is a FirstError; valid as long as the Failure or a copy of it.
  static const FirstError* From(const Failure& failure);

  friend bool operator==(const FirstError& a, const FirstError& b);

 private:
  size_t index_;
  Failure failure_;
};

// All of several Deferreds failed where one success was wanted. Its status has the code of the
// first one's.
class FailureGroup : public StatusError {
 public:
  explicit FailureGroup(std::vector<Failure> failures);

  // In the order of the Deferreds.
  const std::vector<Failure>& failures() const { return failures_; }

  static const FailureGroup* From(const Failure& failure);

 private:
  std::vector<Failure> failures_;
};

struct DeferredListOptions {
  // The first success fires it and cancels the others.
  bool fire_on_one_callback = false;
  // The first failure fails it with FirstError and cancels the others.
  bool fire_on_one_errback = false;
  // Failures in the list are handled by that. If not, they are reported as well.
  bool consume_errors = true;
};

// What became of each Deferred, in their order.
template <typename T>
struct DeferredListResult {
  std::vector<Result<T>> results;
  // With fire_on_one_callback, whose success fired it. Where a Deferred had no result by then,
  // `results` says Cancelled.
  std::optional<size_t> first;
};

// Waits for all of them, whatever comes of each. Of none: fires at once, with an empty list; with
// fire_on_one_callback that is InvalidArgument, for nothing could ever fire it.
template <typename T>
Deferred<DeferredListResult<T>> DeferredList(std::vector<Deferred<T>> deferreds,
                                             DeferredListOptions options = {});

// The values of all of them in their order (nothing where T is void), or FirstError of the first
// failure. Of none: fires at once.
template <typename T>
auto GatherResults(std::vector<Deferred<T>> deferreds)
    -> Deferred<std::conditional_t<std::is_void_v<T>, void, std::vector<T>>>;

template <typename T>
struct RaceResult {
  size_t index;
  T value;
};
template <>
struct RaceResult<void> {
  size_t index;
};

// The first success. If all fail: a FailureGroup. Of none: InvalidArgument, at once.
template <typename T>
Deferred<RaceResult<T>> Race(std::vector<Deferred<T>> deferreds);

// --- implementation: nothing to read below for who uses it ----------------------------------

namespace internal {

// Exceptions are made where exceptions are on.
std::exception_ptr MakeFirstError(size_t index, Failure failure);
std::exception_ptr MakeFailureGroup(std::vector<Failure> failures);
absl::Status LoserError();
absl::Status NothingToWaitForError(absl::string_view what);
void ReportUnhandled(const Failure& failure);

// What the Deferreds of one gathering share. T is theirs, U what comes of all.
template <typename T, typename U>
struct Gathering {
  std::vector<std::optional<Result<T>>> results;
  std::vector<Deferred<void>> waiting;  // their ends; empty ones have fired
  size_t left = 0;
  Promise<U> promise;
  bool is_over = false;

  // It is over: cancels those that have not fired, and destroys what has come.
  void CancelRest() {
    // Both may run code of the user's, which comes back here.
    const std::vector<std::optional<Result<T>>> unwanted = std::move(results);
    results.clear();
    std::vector<Deferred<void>> rest = std::move(waiting);
    waiting.clear();
    for (Deferred<void>& deferred : rest) deferred.Cancel();
  }

  // Fires it, once, and cancels the losers.
  void Finish(Result<U> result) {
    is_over = true;
    CancelRest();
    promise.Fire(std::move(result)).IgnoreError();
  }

  std::vector<Result<T>> TakeResults() {
    std::vector<Result<T>> all;
    all.reserve(results.size());
    for (std::optional<Result<T>>& result : results) {
      all.push_back(result.has_value() ? *std::move(result) : Result<T>(LoserError()));
    }
    return all;
  }
};

// Waits for `deferreds`: calls on_result(gathering, index) whenever a result has come and it is
// not over.
template <typename U, typename T, typename OnResult>
Deferred<U> Gather(std::vector<Deferred<T>> deferreds, OnResult on_result) {
  auto gathering = std::make_shared<Gathering<T, U>>();
  auto [deferred, promise] = MakeDeferred<U>([gathering = std::weak_ptr(gathering)](Promise<U>&) {
    const auto shared = gathering.lock();
    if (shared == nullptr) return;
    shared->is_over = true;
    shared->CancelRest();
  });
  gathering->promise = std::move(promise);
  gathering->results.resize(deferreds.size());
  gathering->left = deferreds.size();
  std::vector<Deferred<void>> waiting;
  waiting.reserve(deferreds.size());
  for (size_t i = 0; i < deferreds.size(); ++i) {
    waiting.push_back(
        std::move(deferreds[i]).AddBoth([gathering, on_result, i](Result<T> result) mutable {
          --gathering->left;
          if (gathering->is_over) return;
          gathering->results[i].emplace(std::move(result));
          on_result(*gathering, i);
        }));
  }
  gathering->waiting = std::move(waiting);
  if (gathering->is_over) gathering->CancelRest();
  return std::move(deferred);
}

}  // namespace internal

template <typename T>
Deferred<DeferredListResult<T>> DeferredList(std::vector<Deferred<T>> deferreds,
                                             DeferredListOptions options) {
  using List = DeferredListResult<T>;
  if (deferreds.empty()) {
    if (!options.fire_on_one_callback) return Succeed(List());
    return Fail<List>(internal::NothingToWaitForError("DeferredList with fire_on_one_callback"));
  }
  return internal::Gather<List>(
      std::move(deferreds), [options](internal::Gathering<T, List>& gathering, size_t i) {
        const Result<T>& result = *gathering.results[i];
        if (!result.ok() && !options.consume_errors) internal::ReportUnhandled(result.failure());
        if (result.ok() && options.fire_on_one_callback) {
          gathering.Finish(List{gathering.TakeResults(), i});
        } else if (!result.ok() && options.fire_on_one_errback) {
          gathering.Finish(Failure(internal::MakeFirstError(i, result.failure())));
        } else if (gathering.left == 0) {
          gathering.Finish(List{gathering.TakeResults(), std::nullopt});
        }
      });
}

template <typename T>
auto GatherResults(std::vector<Deferred<T>> deferreds)
    -> Deferred<std::conditional_t<std::is_void_v<T>, void, std::vector<T>>> {
  using Values = std::conditional_t<std::is_void_v<T>, void, std::vector<T>>;
  if (deferreds.empty()) {
    if constexpr (std::is_void_v<T>) {
      return Succeed();
    } else {
      return Succeed(Values());
    }
  }
  return internal::Gather<Values>(
      std::move(deferreds), [](internal::Gathering<T, Values>& gathering, size_t i) {
        const Result<T>& result = *gathering.results[i];
        if (!result.ok()) {
          gathering.Finish(Failure(internal::MakeFirstError(i, result.failure())));
        } else if (gathering.left == 0) {
          if constexpr (std::is_void_v<T>) {
            gathering.Finish({});
          } else {
            std::vector<T> values;
            values.reserve(gathering.results.size());
            for (std::optional<Result<T>>& one : gathering.results) {
              values.push_back((*std::move(one)).value());
            }
            gathering.Finish(std::move(values));
          }
        }
      });
}

template <typename T>
Deferred<RaceResult<T>> Race(std::vector<Deferred<T>> deferreds) {
  if (deferreds.empty()) {
    return Fail<RaceResult<T>>(internal::NothingToWaitForError("Race"));
  }
  return internal::Gather<RaceResult<T>>(
      std::move(deferreds), [](internal::Gathering<T, RaceResult<T>>& gathering, size_t i) {
        Result<T>& result = *gathering.results[i];
        if (result.ok()) {
          if constexpr (std::is_void_v<T>) {
            gathering.Finish(RaceResult<T>{i});
          } else {
            gathering.Finish(RaceResult<T>{i, std::move(result).value()});
          }
        } else if (gathering.left == 0) {
          std::vector<Failure> failures;
          failures.reserve(gathering.results.size());
          for (const std::optional<Result<T>>& one : gathering.results) {
            failures.push_back(one->failure());
          }
          gathering.Finish(Failure(internal::MakeFailureGroup(std::move(failures))));
        }
      });
}

}  // namespace reactor

#endif  // REACTOR_GATHER_H_
