"""A Listener over sockets that it owns: it accepts by itself, so that it can pause.

Connections in their handshake, and all of them, are bounded. A listener at a bound, or near the
limit of file descriptors, closes the stranger that has been idle longest (see `eviction`). If there
is none it stops accepting until there is room, and the kernel's backlog keeps the others meanwhile.
Once its handshake is done, a connection is the callback's.
"""

import asyncio
import errno
import logging
import socket
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from .._comm import ChannelComm
from .._logs import StrangersLog
from .._loops import descriptors, forks
from .._loops.deadlines import Deadline
from .._loops.loop_state import LoopState, state_of
from .._loops.ownership import owner
from .._loops.tasks import start
from .._serialize.compression import choose
from .._trust.trust import REFUSAL, Trust
from .._wire.budget import Budget
from .._wire.framing import MakeFraming
from .._wire.length_framing import LengthFraming
from ..core import HandleComm, Listener
from ..errors import FatalCommClosedError, LocalProtocolError
from ..options import CommOptions
from .byte_stream import ByteStream, SocketStream
from .channel import ConnectionChannel
from .eviction import FULL, SCARCE, Crowd, are_too_many, relieve
from .handle_comm import Handling
from .handshake import judge, make_channel
from .peer import ConnectionInfo
from .socket_state import drop, has_news

__all__ = ["SocketListener"]

