#include "reactor/gather.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "reactor/internal/stage.h"
#include "workers/context.h"

namespace reactor {
namespace {

// `status` with `text` for its message.
absl::Status Reworded(const absl::Status& status, absl::string_view text) {
  absl::Status reworded(status.code(), text);
  status.ForEachPayload([&reworded](absl::string_view url, const absl::Cord& payload) {
    reworded.SetPayload(url, payload);
  });
  return reworded;
}

absl::Status GroupStatus(const std::vector<Failure>& failures) {
  if (failures.empty()) return absl::InternalError("a FailureGroup of no failures");
  const absl::Status& first = failures[0].status();
  return Reworded(first,
                  absl::StrCat("all ", failures.size(), " failed, the first: ", first.message()));
}

template <typename E>
const E* Carried(const Failure& failure) {
  if (failure.exception() == nullptr) return nullptr;
  try {
    std::rethrow_exception(failure.exception());
  } catch (const E& error) {
    return &error;
  } catch (...) {
    return nullptr;
  }
}

}  // namespace

FirstError::FirstError(size_t index, Failure failure)
    : StatusError(Reworded(failure.status(), absl::StrCat("Deferred ", index, " failed first: ",
                                                          failure.status().message()))),
      index_(index),
      failure_(std::move(failure)) {}

const FirstError* FirstError::From(const Failure& failure) { return Carried<FirstError>(failure); }

bool operator==(const FirstError& a, const FirstError& b) {
  return a.index_ == b.index_ && a.failure_.status() == b.failure_.status() &&
         a.failure_.exception() == b.failure_.exception();
}

FailureGroup::FailureGroup(std::vector<Failure> failures)
    : StatusError(GroupStatus(failures)), failures_(std::move(failures)) {}

const FailureGroup* FailureGroup::From(const Failure& failure) {
  return Carried<FailureGroup>(failure);
}

namespace internal {

std::exception_ptr MakeFirstError(size_t index, Failure failure) {
  return std::make_exception_ptr(FirstError(index, std::move(failure)));
}

std::exception_ptr MakeFailureGroup(std::vector<Failure> failures) {
  return std::make_exception_ptr(FailureGroup(std::move(failures)));
}

absl::Status LoserError() { return absl::CancelledError("another one was first"); }

absl::Status NothingToWaitForError(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(what, ": there is nothing to wait for"));
}

void ReportUnhandled(const Failure& failure) {
  ReportTo(workers::Context::Current(), failure.status(), failure.exception());
}

}  // namespace internal
}  // namespace reactor
