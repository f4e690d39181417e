"""F1: numbers of a peer that would hurt whoever believed them close its connection, and only it."""

import asyncio
import re
import struct
import tracemalloc

import pytest
from peers import pack, pair, raw_pair

import distributed_comm as dc

LIMIT = 2**30


def header(block: int, count: int, *lengths: int) -> bytes:
    numbers = (block, count, *lengths)
    return struct.pack(f"<{len(numbers)}Q", *(number % 2**64 for number in numbers))


HOSTILE = {
    "F 0": header(0, 1, 10),
    "F 1": header(1, 1, 10),
    "N 0": header(8, 0),
    "F inside a frame": header(16 + 5, 1, 10),
    "F past the end": header(16 + 11, 1, 10),
    "the sum wraps around": header(24, 2, 2**63, 2**63),
    "the sum is too much": header(24 + 2**30 + 2, 2, 2**29 + 1, 2**29 + 1),
    **{
        f"L {length:#x}": header(16 + length, 1, length)
        for power in (31, 32, 63)
        for length in (2**power - 1, 2**power, 2**power + 1)
    },
    "L 2^30+1": header(16 + LIMIT + 1, 1, LIMIT + 1),
    "L 2^34": header(16 + 2**34, 1, 2**34),
    "L 2^64-1": header(16 + 2**64 - 1, 1, 2**64 - 1),
    **{
        f"N {count:#x}": header(8 * (1 + count), count)
        for count in (65_537, 2**31, 2**32 + 1, 2**60, 2**61 - 1, 2**61, 2**61 + 1, 2**64 - 1)
    },
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_numbers_close_that_connection_at_once(run, kernels, data):
    limited = dc.CommOptions(limits=dc.Limits(message=LIMIT))

    async def main():
        async with pair() as (client, server), raw_pair(options=limited) as (raw, comm):
            await raw.send(pack("before"))
            reading = asyncio.create_task(client.read())
            start = tracemalloc.get_traced_memory()[0]
            await raw.send(data)
            async with asyncio.timeout(1):
                assert await raw.is_cut()
            assert tracemalloc.get_traced_memory()[1] - start < 2**20
            assert await comm.read() == "before"
            for _ in range(2):
                with pytest.raises(dc.RemoteProtocolError) as caught:
                    await comm.read()
            text = str(caught.value)
            assert re.search(
                r"protocol error: a (message|first block) of (no|at least \d+|\d+) ", text
            )
            assert f"{comm.local_address} -> {comm.peer_address}" in text
            assert isinstance(caught.value.__cause__, ValueError)
            with pytest.raises(dc.RemoteProtocolError):
                await comm.write(1)
            await server.write("unharmed")
            assert await reading == "unharmed"

    tracemalloc.start()
    try:
        run(main())
    finally:
        tracemalloc.stop()


def test_a_limit_that_is_passed_is_named_beside_the_number(run, kernels):
    limited = dc.CommOptions(limits=dc.Limits(message=1_000, frames=10))

    async def main():
        for data, match in (
            (header(16 + 1_000, 2, 0, 1_001), "1001 bytes exceeds the limit of 1000"),
            (header(8 * 12, 11), "11 frames exceeds the limit of 10"),
        ):
            async with raw_pair(options=limited) as (raw, comm):
                await raw.send(data)
                with pytest.raises(dc.RemoteProtocolError, match=match):
                    await comm.read()

    run(main())
