"""One connection's life: every event in every state, the hello and control messages."""

import re
from itertools import chain, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_comm._wire import hello
from distributed_comm._wire.connection import Connection
from distributed_comm._wire.hello import Hello
from distributed_comm._wire.proof import Proving, Role
from distributed_comm._wire.states import HANDSHAKE, TRANSITIONS, Event, State
from distributed_comm.errors import RemoteProtocolError
from distributed_comm.options import Limits

from .connecting import (
    DASKS,
    ENDS,
    GOODBYE,
    OURS,
    PING,
    PONG,
    SENT,
    A,
    B,
    check_end,
    connect,
    each_peer,
)  # fmt: skip
from .feeding import FULL, feed, peak_of_memory
from .hostile import honest, message

pytestmark = pytest.mark.usefixtures("kernels")


# -- the table --------------------------------------------------------------------

NO_ROOM = OSError("full")

KEY = bytes(32)
PROVING = honest([Proving(KEY, Role.DIALLER, "here").ours])

#: How a connection gets into each state, and what can then move it.
WAYS = {
    State.EXPECT_HELLO: lambda: connect(proving=Proving(KEY, Role.LISTENER, "here")),
    State.EXPECT_PROOF: lambda: moved(WAYS[State.EXPECT_HELLO](), lambda c: feed(c, PROVING)),
    State.OPEN: lambda: connect(OURS),
    State.MUTE: lambda: moved(connect(OURS), lambda connection: connection.stop_sending(NO_ROOM)),
    State.FAREWELL: lambda: connect(OURS + GOODBYE),
    State.LEAVING: lambda: moved(connect(OURS), Connection.close),
    State.LEFT: lambda: moved(connect(OURS), Connection.end),
    State.CLOSED: lambda: moved(connect(OURS), lambda connection: connection.lose("lost")),
}
MOVES = {
    Event.HELLO: [lambda connection: feed(connection, OURS)],
    Event.PROVING_HELLO: [lambda connection: feed(connection, PROVING)],
    Event.PROOF: [lambda connection: feed(connection, honest([b"\xc7\x21\xbc\4" + bytes(32)]))],
    Event.GOODBYE: [lambda connection: feed(connection, GOODBYE)],
    Event.CLOSE: [Connection.close],
    Event.BROKEN: [lambda connection: connection.stop_sending(NO_ROOM)],
    Event.END: [Connection.end],
    Event.LOST: [lambda connection: connection.lose("lost")],
}


def moved(connection, move):
    move(connection)
    return connection


def test_the_table_names_every_event_in_every_state():
    """But what belongs to the handshake, or does not: it is a message of the wrong kind."""
    begins = {Event.HELLO, Event.PROVING_HELLO, Event.PROOF}
    wrong = {(state, event) for state in State for event in begins}
    wrong |= {(state, Event.GOODBYE) for state in HANDSHAKE}
    wrong -= {(State.EXPECT_HELLO, Event.HELLO), (State.EXPECT_HELLO, Event.PROVING_HELLO)}
    wrong -= {(State.EXPECT_PROOF, Event.PROOF)}
    assert TRANSITIONS.keys() == set(product(State, Event)) - wrong


@pytest.mark.parametrize(("state", "event"), TRANSITIONS, ids=str)
def test_every_event_in_every_state(state, event):
    for move in MOVES[event]:
        connection = WAYS[state]()
        assert connection.state is state
        move(connection)
        if (state, event) == (State.FAREWELL, Event.GOODBYE):  # nothing may come behind the first
            assert connection.state is State.LEAVING
        else:
            assert connection.state is TRANSITIONS[state, event]


@pytest.mark.parametrize("state", State)
def test_a_wrong_message_ends_the_connection_and_an_open_one_with_a_reason(state):
    connection = WAYS[state]()
    assert feed(connection, message(0, [1])) == []
    if state in {State.OPEN, State.FAREWELL}:
        assert connection.state is State.LEAVING
        why = b"protocol error: a first block of 0 bytes, expected 16 for 1 lengths"
        if state is State.FAREWELL:
            why = b"protocol error: bytes after the goodbye"
        [said] = connection.last_words
        assert said == honest([b"\xc7" + bytes([1 + len(why)]) + b"\xbc\x08" + why])
    else:
        assert connection.state is TRANSITIONS[state, Event.LOST]
        assert not connection.last_words


def test_closed_is_the_end():
    assert {there for (state, _), there in TRANSITIONS.items() if state is State.CLOSED} == {
        State.CLOSED
    }


any_moves = st.sampled_from([*chain(*MOVES.values()), lambda c: feed(c, A + GOODBYE)])


@given(st.lists(any_moves))
def test_events_in_any_order(moves):
    connection = connect()
    states = [connection.state]
    for move in moves:
        move(connection)
        states.append(connection.state)
    rank = {State.EXPECT_HELLO: 0, State.EXPECT_PROOF: 1, State.OPEN: 2, State.MUTE: 3}
    rank |= {State.FAREWELL: 4, State.LEAVING: 5, State.LEFT: 5, State.CLOSED: 6}
    ranks = [rank[state] for state in states]
    assert ranks == sorted(ranks)
    assert str(connection.closed_error()).endswith(ENDS)


# -- the hello -------------------------------------------------------------------------


def test_the_hello_that_we_send():
    assert b"".join(connect().hello()) == SENT


@each_peer
def test_the_hello_opens_and_what_follows_it_is_read(greeting):
    stream = greeting + A + B
    for split in range(1, len(stream)):
        connection = connect()
        messages = feed(connection, stream, [split, FULL])
        assert messages == [[b"a"], [b"b", b"bb"]]
        assert connection.state is State.OPEN
        assert connection.remote == hello.decode(greeting[24:])


