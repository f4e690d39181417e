"""By which family an object goes: what a write names, what is registered, and what fails."""

import sys
import threading
from array import array
from fractions import Fraction
from pickle import PickleBuffer

import numpy as np
import pytest
from calling import serve
from messages import Point
from peers import pair

import distributed_comm as dc
from distributed_comm._serialize import families, type_registry
from distributed_comm._serialize.type_registry import Types

TRUSTED = (True, True)


@pytest.fixture(autouse=True)
def own_registrations(monkeypatch):
    """What a test registers is forgotten behind it."""
    types = Types()
    monkeypatch.setattr(type_registry, "_types", types)
    monkeypatch.setattr(type_registry, "find", types.find)
    monkeypatch.setattr(type_registry, "find_named", types.find_named)
    monkeypatch.setattr(families, "_families", dict(families._families))


class Box:
    """What the tests register."""

    def __init__(self, content):
        self.content = content


def register_box(serialize, deserialize=lambda header, frames: (header, [*map(bytes, frames)])):
    dc.register_serialization(Box, serialize, deserialize, safe=True)


def exchange(run, message, write=None, read=None, trusted=TRUSTED):
    """Return what arrives; the comm is used once more to see that it stays usable."""

    async def main():
        async with pair(trusted=trusted) as (client, server):
            try:
                await client.write(message, **(write or {}))
                return await server.read(**(read or {}))
            finally:
                await client.write("next")
                assert await server.read() == "next"

    return run(main())


# -- what a write names -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "serializers", "kind", "cause"),
    [
        (range(3), ["msgpack"], "builtins.range", None),
        (Fraction(1, 3), ["dask", "msgpack"], "fractions.Fraction", None),
        (dc.Serialize(range(3)), ["dask"], "builtins.range", None),
        (dc.Serialize((1, 2)), ["msgpack"], "builtins.tuple", None),
        (dc.Serialize(1), ["error"], "builtins.int", None),
        (threading.Lock(), None, "_thread.lock", TypeError),
        (dc.Serialize(threading.Lock()), ["pickle"], "_thread.lock", TypeError),
        (dc.ToPickle(threading.Lock()), ["msgpack"], "_thread.lock", TypeError),
    ],
    ids=repr,
)
def test_what_no_family_takes_is_named_here_or_to_the_reader(run, obj, serializers, kind, cause):
    message = {"a": [1, obj]}
    for on_error in (None, "raise"):
        with pytest.raises(TypeError, match=f"an object of type {kind}") as info:
            exchange(run, message, {"serializers": serializers, "on_error": on_error})
        assert type(info.value) is dc.UnserializableError
        assert isinstance(info.value.__cause__, cause or type(None))
    with pytest.raises(TypeError, match=f"an object of type {kind}") as info:
        exchange(run, message, {"serializers": serializers, "on_error": "message"})
    assert type(info.value) is dc.UnserializableError


def test_the_reader_gets_the_error_whatever_it_wants_to_open(run):
    with pytest.raises(TypeError, match=r"_thread\.lock"):
        exchange(run, threading.Lock(), {"on_error": "message"}, {"deserializers": ["msgpack"]})


def test_what_a_reader_does_not_open_is_named(run):
    assert exchange(run, dc.Serialize([1]), {"serializers": ["msgpack"]}) == [1]
    for obj, family in (
        (dc.Serialize([1]), "pickle"),
        (np.arange(3), "dask"),
        (Point(1), "pickle"),
    ):
        with pytest.raises(TypeError, match=f"an object of the family '{family}', expected one of"):
            exchange(run, obj, read={"deserializers": ["msgpack", "error"]})
        assert exchange(run, obj, read={"deserializers": [family]}) is not None


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("obj", [[1, {"a": [2.5, None]}], {"x": []}, "text", 5, True])
def test_plain_data_in_serialize_stays_what_it_is_by_every_family(run, obj, trusted):
    """Without trust it goes as msgpack, for no pickle can."""
    for serializers in (None, ["msgpack"], ["pickle", "msgpack"]):
        write = {"serializers": serializers}
        arrived = exchange(run, dc.Serialize(obj), write, trusted=(trusted, trusted))
        assert repr(arrived) == repr(obj)


