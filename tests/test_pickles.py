"""What goes as a pickle: whole, without copies, and never opened for a stranger."""

import gc
import pickle
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from msgpack import packb
from peers import pair
from unpickling import no_unpickling

from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
from distributed_comm.errors import MessageError, UnserializableError, UntrustedError

TRUSTING = DumpOptions(trusted=True)
TRUSTED = LoadOptions(trusted=True)
ROOT = Path(__file__).parents[1]


def there_and_back(obj):
    return loads(dumps(obj, TRUSTING), TRUSTED)


SCRIPT = """
import pickle, sys
from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions

class Point:
    def __init__(self, x):
        self.x = x
    def doubled(self):
        return 2 * self.x

if sys.argv[1] == "write":
    frames = dumps(Point(21), DumpOptions(trusted=True))
    sys.stdout.buffer.write(pickle.dumps([*map(bytes, frames)]))
else:
    point = loads(pickle.loads(sys.stdin.buffer.read()), LoadOptions(trusted=True))
    print(point.doubled(), type(point).__name__, isinstance(point, Point))
"""


def test_a_class_of_main_arrives_as_another_class_that_does_the_same():
    written = subprocess.run(
        [sys.executable, "-c", SCRIPT, "write"], capture_output=True, check=True
    )
    command = [sys.executable, "-c", SCRIPT, "read"]
    read = subprocess.run(command, input=written.stdout, capture_output=True, check=True)
    assert read.stdout.decode().split() == ["42", "Point", "False"]


# -- arrays -------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_is_neither_copied_out_nor_in(kernels, order):
    array = np.arange(1000.0).reshape(10, 100).copy(order)
    frames = dumps({"x": [array]}, TRUSTING)
    assert np.shares_memory(np.frombuffer(frames[2], np.uint8), array)
    received = [
        bytes(frame) if index < 2 else bytearray(frame) for index, frame in enumerate(frames)
    ]
    arrived = loads(received, TRUSTED)["x"][0]
    assert np.array_equal(arrived, array)
    assert np.shares_memory(np.frombuffer(received[2], np.uint8), arrived)
    assert arrived.flags.writeable


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize(
    "array",
    [np.arange(20)[::2], np.zeros((0, 3)), np.array([{1}, None]), np.array(["ab", "c"])],
    ids=["with gaps", "empty", "of objects", "of str"],
)
def test_every_array_arrives_under_every_protocol(array, protocol):
    frames = dumps(array, DumpOptions(trusted=True, pickle_protocol=protocol))
    assert np.array_equal(loads(frames, TRUSTED), array)
    assert protocol == 5 or len(frames) == 2


def test_arrays_of_a_message_that_failed_are_let_go():
    array = np.ones(10)
    alive = weakref.ref(array)
    gc.disable()
    try:
        with suppress(TypeError):
            dumps([array, threading.Lock()], TRUSTING)
        del array
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("writeable", [True, False])
def test_a_buffer_in_serialize_can_be_written_to_where_the_sender_could(writeable):
    array = np.arange(10)
    array.flags.writeable = writeable
    buffers = []
    data = pickle.dumps(array, protocol=5, buffer_callback=buffers.append)
    header = {"serializer": "pickle", "writeable": [writeable], "num-sub-frames": 2}
    for whole in (bytearray(buffers[0]), bytes(buffers[0])):
        arrived = loads([packb({"__Serialized__": 1}), packb(header), data, whole], TRUSTED)
        assert arrived.flags.writeable == writeable
        assert np.array_equal(arrived, array)


def test_shards_of_a_buffer_are_joined():
    data = pickle.dumps(pickle.PickleBuffer(bytearray(b"one two")), 5, buffer_callback=[].append)
    header = {
        "serializer": "pickle",
        "writeable": [True],
        "split-num-sub-frames": [1, 2],
        "split-offsets": [0, 1],
        "num-sub-frames": 3,
    }
    frames = [packb({"__Serialized__": 1}), packb(header), data, b"one ", bytearray(b"two")]
    assert loads(frames, TRUSTED) == b"one two"
    for wrong in ({"split-offsets": [0, 2]}, {"split-offsets": [0, -2]}, {"split-offsets": [0]}):
        frames[1] = packb({**header, **wrong})
        with pytest.raises(MessageError):
            loads(frames, TRUSTED)
        with pytest.raises(UntrustedError):  # before anything is joined
            loads(frames)


# -- what can be pickled, and what cannot -------------------------------------------


def test_lambdas_and_local_classes_arrive():
    class Local:
        attribute = 3

    double, kind = there_and_back([lambda x: 2 * x, Local])
    assert double(4) == 8
    assert kind.attribute == 3


MAIN = """
import sys
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions

class Point:
    def __init__(self, x):
        self.x = x
    def double(self):
        return 2 * self.x

frames = dumps({"points": [Point(21)]}, DumpOptions(trusted=True))
sys.stdout.write("|".join(bytes(frame).hex() for frame in frames))
"""


def test_a_class_of_main_arrives_where_main_is_another():
    command = [sys.executable, "-c", MAIN]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    message = loads([bytes.fromhex(frame) for frame in out.split("|")], TRUSTED)
    assert message["points"][0].double() == 42


