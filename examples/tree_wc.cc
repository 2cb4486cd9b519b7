// tree_wc DIR...: counts the lines, words and bytes of every regular file below the directories.
//
// It prints what `find DIR... -type f -print0 | sort -z` and `wc --files0-from` print, in the
// C locale, byte for byte. Reading blocks, so a pool of threads reads; what they counted is put
// in order and printed by one exclusive worker, a SerialWorker, which takes its turns on the same
// threads. Nothing else is shared, so there is no mutex in this program and no thread but theirs.
//
//     main              list the files, sort them, start the pool; then wait
//      |
//      | Do             Printer::Begin: hand out as many files as the window holds
//      v
//     printer  <--+
//      |          |     Do: Printer::Finish: keep the counts, print those whose turn it is,
//      | Do       |         hand out as many files as were printed
//      v          |
//     pool  ------+     CountFile
//
// Exit status: 0; 1 if something could not be read or written; 2 for a wrong call.

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "examples/wc.h"
#include "workers/pool.h"
#include "workers/serial_worker.h"
#include "workers/team.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace examples {
namespace {

using workers::AssertDoneBy;

// How many files are handed out and not printed, at most. The printer's turn comes after the files
// that were handed out before it; with few, the threads would often sleep until then.
constexpr size_t kWindow = 1024;

// One line on stderr. Any thread.
void Complain(const absl::Status& status) {
  absl::FPrintF(stderr, "tree_wc: %s\n", status.message());
}

// For what cannot fail here. A work that is refused would leave a file that nobody ever prints,
// and main waiting for it.
void Must(const absl::Status& status) {
  if (status.ok()) return;
  Complain(status);
  std::abort();
}

// A work that throws (there is no memory left) would do the same. A thread that cannot be started
// only leaves more to the others.
void OnError(const workers::ErrorReport& report) {
  Complain(report.status);
  if (report.exception != nullptr || report.dropped > 0) std::abort();
}

// A pool of a thread for each processor, or as many as can be started; an error if none can. All
// are started here, and none as work comes: one that fails would be tried again with every file.
//
// Its backlog has room for the window and for the printer, which asks for one turn at a time. So
// it refuses nothing: what it would have to refuse is not handed out.
absl::StatusOr<std::unique_ptr<workers::Team>> StartPool() {
  // At least two: one may wait for whoever reads our output while the other one counts.
  const int threads = std::max(2, static_cast<int>(std::thread::hardware_concurrency()));
  auto pool = workers::MakePool(
      {.name = "reader",
       .limits = {.min_workers = threads, .soft_limit = threads, .max_backlog = kWindow + 1},
       .on_error = OnError});
  if (!pool.ok()) return pool;
  if ((*pool)->statistics().live == 0) {
    return absl::ResourceExhaustedError("no thread can be started");
  }
  return pool;
}

// Has the files of a list counted by a pool, and prints the counts in the order of the list.
//
// Threads: Print is called once, by the thread that made the Printer. All else is works of
// `worker_`, on whichever thread of the pool has its turn. Nobody but Print waits for a file.
//
// Files are handed out in order, and at most kWindow are handed out and not printed. A file that
// takes long fills the window, the pool becomes idle, and memory does not grow.
class Printer {
 public:
  // `files` must outlive the printer. The pool must be one of StartPool.
  Printer(const FileList& files, std::unique_ptr<workers::Team> pool)
      : files_(files), number_width_(files.NumberWidth()), pool_(std::move(pool)) {}

  // Prints a row for each file, and the total. False if something was not read or not written.
  bool Print();

 private:
  // Works.
  void Begin();
  void Finish(size_t index, FileCounts counted);

