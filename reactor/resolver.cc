#include "reactor/resolver.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "reactor/failure.h"
#include "reactor/internal/stage.h"
#include "workers/context.h"
#include "workers/internal/misuse.h"
#include "workers/internal/report.h"
#include "workers/internal/sync.h"
#include "workers/pool.h"
#include "workers/worker_scope.h"

namespace reactor {

using workers::Work;
using workers::internal::MutexLock;

namespace {

using Addresses = std::vector<Address>;

constexpr size_t kMostInName = 253;
constexpr size_t kMostInLabel = 63;

absl::string_view FamilyName(int family) {
  return family == AF_INET ? " IPv4" : family == AF_INET6 ? " IPv6" : "";
}

// Is it the name that a host may have?
absl::Status CheckName(absl::string_view host) {
  const auto invalid = [host](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("the host name \"", absl::CHexEscape(host.substr(0, 64)), "\" ", why));
  };
  if (host.empty()) return invalid("is empty");
  for (const char c : host) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.') {
      continue;
    }
    if (!absl::ascii_isascii(static_cast<unsigned char>(c))) {
      return invalid("is not ASCII; give it in its \"xn--\" form");
    }
    return invalid(absl::StrCat("has a '", absl::CHexEscape(absl::string_view(&c, 1)),
                                "', which is in no name"));
  }
  absl::string_view rest = host;
  if (rest.back() == '.') rest.remove_suffix(1);
  if (rest.size() > kMostInName) {
    return invalid(absl::StrCat("has ", host.size(), " bytes, and a name at most ", kMostInName));
  }
  for (const absl::string_view label : absl::StrSplit(rest, '.')) {
    if (label.empty()) return invalid("has an empty label");
    if (label.size() > kMostInLabel) {
      return invalid(absl::StrCat("has a label of ", label.size(), " bytes, and one has at most ",
                                  kMostInLabel));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const ResolveOptions& options) {
  if (options.port < 0 || options.port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("Resolve: ", options.port, " is not a port"));
  }
  if (options.family != AF_UNSPEC && options.family != AF_INET && options.family != AF_INET6) {
    return absl::InvalidArgumentError(
        absl::StrCat("Resolve: the family ", options.family, " is not one of IP"));
  }
  if (options.timeout < absl::ZeroDuration()) {
    return absl::InvalidArgumentError("Resolve: the timeout is negative");
  }
  return absl::OkStatus();
}

absl::Status NoAddressError(absl::string_view host, int family) {
  return absl::NotFoundError(
      absl::StrCat("resolving ", host, ": there is no", FamilyName(family), " address"));
}

Addresses WithPort(Addresses addresses, int port) {
  for (Address& address : addresses) address.port = static_cast<uint16_t>(port);
  return addresses;
}

}  // namespace

absl::Status LookUpError(absl::string_view host, int error, int system_error) {
  const std::string message = absl::StrCat("resolving ", host, ": ", gai_strerror(error));
  switch (error) {
    case EAI_NONAME:
    case EAI_NODATA:
    case EAI_ADDRFAMILY:
      return absl::NotFoundError(message);
    case EAI_AGAIN:
      return absl::UnavailableError(message);
    case EAI_MEMORY:
      return absl::ResourceExhaustedError(message);
    case EAI_FAMILY:
    case EAI_SOCKTYPE:
    case EAI_SERVICE:
    case EAI_BADFLAGS:
      return absl::InvalidArgumentError(message);
    case EAI_SYSTEM:
      return absl::ErrnoToStatus(system_error, message);
  }
  return absl::UnknownError(message);  // EAI_FAIL: a name server's refusal, for one
}

absl::StatusOr<std::vector<Address>> SystemLookUp(const std::string& host, int family) {
  addrinfo hints = {};
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;  // each address once, not once a protocol
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error != 0) return LookUpError(host, error, errno);
  Addresses addresses;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const auto address = Address::FromSockaddr(at->ai_addr, at->ai_addrlen);
    // The file of hosts may have one twice.
    if (address.ok() &&
        std::find(addresses.begin(), addresses.end(), *address) == addresses.end()) {
      addresses.push_back(*address);
    }
  }
  freeaddrinfo(found);
  return addresses;
}

