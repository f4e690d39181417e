"""Frames of Dask's own: the same bytes where both use msgpack alone, read by either side else."""

import threading
import uuid

import numpy as np
import pytest
from hypothesis import given
from messages import PLAIN, Point, plain, tag

from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
from distributed_comm._serialize.wrappers import Serialized
from distributed_comm.errors import UnserializableError

protocol = pytest.importorskip("distributed.protocol")
core = pytest.importorskip("distributed.core")

TRUSTING = DumpOptions(trusted=True)
TRUSTED = LoadOptions(trusted=True)


@pytest.mark.parametrize("msg", PLAIN, ids=repr)
def test_a_plain_message_has_the_bytes_that_dask_gives_it(kernels, msg):
    assert dumps(msg) == protocol.dumps(msg)


# Dask imports enums of its own packages only.
@given(msg=plain.filter(lambda msg: "SafeUUID" not in repr(msg)))
def test_any_plain_message_has_the_bytes_that_dask_gives_it(kernels, msg):
    frames = dumps(msg)
    assert frames == protocol.dumps(msg)
    assert tag(protocol.loads(frames)) == tag(loads(frames)) == tag(msg)


@pytest.mark.parametrize("msg", [Point(1), uuid.UUID(int=5), ({1}, range(3)), {Point(2)}])
def test_a_pickled_message_is_read_by_either_side(kernels, msg):
    assert protocol.loads(dumps(msg, TRUSTING)) == msg
    assert loads(protocol.dumps(msg), TRUSTED) == msg


def test_dask_reads_the_integers_that_it_cannot_send(kernels):
    assert protocol.loads(dumps([2**64], TRUSTING)) == (2**64,)
    with pytest.raises(OverflowError):
        protocol.dumps([2**64])


@pytest.mark.parametrize("array", [np.arange(10), np.eye(3).T, np.array([]), np.array(["a", None])])
def test_an_array_in_a_plain_message_is_read_by_either_side(kernels, array):
    assert np.array_equal(protocol.loads(dumps({"x": array}, TRUSTING))["x"], array)
    assert np.array_equal(loads(protocol.dumps({"x": array}), TRUSTED)["x"], array)


def test_an_enum_member_is_read_by_either_side():
    member = core.Status.running
    assert dumps({"a": member}) == protocol.dumps({"a": member})
    assert loads(protocol.dumps([member])) == protocol.loads(dumps([member])) == (member,)


@pytest.mark.parametrize(("longest", "shards"), [(8000, 1), (2000, 4)])
def test_a_pickle_in_serialize_is_read_with_its_buffers_cut_or_whole(longest, shards):
    point = Point(np.arange(1000.0))
    frames = protocol.dumps({"x": protocol.Serialize(point)}, frame_split_size=longest)
    assert len(frames) == 3 + shards
    assert np.array_equal(loads(frames, TRUSTED)["x"].x, point.x)


def test_what_dask_cannot_serialize_arrives_as_its_error():
    frames = protocol.dumps([protocol.Serialize(threading.Lock())])
    with pytest.raises(UnserializableError, match=r"object of type lock\\nTraceback"):
        loads(frames)


@pytest.mark.parametrize("obj", [np.arange(10), [np.arange(3), b"ab"], Point(1), b"bytes"])
def test_what_is_passed_on_unopened_is_opened_by_dask(obj):
    frames = protocol.dumps({"a": protocol.Serialize(obj), "b": [protocol.Serialize(2)]})
    msg = loads(frames, LoadOptions(deserialize=False))
    assert isinstance(msg["a"], Serialized)
    again = protocol.loads(dumps(msg))
    assert again["b"] == (2,)
    assert repr(again["a"]) == repr(obj) or again["a"] == obj
