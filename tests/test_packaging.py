"""What an installation promises: its version, its types, and the choice of kernels."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import distributed_comm

#: Prints the kernels in use; with an argument, as if nothing had been compiled.
PROGRAM = """
import sys
if sys.argv[1:]:
    sys.modules["distributed_comm._kernels.framing_c"] = None
import distributed_comm
print(distributed_comm.kernels)
"""


def import_with(choice: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"DISTRIBUTED_COMM_EXTENSIONS": choice}
    command = [sys.executable, "-I", "-c", PROGRAM, *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_version_is_the_installed_one() -> None:
    assert distributed_comm.__version__ == version("distributed-comm")


def test_types_are_announced() -> None:
    assert Path(distributed_comm.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize("choice", ["no", "auto"])
def test_pure_kernels(choice: str) -> None:
    result = import_with(choice, "not compiled")
    assert result.stdout == "pure\n", result.stderr


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [("yes", "framing_c"), ("maybe", "expected 'yes', 'no' or 'auto'")],
)
def test_unusable_choice(choice: str, complaint: str) -> None:
    result = import_with(choice, "not compiled")
    assert result.returncode == 1
    assert "ImportError" in result.stderr or "ModuleNotFoundError" in result.stderr
    assert complaint in result.stderr


def test_one_program_of_two_processes() -> None:
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-I", "-W", "error", str(script), distributed_comm.kernels]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert "there and back" in result.stdout, result.stderr