// --- one look-up --------------------------------------------------------------------------------

struct Resolver::Job {
  Job(std::string host, int family, std::weak_ptr<Core> core)
      : host(std::move(host)), family(family), core(std::move(core)) {}

  // Immutable.
  const std::string host;
  const int family;
  const workers::Context context = workers::Context::Current();
  const std::weak_ptr<Core> core;  // locked on the reactor thread only

  // The thread's that runs it; then, handed over by the loop's Do, the reactor thread's.
  Result<Addresses> result = absl::AbortedError("the look-up ended its thread");

  // The reactor thread's: who waits, in the order in which they asked.
  std::set<uint64_t> waiters;
};

// --- what the threads share with the resolver ----------------------------------------------------

// A turn is a work of the pool that runs the look-up at the head of the queue, if there is one.
// Invariant: turns that were taken and have not begun == queue.size() + shells; and shells are used
// before new turns are made. So a withdrawn look-up leaves a shell of a few bytes, and there are
// never more of these than look-ups have waited at a time.
//
// Owned by the resolver and by each turn. With the resolver go the turns that have not begun; if
// one runs, it is the last owner, and the pool is destroyed in a work of its own, where that waits
// for nothing. A turn that never ends keeps the pool, whose thread so keeps its owner.
struct Resolver::Desk {
  Desk(LookUp look_up, std::shared_ptr<workers::IExclusiveWorker> loop)
      : look_up(std::move(look_up)), loop(std::move(loop)) {}

  // Reactor thread. Not OK: the pool is full.
  static absl::Status Add(const std::shared_ptr<Desk>& desk, std::shared_ptr<Job> job);
  // Reactor thread. False: it has begun.
  bool Withdraw(const std::shared_ptr<Job>& job);
  bool IsQueued(const std::shared_ptr<Job>& job) const;
  // Reactor thread. Nothing begins any more. Returns the names that are being looked up.
  std::vector<std::string> Close();

  // In a thread of the pool.
  void RunTurn();

  const LookUp look_up;
  const std::shared_ptr<workers::IExclusiveWorker> loop;

  mutable workers::internal::Mutex mutex;
  std::deque<std::shared_ptr<Job>> queue ABSL_GUARDED_BY(mutex);  // only the reactor thread adds
  int64_t shells ABSL_GUARDED_BY(mutex) = 0;
  std::vector<std::shared_ptr<Job>> running ABSL_GUARDED_BY(mutex);

  std::unique_ptr<workers::Team> pool;  // set before it is used
};

absl::Status Resolver::Desk::Add(const std::shared_ptr<Desk>& desk, std::shared_ptr<Job> job) {
  {
    MutexLock lock(desk->mutex);
    desk->queue.push_back(job);
    if (desk->shells > 0) {
      --desk->shells;
      return absl::OkStatus();
    }
  }
  absl::Status taken = desk->pool->Do([desk]() mutable {
    const std::shared_ptr<Desk> own = std::move(desk);
    own->RunTurn();
  });
  if (!taken.ok()) {
    // There is a turn for each one before it, and so it is still there: the last.
    MutexLock lock(desk->mutex);
    desk->queue.pop_back();
  }
  return taken;
}

bool Resolver::Desk::Withdraw(const std::shared_ptr<Job>& job) {
  MutexLock lock(mutex);
  const auto it = std::find(queue.begin(), queue.end(), job);
  if (it == queue.end()) return false;
  queue.erase(it);
  ++shells;
  return true;
}

bool Resolver::Desk::IsQueued(const std::shared_ptr<Job>& job) const {
  MutexLock lock(mutex);
  return std::find(queue.begin(), queue.end(), job) != queue.end();
}

std::vector<std::string> Resolver::Desk::Close() {
  std::vector<std::string> names;
  std::deque<std::shared_ptr<Job>> withdrawn;  // destroyed without the lock
  {
    MutexLock lock(mutex);
    shells += static_cast<int64_t>(queue.size());
    withdrawn.swap(queue);
    for (const auto& job : running) names.push_back(job->host);
  }
  pool->QuitNow();  // drops turns only, and nothing waits for these any more
  return names;
}

// --- the reactor thread's ------------------------------------------------------------------------

