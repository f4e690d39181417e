"""One connection's life, without its socket: states, hello, goodbye, end of stream.

`states.TRANSITIONS` is the state machine and `Connection._move` the only place that moves it.
Nothing here raises because of what a peer sent: the first thing that ended the
connection is kept, and `closed_error` builds the exception for everybody who asks.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from .._frames import Frames
from .._text import SHORT, printable
from ..errors import CommClosedError, FatalCommClosedError, MessageError, RemoteProtocolError
from ..options import Limits
from . import control
from .budget import Budget
from .control import ASK, GOODBYE, PING, PONG, PROOF, REASON, REFUSAL, TERMS
from .framing import Framing, MakeFraming
from .hello import Hello, decode, local_hello
from .hello import encode as encode_hello
from .length_framing import LengthFraming
from .peer_limits import Terms, Unsettled, accepted, excess
from .proof import REMEDY, SIZE, Proving
from .states import (
    BROKEN,
    CLOSE,
    CLOSED,
    END,
    EXPECT_HELLO,
    EXPECT_PROOF,
    FAREWELL,
    HANDSHAKE,
    HELLO,
    LEAVING,
    LOST,
    MUTE,
    OPEN,
    PROVING_HELLO,
    TRANSITIONS,
    Event,
    State,
)  # fmt: skip

__all__ = ["Connection", "Layer"]

#: A message limit of None, as a number that every length is below.
NO_CAP = (1 << 63) - 1
#: The class and the cause of the error of a connection that has not failed.
NO_FAILURE: tuple[type[CommClosedError], BaseException | None] = (CommClosedError, None)
#: How many of the first bytes are looked at: F and N of a message.
START = 16
#: How many of them are shown.
SHOWN = 10
#: Part of the framing's error for a message that is longer than a limit.
LIMIT = "exceeds the limit"
REFUSED = f"the peer does not trust this side, and has require_trust=True: {REMEDY}"


class Layer(Protocol):
    """Stands between a connection and its framing, and hands on the messages."""

    framing: Framing

    def receive(self, nbytes: int) -> list[Frames]:
        """Do what the framing's does."""


