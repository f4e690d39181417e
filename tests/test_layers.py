"""Imports go downward: the source of every module against the table in docs/design.md."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

from distributed_comm import registry
from distributed_comm.core import ConnectionEnd, Connector, Listener
from distributed_comm.registry import Backend

ROOT = Path(__file__).parents[1]
PACKAGE = "distributed_comm"

#: Entries of the table that do no I/O, and what they therefore never import.
SANS_IO = {"_serialize/", "_wire/", "_addressing", "_kernels/"}
IO = {"asyncio", "select", "selectors", "socket", "ssl", "uvloop"}

#: Modules that import one of these all the same, and the reason of each.
TASKS = {
    "_kernels.mailbox_c": "it runs a task inside another",
    "_kernels.mailbox_py": "so does its twin",
}

#: Imports elsewhere than at the top of their file, "module: target", and the reason of each.
EXCEPTIONS = {
    "bench._systems: import_module()": "a library is loaded where it is measured",
    "bench._workloads: import_module()": "so is a workload, in its own process",
    "registry: import_module()": "a backend is loaded on first use",
    "_tls.security: import_module()": "cryptography is an extra, and takes 100 ms",
    "registry: importlib.metadata.entry_points": "12 ms, for schemes from outside alone",
    "_serialize.type_registry: import_module()": "a library's types load with the first of them",
    "_serialize.compression: import_module()": "a codec is loaded with the first frame for it",
    "_serialize.types.torch_tensors: import_module()": "torch is large, and often not there",
    "_serialize.decode: import_module()": "a trusted peer names an enum by its module",
}


class Import(NamedTuple):
    importer: str
    target: str
    line: int
    late: bool

    def __str__(self) -> str:
        return f"{MODULES[self.importer].relative_to(ROOT)}:{self.line} imports {self.target}"


def read_table(first: str) -> list[list[str]]:
    """Return the rows of the table in docs/design.md whose first column has this head."""
    lines = (ROOT / "docs/design.md").read_text().split(f"\n| {first} |")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines.splitlines()[2:]]


def names(cell: str) -> list[str]:
    """Return what a cell names, in backticks."""
    return re.findall(r"`(.+?)`", cell)


def read_floors() -> dict[str, int]:
    """Return the height of each entry of the table, `core` or `_wire/`; the ground is 0."""
    rows = [names(row[1]) for row in read_table("floor")]
    return {entry: height for height, row in enumerate(reversed(rows)) for entry in row}


def read_steps() -> dict[str, dict[str, int]]:
    """Return the height of each entry of each folder, `hello` or `types/`; the lowest is 0."""
    rows = {names(folder)[0]: steps.split("→")[::-1] for folder, steps in read_table("folder")}
    return {
        folder: {name: height for height, step in enumerate(steps) for name in names(step)}
        for folder, steps in rows.items()
    }


def read_imports(module: str) -> Iterator[Import]:
    """Yield what a module imports when it runs; a type checker's imports do not count."""
    file, source = MODULES[module], MODULES[module].read_text()
    if file.suffix == ".pyx":  # beyond `ast`, but for its import lines
        source = re.sub(r"^(?!import |from \S+ import ).*$", "", source, flags=re.M)
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    nodes = list(ast.walk(ast.parse(source)))
    checks = [n for n in nodes if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    unseen = {inner for check in checks for part in check.body for inner in ast.walk(part)}
    late = {inner for function in functions for inner in ast.walk(function)}
    for node in nodes:
        match node:
            case ast.Import(names):
                targets = [alias.name for alias in names]
            case ast.ImportFrom(base, names, level):
                base = resolve_name("." * level + (base or ""), package)
                targets = [f"{base}.{alias.name}" for alias in names]
            case ast.Call(ast.Name("import_module") | ast.Attribute(attr="import_module")):
                targets, late = ["import_module()"], late | {node}
            case _:
                continue
        if node not in unseen:
            yield from (Import(module, target, node.lineno, node in late) for target in targets)


FLOORS = read_floors()
STEPS = read_steps()
FILES = [*ROOT.glob(f"{PACKAGE}/**/*.py"), *ROOT.glob(f"{PACKAGE}/**/*.pyx")]
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in FILES
}
PACKAGES = {module for module, file in MODULES.items() if file.stem == "__init__"}
IMPORTS = [item for module in sorted(MODULES) for item in read_imports(module)]


