"""Send long messages between two processes: ``python bench/large.py``, ``--size`` in MiB.

For each message and side: the seconds that its `write` or `read` took, by how much the peak of
the process's memory rose meanwhile (Linux: ``VmHWM``), and how late a task was, at worst, that
wanted to run every 10 ms. A side is a process of its own and begins when both have connected.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

import distributed_comm as dc

MIB = 2**20
OPTIONS = dc.CommOptions(limits=dc.Limits(message=None))
TICK = 0.01

#: What is sent: of so many bytes, or for text and objects of one item for every 100 bytes.
MESSAGES: dict[str, Callable[[int], Any]] = {
    "array": lambda size: np.arange(size // 8),
    "ten arrays": lambda size: [np.arange(size // 80) for _ in range(10)],
    "table of numbers": lambda size: pd.DataFrame(
        {name: np.arange(size // 80, dtype="f8") for name in "abcdefghij"}
    ),
    "table of times": lambda size: pd.DataFrame(
        {name: np.arange(size // 16).astype(f"{name}8[ns]") for name in "mM"}
    ),
    "list of str": lambda size: [str(number) for number in range(size // 100)],
    "array of str objects": lambda size: np.array(
        [str(number) for number in range(size // 100)], dtype=object
    ),
}


def memory(key: str) -> float:
    """A figure of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def forget_peak() -> float:
    """Have the peak begin anew; return what the process has now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


async def tick(late: list[float]) -> None:
    while True:
        due = perf_counter() + TICK
        await asyncio.sleep(TICK)
        late.append(perf_counter() - due)


async def measure(work: Awaitable[Any]) -> dict[str, float]:
    """Seconds, MiB and milliseconds of one write or read."""
    late: list[float] = []
    ticking = asyncio.create_task(tick(late))
    await asyncio.sleep(10 * TICK)
    before, started = forget_peak(), perf_counter()
    await work
    seconds = perf_counter() - started
    await asyncio.sleep(2 * TICK)
    ticking.cancel()
    return {"s": seconds, "MiB": memory("VmHWM") - before, "ms late": 1000 * max(late)}


async def send(name: str, size: int, address: str) -> dict[str, float]:
    message = MESSAGES[name](size)
    async with await dc.connect(address, trusted=True, options=OPTIONS) as comm:
        await comm.read()
        figures = await measure(comm.write(message))
        await comm.read()
    return figures


async def receive() -> dict[str, float]:
    served: asyncio.Future[dc.Comm] = asyncio.get_running_loop().create_future()
    async with dc.listen(
        "tcp://127.0.0.1:0", served.set_result, trusted=True, options=OPTIONS
    ) as listener:
        print(listener.contact_address, flush=True)
        comm = await served
    reading = asyncio.create_task(measure(comm.read()))
    await asyncio.sleep(10 * TICK)
    await comm.write("ready")
    figures = await reading
    await comm.write("done")
    await comm.close()
    return figures


def run(name: str, size: int) -> dict[str, dict[str, float]]:
    """Measure one message; what its sender and its receiver say."""
    command = [sys.executable, __file__, "--size", str(size // MIB), "--only", name, "--side"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "receiver"], stdout=pipe, text=True) as receiver:
        assert receiver.stdout is not None
        address = receiver.stdout.readline().strip()
        sent = subprocess.run([*command, address], stdout=pipe, text=True, check=True).stdout
        return {"sender": json.loads(sent), "receiver": json.loads(receiver.stdout.read())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--size", type=int, default=1024, help="MiB of a message (%(default)s)")
    parser.add_argument("--only", default="", help="messages whose names contain this")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = args.size * MIB
    if args.side:
        core = {"receiver": max}.get(args.side, min)(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
        work = receive() if args.side == "receiver" else send(args.only, size, args.side)
        print(json.dumps(dc.run(work)))
        return
    print("| | side | s | MiB | ms late |\n|---|---|---:|---:|---:|")
    for name in MESSAGES:
        if args.only in name:
            for side, figures in run(name, size).items():
                cells = f"{figures['s']:.2f} | {figures['MiB']:,.0f} | {figures['ms late']:,.0f}"
                print(f"| {name} | {side} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
