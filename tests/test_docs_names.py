"""The files, classes and functions that the documents name are there, and so are their links."""

import ast
import builtins
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import distributed_comm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "distributed_comm"
#: Where a path in a document may begin.
BASES = (PACKAGE, ROOT, ROOT / "tests", ROOT / "docs", PACKAGE / "_serialize")

#: The pages whose names are checked, and from which heading on they speak of what is gone.
PAGES = {"design": None, "decisions": "## Tried and dropped", "extending": None, "security": None}
#: Pages whose links are.
LINKED = [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md"), ROOT / "bench" / "README.md"]

#: What stands for a name.
PLACEHOLDER = re.compile(r"NAME|FILE|\bx_|_x\b")
#: Classes of others.
FOREIGN = {"BufferedProtocol", "Packer", "Decimal", "UUID", "Enum", "OrderedDict"}

PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*(?:\.(?:py|pyx|md|toml)|/)")
DOTTED = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)(?:\(.*\))?")
#: A name, and the file that it is said to be in.
PLACED = re.compile(r"`([A-Za-z_][\w.]*)`(?:\s+in|,)?\s+\(?`((?:\w+/)*\w+\.py)`")


def read(page: str) -> str:
    """Return a page, up to where it speaks of what is gone, without its blocks of code."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    until = PAGES[page]
    if until is not None:
        text = text[: text.index(f"\n{until}\n")]
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def quoted(text: str) -> Iterator[str]:
    """Yield what stands in backticks, and is no placeholder."""
    for name in re.findall(r"`([^`\n]+)`", text):
        if not PLACEHOLDER.search(name):
            yield name


# -- what is there ------------------------------------------------------------------------


class Class(NamedTuple):
    attributes: set[str]
    bases: set[str]


@cache
def classes(file: Path) -> dict[str, Class]:
    """Return the classes of a file by their names."""
    return {
        node.name: Class({*attributes(node)}, {*map(last, node.bases)})
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    }


def last(base: ast.expr) -> str:
    """Return the name of a base without its module."""
    return ast.unparse(base).rpartition(".")[2]


def attributes(cls: ast.ClassDef) -> Iterator[str]:
    for node in ast.walk(cls):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Attribute(ast.Name("self"), name, ast.Store()):
                yield name
            case ast.AnnAssign(ast.Name(name)) | ast.Assign([ast.Name(name)]):
                yield name
            case ast.Assign([ast.Tuple(names), *_]):
                yield from (name.id for name in names if isinstance(name, ast.Name))


@cache
def top_level(file: Path) -> set[str]:
    """Return what a file defines at its top, in any of its branches."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        for inner in ast.walk(node) if isinstance(node, ast.If | ast.Try) else [node]:
            match inner:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found.add(name)
                case ast.ClassDef(name=name) | ast.AnnAssign(ast.Name(name)):
                    found.add(name)
                case ast.Assign(targets):
                    names = [n for target in targets for n in ast.walk(target)]
                    found |= {name.id for name in names if isinstance(name, ast.Name)}
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


@cache
def attributes_of(name: str) -> set[str]:
    """Return the attributes of a class of ours, or of a test's helper, bases' included; or none."""
    found, bases, seen = set(), {name}, set()
    while bases:
        seen.add(base := bases.pop())
        for file in (*SOURCES, *TESTS):
            known = classes(file).get(base)
            found |= known.attributes if known else set()
            bases |= (known.bases if known else set()) - seen
    return found


def has_file(path: str) -> bool:
    return any((base / path).exists() for base in BASES)


def has_module(parts: list[str]) -> bool:
    """Whether this is a module of ours, or something at the top of one."""
    file = PACKAGE.joinpath(*parts)
    if file.is_dir() or file.with_suffix(".py").exists():
        return True
    home = PACKAGE.joinpath(*parts[:-1])
    home = home.with_suffix(".py") if home.with_suffix(".py").exists() else home / "__init__.py"
    return len(parts) > 1 and home.exists() and parts[-1] in top_level(home)


