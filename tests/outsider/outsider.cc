// A program of another workspace: one thread with three work items, and a loop whose pool runs a
// fourth.

#include <cstdio>

#include "reactor/event_reactor.h"
#include "reactor/threads.h"
#include "workers/thread_worker.h"

int main() {
  auto worker = workers::ThreadWorker::Create({.thread = {.name = "outsider"}});
  if (!worker.ok()) return 1;
  int sum = 0;
  for (int i = 1; i <= 3; ++i) {
    if (!(*worker)->Do([&sum, i] { sum += i; }).ok()) return 1;
  }
  worker->reset();  // waits
  auto loop = reactor::EventReactor::Create();
  if (!loop.ok()) return 1;
  const auto have_it_done = [&] {
    reactor::DeferToThread(**loop, [] { return 4; })
        .AddCallback([&](int result) {
          sum += result;
          return (*loop)->Stop();
        })
        .Detach();
  };
  if (!(*loop)->CallWhenRunning(have_it_done).ok() || !(*loop)->Run().ok()) return 1;
  std::printf("outsider: %d\n", sum);
  return sum == 10 ? 0 : 1;
}
