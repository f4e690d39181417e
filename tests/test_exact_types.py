"""Between two of ours everything arrives as the type that it is; in Dask's frames, nearly."""

import sys
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import carry, exact, texts
from msgpack import ExtType, Timestamp
from peers import pair

from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions
from distributed_comm._serialize.wrappers import MARKERS
from distributed_comm.errors import UntrustedError

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.builds(
        lambda n, d, s: s * 2**n + d, *map(st.sampled_from, ([63, 64, 99], [-1, 0, 1], [1, -1]))
    ),
    st.floats(allow_nan=False),
    st.binary(max_size=8),
    st.sampled_from([b"\xc7\x00\xbd", b"\xc7\x00\xbd\x01", "\xc7\0\xbd", "__Set__" * 99]),
    texts,
    st.sampled_from(uuid.SafeUUID),
    st.builds(ExtType, st.integers(0, 127), st.binary(max_size=20)),
    st.builds(Timestamp, st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 7, 10**9 - 1])),
    st.builds(Timestamp, st.integers(0, 2**34), st.sampled_from([0, 7])),
)
nested_hashables = st.recursive(
    scalars,
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)),
    max_leaves=4,
)


@st.composite
def hashables(draw):  # a function, for its name is short where hypothesis prints it
    return draw(nested_hashables)


values = st.recursive(
    st.one_of(hashables(), st.sets(hashables(), max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.just(()),
        st.dictionaries(st.one_of(hashables(), st.sampled_from(MARKERS)), inner, max_size=4),
    ),
    max_leaves=15,
)


@pytest.mark.parametrize("trusted", [True, False])
@given(msg=values)
def test_every_nesting_arrives_as_it_is(kernels, trusted, msg):
    assert exact(carry(msg, typed=True, trusted=trusted)) == exact(msg)


# -- to a Dask peer ---------------------------------------------------------------------


def as_dask_has_it(obj):
    """Lists, and instances of subclasses, are what msgpack makes of them."""
    if isinstance(obj, list | tuple) and type(obj) is not ExtType:
        return tuple(map(as_dask_has_it, obj))
    if isinstance(obj, dict):
        return {as_dask_has_it(key): as_dask_has_it(value) for key, value in obj.items()}
    if isinstance(obj, set):
        return {*map(as_dask_has_it, obj)}
    return obj


def reserved(obj):
    """Whether a dict in the message has one of the format's own keys."""
    if isinstance(obj, dict):
        return any(key in obj for key in MARKERS) or any(map(reserved, obj.values()))
    return isinstance(obj, list | tuple) and any(map(reserved, obj))


def kinds(obj):
    """Yield what a message is made of that Dask's frame 0 has nothing for."""
    if isinstance(obj, dict):
        obj = [*obj, *obj.values()]
    if type(obj) is int and not -(2**63) <= obj < 2**64:
        yield "an integer beyond 64 bits"
    elif isinstance(obj, list | tuple | set):
        for item in obj:
            yield from kinds(item)
    else:
        yield type(obj)


@given(msg=values)
def test_in_dasks_frames_it_arrives_equal_or_is_refused(kernels, msg):
    """What needs a pickle there, such as a frozenset, is a clear error for a stranger."""
    if reserved(msg):
        with pytest.raises(ValueError, match="which the format reserves"):
            carry(msg, typed=False, trusted=True)
        return
    expected = exact(as_dask_has_it(msg))
    assert exact(carry(msg, typed=False, trusted=True)) == expected
    if set(kinds(msg)) & {frozenset, "an integer beyond 64 bits"}:
        with pytest.raises(UntrustedError, match=r"of type builtins\.frozenset|beyond 64 bits"):
            carry(msg, typed=False, trusted=False)
    else:
        assert exact(carry(msg, typed=False, trusted=False)) == expected


# -- what no copy can be made of --------------------------------------------------------


def containing_itself(cls=list):
    obj = cls()
    obj.append(obj) if isinstance(obj, list) else obj.__setitem__("x", obj)
    return obj


def nested(levels, wrap):
    msg = 0
    for _ in range(levels):
        msg = wrap(msg)
    return msg


def deep(levels):
    return [nested(levels, wrap) for wrap in (lambda x: [x], lambda x: (x,), lambda x: {"a": x})]


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("trusted", [True, False])
def test_what_contains_itself_or_is_too_deep_is_a_value_error(kernels, typed, trusted):
    looped = [containing_itself(list), containing_itself(dict), (containing_itself(list),)]
    for msg in [*looped, *deep(1100), nested(100_000, lambda x: [x])]:
        with pytest.raises(ValueError, match="the message cannot be encoded"):
            dumps(msg, DumpOptions(typed=typed, trusted=trusted))
    for msg in deep(500):
        arrived = carry(msg, typed=typed, trusted=trusted)
        assert str(arrived) == str(msg if typed else nested_as_tuples(msg))


def nested_as_tuples(msg):
    if isinstance(msg, list | tuple):
        return tuple(map(nested_as_tuples, msg))
    return {"a": nested_as_tuples(msg["a"])} if isinstance(msg, dict) else msg


# -- over comms -------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "inproc://"])
@pytest.mark.parametrize("trusted", [True, False])
def test_over_each_transport_it_is_the_same(run, kernels, address, trusted):
    message = [
        1,
        (2, {"a": [(), frozenset({3}), {(4,)}]}),
        2**100,
        {"__Set__": [uuid.SafeUUID.safe]},
    ]
    message += [{(1, frozenset({2})): [None, -0.0]}, sys.maxsize, b"", ""]

    async def main():
        async with pair(address, trusted=(trusted, trusted)) as (client, server):
            for sender, receiver in ((client, server), (server, client)):
                await sender.write(message)
                assert exact(await receiver.read()) == exact(message)

    run(main())
