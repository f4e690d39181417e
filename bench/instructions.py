"""Count the instructions in user space of a round trip: ``python bench/instructions.py``.

Or of a call, ``--workload rpc``, or a connection, ``--workload connect``.

Unlike times, they do not drift with the machine, so they show what a change of the code costs.
The benchmark's worker runs under callgrind with two numbers of them: what one of them
takes is the difference between the two totals over the difference between the numbers, and
whatever happens once cancels out. With ``--strangers`` neither side trusts the other.
"""

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed_comm.bench import _certificate, _workloads

ROOT = Path(__file__).parents[1]
COUNTS = {"roundtrip": (300, 2300), "rpc": (300, 2300), "concurrent": (1280, 6400)}
COUNTS |= {"fanin": (1000, 5000), "connect": (20, 120)}
# Under callgrind everything takes fifty times as long, and Dask's default is 30 s.
PATIENCE = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "600s"}
KEY = {"DISTRIBUTED_COMM_KEY": secrets.token_hex()}
QUIET = {"OPENBLAS_NUM_THREADS": "1"}  # numpy's threads spin while they have no work


class Worker:
    """One side of one system, which takes and gives lines of JSON."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def order(self, order: object) -> None:
        assert self._process.stdin is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline() or "null")


@contextmanager
def start(
    role: str, system: str, transport: str, profile: Path, *, strangers: bool
) -> Iterator[Worker]:
    """Run a worker under callgrind, which writes its profile when the context ends."""
    command = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={profile}"]
    command += [sys.executable, "-m", "distributed_comm.bench._worker", role, system]
    command += ["--transport", transport]
    environment = {**os.environ, **PATIENCE, **KEY, **QUIET, "PYTHONHASHSEED": "0"}
    if strangers:
        environment["DISTRIBUTED_COMM_KEY"] = secrets.token_hex()  # a key of its own
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment
    ) as process:
        worker = Worker(process)
        yield worker
        worker.order(None)
        process.wait()


def count(
    system: str, transport: str, workload: str, number: int, folder: Path, *, strangers: bool
) -> dict[str, int]:
    """The instructions of both sides, from their start to their end."""
    profiles = {role: folder / f"{system}.{role}.{number}" for role in ("server", "client")}
    with (
        start("server", system, transport, profiles["server"], strangers=strangers) as server,
        start("client", system, transport, profiles["client"], strangers=strangers) as client,
    ):
        address = server.answer()[workload]
        client.answer()
        batch = {"count": number, "concurrency": _workloads.load(workload).SPEC.concurrency}
        client.order({"workload": workload, "address": address, "batch": batch})
        client.answer()
    return {role: total(profile) for role, profile in profiles.items()}


def total(profile: Path) -> int:
    """The number of instructions that a profile of callgrind accounts for."""
    found = re.search(r"^totals: (\d+)", profile.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"callgrind wrote no totals to {profile}")
    return int(found[1])


def measure(
    system: str, transport: str, workload: str, *, strangers: bool = False
) -> dict[str, float]:
    """The instructions of one round trip, or one connection, on each side."""
    fewer, more = COUNTS[workload]
    with tempfile.TemporaryDirectory() as folder:
        few, many = (
            count(system, transport, workload, number, Path(folder), strangers=strangers)
            for number in (fewer, more)
        )
    return {role: (many[role] - few[role]) / (more - fewer) for role in few}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--systems", default="uvloop,distributed_comm", help="(%(default)s)")
    parser.add_argument("--workload", default="roundtrip", choices=COUNTS, help="(%(default)s)")
    parser.add_argument("--transport", default="tcp", help="or tls, unix (%(default)s)")
    parser.add_argument("--strangers", action="store_true", help="neither side trusts the other")
    args = parser.parse_args()
    if args.transport == "tls":
        _certificate.publish()
    # On one core the sides alternate strictly, and the counts repeat to within 0.1 %.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{'system':20}{'client':>10}{'server':>10}{'both':>10}{'ratio':>8}")
    first = 0.0
    for system in args.systems.split(","):
        sides = measure(system, args.transport, args.workload, strangers=args.strangers)
        both = sum(sides.values())
        first = first or both
        print(
            f"{system:20}{sides['client']:10,.0f}{sides['server']:10,.0f}"
            f"{both:10,.0f}{both / first:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
