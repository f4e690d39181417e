"""python -m distributed_comm.bench: what it writes, and that it leaves no process behind."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import distributed_comm
from distributed_comm.bench import _processes, _report, _runner
from distributed_comm.bench._results import Case, Result
from distributed_comm.bench._runner import Effort
from distributed_comm.bench._workloads import Sample

COMMAND = [sys.executable, "-m", "distributed_comm.bench"]
SHORT = ["--seconds", "0.01", "--rounds", "1"]
PROC = Path("/proc")

needs_proc = pytest.mark.skipif(not (PROC / "self/stat").exists(), reason="reads /proc")


def bench(*args: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, *SHORT, *args],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


# What it writes


def test_json(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = bench("--json", str(file))
    assert done.returncode == 0, done.stderr

    document = json.loads(file.read_text())
    assert document["schema"] == 1
    assert document["meta"]["kernels"] in {"compiled", "pure"}
    assert document["meta"]["versions"].keys() >= {"distributed_comm", "msgpack", "numpy", "uvloop"}
    rows = [(r["workload"], r["size"]) for r in document["results"]]
    expected = ["roundtrip", "oneway", *["bandwidth"] * 3, "connect"]
    assert [workload for workload, _ in rows[::3]] == expected
    assert [size for _, size in rows[::3]] == [None, None, 65536, 2**20, 2**26, None]
    for result in document["results"]:
        assert result.keys() == {
            *("workload", "system", "transport", "size", "concurrency"),
            *("unit", "runs", "median", "p50_us", "p99_us"),
        }
        assert len(result["runs"]) == 1
        assert result["median"] == result["runs"][0] > 0
        assert (result["p99_us"] is not None) == (result["workload"] in {"roundtrip", "connect"})


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
def test_unix(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    workloads = "roundtrip,bandwidth,connect"
    done = bench("--json", str(file), "--transport", "unix", "--workload", workloads)
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())["results"]
    assert {r["system"] for r in results} == {"distributed_comm", "socket", "uvloop"}
    assert {r["transport"] for r in results} == {"unix"}


def test_inproc(tmp_path: Path) -> None:
    """The client is its own server, and who has no such transport is left out of the table."""
    file = tmp_path / "bench.json"
    systems = "distributed_comm,socket,uvloop,dask"
    done = bench("--json", str(file), "--transport", "inproc", "--systems", systems)
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())["results"]
    assert {r["system"] for r in results} == {"distributed_comm", "dask"}
    assert {r["transport"] for r in results} == {"inproc"}


def test_tls(tmp_path: Path) -> None:
    """Server and client find the certificate of the run, each system in its own way."""
    pytest.importorskip("cryptography")
    file = tmp_path / "bench.json"
    systems = "distributed_comm,uvloop,dask"
    arguments = ["--transport", "tls", "--workload", "roundtrip,bandwidth", "--systems", systems]
    done = bench("--json", str(file), *arguments)
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())["results"]
    assert {r["system"] for r in results} == set(systems.split(","))
    assert {r["transport"] for r in results} == {"tls"}


@needs_proc
def test_memory() -> None:
    case = Case("memory", "distributed_comm", "tcp", 64 * 2**20)
    with _processes.start(["distributed_comm"], "tcp") as stage:
        grown = stage.measure(case, 1).figure
    assert 60 < grown < 100


def test_plain_python(tmp_path: Path) -> None:
    """Without the optional libraries there is a plain table, and bytes instead of arrays."""
    for library in ("distributed", "matplotlib", "numpy", "rich"):
        (tmp_path / f"{library}.py").write_text("raise ImportError('not here')")
    file = tmp_path / "bench.json"
    blocked = {"PYTHONPATH": str(tmp_path)}
    done = bench("--json", str(file), "--workload", "bandwidth", environment=blocked)
    assert done.returncode == 0, done.stderr
    headline, table = done.stdout.split("\n", 1)
    assert headline.startswith("distributed_comm ")
    assert table.startswith("workload ")
    assert json.loads(file.read_text())["meta"]["arrays"] == "bytes"

    done = bench("--systems", "dask", environment=blocked)
    assert done.returncode == 1
    assert "dask is not installed" in done.stderr


@pytest.mark.parametrize("choice", ["yes", "no"])
def test_the_line_above_the_table_says_what_runs(choice: str) -> None:
    """Otherwise nobody would see that kernels which were not compiled are what is measured."""
    if choice == "yes":
        pytest.importorskip("distributed_comm._kernels.address_c", exc_type=ImportError)
    environment = {"DISTRIBUTED_COMM_EXTENSIONS": choice}
    arguments = "--workload", "roundtrip", "--systems", "distributed_comm"
    done = bench(*arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[0]
    kernels = {"yes": "compiled", "no": "pure"}[choice]
    assert f"distributed_comm {distributed_comm.__version__}, {kernels} kernels, on " in line
    assert f"; Python {platform.python_version()}, " in line


@pytest.mark.parametrize("args", [("--systems", "socket,shout"), ("--json", "no/such/folder/x")])
def test_wrong_arguments(args: tuple[str, str]) -> None:
    done = bench(*args)
    assert done.returncode == 2
    assert args[0] in done.stderr


# It leaves no process behind


@needs_proc
@pytest.mark.parametrize("system", ["distributed_comm", "socket"])
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_ends_with_its_parent(system: str, end: signal.Signals) -> None:
    with measuring(system) as (parent, children):
        parent.send_signal(end)
        assert parent.wait(20) == (130 if end == signal.SIGINT else -signal.SIGKILL)
        until(lambda: not any(map(alive, children)))


@needs_proc
@pytest.mark.parametrize("role", [0, 1])
def test_a_killed_worker_ends_the_run(role: int) -> None:
    with measuring("uvloop") as (parent, children):
        os.kill(children[role], signal.SIGKILL)
        assert parent.wait(20) == 1
        until(lambda: not any(map(alive, children)))


@contextmanager
def measuring(system: str) -> Iterator[tuple[subprocess.Popen, list[int]]]:
    """A benchmark in the middle of a run, and the processes that it started."""
    command = [*COMMAND, "--systems", system, "--workload", "roundtrip", "--seconds", "40"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as parent:
        try:
            until(lambda: len(children_of(parent.pid)) == 2)
            children = children_of(parent.pid)
            until(lambda: all(sleeps(child) > 2000 for child in children))
            yield parent, children
        finally:
            parent.kill()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def alive(pid: int) -> bool:
    fields = stat(pid)
    return fields is not None and fields[0] != "Z"


def children_of(pid: int) -> list[int]:
    pids = sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    return [child for child in pids if (fields := stat(child)) and int(fields[1]) == pid]


def sleeps(pid: int) -> int:
    """How often the threads of a process waited, all together: about once a round trip."""
    switches = 0
    for file in (PROC / str(pid) / "task").glob("*/status"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            text = file.read_text()
            switches += int(re.search(r"\bvoluntary_ctxt_switches:\s+(\d+)", text)[1])
    return switches


# The order of things, and the table


class Clockwork:
    """A stage whose every message takes a millisecond on ``a`` and two on ``b``."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []

    def measure(self, case: Case, count: int) -> Sample:
        self.runs.append((case.system, count))
        seconds = count * {"a": 0.001, "b": 0.002}[case.system]
        return Sample(figure=count / seconds, seconds=seconds)


