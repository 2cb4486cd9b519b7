// What a chain of Deferreds is made of, without their types: the engine of reactor/deferred.h.
//
// A chain is a line of stages. A stage waits for the result of the one above it (upstream), and
// hands its own to the one below it (next):
//
//   source  ->  step  ->  step  ->  step
//   Promise                         Deferred
//
// The top one is a source, which a Promise fires. The last one is held by a Deferred, until that
// lets it go. A stage owns a reference to its next one, so that a chain nobody holds goes on. A
// step whose callback returned a Deferred waits again, below the last stage of that one's chain.
//
// Whatever becomes ready goes through a trampoline: no stage ever runs on the stack of another.

#ifndef REACTOR_INTERNAL_STAGE_H_
#define REACTOR_INTERNAL_STAGE_H_

#include <cstdint>
#include <exception>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "reactor/failure.h"
#include "workers/context.h"
#include "workers/internal/sync.h"
#include "workers/worker.h"

namespace reactor::internal {

// A place in the source. Release builds know none.
struct Site {
  const char* file = nullptr;
  int line = 0;

#ifdef NDEBUG
  static constexpr Site Here() { return {}; }
#else
  static constexpr Site Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
#endif
};

// Where a Deferred was made and where it was fired. The same size in every build.
struct Sites {
  const char* made_file = nullptr;
  const char* fired_file = nullptr;
  int made_line = 0;
  int fired_line = 0;

  void SetMade(Site site) { made_file = site.file, made_line = site.line; }
  void SetFired(Site site) { fired_file = site.file, fired_line = site.line; }
  std::string ToString() const;  // " (made at f.cc:1, fired at f.cc:2)", or nothing
};

// Whom a stage belongs to: an exclusive worker, or a thread.
class Home {
 public:
  // The innermost exclusive worker in whose work the caller is, else the thread.
  static Home Here();
  explicit Home(const workers::IExclusiveWorker& worker);

  bool IsHere() const;
  // May something of this home wait for something of `other`? What comes from there must come at
  // this home; on a thread any worker may run.
  bool MayWaitFor(const Home& other) const { return worker_ == nullptr || *this == other; }
  std::string ToString() const;

  friend bool operator==(const Home& a, const Home& b) {
    return a.worker_ == b.worker_ && (a.worker_ != nullptr || a.thread_ == b.thread_);
  }

 private:
  Home() = default;

  const workers::IExclusiveWorker* worker_ = nullptr;
  // Where there is no worker; and of a loop's worker its thread, which may look after what is left
  // when the loop has ended.
  workers::internal::ThreadId thread_;
};

// Which sides of a chain have gone, where one of them may be on another thread: bits of Ends.
using Ends = workers::internal::Atomic<uint8_t>;
inline constexpr uint8_t kHandleLeft = 1;   // nothing at home refers to the chain any more
inline constexpr uint8_t kPromiseLeft = 2;  // the Promise died elsewhere, and left its reference

// A work of another worker, in whose result a source ends (reactor/threads.cc).
struct AwaitedWork;

// One stage. All of it belongs to its home: the methods are called there, but for Drop.
class Stage {
 public:
  explicit Stage(const Home& its_home, Site made = {})
      : home(its_home), context(workers::Context::Current()) {
    sites.SetMade(made);
  }
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  // Takes the result of `from`, which was upstream, and does its part. Returns this stage, if it
  // has a result now, with the reference that its upstream had; else null, that reference being
  // used up.
  virtual Stage* Receive(Stage& from) = 0;

  // The failure that it holds and that nobody has taken, or null.
  virtual const Failure* UnhandledFailure() const { return nullptr; }

  // Gets `failure` for a result, if it has none.
  virtual void Fail(Failure) {}

  // A Cancel has come up to here: nothing is above, and there is no result. False: it is for the
  // next wait.
  virtual bool CancelHere() { return true; }

