"""What `micro.py` measures, as a table: to add a row, add a `Case`."""

from dataclasses import dataclass

__all__ = ["CASES", "Case"]

KERNELS = "from distributed_comm._kernels import blocks, frame0, framing, sentinel"

MESSAGE = "message = msgpack.packb({'op': 'add', 'x': 1, 'y': 2, 'reply': True})"
HUNDRED = "packed = b''.join(framing.pack([b'x' * 100])) * 100"

SPLIT_BY_LENGTHS = """
def split(data, messages=None):
    offset, messages = 0, []
    while offset + 24 <= len(data):
        block, count, length = struct.unpack_from('<QQQ', data, offset)
        messages.append([data[offset + 24 : offset + 24 + length]])
        offset += 24 + length
    return messages
"""


SERIALIZE = """
from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
out, into = DumpOptions(typed=True), LoadOptions(typed=True)
dask_out, dask_into = DumpOptions(), LoadOptions()
trusted_out = DumpOptions(typed=True, trusted=True)
trusted_into = LoadOptions(typed=True, trusted=True)
"""
SMALL = "{'op': 'add', 'x': 1, 'y': 2, 'reply': True}"
BARE = "import msgpack; pack = msgpack.Packer().pack; unpack = msgpack.unpackb"
DASK_SERIALIZE = """
import logging; logging.disable()
from distributed.comm.utils import from_frames, to_frames
from distributed.protocol import dumps, loads, to_serialize
def run(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
"""


@dataclass(frozen=True)
class Case:
    """One row: expressions, and the statements that make what they take.

    ``ours`` is measured on the compiled kernels and on the pure ones. ``plain`` is what one
    would write with the standard library, or the package that the row is about. ``dask`` is
    Dask's function of the same name. An expression may be missing where there is none.
    """

    name: str
    values: str
    ours: str
    plain: str = ""
    dask: str = ""
    ours_setup: str = KERNELS
    dask_setup: str = ""
    #: What one evaluation does so often, for an expression that contains a loop.
    repeats: int = 1


def address(call: str, values: str, plain: str = "", name: str = "", repeats: int = 1) -> Case:
    """Return the row of an address function, which Dask has by the same name."""
    function = (name or call).partition("(")[0]
    return Case(
        name=name or function,
        values=f"from urllib.parse import urlsplit\n{values}",
        ours=call,
        plain=plain,
        dask=call,
        ours_setup=f"from distributed_comm import {function}",
        dask_setup=f"import distributed.comm\nfrom distributed.comm.addressing import {function}",
        repeats=repeats,
    )


def message(name: str, values: str, ours: str, plain: str, dask: str) -> Case:
    """Return the row of a message, there and back."""
    return Case(f"dumps + loads, {name}", values, ours, plain, dask, SERIALIZE, DASK_SERIALIZE)


ADDRESS = "addr = 'tcp://192.168.1.20:8786'"
MANY_ADDRESSES = "addresses = [f'tcp://10.0.{n >> 8}.{n & 255}:8786' for n in range(10_000)]"

