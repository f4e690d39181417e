"""The hello: ours, Dask's, and what strangers send instead."""

import pickle

import msgpack
import pytest
from distributed.comm.core import Comm
from distributed.protocol import dumps as dask_dumps
from hypothesis import given
from hypothesis import strategies as st

from distributed_comm._wire import hello
from distributed_comm._wire.hello import Hello

pytestmark = pytest.mark.usefixtures("kernels")

DASK = (  # frame 0 of the hello of a server of distributed 2026.8.0
    b"\x83\xabcompression\xc0\xa6python\x93\x03\x0b\x07\xafpickle-protocol\x05"
)

hellos = st.builds(
    Hello,
    compression=st.one_of(st.none(), st.text(max_size=9)),
    python=st.lists(st.integers(-(2**63), 2**64 - 1), max_size=4).map(tuple),
    pickle_protocol=st.integers(0, 5),
    capabilities=st.one_of(
        st.none(), st.dictionaries(st.text(max_size=9), st.one_of(st.integers(0, 9), st.text()))
    ),
    terms=st.none(),
)


@given(hellos)
def test_what_was_encoded_is_decoded(original):
    assert hello.decode(hello.encode(original)) == original


@pytest.mark.parametrize("nonce", [None, b"n" * hello.NONCE])
def test_what_is_kept_of_a_hello_says_all_but_what_a_proof_is_made_of(nonce):
    first = hello.decode(hello.encode(hello.local_hello(["lz4"], nonce, "tcp://[::1]:1")))
    kept = first.without_proof()
    assert kept.nonce is kept.endpoint is None
    assert kept == hello.decode(hello.encode(hello.local_hello(["lz4"])))
    assert first.nonce == nonce  # the first is as it was


def test_what_is_kept_of_the_hello_of_a_dask_server():
    assert hello.decode(DASK).without_proof() == hello.decode(DASK)


def test_the_hello_of_a_dask_server():
    assert hello.decode(DASK) == Hello(None, (3, 11, 7), 5, None)
    assert hello.encode(Hello(None, (3, 11, 7), 5, None)) == DASK


def test_the_handshake_that_the_installed_dask_makes():
    class Handshaker(Comm):
        same_host = True
        read = write = close = abort = closed = local_address = peer_address = None

    info = Handshaker().handshake_info()
    [frame] = dask_dumps(info)
    assert hello.decode(bytes(frame)) == Hello(
        info["compression"], info["python"], info["pickle-protocol"], None
    )


def test_dask_understands_ours():
    ours = msgpack.unpackb(hello.encode(hello.local_hello()), use_list=False)
    dask = msgpack.unpackb(DASK, use_list=False)
    assert Comm.handshake_configuration(ours, dask) == {"pickle-protocol": 5, "compression": None}


def test_only_ours_has_capabilities_and_says_goodbye():
    assert hello.local_hello().capabilities == {"version": 4, "types": 1}
    assert hello.local_hello().says_goodbye
    assert not hello.decode(DASK).says_goodbye


def test_ours_is_well_within_what_is_accepted():
    assert len(hello.encode(hello.local_hello())) < 512


@pytest.mark.parametrize(("theirs", "used"), [(0, 0), (4, 4), (5, 5), (6, 5), (255, 5)])
def test_the_smaller_pickle_protocol_counts(theirs, used):
    assert hello.decode(msgpack.packb({"pickle-protocol": theirs})).pickle_protocol == used