def entry(module: str) -> str:
    """Return the most special entry of the table of floors that a module belongs to."""
    parts = [*module.split("."), "__init__"][1:]
    return next(
        e for e in ("/".join(parts[:2]), f"{parts[0]}/", parts[0]) if e in FLOORS or "/" not in e
    )


def place(module: str, folder: str) -> str | None:
    """Return the entry of a folder that a module belongs to; None for modules elsewhere."""
    path = "/".join(module.split(".")[1:]) + ("/__init__" if module in PACKAGES else "")
    first, slash, _ = path.removeprefix(folder).partition("/")
    return f"{first}{slash}" if path.startswith(folder) else None


def ours(target: str) -> str:
    """Return the module of ours that a target is or lies in; empty for anybody else's."""
    while target and target not in MODULES:
        target = target.rpartition(".")[0]
    return target


def test_the_table_names_every_module() -> None:
    present = {entry(module) for module in MODULES}
    assert present <= FLOORS.keys(), f"without a floor: {sorted(present - FLOORS.keys())}"
    assert present >= FLOORS.keys(), f"not there any more: {sorted(FLOORS.keys() - present)}"


def test_imports_go_downward() -> None:
    heights = [(i, FLOORS[entry(i.importer)], ours(i.target)) for i in IMPORTS]
    wrong = [str(i) for i, height, there in heights if there and FLOORS[entry(there)] > height]
    assert not wrong, "\n".join(["upward, by the table in docs/design.md:", *wrong])


def test_folders_name_every_module() -> None:
    folders = {f"{'/'.join(module.split('.')[1:-1])}/" for module in MODULES} - {"/"}
    private = {folder for folder in folders if folder.startswith("_")}
    assert STEPS.keys() == private
    for folder, steps in STEPS.items():
        present = {place(module, folder) for module in MODULES} - {None}
        assert present - {"__init__"} == steps.keys() - {"__init__"}, folder


def test_imports_go_down_the_steps_of_their_folder() -> None:
    wrong = []
    for folder, steps in STEPS.items():
        for item in IMPORTS:
            here, there = place(item.importer, folder), place(ours(item.target), folder)
            if here in steps and there in steps and here != there and steps[there] >= steps[here]:
                wrong.append(str(item))
    assert not wrong, "\n".join(["upward, by the steps in docs/design.md:", *wrong])


def test_imports_make_no_cycle() -> None:
    graph = {name: {ours(i.target) for i in IMPORTS if i.importer == name} for name in MODULES}
    TopologicalSorter(graph).prepare()  # a CycleError names the modules


def test_imports_are_at_the_top() -> None:
    late = {f"{i.importer.removeprefix(f'{PACKAGE}.')}: {i.target}": i for i in IMPORTS if i.late}
    wrong = [str(item) for key, item in late.items() if key not in EXCEPTIONS]
    assert not wrong, "\n".join(["move up, or add to EXCEPTIONS with a reason:", *wrong])
    assert late.keys() >= EXCEPTIONS.keys(), f"needless: {EXCEPTIONS.keys() - late.keys()}"


def test_what_only_computes_does_no_io() -> None:
    assert FLOORS.keys() >= SANS_IO, "an entry that is not in the table of docs/design.md"
    computing = [item for item in IMPORTS if entry(item.importer) in SANS_IO]
    found = [item for item in computing if item.target.partition(".")[0] in IO]
    wrong = [str(i) for i in found if i.importer.removeprefix(f"{PACKAGE}.") not in TASKS]
    assert not wrong, "\n".join(wrong)


def test_no_class_is_a_ladder() -> None:
    """What a class does is found in few files: at most four classes of ours, itself included."""
    for scheme in registry._BUILT_IN:
        registry.get_backend(scheme)
    found = [ConnectionEnd, Connector, Listener, Backend]
    for cls in found:
        found += [c for c in cls.__subclasses__() if c.__module__.startswith(PACKAGE)]
        ladder = [c for c in cls.__mro__ if c.__module__.startswith(PACKAGE)]
        assert len(ladder) <= 4, " on ".join(c.__name__ for c in ladder)
    assert {"BusyChannel", "ChannelComm", "InProc", "TLSListener"} <= {c.__name__ for c in found}
