#!/usr/bin/env bash
# Compares tree_wc with the programs it stands for.
#
#   tree_wc_compare.sh TREE_WC DIR...
#
# Runs `TREE_WC DIR...`, and find, sort and GNU wc on the same directories, as this user.
# Exits 0 if the output is the same byte for byte, the exit status is right (1 if find or wc
# could not read something, else 0), and there are messages on stderr exactly if it is 1.
# Otherwise says what differs and exits 1. tree_wc's stderr is passed on.
#
# Since coreutils 9.5 wc takes unprintable bytes for parts of words; tree_wc does not. With
# such a wc the column of the words is not compared; a line on stdout says so.
set -euo pipefail
export LC_ALL=C

if (($# < 2)); then
  echo "usage: tree_wc_compare.sh TREE_WC DIR..." >&2
  exit 2
fi
tree_wc=$1
shift

scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT

want_status=0
find "$@" -type f -print0 >"$scratch/found" 2>"$scratch/find_stderr" || want_status=1
sort -z "$scratch/found" >"$scratch/list"
wc --files0-from="$scratch/list" >"$scratch/want" 2>"$scratch/wc_stderr" || want_status=1

status=0
"$tree_wc" "$@" >"$scratch/got" 2>"$scratch/stderr" || status=$?
cat "$scratch/stderr" >&2

if [[ $(printf '\001' | wc -w) != 0 ]]; then
  echo "NOT COMPARED: the words: this wc is newer than 9.4 and counts unprintable bytes"
  for output in want got; do
    sed -E 's/^( *[0-9]+) +[0-9]+ /\1 - /' "$scratch/$output" >"$scratch/masked"
    mv "$scratch/masked" "$scratch/$output"
  done
fi

failed=0
if ! cmp -s "$scratch/want" "$scratch/got"; then
  echo "the output differs (< wanted, > got):"
  diff -a "$scratch/want" "$scratch/got" | cat -A | sed -n 1,20p
  failed=1
fi
if ((status != want_status)); then
  echo "the exit status is $status, wanted is $want_status; find and wc said:"
  cat "$scratch/find_stderr" "$scratch/wc_stderr"
  failed=1
fi
if ((status == 0)) && [[ -s $scratch/stderr ]]; then
  echo "there are messages on stderr, but the exit status is 0"
  failed=1
elif ((status == 1)) && [[ ! -s $scratch/stderr ]]; then
  echo "the exit status is 1, but there is no message on stderr"
  failed=1
fi
exit "$failed"
