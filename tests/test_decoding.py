"""Frames as a stranger may have made them: refused by name, cheaply, and without running code."""

import sys
from contextlib import suppress
from functools import partial
from types import ModuleType
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgpack import packb
from unpickling import no_unpickling

from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
from distributed_comm._serialize.wrappers import MARKERS
from distributed_comm.errors import MessageError, UnserializableError, UntrustedError

from .feeding import within

DOCUMENTED = (MessageError, UntrustedError, UnserializableError)
TRUSTING = DumpOptions(trusted=True)
OPENING = [LoadOptions(trusted=trusted) for trusted in (True, False)]
CLOSED = [LoadOptions(trusted=trusted, deserialize=False) for trusted in (True, False)]
STRANGERS = [OPENING[1], CLOSED[1]]


def with_header(header, *frames, marker="__Serialized__", index=1):
    header = header if isinstance(header, bytes) else packb(header)
    return [packb({marker: index}), header, *frames]


SOUND = {"serializer": "none", "num-sub-frames": 0}


@pytest.mark.parametrize("options", [*OPENING, *CLOSED], ids=repr)
@pytest.mark.parametrize(
    ("frames", "match"),
    [
        ([b""], "."),
        ([b"\x01\x02"], "."),
        ([b"\xc1"], "."),
        ([b"\xa1\xff"], "utf-8"),
        ([b"\x91" * 1025 + b"\x01"], "."),
        ([b"\xdd\xff\xff\xff\xff"], "."),
        ([b"\x81\x91\x80\xc0"], "unhashable"),
        ([b"\xd4\xbc\x00"], "code"),
        ([packb({"__Set__": True})], "a set as a NoneType"),
        ([packb({"__Set__": True, "as-list": "ab"})], "a set as a str"),
        ([packb({"__Set__": True, "as-list": [{}]})], "unhashable"),
        ([packb({"__Enum__": True})], "no strings"),
        ([packb({"__Enum__": 1, "name": "a", "__module__": ["uuid"], "__name__": "b"})], "no str"),
        ([packb({"__Enum__": 1, "name": "a", "__module__": "uuid", "__name__": "b"})], "uuid.b.a"),
        ([packb({"__Enum__": 1, "name": "a", "__module__": "", "__name__": "b"})], "."),
        ([packb({"__Enum__": 1, "name": "x", "__module__": "uuid", "__name__": "SafeUUID"})], "x"),
        (with_header(SOUND, index=0), "a header in frame 0"),
        (with_header(SOUND, index=-1), "a header in frame -1"),
        (with_header(SOUND, index=2), "a header in frame 2"),
        (with_header(SOUND, index=2**64 - 1), "a header in frame 18446744073709551615"),
        (with_header(SOUND, index=True), "a header in frame bool"),
        (with_header(SOUND, index={"__Set__": True, "as-list": []}), "a header in frame set"),
        (with_header(b"\xdd\xff\xff\xff\xff"), "."),
        (with_header([1]), "is a tuple, expected a map"),
        (with_header({}), "NoneType frames"),
        (with_header({"num-sub-frames": 1}), "1 frames after"),
        (with_header({"num-sub-frames": -1}, b""), "-1 frames after"),
        (with_header({"num-sub-frames": True}, b""), "bool frames after"),
        (with_header({"num-sub-frames": 2**63}, b""), "9223372036854775808 frames after"),
    ],
)
def test_what_is_no_message_is_a_message_error(kernels, options, frames, match):
    with pytest.raises(MessageError, match=match):
        loads(frames, options)


@pytest.mark.parametrize("options", CLOSED, ids=repr)
def test_no_two_objects_have_a_frame_in_common(options):
    """A frame 0 of 16 MiB could have a header of 16 MiB decoded a million times."""
    header = packb({"num-sub-frames": 1})
    refer = [{"__Pickled__": 1}, {"__Pickled__": 2}]
    with pytest.raises(MessageError, match="a header in frame 1, expected one of 3 to 2"):
        loads([packb([refer[0], refer[0]]), header, b""], options)
    with pytest.raises(MessageError, match="a header in frame 2, expected one of 3 to 3"):
        loads([packb(refer), header, header, b""], options)