CASES = [
    address("parse_address(addr)", ADDRESS, "addr.partition('://')"),
    address("parse_address(addr)", "addr = '192.168.1.20:8786'", name="parse_address(no scheme)"),
    address(
        "for addr in addresses: parse_address(addr)",
        MANY_ADDRESSES,
        "for addr in addresses: addr.partition('://')",
        name="parse_address(10,000 in turn)",
        repeats=10_000,
    ),
    address("unparse_address('tcp', loc)", "loc = '192.168.1.20:8786'", "f'tcp://{loc}'"),
    address("normalize_address(addr)", ADDRESS, "urlsplit(addr).geturl()"),
    address(
        "normalize_address(addr)", "addr = '192.168.1.20:8786'", name="normalize_address(no scheme)"
    ),
    address(
        "parse_host_port(addr)", ADDRESS, "parts = urlsplit(addr); (parts.hostname, parts.port)"
    ),
    address("parse_host_port(loc)", "loc = '[fe80::1]:8786'", name="parse_host_port(IPv6)"),
    address(
        "for addr in addresses: parse_host_port(addr)",
        MANY_ADDRESSES,
        name="parse_host_port(10,000 in turn)",
        repeats=10_000,
    ),
    address("unparse_host_port(host, 8786)", "host = '192.168.1.20'", "f'{host}:{8786}'"),
    address("unparse_host_port(host, 8786)", "host = 'fe80::1'", name="unparse_host_port(IPv6)"),
    address("get_address_host(addr)", ADDRESS, "urlsplit(addr).hostname"),
    address(
        "get_address_host_port(addr)",
        ADDRESS,
        "parts = urlsplit(addr); (parts.hostname, parts.port)",
    ),
    address("resolve_address(addr)", ADDRESS),
    Case(
        "framing.pack, one frame of 100 B",
        "import struct; frame = b'x' * 100",
        "framing.pack([frame])",
        "[struct.pack('<QQQ', 16 + len(frame), 1, len(frame)) + frame]",
    ),
    Case(
        "framing.pack, a header and 1 MiB",
        "import struct; header = b'x' * 100; frame = bytearray(1 << 20)",
        "framing.pack([header, frame])",
        "[struct.pack('<4Q', 1048700, 2, len(header), len(frame)) + header, memoryview(frame)]",
    ),
    Case(
        "framing.unpack, one message of 100 B",
        f"import struct\n{KERNELS}\npacked = b''.join(framing.pack([b'x' * 100]))",
        "framing.unpack(packed, 0, len(packed), 1 << 30, 65536, 1 << 32)",
        "block, count, length = struct.unpack_from('<QQQ', packed); [[packed[24 : 24 + length]]]",
    ),
    Case(
        "framing.unpack, 100 messages of 100 B",
        f"import struct\n{KERNELS}\n{HUNDRED}\n{SPLIT_BY_LENGTHS}",
        "framing.unpack(packed, 0, len(packed), 1 << 30, 65536, 1 << 32)",
        "split(packed)",
    ),
    Case(
        "framing.inspect, 3 lengths",
        f"import struct\n{KERNELS}\npacked = b''.join(framing.pack([b'a', b'b', b'c']))",
        "framing.inspect(packed, 0, len(packed), 1 << 30, 65536)",
        "block, count = struct.unpack_from('<QQ', packed); "
        "struct.unpack_from(f'<{count}Q', packed, 16)",
    ),
    Case(
        "frame0.scan, a request",
        f"import msgpack; {MESSAGE}",
        "frame0.scan(message, 512)",
        "msgpack.unpackb(message)",
    ),
    Case(
        "frame0.scan, 1,000 numbers",
        "import msgpack; message = msgpack.packb(list(range(1000)))",
        "frame0.scan(message, 512)",
        "msgpack.unpackb(message)",
    ),
    Case(
        "frame0.marked, a request",
        f"import msgpack, re; {MESSAGE}; find = re.compile(b'__(?:Set|Enum|Pickled)__').search",
        "frame0.marked(message)",
        "find(message)",
    ),
    Case(
        "frame0.marked, 64 KiB of text",
        "import re; message = b'some_text ' * 6554; "
        "find = re.compile(b'__(?:Set|Enum|Pickled)__').search",
        "frame0.marked(message)",
        "find(message)",
    ),
    Case(
        "sentinel.stuff, 100 B",
        f"{KERNELS}; payload = b'x' * 100; S = sentinel.SENTINEL",
        "sentinel.stuff([payload])",
        "[payload.replace(S[:31], S[:31] + b'\\0') + S]",
    ),
    Case(
        "sentinel.stuff, 1 MiB",
        f"import random; {KERNELS}; S = sentinel.SENTINEL; "
        "payload = random.Random(0).randbytes(1 << 20)",
        "sentinel.stuff([payload])",
        "[payload.replace(S[:31], S[:31] + b'\\0'), S]",
    ),
    Case(
        "sentinel.unstuff, 1 MiB",
        f"import random; {KERNELS}; S = sentinel.SENTINEL; "
        "data = bytearray(random.Random(0).randbytes(1 << 20) + S)",
        "sentinel.unstuff(data, 0, len(data), 0)",
        "data.find(S)",
    ),
    Case(
        "blocks.allocate, and fill 64 MiB",
        "source = bytes(1 << 26)",
        "memoryview(blocks.allocate(1 << 26, 1 << 26))[:] = source",
        "memoryview(bytearray(1 << 26))[:] = source",
    ),
    message(
        "a request",
        f"{BARE}; msg = {SMALL}",
        "loads(dumps(msg, out), into)",
        "unpack(pack(msg))",
        "loads(dumps(msg))",
    ),
    message(
        "a request (msgspec; to_frames + from_frames)",
        "import msgspec; pack = msgspec.msgpack.Encoder().encode; "
        f"unpack = msgspec.msgpack.Decoder().decode; msg = {SMALL}",
        "loads(dumps(msg, out), into)",
        "unpack(pack(msg))",
        "run(from_frames(run(to_frames(msg))))",
    ),
    message(
        "a request, as Dask reads it (as our peers do)",
        f"{SERIALIZE}msg = {SMALL}",
        "loads(dumps(msg, dask_out), dask_into)",
        "loads(dumps(msg, out), into)",
        "",
    ),
    message(
        "20 dicts in dicts",
        f"{BARE}; msg = {SMALL}\nfor n in range(20): msg = {{'key': n, 'inner': msg}}",
        "loads(dumps(msg, out), into)",
        "unpack(pack(msg))",
        "loads(dumps(msg))",
    ),
    message(
        "10,000 integers",
        f"{BARE}; msg = {{'x': list(range(10_000))}}",
        "list(loads(dumps(msg, out), into)['x'])",
        "list(unpack(pack(msg))['x'])",
        "list(loads(dumps(msg))['x'])",
    ),
    message(
        "an array of 1 MiB (pickle)",
        "import numpy, pickle; array = numpy.zeros(1 << 20, 'u1'); msg = {'x': array}; b = []",
        "loads(dumps(msg, trusted_out), trusted_into)['x'].nbytes",
        "b.clear(); pickle.loads(pickle.dumps(msg, 5, buffer_callback=b.append), buffers=b)",
        "loads(dumps({'x': to_serialize(array)}))['x'].nbytes",
    ),
    message(
        "an object (pickle)",
        "import pickle, datetime; msg = {'op': 'add', 'after': datetime.timedelta(1)}",
        "loads(dumps(msg, trusted_out), trusted_into)",
        "pickle.loads(pickle.dumps(msg, 5))",
        "loads(dumps(msg))",
    ),
]
