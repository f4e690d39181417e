"""Control messages: bytes of their own, which no object and no Dask message has."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_comm._wire import control
from distributed_comm._wire.control import Kind

pytestmark = pytest.mark.usefixtures("kernels")


def test_the_bytes_of_each_kind():
    for number, kind in enumerate((Kind.GOODBYE, Kind.PING, Kind.PONG), 1):
        assert control.encode(kind) == b"\xc7\x01\xbc" + bytes([number])


@given(st.sampled_from(Kind), st.binary(max_size=254))
def test_what_was_encoded_is_decoded(kind, payload):
    assert control.decode(control.encode(kind, payload)) == (kind, payload)


@given(st.sampled_from(Kind), st.binary(max_size=254))
def test_to_msgpack_it_is_one_object_of_a_reserved_type(kind, payload):
    frame = control.encode(kind, payload)
    unpacker = msgpack.Unpacker()
    unpacker.feed(frame)
    unpacker.skip()
    assert unpacker.tell() == len(frame)
    with pytest.raises(ValueError, match=r"code must be 0~127"):
        msgpack.ExtType(int.from_bytes(frame[2:3], "big", signed=True), frame[3:])


def test_a_payload_that_is_too_long():
    with pytest.raises(ValueError, match=r"range\(0, 256\)"):
        control.encode(Kind.GOODBYE, bytes(255))


@pytest.mark.parametrize("kind", sorted({0, 9, 127, 128, 255} - set(Kind)))
def test_an_unknown_kind(kind):
    with pytest.raises(ValueError, match=rf"^{kind} is not a valid Kind$"):
        control.decode(bytes([0xC7, 1, 0xBC, kind]))


@pytest.mark.parametrize(
    "frame", [b"\xc7\x00\xbc", b"\xc7\x00\xbc\x01", b"\xc7\x02\xbc\x01", b"\xc7\x01\xbc\x01\x02"]
)
def test_a_wrong_length(frame):
    match = rf"^a control message of {len(frame)} bytes that states another length$"
    with pytest.raises(ValueError, match=match):
        control.decode(frame)


@given(st.binary(min_size=1))
def test_any_frame_like_it_is_decoded_or_a_value_error(rest):
    frame = b"\xc7" + rest[:1] + b"\xbc" + rest[1:]
    try:
        kind, payload = control.decode(frame)
    except ValueError:
        return
    assert control.encode(kind, payload) == frame
