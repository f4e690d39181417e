"""Wherever a pickle lies in a message, its code runs only at a comm that trusts the sender."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from loops import until
from msgpack import packb
from peers import LOOPBACK, pair
from unpickling import no_unpickling

import distributed_comm as dc

protocol = pytest.importorskip("distributed.protocol")

each_transport = pytest.mark.parametrize("address", [LOOPBACK, "sentinel://127.0.0.1:0", "unix://"])


class Touch:
    """Its pickle, when it is opened, leaves a mark in the file system."""

    def __init__(self, path, ballast=None):
        self.path = path
        self.ballast = ballast

    def __reduce__(self):
        return touch, (self.path, self.ballast)


def touch(path, _ballast):
    Path(path).touch()


def unopened(header, *frames):
    return dc.Serialized(header, list(frames))


def collection(touch):
    """Return what Dask makes of a list, item by item."""
    return dc.Serialized(*protocol.serialize([np.arange(3), touch], iterate_collection=True))


def registered(kind, header, touch):
    """Return an object of a registered type in whose header something is pickled."""
    full = {"serializer": "dask", "type": kind, "sub-header": header, "type-serialized": b""}
    return unopened(full, bytes(8))


PLACES = {
    "in place": lambda t: t,
    "long": lambda t: Touch(t.path, bytes(9000)),
    "with buffers": lambda t: Touch(t.path, np.arange(9999)),
    "deep": lambda t: {"a": [(1, {2: [t]})]},
    "a key": lambda t: {t: 1},
    "in a set": lambda t: {t},
    "in a frozenset": lambda t: [frozenset([t])],
    "ToPickle": lambda t: {"x": dc.ToPickle([t])},
    "Serialize": lambda t: {"x": dc.Serialize(t)},
    "Serialize, long": lambda t: [dc.Serialize(Touch(t.path, bytes(9000)))],
    "an error reply": lambda t: {"status": "uncaught-error", "exception": dc.Serialize(t)},
    "in a collection": lambda t: [collection(t)],
    "a dtype": lambda t: registered(
        "numpy.ndarray",
        {"dtype": (1, pickle.dumps(t)), "shape": (1,), "strides": (8,), "writeable": (True,)},
        t,
    ),
    "a class": lambda t: unopened(
        {"serializer": "dask", "type": "no.Class", "type-serialized": pickle.dumps(t)}, b""
    ),
    "an array of objects": lambda t: np.array([t, None]),
    "passed on": lambda t: [dc.Pickled({"pickled-obj": pickle.dumps(t)}, [])],
    "with another key": lambda t: [dc.Pickled({"pickled-obj": pickle.dumps(t), "x": 1}, [])],
}


@each_transport
@pytest.mark.parametrize("place", PLACES)
def test_its_code_runs_only_where_trusted(run, kernels, tmp_path, address, place):
    mark = tmp_path / "mark"
    message = PLACES[place](Touch(str(mark)))

    async def main():
        for trusted, deserialize in ((False, True), (False, False), (True, False)):
            ends = {"trusted": (True, trusted), "deserialize": (True, deserialize)}
            async with pair(address, **ends) as (client, server):
                with no_unpickling():
                    await client.write(message)
                    await client.write("next")
                    if deserialize:
                        with pytest.raises((dc.UntrustedError, dc.MessageError)):
                            await server.read()
                    else:
                        await server.read()
                    assert await server.read() == "next"
                assert not mark.exists()
        async with pair(address, trusted=(True, True)) as (client, server):
            await client.write(message)
            try:
                await server.read()
            except dc.MessageError:  # what the pickle makes is no dtype, and no class
                assert place in {"a dtype", "a class"}
            await until(mark.exists)

    run(main())


@each_transport
def test_it_is_not_sent_to_one_who_is_not_trusted(run, tmp_path, address):
    async def main():
        async with pair(address) as (client, server):
            for place in PLACES.keys() - {"in a collection", "a dtype", "a class"}:
                message = PLACES[place](Touch(str(tmp_path / "mark")))
                if place in {"passed on", "with another key"}:
                    continue  # its sender was asked
                with pytest.raises(dc.UntrustedError, match="can only be sent as a pickle"):
                    await client.write(message)
            await client.write("next")
            assert await server.read() == "next"

    run(main())


def test_a_tag_alone_opens_nothing(run, tmp_path):
    """The bytes of a tag in what a user sends are bytes."""
    data = b"\x93\xc7\x00\xbd\x08" + packb(pickle.dumps(Touch(str(tmp_path / "mark"))))

    async def main():
        async with pair(trusted=(True, True)) as (client, server):
            for message in (data, [data], {data: (data,)}):
                await client.write(message)
                assert await server.read() == message

    run(main())
    assert not (tmp_path / "mark").exists()