def test_the_limits_of_before_and_after_the_hello():
    long = honest([bytes(990)] + [b"x"] * 8)
    check_end(
        connect(long),
        "protocol error: a message of 9 frames exceeds the limit of 1",
        kind=RemoteProtocolError,
        cause=ValueError,
    )
    connection = connect(OURS)
    assert len(feed(connection, long)) == 1
    assert feed(connection, honest([bytes(1001)])) == []
    text = "protocol error: a message of at least 1001 bytes exceeds the limit of 1000"
    text += " (Limits.message)"
    check_end(connection, text, kind=RemoteProtocolError, cause=ValueError)


def test_without_a_cap_only_the_number_itself_is_one():
    connection = connect(OURS, limits=Limits(message=None))
    assert feed(connection, message(16, [2**62])) == []
    assert connection.state is State.OPEN


@pytest.mark.parametrize("size", [4096, 4097])
def test_a_hello_has_at_most_4_kib(size):
    frame = hello.encode(Hello("c" * 4000, (), 5, None))
    frame = hello.encode(Hello("c" * (4000 + size - len(frame)), (), 5, None))
    assert len(frame) == size
    connection = connect(honest([frame]))
    if size == 4096:
        assert connection.state is State.OPEN
    else:
        text = "protocol error: a message of at least 4097 bytes exceeds the limit of 4096"
        check_end(connection, text, kind=RemoteProtocolError, cause=ValueError)


def test_a_stranger_costs_nothing():
    connection = connect()
    data = message(16, [2**34]) + bytes(50_000)
    with peak_of_memory() as peak:
        feed(connection, data)
    assert connection.state is State.CLOSED
    assert peak[0] < 8 * 1024


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (honest([b"\x91\x01"]), "the hello is a list, expected a map"),
        (honest([b"\xc1"]), "0xc1 is not msgpack"),
        (honest([b"\x81\xac__Pickled__\x01"]), "truncated msgpack"),
        (honest([b"\x81\xab__Pickled__\x01"]), "pickle-protocol None in the hello, .*"),
        (GOODBYE, "a control message that was not agreed on"),
        (honest([b"GET / HTTP/1.1"]), "13 bytes after the msgpack object"),
    ],
)
def test_what_is_no_hello(sent, text):
    connection = connect(sent + A + B)
    assert connection.state is State.CLOSED
    error = connection.closed_error()
    assert type(error) is RemoteProtocolError
    assert re.fullmatch(f"protocol error: {text}{re.escape(ENDS)}", str(error))
    assert isinstance(error.__cause__, ValueError)
    assert connection.remote is None
    assert feed(connection, OURS + A) == []


# -- control messages ------------------------------------------------------------------


def test_a_goodbye_is_no_message_and_not_the_end():
    connection = connect(OURS)
    assert feed(connection, A + GOODBYE) == [[b"a"]]
    assert connection.state is State.FAREWELL
    check_end(connection, "closed by the peer", clean=True)


@pytest.mark.parametrize("later", [A, B[:1], GOODBYE, PING, PONG, message(0, [1])])
def test_nothing_may_come_behind_a_goodbye(later):
    stream = A + GOODBYE + later
    for split in range(len(OURS + A), len(OURS + stream)):
        connection = connect()
        assert feed(connection, OURS + stream, [split, FULL]) == [[b"a"]]
        text = "protocol error: bytes after the goodbye"
        check_end(connection, text, kind=RemoteProtocolError, cause=ValueError)
    assert feed(connection, A) == []


def test_a_ping_is_answered_where_it_is_received_and_is_no_message():
    connection, answers = connect(OURS), []
    connection.respond = answers.append
    assert feed(connection, PING + A + PING + PONG) == [[b"a"]]
    assert b"".join(map(b"".join, answers)) == PONG * 2
    assert b"".join(connection.ping()) == PING


def test_a_ping_is_not_answered_once_we_said_goodbye_or_cannot_send():
    for leave in (Connection.close, lambda connection: connection.stop_sending(NO_ROOM)):
        connection = connect(OURS)
        connection.respond = pytest.fail
        leave(connection)
        feed(connection, PING)


def test_a_dask_peer_is_not_pinged():
    assert connect(DASKS).ping() == []


def test_a_closed_connection_refers_to_nobody_who_sends():
    connection = connect(OURS)
    connection.respond = pytest.fail
    connection.lose("lost")
    assert connection.respond != pytest.fail


@pytest.mark.parametrize(
    ("greeting", "control", "text"),
    [
        (DASKS, GOODBYE, "a control message that was not agreed on"),
        (DASKS, PING, "a control message that was not agreed on"),
        *[
            (
                OURS,
                honest([b"\xc7\x02\xbc" + bytes([kind, 0])]),
                f"a {name} with 1 bytes of payload",
            )
            for kind, name in enumerate(["goodbye", "ping", "pong"], 1)
        ],
        (OURS, honest([b"\xc7\x01\xbc\x63"]), "99 is not a valid Kind"),
        (
            OURS,
            honest([b"\xc7\x00\xbc"]),
            "a control message of 3 bytes that states another length",
        ),
    ],
)
def test_a_control_message_that_is_wrong(greeting, control, text):
    connection = connect(greeting)
    assert feed(connection, A + control + B) == [[b"a"]]
    text = f"protocol error: {text}"
    check_end(connection, text, kind=RemoteProtocolError, cause=ValueError)
    assert feed(connection, B) == []
