"""The chosen kernels, their pure twins, and where one can take the place of the other."""

import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import distributed_comm
from distributed_comm import _kernels

#: The chosen kernels and their twins: the same ones where nothing is compiled. Without `turns`,
#: whose classes are bases of ours, so that they cannot be exchanged.
PURE: dict[ModuleType, ModuleType] = {
    getattr(_kernels, name): import_module(f"{_kernels.__name__}.{name}_py")
    for name in _kernels.__all__
    if isinstance(getattr(_kernels, name), ModuleType) and name != "turns"
}


def places() -> Iterator[tuple[ModuleType, str, object]]:
    """Yield each module and name that holds a kernel or a function of one, and the pure twin."""
    twins = _twins()
    for module in _users():
        for name, value in list(vars(module).items()):
            if id(value) in twins:
                yield module, name, twins[id(value)]


def _twins() -> dict[int, object]:
    """Return the pure twin of each chosen kernel, and of each of its functions, by id."""
    twins: dict[int, object] = {id(chosen): pure for chosen, pure in PURE.items()}
    for chosen, pure in PURE.items():
        functions = (name for name in pure.__all__ if callable(getattr(pure, name)))
        twins |= {id(getattr(chosen, name)): getattr(pure, name) for name in functions}
    return twins


def _users() -> list[ModuleType]:
    """Return the modules of ours that may hold a kernel or a function of one."""
    ours = f"{distributed_comm.__name__}."
    kernels = _kernels.__name__
    return [
        module
        for name, module in list(sys.modules.items())
        if f"{name}.".startswith(ours) and not name.startswith(kernels)
    ]
