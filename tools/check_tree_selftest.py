#!/usr/bin/env python3
"""Tests tools/check_tree: on a small tree that keeps every rule, and on trees that break one each."""

import importlib.machinery
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

CHECK_TREE = pathlib.Path(__file__).parent / "check_tree"
sys.dont_write_bytecode = True  # it would lie in the tree that is checked
loader = importlib.machinery.SourceFileLoader("check_tree", str(CHECK_TREE))
check_tree = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_tree", loader))
loader.exec_module(check_tree)


# --- the tree that keeps every rule ----------------------------------------------------------


def header(path, *lines):
    guard = re.sub(r"\W", "_", path).upper() + "_"
    return source(f"#ifndef {guard}", f"#define {guard}", *lines, f"#endif  // {guard}")


def source(*lines):
    return "".join(line + "\n" for line in lines)


def build(*targets, visibility="//visibility:private"):
    load = 'load("@rules_cc//cc:defs.bzl", "cc_library", "cc_test")'
    return source(load, f'package(default_visibility = ["{visibility}"], features = ["layering_check"])', *targets)


def library(name, *files):
    hdrs, srcs = ([file for file in files if file.endswith(suffix)] for suffix in (".h", ".cc"))
    return f'cc_library(name = "{name}", srcs = {json.dumps(srcs)}, hdrs = {json.dumps(hdrs)})'


WORKER = library("worker", "worker.h")
TEAM = library("team", "team.h", "team.cc")

# Much of it stands here because a check that looks less closely would complain of it.
CLEAN = {
    "WORKSPACE": source('load("//:deps.bzl", "deps")', "deps()"),
    "BUILD": source('exports_files(["notes.md"])'),
    "deps.bzl": source("def deps():", "    pass"),
    "examples/BUILD": build('cc_library(name = "echo", srcs = ["echo.cc"])'),
    "examples/echo.cc": source(
        "// It works, and which works is not said. A work item, for one and ever the same. Users who read",
        "// this know which tells threads apart: for example the name.",
        'const char* const kText = "works that nobody wants for ever";',
        "int works = 0;  // at",
        "int once = 0;  // once",
    ),
    "notes.md": source("Here\ttabs, and " + "very " * 30 + "long lines are allowed."),
    "workers/BUILD": build(library("workers", "worker.h", "team.h"), WORKER, TEAM),
    "workers/worker.h": header(
        "workers/worker.h",
        "#include <sys/types.h>",
        "#include <unistd.h>",
        "#include <vector>",
        '#include "absl/status/status.h"',
    ),
    "workers/team.h": header("workers/team.h", '#include "workers/worker.h"  // not a ThreadWorker'),
    "workers/team.cc": source(
        '#include "workers/team.h"',
        '#include "workers/internal/sync.h"',
        "// std::mutex, sleep(1) and a ThreadWorker in a comment \\",
        "   of two lines, std::mutex",
        "/* std::mutex in another,",
        "   absl::Now() on its second line */",
        r'const char* const kText = "std::thread // \" std::mutex";',
        'const char* const kRaw = R"x(std::atomic )" absl::Mutex',
        '#include "workers/lock_worker.h"',
        ')x";',
        "const int kNumber = 1'000'000;  // it's std::mutex",
        "const char kQuotes[] = {'\"', '\\'', L'\"'};",
        "bool asleep(int quit) { return stop->sleep(quit); }",
    ),
    "workers/internal/BUILD": build(library("sync", "sync.h"), visibility="//workers:__subpackages__"),
    "workers/internal/sync.h": header("workers/internal/sync.h", "inline std::mutex m;", "thread_local int i;"),
    "workers/testing/BUILD": build(library("gate", "gate.h", "gate.cc"), visibility="//visibility:public"),
    "workers/testing/gate.h": header("workers/testing/gate.h", '#include "gtest/gtest.h"', '#include "workers/team.h"'),
    "workers/testing/gate.cc": source('#include "workers/testing/gate.h"'),
    "reactor/BUILD": build(
        'HEADERS = ["%s.h" % name for name in ["deferred"]]',
        'cc_library(name = "deferred", hdrs = HEADERS)',
        library("interfaces", "reactor.h"),
        'cc_library(name = "poller", srcs = select({":linux": ["poller.cc"], ":other": []}) + [])',
    ),
    "reactor/deferred.h": header("reactor/deferred.h", '#include "workers/team.h"'),
    "reactor/reactor.h": header("reactor/reactor.h", '#include "reactor/deferred.h"'),
    "reactor/poller.cc": source('#include "reactor/reactor.h"'),
    "tests/workers/BUILD": build(
        '[cc_test(name = name, srcs = [name + ".cc"]) for name in ["gate_test", "team_test", "worker_test"]]',
        library("fakes", "fakes.h"),
    ),
    "tests/workers/fakes.h": header("tests/workers/fakes.h", "inline std::thread thread;"),
    "tests/workers/gate_test.cc": source('#include "workers/testing/gate.h"', '#include "tests/workers/fakes.h"'),
    "tests/workers/team_test.cc": source('#include "workers/team.h"'),
    "tests/workers/worker_test.cc": source('#include "workers/worker.h"'),
    "tests/reactor/BUILD": build('cc_test(name = "all", srcs = glob(["**/*_test.cc"], exclude = ["not_*"]))'),
    "tests/reactor/deferred_test.cc": source('#include "reactor/deferred.h"'),
    "tests/reactor/reactor_test.cc": source('#include "reactor/reactor.h"'),
    "tests/reactor/poller_test.cc": source("#include <poll.h>"),
    "tests/outsider/WORKSPACE": source('workspace(name = "outsider")'),
    "tests/outsider/.bazelrc": source("build --cxxopt=-std=c++20"),
    "tests/outsider/app/BUILD": source('cc_binary(name = "app", srcs = ["//app:main.cc"])'),
    "tests/outsider/app/main.cc": source('#include "workers/team.h"'),
}


