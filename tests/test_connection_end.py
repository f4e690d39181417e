"""How a connection ends, who is told what, and that hostile bytes do nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_comm._wire.connection import Connection
from distributed_comm._wire.states import State
from distributed_comm.errors import FatalCommClosedError, RemoteProtocolError
from distributed_comm.options import Limits

from .connecting import (
    DASKS,
    ENDS,
    GOODBYE,
    OURS,
    PING,
    PONG,
    A,
    B,
    check_end,
    connect,
    each_peer,
)  # fmt: skip
from .feeding import SCRATCH, feed, within
from .hostile import MIB, damage, hostile, message, numbers

pytestmark = pytest.mark.usefixtures("kernels")


# -- our end ---------------------------------------------------------------------------


def test_we_say_goodbye_to_who_understands_it_and_once():
    connection = connect(OURS)
    assert b"".join(connection.close()) == GOODBYE
    assert connection.close() == []
    check_end(connection, "closed by this side", clean=True)
    connection.end()
    assert connection.state is State.CLOSED
    assert connection.close() == []
    check_end(connection, "closed by this side", clean=True)


@pytest.mark.parametrize("state", ["handshake", "dask", "left", "closed"])
def test_nobody_else_gets_a_goodbye(state):
    connection = connect(*{"handshake": [], "dask": [DASKS]}.get(state, [OURS]))
    if state == "left":
        connection.end()
    elif state == "closed":
        connection.lose("lost")
    assert connection.close() == []
    assert connection.state is (State.LEAVING if state == "dask" else State.CLOSED)


# -- the peer's end -----------------------------------------------------------------------

DURING = "the peer closed the connection during the handshake"
INSIDE = "the connection ended inside a message"
NO_GOODBYE = "the connection was lost: it ended without a goodbye"


@pytest.mark.parametrize(
    ("received", "text", "clean"),
    [
        ([], DURING, False),
        ([OURS[:5]], INSIDE, False),
        ([DASKS[:-1]], INSIDE, False),
        ([OURS], NO_GOODBYE, False),
        ([OURS, GOODBYE], "closed by the peer", True),
        ([DASKS], "closed by the peer", True),
        ([OURS, GOODBYE[:-1]], INSIDE, False),
        ([OURS, PING, PONG, GOODBYE], "closed by the peer", True),
        ([OURS, PING], NO_GOODBYE, False),
        ([OURS, A[:-1]], INSIDE, False),
        ([DASKS, A[:1]], INSIDE, False),
        ([DASKS, message(16, [900]), bytes(899)], INSIDE, False),
    ],
)
def test_the_end_of_stream(received, text, clean):
    connection = connect(*received)
    connection.end()
    assert connection.state is (State.CLOSED if connection.remote is None else State.LEFT)
    check_end(connection, text, clean=clean)


@each_peer
def test_an_end_of_stream_at_every_byte_of_a_message(greeting):
    for size in range(1, len(B)):
        connection = connect(greeting, B[:size])
        connection.end()
        check_end(connection, INSIDE)


def test_after_a_failed_send_the_rest_is_read_until_the_end():
    connection = connect(OURS)
    cause = BrokenPipeError("gone")
    connection.stop_sending(cause)
    assert connection.state is State.MUTE
    assert feed(connection, A + GOODBYE) == [[b"a"]]
    connection.end()
    assert connection.state is State.LEFT
    check_end(connection, "sending failed: gone", cause=BrokenPipeError)
    assert connection.closed_error().__cause__ is cause


def test_a_goodbye_is_an_end_in_order_before_the_end_of_the_stream():
    connection = connect(OURS, GOODBYE)
    assert connection.state is State.FAREWELL
    assert connection.loss() is None
    connection.end()
    assert connection.loss() is None


def test_nor_does_a_goodbye_make_good_what_could_not_be_sent():
    connection = connect(OURS)
    connection.stop_sending(BrokenPipeError("gone"))
    assert feed(connection, GOODBYE) == []
    assert connection.state is State.FAREWELL
    assert str(connection.loss()) == "sending failed: gone" + ENDS


# -- the first reason -----------------------------------------------------------------------


def test_a_lost_connection_keeps_its_cause():
    connection = connect(OURS)
    cause = ConnectionResetError("reset")
    connection.lose("the connection was lost: reset", cause)
    check_end(connection, "the connection was lost: reset", cause=ConnectionResetError)
    assert connection.closed_error().__cause__ is cause


REASONS = {
    "closed by this side": Connection.close,
    NO_GOODBYE: Connection.end,
    "aborted": lambda connection: connection.lose("aborted", OSError()),
    "sending failed: full": lambda connection: connection.stop_sending(OSError("full")),
    "protocol error: a message of no frames": lambda connection: feed(connection, message(8, [])),
}


@pytest.mark.parametrize("first", REASONS)
def test_the_first_reason_stays(first):
    for later in REASONS.values():
        connection = connect(OURS)
        REASONS[first](connection)
        before = connection.closed_error()
        later(connection)
        after = connection.closed_error()
        assert str(before) == str(after) == first + ENDS
        assert (type(before), before.clean) == (type(after), after.clean)
        assert before.__cause__ is after.__cause__


def test_an_open_connection_says_so():
    check_end(connect(OURS), "open")


def test_a_protocol_error_is_not_worth_another_attempt():
    connection = connect(message(0, [1]))
    assert isinstance(connection.closed_error(), FatalCommClosedError)
    assert str(connection.closed_error()).startswith("protocol error: ")


def test_closing_gives_memory_back():
    connection = connect(OURS, limits=Limits(message=16 * MIB))
    feed(connection, message(16, [9 * MIB]) + bytes(5 * MIB))
    view = connection.get_buffer()
    assert view.obj is not SCRATCH.obj
    connection.lose("lost")
    assert connection.get_buffer().obj is SCRATCH.obj


# -- anything at all ------------------------------------------------------------------------

REAL = OURS + A + PING + B + GOODBYE + A


@given(
    st.one_of(
        hostile,
        hostile.map(lambda data: OURS + data),
        st.builds(damage, st.just(REAL), st.integers(0, 300), numbers,
                  st.sampled_from(["number", "byte", "cut", "lost", "more"])),
    ),
    st.lists(st.integers(1, 100), min_size=1),
)  # fmt: skip
def test_whatever_comes_is_messages_or_a_protocol_error(data, sizes):
    def attempt():
        connection = connect()
        return connection, feed(connection, data, sizes)

    connection, messages = within(100 * len(data) + 64 * 1024, attempt)
    connection.end()
    error = connection.closed_error()
    if type(error) is RemoteProtocolError:
        assert isinstance(error.__cause__, ValueError)
        assert not error.clean
    else:
        assert str(error).removesuffix(ENDS) in {DURING, INSIDE, NO_GOODBYE, "closed by the peer"}
    assert sum(len(frame) for frames in messages for frame in frames) <= len(data)
