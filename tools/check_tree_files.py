"""What tools/check_tree knows of the tree: its files, their C++ and their Bazel targets."""

import ast
import collections
import functools
import os
import re
import shutil
import subprocess

Include = collections.namedtuple("Include", "line path quoted")
Target = collections.namedtuple("Target", "rule label build line files")  # files: {attribute: [path]}

FILE_ATTRIBUTES = ["srcs", "hdrs", "textual_hdrs", "data", "main", "src", "tools"]

COMMENT_OR_LITERAL = re.compile(
    r"""(?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)"""
    r"""|(?P<raw_string>\b(?:u8|[uUL])?R"(?P<end>[^()\\\s]*)\(.*?\)(?P=end)")"""
    r"""|(?P<string>"(?:\\.|[^"\\\n])*"|(?<!\w)(?:u8|[uUL])?'(?:\\.|[^'\\\n])+')""",
    re.DOTALL,
)
TEST_NAME = re.compile(r"\b(?:TEST|TEST_F|TEST_P|TYPED_TEST|TYPED_TEST_P)\(\s*\w+,\s*(\w+)\s*\)")
# Of scripts and build files: each run of comment lines, each docstring.
SCRIPT_PROSE = re.compile(r'(?m)(?:(?<!\S)#(?!!)[^\n]*(?:\n[ \t]*#[^\n]*)*)|"""(?s:.*?)"""')
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*("[^"\n]*"|<[^>\n]*>)', re.MULTILINE)


def folder(path):
    return path.rpartition("/")[0]


def basename(path):
    return path.rpartition("/")[2]


def stem(path):
    return path.rpartition(".")[0]


def join(*parts):
    return "/".join(part for part in parts if part)


def is_below(path, top):
    return not top or path == top or path.startswith(top + "/")


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def words_of(text, start, passage):
    """(line, word) for each word of `passage`, which stands at `start` in `text`."""
    first = line_of(text, start)
    return [
        (first + number, word)
        for number, line in enumerate(passage.split("\n"))
        for word in re.sub(r"^\s*(//+|/\*|#+|\*(?= ))|\*/\s*$", " ", line).split()
    ]


def as_list(value):
    return value if isinstance(value, list) else [value]


def matches(pattern, text):
    """(line, what matched) for each match of `pattern` in `text`."""
    return [(line_of(text, match.start()), match[0]) for match in pattern.finditer(text)]