# --- the trees that break a rule -------------------------------------------------------------


def swap(path, old, new):
    """The file of CLEAN at `path`, changed."""
    assert old in CLEAN[path], (path, old)
    return {path: CLEAN[path].replace(old, new)}


def add(path, line):
    """The file of CLEAN at `path`, with another second line."""
    first, rest = CLEAN[path].split("\n", 1)
    return {path: source(first, line) + rest}


def in_team(line):
    return add("workers/team.cc", line)


def in_echo(line):
    return add("examples/echo.cc", line)


def in_test(line):
    return add("tests/workers/team_test.cc", line)


PAST_THE_SEAM = [
    "std::mutex m;",
    "std::shared_timed_mutex m;",
    "std::condition_variable_any c;",
    "std::jthread t;",
    "std::atomic<int> a;",
    "std::atomic_flag a;",
    "auto id = std::this_thread::get_id();",
    "thread_local int i;",
    "extern absl::Mutex m;",
    "absl::Notification n;",
    "absl::BlockingCounter b(1);",
    "auto t = absl::Now();",
    "auto t = std::chrono::steady_clock::now();",
    "int i = clock_gettime(0, nullptr);",
    "int i = pthread_create(0, 0, 0, 0);",
    "int i = pthread_mutex_lock(0);",
    "int i = pthread_cond_wait(0, 0);",
    "int i = syscall(SYS_futex);",
    "int i = usleep(1);",
    "int i = ::sleep (1);",
    '#include "absl/synchronization/mutex.h"',
]

