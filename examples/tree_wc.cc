// tree_wc DIR...: counts the lines, words and bytes of every regular file below the directories.
//
// It prints what `find DIR... -type f -print0 | sort -z` and `wc --files0-from` print, in the
// C locale, byte for byte. Reading blocks, so several ThreadWorkers read; what they counted is
// put in order and printed by one exclusive worker, a LockWorker. Nothing else is shared, so
// there is no mutex in this program and no thread but theirs.
//
//     main              list the files, sort them, start the readers; then wait
//      |
//      | Do             Printer::Begin: hand out as many files as the window holds
//      v
//     printer  <--+
//      |          |     Do: Printer::Finish: keep the counts, print those whose turn it is,
//      | Do       |         hand out as many files as were printed
//      v          |
//     readers  ---+     CountFile
//
// Exit status: 0; 1 if something could not be read or written; 2 for a wrong call.

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "examples/wc.h"
#include "workers/lock_worker.h"
#include "workers/thread_worker.h"
#include "workers/worker.h"
#include "workers/worker_scope.h"

namespace examples {
namespace {

using workers::AssertDoneBy;
using Readers = std::vector<std::unique_ptr<workers::ThreadWorker>>;

// More than processors: most readers wait for the disk.
constexpr int kReaders = 8;

// One line on stderr. Any thread.
void Complain(const absl::Status& status) {
  absl::FPrintF(stderr, "tree_wc: %s\n", status.message());
}

// A work that throws (there is no memory left) or is refused would leave a file that nobody ever
// prints, and main waiting for it.
[[noreturn]] void Die(const absl::Status& status) {
  Complain(status);
  std::abort();
}

void DieOfReport(const workers::ErrorReport& report) { Die(report.status); }

// For workers that refuse nothing: their queue has no bound, and they quit when they are destroyed.
void MustDo(workers::IWorker& worker, workers::Work&& work) {
  const absl::Status taken = worker.Do(std::move(work));
  if (!taken.ok()) Die(taken);
}

// As many as can be started.
Readers StartReaders() {
  Readers readers;
  while (readers.size() < kReaders) {
    auto reader = workers::ThreadWorker::Create(
        {.thread = {.name = absl::StrCat("reader-", readers.size())}, .on_error = DieOfReport});
    if (!reader.ok()) {
      Complain(reader.status());
      break;
    }
    readers.push_back(*std::move(reader));
  }
  return readers;
}

// Has the files of a list counted by readers, and prints the counts in the order of the list.
//
// Threads: Print is called once, by the thread that made the Printer. All else is works of
// `worker_`, on whichever thread brings them: that of Print, then those of the readers. A reader
// waits only while another one prints; nobody who prints ever waits for a reader.
//
// Files are handed out in order, and at most kWindow are handed out and not printed. A file that
// takes long fills the window, the readers become idle, and memory does not grow.
//
// Destruction joins the readers first: their last work may still be leaving this object.
class Printer {
 public:
  // `files` must outlive the printer. There must be a reader.
  Printer(const FileList& files, Readers readers)
      : files_(files), number_width_(files.NumberWidth()), readers_(std::move(readers)) {}

  // Prints a row for each file, and the total. False if something was not read or not written.
  bool Print();

 private:
  static constexpr size_t kWindow = 256;

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
  workers::LockWorker worker_{{.name = "printer", .on_error = DieOfReport}};

  // printed_ <= handed_out_ <= printed_ + kWindow
  size_t handed_out_ ABSL_GUARDED_BY(worker_) = 0;
  size_t printed_ ABSL_GUARDED_BY(worker_) = 0;
  std::array<std::optional<FileCounts>, kWindow> window_ ABSL_GUARDED_BY(worker_);  // by index
  Counts total_ ABSL_GUARDED_BY(worker_);
  bool all_read_ ABSL_GUARDED_BY(worker_) = true;
  int write_errno_ ABSL_GUARDED_BY(worker_) = 0;  // of the first write that failed

  const Readers readers_;
};

bool Printer::Print() {
  MustDo(worker_, [this] { Begin(); });
  return ok_.get_future().get();
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
  const auto& reader = *absl::c_min_element(
      readers_, [](const auto& a, const auto& b) { return a->queued() < b->queued(); });
  MustDo(*reader, [this, index] {
    MustDo(worker_, [this, index, counted = CountFile(files_[index])]() mutable {
      Finish(index, std::move(counted));
    });
  });
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
  Readers readers = StartReaders();
  if (readers.empty()) return 1;
  if (!Printer(files, std::move(readers)).Print()) ok = false;
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace examples

int main(int argc, char** argv) { return examples::Main(argc, argv); }
