"""What hostile Arrow streams take: python tests/measuring_arrow.py prints a line of JSON for each.

It is a process of its own because memory is seen from outside: Arrow's is not Python's. It ends
by a signal where Arrow does.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
from gates import gate_of
from hostile_arrow import STREAMS

from distributed_comm._serialize.compression import compress
from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.offload import MOST, Lengthy
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
from distributed_comm._serialize.type_registry import find
from distributed_comm._serialize.wrappers import Serialized

HEADER = {"serializer": "dask", "type": "pyarrow.lib.Table", "sub-header": {}}


def memory(key):
    """Return an entry of the kernel's, in bytes: VmRSS, or its peak VmHWM."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[key].split()[0]) * 1024


def measure(read, nbytes):
    """Return what a call takes, and the outcome of it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here
    before, start, table = memory("VmRSS"), time.process_time(), None
    try:
        table = read()
        outcome = "read"
    except Lengthy:
        outcome = "lengthy"
    except Exception as exc:
        outcome = f"{type(exc).__name__}: {exc}"
    seconds = time.process_time() - start
    peak = memory("VmHWM") - before
    start = time.process_time()
    del table
    dropping = time.process_time() - start
    return {"nbytes": nbytes, "seconds": seconds, "dropping": dropping, "peak": peak} | {
        "outcome": outcome
    }


def message_of(stream, codec):
    """Return the frames of a message with a stream, which a codec has compressed."""
    name, frame = compress(codec, stream) if codec else (None, stream)
    header = HEADER | {"compression": (name,)} if name else HEADER
    return dumps(Serialized(header, [frame]), DumpOptions(typed=True))


def ways(stream):
    """Yield the ways that a stream may arrive: its frame, and whole messages on the loop or not."""
    reader = find(pa.Table).deserialize
    yield "frame", lambda: reader({}, [stream], gate_of(True, len(stream))), len(stream)
    for codec in (None, "zstd"):
        frames = message_of(stream, codec)
        nbytes = sum(map(len, frames))
        for where, most in ("loop", MOST), ("thread", None):
            read = partial(loads, frames, LoadOptions(typed=True, most=most))
            yield f"{codec} {where}", read, nbytes


if __name__ == "__main__":
    for name in sys.argv[1:] or STREAMS:
        stream = STREAMS[name]()
        for way, read, nbytes in ways(stream):
            found = {"name": name, "way": way, "stream": len(stream)} | measure(read, nbytes)
            print(json.dumps(found), flush=True)