def is_missing(name: str) -> bool:
    """Whether this is a name of ours, and nothing has it."""
    path, _, test = name.partition("::")
    if PATH.fullmatch(path):
        if test:
            return test not in top_level(ROOT / "tests" / path)
        return not has_file(path)
    if re.fullmatch(r"test_\w+", name):
        return not any(name in top_level(file) for file in TESTS)
    found = DOTTED.fullmatch(name)
    if found is None:
        return False
    first, *rest = parts = found[1].split(".")
    if first == "dc" and rest:
        return not hasattr(distributed_comm, rest[0])
    if first.startswith("_") and rest:
        return not has_module(parts)
    if not re.match(r"[A-Z][a-z]|[A-Z]{2,}[a-z]", first) or first in FOREIGN:
        return False
    if hasattr(builtins, first):
        return bool(rest) and not hasattr(getattr(builtins, first), rest[0])
    there = any(first in classes(file) for file in (*SOURCES, *TESTS))
    return not there or not set(rest[:1]) <= attributes_of(first)


def is_misplaced(name: str, path: str) -> bool:
    """Whether a file does not define a name that it is said to."""
    file = next((base / path for base in BASES if (base / path).exists()), None)
    if file is None:
        return True
    first, _, rest = name.partition(".")
    if rest:
        return first not in classes(file) or rest not in attributes_of(first)
    methods = {each for known in classes(file).values() for each in known.attributes}
    return first not in top_level(file) | methods


# -- the documents --------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_name_in_backticks_is_there(page):
    names = list(quoted(read(page)))
    assert len(names) > 100
    assert not sorted({name for name in names if is_missing(name)})


@pytest.mark.parametrize("page", PAGES)
def test_every_name_is_in_the_file_that_is_named_beside_it(page):
    placed = {pair for pair in PLACED.findall(read(page)) if not PLACEHOLDER.search(" ".join(pair))}
    assert not sorted(pair for pair in placed if is_misplaced(*pair))


def test_names_are_placed():
    assert sum(len(PLACED.findall(read(page))) for page in PAGES) > 60


@pytest.mark.parametrize(
    "name",
    [
        "_connection/sender.py",
        "admission.py",
        "Sender.send",
        "ConnectionChannel.pausing",
        "SendQueue.flushed",
        "_serialize.lengthy",
        "_wire.hello.absent",
        "dc.Adapter",
        "PollingAdapter",
        "TLSLayer",
        "tests/test_absent.py",
        "test_absent_altogether",
        "test_trust.py::test_absent",
        "transports/",
    ],
)
def test_what_is_not_there_is_noticed(name):
    assert is_missing(name)


@pytest.mark.parametrize(
    "name",
    [
        "_tls/stream.py",
        "InProc.write",
        "ConnectionChannel.read",
        "TLSStream.ahead",
        "Limits.message",
        "_kernels/",
        "_wire.hello.VERSION",
        "dc.connect",
        "numpy.void",
        "KeyError",
        "Server(...)",
        "test_tls.py::test_who_showed_a_certificate_is_trusted",
    ],
)
def test_what_is_there_is_not(name):
    assert not is_missing(name)


def test_a_wrong_file_is_noticed():
    assert is_misplaced("SendQueue.send", "_connection/channel.py")
    assert is_misplaced("dumps", "_serialize/decode.py")
    assert is_misplaced("dumps", "_serialize/encoding.py")
    assert not is_misplaced("SendQueue.send", "_connection/send_queue.py")
    assert not is_misplaced("COURTESY", "_connection/accept.py")


# -- links ----------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    heads = [re.sub(r"[`*]", "", head) for head in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    made = {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}
    return made | set(re.findall(r'<a id="([^"]+)"', text))


def links(page: Path) -> set[tuple[str, str]]:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    pairs = (link.partition("#") for link in found if "://" not in link)
    return {(path, anchor) for path, _, anchor in pairs}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"there is no {path}"
        if anchor:
            assert anchor in anchors(target), f"there is no #{anchor} in {target.name}"
