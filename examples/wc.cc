#include "examples/wc.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace examples {
namespace {

// wc reads a list of up to this size as a whole and then looks at the files' sizes first; it reads
// a longer list one name at a time.
constexpr size_t kLongestListReadAhead = 10 << 20;

// "<what>: <the text of errno>".
absl::Status ErrnoStatus(absl::string_view what) { return absl::ErrnoToStatus(errno, what); }

DIR* OpenDirectory(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return nullptr;
  DIR* const stream = fdopendir(fd);
  if (stream == nullptr) close(fd);
  return stream;
}

// In the C locale of wc 9.1 a word begins at a visible ASCII character and ends at white space;
// all other bytes change nothing.
class Counter {
 public:
  void Add(absl::string_view block) {
    counts_.bytes += block.size();
    for (const unsigned char c : block) {
      const bool visible = absl::ascii_isgraph(c);
      counts_.lines += c == '\n';
      counts_.words += visible && !in_word_;
      in_word_ = visible || (in_word_ && !absl::ascii_isspace(c));
    }
  }

  const Counts& counts() const { return counts_; }

 private:
  Counts counts_;
  bool in_word_ = false;
};

// 'a'$'\n''b': what a shell reads as the name, in printable ASCII.
std::string ShellQuoted(absl::string_view name) {
  std::string quoted = "'";
  // Inside $'...'. Until coreutils 9.6, a name with a ' begins, by mistake, as it ends.
  bool escaping = absl::StrContains(name, '\'') && !absl::ascii_isprint(name.back());
  for (const unsigned char c : name) {
    if (c == '\'') {
      quoted += R"('\'')";
      escaping = false;
      continue;
    }
    const bool escape = !absl::ascii_isprint(c);
    if (escape != escaping) quoted += escape ? "'$'" : "''";
    escaping = escape;
    if (!escape) {
      quoted += c;
    } else if ('\a' <= c && c <= '\r') {
      absl::StrAppend(&quoted, "\\", absl::string_view(&"abtnvfr"[c - '\a'], 1));
    } else {
      absl::StrAppendFormat(&quoted, "\\%03o", c);
    }
  }
  quoted += '\'';
  return quoted;
}

}  // namespace

void FileList::AddTree(const std::string& root,
                       absl::FunctionRef<void(const absl::Status&)> on_error) {
  struct stat root_stat;
  if (lstat(root.c_str(), &root_stat) != 0) return on_error(ErrnoStatus(root));
  if (S_ISREG(root_stat.st_mode)) return AddFile(root, root_stat.st_size);
  if (!S_ISDIR(root_stat.st_mode)) return;
  std::vector<std::string> directories = {root};
  while (!directories.empty()) {
    const std::string directory = std::move(directories.back());
    directories.pop_back();
    AddEntries(directory, directories, on_error);
  }
}

// Adds the files of `directory`, and to `directories` those that are in it.
void FileList::AddEntries(const std::string& directory, std::vector<std::string>& directories,
                          absl::FunctionRef<void(const absl::Status&)> on_error) {
  DIR* const stream = OpenDirectory(directory);
  if (stream == nullptr) return on_error(ErrnoStatus(directory));
  const absl::Cleanup close_stream = [stream] { closedir(stream); };
  while (true) {
    errno = 0;
    const dirent* const entry = readdir(stream);
    if (entry == nullptr) break;
    const absl::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    std::string path = absl::StrCat(directory, absl::EndsWith(directory, "/") ? "" : "/", name);
    struct stat entry_stat = {};
    const bool known = fstatat(dirfd(stream), entry->d_name, &entry_stat, AT_SYMLINK_NOFOLLOW) == 0;
    // find also lists a file whose directory can be read but not entered.
    const int type = known ? IFTODT(entry_stat.st_mode) : entry->d_type;
    if (type == DT_REG) {
      AddFile(path, entry_stat.st_size);
    } else if (type == DT_DIR) {
      directories.push_back(std::move(path));
    } else if (type == DT_UNKNOWN) {
      on_error(ErrnoStatus(path));
    }
  }
  if (errno != 0) on_error(ErrnoStatus(directory));
}

void FileList::AddFile(absl::string_view name, int64_t size) {
  char* const copy = static_cast<char*>(arena_.allocate(name.size() + 1, 1));
  name.copy(copy, name.size());
  copy[name.size()] = '\0';
  names_.push_back(copy);
  names_bytes_ += name.size() + 1;
  files_bytes_ += size;
}

void FileList::Sort() {
  absl::c_sort(names_, [](const char* a, const char* b) { return std::strcmp(a, b) < 0; });
}

int FileList::NumberWidth() const {
  if (names_bytes_ > kLongestListReadAhead) return 1;
  return static_cast<int>(absl::StrCat(files_bytes_).size());
}

FileCounts CountFile(const char* path) {
  // O_NONBLOCK: not to wait for a writer, should a FIFO have taken the place of the file.
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return {.counts = std::nullopt, .status = ErrnoStatus(path)};
  const absl::Cleanup close_fd = [fd] { close(fd); };
  Counter counter;
  char block[64 << 10];
  while (true) {
    const ssize_t got = read(fd, block, sizeof(block));
    if (got == 0) return {.counts = counter.counts(), .status = absl::OkStatus()};
    if (got > 0) {
      counter.Add(absl::string_view(block, got));
    } else if (errno != EINTR) {
      return {.counts = counter.counts(), .status = ErrnoStatus(path)};
    }
  }
}

std::string Row(const Counts& counts, int number_width, absl::string_view name) {
  return absl::StrFormat("%*d %*d %*d %s\n", number_width, counts.lines, number_width, counts.words,
                         number_width, counts.bytes,
                         absl::StrContains(name, '\n') ? ShellQuoted(name) : std::string(name));
}

}  // namespace examples