#: Connections that one turn of the loop accepts, so that others get theirs.
BATCH = 64
#: The same while trusted peers call: how long the handshakes will take is not known yet.
FEW = 4
#: Seconds for which our hello is kept back, so as to send it with our proof.
COURTESY = 0.001
#: Seconds until accepting is tried again after the system refused.
PAUSE = 0.2
#: Seconds in which a connection that was closed has given its descriptor back.
SOON = 0.01
#: Seconds between two warnings that there are as many connections as may be.
SILENCE = 60.0
#: Errors of accept() for which the machine, not the peer, is the reason.
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class SocketListener(Listener):
    """Accepts connections on its sockets; subclasses bind them and make the channels."""

    #: The framing, the same as that of the connectors that dial it.
    framing: MakeFraming = LengthFraming

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
        self._started = False
        self._loop: asyncio.AbstractEventLoop | None = None  # once started, in this process
        self._accepting = False
        self._retry: asyncio.TimerHandle | None = None  # when accepting is tried again
        self._starved = False  # accepting pauses for want of descriptors
        self._number = 0  # of the last descriptor that accept() returned
        self._crowd = Crowd(self._options, self._log)
        self._state: LoopState | None = None  # of the loop, once started
        self._waiting = False  # until it is the turn of those who dial
        self._silent_until = 0.0  # when it may be said again that there are too many connections
        self._handshakes: dict[ConnectionChannel, Deadline] = {}
        self._connections: set[ConnectionChannel] = set()
        forks.watch(self)

    @abstractmethod
    def _bind(self) -> list[socket.socket]:
        """Return listening sockets."""

    @abstractmethod
    def _identify(self, sock: socket.socket, name: Any) -> ConnectionInfo:
        """Prepare an accepted socket, of which accept() gave the peer's name; return its ends.

        Raises OSError if the peer has gone.
        """

    def bind(self) -> None:
        """Bind the sockets, so that the port is known; `start` does it otherwise."""
        if not self._sockets:
            self._sockets = self._bind()

    async def start(self) -> None:
        if self._started:
            whose = owner(self._loop)
            raise LocalProtocolError(f"{self!r} was started already, in {whose}")
        self.bind()
        self._started = True
        self._log.about = f"of {self!r}"
        with forks.making:
            self._loop = asyncio.get_running_loop()
            for sock in self._sockets:
                forks.own(sock)
        self._crowd.begin(self._loop, self._sockets[0].fileno())
        self._state = state_of(self._loop)
        self._resume()

    def stop(self) -> None:
        self._pause()
        for sock in self._sockets:
            sock.close()
        for channel in list(self._handshakes):
            if not channel.greeted:  # else the peer's `connect` may have returned
                channel.abort()
        self._log.flush()

    def _forked(self) -> None:
        """Leave the loop to the parent, and the sockets as well if they were accepting.

        If they were only bound, they are this process's, too, which may start the listener.
        """
        self._loop = None
        self._accepting = self._waiting = False
        self._handshakes.clear()
        self._crowd.forked()

    # -- accepting ---------------------------------------------------------------

    def _pause(self, seconds: float | None = None) -> None:
        """Stop accepting, for so many seconds at most, until there is room."""
        if self._accepting and self._loop is not None and not self._loop.is_closed():
            self._accepting = False
            for sock in self._sockets:
                self._loop.remove_reader(sock)
            if seconds is not None:
                self._retry = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._waiting:
            return
        if self._loop is not None and not self._accepting and self._sockets[0].fileno() >= 0:
            self._starved = False
            self._accepting = True
            for sock in self._sockets:
                self._loop.add_reader(sock, self._accept_in_turn, sock)

    def _make_room(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, most: float) -> bool:
        """Return whether another may come in, below the descriptor ``most``.

        If not, and somebody waits, an idle stranger is closed. Accepting pauses until that is gone.
        """
        limits, crowd = self._options.limits, self._crowd
        make: Callable[[], None]
        if self._number + BATCH >= most and descriptors.is_next_reserved(sock.fileno(), most):
            make = partial(self._starve, loop)
        elif len(self._handshakes) >= limits.handshakes:
            make = partial(self._wait, crowd.evict_arriving, FULL)
        elif len(self._connections) >= limits.connections or crowd.is_full():
            make = self._wait_for_place
        elif len(crowd) and are_too_many():
            make = partial(self._wait, partial(relieve, loop), SCARCE)
        else:
            return True
        if has_news(sock):
            make()
        return False

    def _wait(self, evict: Callable[[str], bool], why: str) -> None:
        """Evict a stranger and pause until it is gone; if none is idle, one may be in a moment."""
        crowd = self._crowd
        self._pause(SOON if evict(why) else crowd.patience() if len(crowd) else None)

    def _wait_for_place(self) -> None:
        """Pause until another connection is within the limits; log it if there are too many."""
        self._wait(self._crowd.evict, FULL)
        now = monotonic()
        if len(self._connections) >= self._options.limits.connections and now >= self._silent_until:
            self._silent_until = now + SILENCE
            self._log.line(
                logging.WARNING,
                "%s has %s connections, as many as it accepts; others wait (Limits.connections)",
                self, len(self._connections),
            )  # fmt: skip

    def _starve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pause, and have a stranger of this process give its descriptor back, if one is idle."""
        descriptors.warn(self)
        self._pause(SOON if relieve(loop) else PAUSE)
        self._starved = True

    def _accept_in_turn(self, sock: socket.socket) -> None:
        """Accept, unless those who dial have had their share of the loop."""
        if self._loop is None:  # in a child, whose copy of the loop has the parent's selector
            return
        assert self._state is not None
        turns = self._state.turns
        lane = turns.shares.handshakes
        turns.meter(lane, self._accept, sock)
        if lane.is_over() and not self._waiting:
            self._pause()
            self._waiting = True
            turns.wait(lane, self)

    def go_on(self) -> None:
        """Accept again: it is the turn of those who dial."""
        self._waiting = False
        if self._retry is None:
            self._resume()

    def _accept(self, sock: socket.socket) -> None:
        assert self._state is not None
        loop, turns = self._state.loop, self._state.turns
        shares = turns.shares
        most = descriptors.ceiling()
        for _ in range(FEW if shares.contended else BATCH):
            if not self._make_room(loop, sock, most):
                return
            if turns.is_over(shares.handshakes):
                return
            try:
                with forks.making:
                    accepted, name = sock.accept()
                    forks.own(accepted)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                if exc.errno not in EXHAUSTED:
                    raise
                self._log.line(logging.WARNING, "%s pauses accepting: %s", self, exc)
                self._starve(loop)
                return
            self._number = accepted.fileno()
            self._welcome(self._state, accepted, name)

    def _stream(self, state: LoopState, sock: socket.socket) -> ByteStream:  # noqa: ARG002
        """Return what the connection sends into; a subclass may have another one."""
        return SocketStream(sock)

    def _welcome(self, state: LoopState, sock: socket.socket, name: Any) -> None:
        """Begin the handshake on an accepted socket."""
        try:
            info = self._identify(sock, name)
        except OSError:  # it has gone already
            drop(sock)
            return
        try:
            stream = self._stream(state, sock)
        except BaseException:
            drop(sock)
            raise
        channel = make_channel(
            state, stream, info, self._trust, self._options, self.framing,
            self._opened, self._lost,
        )  # fmt: skip
        forks.entrust(sock)
        self._handshakes[channel] = Deadline(state.loop, COURTESY, lambda: self._greet(channel))
        self._connections.add(channel)
        if not self._trust.includes(vouched=info.vouched, proven=False, relayed=False):
            self._crowd.join(channel)  # until it has shown that it is no stranger
        starting = state.turns.metered(self._start(stream, channel), handshake=True)
        self._handling.keep(start(starting, state.loop))

    async def _start(self, stream: ByteStream, channel: ConnectionChannel) -> None:
        assert self._loop is not None
        try:
            await stream.start(self._loop, channel, channel.attached)
        except OSError as exc:
            self._log.line(logging.INFO, "%s could not serve a connection: %s", self, exc)
            self._lost(channel)

    def _greet(self, channel: ConnectionChannel) -> None:
        """Send our hello to a peer that keeps silent, and give it time to answer."""
        assert self._loop is not None
        channel.greet()
        patience = self._options.timeouts.handshake - COURTESY
        self._handshakes[channel] = Deadline(self._loop, patience, lambda: self._expire(channel))

    def _expire(self, channel: ConnectionChannel) -> None:
        channel.abort("no hello came in time")

    # -- callbacks of the channels -------------------------------------------------

    def _opened(self, channel: ConnectionChannel) -> None:
        """Hand over the comm of a connection whose handshake is done, or refuse the peer."""
        self._handshakes.pop(channel).cancel()
        if not self._starved:  # a handshake that is done frees no descriptor
            self._resume()
        try:
            trusted = judge(channel, self._trust, self._budget, self._log)
        except FatalCommClosedError as exc:
            self._log.line(logging.INFO, "%s refused a connection: %s", self, exc)
            assert self._loop is not None
            self._crowd.part(channel)
            self._handling.keep(start(channel.refuse(REFUSAL), self._loop))
            return
        if trusted:
            self._crowd.leave(channel)
        elif not self._crowd.settle(channel):
            self._log.line(logging.INFO, "%s turned %s away: %s", self, channel.peer_address, FULL)
            channel.evict(FULL)
            return
        comm = ChannelComm(
            channel, trusted=trusted, deserialize=self._deserialize, limits=self._options.limits
        )
        self._handling.begin(comm)

    def _lost(self, channel: ConnectionChannel) -> None:
        """Forget a connection that is gone, perhaps before its handshake was done."""
        self._connections.discard(channel)
        self._crowd.leave(channel)
        deadline = self._handshakes.pop(channel, None)
        if deadline is not None:
            deadline.cancel()
            error = channel.closed_error()
            self._log.line(logging.INFO, "%s: a handshake failed: %s", self, error)
        if not self._accepting:
            self._resume()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.listen_address}>"
