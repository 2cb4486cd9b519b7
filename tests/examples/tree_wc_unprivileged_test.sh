#!/usr/bin/env bash
# What tree_wc does about files it may not read, and when it cannot start threads: things that
# do not happen to root. Called by root, it becomes an unprivileged user.
#
#   tree_wc_unprivileged_test.sh TREE_WC TREE_WC_COMPARE
set -euo pipefail
export LC_ALL=C

if ((EUID == 0)); then
  # A user who has no other process, and may see neither the folder of the test nor its programs.
  user=$((50000 + $$ % 10000))
  there=$(mktemp -d)
  trap 'rm -rf -- "$there"' EXIT
  cp -L -- "$1" "$there/tree_wc"
  cp -L -- "$2" "$there/tree_wc_compare.sh"
  cp -L -- "$0" "$there/test.sh"
  mkdir -- "$there/tmp"
  chown -R "$user:$user" -- "$there"
  cd -- "$there"
  TEST_TMPDIR=$there/tmp ALONE=yes setpriv --reuid="$user" --regid="$user" --clear-groups \
    --inh-caps=-all --bounding-set=-all --no-new-privs bash test.sh tree_wc tree_wc_compare.sh
  exit
fi

tree_wc=$PWD/$1
compare=$PWD/$2
failures=0
mkdir -p -- "$TEST_TMPDIR/scratch" "$TEST_TMPDIR/case"
export TMPDIR=$TEST_TMPDIR/scratch
cd -- "$TEST_TMPDIR/case"

fail() {
  printf 'FAILED: %s\n' "$*"
  failures=$((failures + 1))
}

same() {
  "$compare" "$tree_wc" "$@" 2>"$TMPDIR/stderr" || fail "tree_wc ${*@Q}"
}

# The message about `tree_wc DIR...`, when the last `same` ran, were LINE...
said() {
  printf 'tree_wc: %s\n' "$@" >"$TMPDIR/wanted"
  diff "$TMPDIR/wanted" "$TMPDIR/stderr" || fail "other messages on stderr"
}

mkdir -p tree/a tree/secret_folder tree/list_only/inner tree/enter_only tree/z
echo 'hello world' | tee tree/a/file tree/a/secret tree/a/zzz tree/secret_folder/file \
  tree/list_only/file tree/list_only/inner/file tree/enter_only/file tree/z/file >secret
chmod 000 tree/a/secret secret tree/secret_folder
chmod 444 tree/list_only
chmod 111 tree/enter_only
trap 'chmod -R u+rwx .' EXIT

# A file that cannot be opened has no row, but its size is known; the rest goes on.
same tree/a
said 'tree/a/secret: Permission denied'

# Nothing but a file that cannot be opened: no row, no total.
same secret
said 'secret: Permission denied'

# Two of them: the total is printed.
same secret tree/a/secret
said 'secret: Permission denied' 'tree/a/secret: Permission denied'

same tree/secret_folder
said 'tree/secret_folder: Permission denied'

# Its files are listed, but can be neither examined nor opened.
same tree/list_only
said 'tree/list_only/inner: Permission denied' 'tree/list_only/file: Permission denied'

same tree/enter_only
said 'tree/enter_only: Permission denied'
same tree/enter_only/file
: >"$TMPDIR/wanted"
cmp "$TMPDIR/wanted" "$TMPDIR/stderr" || fail "messages about a file that can be read"

same tree
sort -o "$TMPDIR/stderr" "$TMPDIR/stderr"
said 'tree/a/secret: Permission denied' 'tree/enter_only: Permission denied' \
  'tree/list_only/file: Permission denied' 'tree/list_only/inner: Permission denied' \
  'tree/secret_folder: Permission denied'

# Runs tree_wc as a user whose number of threads is limited, its own included.
with_threads() {
  local threads=$1
  shift
  (
    ulimit -u "$threads"
    # The leak checker of a sanitizer would need a thread.
    ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 exec "$tree_wc" "$@"
  ) >"$TMPDIR/stdout" 2>"$TMPDIR/stderr"
}

# No thread: an error.
status=0
with_threads 1 tree/z || status=$?
((status == 1)) || fail "no thread can be started: exit status $status, wanted 1"
[[ ! -s $TMPDIR/stdout ]] || fail "no thread can be started: there is output"
grep -q '^tree_wc: ' "$TMPDIR/stderr" || fail "no thread can be started: no message"

# One, beside this shell and tree_wc itself (and a thread of tsan's): enough, and the others are
# not tried again with every file.
if [[ -n ${ALONE:-} ]]; then
  mkdir many
  for i in {100..999}; do
    echo 'hello world' >"many/$i"
    printf '    1     2    12 many/%d\n' "$i"
  done >"$TMPDIR/wanted"
  echo '  900  1800 10800 total' >>"$TMPDIR/wanted"
  threads=3
  if grep -qa __tsan_init "$tree_wc"; then threads=4; fi
  with_threads "$threads" many || fail "one thread can be started: exit status $?"
  cmp "$TMPDIR/wanted" "$TMPDIR/stdout" || fail "one thread: other output"
  grep -q '^tree_wc: .*reader-' "$TMPDIR/stderr" || fail "one thread: no message about more"
  (($(wc -l <"$TMPDIR/stderr") < 50)) || fail "one thread: $(wc -l <"$TMPDIR/stderr") messages"
else
  echo "NOT CHECKED: that one thread is enough: this user may have other processes"
fi

echo "$failures failures"
((failures == 0))