# (what is changed in CLEAN, None for a file taken away; the complaints that must follow, in order)
BROKEN = [
    (swap("workers/worker.h", "absl/status/status.h", "workers/team.h"), "workers/worker.h:6: levels: W0 .* W3"),
    (swap("reactor/deferred.h", "workers/team.h", "reactor/reactor.h"), "reactor/deferred.h:3: levels: R3 .* R0"),
    (
        {
            **add("workers/BUILD", library("novelty", "novelty.cc")),
            **swap("tests/workers/BUILD", '"team_test"', '"team_test", "novelty_test"'),
            "workers/novelty.cc": source("int i;"),
            "tests/workers/novelty_test.cc": source("int i;"),
        },
        "workers/novelty.cc:1: levels: .*: add it",
    ),
    (swap("workers/worker.h", "absl/status/status.h", "gtest/gtest.h"), "workers/worker.h:6: folders:"),
    (swap("workers/worker.h", "absl/status/status.h", "workers/testing/gate.h"), "workers/worker.h:6: folders:"),
    (swap("workers/worker.h", "absl/status/status.h", "reactor/sockets.h"), "workers/worker.h:6: folders:"),
    (swap("workers/worker.h", "<vector>", "<boost/asio.hpp>"), "workers/worker.h:5: folders:"),
    (swap("workers/worker.h", "<unistd.h>", "<uv.h>"), "workers/worker.h:4: folders:"),
    (swap("reactor/reactor.h", "reactor/deferred.h", "gmock/gmock.h"), "reactor/reactor.h:3: folders:"),
    (swap("workers/testing/gate.h", "workers/team.h", "reactor/reactor.h"), "workers/testing/gate.h:4: folders:"),
    (swap("workers/testing/gate.h", "workers/team.h", "tests/workers/fakes.h"), "workers/testing/gate.h:4: folders:"),
    (in_test('#include "examples/echo.h"'), "tests/workers/team_test.cc:2: folders: .*nothing depends"),
    (in_team('#include "workers/lock_worker.h"'), "workers/team.cc:2: team: includes workers/lock_worker.h"),
    (in_team("auto* const make = &CreateMemoryWorker;"), "workers/team.cc:2: team: names CreateMemoryWorker"),
    *((in_team(line), "workers/team.cc:2: seam:") for line in PAST_THE_SEAM),
    ({"reactor/poller.cc": source("/* a", "*/ std::thread t;")}, "reactor/poller.cc:2: seam: std::thread "),
    (add("workers/testing/gate.cc", "std::mutex m;"), "workers/testing/gate.cc:2: seam: std::mutex "),
    (in_test("void F() { absl::SleepFor(absl::Seconds(1)); }"), "tests/workers/team_test.cc:2: sleep: SleepFor:"),
    (in_test("int i = sleep(1);"), "tests/workers/team_test.cc:2: sleep: sleep:"),
    (
        swap("workers/BUILD", TEAM + "\n", ""),
        "workers/team.cc:1: owned:",
        "workers/team.h:1: targets: .* //workers:team",
    ),
    (swap("workers/BUILD", '"team",', '"crew",'), "workers/BUILD:5: targets: //workers:crew holds workers/team.h"),
    (add("workers/BUILD", library("more", "team.cc")), "workers/BUILD:2: targets: //workers:more holds"),
    (
        swap("workers/BUILD", TEAM, library("team", "team.h")),
        "workers/BUILD:5: targets: //workers:team must hold workers/team.h and workers/team.cc,",
        "workers/team.cc:1: owned:",
    ),
    (
        swap("tests/workers/BUILD", '"fakes.h"', '"fakes.h", "//workers:team.h"'),
        "tests/workers/BUILD:4: targets: //tests/workers:fakes holds workers/team.h",
    ),
    (swap("tests/reactor/BUILD", ', "cc_test")', ")"), "tests/reactor/BUILD:3: build: cc_test is not loaded"),
    (swap("workers/BUILD", ', features = ["layering_check"]', ""), "workers/BUILD:1: build: .*layering_check"),
    (swap("workers/BUILD", "//visibility:private", "//reactor:__pkg__"), "workers/BUILD:1: build: .*private"),
    (
        swap("workers/internal/BUILD", "//workers:__subpackages__", "//visibility:public"),
        "workers/internal/BUILD:1: build: .*private",
    ),
    (swap("deps.bzl", "pass", 'native.cc_library(name = "x")'), "deps.bzl:2: build: native.cc_library"),
    (
        swap("tests/reactor/BUILD", "glob(", "unknown("),
        "tests/reactor/BUILD:3: build: not understood",
        "tests/reactor/deferred_test.cc:1: owned:",
        "tests/reactor/poller_test.cc:1: owned:",
        "tests/reactor/reactor_test.cc:1: owned:",
    ),
    (in_test('#include "fakes.h"'), "tests/workers/team_test.cc:2: includes:"),
    (in_test('#include "tests/../workers/worker.h"'), "tests/workers/team_test.cc:2: includes:"),
    ({"workers/team.cc": source("#include <map>")}, "workers/team.cc:1: includes: .*first.*workers/team.h"),
    ({"workers/testing/gate.cc": source("int i;")}, "workers/testing/gate.cc:1: includes: .*testing/gate.h"),
    (
        {"tests/workers/gate_test.cc": source("#include <map>", '#include "workers/testing/gate.h"')},
        "tests/workers/gate_test.cc:1: includes: .*workers/testing/gate.h",
    ),
    (swap("workers/team.h", "WORKERS_TEAM_H_", "TEAM_H_"), "workers/team.h:1: guards:"),
    (swap("workers/team.h", "#endif  //", "#endif //"), "workers/team.h:4: guards:"),
    (swap("workers/team.h", "#define WORKERS_TEAM_H_", "#pragma once"), "workers/team.h:1: guards:"),
    ({"tests/workers/worker_test.cc": None}, "workers/worker.h:1: tests: .*tests/workers/worker_test.cc"),
    ({"tests/reactor/poller_test.cc": None}, "reactor/poller.cc:1: tests:"),
    ({"docs/plan.md": source("Soon.")}, "docs/plan.md:1: owned:"),
    ({"tests/outsider/app/more.cc": source("int i;")}, "tests/outsider/app/more.cc:1: owned:"),
    ({"tests/reactor/not_a_test.cc": source("int i;")}, "tests/reactor/not_a_test.cc:1: owned:"),
    (
        {"tests/reactor/inner/BUILD": build(), "tests/reactor/inner/x_test.cc": source("int i;")},
        "tests/reactor/inner/x_test.cc:1: owned:",  # a glob ends where another package begins
    ),
    ({"notes.md": "no newline"}, "notes.md:1: text:"),
    ({"notes.md": "two\n\n"}, "notes.md:2: text:"),
    ({"notes.md": "one\n two \n"}, "notes.md:2: text:"),
    ({"notes.md": "one\r\n"}, "notes.md:1: text: .*CR"),
    ({"workers/BUILD": CLEAN["workers/BUILD"] + "\t# tab\n"}, "workers/BUILD:6: text: tab"),
    (in_team("//" + 99 * "x"), "workers/team.cc:2: text: 101 columns"),
    (in_echo("// Runs for ever."), "examples/echo.cc:2: words: \"for ever\": write instead: forever"),
    ({"examples/echo.cc": source("int i;  // For", "        // ever.")}, "examples/echo.cc:1: words: \"For ever\""),
    ({"examples/echo.cc": source("/* Of all its", "   works. */")}, "examples/echo.cc:1: words: \"its works\""),
    (in_echo("// Nobody looks again."), *(f"examples/echo.cc:2: words: \"{w}" for w in ("Nobody", "looks again"))),
    (in_echo("// The thread who waits."), "examples/echo.cc:2: words: \"who\""),
    (in_echo("TEST(Echo, RunsAWorkAtOnce) {}"), *(f"examples/echo.cc:2: words: \"a{w}" for w in (" work", "t once"))),
    ({"deps.bzl": source("# It", "# shall build.")}, "deps.bzl:2: words: \"shall\""),
    ({"notes.md": source("Works are", "", "told, or are", "told.")}, "notes.md:1: words:", "notes.md:3: words:", "notes.md:4: words:"),
]


