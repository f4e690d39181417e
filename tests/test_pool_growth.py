"""The work of a pool grows no faster than its load: steps are counted, not seconds."""

import asyncio
import sys

import pytest

import distributed_comm as dc
from distributed_comm._calls import checkout, pool, waiters
from distributed_comm._calls.waiters import MOST_PASSES
from distributed_comm.core import Comm

FEW, MANY, RATIO = 1_000, 10_000, 12
OURS = {module.__file__ for module in (checkout, pool, waiters)}


class Line(Comm):
    """A comm to nowhere."""

    local_address = "here"
    peer_address = "there"

    def __init__(self):
        self.open = True

    async def read(self, deserializers=None):
        raise NotImplementedError

    async def write(self, msg, serializers=None, on_error=None):
        raise NotImplementedError

    async def close(self):
        self.open = False

    def abort(self):
        self.open = False

    def closed(self):
        return not self.open


def steps(work, number):
    """Return how many lines of the pool and its parts a coroutine runs."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename not in OURS:
            return None
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        asyncio.run(work(number))
    finally:
        sys.settrace(before)
    return count


class Pool(dc.ConnectionPool):
    async def _dial(self, addr, timeout):
        return Line()


async def cancel_all(number):
    pool = Pool(limit=1)
    comm = await pool.connect("a")
    tasks = [asyncio.ensure_future(pool.connect("a")) for _ in range(number)]
    await asyncio.sleep(0)
    for task in reversed(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not pool._plan.waiters
    pool.reuse("a", comm)
    await pool.close()


async def serve_all(number):
    pool = Pool(limit=1)

    async def call(address):
        pool.reuse(address, await pool.connect(address))

    await asyncio.gather(*(call(f"{i % 7}") for i in range(number)))
    assert pool.open == 1
    await pool.close()


async def wait_for_others(number):
    """A comm comes back for one address while all others are waited for."""
    pool = Pool(limit=1)
    comm = await pool.connect("a")
    others = [asyncio.ensure_future(pool.connect(f"b{i}")) for i in range(number)]
    await asyncio.sleep(0)
    for _ in range(MOST_PASSES):
        mine = asyncio.ensure_future(pool.connect("a"))
        await asyncio.sleep(0)
        pool.reuse("a", comm)
        assert await mine is comm
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await pool.close()


async def use_many_addresses(number):
    pool = Pool(limit=number)
    comms = [(f"{i}", await pool.connect(f"{i}")) for i in range(number)]
    for i, (address, comm) in enumerate(comms):
        pool.reuse(address, comm)
        new = f"new {i}"
        pool.reuse(new, await pool.connect(new))
    for i in range(number):
        pool.remove(f"new {i}")
        pool.remove(f"{i}")
    assert pool.open == 0
    await pool.close()


async def close_all(number):
    pool = Pool(limit=2 * number)
    comms = [(f"{i}", await pool.connect(f"{i}")) for i in range(2 * number)]
    for address, comm in comms[:number]:
        pool.reuse(address, comm)
    await pool.close()
    assert all(comm.closed() for _, comm in comms)


WORKS = [cancel_all, serve_all, wait_for_others, use_many_addresses, close_all]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_steps_grow_no_faster_than_the_load(work):
    few, many = steps(work, FEW), steps(work, MANY)
    assert few > FEW
    assert many < RATIO * few