  // Whom its result goes to, or what comes of that; may be null.
  virtual const Stage* below() const { return next; }

  // Dropped unrun: destroys what the user gave, and gives up the reference. Any thread. True: it
  // was work of the user's.
  virtual bool Drop() = 0;

  // A source: the Promise has gone without firing it.
  virtual Ends* ends() { return nullptr; }

  // A source that waits for a work of another worker: that work; else null.
  virtual const AwaitedWork* awaited() const { return nullptr; }

  void Ref() { ++refs; }
  // Reports a failure that dies here.
  void Unref();

  const Home home;
  const workers::Context context;  // of the moment in which it was made; what it runs runs in it
  Stage* next = nullptr;           // owns a reference
  Stage* upstream = nullptr;       // owns nothing; cleared when that one's result comes
  Stage* queued = nullptr;         // behind this one in a trampoline
  Sites sites;
  int32_t refs = 1;       // whoever made it has it
  bool fired = false;     // has, or has had, a result
  bool detached = false;  // no Deferred holds the end of the chain that this is in
  bool forwards = false;  // does nothing more with what comes but to hand it on
  bool in_frame = false;  // lives in the frame of a coroutine, and is not counted
  bool reported = false;  // that it holds a failure
  // A source: its Cancel has come.
  bool cancelling = false;
  // A Cancel from here, or from below, has found nothing that waited: it is for what is waited for
  // next. Ends where what comes from above has not missed it.
  bool cancel_missed = false;
  bool promise_out = false;  // a source: its Promise has a reference

 protected:
  virtual ~Stage() = default;
};

// Runs what has become ready, one after the other. What becomes ready while one runs comes after
// it, in order, and before what follows it. There is one a thread and worker, on the stack of
// whoever fires first.
class Trampoline {
 public:
  // `fired` has a result and a next stage. Takes over a reference to it. Runs at once, or, where
  // the caller is run by this thread's trampoline, after that.
  static void Schedule(Stage* fired);

  // Runs `body` as if it were a stage.
  static void Run(absl::FunctionRef<void()> body);

  // Is there something that is to run before anything else that becomes ready?
  static bool IsBusy();

 private:
  class Active;
};

// Cancels what the stage `last` waits for.
void CancelPath(Stage* last);

// Makes `next` wait for `last`, which has no result yet. `next` brings the reference that `last`
// shall own; the one of `last` that a Deferred had is given up.
void Link(Stage& last, Stage& next);

// The caller gives up the reference of a Deferred. Any thread: elsewhere it is misuse.
void ReleaseHandle(Stage* last);

// The caller gives up the reference of a Promise that has not fired. Any thread; if that is not
// the home, `home` is told, and if there is none it is misuse.
void ReleasePromise(Stage* source, workers::IExclusiveWorker* home);

// A coroutine has ended, or its frame was destroyed: hands on its result, whose reference it takes.
void EndCoroutine(Stage* result);

// Is the caller at home? If not: debug builds die, others tell the error handler.
bool IsAtHome(const Stage& stage, absl::string_view method);

// May `outer`, which runs, take or wait for the result of `inner`? Not if it is of another home (as
// IsAtHome), or waits for `outer` itself. `what` names the attempt.
absl::Status CheckWait(const Stage& outer, const Stage& inner, absl::string_view what);

// What a touch elsewhere is answered with.
absl::Status ElsewhereError(absl::string_view method);

// Destroys the chain below `top`, whose reference it takes, unrun. Any thread.
void DropPath(Stage* top);

// Calls `f` in `context`; returns what it threw.
std::optional<Failure> CallIn(const workers::Context& context, absl::FunctionRef<void()> f);

// Tells the error handler of `context`, or stderr.
void ReportTo(const workers::Context& context, absl::Status status,
              std::exception_ptr exception = nullptr, int64_t dropped = 0);

}  // namespace reactor::internal

#endif  // REACTOR_INTERNAL_STAGE_H_