class Tree:
    """The files below a folder. Paths are relative to it."""

    def __init__(self, root):
        self.root = root
        self.files = sorted(path for path in self.list_files() if (root / path).is_file())
        self.known = set(self.files)
        # Innermost first; "" is the tree itself.
        self.workspaces = sorted((folder(p) for p in self.files if basename(p) == "WORKSPACE"), key=len)[::-1]
        self.builds = [BuildFile(self, path) for path in self.files if basename(path) == "BUILD"]
        self.unchecked = []  # sentences: what the rules could not check, and why

    def list_files(self):
        """What git would commit, or everything but caches where there is no git."""
        git = shutil.which("git") if (self.root / ".git").exists() else None
        if git:
            command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
            listing = subprocess.run(command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if listing.returncode == 0:
                return {os.fsdecode(path) for path in listing.stdout.split(b"\0") if path}
        paths = []
        for here, folders, names in os.walk(self.root):  # follows no links: neither bazel-bin & co
            folders[:] = [name for name in folders if not re.match(r"\.git$|\..*cache|__pycache__$", name)]
            paths += [os.path.relpath(os.path.join(here, name), self.root) for name in names]
        return paths

    def cc_files(self, *tops):
        """The C++ files, or only those below the folders `tops`."""
        return [p for p in self.files if p.endswith((".h", ".cc")) and (not tops or p.split("/")[0] in tops)]

    def starlark_files(self):
        return [p for p in self.files if p.endswith(".bzl") or basename(p) in ("BUILD", "WORKSPACE")]

    @functools.lru_cache(maxsize=None)
    def text(self, path):
        """The content of a file; "" if it is not text."""
        data = (self.root / path).read_bytes()
        try:
            return "" if b"\0" in data else data.decode("utf-8")
        except UnicodeDecodeError:
            return ""

    @functools.lru_cache(maxsize=None)
    def code(self, path, strings=False):
        """A C++ file with its comments blanked out, and its literals too unless `strings`."""

        def blank(match):
            keep = strings and match["string"]
            return match[0] if keep else re.sub(r"[^\n]", " ", match[0])

        return COMMENT_OR_LITERAL.sub(blank, self.text(path))

    @functools.lru_cache(maxsize=None)
    def includes(self, path):
        code = self.code(path, strings=True)
        return [Include(line_of(code, m.start(1)), m[1][1:-1], m[1][0] == '"') for m in INCLUDE.finditer(code)]

    @functools.lru_cache(maxsize=None)
    def prose(self, path):
        """The passages that people read in a file: paragraphs of Markdown, comments, the names of tests.
        Each is a list of (line, word)."""
        text = self.text(path)
        if path.endswith(".md"):
            return [words_of(text, m.start(), m[0]) for m in re.finditer(r"(?:[^\n]*\S[^\n]*\n?)+", text)]
        if not path.endswith((".h", ".cc")):
            return [words_of(text, m.start(), m[0]) for m in SCRIPT_PROSE.finditer(text)]
        passages, end = [], -1
        for match in COMMENT_OR_LITERAL.finditer(text):
            if match["comment"]:
                words = words_of(text, match.start(), match[0])
                if end >= 0 and re.fullmatch(r"\s*", text[end : match.start()]):
                    passages[-1] += words  # goes on with the comment of the line above
                else:
                    passages.append(words)
                end = match.end()
        for match in TEST_NAME.finditer(self.code(path)):
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_", " ", match[1]).lower()
            passages.append([(line_of(text, match.start(1)), word) for word in name.split()])
        return passages

    def workspace(self, path):
        """The top folder of the innermost workspace that `path` is in."""
        return next((top for top in self.workspaces if is_below(path, top)), "")

    def labelled(self, labels, build):
        """The files of the tree among `labels`, a string or several, as the file `build` means them."""
        paths = []
        for label in as_list(labels):
            repository, slashes, rest = label.rpartition("//")
            if not slashes:
                paths.append(join(folder(build), rest.lstrip(":")))
            elif repository in ("", "@iworker"):
                top = "" if repository else self.workspace(build)
                paths.append(join(top, rest.replace(":", "/").lstrip("/")))
        return [path for path in paths if path in self.known]


class BuildFile:
    """What a BUILD file declares, with all branches of a select() taken."""

    def __init__(self, tree, path):
        self.tree, self.path, self.package = tree, path, folder(path)
        self.workspace = tree.workspace(path)
        self.targets = []
        self.exports = []  # paths
        self.settings = {}  # the arguments of package()
        self.loads = {}  # name: label of the file it comes from
        self.errors = []  # (line, what was not understood)
        self.variables = {}
        try:
            statements = ast.parse(tree.text(path)).body
        except SyntaxError as error:
            statements = []
            self.errors.append((error.lineno or 1, error.msg))
        for statement in statements:
            try:
                self.run(statement)
            except Exception as error:
                self.errors.append((statement.lineno, f"not understood: {error!r}"))

    def run(self, statement):
        value = statement.value
        if isinstance(statement, ast.Assign):
            self.variables[statement.targets[0].id] = value
        elif isinstance(value, ast.Call):
            self.call(value)
        elif isinstance(value, ast.ListComp):
            for _ in self.turns(value):
                self.call(value.elt)

    def call(self, node):
        rule = ast.unparse(node.func)
        arguments = {keyword.arg: keyword.value for keyword in node.keywords}
        if rule == "load":
            file, *names = [self.value(argument) for argument in node.args]
            self.loads.update({name: file for name in [*names, *arguments]})
        elif rule == "package":
            self.settings = {name: self.value(value) for name, value in arguments.items()}
        elif rule == "exports_files":
            self.exports += self.files(node.args[0] if node.args else arguments["srcs"])
        elif "name" in arguments:
            package = self.package[len(self.workspace) :].lstrip("/")
            label = f"//{package}:{self.value(arguments['name'])}"
            files = {name: self.files(arguments[name]) for name in FILE_ATTRIBUTES if name in arguments}
            self.targets.append(Target(rule, label, self.path, node.lineno, files))

    def files(self, node):
        return self.tree.labelled(self.value(node), self.path)

    def value(self, node):
        """The value of an expression."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self.value(element) for element in node.elts]
        if isinstance(node, ast.Name):
            known = self.variables[node.id]
            return self.value(known) if isinstance(known, ast.AST) else known
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self.value(node.left) + self.value(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            right = self.value(node.right)
            return self.value(node.left) % (tuple(right) if isinstance(right, list) else right)
        if isinstance(node, ast.ListComp):
            return [self.value(node.elt) for _ in self.turns(node)]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "select":
            return [element for branch in node.args[0].values for element in as_list(self.value(branch))]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "glob":
            return self.glob(*map(self.value, node.args), **{k.arg: self.value(k.value) for k in node.keywords})
        raise ValueError(ast.unparse(node))

    def turns(self, comprehension):
        """Yields once for each turn of a list comprehension, its variable being set."""
        (loop,) = comprehension.generators
        for element in self.value(loop.iter):
            self.variables[loop.target.id] = element
            yield

    def glob(self, include, exclude=(), **_):
        def is_match(name, patterns):
            regexes = (re.escape(p).replace(r"\*\*/", "(.*/)?").replace(r"\*\*", ".*") for p in patterns)
            return any(re.fullmatch(regex.replace(r"\*", "[^/]*"), name) for regex in regexes)

        packages = {folder(path) for path in self.tree.files if basename(path) == "BUILD"} - {self.package}
        inner = [package for package in packages if is_below(package, self.package)]
        below = [path for path in self.tree.files if is_below(path, self.package)]
        names = [p[len(self.package) :].lstrip("/") for p in below if not any(is_below(p, i) for i in inner)]
        return [name for name in names if is_match(name, include) and not is_match(name, exclude)]
