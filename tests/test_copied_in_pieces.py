"""What has to be copied of a message is counted, and is copied while other threads run."""

import time
from array import array
from threading import Thread

import numpy as np
import pytest
from gates import gate_of
from hostile_arrays import layout

from distributed_comm._serialize.dask_frames import join_shards
from distributed_comm._serialize.type_registry import find
from distributed_comm._serialize.types import torch_tensors as tensors
from distributed_comm._serialize.types.buffers import PIECE
from distributed_comm._serialize.types.numpy_arrays import wrap_array
from distributed_comm.errors import MessageError

MIB = 1024**2

LONG = 128 * MIB


def copies():
    frame = memoryview(bytes(LONG))
    view = {"format": "B", "itemsize": 1, "shape": (LONG,), "writeable": (True,)}
    numbers = {"typecode": "b", "itemsize": 1}
    shards = dict(zip(("split-num-sub-frames", "split-offsets"), ((2,), (0,)), strict=True))
    yield "bytes", lambda gate: find(bytes).deserialize({}, [frame], gate)
    yield "bytearray", lambda gate: find(bytearray).deserialize({}, [frame], gate)
    yield "memoryview", lambda gate: find(memoryview).deserialize(view, [frame], gate)
    yield "array.array", lambda gate: find(array).deserialize(numbers, [frame], gate)
    yield (
        "ndarray",
        lambda gate: find(np.ndarray).deserialize(
            layout("|u1", LONG, writeable=(True,)), [frame], gate
        ),
    )
    yield "shards", lambda gate: join_shards(shards, [frame[: LONG // 2], frame[LONG // 2 :]], gate)


@pytest.mark.parametrize(
    "name", ["bytes", "bytearray", "memoryview", "array.array", "ndarray", "shards"]
)
def test_other_threads_run_while_much_is_copied(name):
    copy = dict(copies())[name]
    turns, ends = [0], [False]

    def other():
        while not ends[0]:
            turns[0] += 1
            time.sleep(0)

    thread = Thread(target=other)
    thread.start()
    try:
        while not turns[0]:
            time.sleep(0.001)
        before = turns[0]
        copy(gate_of(stranger=True, nbytes=LONG))
        during = turns[0] - before
    finally:
        ends[0] = True
        thread.join()
    assert during > 3


@pytest.mark.parametrize("name", [name for name, _ in copies()])
def test_copies_are_counted(name):
    copy = dict(copies())[name]
    with pytest.raises(MessageError, match=r"a copy of a frame would take \d+ bytes"):
        copy(gate_of(stranger=True, nbytes=1000))


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 4])
@pytest.mark.parametrize("cls", [bytes, bytearray])
def test_what_is_copied_in_pieces_is_the_same(cls, size):
    data = np.arange(size, dtype="u4").tobytes()[:size]
    arrived = find(cls).deserialize({}, [memoryview(data)], gate_of(stranger=True))
    assert type(arrived) is cls
    assert arrived == data
    numbers = {"typecode": "b", "itemsize": 1}
    assert find(array).deserialize(numbers, [data], gate_of(stranger=True)).tobytes() == data


class Torch:
    """As much of torch as is asked."""

    @staticmethod
    def from_numpy(array):
        return array


def test_the_copy_of_a_tensor_is_counted():
    header, frames = wrap_array(np.zeros(1000))
    header["sub-header"]["writeable"] = (False,)
    gate = gate_of(stranger=True, nbytes=8_000)
    assert tensors._unwrap(Torch, header, frames, gate).flags.writeable
    gate = gate_of(stranger=True, nbytes=0)
    gate.make(767 * 1024, "all the rest")
    with pytest.raises(MessageError, match="a tensor that could not be written to would take 8000"):
        tensors._unwrap(Torch, header, frames, gate)
