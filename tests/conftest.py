"""What every test file may use: both kernels, and hypothesis without a stopwatch.

No test reads or makes a key in the home of who runs it: here and in every process that a
test starts there is none, and what looks for one looks in a folder that is thrown away.
"""

import os
from importlib import import_module
from pkgutil import walk_packages
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from switching import places

from distributed_comm import _kernels, _logs

_home = TemporaryDirectory()  # removed when pytest ends
os.environ |= {"DISTRIBUTED_COMM_KEY": "", "XDG_CONFIG_HOME": _home.name}
os.environ.pop("DISTRIBUTED_COMM_KEY_FILE", None)

pytest_plugins = ["loops", "schemes"]

# A slow machine is no failure; `timeout` in pyproject.toml catches what hangs.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

# What loads on first use would otherwise be loaded in a test, past the patching.
for _package in ("_serialize", "_transports", "_wire"):
    _folder = import_module(f"distributed_comm.{_package}")
    for _found in walk_packages(_folder.__path__, f"{_folder.__name__}."):
        import_module(_found.name)


#: Files of tests that take minutes: memory, CPU and crowds, measured in processes of their own.
#: Their figures are promised of the compiled kernels, so `.ci/run` runs them once.
LONG = {
    "test_bench", "test_call_leaks", "test_copies", "test_costly_arrays",
    "test_costly_arrays_received", "test_costly_messages", "test_crowds", "test_fuzz",
    "test_hostile_arrow", "test_huge", "test_idle", "test_imports", "test_strangers_crowd",
}  # fmt: skip
LONG_TESTS = {
    "test_connecting_and_closing_2000_times_takes_no_memory",
    "test_whatever_is_repeated_decodes_in_little_memory_or_is_refused",
    "test_who_calls_without_pause_gets_half_of_its_answers_at_least",
    "test_who_is_trusted_gets_in_while_strangers_flood",
}


def pytest_collection_modifyitems(items):
    for item in items:
        name = getattr(item, "originalname", item.name)
        if item.path.stem in LONG or name in LONG_TESTS:
            item.add_marker("long")


# "class" is the lifetime of one test outside a class. Of "function" hypothesis warns,
# since its examples share the fixture, and which kernel is used is theirs to share.
@pytest.fixture(params=dict.fromkeys([_kernels.kind, "pure"]), scope="class")
def kernels(request):
    """Run the test over each kernel there is; its value is "compiled" or "pure"."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != _kernels.kind:
            for module, name, pure in list(places()):
                patch.setattr(module, name, pure)
        yield request.param


@pytest.fixture(autouse=True, scope="class")
def log_of_its_own():
    """Have no test miss lines because another one has just caused many."""
    _logs._dialled.log = _logs.StrangersLog("that this process has dialled")