def test_the_first_family_that_takes_an_object_has_it(run):
    array_of_ints = dc.Serialize(np.arange(3))
    for serializers, family in ((["dask", "pickle"], "dask"), (["pickle", "dask"], "pickle")):
        write, read = {"serializers": serializers}, {"deserializers": [family]}
        assert exchange(run, array_of_ints, write, read).tolist() == [0, 1, 2]


def test_what_cannot_be_meant_is_a_value_error(run):
    with pytest.raises(ValueError, match="unknown serializer 'nope', expected one of: dask, error"):
        exchange(run, dc.Serialize(1), {"serializers": ["nope"]})
    with pytest.raises(ValueError, match="on_error='ignore', expected 'raise' or 'message'"):
        exchange(run, 1, {"on_error": "ignore"})


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "inproc://"])
@pytest.mark.parametrize(("arguments", "error", "text"), [
    ({"on_error": "ignore"}, ValueError, "on_error='ignore', expected 'raise' or 'message'"),
    ({"serializers": "pickle"}, TypeError, r"serializers='pickle', expected a list .*\['pickle'\]"),
    ({"serializers": b"pickle"}, TypeError, "serializers=b'pickle', expected a list of names"),
    ({"deserializers": "dask"}, TypeError, "deserializers='dask', expected a list of names"),
])  # fmt: skip
def test_so_it_is_by_every_transport_whatever_the_message(run, address, arguments, error, text):
    async def main():
        async with pair(address, trusted=TRUSTED) as (client, server):
            if "deserializers" in arguments:
                await client.write("not lost")
                with pytest.raises(error, match=text):
                    await server.read(**arguments)
            else:
                with pytest.raises(error, match=text):
                    await client.write(1, **arguments)
                await client.write("not lost", serializers=["pickle"], on_error="message")
            assert await server.read(["pickle"]) == "not lost"

    run(main())


def test_a_call_is_told_before_anything_is_sent(run):
    async def main():
        async with serve({"one": lambda: 1}) as (_, remote):
            for arguments in ({"serializers": "pickle"}, {"deserializers": "pickle"}):
                with pytest.raises(TypeError, match="='pickle', expected a list of names"):
                    await remote.one(**arguments)
            assert await remote.one(serializers=["pickle"]) == 1
            assert remote._own.open == 1

    run(main())


# -- families of the user's -------------------------------------------------------------


def test_a_family_of_the_user_is_used_where_it_is_named(run):
    def dumps(obj, context):
        if not isinstance(obj, complex):
            raise NotImplementedError
        return {"protocol": context["pickle-protocol"]}, [array("d", [obj.real, obj.imag])]

    def loads(header, frames):
        assert header["protocol"] == 5
        return complex(*memoryview(frames[0]).cast("d"))

    dc.register_serialization_family("parts", dumps, loads)
    write = {"serializers": ["parts", "pickle"]}
    for number in (1 + 2j, dc.Serialize(1 + 2j)):
        assert exchange(run, {"n": number}, write) == {"n": 1 + 2j}
    assert exchange(run, {"n": range(2)}, write) == {"n": range(2)}
    with pytest.raises(dc.UntrustedError, match="family 'parts' that may run code"):
        exchange(run, 1j, {"serializers": ["parts"]}, trusted=(False, False))
    dc.register_serialization_family("parts", dumps, loads, safe=True)
    assert exchange(run, 1j, {"serializers": ["parts"]}, trusted=(False, False)) == 1j


def test_a_family_may_only_read(run):
    dc.register_serialization_family("old", None, lambda header, frames: header["x"])
    assert exchange(run, dc.Serialized({"serializer": "old", "x": 5}, [])) == 5
    with pytest.raises(TypeError, match=r"none of .'old',. takes an object of type builtins\.int"):
        exchange(run, dc.Serialize(5), {"serializers": ["old"]})


# -- registered types -------------------------------------------------------------------