  void End() ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_);
  void HandOutFiles() ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_);
  void HandOut(size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_);
  void PrintFinished() ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_);
  void PrintFile(size_t index, const FileCounts& counted) ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_);
  void PrintRow(const Counts& counts, absl::string_view name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_);

  const FileList& files_;
  const int number_width_;
  std::promise<bool> ok_;  // what Print waits for

  // printed_ <= handed_out_ <= printed_ + kWindow
  size_t handed_out_ ABSL_GUARDED_BY(worker_) = 0;
  size_t printed_ ABSL_GUARDED_BY(worker_) = 0;
  std::array<std::optional<FileCounts>, kWindow> window_ ABSL_GUARDED_BY(worker_);  // by index
  Counts total_ ABSL_GUARDED_BY(worker_);
  bool all_read_ ABSL_GUARDED_BY(worker_) = true;
  int write_errno_ ABSL_GUARDED_BY(worker_) = 0;  // of the first write that failed

  // Destroyed first: the worker, then what it stands on.
  const std::unique_ptr<workers::Team> pool_;
  workers::SerialGroup group_{*pool_, {.name = "printer", .on_error = OnError}};
  workers::SerialWorker worker_{group_};
};

bool Printer::Print() {
  Must(worker_.Do([this] { Begin(); }));
  const bool ok = ok_.get_future().get();
  // All is printed, but the last works may still be leaving this object.
  Must(pool_->Quit());
  Must(pool_->Join());
  return ok;
}

void Printer::Begin() {
  AssertDoneBy(worker_);
  HandOutFiles();
  if (files_.size() == 0) End();
}

void Printer::Finish(size_t index, FileCounts counted) {
  AssertDoneBy(worker_);
  window_[index % kWindow] = std::move(counted);
  PrintFinished();
  HandOutFiles();
  if (printed_ == files_.size()) End();
}

void Printer::End() {
  if (files_.size() > 1) PrintRow(total_, "total");
  if (std::fflush(stdout) != 0 && write_errno_ == 0) write_errno_ = errno;
  if (write_errno_ != 0) Complain(absl::ErrnoToStatus(write_errno_, "write error"));
  ok_.set_value(all_read_ && write_errno_ == 0);
}

void Printer::HandOutFiles() {
  while (handed_out_ < files_.size() && handed_out_ < printed_ + kWindow) HandOut(handed_out_++);
}

void Printer::HandOut(size_t index) {
  Must(pool_->Do([this, index] {
    Must(worker_.Do([this, index, counted = CountFile(files_[index])]() mutable {
      Finish(index, std::move(counted));
    }));
  }));
}

void Printer::PrintFinished() {
  while (printed_ < handed_out_ && window_[printed_ % kWindow].has_value()) {
    PrintFile(printed_, *window_[printed_ % kWindow]);
    window_[printed_ % kWindow].reset();
    ++printed_;
  }
}

void Printer::PrintFile(size_t index, const FileCounts& counted) {
  if (!counted.status.ok()) {
    Complain(counted.status);
    all_read_ = false;
  }
  if (!counted.counts.has_value()) return;
  PrintRow(*counted.counts, files_[index]);
  total_.lines += counted.counts->lines;
  total_.words += counted.counts->words;
  total_.bytes += counted.counts->bytes;
}

void Printer::PrintRow(const Counts& counts, absl::string_view name) {
  const std::string row = Row(counts, number_width_, name);
  const bool written = std::fwrite(row.data(), 1, row.size(), stdout) == row.size();
  if (!written && write_errno_ == 0) write_errno_ = errno;
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("usage: tree_wc DIR...\n", stderr);
    return 2;
  }
  bool ok = true;
  FileList files;
  for (int i = 1; i < argc; ++i) {
    files.AddTree(argv[i], [&ok](const absl::Status& error) {
      Complain(error);
      ok = false;
    });
  }
  files.Sort();
  auto pool = StartPool();
  if (!pool.ok()) {
    Complain(pool.status());
    return 1;
  }
  if (!Printer(files, *std::move(pool)).Print()) ok = false;
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace examples

int main(int argc, char** argv) { return examples::Main(argc, argv); }
