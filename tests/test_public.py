"""What is public: some modules, of each the names that it lists, and all options in help()."""

import re
import sys
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import distributed_comm
from distributed_comm import options

FOLDER = Path(distributed_comm.__file__).parent

#: The package itself, and what may be imported from it.
PUBLIC = {"", "bench", "core", "errors", "options", "registry", "streams", "testing"}


# -- modules ------------------------------------------------------------------------------


def find_public_modules(folder: Path) -> set[str]:
    """Return the modules whose names have no part that begins with an underscore."""
    files = [
        file.relative_to(folder) for suffix in ("py", "pyx") for file in folder.rglob(f"*.{suffix}")
    ]
    modules = {".".join(file.with_suffix("").parts) for file in files}
    modules = {module.removesuffix("__init__").removesuffix(".") for module in modules}
    return {module for module in modules if not re.search(r"(^|\.)_", module)}


def test_no_other_module_is_public() -> None:
    found = find_public_modules(FOLDER)
    assert found <= PUBLIC, f"name it with an underscore, or in PUBLIC: {sorted(found - PUBLIC)}"
    assert found >= PUBLIC, f"not there any more: {sorted(PUBLIC - found)}"


def test_a_module_is_private_by_any_part_of_its_name(tmp_path: Path) -> None:
    for name in (
        "__init__",
        "plain",
        "_own",
        "__main__",
        "_in/__init__",
        "_in/it",
        "on/_it",
        "on/it",
    ):
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert find_public_modules(tmp_path) == {"", "plain", "on.it"}


# -- names --------------------------------------------------------------------------------


def find_missing(module: object) -> set[str]:
    """Return what `__all__` lists and the module has not; `__all__` itself if that is missing."""
    return {name for name in getattr(module, "__all__", ["__all__"]) if not hasattr(module, name)}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_module_lists_what_it_has(name: str) -> None:
    assert not find_missing(import_module(f"distributed_comm.{name}".removesuffix(".")))


def test_a_list_may_be_missing_or_wrong() -> None:
    assert find_missing(SimpleNamespace(a=1)) == {"__all__"}
    assert find_missing(SimpleNamespace(a=1, __all__=["a", "b"])) == {"b"}
    assert find_missing(SimpleNamespace(a=1, __all__=["a"])) == set()


def test_nothing_else_shows_in_the_package() -> None:
    shown = {name for name in dir(distributed_comm) if not name.startswith("_")}
    others = {name for name in PUBLIC if f"distributed_comm.{name}" in sys.modules}
    assert shown <= {*distributed_comm.__all__, *others}


# -- options ------------------------------------------------------------------------------


def find_undocumented(kind: type) -> list[str]:
    """Return the fields of a dataclass that have no entry in its docstring."""
    entries = re.findall(r"^ *((?:``\w+``(?:, )?)+)$", kind.__doc__ or "", re.MULTILINE)
    documented = {name for entry in entries for name in re.findall(r"\w+", entry)}
    return [field.name for field in fields(kind) if field.name not in documented]


@pytest.mark.parametrize(
    "kind", [kind for kind in map(vars(options).get, options.__all__) if is_dataclass(kind)]
)
def test_every_option_is_documented(kind: type) -> None:
    assert not find_undocumented(kind)


def test_an_option_that_is_only_mentioned_is_not_documented() -> None:
    @dataclass
    class Some:
        """Options.

        ``one``
            Not ``three``.
        ``two``, ``four``
            Others.
        """

        one: int
        two: int
        three: int
        four: int
        five: int

    assert find_undocumented(Some) == ["three", "five"]