def test_unknown_keys_are_ignored_and_others_may_be_missing():
    message = {"pickle-protocol": 4, "new": {"deep": [1, {"er": b"\xff"}]}, "__Serialized__": 1}
    assert hello.decode(msgpack.packb(message)) == Hello(None, (), 4, None)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"compression": 4}, "compression 4 in the hello, expected a name or nil"),
        ({"compression": b"lz4"}, "compression b'lz4' in the hello, expected a name"),
        ({"compression": False}, "compression False in the hello"),
        ({"python": "3.11"}, r"python '3\.11' in the hello, expected a list of integers"),
        ({"python": None}, "python None in the hello"),
        ({"python": [3, "11"]}, r"python \[3, '11'\] in the hello"),
        ({"python": [3, True]}, r"python \[3, True\] in the hello"),
        ({"python": [3.0]}, r"python \[3\.0\] in the hello"),
        ({"pickle-protocol": None}, "pickle-protocol None in the hello, expected a small integer"),
        ({"pickle-protocol": True}, "pickle-protocol True in the hello"),
        ({"pickle-protocol": "5"}, "pickle-protocol '5' in the hello"),
        ({"pickle-protocol": 5.0}, r"pickle-protocol 5\.0 in the hello"),
        ({"pickle-protocol": -1}, "pickle-protocol -1 in the hello"),
        ({"pickle-protocol": 256}, "pickle-protocol 256 in the hello"),
        ({"distributed_comm": 1}, "distributed_comm 1 in the hello, expected a map"),
        ({"distributed_comm": []}, r"distributed_comm \[\] in the hello"),
    ],
)
def test_a_wrong_type_is_named(change, text):
    message = {"compression": None, "python": [3, 11, 7], "pickle-protocol": 5} | change
    with pytest.raises(ValueError, match=f"^{text}"):
        hello.decode(msgpack.packb(message))


@pytest.mark.parametrize("kind", ["list", "str", "int", "NoneType", "bytes"])
def test_a_hello_that_is_no_map(kind):
    value = {"list": [1], "str": "hello", "int": 7, "NoneType": None, "bytes": b"x"}[kind]
    with pytest.raises(ValueError, match=rf"^the hello is a {kind}, expected a map$"):
        hello.decode(msgpack.packb(value))


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (b"", "truncated msgpack"),
        (DASK[:-1], "truncated msgpack"),
        (DASK + b"\0", "1 bytes after the msgpack object"),
        (b"\x81" + b"\xa1a" + b"\x91" * 8 + b"\xc0", "msgpack nested deeper than 8 levels"),
        (b"\xdf\xff\xff\xff\xff" + bytes(100), "msgpack declares more items than bytes are left"),
        (b"\x81\x01\x02", "no msgpack in the hello: int is not allowed for map key"),
        (b"\x81\xa1\xff\xc0", "no msgpack in the hello: 'utf-8' codec can't decode"),
        (b"\x81\x90\xc0", "no msgpack in the hello: .*"),
        (b"\xc7\x03\xff\0\0\0", "no msgpack in the hello: .*"),  # an odd timestamp
    ],
)
def test_bytes_that_are_no_hello(frame, text):
    with pytest.raises(ValueError, match=f"^{text}"):
        hello.decode(frame)


def test_the_text_shows_only_the_start_of_a_long_value():
    with pytest.raises(ValueError, match=r"^compression \[0, 0,.* in the hello") as caught:
        hello.decode(msgpack.packb({"compression": [0] * 4000}))
    assert len(str(caught.value)) < 150


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_a_pickle_marker_is_an_odd_map():
    bomb = pickle.dumps(Bomb())
    for message in (
        {"__Pickled__": 1},
        {"__Pickled__": bomb},
        {"__Serialized__": 1, "python": [3]},
        {"__Enum__": True, "name": "A", "__module__": "os", "__name__": "x"},
    ):
        with pytest.raises(ValueError, match=r"^pickle-protocol None in the hello"):
            hello.decode(msgpack.packb(message))
    with pytest.raises(ValueError, match=r"^python \{'__Pickled__': 1\} in the hello"):
        hello.decode(msgpack.packb({"python": {"__Pickled__": 1}, "pickle-protocol": 5}))


scalars = st.one_of(st.none(), st.booleans(), st.integers(-9, 300), st.text(max_size=3))
odd_maps = st.dictionaries(
    st.sampled_from(["compression", "python", "pickle-protocol", "distributed_comm", "x"]),
    st.one_of(scalars, st.lists(scalars), st.dictionaries(scalars, scalars)),
).map(msgpack.packb)


@given(
    st.one_of(st.binary(), odd_maps, hellos.map(hello.encode)),
    st.integers(0, 500),
    st.binary(max_size=2),
)
def test_anything_is_a_hello_or_a_value_error(frame, position, change):
    for data in (frame, frame[:position] + change + frame[position + 1 :]):
        try:
            found = hello.decode(data)
        except ValueError:
            continue
        assert hello.decode(hello.encode(found)) == found