class Connection:
    """The state of one connection and the bytes it sends and receives.

    ``local`` and ``peer`` are addresses for error texts; ``framing`` cuts bytes into messages,
    by lengths unless it is told otherwise; ``codecs`` are those that may compress frames. With
    ``proving`` a peer may show that it holds our key, and is shown that we do; the handshake
    ends with its proof, if it said that it has one.
    """

    __slots__ = (
        "_asked", "_began", "_clean", "_codecs", "_failure", "_framing", "_greeting", "_layer",
        "_limits", "_proving", "_trusts", "_why", "complaint", "encode", "get_buffer",
        "last_words", "local", "peer", "proven", "receive", "refused", "relayed", "remote",
        "respond", "said", "settled", "state", "terms",
    )  # fmt: skip

    def __init__(
        self,
        scratch: memoryview,
        limits: Limits,
        local: str,
        peer: str,
        framing: MakeFraming = LengthFraming,
        codecs: Sequence[str] = (),
        proving: Proving | None = None,
    ) -> None:
        self._limits = limits
        self._codecs = codecs
        self._proving = proving  # until the handshake is done
        self._greeting: Hello | None = None  # the peer's hello, while its proof is awaited
        self._framing = framing(scratch, limits.hello, 1, self._obey, self._accuse)
        self._layer: Layer | None = None  # what looks at the messages of an open connection
        self._began = b""  # the first bytes of the peer, until its hello has come
        self._trusts: bool | None = None  # whether we trust the peer, once that is decided …
        self._asked = False  # … which it wants to know
        self._why = ""
        self._clean = False
        self._failure = NO_FAILURE
        self.local = local
        self.peer = peer
        self.state: State = EXPECT_HELLO
        #: The peer's hello, once the handshake is done.
        self.remote: Hello | None = None
        #: Whether the peer has shown that it holds our key …
        self.proven = False
        #: … and whether it did so through something that passes on what others send.
        self.relayed = False
        #: Whether the peer has said that it does not trust us, and requires that.
        self.refused = False
        #: Why the connection ends, if the peer has said so, or if it was lost after our goodbye.
        self.complaint = ""
        #: The bytes to send before the connection ends, if we have cut it; else None.
        self.last_words: list[bytes | memoryview] | None = None
        #: The limits of the peer: both sets, or one once it is known which applies; or None.
        self.terms: tuple[Terms, ...] | None = None
        #: Whether the peer was told which of our limits apply.
        self.said = False
        #: Called when the peer has said which of its limits apply.
        self.settled: Callable[[], None] = _nobody_waits
        #: Called with the bytes that a control message asks for, and with our proof; set by the
        #: channel, which sends them.
        self.respond: Callable[[list[bytes | memoryview]], None] = _ignore
        #: Return the bytes of a message's frames as buffers; for an open connection.
        self.encode = self._framing.encode
        #: Return where the next received bytes belong, until they are.
        self.get_buffer = self._framing.get_buffer
        #: Return the messages that so many bytes, just written there, complete. It goes by the
        #: state; once the connection is open it is the framing's own method.
        self.receive: Callable[[int], list[Frames]] = self._receive_hello

    # -- sending ---------------------------------------------------------------

    def hello(self) -> list[bytes | memoryview]:
        """Return the bytes of our hello, the first that are sent."""
        proving = self._proving
        if proving is not None:
            return self.encode([proving.ours])
        return self.encode([encode_hello(local_hello(self._codecs, terms=accepted(self._limits)))])

    def close(self) -> list[bytes | memoryview]:
        """Close our side; return the bytes of the goodbye, if one is to be said."""
        said = self.goodbye() if self.state in {OPEN, FAREWELL} else []
        self._move(CLOSE, "closed by this side", clean=True)
        return said

    def refuse(self, why: str) -> list[bytes | memoryview]:
        """Close our side to a peer that may not come in; return the bytes that tell it so.

        One that would not understand them is told nothing, and gone at once.
        """
        if self.state is OPEN and self.remote is not None and self.remote.hears_refusals:
            self._move(CLOSE, why)
            return self.encode([control.encode(REFUSAL)])
        self._move(LOST, why)
        return []

    def cut(
        self,
        why: str,
        kind: type[CommClosedError] = CommClosedError,
        cause: Exception | None = None,
    ) -> None:
        """End the connection because of what the peer did; leave `last_words` that say why.

        A peer that would not understand them is gone at once.
        """
        if self.remote is not None and self.state in {OPEN, MUTE, FAREWELL}:
            self.last_words = [] if self.state is MUTE else self.reason(why)
        if self.last_words:
            self._move(CLOSE, why, kind, cause)
            self._framing.drop()
        else:
            self._move(LOST, why, kind, cause)

    def reason(self, why: str) -> list[bytes | memoryview]:
        """Return the bytes that say why we end the connection; none if the peer knows none."""
        if self.remote is None or not self.remote.hears_reasons:
            return []
        return self.encode([control.encode_reason(why)])

    def ask(self) -> list[bytes | memoryview]:
        """Return the bytes that ask which of `terms` apply."""
        return self.encode([control.encode(ASK)])

    def judged(self, trusted: bool) -> None:
        """Take note of whether we trust the peer, and answer it if it has asked."""
        self._trusts = trusted
        if self._asked:
            self._answer()

    def _answer(self) -> None:
        """Tell a peer that has asked which limits apply, unless it knows or it is undecided."""
        verdict = self.verdict()
        if verdict:
            self.respond(verdict)

    def verdict(self) -> list[bytes | memoryview]:
        """Return the bytes that say which of our limits apply, once; the sender adds them.

        They go in front of our first message, or answer a question. So a peer that has received
        anything knows them. If it had to ask while it does not read, it might wait for ever.
        """
        if self.said or self._trusts is None or self.remote is None:
            return []
        self.said = True
        if not self.remote.hears_reasons:
            return []
        return self.encode([control.encode(TERMS, bytes([self._trusts]))])

    def check(self, frames: Frames, *, heard: bool) -> None:
        """Compare a message with what the peer accepts: MessageError, or Unsettled.

        ``heard``: a message of the peer has come. In front of it, it would have said that it trusts
        us.
        """
        known = self.terms
        if known is None:
            return
        if len(known) == 2 and heard:
            known = self.terms = known[:1]
        wrong = [excess(terms, frames) for terms in known]
        if all(wrong):
            raise MessageError(
                f"a message of {wrong[-1]}, by CommOptions(limits=Limits(…)), or split it; nothing "
                f"was sent ({self.local} -> {self.peer})"
            )
        if any(wrong):
            raise Unsettled

    @property
    def compression(self) -> str | None:
        """The codec to compress by, for this peer."""
        return None if self.remote is None else self.remote.best_codec(self._codecs)

    def goodbye(self) -> list[bytes | memoryview]:
        """Return the bytes of a goodbye, for an open connection; none if the peer knows none."""
        if self.remote is None or not self.remote.says_goodbye:
            return []
        return self.encode([control.encode(GOODBYE)])

    def ping(self) -> list[bytes | memoryview]:
        """Return the bytes of a ping, for an open connection; none if the peer knows none."""
        if self.remote is None or not self.remote.says_goodbye:
            return []
        return self.encode([control.encode(PING)])

    # -- receiving -------------------------------------------------------------

    def _receive_hello(self, nbytes: int) -> list[Frames]:
        """Take the peer's hello; return the messages that came right behind it."""
        began = len(self._began)
        if began < START:
            self._began += bytes(self._framing.get_buffer()[: min(nbytes, START - began)])
        if not began and _is_tls(self._began):
            self._began = b""
            self.respond([])  # sends our hello, if that still waits: the peer sees plain bytes
            self._accuse(ValueError("the peer speaks TLS, and this side does not: dial tls://"))
            return []
        messages = self._framing.receive(nbytes)
        if not messages:
            if self.state is EXPECT_HELLO and self._is_noise():
                self._accuse(ValueError("no hello"))
            return []
        self._began = b""
        frame = bytes(messages[0][0])
        try:
            remote = decode(frame)
        except ValueError as exc:
            self._accuse(exc)
            return []
        if self._proving is None or remote.nonce is None:
            self._proving = None
            return self._framing.open(*self._open(HELLO, remote))
        self._proving.hear(frame)
        self._greeting = remote
        self.respond(self.encode([control.encode(PROOF, self._proving.prove())]))
        if self.state is EXPECT_HELLO:  # sending it may have failed
            self._move(PROVING_HELLO)
        return self._expect_proof(self._framing.go_on())

    def _receive_proof(self, nbytes: int) -> list[Frames]:
        """Receive while the peer's proof has not come, which is obeyed like other control."""
        return self._expect_proof(self._framing.receive(nbytes))

    def _expect_proof(self, messages: list[Frames]) -> list[Frames]:
        """Let no message pass before the proof."""
        if messages and self.state is EXPECT_PROOF:
            self._accuse(ValueError("a message before the proof"))
            return []
        return messages

    def _receive_no_more(self, nbytes: int) -> list[Frames]:
        """Accuse a peer that goes on behind its goodbye."""
        if nbytes:
            self._accuse(ValueError("bytes after the goodbye"))
        return []

    def _open(self, event: Event, remote: Hello) -> tuple[int, int]:
        """End the handshake; return the limits that hold from now on."""
        self.remote = remote.without_proof()
        self.terms = remote.terms if remote.hears_reasons else None
        self._greeting = None
        self._move(event)
        limit = self._limits.message
        frames = self._limits.frames + remote.enveloped  # the head is not a frame of the user's
        return NO_CAP if limit is None else limit, frames

    def share(self, budget: Budget) -> None:
        """Take the memory for messages from the budget of all who are not trusted."""
        self._framing.share(budget)

    def receive_through(self, layer: Layer) -> None:
        """Have the messages of an open connection pass one more method, which looks at them."""
        layer.framing = self._framing
        self._layer = layer
        self._choose_receiver()

    def _obey(self, frame: bytes) -> None:
        """Act on a control message."""
        try:
            kind, payload = control.decode(frame)
            if kind is PROOF:
                self._check_proof(payload)
            elif not (self.remote and self.remote.says_goodbye):
                raise ValueError("a control message that was not agreed on")
            elif kind is REASON:
                self.complaint = printable(payload.decode(errors="replace"), SHORT)
            elif kind is TERMS:
                self._hear_terms(payload)
            elif payload:
                raise ValueError(f"a {kind.name.lower()} with {len(payload)} bytes of payload")
            elif kind is GOODBYE:
                self._hear_goodbye()
            elif kind is REFUSAL:
                self.refused = True
                self._move(LOST, REFUSED, FatalCommClosedError)
            elif kind is PING and self.state is OPEN:
                self.respond(self.encode([control.encode(PONG)]))
            elif kind is ASK and self.state is OPEN:
                self._asked = True
                self._answer()  # if it is decided; else it is about to be
            # a pong says all it has to say by coming
        except ValueError as exc:
            self._accuse(exc)

    def _check_proof(self, proof: bytes) -> None:
        """Compare the peer's proof, the last part of its handshake."""
        greeting, proving = self._greeting, self._proving
        if greeting is None or proving is None:
            raise ValueError("a proof that was not agreed on")
        if len(proof) != SIZE:
            raise ValueError(f"a proof of {len(proof)} bytes, expected {SIZE}")
        self.proven = proving.proves(proof)
        self.relayed = proving.is_relayed(greeting.endpoint)
        self._proving = None
        self._framing.lift(*self._open(Event.PROOF, greeting))

    def _hear_terms(self, payload: bytes) -> None:
        """Take note of which terms apply to what we send."""
        if payload not in {b"\0", b"\1"}:
            raise ValueError(f"terms {payload[:8]!r}, expected one byte, 0 or 1")
        if self.terms is not None and len(self.terms) == 2:
            self.terms = (self.terms[payload[0]],)
        self.settled()

    def _hear_goodbye(self) -> None:
        """Take note of the goodbye, behind which nothing may come."""
        if self._framing.unread:
            raise ValueError("bytes after the goodbye")
        self._move(Event.GOODBYE)

    def _accuse(self, cause: ValueError) -> None:
        """End the connection because of what the peer sent."""
        why = f"protocol error: {cause}"
        if self._is_noise():
            why = self._noise()
        elif self.state is OPEN and LIMIT in why:
            why += " (Limits.frames)" if " frames " in why else " (Limits.message)"
        self.cut(printable(why, SHORT), RemoteProtocolError, cause)

    def _is_noise(self) -> bool:
        """Whether what has come instead of a hello cannot even be the beginning of a message.

        Its lengths would be far beyond those of a hello.
        """
        return any(self._began[2:8]) or any(self._began[10:START])

    def _noise(self) -> str:
        return f"the peer does not speak this protocol; it began with {self._began[:SHOWN]!r}"

    @property
    def mid_message(self) -> bool:
        """Whether a message has begun to arrive, and not ended."""
        return self._framing.mid_message

    # -- the end ---------------------------------------------------------------

    def end(self) -> None:
        """Take note of the peer's end of stream."""
        if self.state is FAREWELL:
            self._move(END, self._goodbye_text(), clean=True)
        elif self.complaint:
            self._move(END, self._goodbye_text())
        elif self._framing.mid_message:
            self._move(END, "the connection ended inside a message")
        elif self.state in HANDSHAKE:
            self._move(END, "the peer closed the connection during the handshake")
        elif self.remote is None or not self.remote.says_goodbye:
            self._move(END, "closed by the peer", clean=True)
        else:
            self._move(END, "the connection was lost: it ended without a goodbye")

    def _goodbye_text(self) -> str:
        said = self.complaint
        return f"ended by the peer, which says: {said}" if said else "closed by the peer"

    def stop_sending(self, cause: OSError) -> None:
        """Take note that the socket takes no more bytes; what has arrived can be read."""
        self._move(BROKEN, f"sending failed: {cause}", cause=cause)

    def lose(
        self,
        why: str,
        cause: BaseException | None = None,
        kind: type[CommClosedError] = CommClosedError,
    ) -> None:
        """Take note that the connection is gone, or has to go at once."""
        if self.state is FAREWELL:  # so nothing is lost of what it sent
            self._move(END, self._goodbye_text(), clean=True)
        elif self.state is LEAVING and not self.complaint:
            self.complaint = f"{why}, before all that was sent had been taken"
        self._move(LOST, why, kind, cause)

    def _move(
        self,
        event: Event,
        why: str = "",
        kind: type[CommClosedError] = CommClosedError,
        cause: BaseException | None = None,
        *,
        clean: bool = False,
    ) -> None:
        """Follow the table; the first reason to leave stays the reason."""
        self.state = TRANSITIONS[self.state, event]
        if why and not self._why:
            self._why, self._clean, self._failure = why, clean, (kind, cause)
        self._choose_receiver()
        if self.state is CLOSED:
            self._framing.drop()
            self.respond = _ignore
            self.settled = _nobody_waits

    def _choose_receiver(self) -> None:
        """Have received bytes taken as the state asks for."""
        if self.state is EXPECT_HELLO:
            self.receive = self._receive_hello
        elif self.state is EXPECT_PROOF:
            self.receive = self._receive_proof
        elif self.state is FAREWELL:
            self.receive = self._receive_no_more
        else:
            self.receive = self._framing.receive if self._layer is None else self._layer.receive

    def loss(self) -> CommClosedError | None:
        """Return why what we have sent may not have arrived; None if nothing says so."""
        if self.state in HANDSHAKE or self.state is OPEN:
            return None
        clean = self._clean or (self.state is FAREWELL and not self._why)
        if clean and self.complaint:  # we had closed, and it has not ended in order
            return CommClosedError(f"{self.complaint}: {self.local} -> {self.peer}")
        return None if clean else self.closed_error()

    def closed_error(self) -> CommClosedError:
        """Return the exception for those who use the connection after its end."""
        kind, cause = self._failure
        why, clean = self._why, self._clean
        if not why and self.state is FAREWELL:
            why, clean = self._goodbye_text(), True
        error = kind(f"{why or self.state.value}: {self.local} -> {self.peer}", clean=clean)
        error.__cause__ = cause
        return error


def _is_tls(start: bytes) -> bool:
    """Whether the first bytes of a connection are a record of TLS: a handshake or an alert.

    No hello begins so: it would be longer than 64 KiB.
    """
    return len(start) > 2 and start[0] in {21, 22} and start[1] == 3 and start[2] in {1, 2, 3, 4}


def _ignore(_: object) -> None:
    pass


def _nobody_waits() -> None:
    pass
