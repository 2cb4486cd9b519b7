// Runs code in the child of a fork().

#ifndef TESTS_FORKED_CHILD_H_
#define TESTS_FORKED_CHILD_H_

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <exception>
#include <functional>
#include <string>

namespace workers::test {

// How a child's end reads in a test: "" if `status` (of waitpid) is exit status 0.
inline std::string DescribeEnd(int status) {
  if (WIFEXITED(status)) {
    if (WEXITSTATUS(status) == 0) return "";
    return "the child ended with exit status " + std::to_string(WEXITSTATUS(status));
  }
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) return "the child hung";
  return "the child died of signal " +
         std::to_string(WIFSIGNALED(status) ? WTERMSIG(status) : status);
}

// From now on this process, a fork()ed child, ends with SIGALRM after `seconds`.
inline void EndChildAfter(unsigned seconds) {
  signal(SIGALRM, SIG_DFL);
  sigset_t alarm_only;
  sigemptyset(&alarm_only);
  sigaddset(&alarm_only, SIGALRM);
  sigprocmask(SIG_UNBLOCK, &alarm_only, nullptr);
  alarm(seconds);
}

// Runs `f` in the child of a fork(), for at most `seconds`, and returns what is wrong: what `f`
// returns, or how the child ended otherwise. "" is good:
//
//   EXPECT_EQ(InForkedChild([&]() -> std::string {
//               if (!absl::IsFailedPrecondition(worker->Quit())) return "Quit";
//               return "";
//             }),
//             "");
//
// The child ends without destroying anything and without telling GoogleTest: failed expectations
// in `f` are lost. Threads of this process should stand still meanwhile: a sanitizer's runtime has
// locks of its own, which a child may never get.
inline std::string InForkedChild(const std::function<std::string()>& f, unsigned seconds = 30) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t child = fork();
  if (child < 0) return std::string("no fork: ") + strerror(errno);
  if (child == 0) {
    EndChildAfter(seconds);
    close(ends[0]);
    std::string wrong;
    try {
      wrong = f();
    } catch (const std::exception& e) {
      wrong = std::string("threw: ") + e.what();
    } catch (...) {
      wrong = "threw";
    }
    const ssize_t written = write(ends[1], wrong.data(), wrong.size());
    _exit(written == static_cast<ssize_t>(wrong.size()) ? 0 : 99);
  }
  close(ends[1]);
  std::string wrong;
  char buffer[512];
  for (;;) {
    const ssize_t got = read(ends[0], buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    wrong.append(buffer, static_cast<size_t>(got));
  }
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  const std::string end = DescribeEnd(status);
  return end.empty() ? wrong : wrong.empty() ? end : wrong + "; " + end;
}

// How the child `pid` ended, which the test has forked itself: "" is exit status 0.
inline std::string WaitForChild(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return strerror(errno);
  }
  return DescribeEnd(status);
}

}  // namespace workers::test

#endif  // TESTS_FORKED_CHILD_H_