def test_a_module_that_is_registered_goes_by_value(tmp_path, monkeypatch):
    (tmp_path / "scratchwork.py").write_text("def triple(x):\n    return 3 * x\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        scratchwork = import_module("scratchwork")
    cloudpickle.register_pickle_by_value(scratchwork)
    try:
        frames = dumps(scratchwork.triple, TRUSTING)
    finally:
        cloudpickle.unregister_pickle_by_value(scratchwork)
        del sys.modules["scratchwork"]
    assert loads(frames, TRUSTED)(3) == 9


def test_an_object_may_contain_itself():
    loop = partial(print)
    loop.__setstate__((print, (loop,), {}, {}))
    arrived = there_and_back([loop])[0]
    assert arrived.args == (arrived,)


def deep():
    obj = frozenset()
    for _ in range(100_000):
        obj = frozenset([obj])
    return obj


class Rude:
    def __reduce__(self):
        raise ZeroDivisionError("rude")


@pytest.mark.parametrize(
    ("obj", "kind", "cause"),
    [
        (threading.Lock(), "_thread.lock", TypeError),
        (Rude(), "test_pickles.Rude", ZeroDivisionError),
        ((i for i in ()), "builtins.generator", TypeError),
        (deep(), "builtins.frozenset", (RecursionError, pickle.PicklingError)),
    ],
    ids=["lock", "rude", "generator", "deep"],
)
def test_what_cannot_be_pickled_is_named_with_the_cause(obj, kind, cause):
    with pytest.raises(
        UnserializableError, match=f"cannot pickle an object of type .*{kind}"
    ) as info:
        dumps(["text", {"key": obj}], TRUSTING)
    assert isinstance(info.value.__cause__, cause)


def refuse():
    raise ZeroDivisionError("opened")


class Refuses:
    def __reduce__(self):
        return refuse, ()


@pytest.mark.parametrize("data", [b"", b"\x80\x05", b"no pickle", pickle.dumps(Refuses())])
def test_a_pickle_that_does_not_open_is_a_message_error(data):
    header = packb({"pickled-obj": data, "num-sub-frames": 0})
    with pytest.raises(MessageError, match="a pickle in the message cannot be opened") as info:
        loads([packb({"__Pickled__": 1}), header], TRUSTED)
    assert info.value.__cause__ is not None


@pytest.mark.parametrize("data", ["text", None, [b""]])
def test_a_pickle_is_bytes(data):
    header = packb({"pickled-obj": data, "num-sub-frames": 0})
    with pytest.raises(MessageError, match=r"a pickle that is a .*, expected bytes"):
        loads([packb({"__Pickled__": 1}), header], TRUSTED)


@pytest.mark.parametrize("compression", [["lz4", "lz4"], [], "lz4", {"lz4": 1}, 3, ["none"], [3]])
def test_compression_that_does_not_fit_is_a_message_error(compression):
    if compression:
        for marker in ("__Pickled__", "__Serialized__"):
            header = {"pickled-obj": b"N.", "serializer": "pickle", "num-sub-frames": 1}
            header["compression"] = compression
            with pytest.raises(MessageError):
                loads([packb({marker: 1}), packb(header), b"N."], TRUSTED)


# -- the gate -----------------------------------------------------------------------


class Touch:
    """Its pickle, when it is opened, leaves a mark in the file system."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def as_serialized(obj, wrap):
    header = {"serializer": "pickle", "writeable": [], "num-sub-frames": 1}
    return [packb(wrap({"__Serialized__": 1})), packb(header), pickle.dumps(obj)]


def error_reply(inner):
    return {"status": "uncaught-error", "exception": inner, "traceback": None}


PLACES = {
    "frame 0": lambda obj: dumps(obj, TRUSTING),
    "nested": lambda obj: dumps([{"a": ({1}, [obj])}], TRUSTING),
    "a key": lambda obj: dumps({obj: 1}, TRUSTING),
    "in a set": lambda obj: dumps({obj}, TRUSTING),
    "error reply": lambda obj: dumps(error_reply(obj), TRUSTING),
    "Serialize": lambda obj: as_serialized(obj, lambda inner: inner),
    "Serialize in an error reply": lambda obj: as_serialized(obj, error_reply),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_code_in_a_pickle_runs_only_where_trusted(kernels, tmp_path, place):
    mark = tmp_path / "mark"
    frames = PLACES[place](Touch(mark))
    with no_unpickling():
        with pytest.raises(UntrustedError, match="holds a pickle, and the peer is not trusted"):
            loads(frames)
        for trusted in (True, False):
            loads(frames, LoadOptions(trusted=trusted, deserialize=False))
    assert not mark.exists()
    loads(frames, TRUSTED)
    assert mark.exists()


def test_over_tcp_a_stranger_pickle_is_refused_and_the_comm_goes_on(run, tmp_path):
    mark = tmp_path / "mark"

    async def main():
        async with pair(trusted=(True, False)) as (client, server):
            await client.write({"data": Touch(mark)})
            await client.write("next")
            with pytest.raises(UntrustedError, match="trusted=True"):
                await server.read()
            assert await server.read() == "next"
            with pytest.raises(UntrustedError, match=r"test_pickles\.Touch can only be sent as"):
                await server.write(Touch(mark))
            await server.write("still here")
            assert await client.read() == "still here"

    run(main())
    assert not mark.exists()


def test_over_tcp_a_trusted_pickle_is_opened(run, tmp_path):
    mark = tmp_path / "mark"

    async def main():
        async with pair(trusted=(True, True)) as (client, server):
            await client.write({"data": Touch(mark)})
            await server.read()

    run(main())
    assert mark.exists()
