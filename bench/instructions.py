"""Count the instructions in user space of a round trip: ``python bench/instructions.py``.

Unlike times, they do not drift with the machine, so they show what a change of the code costs.
The benchmark's worker runs under callgrind with two numbers of round trips: what one of them
takes is the difference between the two totals over the difference between the numbers, and
whatever happens once cancels out.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed_comm.bench import certificates

ROOT = Path(__file__).parents[1]
FEW, MANY = 300, 2300
# Under callgrind everything takes fifty times as long, and Dask's default is 30 s.
PATIENCE = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "600s"}


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
def start(role: str, system: str, transport: str, profile: Path) -> Iterator[Worker]:
    """Run a worker under callgrind, which writes its profile when the context ends."""
    command = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={profile}"]
    command += [sys.executable, "-m", "distributed_comm.bench.worker", role, system]
    command += ["--transport", transport]
    environment = {**os.environ, **PATIENCE, "PYTHONHASHSEED": "0"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment
    ) as process:
        worker = Worker(process)
        yield worker
        worker.order(None)
        process.wait()


def count(system: str, transport: str, round_trips: int, folder: Path) -> dict[str, int]:
    """The instructions of both sides, from their start to their end."""
    profiles = {role: folder / f"{system}.{role}.{round_trips}" for role in ("server", "client")}
    with (
        start("server", system, transport, profiles["server"]) as server,
        start("client", system, transport, profiles["client"]) as client,
    ):
        address = server.answer()["roundtrip"]
        client.answer()
        batch = {"count": round_trips}
        client.order({"workload": "roundtrip", "address": address, "batch": batch})
        client.answer()
    return {role: total(profile) for role, profile in profiles.items()}


def total(profile: Path) -> int:
    """The number of instructions that a profile of callgrind accounts for."""
    found = re.search(r"^totals: (\d+)", profile.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"callgrind wrote no totals to {profile}")
    return int(found[1])


def measure(system: str, transport: str) -> dict[str, float]:
    """The instructions of one round trip on each side."""
    with tempfile.TemporaryDirectory() as folder:
        few, many = (count(system, transport, number, Path(folder)) for number in (FEW, MANY))
    return {role: (many[role] - few[role]) / (MANY - FEW) for role in few}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--systems", default="uvloop,distributed_comm", help="(%(default)s)")
    parser.add_argument("--transport", default="tcp", help="or tls (%(default)s)")
    args = parser.parse_args()
    systems, transport = args.systems.split(","), args.transport
    if transport == "tls":
        certificates.publish()
    # On one core the sides alternate strictly, and the counts repeat to within 0.1 %.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{'system':20}{'client':>10}{'server':>10}{'both':>10}{'ratio':>8}")
    first = 0.0
    for system in systems:
        sides = measure(system, transport)
        both = sum(sides.values())
        first = first or both
        print(
            f"{system:20}{sides['client']:10,.0f}{sides['server']:10,.0f}"
            f"{both:10,.0f}{both / first:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