// Owned by the resolver; works and callbacks that others keep hold it weakly. So its Promises die
// where the resolver does.
struct Resolver::Core : public std::enable_shared_from_this<Core> {
  struct Waiter {
    std::shared_ptr<Job> job;
    Promise<Addresses> promise;
    int port;
    absl::Duration timeout;
    DelayedCall timer;
  };

  Core(IReactorThreads& reactor, IReactorTime& time, ResolverOptions& options)
      : name(std::move(options.name)),
        on_error(std::move(options.on_error)),
        reactor(reactor),
        time(time),
        loop(reactor.worker()) {}

  bool IsForked() const { return fork_count != workers::internal::ForkCount::Get(); }
  absl::Status CheckThread(absl::string_view method) const;
  Deferred<Addresses> Resolve(absl::string_view host, const ResolveOptions& options);
  // What can be said at once: an error or the addresses of a literal. Nothing: it has to be looked
  // up.
  std::optional<Result<Addresses>> Answer(absl::string_view host,
                                          const ResolveOptions& options) const;
  absl::Status Wait(absl::string_view host, const ResolveOptions& options, uint64_t id,
                    Promise<Addresses>& promise);
  absl::StatusOr<std::shared_ptr<Job>> FindOrAdd(absl::string_view host, int family);
  // Takes a waiter away, and withdraws its look-up if it was the last and that has not begun.
  std::optional<Waiter> Leave(uint64_t id);
  // Nobody can join it any more.
  void Forget(const std::shared_ptr<Job>& job);
  void TimeOut(uint64_t id);
  static void Finish(const std::shared_ptr<Job>& job);
  void FailAll(const absl::Status& why);
  void ReactorEnds();
  void Close();

  // Immutable.
  const std::string name;
  const workers::ErrorHandler on_error;
  IReactorThreads& reactor;
  IReactorTime& time;
  const std::shared_ptr<workers::IExclusiveWorker> loop;
  const int fork_count = workers::internal::ForkCount::Get();

  // The reactor thread's.
  std::shared_ptr<Desk> desk;  // null: closed
  // Those that were not withdrawn and whose result has not come, also where nobody waits any more.
  std::map<std::pair<std::string, int>, std::shared_ptr<Job>> jobs;
  std::map<uint64_t, Waiter> waiters;  // in the order in which they asked
  uint64_t next_waiter = 1;
  std::optional<uint64_t> watch;  // of the reactor's end; there is one while there are waiters
};

absl::Status Resolver::Core::CheckThread(absl::string_view method) const {
  if (!reactor.running() || reactor.InReactorThread()) return absl::OkStatus();
  const std::string message =
      absl::StrCat(name, ": ", method, " was called on another thread than the reactor's");
#ifndef NDEBUG
  workers::internal::DieOfMisuse(message);
#else
  return absl::FailedPreconditionError(message);
#endif
}

Deferred<Addresses> Resolver::Core::Resolve(absl::string_view host, const ResolveOptions& options) {
  const uint64_t id = next_waiter++;
  Canceller<Addresses> canceller = [weak = weak_from_this(), id](Promise<Addresses>&) {
    const std::shared_ptr<Core> core = weak.lock();
    std::optional<Waiter> waiter = core != nullptr ? core->Leave(id) : std::nullopt;
    if (!waiter.has_value()) return;
    waiter->promise
        .Errback(absl::CancelledError(absl::StrCat("resolving ", waiter->job->host, ": cancelled")))
        .IgnoreError();
  };
  auto [deferred, promise] = workers::WorkerScope::RunsIn(*loop)
                                 ? MakeDeferred<Addresses>(*loop, std::move(canceller))
                                 : MakeDeferred<Addresses>(std::move(canceller));
  if (auto answer = Answer(host, options); answer.has_value()) {
    promise.Fire(*std::move(answer)).IgnoreError();
  } else if (absl::Status status = Wait(host, options, id, promise); !status.ok()) {
    promise.Errback(std::move(status)).IgnoreError();
  }
  return std::move(deferred);
}