ROW = [Case("oneway", system, "tcp", None) for system in "ab"]


def test_systems_take_turns() -> None:
    stage, steps = Clockwork(), []
    effort = Effort(seconds=0.4, rounds=3)
    results = _runner.measure(stage, ROW, effort, steps.append)
    assert stage.runs[-6:] == [
        *[("a", 400), ("b", 200)],
        *[("b", 200), ("a", 400)],
        *[("a", 400), ("b", 200)],
    ]
    assert len(steps) == 2 * (1 + 3)
    assert [result.median for result in results] == pytest.approx([1000, 500])


def test_ratios() -> None:
    floor, bare, ours = (
        Result(Case("oneway", system, "tcp", None), "1/s", (figure,), figure, 1.5, None)
        for system, figure in [("socket", 400), ("uvloop", 100), ("distributed_comm", 200)]
    )
    line = dict(zip(_report.COLUMNS, _report.cells(ours, [floor, bare, ours]), strict=True))
    assert line["/ socket"] == "0.50"
    assert line["/ uvloop"] == "2.00"
    assert (line["p50 µs"], line["p99 µs"]) == ("1.5", "")
    alone = dict(zip(_report.COLUMNS, _report.cells(ours, [ours]), strict=True))
    assert alone["/ socket"] == ""
