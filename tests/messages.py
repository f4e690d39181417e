"""Plain messages, for hypothesis, and how to compare what arrived with what was sent."""

import math
import uuid
from dataclasses import dataclass

from hypothesis import strategies as st

from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
from distributed_comm._serialize.wrappers import MARKERS


def tag(obj):
    """Return what tells 1 from True and 1.0, and a list from a tuple only where both stay."""
    match obj:
        case list() | tuple():
            return "array", tuple(map(tag, obj))
        case dict():
            return "map", frozenset((tag(key), tag(value)) for key, value in obj.items())
        case set():
            return "set", frozenset(map(tag, obj))
    return type(obj), obj


texts = st.one_of(st.text(max_size=8), st.sampled_from(MARKERS))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=8),
    texts,
)
hashables = st.one_of(scalars, st.tuples(scalars, scalars))
keys = hashables.filter(lambda key: key not in MARKERS)
plain = st.recursive(
    st.one_of(scalars, st.sets(hashables, max_size=3), st.sampled_from(uuid.SafeUUID)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=20,
)

#: The same, by hand.
PLAIN = [
    None,
    {"op": "add", "x": 1, "y": -2.5, "reply": True, "nothing": None, "bytes": b"\0\xff"},
    (1, ("nested", {"deep": ({"er": ()},)}), 2**64 - 1, -(2**63)),
    {(1, "tuple"): "as a key", 2: "and a number"},
    [{1, 2, "three"}, {"in": {(1, 2)}}],
    {"größer": "__Set__", "text": {"__Pickled__"}},
]


@dataclass(frozen=True)
class Point:
    """What can only go as a pickle."""

    x: object


def carry(msg, *, typed, trusted):
    """Return a message as it arrives: each frame but the first in memory of its own."""
    frames = dumps(msg, DumpOptions(typed=typed, trusted=trusted))
    frames = [bytes(frames[0]), *map(bytearray, frames[1:])]
    return loads(frames, LoadOptions(typed=typed, trusted=trusted))


def exact(obj):
    """Return what tells everything apart: types, the order of a dict, -0.0 from 0.0."""
    cls = type(obj)
    if isinstance(obj, dict):
        return cls, [(exact(key), exact(value)) for key, value in obj.items()]
    if isinstance(obj, list | tuple):
        return cls, [*map(exact, obj)]
    if isinstance(obj, set | frozenset):
        return cls, sorted(map(repr, map(exact, obj)))
    if isinstance(obj, float):
        return cls, math.copysign(1, obj), str(obj)
    return cls, obj
