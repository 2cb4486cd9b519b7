#!/usr/bin/env bash
# What tree_wc prints, on trees that are made here, beside what find, sort and wc print.
#
#   tree_wc_test.sh TREE_WC TREE_WC_COMPARE
set -euo pipefail
export LC_ALL=C

tree_wc=$PWD/$1
compare=$PWD/$2
failures=0

# Where a case needs many files, most of them are hard links to a few: they are quick to make.
#
# Each case has a folder of its own as working directory.
begin() {
  case_name=$1
  rm -rf -- "$TEST_TMPDIR/case"
  mkdir -p -- "$TEST_TMPDIR/case" "$TEST_TMPDIR/scratch"
  cd -- "$TEST_TMPDIR/case"
  export TMPDIR=$TEST_TMPDIR/scratch
}

fail() {
  printf 'FAILED: %s: %s\n' "$case_name" "$*"
  failures=$((failures + 1))
}

# tree_wc DIR... prints what the others print.
same() {
  "$compare" "$tree_wc" "$@" || fail "tree_wc ${*@Q}"
}

# tree_wc DIR... exits with STATUS; its output is then in $TMPDIR/stdout and $TMPDIR/stderr.
exits() {
  local want=$1 status=0
  shift
  "$tree_wc" "$@" >"$TMPDIR/stdout" 2>"$TMPDIR/stderr" || status=$?
  ((status == want)) || fail "tree_wc ${*@Q}: exit status $status, wanted $want"
}

# The file PATH holds exactly TEXT.
holds() {
  [[ $(cat -- "$1" && echo .) == "$2." ]] || fail "$1 holds $(cat -A -- "$1"), wanted ${2@Q}"
}

make_ordinary_tree() {
  mkdir -p tree/b/deep/deeper tree/a tree/a.d tree/empty
  echo 'one two three' >tree/b/file
  printf 'no newline at the end' >tree/b/deep/unfinished
  printf 'a\n\n\nb c\td\n' >tree/b/deep/deeper/lines
  : >tree/a/nothing
  echo x >tree/a/.hidden
  echo y >tree/a.d/sorted_between
}

# --- what is listed --------------------------------------------------------------------

begin "an ordinary tree"
make_ordinary_tree
same tree
same tree/b tree/a

begin "a folder that is written in other ways"
make_ordinary_tree
same tree/
same tree//b///deep
same ./tree/../tree/b
same "$PWD/tree"
same .
same ./
(cd tree/b && same .. && same ../a . && exit "$failures") || failures=$?

begin "a folder twice, and one inside another"
make_ordinary_tree
same tree tree
same tree tree/b ./tree
same tree/b tree

begin "nothing to count"
mkdir -p tree/only/folders
same tree
exits 0 tree
holds "$TMPDIR/stdout" ""

begin "a single file has no total"
mkdir tree
echo 'one file' >tree/file
same tree
exits 0 tree
holds "$TMPDIR/stdout" $'1 2 9 tree/file\n'

begin "a plain file in place of a folder"
make_ordinary_tree
same tree/b/file
same tree/b/file tree/b/file tree/a/nothing

begin "odd names"
mkdir tree
for name in $'new\nline' $'\n' $'trailing\n' ' ' 'two words' $'tab\there' -n --help '*' "it's" \
  $'it\'s\n\'' '"' $'"\n$x`\\' $'\\' $'\\\n' $'\xff\xfe' $'\xff\n' 'ü' $'ü\n' $'\x01\x7f' $'\a\b\f\v\r\t\n' \
  $'\e[31m\n' '~' $'~\n#' total; do
  printf 'named %q\n' "$name" >"tree/$name"
  mkdir "tree/$name.d"
  echo inside >"tree/$name.d/$name"
done
same tree
cd tree
same . $'new\nline.d' ./-n.d

# Until coreutils 9.6 wc misquotes names with a newline and a ' that end in an unprintable byte;
# tree_wc does so too.
begin "random names"
: >$'a\'\n'
misquotes=yes
if [[ $(wc $'a\'\n') != *"'''a'"* ]]; then
  misquotes=no
  echo "NOT CHECKED: names that older versions of wc misquote"
