"""A long message is decoded in a thread, and what was opened before that is not opened again."""

import asyncio

import numpy as np
import pytest
from calling import serve
from peers import pair

import distributed_comm as dc
from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.offload import Lengthy
from distributed_comm._serialize.settings import DumpOptions, LoadOptions

MIB = 1024 * 1024
calls = []


def count_up(array):
    """Change the memory that a pickle lies in, as an object's __setstate__ may."""
    calls.append(1)
    array += 1
    return array


class CountedUp:
    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return count_up, (self.array,)


def message(long):
    """Return a message whose long object comes between objects that do something."""
    counted = [CountedUp(np.zeros(n)) for n in (3, 700, 5, 9)]
    return [counted[0], dc.ToPickle(counted[1]), dc.Serialize(counted[2]), long, {"x": counted[3]}]


LONG = {
    "a pickle": dc.ToPickle(bytes(11 * MIB)),
    "a pickle by itself": dc.Serialize(bytearray(11 * MIB).decode()),
    "a pickle's buffer": dc.ToPickle(np.zeros(11 * MIB, "u1")),
}


def arrived(received):
    first, second, third, _, last = received
    return [array.tolist() for array in (first, second, third, last["x"])]


ONCE = [[1.0] * n for n in (3, 700, 5, 9)]


@pytest.mark.parametrize("long", LONG.values(), ids=LONG)
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://127.0.0.2:0"])
def test_over_a_comm_each_object_is_opened_once(run, kernels, address, long):
    calls.clear()

    async def main():
        async with pair(address, trusted=(True, True)) as (client, server):
            received, _ = await asyncio.gather(server.read(), client.write(message(long)))
            assert arrived(received) == ONCE
            assert len(calls) == 4
            await client.write("next")
            assert await server.read() == "next"

    run(main())


@pytest.mark.parametrize("long", LONG.values(), ids=LONG)
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://127.0.0.2:0"])
def test_pushed_each_object_is_opened_once(run, kernels, address, long):
    calls.clear()

    async def main():
        async with pair(address, trusted=(True, True)) as (client, server):
            got = asyncio.Queue()
            server.push(lambda message, error: got.put_nowait((message, error)))
            await client.write(message(long))
            await client.write("next")
            received, error = await got.get()
            assert error is None
            assert arrived(received) == ONCE
            assert len(calls) == 4
            assert await got.get() == ("next", None)

    run(main())


def test_a_request_is_opened_once_and_so_is_its_reply(run):
    calls.clear()

    def swap(a, b):
        assert a.tolist() == [1.0] * 3
        assert len(calls) == 1
        return message(b)

    async def main():
        async with serve({"swap": swap}, trusted=True) as (_, remote):
            reply = await remote.swap(a=CountedUp(np.zeros(3)), b=LONG["a pickle"])
            assert arrived(reply) == ONCE
            assert len(calls) == 1 + 4

    run(main())


@pytest.mark.parametrize("typed", [True, False])
def test_what_was_opened_comes_with_the_refusal(kernels, typed):
    frames = dumps(message(LONG["a pickle"]), DumpOptions(trusted=True, typed=typed, most=None))
    frames = [bytes(frames[0]), *map(bytearray, frames[1:])]
    calls.clear()
    with pytest.raises(Lengthy) as info:
        loads(frames, LoadOptions(trusted=True, typed=typed))
    assert len(info.value.opened) == len(calls) == 3
    again = loads(frames, LoadOptions(trusted=True, typed=typed, most=None), info.value.opened)
    assert arrived(again) == ONCE
    assert len(calls) == 4
