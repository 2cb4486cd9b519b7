#!/bin/bash
# The README's program says what `wc -c` says.
set -eu
files=(README.md tests/readme/program_test.sh README.md)
expected="$(cat "${files[@]}" | wc -c) bytes"
actual=$(tests/readme/program "${files[@]}")
[[ $actual == "$expected" ]] || { echo "FAILED: '$actual' is not '$expected'"; exit 1; }
[[ $(tests/readme/program) == "0 bytes" ]] || { echo "FAILED: no files are not 0 bytes"; exit 1; }