fi
seed=$RANDOM
echo "seed $seed"
python3 - "$seed" "$misquotes" <<'END' || fail "cannot make the files"
import os, random, re, sys
rng = random.Random(int(sys.argv[1]))
os.mkdir("tree")
for _ in range(500):
    alphabet = rng.choice([bytes(set(range(1, 256)) - {47}), b"\n'\\a\xff\t\x01 "])
    name = bytes(rng.choice(alphabet) for _ in range(rng.randint(1, 12)))
    misquoted = b"\n" in name and b"'" in name and re.search(rb"[^ -~]\Z", name)
    if name not in (b".", b"..") and not (misquoted and sys.argv[2] == "no"):
        with open(b"tree/" + name, "wb") as file:
            file.write(name)
END
same tree
cd tree
same $'\n'* "'"* "\\"* a*

begin "symbolic links are not followed"
make_ordinary_tree
ln -s ../b tree/a/to_folder
ln -s ../b/file tree/a/to_file
ln -s . tree/a/loop
ln -s self tree/a/self
ln -s nowhere tree/a/dangling
ln -s tree link
ln -s tree/b/file file_link
same tree
same link
same link/
same file_link
same link tree/a/self
exits 0 link
holds "$TMPDIR/stdout" ""

begin "what is no regular file is not counted"
make_ordinary_tree
mkfifo tree/fifo
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("tree/socket")'
same tree
same tree/fifo
same tree/socket
same /dev/null

begin "a folder that is missing"
make_ordinary_tree
same missing
same missing tree
same tree/b missing tree/a missing/too tree/b/file/
exits 1 tree missing
holds "$TMPDIR/stderr" $'tree_wc: missing: No such file or directory\n'
exits 1 tree/b/file/
holds "$TMPDIR/stderr" $'tree_wc: tree/b/file/: Not a directory\n'
exits 1 ""
holds "$TMPDIR/stderr" $'tree_wc: : No such file or directory\n'

# The folders can be listed only up to here; find goes on, but wc cannot open what it finds.
begin "a tree deeper than a path can be long"
make_ordinary_tree
python3 - <<'END' || fail "cannot make the folders"
import os
os.mkdir("tree/deep")
os.chdir("tree/deep")
for _ in range(30):
    with open("file", "w") as file:
        file.write("some words\n")
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
END
same tree 2>"$TMPDIR/stderr"
grep -q '^tree_wc: tree/deep/d.*: File name too long$' "$TMPDIR/stderr" || fail "no such message"

# --- what is counted -------------------------------------------------------------------

begin "every byte, and every pair of bytes"
python3 - <<'END' || fail "cannot make the files"
import os
os.mkdir("tree")
for byte in range(256):
    for name, content in (
        ("alone", [byte]),
        ("within", [97, byte, 98]),
        ("between", [97, 32, byte, 32, 98]),
        ("pairs", [x for other in range(256) for x in (byte, other, 32)]),
    ):
        with open(f"tree/{name}-{byte}", "wb") as file:
            file.write(bytes(content))
END
same tree

begin "binary files, empty files, files without a newline at the end"
mkdir tree
: >tree/empty
: >tree/empty_too
same tree
printf '\n' >tree/newline
printf 'x' >tree/letter
head -c 300000 /dev/zero >tree/zeros
cp -- "$(readlink -f -- "$tree_wc")" tree/program
same tree
same tree/empty
same tree/program

begin "a file of many blocks"
mkdir tree
awk 'BEGIN { for (i = 0; i < 700000; i++) print "line", i, "of a big file" }' >tree/big
awk 'BEGIN { for (i = 0; i < 300000; i++) printf "one-long-word-%d", i }' >tree/wide
truncate --size=3M tree/hole
echo small >tree/after
same tree

# --- how wide the columns are ------------------------------------------------------------

# wc reads a list of up to 10 MiB as a whole, and then knows the sizes beforehand.
begin "a list of 10 MiB, and a longer one"
python3 - <<'END' || fail "cannot make the files"
import os
folder = "tree/" + ("d" * 225 + "/") * 8
os.makedirs(folder)
with open("file", "w") as file:
    file.write("words\n")
