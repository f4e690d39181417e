"""Every module imports alone, without a warning, and importing does nothing else."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import distributed_comm

FOLDER = Path(distributed_comm.__file__).parent

#: Libraries that only extras bring: importing the package loads none of them.
OPTIONAL = ["aiofastnet", "cramjam", "cryptography", "distributed", "lz4", "matplotlib", "numpy"]
OPTIONAL += ["pandas", "pyarrow", "rich", "scipy", "torch", "zstandard"]

SIDE_EFFECTS = """
import asyncio, json, os, sys, threading

did = []
watched = ("socket.", "subprocess.", "os.fork", "os.exec", "os.putenv", "os.mkdir")
sys.addaudithook(lambda event, args: did.append(event) if event.startswith(watched) else None)
files = os.listdir("/proc/self/fd")

import distributed_comm

did += [f"thread {thread.name}" for thread in threading.enumerate()[1:]]
did += [f"file {fd}" for fd in os.listdir("/proc/self/fd") if fd not in files]
did += ["event loop policy"] if asyncio.events._event_loop_policy else []
did += sys.modules.keys() & set(sys.argv[1:])
print(json.dumps(did))
"""


def run_alone(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-W", "error", "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_every_module_imports_alone() -> None:
    files = sorted(file.relative_to(FOLDER.parent).with_suffix("") for file in FOLDER.rglob("*.py"))
    modules = [".".join(file.parts).removesuffix(".__init__") for file in files]
    with ThreadPoolExecutor() as pool:
        results = pool.map(run_alone, (f"import {module}" for module in modules))
    failed = [f"{m}: {r.stderr}" for m, r in zip(modules, results, strict=True) if r.returncode]
    assert not failed, "\n".join(failed)


STRANGER = """
import sys
from msgpack import packb
from distributed_comm._serialize.decode import loads

libraries = lambda: {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
before = libraries()
header = {"serializer": "dask", "sub-header": {}, "num-sub-frames": 1}
header |= {"type": sys.argv[1], "compression": [sys.argv[2]]}
try:
    loads([packb({"__Serialized__": 1}), packb(header), bytearray(20)])
except (TypeError, ValueError):
    print(*libraries() - before)
"""


@pytest.mark.parametrize(
    ("name", "codec", "imported"),
    [
        ("bytearray", "zstd", "zstandard"),
        ("bytearray", "lz4", "lz4"),
        ("bytearray", "snappy", "cramjam"),
        ("bytearray", "numpy", ""),
        ("numpy.ndarray", "zstd", ""),
        ("torch.Tensor", "zstd", ""),
        ("nobody.Knows", "zstd", ""),
    ],
)
def test_a_stranger_has_the_library_of_a_codec_imported_and_no_other(name, codec, imported):
    result = run_alone(STRANGER, name, codec)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == imported


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_importing_does_nothing_else() -> None:
    result = run_alone(SIDE_EFFECTS, *OPTIONAL)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []
