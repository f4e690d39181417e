"""Registered types are found by class and by name, and load their library when first met."""

import array
import subprocess
import sys
import threading

import numpy as np
import pytest

from distributed_comm._serialize import type_registry
from distributed_comm._serialize.type_registry import (
    Registered,
    Types,
    dask_header,
    register_serialization,
    register_serialization_lazy,
    type_name,
)


class Base:
    pass


class Derived(Base):
    pass


class Elsewhere:
    __module__ = "elsewhere.deep"


class Below(Elsewhere):
    pass


def entry(cls):
    return Registered(type_name(cls), cls, lambda obj: ({}, []), lambda h, f: cls(), lambda h: True)


@pytest.fixture
def types(monkeypatch):
    """A registry of its own, which the public functions use."""
    types = Types()
    monkeypatch.setattr(type_registry, "_types", types)
    return types


def test_a_class_is_found_and_a_subclass_by_its_base(types):
    base = entry(Base)
    types.add(base)
    assert types.find(Base) is types.find(Derived) is base
    derived = entry(Derived)
    types.add(derived)
    assert types.find(Derived) is derived
    assert types.find(Base) is base
    assert types.find(int) is types.find(type) is None


def test_a_name_is_found_and_a_subclass_is_not(types):
    base = entry(Base)
    types.add(base)
    assert types.find_named(f"{__name__}.Base") is base
    assert types.find_named(f"{__name__}.Derived") is None


@pytest.mark.parametrize(
    "name", ["", ".", "numpy", "numpy.", "os.system", "numpy.ndarray.x", "a" * 99]
)
def test_a_name_that_nobody_registered_is_not_found(types, name):
    assert types.find_named(name) is None


@pytest.mark.parametrize("cls", [bytes, bytearray, memoryview, array.array, np.ndarray, np.float32])
def test_what_is_built_in_has_the_name_that_dask_gives_it(types, cls):
    typename = pytest.importorskip("dask.utils").typename
    assert type_name(cls) == typename(cls)
    assert types.find_named(type_name(cls)).cls is cls
    assert Types().find(cls).name == typename(cls)


def test_a_miss_is_forgotten_when_something_is_registered(types):
    assert types.find(Derived) is None
    types.add(entry(Base))
    assert types.find(Derived).cls is Base
    assert types.find(Below) is None
    types.add_lazy("elsewhere", lambda: types.add(entry(Elsewhere)))
    assert types.find(Below).cls is Elsewhere


@pytest.mark.parametrize(
    "meet",
    [lambda t: t.find(Elsewhere), lambda t: t.find(Below), lambda t: t.find_named("elsewhere.a")],
    ids=["a class", "a subclass", "a name"],
)
def test_a_library_registers_once_when_it_is_first_met(types, meet):
    calls = []
    for number in (1, 2):
        register_serialization_lazy("elsewhere", lambda number=number: calls.append(number))
    types.find(Base)
    types.find_named("elsewhere2.a")
    types.find_named("elsewhere")
    assert calls == []
    meet(types)
    meet(types)
    assert calls == [1, 2]


def test_a_library_that_cannot_register_says_so_each_time(types):
    def fail():
        raise ZeroDivisionError

    types.add_lazy("elsewhere", fail)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            types.find(Elsewhere)


@pytest.mark.parametrize("missing", ["elsewhere", "its_helper"])
def test_a_library_that_is_not_installed_has_no_types(types, missing):
    def register():
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    types.add_lazy("elsewhere", register)
    if missing == "elsewhere":
        assert types.find_named("elsewhere.deep.Elsewhere") is None
    else:
        with pytest.raises(ModuleNotFoundError):
            types.find_named("elsewhere.deep.Elsewhere")


def test_what_the_user_registers_stands_over_what_is_built_in(types):
    mine = entry(np.ndarray)
    types.add(mine)
    assert types.find(np.float32).cls is np.float32  # loads all of numpy's
    assert types.find(np.ndarray) is types.find_named("numpy.ndarray") is mine


def test_a_registration_is_not_safe_unless_it_says_so(types):
    register_serialization(Base, lambda obj: ({}, []), lambda header, frames: Base())
    assert not types.find(Base).safe
    register_serialization(Base, lambda obj: ({}, []), lambda header, frames: Base(), safe=True)
    assert types.find(Base).safe
    with pytest.raises(TypeError, match="'numpy' is no class"):
        register_serialization("numpy", None, None)


def test_a_program_that_makes_classes_without_end_does_not_fill_memory(types):
    for _ in range(type_registry.REMEMBERED + 10):
        assert types.find(type("Passing", (), {})) is None
    assert len(types._found) <= type_registry.REMEMBERED


def test_a_second_thread_waits_for_a_library_that_registers(types):
    started, go, found = threading.Event(), threading.Event(), []

    def register():
        started.set()
        assert go.wait(10)
        types.add(entry(Elsewhere))

    types.add_lazy("elsewhere", register)
    threads = [
        threading.Thread(target=lambda cls=cls: found.append(types.find(cls)))
        for cls in (Elsewhere, Below)
    ]
    threads[0].start()
    assert started.wait(10)
    threads[1].start()
    threads[1].join(0.05)  # it would be through by now, if it did not wait
    go.set()
    for thread in threads:
        thread.join(10)
    assert [item and item.cls for item in found] == [Elsewhere, Elsewhere]


def test_a_library_may_announce_its_types_while_another_thread_loads_them(types):
    started, go = threading.Event(), threading.Event()

    def register():
        started.set()
        assert go.wait(10)

    types.add_lazy("elsewhere", register)
    thread = threading.Thread(target=types.find, args=(Elsewhere,))
    thread.start()
    assert started.wait(10)
    types.add_lazy("elsewhere", lambda: types.add(entry(Elsewhere)))  # does not wait
    go.set()
    thread.join(10)
    assert types.find(Elsewhere).cls is Elsewhere


def test_a_search_that_something_was_added_to_meanwhile_remembers_no_miss(types):
    class Meddling(type):
        def __hash__(cls):  # a look into any dict calls this
            types.add(entry(Base))
            return 1

    before = types._found
    assert types.find(Meddling("Late", (), {})) is None
    assert types._found == {}
    assert types._found is not before


def test_dask_reads_the_header():
    deserialize = pytest.importorskip("distributed.protocol").deserialize
    types = Types()
    header, frames = types.find(bytearray).serialize(bytearray(b"abc"))
    assert deserialize(dask_header(types.find(bytearray), header), frames) == b"abc"


ALONE = """
import sys
from distributed_comm._serialize import type_registry
own = "distributed_comm._serialize.types.numpy_arrays"
libraries = {"numpy", "pyarrow", "scipy", "torch", "pandas", own}
assert not libraries & sys.modules.keys()
assert type_registry.find(dict) is None and type_registry.find_named("list") is None
assert type_registry.find(bytes).name == "bytes"
assert type_registry.find_named("os.path") is None
assert type_registry.find_named("array.array", imports=False).name == "array.array"
assert not libraries & sys.modules.keys()
assert type_registry.find_named("numpy.ndarray").name == "numpy.ndarray"
assert "numpy" in sys.modules and not {"pyarrow", "scipy", "torch"} & sys.modules.keys()
assert type_registry.find_named("pyarrow.lib.Table", imports=False) is None
assert "pyarrow" not in sys.modules
import pyarrow
assert type_registry.find_named("pyarrow.lib.Table", imports=False).cls is pyarrow.Table
"""


def test_no_library_is_imported_before_its_types_are_met():
    subprocess.run([sys.executable, "-c", ALONE], check=True, timeout=50)