for i in range(10 * 2**20 // 2048):
    name = f"{i:04}"
    os.link("file", folder + name + "f" * (2047 - len(folder + name)))
END
same tree
exits 0 tree
[[ $(tail -n 1 "$TMPDIR/stdout") == ' 5120  5120 30720 total' ]] || fail "these are not 10 MiB"
echo one more >tree/f
same tree
[[ $("$tree_wc" tree | head -n 1) == '1 1 6 '* ]] || fail "the columns are wide"

# --- memory --------------------------------------------------------------------------------

begin "100000 files in at most 64 MiB"
python3 - <<'END' || fail "cannot make the files"
import os
for i in range(5):
    with open(f"file-{i}", "w") as file:
        file.write("some words\n" * i)
for folder in range(100):
    path = f"tree/a-folder-with-a-name-of-usual-length-{folder:02}"
    os.makedirs(path)
    for i in range(1000):
        name = f"a-file-with-a-name-that-is-rather-longer-than-most-names-are-{i:04}.txt"
        os.link(f"file-{i % 5}", f"{path}/{name}")
END
same tree
peak=$(python3 - "$tree_wc" tree <<'END'
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
END
) || fail "cannot measure"
echo "peak resident size: $peak KiB"
if grep -qaE '__(asan|tsan)_init' "$tree_wc"; then
  echo "NOT CHECKED: the bound of the peak: a sanitizer needs memory of its own"
elif ((peak > 64 << 10)); then
  fail "peak resident size $peak KiB"
fi

# --- what changes or fails on the way --------------------------------------------------------

# The first byte is printed when all files are listed. The rest is not read until the files
# have changed: what is counted beforehand fits into the pipe and the window.
begin "files that vanish, grow or become something else after they were listed"
mkdir tree
echo short >file
python3 -c 'import os; [os.link("file", f"tree/file-{i}") for i in range(10000, 30000)]'
echo small >tree/z-grows
for name in fifo folder link shrinks; do
  echo "becomes $name" >"tree/z-$name"
done
mkfifo out
"$tree_wc" tree >out 2>stderr &
running=$!
exec 3<out
IFS= read -r -N 1 -u 3 first
rm tree/z-fifo tree/z-folder tree/z-link
awk 'BEGIN { for (i = 0; i < 100000; i++) print "more words" }' >>tree/z-grows
mkfifo tree/z-fifo
mkdir tree/z-folder
ln -s z-grows tree/z-link
: >tree/z-shrinks
rm tree/file-*  # last: tree_wc does not wait to print a row where there is none
{
  printf %s "$first"
  cat <&3
} >stdout
exec 3<&-
status=0
wait "$running" || status=$?
((status == 1)) || fail "exit status $status, wanted 1"
rows=$(grep -c ' tree/file-' stdout) || true
errors=$(grep -c '^tree_wc: tree/file-.*: No such file or directory$' stderr) || true
((rows + errors == 20000)) || fail "$rows rows and $errors errors for 20000 files"
((rows < 10000)) || fail "$rows files were counted before anybody read the output"
tail -n 5 stdout | sed -E 's/^ +//; s/ +/ /g' >last_rows
holds last_rows "0 0 0 tree/z-fifo
0 0 0 tree/z-folder
100001 200001 1100006 tree/z-grows
0 0 0 tree/z-shrinks
$((rows + 100001)) $((rows + 200001)) $((rows * 6 + 1100006)) total
"
tail -n 2 stderr >last_errors
holds last_errors "tree_wc: tree/z-folder: Is a directory
tree_wc: tree/z-link: Too many levels of symbolic links
"

begin "an output that cannot be written"
make_ordinary_tree
status=0
"$tree_wc" tree >/dev/full 2>"$TMPDIR/stderr" || status=$?
((status == 1)) || fail "exit status $status, wanted 1"
holds "$TMPDIR/stderr" $'tree_wc: write error: No space left on device\n'
mkdir many
python3 -c 'import os; [os.link("tree/b/file", f"many/file-{i}") for i in range(5000)]'
status=0
"$tree_wc" many >/dev/full 2>"$TMPDIR/stderr" || status=$?
((status == 1)) || fail "exit status $status, wanted 1"
holds "$TMPDIR/stderr" $'tree_wc: write error: No space left on device\n'

begin "a wrong call"
exits 2
holds "$TMPDIR/stdout" ""
holds "$TMPDIR/stderr" $'usage: tree_wc DIR...\n'

cd -- "$TEST_TMPDIR"
rm -rf case scratch
echo "$failures failures"
((failures == 0))
