// tree_wc DIR...: counts the lines, words and bytes of every regular file below the directories.
//
// It prints what `find DIR... -type f -print0 | sort -z` and `wc --files0-from` print, in the
// C locale, byte for byte. Reading blocks, so a pool of threads reads the files. One exclusive
// worker, a SerialWorker on the same pool, collects the counts and prints them in order. The
// threads share nothing else, so this program has no mutex, and no threads but the pool's.
//
//     main              lists the files, sorts them, starts the pool; then waits
//      |
//      | Do             Printer::Begin: submits as many files as the window holds
//      v
//     printer  <--+
//      |          |     Do: Printer::Finish: keeps the counts, prints those that are next in
//      | Do       |         order, submits as many files as it has printed
//      v          |
//     pool  ------+     CountFile
//
// Exit status: 0; 1 if something could not be read or written; 2 for wrong arguments.

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

// Maximum number of files that are submitted and not yet printed. The printer's slice is queued
// behind the files that were submitted before it; with a small window the threads would often
// sleep until it runs.
constexpr size_t kWindow = 1024;

// One line on stderr. Any thread.
void Complain(const absl::Status& status) {
  absl::FPrintF(stderr, "tree_wc: %s\n", status.message());
}

// For operations that cannot fail here. If a work item were refused, its file would never be
// printed, and main would wait forever.
void Must(const absl::Status& status) {
  if (status.ok()) return;
  Complain(status);
  std::abort();
}

// An item that throws (there is no memory left) would have the same consequence. A thread that
// cannot be started only leaves more files to the others.
void OnError(const workers::ErrorReport& report) {
  Complain(report.status);
  if (report.exception != nullptr || report.dropped > 0) std::abort();
}

// A pool with one thread per processor, or as many as can be started; an error if none can. All
// threads are created here and none later.
//
// The backlog has room for the window and for the printer, which has at most one slice in it. So
// the pool never refuses an item: the printer does not submit more than the window holds.
absl::StatusOr<std::unique_ptr<workers::Team>> StartPool() {
  // At least two: one may block on our output, which another process reads, while another counts.
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

// Counts the files of a list on a pool, and prints the counts in the order of the list.
//
// Threads: Print is called once, by the thread that made the Printer. All other private functions
// run in work items of `worker_`, on any thread of the pool. Only Print waits for a file.
//
// Files are submitted in order, and at most kWindow are submitted and not printed. While one file
// takes long, the window fills, the pool becomes idle, and memory does not grow.
class Printer {
 public:
  // `files` must outlive the printer. The pool must be one of StartPool.
  Printer(const FileList& files, std::unique_ptr<workers::Team> pool)
      : files_(files), number_width_(files.NumberWidth()), pool_(std::move(pool)) {}

  // Prints a row for each file, and the total. False if something was not read or not written.
  bool Print();

 private:
  // Each runs as a work item of worker_.
  void Begin();
  void Finish(size_t index, FileCounts counted);

  void End() ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_);
  void SubmitFiles() ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_);
  void SubmitFile(size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_);
  void PrintFinished() ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_);
  void PrintFile(size_t index, const FileCounts& counted) ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_);
  void PrintRow(const Counts& counts, absl::string_view name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker_);

  const FileList& files_;
  const int number_width_;
  std::promise<bool> ok_;  // what Print waits for

  // printed_ <= submitted_ <= printed_ + kWindow
  size_t submitted_ ABSL_GUARDED_BY(worker_) = 0;
  size_t printed_ ABSL_GUARDED_BY(worker_) = 0;
  std::array<std::optional<FileCounts>, kWindow> window_ ABSL_GUARDED_BY(worker_);  // by index
  Counts total_ ABSL_GUARDED_BY(worker_);
  bool all_read_ ABSL_GUARDED_BY(worker_) = true;
  int write_errno_ ABSL_GUARDED_BY(worker_) = 0;  // of the first write that failed

  // Destroyed in this order: the worker, its group, the pool that both use.
  const std::unique_ptr<workers::Team> pool_;
  workers::SerialGroup group_{*pool_, {.name = "printer", .on_error = OnError}};
  workers::SerialWorker worker_{group_};
};

bool Printer::Print() {
  Must(worker_.Do([this] { Begin(); }));
  const bool ok = ok_.get_future().get();
  // All is printed, but the last items may still be using this object.
  Must(pool_->Quit());
  Must(pool_->Join());
  return ok;
}

void Printer::Begin() {
  AssertDoneBy(worker_);
  SubmitFiles();
  if (files_.size() == 0) End();
}

void Printer::Finish(size_t index, FileCounts counted) {
  AssertDoneBy(worker_);
  window_[index % kWindow] = std::move(counted);
  PrintFinished();
  SubmitFiles();
  if (printed_ == files_.size()) End();
}

void Printer::End() {
  if (files_.size() > 1) PrintRow(total_, "total");
  if (std::fflush(stdout) != 0 && write_errno_ == 0) write_errno_ = errno;
  if (write_errno_ != 0) Complain(absl::ErrnoToStatus(write_errno_, "write error"));
  ok_.set_value(all_read_ && write_errno_ == 0);
}

void Printer::SubmitFiles() {
  while (submitted_ < files_.size() && submitted_ < printed_ + kWindow) SubmitFile(submitted_++);
}

void Printer::SubmitFile(size_t index) {
  Must(pool_->Do([this, index] {
    Must(worker_.Do([this, index, counted = CountFile(files_[index])]() mutable {
      Finish(index, std::move(counted));
    }));
  }));
}

void Printer::PrintFinished() {
  while (printed_ < submitted_ && window_[printed_ % kWindow].has_value()) {
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
