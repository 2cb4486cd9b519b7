// What find, sort and wc know about files. No threads here: tree_wc.cc has them.

#ifndef EXAMPLES_WC_H_
#define EXAMPLES_WC_H_

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace examples {

// The regular files below some directories, as `find DIR... -type f` lists them. It is made for
// hundreds of thousands of names: each takes little more than its own bytes.
//
// One thread fills it; after that any number of threads may read it.
class FileList {
 public:
  FileList() = default;
  FileList(const FileList&) = delete;
  FileList& operator=(const FileList&) = delete;

  // Adds the files below `root`, or `root` itself if it is a file; follows no symbolic link.
  // Calls `on_error` with "<path>: <reason>" for each file that cannot be read, and continues.
  void AddTree(const std::string& root, absl::FunctionRef<void(const absl::Status&)> on_error);

  // Puts the names in the order of their bytes, as `LC_ALL=C sort -z`.
  void Sort();

  size_t size() const { return names_.size(); }
  const char* operator[](size_t index) const { return names_[index]; }

  // How wide `wc --files0-from` prints the numbers for this list.
  int NumberWidth() const;

 private:
  void AddEntries(const std::string& directory, std::vector<std::string>& directories,
                  absl::FunctionRef<void(const absl::Status&)> on_error);
  void AddFile(absl::string_view name, int64_t size);

  std::pmr::monotonic_buffer_resource arena_;  // the names' bytes, each name with a NUL behind it
  std::vector<const char*> names_;
  size_t names_bytes_ = 0;  // NULs included
  uint64_t files_bytes_ = 0;
};

struct Counts {
  int64_t lines = 0;
  int64_t words = 0;
  int64_t bytes = 0;
};

struct FileCounts {
  std::optional<Counts> counts;  // nullopt: the file cannot be opened, and wc prints no row
  absl::Status status;           // not OK: "<path>: <reason>"
};

// Reads a file to its end. Any thread; blocks; needs 64 KiB of stack.
FileCounts CountFile(const char* path);

// One row of wc's output.
std::string Row(const Counts& counts, int number_width, absl::string_view name);

}  // namespace examples

#endif  // EXAMPLES_WC_H_
