"""One side of one system in a process of its own, which obeys the runner.

``python -m distributed_comm.bench._worker server|client SYSTEM``. Orders come in on stdin and
answers go out on stdout, a line of JSON each. A worker that is ready says at which address it
serves each workload, if any. A client answers ``{"workload": …, "address": …, "batch": …}`` with
the fields of a `Sample`, or with ``{"error": …}``. The order ``null`` ends a worker properly; the
end of stdin means that the runner was killed, and ends it at once, whatever it does.
"""

import argparse
import asyncio
import json
import os
import threading
import traceback
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from distributed_comm.bench import _systems, _workloads
from distributed_comm.bench._systems import System
from distributed_comm.bench._workloads import Batch

Orders = asyncio.Queue[dict[str, Any] | None]


def main() -> None:
    """Become the side that the command line says, until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m distributed_comm.bench._worker")
    parser.add_argument("role", choices=("server", "client"))
    parser.add_argument("system", choices=tuple(_systems.MODULES))
    parser.add_argument("--transport", default="tcp")
    parser.add_argument("--cpu", type=int, help="the only core to run on")
    args = parser.parse_args()
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})  # first: threads inherit it
    try:
        system = _systems.load(args.system)
    except ImportError as exc:
        parser.exit(1, f"{args.system} is not installed: {exc}\n")
    serves = (args.role == "client") == (args.transport in _systems.IN_ONE_PROCESS)
    system.run(_work(system, args.transport if serves else None))


async def _work(system: System, transport: str | None) -> None:
    orders = _listen_to_runner()
    async with _listening(system, transport) as addresses:
        _say(addresses)
        while (order := await orders.get()) is not None:
            try:
                _say(await _obey(system, order))
            except Exception:  # the runner says what failed and why, and ends everything
                _say({"error": traceback.format_exc()})


async def _obey(system: System, order: dict[str, Any]) -> dict[str, Any]:
    workload = _workloads.load(order["workload"])
    connect = partial(system.connect, order["address"], workload.SPEC.kind)
    return asdict(await workload.drive(system, connect, Batch(**order["batch"])))


@asynccontextmanager
async def _listening(system: System, transport: str | None) -> AsyncIterator[dict[str, str]]:
    """Serve every workload that the system can run; the value is their addresses."""
    async with AsyncExitStack() as stack:
        addresses = {}
        for name in _workloads.NAMES:
            workload = _workloads.load(name)
            kind = workload.SPEC.kind
            if kind in system.KINDS and transport in system.TRANSPORTS:
                serve = partial(_workloads.serve, workload, system)
                listening = system.listen(transport, kind, serve)
                addresses[name] = await stack.enter_async_context(listening)
        yield addresses


def _listen_to_runner() -> Orders:
    loop, orders = asyncio.get_running_loop(), Orders()

    def listen() -> None:
        # Unbuffered: a thread that waits inside sys.stdin holds a lock that the exit needs.
        with open(0, "rb", buffering=0, closefd=False) as stdin:
            for line in stdin:
                loop.call_soon_threadsafe(orders.put_nowait, json.loads(line))
        os._exit(1)

    # A thread, so that the end of stdin is noticed while a blocking system runs, too.
    threading.Thread(target=listen, daemon=True).start()
    return orders


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
