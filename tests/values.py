"""Values that look like this library's own signals, for hypothesis: all of them are data."""

import pickle
from typing import Any

from hypothesis import strategies as st

import distributed_comm as dc
from distributed_comm import _envelope as envelope
from distributed_comm._serialize.wrappers import MARKERS
from distributed_comm._wire.control import Kind

#: Pickles that were opened: none may be.
opened: list[str] = []


def note(what: str) -> None:
    opened.append(what)


class Opened(Exception):
    """An exception whose pickle tells when it is opened."""

    def __reduce__(self):
        return note, ("a pickle of a stranger's",)


HEADS = [
    envelope.REPLY,
    envelope.ERROR,
    envelope.ITEM,
    envelope.END,
    envelope.OWN,
    envelope.EXTRA,
]
REQUEST = envelope.encode_request(envelope.Request("get", envelope.ONE, True, ("pickle",)))
PICKLE = pickle.dumps(Opened())

LOOKALIKES: list[Any] = [
    {"status": "uncaught-error"},
    {"status": "uncaught-error", "exception": PICKLE, "exception_text": "x", "causes": [PICKLE]},
    {"status": "uncaught-error", "exception": 1, "traceback_text": [], "exception_text": 10**4000},
    {"status": dc.Status.dont_reply},
    {"op": "close"},
    {"op": "get", "reply": False, "close": True, "serializers": ["pickle"]},
    dc.Status.dont_reply,
    "uncaught-error",
    "dont_reply",
    "OK",
    "close-stream",
    *HEADS,
    REQUEST,
    [REQUEST, {}],
    [envelope.ERROR, {"exception": PICKLE, "exception_text": ""}],
    (envelope.END, None),
    b"\xc1",
    bytes.fromhex("c7 01 bc 01"),
    dict.fromkeys(MARKERS, 1),
    {"__Set__": True, "as-list": [1]},
    ["\xbd", 2, 3],
    envelope.RESERVED,
    None,
]

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from([*dc.Status, *Kind]),
    st.sampled_from(LOOKALIKES),
)
hashable = st.one_of(
    st.integers(), st.text(max_size=5), st.binary(max_size=5), st.sampled_from([*dc.Status])
)
keys = st.one_of(hashable, st.sampled_from(["status", "op", "reply", "exception", *MARKERS]))


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.sets(hashable, max_size=3),
        st.frozensets(hashable, max_size=3),
        inner.map(lambda value: {"status": "uncaught-error", "exception": value}),
    )


#: Any value that goes to a stranger, too.
values = st.recursive(leaves, nested, max_leaves=8)
