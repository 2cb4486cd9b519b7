#!/bin/bash
# The README's programs say what `wc -c` says.
set -eu
files=(README.md tests/readme/program_test.sh README.md)
expected="$(cat "${files[@]}" | wc -c) bytes"
for program in program reactor_program; do
  actual=$("tests/readme/$program" "${files[@]}")
  [[ $actual == "$expected" ]] || { echo "FAILED: $program: '$actual' is not '$expected'"; exit 1; }
  none=$("tests/readme/$program")
  [[ $none == "0 bytes" ]] || { echo "FAILED: $program: no files are not 0 bytes"; exit 1; }
done
if error=$(tests/readme/reactor_program no-such-file 2>&1) || [[ $error != *no-such-file* ]]; then
  echo "FAILED: a file that is not there: '$error'"
  exit 1
fi
