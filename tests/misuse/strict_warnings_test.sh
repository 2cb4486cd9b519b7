#!/bin/bash
# The public headers, and what their templates become in misuse.cc, give no warning with the flags
# of users that are stricter than ours.
set -u
source=$TEST_TMPDIR/all_headers.cc
{
  find workers reactor -maxdepth 1 -name '*.h' | sort | sed 's|.*|#include "&"|'
  sed '/^#include "/d' tests/misuse/misuse.cc
} >"$source"
(($(grep -c '^#include "' "$source") >= 30)) || { echo "FAILED: too few headers"; exit 1; }
status=0
for compiler; do
  command -v "$compiler" >/dev/null || { echo "FAILED: there is no $compiler"; exit 1; }
  "$compiler" -std=c++20 -fsyntax-only -Wall -Wextra -Wshadow -Wconversion -Wpedantic -Werror \
    -iquote . -isystem ../com_google_absl "$source" || status=1
done
exit "$status"