# --- the tests -------------------------------------------------------------------------------


class CheckTreeTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name) / "tree"
        self.programs = pathlib.Path(folder.name) / "programs"
        self.programs.mkdir()

    def write(self, changes=None):
        """Makes a tree: CLEAN with these changes."""
        shutil.rmtree(self.root, ignore_errors=True)
        for path, content in {**CLEAN, **(changes or {})}.items():
            if content is not None:
                (self.root / path).parent.mkdir(parents=True, exist_ok=True)
                (self.root / path).write_bytes(content.encode())

    def program(self, name, code):
        """Puts a program into the PATH of the check, which is empty otherwise."""
        path = self.programs / name
        path.write_text(f"#!{sys.executable}\n{code}")
        path.chmod(0o755)
        return path

    def check(self, **environment):
        """Returns whether the check passed, the complaints, and the lines of the check itself."""
        with unittest.mock.patch.dict(os.environ, {"PATH": str(self.programs), **environment}, clear=True):
            lines, passed = check_tree.check(self.root)
        own = [line for line in lines if line.startswith("check_tree: ")]
        return passed, [line for line in lines if line not in own], own

    def test_a_tree_that_keeps_every_rule_passes(self):
        self.write()
        passed, complaints, own = self.check()
        self.assertEqual(complaints, [])
        self.assertTrue(passed)
        self.assertEqual(own[-1], f"check_tree: {len(CLEAN)} files, 0 violations")

    def test_each_way_to_break_a_rule_is_named_with_its_line(self):
        for changes, *expected in BROKEN:
            with self.subTest(expected=expected, changes=changes):
                self.write(changes)
                passed, complaints, own = self.check()
                self.assertFalse(passed)
                self.assertEqual(len(complaints), len(expected), complaints)
                for complaint, regex in zip(complaints, expected):
                    self.assertRegex(complaint, "^" + regex)
                self.assertRegex(own[-1], f" {len(expected)} violations$")

    def test_each_rule_is_broken_here(self):
        rules = set(re.findall(r"(?m)^def rule_(\w+)", CHECK_TREE.read_text()))
        broken = {re.match(r"[^:]*:[^:]*: (\w+)", regex)[1] for _, *expected in BROKEN for regex in expected}
        self.assertEqual(rules - broken, {"clang_format", "buildifier"})  # they have their own tests

    def test_a_missing_tool_is_said_and_fails_when_strict(self):
        self.write()
        passed, complaints, own = self.check()
        self.assertEqual((passed, complaints), (True, []))
        self.assertRegex("\n".join(own), "not checked: .*clang-format 19.*\n.*not checked: .*buildifier")
        self.assertFalse(self.check(IWORKER_CHECK_TREE="strict")[0])

    def test_another_version_of_clang_format_is_not_used(self):
        self.write()
        self.program("clang-format", "print('clang-format version 14.0.6')")
        self.assertRegex(self.check()[2][0], "not checked: .*clang-format 19")

    def test_what_clang_format_would_change_is_named_once_a_file(self):
        self.write()
        self.program(
            "clang-format",
            "import sys\n"
            "if '--version' in sys.argv: sys.exit(print('clang-format version 19.1.7'))\n"
            "assert 'workers/team.h' in sys.argv\n"
            "for line in [7, 3, 7]:\n"
            "    text = f'workers/team.h:{line}:2: error: code should be clang-formatted'\n"
            "    print(text + ' [-Wclang-format-violations]\\nclass Team;', file=sys.stderr)\n"
            "sys.exit(1)\n",
        )
        passed, complaints, own = self.check()
        self.assertFalse(passed)
        self.assertEqual(len(complaints), 1, complaints)
        self.assertRegex(complaints[0], "^workers/team.h:3: clang-format: 2 lines .*: clang-format -i workers/team.h$")
        self.assertNotIn("clang-format", " ".join(own))

    def test_what_buildifier_would_change_or_warns_of_is_named(self):
        self.write()
        answer = {
            "files": [
                {"filename": "BUILD", "formatted": False, "valid": True, "warnings": None},
                {
                    "filename": "deps.bzl",
                    "formatted": True,
                    "valid": True,
                    "warnings": [{"start": {"line": 2, "column": 1}, "category": "load", "message": "unused\nload"}],
                },
            ]
        }
        program = self.program("my-buildifier", f"print({json.dumps(answer)!r})")
        passed, complaints, own = self.check(IWORKER_BUILDIFIER=str(program))
        self.assertFalse(passed)
        self.assertEqual(
            complaints,
            ["BUILD:1: buildifier: is not formatted: buildifier BUILD", "deps.bzl:2: buildifier: load: unused load"],
        )
        self.assertNotIn("build files", " ".join(own))

    def test_a_buildifier_that_does_not_run_is_a_missing_tool(self):
        self.write()
        self.program("buildifier", "import sys\nsys.exit('no such luck')")
        self.assertRegex(" ".join(self.check()[2]), "not checked: .*build files.* no such luck")

    @unittest.skipUnless(shutil.which("git"), "no git here")
    def test_where_there_is_git_ignored_files_are_not_checked(self):
        self.write({".gitignore": "*.orig\n", "notes.md.orig": "trailing \n"})
        self.assertEqual(len(self.check()[1]), 2)
        subprocess.check_call([shutil.which("git"), "init", "-q", self.root])
        os.symlink(shutil.which("git"), self.programs / "git")
        self.assertEqual(self.check()[1], [])

    def test_the_program_prints_the_complaints_and_fails(self):
        self.write({"notes.md": "no newline"})
        run = subprocess.run([sys.executable, CHECK_TREE, self.root], capture_output=True, text=True)
        self.assertEqual(run.returncode, 1)
        self.assertIn("notes.md:1: text:", run.stdout)

    def test_a_folder_that_is_no_workspace_is_refused(self):
        run = subprocess.run([sys.executable, CHECK_TREE, self.programs], capture_output=True, text=True)
        self.assertEqual(run.returncode, 1)
        self.assertIn("no WORKSPACE", run.stderr)


unittest.main()
