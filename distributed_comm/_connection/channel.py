"""Between an asyncio transport and `_wire.connection`: one connection as a Channel.

Here are the transport's callbacks and the handshake; the bases do the sending (`sender`),
pause reading above a limit (`pausing`), watch the peer (`watcher`), hand out messages
(`reader`), end the connection (`leaver`) and say whether it is idle (`evictable`).
"""

import asyncio
import socket
import sys
from collections.abc import Callable
from math import inf
from typing import Any, cast

from .._frames import Frames
from .._loops import forks
from .._loops.busy_poll import poller_of
from .._loops.shares import DEAF
from .._loops.turns import Turn, turns_of
from .._tls.layer import PORTION
from .._wire.budget import Budget
from .._wire.connection import Connection
from .._wire.states import CLOSED, HANDSHAKE, LEAVING, OPEN
from ..errors import CommClosedError
from ..options import CommOptions
from .evictable import Evictable
from .peer import Link

__all__ = ["Adapter"]

#: Bytes of many small values that a stranger may send in one message, whatever they are: decoding
#: them takes more time than their bytes say, and is limited.
MANY = 64 * 1024
#: How often a look reads at most. A peer that has left has sent a goodbye and its end, and perhaps
#: a few pings; one that goes on sending is alive.
LOOKS = 4


def _nobody_asks(_: "Adapter") -> None:
    pass