def test_a_stranger_headers_count_toward_the_limit():
    frames = with_header({"num-sub-frames": 0, "pickled-obj": bytes(1000)}, marker="__Pickled__")
    for limit in (len(frames[0]) - 1, len(frames[0]) + len(frames[1]) - 1):
        with pytest.raises(MessageError, match=f"at most {limit} are decoded"):
            loads(frames, LoadOptions(deserialize=False, max_header=limit))
    assert loads(frames, LoadOptions(deserialize=False, max_header=limit + 1)).frames == []
    assert loads(frames, LoadOptions(deserialize=False, max_header=0, trusted=True)).frames == []


class Proxy:
    """An object that runs code for every look-up, of its class too."""

    def __getattribute__(self, name):
        raise AssertionError("a stranger made us look up an attribute")


class Lazy(Proxy, ModuleType):
    """A module that does."""


@pytest.mark.parametrize("path", ["lazy", "proxy", "home.lazy", "home.proxy"])
def test_a_stranger_runs_no_code_with_an_enum(monkeypatch, path):
    module, _, name = path.rpartition(".")
    home = ModuleType("home")
    traps = {"lazy": Lazy("lazy"), "proxy": Proxy()}
    vars(home).update(traps)
    for key, value in {"home": home, **traps}.items():
        monkeypatch.setitem(sys.modules, key, value)
    marker = {"__Enum__": True, "__module__": module or name, "__name__": name, "name": "a"}
    with pytest.raises(MessageError, match="is known here"):
        loads([packb(marker)], OPENING[1])


def test_only_a_trusted_peer_has_a_module_imported(tmp_path, monkeypatch):
    (tmp_path / "colours.py").write_text("from enum import Enum\nColour = Enum('Colour', 'RED')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "colours", raising=False)
    frames = [packb({"__Enum__": 1, "__module__": "colours", "__name__": "Colour", "name": "RED"})]
    with pytest.raises(MessageError, match=r"no enum member colours.Colour.RED"):
        loads(frames, OPENING[1])
    assert "colours" not in sys.modules
    assert loads(frames, OPENING[0]).name == "RED"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_frame_may_be_any_flat_memory(kernels, kind):
    frames = [kind(frame) for frame in dumps([{1, "two"}, {"a": b"three"}, 2**64], TRUSTING)]
    assert loads(frames, OPENING[0]) == ({1, "two"}, {"a": b"three"}, 2**64)
    frames = [kind(frame) for frame in dumps([{1, "two"}, {"a": b"three"}])]
    assert loads(frames, OPENING[1]) == ({1, "two"}, {"a": b"three"})


# -- anything ---------------------------------------------------------------------------


REAL = [
    dumps(msg, DumpOptions(trusted=True, on_error="message"))
    for msg in (
        {"op": "add", "args": [1, -2.5, None, True, b"bytes", "text"], "reply": True},
        [{1, 2}, {"a": {(1, 2)}}, *sys.float_info],
        [range(3), {"array": 2**70}, bytearray(b"x" * 300)],
        {"error": (i for i in ()), "status": "OK"},
    )
]


def damage(frames, which, start, stop, filling):
    """Return frames of which one has some bytes replaced, or is left out."""
    which %= len(frames)
    frame = bytes(frames[which])
    start, stop = sorted((start % (len(frame) + 1), stop % (len(frame) + 1)))
    damaged = [] if filling is None and which else [frame[:start] + (filling or b"") + frame[stop:]]
    return [*frames[:which], *damaged, *frames[which + 1 :]]


positions = st.integers(0, 400)
fillings = st.one_of(
    st.none(),
    st.binary(max_size=6),
    st.sampled_from([b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\x91" * 600]),
)
damaged = st.builds(damage, st.sampled_from(REAL), positions, positions, positions, fillings)

odd = st.one_of(
    st.sampled_from([None, True, 0, 1, 2, 3, -1, 2**63, "uuid", "SafeUUID", "safe", "no.such", ""]),
    st.sampled_from(["pickle", "error", "dask", "lz4"]),
    st.binary(max_size=5),
    st.lists(st.integers(-1, 3), max_size=3),
)
marked = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(MARKERS, odd),
        **dict.fromkeys(["as-list", "name", "__module__", "__name__"], odd),
    },
)
headers = st.fixed_dictionaries(
    {"num-sub-frames": st.one_of(st.integers(0, 2), odd)},
    optional={
        "serializer": odd,
        **dict.fromkeys(["pickled-obj", "compression", "writeable", "is-collection"], odd),
        **dict.fromkeys(["split-num-sub-frames", "split-offsets"], odd),
    },
)
frame_lists = st.builds(
    lambda msg, rest: [packb(msg), *rest],
    st.recursive(marked, lambda inner: st.lists(inner, max_size=3), max_leaves=4),
    st.lists(st.one_of(headers.map(packb), st.binary(max_size=4)), max_size=6),
)


def attempt(frames, options):
    with suppress(*DOCUMENTED):
        loads(frames, options)


@pytest.mark.parametrize("options", STRANGERS, ids=repr)
@given(frames=st.one_of(damaged, frame_lists))
def test_what_a_stranger_sends_is_a_message_or_a_documented_error(kernels, options, frames):
    with no_unpickling():
        bound = 100 * sum(map(len, frames)) + 32 * 1024  # what an exception takes
        within(bound, partial(attempt, frames, options))


@pytest.mark.parametrize("options", [OPENING[0], CLOSED[0]], ids=repr)
@given(frames=frame_lists)
def test_so_is_what_a_trusted_peer_sends_as_long_as_its_pickles_open(kernels, options, frames):
    with mock.patch("pickle.loads", return_value="opened"):
        attempt(frames, options)


MIB = 1024 * 1024


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff" * 500,
        b"\x91" * 1025 + b"\xc0",
        b"\xdd\x00\x10\x00\x00" * 500 + bytes(MIB),
    ],
    ids=["array32", "map32", "array32 in array32", "1025 levels", "each level declares a MiB"],
)
def test_a_bomb_is_refused_before_anything_is_allocated(kernels, bomb):
    for frames in ([bomb], with_header(bomb), with_header(bomb, marker="__Pickled__")):
        for options in STRANGERS:
            with no_unpickling():
                with pytest.raises((MessageError, UntrustedError)):
                    loads(frames, options)
                within(64 * 1024, partial(attempt, frames, options))