std::optional<Result<Addresses>> Resolver::Core::Answer(absl::string_view host,
                                                        const ResolveOptions& options) const {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  // A name with a colon or a percent sign can only be an address, and the error is about that.
  const auto literal = Address::Parse(host, options.port);
  if (literal.ok()) {
    if (options.family == AF_UNSPEC || options.family == literal->family) {
      return Addresses{*literal};
    }
    return NoAddressError(host, options.family);
  }
  if (host.find_first_of(":%") != host.npos) return literal.status();
  if (absl::Status status = CheckName(host); !status.ok()) return status;
  return std::nullopt;
}

// OK: it has taken the promise.
absl::Status Resolver::Core::Wait(absl::string_view host, const ResolveOptions& options,
                                  uint64_t id, Promise<Addresses>& promise) {
  if (desk == nullptr) return absl::AbortedError(absl::StrCat(name, ": the resolver is gone"));
  const std::weak_ptr<Core> weak = weak_from_this();
  if (!watch.has_value()) {
    auto watched = reactor.WatchEnd([weak] {
      if (const std::shared_ptr<Core> core = weak.lock()) core->ReactorEnds();
    });
    if (!watched.ok()) return watched.status();
    watch = *watched;
  }
  DelayedCall timer;
  if (options.timeout != absl::InfiniteDuration()) {
    auto later = time.CallLater(options.timeout, [weak, id] {
      if (const std::shared_ptr<Core> core = weak.lock()) core->TimeOut(id);
    });
    if (!later.ok()) return later.status();
    timer = *later;
  }
  auto job = FindOrAdd(host, options.family);
  if (!job.ok()) {
    timer.Cancel().IgnoreError();
    return job.status();
  }
  (*job)->waiters.insert(id);
  waiters.emplace(
      id, Waiter{*job, std::move(promise), options.port, options.timeout, std::move(timer)});
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Resolver::Job>> Resolver::Core::FindOrAdd(absl::string_view host,
                                                                         int family) {
  std::string lower = absl::AsciiStrToLower(host);
  auto [it, is_new] = jobs.try_emplace({lower, family});
  if (!is_new) return it->second;
  auto job = std::make_shared<Job>(std::move(lower), family, weak_from_this());
  if (absl::Status status = Desk::Add(desk, job); !status.ok()) {
    jobs.erase(it);
    return status;
  }
  it->second = job;
  return job;
}

std::optional<Resolver::Core::Waiter> Resolver::Core::Leave(uint64_t id) {
  const auto node = waiters.extract(id);
  if (node.empty()) return std::nullopt;
  Waiter waiter = std::move(node.mapped());
  waiter.timer.Cancel().IgnoreError();
  const std::shared_ptr<Job>& job = waiter.job;
  job->waiters.erase(id);
  if (job->waiters.empty() && desk != nullptr && desk->Withdraw(job)) Forget(job);
  return waiter;
}

void Resolver::Core::Forget(const std::shared_ptr<Job>& job) {
  const auto it = jobs.find({job->host, job->family});
  if (it != jobs.end() && it->second == job) jobs.erase(it);
}

void Resolver::Core::TimeOut(uint64_t id) {
  const auto it = waiters.find(id);
  if (it == waiters.end()) return;
  const bool is_queued = desk->IsQueued(it->second.job);
  std::optional<Waiter> waiter = Leave(id);
  waiter->promise
      .Errback(absl::DeadlineExceededError(absl::StrCat(
          "resolving ", waiter->job->host, ": no answer in ", absl::FormatDuration(waiter->timeout),
          is_queued ? "; it was still queued behind other look-ups" : "; it was being looked up")))
      .IgnoreError();
}

// A callback may cancel other waiters, ask again, and destroy the resolver.
void Resolver::Core::Finish(const std::shared_ptr<Job>& job) {
  const std::shared_ptr<Core> core = job->core.lock();
  if (core == nullptr) return;
  core->Forget(job);
  while (!job->waiters.empty()) {
    std::optional<Waiter> waiter = core->Leave(*job->waiters.begin());
    if (!waiter.has_value()) break;
    waiter->promise
        .Fire(job->result.ok() ? Result<Addresses>(WithPort(job->result.value(), waiter->port))
                               : job->result)
        .IgnoreError();
  }
}

void Resolver::Core::FailAll(const absl::Status& why) {
  const std::shared_ptr<Core> self = shared_from_this();
  std::vector<uint64_t> ids;
  for (const auto& [id, waiter] : waiters) ids.push_back(id);
  for (const uint64_t id : ids) {
    std::optional<Waiter> waiter = Leave(id);
    if (waiter.has_value()) waiter->promise.Errback(why).IgnoreError();
  }
}

void Resolver::Core::ReactorEnds() {
  watch.reset();
  // What runs has nobody left to tell; who asks in the next Run looks again.
  jobs.clear();
  FailAll(absl::UnavailableError(absl::StrCat(name, ": the reactor ends")));
}

void Resolver::Core::Close() {
  if (watch.has_value()) reactor.UnwatchEnd(*std::exchange(watch, std::nullopt));
  const std::shared_ptr<Desk> closed = std::move(desk);
  desk = nullptr;
  const std::vector<std::string> left_behind = closed->Close();
  jobs.clear();
  FailAll(absl::AbortedError(absl::StrCat(name, ": the resolver is gone")));
  if (left_behind.empty()) return;
  workers::internal::Report(on_error, name,
                            absl::AbortedError(absl::StrCat(
                                "look-ups still run, and are left behind with their threads: ",
                                absl::StrJoin(left_behind, ", "))));
}

void Resolver::Desk::RunTurn() {
  std::shared_ptr<Job> job;
  {
    MutexLock lock(mutex);
    if (queue.empty()) {
      --shells;
      return;
    }
    job = std::move(queue.front());
    queue.pop_front();
    running.push_back(job);
  }
  // Also where the look-up ends its thread by force.
  absl::Cleanup tell([&] {
    {
      MutexLock lock(mutex);
      running.erase(std::find(running.begin(), running.end(), job));
    }
    Work finish = [job] { Core::Finish(job); };
    // Refused: the reactor has told those who waited that it ends.
    loop->Do(std::move(finish)).IgnoreError();
  });
  const std::optional<Failure> thrown = internal::CallIn(job->context, [&] {
    absl::StatusOr<Addresses> addresses = look_up(job->host, job->family);
    if (addresses.ok() && addresses->empty()) addresses = NoAddressError(job->host, job->family);
    job->result = std::move(addresses);
  });
  if (thrown.has_value()) job->result = *thrown;
}

// --- the resolver --------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<Resolver>> Resolver::Create(IReactorThreads& reactor,
                                                           IReactorTime& time,
                                                           ResolverOptions options) {
  workers::internal::ForkCount::Watch();
  if (!options.look_up) options.look_up = SystemLookUp;
  auto pool = workers::MakePool({.name = options.name,
                                 .limits = std::move(options.limits),
                                 .thread = std::move(options.thread),
                                 .factory = options.factory,
                                 .on_error = options.on_error,
                                 .clock = options.clock});
  if (!pool.ok()) return pool.status();
  auto core = std::make_shared<Core>(reactor, time, options);
  core->desk = std::make_shared<Desk>(std::move(options.look_up), core->loop);
  core->desk->pool = *std::move(pool);
  return std::unique_ptr<Resolver>(new Resolver(std::move(core)));
}

Resolver::Resolver(std::shared_ptr<Core> core) : core_(std::move(core)) {}

Resolver::~Resolver() {
  if (core_->IsForked()) {
    new std::shared_ptr<Core>(core_);  // leaked: the locks and threads are the parent's
    return;
  }
  if (absl::Status status = core_->CheckThread("~Resolver"); !status.ok()) {
    workers::internal::Report(core_->on_error, core_->name, std::move(status));
    new std::shared_ptr<Core>(core_);  // leaked: it is not ours to touch
    return;
  }
  core_->Close();
}

Deferred<std::vector<Address>> Resolver::Resolve(absl::string_view host, ResolveOptions options) {
  const std::shared_ptr<Core> core = core_;
  if (core->IsForked()) {
    return Fail<Addresses>(absl::FailedPreconditionError(
        absl::StrCat(core->name, ": its threads belong to the parent of this forked process")));
  }
  if (absl::Status status = core->CheckThread("Resolver::Resolve"); !status.ok()) {
    return Fail<Addresses>(std::move(status));
  }
  return core->Resolve(host, options);
}

}  // namespace reactor
