"""Measure one busy comm beside thousands of idle ones: ``python bench/idle.py``.

Round trips of a small message on one comm, alone and beside ``--idle`` others of the same two
processes, in turn. Keepalive is 4 s for all instead of 20, so that the idle ones are looked
after, and pinged, during each measurement.
"""

import argparse
import asyncio
import json
import os
import resource
import secrets
import subprocess
import sys
from functools import partial
from statistics import median
from typing import Any

import distributed_comm as dc
from distributed_comm.bench import _certificate, _workloads
from distributed_comm.bench._processes import pinning
from distributed_comm.bench._systems import ours
from distributed_comm.bench._workloads import Batch, roundtrip

OPTIONS = dc.CommOptions(timeouts=dc.Timeouts(keepalive=4))
CROWD = 50  # that connect, or close, at once


async def serve(transport: str) -> None:
    """Answer everybody, until stdin ends."""
    handle = partial(_workloads.serve, roundtrip, ours)
    async with ours.listen(transport, "small", handle, OPTIONS) as address:
        print(address, flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def measure(address: str, idle: int, count: int) -> tuple[float, float]:
    """The p50 and p99 of round trips beside so many idle comms, in microseconds."""
    connect = partial(ours.connect, address, "small", OPTIONS)
    comms: list[Any] = []
    while len(comms) < idle:
        some = min(CROWD, idle - len(comms))
        comms += await asyncio.gather(*(connect() for _ in range(some)))
    sample = await roundtrip.drive(ours, connect, Batch(count))
    while comms:
        await asyncio.gather(*(comm.close() for comm in comms[-CROWD:]))
        del comms[-CROWD:]
    assert sample.p50_us is not None
    assert sample.p99_us is not None
    return sample.p50_us, sample.p99_us


async def dial(address: str, idle: int, count: int, rounds: int) -> None:
    """Print, for each round, what was measured alone and beside the idle ones."""
    for _ in range(rounds):
        alone, beside = [await measure(address, number, count) for number in (0, idle)]
        print(json.dumps([alone, beside]), flush=True)


def run() -> list[list[list[float]]]:
    """Measure in two processes, on a core each; what the client says."""
    pipe = subprocess.PIPE
    command = [sys.executable, __file__, *sys.argv[1:], "--side"]
    environment = {**os.environ, "DISTRIBUTED_COMM_KEY": secrets.token_hex()}
    with subprocess.Popen(
        [*command, "server"], stdin=pipe, stdout=pipe, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        client = [*command, server.stdout.readline().strip()]
        try:
            said = subprocess.run(client, stdout=pipe, text=True, check=True, env=environment)
        finally:
            server.kill()
    return [json.loads(line) for line in said.stdout.splitlines()]


def become(side: str, args: argparse.Namespace) -> None:
    """Be one of the two processes: the server, or the client of an address."""
    role = "server" if side == "server" else "client"
    os.sched_setaffinity(0, {(pinning() or {role: 0})[role]})
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if role == "server":
        dc.run(serve(args.transport))
    else:
        dc.run(dial(side, args.idle, args.count, args.rounds))


def show(found: list[list[list[float]]], transport: str, idle: int) -> None:
    """Print medians of the rounds, and of their ratios, which the machine disturbs less."""
    print(f"| {transport} | alone, µs | beside {idle:,}, µs | ratio |")
    print("|---|---:|---:|---:|")
    for index, name in enumerate(("p50", "p99")):
        alone, beside = (median(sides[which][index] for sides in found) for which in (0, 1))
        ratios = [beside[index] / alone[index] for alone, beside in found]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {alone:.0f} | {beside:.0f} | {spread} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--transport", default="tcp", help="or tls, unix (%(default)s)")
    parser.add_argument("--idle", type=int, default=5000, help="idle comms (%(default)s)")
    parser.add_argument("--count", type=int, default=60_000, help="round trips (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        become(args.side, args)
        return
    if args.transport == "tls":
        _certificate.publish()
    show(run(), args.transport, args.idle)


if __name__ == "__main__":
    main()
