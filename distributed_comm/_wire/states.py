"""The states of a connection, what moves it, and the one table of both."""

from enum import Enum

__all__ = [
    "BROKEN", "CLOSE", "CLOSED", "END", "EXPECT_HELLO", "EXPECT_PROOF", "FAREWELL", "GOODBYE",
    "HANDSHAKE", "HELLO", "LEAVING", "LEFT", "LOST", "MUTE", "OPEN", "PROOF", "PROVING_HELLO",
    "TRANSITIONS", "Event", "State",
]  # fmt: skip


class State(Enum):
    """Where a connection is in its life."""

    EXPECT_HELLO = "expect hello"  # the first message of the peer has not come
    EXPECT_PROOF = "expect proof"  # its hello has, and its proof that it holds our key has not
    OPEN = "open"
    MUTE = "mute"  # nothing can be sent any more; what the peer had sent still arrives
    FAREWELL = "farewell"  # the peer said goodbye, and only its end may come; the rest can be read
    LEAVING = "leaving"  # we said goodbye; what still comes is discarded
    LEFT = "left"  # the peer ended; what it had sent can be read
    CLOSED = "closed"

    __hash__ = object.__hash__  # that of an enum is a function in Python


#: Names of their own: before Python 3.12 looking up an enum's member takes a failed lookup.
EXPECT_HELLO, EXPECT_PROOF, OPEN, MUTE, FAREWELL, LEAVING, LEFT, CLOSED = State
#: The states in which it is not known yet who the peer is.
HANDSHAKE = frozenset({EXPECT_HELLO, EXPECT_PROOF})


class Event(Enum):
    """What moves a connection from one state to another."""

    HELLO = "hello"  # the peer's hello has come, and no proof was agreed on
    PROVING_HELLO = "proving hello"  # it has come, and a proof has to follow
    PROOF = "proof"  # the peer's proof has come, right or wrong
    GOODBYE = "goodbye"  # the peer has sent all that it will
    CLOSE = "close"  # our side closes
    BROKEN = "broken"  # the stream takes no more bytes
    END = "end"  # the peer's end of stream
    LOST = "lost"  # abort, a lost connection, a protocol error, the peer's refusal

    __hash__ = object.__hash__


HELLO, PROVING_HELLO, PROOF, GOODBYE, CLOSE, BROKEN, END, LOST = Event

#: A message of the peer's that is not here for a state is a protocol error. The other events are
#: here for every state.
TRANSITIONS = {
    (EXPECT_HELLO, HELLO): OPEN,
    (EXPECT_HELLO, PROVING_HELLO): EXPECT_PROOF,
    (EXPECT_HELLO, CLOSE): CLOSED,
    (EXPECT_HELLO, BROKEN): CLOSED,
    (EXPECT_HELLO, END): CLOSED,
    (EXPECT_HELLO, LOST): CLOSED,
    (EXPECT_PROOF, PROOF): OPEN,
    (EXPECT_PROOF, CLOSE): CLOSED,
    (EXPECT_PROOF, BROKEN): CLOSED,
    (EXPECT_PROOF, END): CLOSED,
    (EXPECT_PROOF, LOST): CLOSED,
    (OPEN, GOODBYE): FAREWELL,
    (OPEN, CLOSE): LEAVING,
    (OPEN, BROKEN): MUTE,
    (OPEN, END): LEFT,
    (OPEN, LOST): CLOSED,
    (MUTE, GOODBYE): FAREWELL,
    (MUTE, CLOSE): CLOSED,
    (MUTE, BROKEN): MUTE,
    (MUTE, END): LEFT,
    (MUTE, LOST): CLOSED,
    (FAREWELL, GOODBYE): FAREWELL,
    (FAREWELL, CLOSE): LEAVING,
    (FAREWELL, BROKEN): FAREWELL,
    (FAREWELL, END): LEFT,
    (FAREWELL, LOST): CLOSED,
    (LEAVING, GOODBYE): LEAVING,
    (LEAVING, CLOSE): LEAVING,
    (LEAVING, BROKEN): CLOSED,
    (LEAVING, END): CLOSED,
    (LEAVING, LOST): CLOSED,
    (LEFT, GOODBYE): LEFT,
    (LEFT, CLOSE): CLOSED,
    (LEFT, BROKEN): LEFT,
    (LEFT, END): LEFT,
    (LEFT, LOST): CLOSED,
    (CLOSED, GOODBYE): CLOSED,
    (CLOSED, CLOSE): CLOSED,
    (CLOSED, BROKEN): CLOSED,
    (CLOSED, END): CLOSED,
    (CLOSED, LOST): CLOSED,
}