FRAMES = {
    "bytes": (lambda: [b"ab", bytearray(b"c")], [b"ab", b"c"]),
    "none": (list, []),
    "empty": (lambda: [b"", np.zeros((0, 3))], [b"", b""]),
    "a generator": (lambda: (bytes([n]) for n in range(3)), [b"\0", b"\1", b"\2"]),
    "an array": (lambda: (np.arange(600.0).reshape(20, 30),), [np.arange(600.0).tobytes()]),
    "a view of two dimensions": (lambda: [np.eye(30).data], [np.eye(30).tobytes()]),
    "a pickle's buffer": (
        lambda: [PickleBuffer(array("d", [1, 2]))],
        [array("d", [1, 2]).tobytes()],
    ),
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("trusted", [True, False])
def test_a_frame_may_be_any_memory(run, name, trusted):
    make, expected = FRAMES[name]
    register_box(lambda box: ({"x": {"y": 1}}, make()))
    for wrap in (dc.Serialize, lambda box: box):
        arrived = exchange(run, [wrap(Box(1))], trusted=(trusted, trusted))
        assert arrived == [({"x": {"y": 1}}, expected)]


def fail(box):
    raise ZeroDivisionError("of mine")


@pytest.mark.parametrize(
    ("serialize", "match", "cause"),
    [
        (fail, "Box: of mine", ZeroDivisionError),
        (lambda box: None, "Box: cannot unpack", TypeError),
        (lambda box: ({}, [np.eye(3)[:, 0]]), "Box: .*contiguous", TypeError),
        (lambda box: ({}, ["text"]), "Box: .*bytes-like", TypeError),
        (
            lambda box: ({"a": {1}}, []),
            r"header of an object of the type .*Box: .*'set'",
            TypeError,
        ),
    ],
)
def test_a_function_that_fails_is_named_with_its_cause(run, serialize, match, cause):
    register_box(serialize)
    with pytest.raises(dc.UnserializableError, match=match) as info:
        exchange(run, {"a": dc.Serialize(Box(1))})
    assert isinstance(info.value.__cause__, cause)


def test_a_reader_whose_function_fails_says_so(run):
    register_box(lambda box: ({}, []), lambda header, frames: 1 / 0)
    with pytest.raises(dc.MessageError, match="division by zero") as info:
        exchange(run, Box(1))
    assert isinstance(info.value.__cause__, ZeroDivisionError)


def test_a_class_that_is_not_registered_at_the_reader_is_named(run, monkeypatch):
    register_box(lambda box: ({}, []))
    monkeypatch.setattr(type_registry, "find_named", lambda name, imports: None)
    with pytest.raises(dc.MessageError, match=r"test_families\.Box', which is not registered here"):
        exchange(run, Box(1), trusted=(False, False))


FARAWAY = """
class Place:
    def __init__(self, name):
        self.name = name
"""


def test_a_package_registers_when_it_is_there_and_is_not_imported_for_that(
    run, tmp_path, monkeypatch
):
    (tmp_path / "faraway.py").write_text(FARAWAY)
    monkeypatch.syspath_prepend(tmp_path)
    calls = []

    def register():
        import faraway  # noqa: PLC0415 - this is the point

        calls.append(1)
        dc.register_serialization(
            faraway.Place,
            lambda place: ({"name": place.name}, []),
            lambda header, frames: faraway.Place(header["name"]),
            safe=True,
        )

    dc.register_serialization_lazy("faraway", register)
    assert exchange(run, [Point(1), np.arange(2).sum()], trusted=TRUSTED)[0] == Point(1)
    stranger = dc.Serialized({"serializer": "dask", "type": "faraway.Place", "sub-header": {}}, [])
    with pytest.raises(dc.MessageError, match=r"'faraway\.Place', which is not registered here"):
        exchange(run, stranger, trusted=(False, False))
    assert "faraway" not in sys.modules
    assert not calls
    import faraway  # noqa: PLC0415

    try:
        for _ in range(2):
            assert exchange(run, faraway.Place("x"), trusted=(False, False)).name == "x"
    finally:
        del sys.modules["faraway"]
    assert calls == [1]


@pytest.mark.parametrize("header", [{"x": object()}, {"x": 2**70}, {"x": "\ud800"}], ids=repr)
@pytest.mark.parametrize("trusted", [True, False])
def test_a_header_that_cannot_be_encoded_is_an_error_here_or_at_the_reader(run, trusted, header):
    register_box(lambda box: (header, [bytes(box.content)]))
    both = (trusted, trusted)
    for size in (1, 10_000):  # in place, and in frames of its own
        for obj in (Box(size), dc.Serialize(Box(size))):
            with pytest.raises(dc.UnserializableError, match=r"the header of .*Box: ") as info:
                exchange(run, [1, obj], trusted=both)
            assert info.value.__cause__ is not None
            with pytest.raises(dc.UnserializableError, match=r"the header of .*Box: "):
                exchange(run, [1, obj], {"on_error": "message"}, trusted=both)
