"""One byte connection as a Channel: its handshake, its end, and the parts that do the rest.

The channel owns its parts, and each has the only code that writes its state: a `ByteStream` to
send into, a `SendQueue`, an `Inbox`, a `Keepalive` that watches the peer, and a `GracefulClose`
once it closes. The queue's `send`, and the inbox's `read` and ``buffer_updated``, are the
channel's own: to pass each message on would cost 8 % of a round trip's instructions.
`_wire.connection` says what the bytes mean.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from math import inf
from threading import get_ident
from typing import Any

from .._frames import Frames
from .._logs import Log, of_trusted
from .._loops import forks
from .._loops.loop_state import NOWHERE, LoopState
from .._loops.tasks import start
from .._loops.turns import Turn
from .._wire.budget import ALLOWANCE, Budget
from .._wire.connection import Connection
from .._wire.states import CLOSED, HANDSHAKE, LEAVING, OPEN
from ..core import Channel
from ..errors import CommClosedError
from ..options import CommOptions
from .byte_stream import ByteStream
from .charge import ChargedSendQueue
from .eviction import Place
from .graceful_close import GracefulClose
from .inbox import RECEIVER_FAILED, Inbox
from .keepalive import Keepalive
from .misuse import misused
from .peer import ConnectionInfo
from .send_queue import SendQueue

__all__ = ["BusyChannel", "ConnectionChannel"]

#: Bytes of many small values that a stranger may send in one message, whatever they are: decoding
#: them takes more time than their bytes say, and is limited.
MANY = 64 * 1024
#: How often `is_sound` receives at most. A peer that has left has sent a goodbye and its end, and
#: perhaps a few pings; one that goes on sending is alive.
RECEIVES = 4
FORKED = "it belongs to the process that this was forked from"


def _nobody_asks(_: "ConnectionChannel") -> None:
    pass


class ConnectionChannel(Channel, asyncio.BufferedProtocol):
    """One connection over a byte stream.

    ``opened(channel)`` is called when the handshake is done, if it succeeds, and
    ``lost(channel)`` in any case when the connection is gone.
    """

    read: Callable[[], Coroutine[Any, Any, Frames]]  # the inbox's
    send: Callable[[Frames], int]  # type: ignore[assignment] # the queue's

    __slots__ = (
        "__weakref__", "_closing", "_limits", "_lost", "_opened", "_settling",
        "_state", "_switch", "_thread", "_timeouts", "budget", "buffer_updated", "compression",
        "connection", "enveloped", "full", "get_buffer", "inbox", "info", "keepalive",
        "local_address", "log", "out", "peer_address", "pickle_protocol", "place", "read",
        "same_host", "send", "stream", "turn", "typed",
    )  # fmt: skip

    def __init__(
        self,
        state: LoopState,
        stream: ByteStream,
        connection: Connection,
        info: ConnectionInfo,
        options: CommOptions,
        opened: Callable[["ConnectionChannel"], None],
        lost: Callable[["ConnectionChannel"], None],
    ) -> None:
        limits = options.limits
        self._state = state
        self._switch = state.switch  # says whether the loop is running here
        self._thread = get_ident()
        self.stream = stream
        self.connection = connection
        self._limits = limits
        self._timeouts = options.timeouts
        queue = SendQueue if info.dialled else ChargedSendQueue
        self.out = queue(state, stream, connection, self)
        self.inbox = Inbox(self, connection, self.out, state.switch, limits.undelivered)
        self.keepalive: Keepalive | None = None  # once the handshake is done
        self._closing: GracefulClose | None = None
        self._opened = opened
        self._lost = lost
        self._settling: set[asyncio.Future[None]] | None = None  # writers, until limits are known
        #: Whether the next writer has to wait.
        self.full = False
        #: Both ends, and what is known of the peer.
        self.info = info
        #: Stands between the transport and this channel, unless the peer is known to be trusted.
        self.turn: Turn | None = Turn(state.turns, self.inbox, dialled=info.dialled)
        #: What the memory for the messages of a stranger is taken from.
        self.budget: Budget | None = None
        #: Where to log what a stranger causes.
        self.log: Log | None = None
        #: In a crowd of strangers, unless the peer is trusted.
        self.place: Place | None = None
        self.same_host = info.same_host
        self.local_address = connection.local
        self.peer_address = connection.peer
        # until the peer's hello
        self.pickle_protocol = 5
        self.typed = self.enveloped = False
        self.compression: str | None = None
        # a call less for each message
        self.get_buffer = connection.get_buffer  # type: ignore[method-assign]
        self.send = self.out.send
        self.buffer_updated = self.inbox.receive  # type: ignore[method-assign]
        self.read = self.inbox.read
        connection.respond = self._respond
        forks.watch(self)

    # -- callbacks of the transport ----------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.stream.begin(transport)
        if self.connection.state is CLOSED:  # aborted before it was made
            self.stream.abort()
        elif self.info.dialled:
            self.out.flush()
        else:  # the dialler's hello is about to come, and then our proof goes out with ours
            self.out.put_off(self.connection.hello())

    def transition(self, messages: list[Frames]) -> list[Frames]:
        state = self.connection.state
        if state is CLOSED:
            self.inbox.wake()
            self.stream.abort()
        if self.connection.last_words is not None:
            self._say_last_words()
        elif state is LEAVING:
            return []
        if state in HANDSHAKE and self.info.dialled:
            self.out.flush()  # our proof: the peer may wait for it
        if not self.inbox.is_open and self.connection.remote is not None:
            self._open()
        return messages

    def _open(self) -> None:
        """Announce that the handshake is done, before what came behind it is delivered."""
        remote = self.connection.remote
        assert remote is not None
        self.inbox.open()
        self._expect_step()
        if not self.info.dialled:
            self.out.flush()
        self.pickle_protocol = remote.pickle_protocol
        self.typed = remote.typed
        self.enveloped = remote.enveloped
        self.compression = self.connection.compression
        if remote.hears_reasons:
            self.out.expect_terms()
        self.keepalive = Keepalive(self, self.stream, self._timeouts)
        self.keepalive.start(self._state)
        self._opened(self)
        if self.out.unsent:  # our proof: it goes out with what is written when `connect` returns
            self._state.loop.call_soon(self.out.flush)

    def eof_received(self) -> bool:
        self.connection.end()
        self.inbox.wake()
        if self.out.unsent:  # no peer reads on after it has ended
            self.stream.abort()
        return False

    def resume_writing(self) -> None:
        self.out.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stream.shut()
        self._end(f"the connection was lost: {exc}" if exc else "closed", exc)
        if not self.inbox:
            self.turn = None
        if self.turn is None:
            self.inbox.announce_end()
        if self._closing is not None:
            self._closing.done()
        self._closing = None  # these refer to this channel
        self.inbox.part()
        self._lost(self)

    # -- the handshake -------------------------------------------------------------

    def greet(self) -> None:
        """Send our hello: a dialler's before there is a transport, a listener's at last."""
        self._expect_step()
        if self.info.dialled:
            self.out.put_off(self.connection.hello())
            self.out.offer()
        else:
            self.out.flush()

    def _expect_step(self) -> None:
        """Stay awake for the peer's next step, which on one host is shorter than a sleep."""
        if self.info.same_host:
            self._state.poller.poll_for_step()

    def _respond(self, buffers: list[bytes | memoryview]) -> None:
        """Send what a control message asks for, or our proof."""
        if self.connection.state in HANDSHAKE:
            self._expect_step()
            if self.info.dialled:
                self.out.put_off(buffers)  # until the handshake is done, which it mostly is now
                return
        if self.out.unsent < ALLOWANCE:  # else the peer hears of us anyway
            self.out.post(buffers)

    @property
    def greeted(self) -> bool:
        """Whether our hello has left; if we are dialled, it may be all that the peer waits for."""
        return self.out.taken > 0

    def identify(self, about: dict[str, Any], *, vouched: bool) -> None:
        """Add what the stream below has found out about the peer."""
        self.info = self.info._replace(about={**self.info.about, **about}, vouched=vouched)

    def attached(self, below: asyncio.BaseProtocol) -> asyncio.BaseProtocol:
        """Return what a transport is to call for this protocol, or for the TLS below it."""
        return below if self.turn is None else self.turn.above(below)

    def forget_maker(self) -> None:
        """Call ``opened`` and ``lost`` no more: nobody waits for the handshake now."""
        self._opened = self._lost = _nobody_asks

    def trust(self) -> None:
        """Take no more turns with strangers: the peer is trusted."""
        self.connection.judged(True)
        if self.turn is not None:
            self.inbox.ear = self.turn.ear
            self.turn.leave()
            self.turn = None

    def share(self, budget: Budget, log: Log) -> None:
        """Take turns with all who are not trusted, memory from their budget, and use their log."""
        self.log = log
        if self.turn is not None:
            self.turn.admit()
        self.budget = budget
        self.inbox.share(budget)
        self.connection.judged(False)
        if not self.info.dialled:  # what a dialler sends is its own program's
            self.out.charge(budget)
        self.connection.share(budget)

    # -- sending; `send` is the queue's ----------------------------------------------

    def afford(self, frames: Frames) -> None:
        self.check(frames)
        if self.out.charged and get_ident() == self._thread:  # else `send` raises
            nbytes = sum(memoryview(frame).nbytes for frame in frames)
            self.out.reserve(nbytes + 8 * (len(frames) + 2))

    def promise(self, nbytes: int) -> None:
        if self.out.charged and get_ident() == self._thread:
            self.out.promise(nbytes)

    async def drain(self) -> None:
        self.full = False
        await self.out.drained(self._limits.high_water, self._limits.low_water)
        if self.connection.state is not OPEN:
            raise self.connection.closed_error()

    async def settled(self) -> None:
        """Wait for the peer's word; a stranger has `Timeouts.gap` for it, as to take our bytes."""
        connection = self.connection
        if connection.terms is None or len(connection.terms) < 2 or connection.state is not OPEN:
            return
        gap = self._timeouts.gap
        waiter = self._state.loop.create_future()
        if self._settling is None:
            self._settling = set()
        self._settling.add(waiter)
        connection.settled = self._settle
        self.out.post(connection.ask())
        try:
            async with asyncio.timeout(gap if self.out.charged and gap < inf else None):
                await waiter
        except TimeoutError:
            self.dismiss(f"the peer did not say which limits apply for {gap:g} s (Timeouts.gap)")
        finally:
            if self._settling is not None:
                self._settling.discard(waiter)

    def _settle(self) -> None:
        """Wake the writers that wait for the peer's word, or for the end of the connection."""
        waiters, self._settling = self._settling, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # -- what a send queue asks for ------------------------------------------------

    @property
    def ends(self) -> str:
        """Both addresses, for errors."""
        return f"{self.local_address} -> {self.peer_address}"

    @property
    def high_water(self) -> int:
        """Unsent bytes above which a writer waits."""
        return self._limits.high_water

    def check(self, frames: Frames) -> None:
        self.connection.check(frames, heard=self.inbox.count > 0)

    def soon(self, function: Callable[[], None]) -> None:
        if self.turn is None:
            self._state.loop.call_soon(function)
        else:
            self._state.loop.call_soon(self.turn.meter, function)

    def send_failed(self, exc: OSError) -> None:
        """Stop sending; what had arrived stays readable, and reading finds the end."""
        self.connection.stop_sending(exc)
        self.out.drop()
        self._settle()
        if self.connection.state is CLOSED:
            self._abort_stream()

    def overdraw(self, why: str) -> None:
        self.abort(why)
        raise self.connection.closed_error()

    def count_ahead(self) -> None:
        """Count what the stream has taken of a message that was not queued before."""
        refusal = self.out.count_ahead()
        if refusal is not None:
            self.abort(refusal)

    # -- reading; `read` is the inbox's ----------------------------------------------

    def push(
        self,
        receiver: Callable[[Frames | None], None] | None,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        self.inbox.push(receiver, ready)

    def unread(self) -> int:
        return len(self.inbox)

    def expect_here(self) -> None:
        if not self._switch.runs():
            raise misused(self.connection, self._switch)

    def receiver_failed(self, exc: BaseException) -> None:
        log = self.log or of_trusted()
        log.report(self._state.loop, RECEIVER_FAILED, exc)
        self.abort(RECEIVER_FAILED)

    def pause(self) -> bool:
        """Stop receiving, unless the peer has left: then little can come, and the end."""
        if self.stream.has_ended():
            return False
        self.stream.pause()
        return True

    def resume(self) -> None:
        """Receive again, unless it is another's turn."""
        if self.turn is None or not self.turn.waiting:
            self.stream.resume()

    def is_receiving(self) -> bool:
        waits = self.turn is not None and self.turn.waiting
        return not waits and not self.inbox.paused

    def _has_ended_unread(self) -> bool:
        """Return whether the peer has left behind what is not received."""
        return not self.is_receiving() and self.stream.has_ended()

    def notice_end(self) -> None:
        if self._has_ended_unread():
            self.inbox.resume()

    def is_fresh(self) -> bool:
        if self.connection.state is not OPEN or not self.inbox.is_fresh():
            return False
        return not ((self.turn is not None or self.inbox.paused) and self._has_ended_unread())

    def is_sound(self) -> bool:
        if self.turn is None:
            self._take_in()
        else:
            self.turn.meter(self._take_in)
        return not (self.inbox or self.closed() or self.connection.mid_message)

    def _take_in(self) -> None:
        """Do what the transport does when its loop finds something to receive."""
        try:
            for _ in range(RECEIVES):
                if self.connection.state is not OPEN or self.inbox:
                    return
                if not self.stream.take_in(self):
                    return
        except OSError as exc:
            self.fail(f"the connection was lost: {exc}", exc)

    # -- what a keepalive asks for -------------------------------------------------

    @property
    def received(self) -> int:
        """Bytes that have come."""
        return self.inbox.received

    def is_mid_message(self) -> bool:
        return self.connection.mid_message

    def stuck(self, beats: float) -> int:
        return self.out.unsent if self.out.is_stuck(beats) else 0

    def ping(self) -> bool:
        if self.out.unsent:
            return False
        if self.connection.state is OPEN:
            self.out.post(self.connection.ping())
        return True

    # -- what a crowd asks for -----------------------------------------------------

    def ask_before_evicting(self, in_use: Callable[[], bool]) -> None:
        if self.place is not None:
            self.place.in_use = in_use

    def receive_through(self, place: Place) -> None:
        """Have what comes pass the place in the crowd from now on."""
        self.connection.receive_through(place)

    def is_idle(self) -> bool:
        """Return whether nothing is under way here.

        Something is if bytes wait to be read, here or in the system, or to be sent to a peer that
        takes them, or if nobody waits for the next message, because then somebody is busy with
        the last one.
        """
        if (self.out.unsent and not self.out.stalled) or self.stream.has_news():
            return False
        return self.connection.state is not OPEN or self.inbox.is_awaited()

    def has_news(self) -> bool:
        """Return whether bytes lie in the system that our loop has not had the time to read."""
        return self.stream.has_news()

    @property
    def surplus(self) -> int:
        """How many more messages were sent than received: it grows if they are published."""
        return self.out.count - self.inbox.count

    def evict(self, why: str) -> None:
        """Close at once; say why, and goodbye, if that can be done without waiting."""
        connection = self.connection
        if connection.state is OPEN:
            self._say_at_once(connection.reason(why) + connection.goodbye())
        self.inbox.clear()  # not `abort`: what that says to the peer may not follow a goodbye
        self.fail(why)

    # -- the end -------------------------------------------------------------------

    async def close(self) -> None:
        self.expect_here()
        last_words = self.connection.close()
        if self.connection.state is LEAVING:
            self.inbox.close()
        await self._close(last_words)

    def refuse(self, why: str) -> Coroutine[Any, Any, None]:
        """Refuse the peer, at once; the coroutine that is returned tells it so, and closes."""
        last_words = self.connection.refuse(why)
        if self.connection.state is LEAVING:
            self.inbox.close()
        return self._close(last_words)

    async def _close(self, last_words: list[bytes | memoryview]) -> None:
        """Close with these bytes behind what is queued; bounded in time."""
        if self.connection.state is not LEAVING:
            self.abort()
            return
        if self._closing is None:
            seconds = self._timeouts.close
            self._closing = GracefulClose(self, self._state.loop, self.stream, self.out, seconds)
        await self._closing.run(last_words)

    def dismiss(self, why: str, *, unread: bool = True, logged: bool = False) -> None:
        if get_ident() != self._thread:
            self.abort(why)
            return
        self.connection.cut(why)
        if not unread:
            self.inbox.clear()
            self.inbox.end()
        self._say_last_words(logged=logged)

    def _say_last_words(self, *, logged: bool = False) -> None:
        """Log why the peer was cut, tell it, and close; what it had sent before can be read."""
        connection = self.connection
        words, connection.last_words = connection.last_words, None
        if words is None:  # it had ended before
            self.abort()
            return
        if not logged:
            log = self.log or of_trusted()
            log.line(logging.WARNING, "cut a connection: %s", connection.closed_error())
        self.inbox.wake()
        if words:
            self.out.post(words)  # at once: if anybody else closes, that comes behind it
            self.inbox.resume()
            start(self._close([]), self._state.loop)
        else:
            self._abort_stream()

    def abort(self, why: str = "aborted by this side") -> None:
        if self._thread == forks.ELSEWHERE:
            return
        loop = self._state.loop
        if get_ident() == self._thread or loop.is_closed():
            connection = self.connection
            if connection.state is OPEN and (self.inbox or self.stream.has_news()):
                # if it is just closing, it would take our end for one in order
                self._say_at_once(connection.reason("aborted, with messages that nobody had read"))
            self.inbox.clear()
            self.fail(why)
        else:
            loop.call_soon_threadsafe(self.abort, why)

    def _say_at_once(self, buffers: list[bytes | memoryview]) -> None:
        """Send this if it can be done without waiting, and behind nothing else."""
        if buffers and not self.out.unsent:
            with suppress(OSError):
                self.stream.send(b"".join(buffers))

    def fail(
        self,
        why: str,
        cause: BaseException | None = None,
        kind: type[CommClosedError] = CommClosedError,
    ) -> None:
        """Close at once, for what was found out; what has come can be read."""
        self._end(why, cause, kind)
        self._abort_stream()

    def _end(
        self,
        why: str,
        cause: BaseException | None = None,
        kind: type[CommClosedError] = CommClosedError,
    ) -> None:
        """Mark the connection as gone, and wake everybody who waits for something."""
        self.connection.lose(why, cause, kind)
        if self.keepalive is not None:
            self.keepalive.stop()
            self.keepalive = None
        self.out.drop()
        self.out.part()
        self.inbox.end()
        self._settle()

    def _abort_stream(self) -> None:
        if self._state.loop.is_closed():  # nobody would close it any more
            self.stream.drop()
        else:
            self.stream.abort()

    def _forked(self) -> None:
        """Disown the connection: its socket and its loop's selector are the parent's."""
        self._thread = forks.ELSEWHERE
        self._switch = NOWHERE
        if self.keepalive is not None:
            self.keepalive.stop()
        self.inbox.disown()
        self.out.disown()
        self.connection.lose(FORKED)
        self.stream.disown()

    def closed(self) -> bool:
        state = self.connection.state
        if state is OPEN:  # the end may wait behind what nobody reads
            suspended = self.turn is not None or self.inbox.paused
            return suspended and self._has_ended_unread()
        return state not in HANDSHAKE

    def closed_error(self) -> CommClosedError:
        """Return why the connection is closed, as an exception."""
        return self.connection.closed_error()

    # -- what is known of it -------------------------------------------------------

    def stats(self) -> dict[str, int]:
        return {
            "bytes_received": self.inbox.received,
            "bytes_sent": self.out.bytes_sent,
            "messages_received": self.inbox.count,
            "messages_sent": self.out.count,
        }

    @property
    def extra_info(self) -> dict[str, Any]:
        return {"peer": self.connection.remote, **self.info.about}

    @property
    def measures(self) -> bool:  # type: ignore[override]
        return self.connection.terms is not None

    @property
    def loss(self) -> CommClosedError | None:
        return self.connection.loss()

    @property
    def at_once(self) -> int:
        known = self.connection.terms or ()
        most = min((min(terms.message, terms.header) for terms in known), default=sys.maxsize)
        return most if all(terms.trusted for terms in known) else min(most, MANY)


class BusyChannel(ConnectionChannel):
    """A channel whose loop stays awake for ``patience`` seconds behind each message.

    A class of its own, so that the others pay nothing for `CommOptions.busy_poll`.
    """

    __slots__ = ("_patience",)

    def poll_for(self, patience: float) -> None:
        """Say for how long; before anything is sent or received."""
        self._patience = patience
        self.send = self._send
        self.buffer_updated = self._receive  # type: ignore[method-assign]

    def _send(self, frames: Frames) -> int:
        nbytes = self.out.send(frames)
        self._state.poller.poll(self._patience)
        return nbytes

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.send = self.out.send  # that of this class would be a cycle
        self.buffer_updated = self.inbox.receive  # type: ignore[method-assign]

    def _receive(self, nbytes: int) -> None:
        self.inbox.receive(nbytes)
        self._state.poller.poll(self._patience)
