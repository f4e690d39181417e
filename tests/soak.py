"""Mixed load for as long as one likes: python tests/soak.py SECONDS, or make soak TIME=600.

A server in a process of its own, and every kind of call at once: short, slow, large, failing,
cancelled, streamed, batched, over comms that come and go. It passes when in the second half
of the time neither process needed more memory, descriptors or tasks than in the first.
"""

import asyncio
import gc
import logging
import os
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import distributed_comm as dc

#: Memory may grow by so much between the halves, in MiB: arenas and caches are not that exact.
SLACK = 24
SAMPLES = 40
FIGURES = ("MiB", "descriptors", "tasks")


def vitals() -> dict[str, float]:
    """Return what this process holds now."""
    gc.collect()
    fields = Path("/proc/self/statm").read_text().split()
    return {
        "MiB": int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
    }


# -- the server -------------------------------------------------------------------------------


async def slowly(x: Any, seconds: float) -> Any:
    await asyncio.sleep(seconds)
    return x


async def count(n: int) -> Any:
    for i in range(n):
        yield i


def fail(x: Any) -> None:
    raise KeyError(x)


async def serve() -> None:
    logging.disable(logging.CRITICAL)  # ten thousand exceptions are the point
    server = dc.Server(
        {"slowly": slowly, "count": count, "fail": fail, "vitals": vitals},
        stream_handlers={"note": lambda x: None},
    )
    server.listen("tcp://127.0.0.1:0")
    async with server:
        print(server.address, flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until the parent ends


# -- the load ---------------------------------------------------------------------------------


@dataclass
class Load:
    """What the clients do, and how often they have done it."""

    address: str
    remote: dc.rpc
    rng: random.Random
    done: dict[str, int]

    async def short(self) -> None:
        x = self.rng.random()
        assert await self.remote.echo(data=x) == x

    async def overlapping(self) -> None:
        calls = [self.remote.slowly(x=x, seconds=self.rng.random() / 100) for x in range(30)]
        assert await asyncio.gather(*calls) == list(range(30))

    async def large(self) -> None:
        data = bytes(self.rng.randrange(4 * 2**20))
        assert await self.remote.echo(data=data) == data

    async def failing(self) -> None:
        try:
            await self.remote.fail(x=1)
        except (KeyError, dc.RemoteError):  # the latter where there is no key
            return
        raise AssertionError("it did not fail")

    async def cancelled(self) -> None:
        call = asyncio.ensure_future(self.remote.slowly(x=1, seconds=self.rng.random() / 100))
        asyncio.get_running_loop().call_later(self.rng.random() / 100, call.cancel)
        await asyncio.wait([call])
        assert call.cancelled() or call.result() == 1

    async def streamed(self) -> None:
        enough = self.rng.randrange(100)
        items = self.remote.count.stream(n=50)
        expected = 0
        async for item in items:
            assert item == expected
            expected += 1
            if item == enough:
                await items.aclose()
                return

    async def reconnecting(self) -> None:
        async with dc.rpc(self.address) as remote:
            assert await remote.echo(data=1) == 1

    async def vanishing(self) -> None:
        comm = await dc.connect(self.address)
        await comm.write({"op": "slowly", "x": 1, "seconds": 0.01})
        comm.abort()

    async def batched(self) -> None:
        comm = await dc.connect(self.address)
        await comm.write({"op": "connection_stream", "reply": False})
        async with dc.BatchedSend("1 ms") as sender:
            sender.start(comm)
            for x in range(2_000):
                await sender.send({"op": "note", "x": x})

    async def within(self) -> None:
        server = dc.Server()
        server.listen("inproc://")
        async with server, dc.rpc(server.address) as remote:
            assert await remote.echo(data=self) is self

    def kinds(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            *(self.short, self.overlapping, self.large, self.failing, self.cancelled),
            *(self.streamed, self.reconnecting, self.vanishing, self.batched, self.within),
        ]


async def keep_doing(load: Load, what: Callable[[], Awaitable[None]]) -> None:
    name = getattr(what, "__name__", "?")
    while True:
        await what()
        load.done[name] = load.done.get(name, 0) + 1
        await asyncio.sleep(0)


async def soak(seconds: float, address: str) -> bool:
    """Load the server for so long; return whether both processes stayed as they were."""
    samples: list[tuple[dict[str, float], dict[str, float]]] = []
    async with dc.rpc(address, timeout=10) as remote:
        load = Load(address, remote, random.Random(1), {})
        workers = [asyncio.ensure_future(keep_doing(load, kind)) for kind in load.kinds() * 2]
        for _ in range(SAMPLES):
            done, _ = await asyncio.wait(
                workers, timeout=seconds / SAMPLES, return_when=asyncio.FIRST_COMPLETED
            )
            for worker in done:
                worker.result()  # none ends but by an exception
            samples.append((vitals(), await remote.vitals()))
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
    print(", ".join(f"{name} {number:,}" for name, number in sorted(load.done.items())))
    client, server = zip(*samples, strict=True)
    flat = report("client", client)
    return report("server", server) and flat


def report(side: str, samples: Sequence[dict[str, float]]) -> bool:
    """Print the figures of one side; return whether they stayed flat."""
    flat = True
    quarter = len(samples) // 4
    for figure in FIGURES:
        values = [sample[figure] for sample in samples]
        before = median(values[quarter : 2 * quarter])
        after = median(values[-quarter:])
        slack = SLACK if figure == "MiB" else max(8, before / 4)  # comms come and go
        good = after <= before + slack
        flat &= good
        verdict = "" if good else "  GROWS"
        print(f"{side:8}{figure:12}{before:8.0f} -> {after:8.0f}{verdict}")
    return flat


async def main(seconds: float) -> int:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "serve"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        address = (await process.stdout.readline()).decode().strip()
        return 0 if await soak(seconds, address) else 1
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        dc.run(serve())
    else:
        sys.exit(dc.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60)))
