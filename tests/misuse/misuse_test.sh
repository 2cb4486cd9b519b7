#!/bin/bash
# clang accepts misuse.cc as it is, and rejects each of its MISUSE_ parts with the words that
# stand beside it.
set -u
source=tests/misuse/misuse.cc
compile() {
  clang++-19 -std=c++20 -fsyntax-only -Wall -Wextra -Wthread-safety -Werror \
    -iquote . -isystem ../com_google_absl "$@" "$source" 2>&1
}

if ! output=$(compile); then
  printf 'FAILED: correct code is rejected:\n%s\n' "$output"
  exit 1
fi
failed=0
cases=0
while read -r name words; do
  ((++cases))
  if output=$(compile "-D$name"); then
    printf 'FAILED: %s is accepted\n' "$name"
    failed=1
  elif [[ $output != *"error: "*"$words"* ]]; then
    printf 'FAILED: %s is rejected without saying "%s":\n%s\n' "$name" "$words" "$output"
    failed=1
  else
    printf 'ok: %s\n' "$name"
  fi
done < <(sed -nE 's|^#ifdef (MISUSE_\w+)  // (.*)|\1 \2|p' "$source")
((cases >= 18)) || { echo "FAILED: only $cases cases found"; failed=1; }
exit "$failed"
