"""The bytes that docs/wire-format.md shows are those that the code sends."""

import re
from pathlib import Path
from pickle import PickleBuffer

import msgpack
import pytest

from distributed_comm._envelope import NAMES, REPLY, Request, encode_request
from distributed_comm._kernels.sentinel_py import SENTINEL
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions
from distributed_comm._wire import control, hello
from distributed_comm._wire import length_framing as framing
from distributed_comm._wire.peer_limits import accepted
from distributed_comm._wire.sentinel_framing import SentinelFraming
from distributed_comm.options import Limits

PAGE = (Path(__file__).parents[1] / "docs" / "wire-format.md").read_text()
DIAGRAMS = dict(re.findall(r"^```bytes (.*)\n((?:.*\n)*?)```$", PAGE, re.MULTILINE))

OUR_LIMITS = accepted(Limits(message=2**30))
OUR_HELLO = hello.local_hello(terms=OUR_LIMITS)._replace(python=(3, 11, 7))
DASKS_HELLO = {"compression": None, "python": (3, 11, 7), "pickle-protocol": 5}
PICKLED = [PickleBuffer(bytearray(b"abc"))]


def pack(frames):
    return framing.kernel.pack(frames)


def enveloped(head, message):
    return pack([head, *dumps(message, DumpOptions(typed=True))])


SENT = {
    "one frame": lambda: pack(dumps({"x": 21})),
    "two buffers": lambda: pack([b"ab", bytearray(b"cd"), bytearray(b"e")]),
    "our hello": lambda: pack([hello.encode(OUR_HELLO)]),
    "the hello of a Dask peer": lambda: pack([msgpack.packb(DASKS_HELLO)]),
    "frame 0 with a set": lambda: dumps({"ids": {7}}),
    "a pickle and its buffer": lambda: pack(dumps(PICKLED, DumpOptions(trusted=True))),
    "frame 0 with a tuple": lambda: dumps({"point": (1, 2)}, DumpOptions(typed=True)),
    "goodbye": lambda: pack([control.encode(control.Kind.GOODBYE)]),
    "a request in its envelope": lambda: enveloped(encode_request(Request("add")), {"x": 1}),
    "a reply in its envelope": lambda: enveloped(REPLY, 2),
    "the sentinel": lambda: [SENTINEL],
    "one frame, ended by a sentinel": lambda: SentinelFraming.encode([b"abc"]),
    "a frame that is the sentinel": lambda: SentinelFraming.encode([SENTINEL]),
}


def drawn(diagram):
    """Return the bytes of a diagram, whose offsets are checked on the way."""
    data = b""
    for line in diagram.splitlines():
        offset, column = re.match(
            r"(\d+) +([0-9a-f]{2}(?: (?:[0-9a-f]{2}|…))*)(?: {2}|$)", line
        ).groups()
        assert int(offset) == len(data), line
        for name in (SENTINEL, SENTINEL[:-1]):  # which are drawn by their ends
            column = column.replace(f"{name[:3].hex(' ')} … {name[-2:].hex(' ')}", name.hex())
        data += bytes.fromhex(column)
    return data


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", SENT)
def test_a_diagram_shows_what_is_sent(name):
    assert drawn(DIAGRAMS[name]).hex(" ") == b"".join(SENT[name]()).hex(" ")


def test_every_diagram_is_compared():
    assert list(DIAGRAMS) == list(SENT)
    assert PAGE.count("```bytes") == len(SENT)


def test_every_kind_of_control_message_is_in_its_table():
    section = PAGE.split("\n## Control messages\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", section, re.MULTILINE)
    assert {int(kind): name for kind, name in rows} == {
        kind.value: kind.name.lower() for kind in control.Kind
    }


def test_every_kind_of_envelope_is_in_its_table():
    section = PAGE.split("\n## Calls\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", section, re.MULTILINE)
    assert {int(kind): name for kind, name in rows} == {
        head[1]: name for head, name in NAMES.items()
    }
