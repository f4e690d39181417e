"""Where memory goes: an array leaves from its own memory and stays in what it arrived in."""

import asyncio
import copyreg
import json
import pickle
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from loops import LOOPS, needs_proc
from pandas.testing import assert_frame_equal
from peers import pair

from distributed_comm._serialize import pickles
from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions

MIB = 1024**2
TESTS = Path(__file__).parent

each_peer = pytest.mark.parametrize("typed", [True, False], ids=["ours", "dask"])


def memory(buffer):
    """Return the bytes of a frame as an array in the same place."""
    return np.frombuffer(buffer, "u1")


def frame_of_numbers(nbytes):
    rows = nbytes // 32
    return pd.DataFrame(
        {
            "i": np.arange(rows),
            "f": np.arange(rows, dtype="f8"),
            "t": np.arange(rows).astype("M8[ns]"),
            "d": np.arange(rows).astype("m8[ns]"),
        }
    )


MESSAGES = {
    "array": lambda size: np.arange(size // 8),
    "in Fortran's order": lambda size: np.asfortranarray(np.arange(size // 8).reshape(8, -1)),
    "of times": lambda size: np.arange(size // 8).astype("M8[s]"),
    "ten arrays": lambda size: [np.arange(size // 80) for _ in range(10)],
    "table": frame_of_numbers,
}


def parts(message):
    """Return the arrays that a message is made of."""
    if isinstance(message, list | tuple):  # a Dask peer makes no difference
        return list(message)
    if isinstance(message, pd.DataFrame):
        return [message[name].to_numpy() for name in message]
    return [message]


def equal(left, right):
    return all(map(np.array_equal, parts(left), parts(right)))


@each_peer
@pytest.mark.parametrize("name", MESSAGES)
def test_each_array_is_sent_from_its_own_memory_and_stays_where_it_was_received(name, typed):
    message = MESSAGES[name](4 * MIB)
    frames = dumps(message, DumpOptions(trusted=True, typed=typed))
    size = sum(part.nbytes for part in parts(message))
    assert size <= sum(memoryview(frame).nbytes for frame in frames) < size + 64 * 1024
    long = [memory(frame) for frame in frames if len(frame) > 64 * 1024]
    for part in parts(message):
        assert sum(np.shares_memory(part, place) for place in long) == 1
    received = [bytes(frames[0]), *map(bytearray, frames[1:])]
    arrived = loads(received, LoadOptions(trusted=True, typed=typed))
    assert equal(arrived, message)
    places = [memory(frame) for frame in received]
    for part in parts(arrived):
        assert part.flags.writeable or name == "table"  # pandas hands out none to write to
        assert sum(np.shares_memory(part, place) for place in places) == 1


@each_peer
def test_a_long_buffer_goes_in_one_piece(typed):
    array = np.zeros(200 * MIB, "u1")
    frames = dumps(array, DumpOptions(trusted=True, typed=typed, most=None))
    assert [len(frame) for frame in frames if len(frame) > 64 * 1024] == [array.nbytes]


@pytest.mark.parametrize("size", [100, 5_000, 70_000, 2_000_000])
def test_two_arrays_of_one_message_never_share_memory(run, size):
    async def main():
        async with pair(trusted=(True, True)) as (client, server):
            one = np.ones(size, "u1")
            writing = asyncio.create_task(client.write([one, one, {"x": one}]))
            first, second, third = await server.read()
            await writing
            arrays = [first, second, third["x"]]
            for number, array in enumerate(arrays):
                array[:] = number
            assert [array.tolist() == [n] * size for n, array in enumerate(arrays)] == [True] * 3

    run(main())


# -- times, which numpy does not lend ------------------------------------------------


def test_times_are_no_part_of_their_pickle():
    times = np.arange(10).astype("M8[us]").reshape(2, 5)
    for array in (times, times.T, times - times[0, 0], times.astype(">M8[s]"), times[:0]):
        data, buffers = pickles.dumps([array, array], trusted=True, protocol=5)
        assert len(buffers) == 1
        assert np.shares_memory(memory(buffers[0]), array) or not array.size
        received = [bytearray(buffer) for buffer in buffers]
        arrived, again = pickle.loads(data, buffers=received)  # as Dask does
        assert arrived is again
        assert (arrived.dtype, arrived.strides) == (array.dtype, array.strides)
        assert np.array_equal(arrived, array)
        assert arrived.flags.writeable
    data, buffers = pickles.dumps(times[:, ::2], trusted=True, protocol=5)
    assert np.array_equal(pickle.loads(data, buffers=buffers), times[:, ::2])


def test_times_that_cannot_be_written_to_arrive_so():
    times = np.arange(3).astype("M8[us]")
    times.flags.writeable = False
    data, buffers = pickles.dumps(times, trusted=True, protocol=5)
    assert not pickle.loads(data, buffers=buffers).flags.writeable


def test_who_has_registered_a_way_to_pickle_arrays_keeps_it():
    with mock.patch.dict(copyreg.dispatch_table, {np.ndarray: lambda array: (len, ("four",))}):
        data, _ = pickles.dumps(np.ones(3), trusted=True, protocol=5)
    assert pickle.loads(data) == 4


# -- between two processes -------------------------------------------------------------

BESIDE = 64 * MIB
SIZE = 128 * MIB  # that it holds for 1 GiB is for bench/ to show

SIDE = """
import asyncio, json, sys
sys.path.insert(0, {tests!r})
import distributed_comm as dc
from loops import LOOPS
from test_copies import MESSAGES, SIZE, equal

def memory(name):
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(name))
    return int(line.split()[1]) * 1024

def begin():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return memory("VmRSS")

async def send(address, name):
    message = MESSAGES[name](SIZE)
    async with await dc.connect(address, trusted=True) as comm:
        base = begin()
        await comm.write(message)
        peak = memory("VmHWM") - base
        await comm.read()
    return peak

async def receive(name):
    served = asyncio.get_running_loop().create_future()
    async with dc.listen("tcp://127.0.0.1:0", served.set_result, trusted=True) as listener:
        print(json.dumps(listener.contact_address), flush=True)
        comm = await served
    base = begin()
    message = await comm.read()
    peak = memory("VmHWM") - base
    assert equal(message, MESSAGES[name](SIZE))
    await comm.write("the same")
    await comm.close()
    return peak

name, *address = sys.argv[1:]
work = send(*address, name) if address else receive(name)
with asyncio.Runner(loop_factory=LOOPS[{loop!r}]) as runner:
    print(json.dumps(runner.run(work)))
"""


@needs_proc
@pytest.mark.timeout(120)  # it takes two seconds, and more where the machine has no memory ready
@pytest.mark.parametrize("name", ["array", "ten arrays", "table"])
def test_a_long_message_takes_its_size_at_the_receiver_and_nothing_at_the_sender(name):
    script = SIDE.format(tests=str(TESTS), loop=list(LOOPS)[-1])
    command = [sys.executable, "-c", script, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        try:
            address = json.loads(receiver.stdout.readline())
            sender = subprocess.run(
                [*command, address], capture_output=True, text=True, check=False
            )
            assert (sender.returncode, sender.stderr) == (0, "")
            sent, received = json.loads(sender.stdout), json.loads(receiver.stdout.readline())
        finally:
            receiver.kill()
    assert sent <= BESIDE
    assert SIZE - MIB < received <= SIZE + BESIDE


def test_a_table_arrives_equal():
    table = frame_of_numbers(MIB)
    frames = [bytearray(frame) for frame in dumps(table, DumpOptions(trusted=True))]
    assert_frame_equal(loads(frames, LoadOptions(trusted=True)), table)
