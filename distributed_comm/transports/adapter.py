"""Between an asyncio transport and `wire.connection`: one connection as a Channel.

Received bytes become messages in the callback that brought them and wait in the inbox
until they are read; above a limit reading from the socket pauses. Nothing in between
suspends, so a cancelled read finds its message still there.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from threading import get_ident
from typing import Any, cast

from .._kernels import mailbox
from ..errors import CommClosedError, LocalProtocolError
from ..frames import Frames
from ..options import CommOptions
from ..wire.budget import Budget
from ..wire.connection import CLOSED, HANDSHAKE, LEAVING, MUTE, OPEN, Connection
from . import forks
from .deadlines import Deadline
from .link import Link
from .polling import poller_of
from .provider import switch_of
from .sender import CREDIT, TOLL
from .watcher import Watcher

__all__ = ["Adapter"]


#: Has the system wait for what is sent next, and put both into one packet.
MSG_MORE = getattr(socket, "MSG_MORE", 0)


def _nobody_asks(_: "Adapter") -> None:
    pass


class Adapter(Watcher, asyncio.BufferedProtocol):
    """One connection over a socket of ours.

    ``opened(adapter)`` is called when the handshake is done, if it succeeds, and
    ``lost(adapter)`` in any case when the connection is gone.
    """

    __slots__ = (
        "__weakref__",
        "_allowance",
        "_inbox",
        "_intercept",
        "_leavers",
        "_lost",
        "_messages_received",
        "_opened",
        "_poller",
        "_reading",
        "_receiver",
        "_waiter",
        "compression",
        "get_buffer",
        "link",
        "local_address",
        "peer_address",
        "pickle_protocol",
        "typed",
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
        # What gets messages before the inbox does: the handshake's end, a pushed receiver.
        self._intercept: Callable[[list[Frames]], list[Frames]] | None = self._open
        self._receiver: Callable[[Frames | None], None] | None = None
        self._lost = lost
        self._poller = poller_of(loop)
        forks.watch(self)
        self._inbox: deque[Frames] = deque()
        self._reading = False  # a read is under way, and mostly …
        self._waiter = mailbox.Waiter(switch_of(loop))  # … waits here
        self._allowance = CREDIT  # for reading without a pause, as _credit is for sending
        self._messages_received = 0
        self._leavers: list[asyncio.Future[None]] | None = None  # who wait for the end
        self.get_buffer = connection.get_buffer  # type: ignore[method-assign]
        # until the peer's hello
        self.pickle_protocol = 5
        self.typed = False
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
        self._received += nbytes
        self._fresh = not self._queued
        if connection.state is not OPEN:
            messages = self._transition(messages)
        elif self._intercept is not None:
            messages = self._intercept(messages)
        if messages:
            inbox = self._inbox
            inbox += messages
            self._messages_received += len(messages)
            if (
                self._received - self._delivered > self._limits.undelivered
                and len(inbox) > self._reading  # whose message does not wait
            ):
                self._pause()
            if self._reading:
                try:
                    self._waiter.hand_over()  # runs the reader: 2,200 instructions cheaper
                except BaseException as exc:  # SystemExit: uvloop would only log it
                    self._loop.call_soon(_raise, exc)

    def _transition(self, messages: list[Frames]) -> list[Frames]:
        """Act where the state is not plainly open; return what is left for the inbox."""
        state = self._connection.state
        if state is CLOSED:
            self._wake()
            self._transport.abort()
        if state is LEAVING:
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
        self.compression = self._connection.compression
        self._watch()
        self._opened(self)
        if self._queued:  # our proof: it goes out with what is written when `connect` returns
            self._loop.call_soon(self._flush)
        return messages if self._receiver is None else self._hand_over(messages)

    def _hand_over(self, messages: list[Frames]) -> list[Frames]:
        """Call the pushed receiver; what comes after it was taken away is for the inbox."""
        for index, message in enumerate(messages):
            if self._receiver is None:
                return messages[index:]
            self._messages_received += 1
            self._notify(message)
        self._delivered = self._received
        return []

    def _notify(self, message: Frames | None) -> None:
        assert self._receiver is not None
        try:
            copy_context().run(self._receiver, message)
        except Exception as exc:
            context = {"message": "the receiver of messages failed", "exception": exc}
            self._loop.call_exception_handler(context)
            self.abort("the receiver of messages failed")

    def eof_received(self) -> bool:
        self._connection.end()
        self._wake()
        if self._queued:  # no peer reads on after it has ended
            self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go()
        self._connection.lose(f"the connection was lost: {exc}" if exc else "closed", exc)
        self._unwatch()
        self._drop()
        self._wake()
        if self._receiver is not None:
            self._notify(None)
        for leaver in self._leavers or ():
            if not leaver.done():
                leaver.set_result(None)
        self._lost(self)

    def _send_failed(self, exc: OSError) -> None:
        """Stop sending; what had arrived stays readable, and reading finds the end."""
        self._connection.stop_sending(exc)
        self._drop()
        if self._connection.state is CLOSED:
            self._abort_transport()

    def _wake(self) -> None:
        """Let a reader that waits see that the state has changed."""
        self._waiter.wake()

    # -- the Channel ---------------------------------------------------------------

    async def read(self) -> Frames:
        if self._reading:
            raise self._misused()
        inbox = self._inbox
        if inbox:
            if get_ident() != self._thread:
                raise self._misused()
            if self._allowance < 0:
                await self._give_way()
        while not inbox:
            if self._connection.state is not OPEN and self._connection.state is not MUTE:
                raise self._connection.closed_error()
            self._reading = True
            try:
                await self._waiter
            except RuntimeError as exc:  # that of another thread's, or process's, loop
                raise self._misused() from exc
            finally:
                self._reading = self._waiter.waiting = False
        message = inbox.popleft()
        if inbox:
            self._allowance -= TOLL + len(message[-1])
        else:
            self._delivered = self._received
            if self._paused:
                self._resume()
        return message

    def push(self, receiver: Callable[[Frames | None], None] | None) -> None:
        if get_ident() != self._thread or self._reading:
            raise self._misused()
        self._receiver = receiver
        self._intercept = None if receiver is None else self._hand_over
        if receiver is None:
            return
        inbox = self._inbox
        while inbox and self._receiver is not None:
            self._notify(inbox.popleft())
        if not inbox:
            self._delivered = self._received
            self._resume()
        if self._receiver is not None and self._connection.state is CLOSED:
            self._notify(None)

    async def _give_way(self) -> None:
        """Let others run, without letting another reader in."""
        self._allowance = CREDIT
        self._reading = True
        try:
            await asyncio.sleep(0)
        finally:
            self._reading = False

    async def close(self) -> None:
        if get_ident() != self._thread:
            raise self._misused()
        goodbye = self._connection.close()
        if self._connection.state is not LEAVING:
            self.abort()
            return
        deadline = Deadline(self._loop, self._timeouts.close, self.abort)
        try:
            await self._leave(goodbye)
        except OSError:  # the socket has just gone
            self.abort()
        except BaseException:
            self.abort()
            raise
        finally:
            deadline.cancel()

    async def _leave(self, goodbye: list[bytes | memoryview]) -> None:
        """Send what is queued and the goodbye, then discard until the peer's end."""
        self._inbox.clear()
        self._wake()
        self._resume()
        ended = self._loop.create_future()
        if self._leavers is None:
            self._leavers = [ended]
            plain = isinstance(self._sock, socket.socket)  # with no layer above it
            if goodbye:
                self._post(self._send_ahead(goodbye) if plain and not self._queued else goodbye)
            await self._all_but(0)
            if not self._transport.is_closing():
                if plain:
                    self._sock.shutdown(socket.SHUT_WR)  # in this turn, where uvloop takes another
                else:
                    self._transport.write_eof()
        else:
            self._leavers.append(ended)
        await ended

    def _send_ahead(self, goodbye: list[bytes | memoryview]) -> list[bytes | memoryview]:
        """Send the goodbye so that it leaves with our end; return what is left of it."""
        data = b"".join(goodbye)
        try:
            sent = self._sock.send(data, MSG_MORE)
        except BlockingIOError:
            sent = 0
        self._charged += sent
        return [data[sent:]] if sent < len(data) else []

    def forked(self) -> None:
        """Disown the connection: its socket and its loop's selector are the parent's."""
        self._thread = forks.ELSEWHERE
        self._unwatch()
        self._reading = True  # so that a read looks no further

    def abort(self, why: str = "aborted by this side") -> None:
        if get_ident() == self._thread:
            self._inbox.clear()
            self._cut(why)
        elif self._thread != forks.ELSEWHERE and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.abort, why)

    def identify(self, about: dict[str, Any], *, vouched: bool) -> None:
        """Take note of what a layer below has found out about the peer …"""
        self.link = self.link._replace(about={**self.link.about, **about}, vouched=vouched)

    def fail(self, why: str, cause: BaseException | None, kind: type[CommClosedError]) -> None:
        """… and end the connection where that speaks against it."""
        self._connection.lose(why, cause, kind)
        self._cut(why)

    def hand_over(self) -> None:
        """Forget who has made this, which only wanted to know how the handshake ends."""
        self._opened = self._lost = _nobody_asks

    def share(self, budget: Budget) -> None:
        """Take the memory for messages from a budget: the peer is not trusted."""
        self._budget = budget
        self._connection.share(budget)

    def _cut(self, why: str) -> None:
        self._let_go()
        self._connection.lose(why)
        self._unwatch()
        self._drop()
        self._wake()
        self._abort_transport()

    def _abort_transport(self) -> None:
        if self._loop.is_closed():  # nobody would close the socket any more
            self._sock.close()
        elif hasattr(self, "_transport"):  # else connection_made does it
            self._transport.abort()

    def closed(self) -> bool:
        if self._connection.state is OPEN:  # the end may wait behind what nobody reads
            return self._ended_unread()
        return self._connection.state is not HANDSHAKE

    def closed_error(self) -> CommClosedError:
        """Return why the connection is closed, as an exception."""
        return self._connection.closed_error()

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
    def proven(self) -> bool:
        """Whether the peer has shown that it holds our key …"""
        return self._connection.proven

    @property
    def relayed(self) -> bool:
        """… and whether something in between passes on what both sides send."""
        return self._connection.relayed

    def _misused(self) -> LocalProtocolError:
        ends = f"{self.local_address} -> {self.peer_address}"
        if self._thread == forks.ELSEWHERE:
            return LocalProtocolError(f"{ends} belongs to the process that this was forked from")
        if get_ident() != self._thread:
            return LocalProtocolError(f"{ends} belongs to another thread")
        return LocalProtocolError(f"another task is reading from {ends}")


def _raise(exc: BaseException) -> None:
    raise exc
