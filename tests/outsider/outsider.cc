// A program of another workspace: one thread, three works.

#include <cstdio>

#include "workers/thread_worker.h"

int main() {
  auto worker = workers::ThreadWorker::Create({.thread = {.name = "outsider"}});
  if (!worker.ok()) return 1;
  int sum = 0;
  for (int i = 1; i <= 3; ++i) {
    if (!(*worker)->Do([&sum, i] { sum += i; }).ok()) return 1;
  }
  worker->reset();  // waits
  std::printf("outsider: %d\n", sum);
  return sum == 6 ? 0 : 1;
}