class Adapter(Evictable, asyncio.BufferedProtocol):
    """One connection over a socket of ours.

    ``opened(adapter)`` is called when the handshake is done, if it succeeds, and
    ``lost(adapter)`` in any case when the connection is gone.
    """

    __slots__ = (
        "__weakref__", "_ear", "_lost", "_opened", "_poller", "compression", "enveloped",
        "get_buffer", "link", "local_address", "peer_address", "pickle_protocol", "typed",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        connection: Connection,
        link: Link,
        options: CommOptions,
        opened: Callable[["Adapter"], None],
        lost: Callable[["Adapter"], None],
    ) -> None:
        super().__init__(loop, sock, connection, options)
        self.link = link
        self._opened = opened
        self._intercept = self._open  # nothing is handed out before that
        self._lost = lost
        self._poller = poller_of(loop)
        self._turn = Turn(turns_of(loop), self, dialled=link.dialled)
        self._ear = DEAF
        forks.watch(self)
        forks.hand_over(self._plain_socket())
        self.get_buffer = connection.get_buffer  # type: ignore[method-assign]
        # until the peer's hello
        self.pickle_protocol = 5
        self.typed = self.enveloped = False
        self.compression: str | None = None
        self.local_address = connection.local
        self.peer_address = connection.peer

    # -- callbacks of the transport ----------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        if self._connection.state is CLOSED:  # aborted before it was made
            transport.abort()
            return
        transport.set_write_buffer_limits(0)
        if self.link.dialled:
            self._flush()
        else:  # the dialler's is about to come, and then our proof goes out with it
            self._put_off(self._connection.hello())

    def greet(self) -> None:
        """Send our hello: a dialler's before there is a transport, a listener's at last."""
        self._expect_step()
        if self.link.dialled:
            self._put_off(self._connection.hello())
            try:
                sent = self._transmit()
            except OSError:  # full, or gone: for connection_made to find out
                return
            self._remove(sent)
            self._settle(sent)
        else:
            self._flush()

    def _expect_step(self) -> None:
        """Stay awake for the peer's next step, which on one host is shorter than a sleep."""
        if self.link.same_host:
            self._poller.poll_for_step()

    def _put_off(self, buffers: list[bytes | memoryview]) -> None:
        """Queue what is no message of the user's, for somebody else to flush."""
        self._scheduled = True
        self._charged += self._enqueue(buffers)

    def _respond(self, buffers: list[bytes | memoryview]) -> None:
        if self._connection.state is HANDSHAKE:
            self._expect_step()
            if self.link.dialled:
                self._put_off(buffers)  # until the handshake is done, which it mostly is now
                return
        super()._respond(buffers)

    def buffer_updated(self, nbytes: int) -> None:
        connection = self._connection
        messages = connection.receive(nbytes)
        self._received = received = self._received + nbytes
        self._fresh = not self._queued
        self._ear.heard = True
        if connection.state is not OPEN:
            messages = self._transition(messages)
        elif self._intercept is not None:
            messages = self._intercept(messages)
        if messages:
            inbox = self._inbox
            inbox += messages
            self._messages_received += len(messages)
            reading = self._reading
            if (not reading or len(inbox) > 1) and received - self._delivered > self._unasked:
                self._crowd(messages)  # a message that is waited for does not wait
            if reading:
                try:
                    self._waiter.hand_over()  # runs the reader: 2,200 instructions cheaper
                except BaseException as exc:  # SystemExit: uvloop would only log it
                    self._loop.call_soon(_raise, exc)
            else:
                self._waiter.touch()

    def _transition(self, messages: list[Frames]) -> list[Frames]:
        """Act where the state is not plainly open; return what is left for the inbox."""
        state = self._connection.state
        if state is CLOSED:
            self._wake()
            self._transport.abort()
        if self._connection.last_words is not None:
            self._say_last_words()
        elif state is LEAVING:
            return []
        if state is HANDSHAKE and self.link.dialled:
            self._flush()  # our proof: the peer may wait for it
        if self._intercept is not None and self._connection.remote is not None:
            return self._intercept(messages)
        return messages

    def _open(self, messages: list[Frames]) -> list[Frames]:
        """Announce that the handshake is done, before what came behind it is delivered."""
        remote = self._connection.remote
        assert remote is not None
        self._intercept = None
        self._expect_step()
        if not self.link.dialled:
            self._flush()
        self.pickle_protocol = remote.pickle_protocol
        self.typed = remote.typed
        self.enveloped = remote.enveloped
        self.compression = self._connection.compression
        if remote.hears_reasons:
            self._short = 0  # until the first message
        self._watch()
        self._opened(self)
        if self._queued:  # our proof: it goes out with what is written when `connect` returns
            self._loop.call_soon(self._flush)
        return messages if self._intercept is None else self._intercept(messages)

    def eof_received(self) -> bool:
        self._connection.end()
        self._wake()
        if self._queued:  # no peer reads on after it has ended
            self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._turn is not None and not self._inbox:
            self._turn = None  # which would be a cycle
        if self._receiver is not None and self._turn is None:  # else it follows what waits
            self._announce_end()
        self._release_leavers()
        self._lost(self)

    # -- before a request is sent ----------------------------------------------------

    def is_sound(self) -> bool:
        if self._turn is None:
            self._take_in()
        else:
            self._turn.meter(self._take_in)
        return not (self._inbox or self.closed() or self._connection.mid_message)

    def _take_in(self) -> None:
        """Do what the transport does when its loop finds something to read in the socket."""
        if isinstance(self._sock, socket.socket):
            self._look(self)
            return
        tls: Any = self._sock
        # Its block may be in use: by a connection whose message has led to this very call.
        shared = tls.use(memoryview(bytearray(PORTION)))
        try:
            self._look(tls)
        finally:
            tls.use(shared)

    def _look(self, below: Any) -> None:
        """Receive what has come, through TLS if that is below."""
        for _ in range(LOOKS):
            if self._connection.state is not OPEN or self._inbox:
                return
            try:
                nbytes = self._sock.recv_into(below.get_buffer(-1))
            except BlockingIOError:
                return
            except OSError as exc:
                self.fail(f"the connection was lost: {exc}", exc, CommClosedError)
                return
            if not nbytes:
                below.eof_received()
                return
            below.buffer_updated(nbytes)

    # -- who the peer is -----------------------------------------------------------

    def identify(self, about: dict[str, Any], *, vouched: bool) -> None:
        """Take note of what a layer below has found out about the peer."""
        self.link = self.link._replace(about={**self.link.about, **about}, vouched=vouched)

    def hand_over(self) -> None:
        """Forget who has made this, which only wanted to know how the handshake ends."""
        self._opened = self._lost = _nobody_asks

    def attached(self, below: asyncio.BaseProtocol) -> asyncio.BaseProtocol:
        """Return what a transport is to call for this protocol, or for the TLS below it."""
        return below if self._turn is None else self._turn.above(below)

    def trust(self) -> None:
        """Take no more turns with strangers: the peer is trusted."""
        self._connection.judged(True)
        if self._turn is not None:
            self._ear = self._turn.ear
            self._turn.leave()
            self._turn = None

    def share(self, budget: Budget) -> None:
        """Take turns with all who are not trusted, and the memory for messages from a budget."""
        if self._turn is not None:
            self._turn.admit()
            self._intercept = self._take_turns
            self._allowance = 0
        self._budget = budget
        self._connection.judged(False)
        self._unasked = 0
        if not self.link.dialled:  # what a dialler sends is its own program's
            self.ration(budget)
        self._connection.share(budget)

    @property
    def greeted(self) -> bool:
        """Whether our hello has left; if we are dialled, it may be all that the peer waits for."""
        return self._taken > 0

    @property
    def budget(self) -> Budget | None:
        return self._budget

    def stats(self) -> dict[str, int]:
        return {
            "bytes_received": self._received,
            "bytes_sent": self._bytes_sent(),
            "messages_received": self._messages_received,
            "messages_sent": self._messages_sent,
        }

    @property
    def same_host(self) -> bool:
        return self.link.same_host

    @property
    def extra_info(self) -> dict[str, Any]:
        return {"peer": self._connection.remote, **self.link.about}

    @property
    def measures(self) -> bool:  # type: ignore[override]
        return self._connection.terms is not None

    @property
    def loss(self) -> CommClosedError | None:
        return self._connection.loss()

    @property
    def at_once(self) -> int:
        known = self._connection.terms or ()
        most = min((min(terms.message, terms.header) for terms in known), default=sys.maxsize)
        return most if all(terms.trusted for terms in known) else min(most, MANY)

    async def settled(self) -> None:
        """Wait for the peer's word; a stranger has `Timeouts.gap` for it, as to take our bytes."""
        gap = self._timeouts.gap
        try:
            async with asyncio.timeout(gap if self._ration is not None and gap < inf else None):
                await super().settled()
        except TimeoutError:
            self.dismiss(f"the peer did not say which limits apply for {gap:g} s (Timeouts.gap)")

    @property
    def proven(self) -> bool:
        """Whether the peer has shown that it holds our key …"""
        return self._connection.proven

    @property
    def relayed(self) -> bool:
        """… and whether something in between passes on what both sides send."""
        return self._connection.relayed

    @property
    def refused(self) -> bool:
        """Whether the peer has said that it does not trust us, and requires that."""
        return self._connection.refused


def _raise(exc: BaseException) -> None:
    raise exc
