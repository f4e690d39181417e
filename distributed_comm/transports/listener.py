"""A Listener over sockets that it owns: it accepts by itself, so that it can pause.

Connections in their handshake, and all of them, are bounded; a listener at a bound, or
without file descriptors, stops accepting until there is room, and the kernel's backlog
keeps who dials meanwhile. What follows the handshake is the callback's.
"""

import asyncio
import errno
import logging
import socket
from abc import abstractmethod
from typing import Any

from ..comms import ChannelComm
from ..core import HandleComm, Listener
from ..errors import FatalCommClosedError
from ..log_limits import StrangersLog
from ..options import CommOptions
from ..security import REFUSAL, Trust
from ..serialize.compression import choose
from ..wire.budget import Budget
from ..wire.framing import LengthFraming
from . import forks
from .adapter import Adapter
from .admission import Framing, judge, make_adapter
from .deadlines import Deadline
from .handling import Handling
from .link import Link
from .provider import attach

__all__ = ["SocketListener"]

#: Connections that one turn of the loop accepts, so that others get theirs.
BATCH = 64
#: Seconds for which our hello is kept back, so as to send it with our proof.
COURTESY = 0.001
#: Seconds until accepting is tried again after the system refused.
PAUSE = 0.2
#: What accept() raises when the machine, not the peer, is the reason.
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class SocketListener(Listener):
    """Accepts connections on its sockets; subclasses bind them and make the adapters."""

    #: As that of the connectors that dial it.
    framing: Framing = LengthFraming

    def __init__(
        self,
        handle_comm: HandleComm,
        deserialize: bool,
        *,
        trusted: bool | None = None,
        key: str | bytes | None = None,
        require_trust: bool = False,
        options: CommOptions | None = None,
    ) -> None:
        self._handling = Handling(handle_comm)
        self._deserialize = deserialize
        self._options = options or CommOptions()
        choose(self._options.compression)  # ValueError here, and not for each connection
        self._trust = Trust.choose(trusted, key, require_trust, self._options.relayed)
        self._budget = Budget(self._options.limits.untrusted_memory)
        self._log = StrangersLog("of a listener")
        self._sockets: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # once started
        self._accepting = False
        self._retry: asyncio.TimerHandle | None = None  # after the system refused
        self._handshakes: dict[Adapter, Deadline] = {}
        self._connections: set[Adapter] = set()
        forks.watch(self)

    @abstractmethod
    def _bind(self) -> list[socket.socket]:
        """Return listening sockets."""

    @abstractmethod
    def _identify(self, sock: socket.socket, name: Any) -> Link:
        """Prepare an accepted socket, of which accept() gave the peer's name; return its ends.

        OSError where it has gone.
        """

    def bind(self) -> None:
        """Bind the sockets, so that the port is known; `start` does it otherwise."""
        if not self._sockets:
            self._sockets = self._bind()

    async def start(self) -> None:
        if self._loop is not None:
            raise RuntimeError(f"{self!r} was started already")
        self.bind()
        self._log.about = f"of {self!r}"
        self._loop = asyncio.get_running_loop()
        self._resume()

    def stop(self) -> None:
        self._pause()
        for sock in self._sockets:
            sock.close()
        for adapter in list(self._handshakes):
            adapter.abort()
        self._log.flush()

    def forked(self) -> None:
        """Disown the loop, whose selector is the parent's; the sockets are this process's."""
        self._loop = None
        self._accepting = False
        self._handshakes.clear()

    # -- accepting ---------------------------------------------------------------

    def _pause(self) -> None:
        if self._accepting and self._loop is not None:
            self._accepting = False
            for sock in self._sockets:
                self._loop.remove_reader(sock)

    def _resume(self) -> None:
        if self._loop is not None and not self._accepting and self._sockets[0].fileno() >= 0:
            if self._retry is not None:
                self._retry.cancel()
                self._retry = None
            self._accepting = True
            for sock in self._sockets:
                self._loop.add_reader(sock, self._accept, sock)

    def _has_room(self) -> bool:
        limits = self._options.limits
        return (
            len(self._handshakes) < limits.handshakes
            and len(self._connections) < limits.connections
        )

    def _accept(self, sock: socket.socket) -> None:
        assert self._loop is not None
        for _ in range(BATCH):
            if not self._has_room():
                self._pause()
                return
            try:
                accepted, name = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                if exc.errno not in EXHAUSTED:
                    raise
                self._log.line(logging.WARNING, "%s pauses accepting: %s", self, exc)
                self._pause()
                self._retry = self._loop.call_later(PAUSE, self._resume)
                return
            self._welcome(self._loop, accepted, name)

    def _welcome(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, name: Any) -> None:
        """Begin the handshake with whoever was accepted."""
        try:
            link = self._identify(sock, name)
        except OSError:  # it has gone already
            sock.close()
            return
        adapter = make_adapter(
            loop, sock, link, self._trust, self._options, self.framing,
            self._opened, self._lost,
        )  # fmt: skip
        self._handshakes[adapter] = Deadline(loop, COURTESY, lambda: self._greet(adapter))
        self._connections.add(adapter)
        self._handling.keep(loop.create_task(self._attach(loop, sock, adapter)))

    async def _attach(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, adapter: Adapter
    ) -> None:
        try:
            await attach(loop, sock, lambda: adapter)
        except OSError as exc:
            self._log.line(logging.INFO, "%s could not serve a connection: %s", self, exc)
            self._lost(adapter)

    def _greet(self, adapter: Adapter) -> None:
        """Send our hello to one who keeps silent, and wait a while."""
        assert self._loop is not None
        adapter.greet()
        patience = self._options.timeouts.handshake - COURTESY
        self._handshakes[adapter] = Deadline(self._loop, patience, lambda: self._expire(adapter))

    def _expire(self, adapter: Adapter) -> None:
        adapter.abort("no hello came in time")

    # -- callbacks of the adapters -------------------------------------------------

    def _opened(self, adapter: Adapter) -> None:
        """The handshake is done."""
        self._handshakes.pop(adapter).cancel()
        if self._retry is None:  # a handshake that is done frees no descriptor
            self._resume()
        try:
            trusted = judge(adapter, self._trust, self._budget, self._log)
        except FatalCommClosedError as exc:
            self._log.line(logging.INFO, "%s refused a connection: %s", self, exc)
            assert self._loop is not None
            self._handling.keep(self._loop.create_task(adapter.refuse(REFUSAL)))
            return
        comm = ChannelComm(
            adapter, trusted=trusted, deserialize=self._deserialize, limits=self._options.limits
        )
        self._handling.begin(comm)

    def _lost(self, adapter: Adapter) -> None:
        """A connection is gone, perhaps before its handshake was done."""
        self._connections.discard(adapter)
        deadline = self._handshakes.pop(adapter, None)
        if deadline is not None:
            deadline.cancel()
            error = adapter.closed_error()
            self._log.line(logging.INFO, "%s: a handshake failed: %s", self, error)
        if not self._accepting:
            self._resume()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.listen_address}>"
