"""The states of a connection, what moves it, and the one table of both."""

from enum import Enum

__all__ = [
    "BROKEN", "CLOSE", "CLOSED", "END", "HANDSHAKE", "HELLO", "LEAVING", "LEFT", "LOST", "MUTE",
    "OPEN", "TRANSITIONS", "Event", "State",
]  # fmt: skip


class State(Enum):
    """Where a connection is in its life."""

    HANDSHAKE = "handshake"  # the peer's hello, or its proof, has not come
    OPEN = "open"
    MUTE = "mute"  # nothing can be sent any more; what the peer had sent still arrives
    LEAVING = "leaving"  # we said goodbye; what still comes is discarded
    LEFT = "left"  # the peer ended; what it had sent can be read
    CLOSED = "closed"

    __hash__ = object.__hash__  # that of an enum is a function in Python


#: Names of their own: before Python 3.12 looking up an enum's member takes a failed lookup.
HANDSHAKE, OPEN, MUTE, LEAVING, LEFT, CLOSED = State


class Event(Enum):
    """What moves a connection from one state to another."""

    HELLO = "hello"  # the peer's hello has come, and its proof where one was agreed on
    CLOSE = "close"  # our side closes
    BROKEN = "broken"  # the socket takes no more bytes
    END = "end"  # the peer's end of stream
    LOST = "lost"  # abort, a lost connection, a protocol error

    __hash__ = object.__hash__


HELLO, CLOSE, BROKEN, END, LOST = Event

TRANSITIONS = {
    (HANDSHAKE, HELLO): OPEN,
    (HANDSHAKE, CLOSE): CLOSED,
    (HANDSHAKE, BROKEN): CLOSED,
    (HANDSHAKE, END): CLOSED,
    (HANDSHAKE, LOST): CLOSED,
    (OPEN, CLOSE): LEAVING,
    (OPEN, BROKEN): MUTE,
    (OPEN, END): LEFT,
    (OPEN, LOST): CLOSED,
    (MUTE, CLOSE): CLOSED,
    (MUTE, BROKEN): MUTE,
    (MUTE, END): LEFT,
    (MUTE, LOST): CLOSED,
    (LEAVING, CLOSE): LEAVING,
    (LEAVING, BROKEN): CLOSED,
    (LEAVING, END): CLOSED,
    (LEAVING, LOST): CLOSED,
    (LEFT, CLOSE): CLOSED,
    (LEFT, BROKEN): LEFT,
    (LEFT, END): LEFT,
    (LEFT, LOST): CLOSED,
    (CLOSED, CLOSE): CLOSED,
    (CLOSED, BROKEN): CLOSED,
    (CLOSED, END): CLOSED,
    (CLOSED, LOST): CLOSED,
}
