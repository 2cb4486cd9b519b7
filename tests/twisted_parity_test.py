#!/usr/bin/env python3
"""Every test that twisted_parity.md names exists."""

import pathlib
import re
import sys

NAMED = re.compile(r"`(\w+)\.(\w+)`")
DEFINED = re.compile(r"^\s*(?:TEST|TEST_F|TEST_P)\(\s*(\w+),\s*(\w+)\)", re.M)

tests = pathlib.Path("tests")
defined = set()
for root in [tests, pathlib.Path("workers/testing"), pathlib.Path("reactor/testing")]:
    for path in root.rglob("*.cc"):
        defined.update(DEFINED.findall(path.read_text()))

failures = []
rows = 0
for number, line in enumerate((tests / "twisted_parity.md").read_text().splitlines(), 1):
    if not line.startswith("| ") or line.startswith("| Twisted |"):
        continue
    rows += 1
    named = NAMED.findall(line)
    if not named and "only in Python" not in line:
        failures.append(f"line {number} names no test and does not say why: {line}")
    for test in named:
        if test not in defined:
            failures.append(f"line {number}: there is no test {'.'.join(test)}")
print("\n".join(failures) or f"{rows} rows, {len(defined)} tests")
if rows == 0 or failures:
    sys.exit(1)
