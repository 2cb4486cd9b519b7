#include "reactor/internal/descriptors.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "workers/internal/report.h"

namespace reactor::internal {

namespace {

absl::Status ClosedError() {
  return absl::FailedPreconditionError("its descriptor was closed while it was watched");
}

}  // namespace

Descriptors::Descriptors(std::string loop, workers::ErrorHandler on_error, Poller& poller,
                         std::function<void(IDescriptor&)> forgotten)
    : loop_(std::move(loop)),
      on_error_(std::move(on_error)),
      poller_(poller),
      forgotten_(std::move(forgotten)) {}

absl::Status Descriptors::Guarded(absl::FunctionRef<absl::Status()> f) const {
  absl::Status status;
  absl::Status thrown = workers::internal::CatchToStatus([&] { status = f(); });
  if (thrown.ok()) return status;
  workers::internal::Report(on_error_, loop_, thrown);
  return thrown;
}

void Descriptors::Forget(IDescriptor& d) {
  const auto it = watched_.find(&d);
  poller_.Remove(it->second.token);
  by_token_.erase(it->second.token);
  by_fd_.erase(it->second.fd);
  watched_.erase(it);
  if (forgotten_) forgotten_(d);
}

void Descriptors::LetGo(IDescriptor& d, absl::Status why) {
  Forget(d);
  Guarded([&] {
    d.ConnectionLost(std::move(why));
    return absl::OkStatus();
  }).IgnoreError();
}

absl::Status Descriptors::Add(IDescriptor& d, IReadDescriptor* reader, IWriteDescriptor* writer) {
  if (!open_) return workers::AlreadyQuitError(loop_);
  const int fd = d.fd();
  if (fd < 0) return absl::InvalidArgumentError(absl::StrCat(loop_, ": the descriptor is closed"));
  if (const auto it = watched_.find(&d); it != watched_.end()) {
    Watched& watched = it->second;
    if (reader == nullptr) reader = watched.reader;
    if (writer == nullptr) writer = watched.writer;
    if (watched.fd == fd) {
      if (reader == watched.reader && writer == watched.writer) return absl::OkStatus();
      if (absl::Status status =
              poller_.Change(watched.token, {reader != nullptr, writer != nullptr});
          !status.ok()) {
        return status;
      }
      watched.reader = reader;
      watched.writer = writer;
      return absl::OkStatus();
    }
    // It has another descriptor now, and has not told: it begins anew, or has lost the old one.
    Forget(d);
    lost_[&d] = ClosedError();
  }
  if (const auto other = by_fd_.find(fd); other != by_fd_.end()) {
    IDescriptor& old = *other->second;
    if (old.fd() == fd) {
      return absl::AlreadyExistsError(absl::StrCat(loop_, ": another object has descriptor ", fd));
    }
    Forget(old);  // closed without a word; the number has come back
    lost_[&old] = ClosedError();
  }
  const auto token = poller_.Add(fd, {reader != nullptr, writer != nullptr});
  if (!token.ok()) return token.status();
  lost_.erase(&d);
  watched_[&d] = {*token, fd, reader, writer};
  by_token_[*token] = &d;
  by_fd_[fd] = &d;
  return absl::OkStatus();
}

absl::Status Descriptors::Remove(IDescriptor& d, bool reader, bool writer) {
  lost_.erase(&d);
  const auto it = watched_.find(&d);
  if (it == watched_.end()) return absl::OkStatus();
  Watched& watched = it->second;
  if ((!reader || watched.reader == nullptr) && (!writer || watched.writer == nullptr)) {
    return absl::OkStatus();
  }
  if (reader) watched.reader = nullptr;
  if (writer) watched.writer = nullptr;
  if (watched.reader == nullptr && watched.writer == nullptr) {
    Forget(d);
    return absl::OkStatus();
  }
  return poller_.Change(watched.token, {watched.reader != nullptr, watched.writer != nullptr});
}

std::vector<std::pair<IDescriptor*, Descriptors::Watched>> Descriptors::watched() const {
  std::vector<std::pair<IDescriptor*, Watched>> all(watched_.begin(), watched_.end());
  std::sort(all.begin(), all.end(),
            [](const auto& a, const auto& b) { return a.second.token < b.second.token; });
  return all;
}

std::vector<IDescriptor*> Descriptors::RemoveAll() {
  std::vector<IDescriptor*> all;
  for (const auto& [d, watched] : watched()) {
    Forget(*d);
    all.push_back(d);
  }
  lost_.clear();
  return all;
}

bool Descriptors::Run(const reactor::Ready& ready) {
  const auto found = by_token_.find(ready.token);
  if (found == by_token_.end()) return false;
  IDescriptor& d = *found->second;
  const Watched& watched = watched_.find(&d)->second;  // until a callback
  if (ready.closed || d.fd() != watched.fd) {
    LetGo(d, ClosedError());
    return true;
  }
  IWriteDescriptor* writer = watched.writer;
  if (ready.read && watched.reader != nullptr) {
    absl::Status status = Guarded([&] { return watched.reader->DoRead(); });
    if (!by_token_.contains(ready.token)) return true;
    if (!status.ok()) {
      LetGo(d, std::move(status));
      return true;
    }
    writer = watched_.find(&d)->second.writer;
  }
  if (ready.write && writer != nullptr) {
    absl::Status status = Guarded([&] { return writer->DoWrite(); });
    if (by_token_.contains(ready.token) && !status.ok()) LetGo(d, std::move(status));
  }
  return true;
}

bool Descriptors::RunLost() {
  const bool some = HasLost();
  while (!lost_.empty()) {
    const auto node = lost_.extract(lost_.begin());
    Guarded([&] {
      node.key()->ConnectionLost(node.mapped());
      return absl::OkStatus();
    }).IgnoreError();
  }
  return some;
}

void Descriptors::LoseAll() {
  open_ = false;
  RunLost();
  for (const auto& [d, watched] : watched()) {
    if (!by_token_.contains(watched.token)) continue;  // one before it has removed it
    LetGo(*d, absl::UnavailableError(absl::StrCat(loop_, ": the reactor has stopped")));
  }
}

}  // namespace reactor::internal
