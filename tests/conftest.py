"""What every test file may use: both kernels, and hypothesis without a stopwatch.

No test reads or makes a key in the home of who runs it: here and in every process that a
test starts there is none, and what looks for one looks in a folder that is thrown away.
"""

import os
import sys
from importlib import import_module
from pkgutil import walk_packages
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
from hypothesis import settings

import distributed_comm
from distributed_comm import _kernels

_home = TemporaryDirectory()  # removed when pytest ends
os.environ |= {"DISTRIBUTED_COMM_KEY": "", "XDG_CONFIG_HOME": _home.name}

pytest_plugins = ["loops", "schemes"]

# A slow machine is no failure; `timeout` in pyproject.toml catches what hangs.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

#: The chosen kernels and their twins: the same ones where nothing is compiled.
PURE = {
    getattr(_kernels, name): import_module(f"{_kernels.__name__}.{name}_py")
    for name in _kernels.__all__
    if isinstance(getattr(_kernels, name), ModuleType)
}

# What loads on first use would otherwise be loaded in a test, past the patching.
for _package in ("serialize", "transports", "wire"):
    _folder = import_module(f"distributed_comm.{_package}")
    for _found in walk_packages(_folder.__path__, f"{_folder.__name__}."):
        import_module(_found.name)


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


# "class" is the lifetime of one test outside a class. Of "function" hypothesis warns,
# since its examples share the fixture, and which kernel is used is theirs to share.
@pytest.fixture(params=dict.fromkeys([_kernels.kind, "pure"]), scope="class")
def kernels(request):
    """Run the test over each kernel there is; its value is "compiled" or "pure"."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != _kernels.kind:
            twins = _twins()
            for module in _users():
                for name, value in list(vars(module).items()):
                    if id(value) in twins:
                        patch.setattr(module, name, twins[id(value)])
        yield request.param
