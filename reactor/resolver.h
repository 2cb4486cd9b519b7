// Names of hosts to addresses.

#ifndef REACTOR_RESOLVER_H_
#define REACTOR_RESOLVER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "reactor/address.h"
#include "reactor/deferred.h"
#include "reactor/reactor.h"
#include "reactor/reactor_time.h"
#include "workers/clock.h"
#include "workers/team.h"
#include "workers/thread_factory.h"
#include "workers/worker.h"

namespace reactor {

struct ResolveOptions {
  int port = 0;    // of the addresses that come
  int family = 0;  // AF_INET or AF_INET6: only addresses of that; AF_UNSPEC, 0: of both
  // From the call of Resolve, whether the look-up waits for a thread or runs.
  absl::Duration timeout = absl::Seconds(30);
};

class IResolver {
 public:
  virtual ~IResolver() = default;

  // The addresses of `host`, at least one, the best first. Reactor thread; does not wait. The
  // Deferred fires exactly once, whatever `host` is.
  //
  //   failure           | why
  //   InvalidArgument   | there is no such name, no such option; it says what is wrong
  //   NotFound          | the name does not exist, or has no address of that family
  //   Unavailable       | the name servers do not answer now; or the reactor ends
  //   DeadlineExceeded  | the timeout; it says whether the look-up was still queued
  //   Cancelled         | the Deferred was cancelled
  virtual Deferred<std::vector<Address>> Resolve(absl::string_view host,
                                                 ResolveOptions options) = 0;
};

// What looks a name up, and may block: `host` in lower case, and a family as in ResolveOptions. The
// ports of what it returns do not matter. No addresses count as NotFound.
using LookUp =
    std::function<absl::StatusOr<std::vector<Address>>(const std::string& host, int family)>;

// The LookUp of the system: getaddrinfo. Any thread.
absl::StatusOr<std::vector<Address>> SystemLookUp(const std::string& host, int family);

// What getaddrinfo's `error` (not 0) means, and `system_error`, the errno, where that is
// EAI_SYSTEM. For LookUps of your own.
absl::Status LookUpError(absl::string_view host, int error, int system_error = 0);

struct ResolverOptions {
  std::string name = "resolver";  // its threads are called "<name>-<n>"
  // Called by several threads at once. What it throws is the Failure of those who wait for it.
  // Empty: SystemLookUp.
  LookUp look_up = {};
  // Of the threads: four at once; while look-ups wait for these, one more a second, up to 16. So
  // some that are stuck do not hold up the others. A look-up beyond max_backlog fails with
  // ResourceExhausted. Limits that are given take the place of all of these.
  workers::TeamLimits limits = {
      .soft_limit = 4, .growth_per_second = 1, .hard_limit = 16, .max_backlog = 4096};
  // These as in workers::PoolOptions. The handler hears of threads that cannot be started, and of
  // look-ups that are left behind.
  workers::ThreadOptions thread = {};
  workers::ThreadFactory* factory = nullptr;
  workers::ErrorHandler on_error = {};
  workers::Clock* clock = nullptr;
};

// Looks names up in threads of its own: work that fills the reactor's pool holds up no look-up, and
// the other way round.
//
//   auto resolver = reactor::Resolver::Create(*reactor, *reactor);
//   if (!resolver.ok()) return resolver.status();
//   (*resolver)->Resolve("example.com", {.port = 443})
//       .AddCallback([](std::vector<Address> addresses) { Connect(addresses.front()); })
//       .Detach();
//
// What is asked. IP addresses, of IPv6 also with a scope ("fe80::1%eth0"), are answered at once and
// need neither a thread nor a reactor that runs. A name has letters, digits, '-', '_' and '.', in
// labels of 1 to 63 bytes, at most 253 in all but for one '.' at its end. A name that is not ASCII
// is InvalidArgument: it has to be given in its "xn--" form. (getaddrinfo's own translation,
// AI_IDN, takes the name to be in the encoding of the process's locale, which mostly is "C" and
// knows no such letters; the same program would find a host here and none there.)
//
// Coalescing. One look-up serves all who ask for the same name, in upper or lower case, and family
// while it waits or runs. Each has its own port, timeout and Cancel. When nobody waits for it any
// more, a look-up that has not begun is withdrawn; one that runs cannot be interrupted: it goes on
// for who asks next. So a name that is stuck holds one thread, however often it is asked for. It
// runs in the Context of whoever asked first. Nothing is cached.
//
// The end of the reactor. When its shutdown comes to releasing those who wait (`before` triggers
// may still resolve), all that was asked for fails with Unavailable, and queued look-ups are
// withdrawn. Then Resolve fails with AlreadyQuit, until the next Run.
//
// Home. The Deferreds are the loop's; of calls before a Run the calling thread's, which has to be
// the one that calls Run.
//
// Destruction: reactor thread, before the reactor; also inside a callback of its own Deferreds.
// What was asked for fails with Aborted. It never waits for a look-up: one that runs is left
// behind, and reported to `on_error`. It keeps its thread, the pool and copies of the options, and
// the last one to end destroys those on that thread. One that never ends does not hold up the
// end of the process either: its thread has an owner, and a ThreadFactory waits only for those that
// have none (a factory that is not the default one has to live as long, and so has a clock).
//
// In the child of a fork everything is FailedPrecondition, and the destructor leaks.
class Resolver final : public IResolver {
 public:
  // `reactor` and `time` are of the same reactor, and outlive the resolver. InvalidArgument: as
  // MakePool. Does not start a thread, unless limits.min_workers says so.
  static absl::StatusOr<std::unique_ptr<Resolver>> Create(IReactorThreads& reactor,
                                                          IReactorTime& time,
                                                          ResolverOptions options = {});

  // On another thread while the reactor runs, a debug build dies; a release build tells `on_error`
  // and leaks.
  ~Resolver() override;

  // IResolver implementation:
  // Reactor thread: elsewhere while the reactor runs a debug build dies, and a release build
  // answers FailedPrecondition.
  Deferred<std::vector<Address>> Resolve(absl::string_view host,
                                         ResolveOptions options = {}) override;

 private:
  struct Job;   // one look-up
  struct Desk;  // what the look-ups' threads share with the resolver
  struct Core;  // the reactor thread's

  explicit Resolver(std::shared_ptr<Core> core);

  const std::shared_ptr<Core> core_;
};

}  // namespace reactor

#endif  // REACTOR_RESOLVER_H_
