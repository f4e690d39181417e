"""The `kernels` fixture reaches every place where a kernel is used, and lets go of it."""

from importlib import import_module
from itertools import product
from pkgutil import walk_packages
from types import ModuleType

from hypothesis import given
from hypothesis import strategies as st

from distributed_comm import _addressing as addressing
from distributed_comm import _kernels
from distributed_comm import _serialize as serialize
from distributed_comm import _wire as wire


def kernels_in_use():
    """Return all that the modules of `_wire` and `_serialize` call a module of _kernels."""
    found = [
        import_module(item.name)
        for package in (wire, serialize)
        for item in walk_packages(package.__path__, f"{package.__name__}.")
    ]
    values = [value for module in found for value in vars(module).values()]
    modules = {value for value in values if isinstance(value, ModuleType)}
    return {module for module in modules if module.__name__.startswith(_kernels.__name__)}


def test_one_kernel_is_used_everywhere(kernels):
    used = kernels_in_use()
    suffix = {"compiled": "_c", "pure": "_py"}[kernels]
    assert len(used) >= 2
    assert {module.__name__[-len(suffix) :] for module in used} == {suffix}
    address = import_module(f"{_kernels.__name__}.address{suffix}")
    assert addressing.parse_address is address.parse_address


def test_both_twins_have_every_name():
    kernels = [getattr(_kernels, name) for name in _kernels.__all__]
    for chosen in filter(lambda kernel: isinstance(kernel, ModuleType), kernels):
        name = chosen.__name__.rpartition("_")[0]
        pure = import_module(f"{name}_py")
        assert not [name for name in pure.__all__ if not hasattr(chosen, name)], name


@given(st.booleans())
def test_hypothesis_accepts_it(kernels, value):
    assert (kernels, value) in product({"pure", _kernels.kind}, [True, False])


def test_without_it_the_chosen_one_is_used():
    assert kernels_in_use() <= {getattr(_kernels, name) for name in _kernels.__all__}
    assert addressing.parse_address is _kernels.address.parse_address