def test_a_frame_0_beyond_the_limit_is_refused_unseen(kernels):
    frames = [b"\xdd\x01\x00\x00\x00" + b"\x80" * 2**24]
    with pytest.raises(MessageError, match="frame 0 has 16777221 bytes"):
        loads(frames, OPENING[1])
    within(64 * 1024, partial(attempt, frames, OPENING[1]))


@pytest.mark.parametrize("options", STRANGERS, ids=repr)
@pytest.mark.parametrize(
    "item",
    [b"\x80", b"\x91\xc0", b"\x81\xa0\xc0", b"\x81\0\xc0", b"\x81\xa0" * 400 + b"\xc0"],
    ids=["empty maps", "arrays of one", "maps of one", "maps of one by number", "maps of maps"],
)
def test_what_takes_the_most_memory_for_its_bytes_takes_100_times_as_much(kernels, options, item):
    count = 50_000 // len(item)
    frames = [b"\xdd" + count.to_bytes(4, "big") + item * count]
    bound = 100 * len(frames[0])
    assert len(within(bound, partial(loads, frames, options))) == count


@pytest.mark.parametrize("options", STRANGERS, ids=repr)
@pytest.mark.parametrize(
    "item", [b"\x81\0" * 400 + b"\xc0", b"\x81\xe0" * 400 + b"\xc0", b"\x81\0\x80"]
)
def test_what_would_take_more_is_refused_unless_it_is_little(kernels, options, item):
    """A dict with one key that is no str takes 224 bytes, and of msgpack two."""
    count = 50_000 // len(item)
    frames = [b"\xdd" + count.to_bytes(4, "big") + item * count]
    with pytest.raises(
        MessageError, match=rf"{len(frames[0])} bytes that would take about \d{{7}}"
    ):
        loads(frames, options)
    within(64 * 1024, partial(attempt, frames, options))
    assert loads([item], options) == loads([item], OPENING[0])
