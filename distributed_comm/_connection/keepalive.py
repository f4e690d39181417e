"""The watching half of a connection: whether its peer is still there, and going on.

Strategy: nothing at all is done for a message. A few times in the shortest timeout, at each
beat, the bytes that have come are compared with those at the last one. Beats are counted and
not seconds, so however long a loop was blocked, that is one of them.

Who is cut: a peer that stopped inside a message, and one whose system is silent, that is,
acknowledges nothing of what was sent. A *process* that is silent is not: its loop may be
blocked, or it pauses reading, as a slow reader has to, and then sees no ping. So a ping is
not there for its answer. It is there to have something acknowledged where nothing else is
sent, and to keep the way open that bytes take, through a firewall for instance. A stranger
whose process takes nothing of its replies is cut all the same: they are in our memory.
"""

from abc import abstractmethod
from asyncio import AbstractEventLoop
from math import inf
from socket import socket

from .._loops.heartbeat import Rounds, rounds_of
from .._transports.ip_sockets import is_unacknowledged, unacknowledged
from .._wire.budget import ALLOWANCE
from .._wire.connection import Connection
from .._wire.states import OPEN
from ..options import CommOptions
from .pausing import Pauser

__all__ = ["Watcher"]

#: Beats in the shortest timeout; by one of them anybody may be cut too late.
BEATS = 4


class Watcher(Pauser):
    """Looks after the peer from `_watch` on, and cuts the connection where it is gone."""

    __slots__ = (
        "_heard", "_rounds", "_silent", "_still", "_timeouts", "_unacknowledged",
    )  # fmt: skip

    def __init__(
        self, loop: AbstractEventLoop, sock: socket, connection: Connection, options: CommOptions
    ) -> None:
        super().__init__(loop, sock, connection, options)
        self._timeouts = options.timeouts
        self._rounds: Rounds | None = None  # while somebody looks
        self._heard = 0  # bytes that had been received at the last beat
        self._still = 0  # beats since nothing has come …
        self._silent = 0  # … and since nothing has come and no ping was sent
        self._unacknowledged = 0  # beats since nothing of what is under way was acknowledged
        connection.respond = self._respond

    @abstractmethod
    def _cut(self, why: str) -> None:
        """End the connection at once; what has arrived can be read."""

    def _watch(self) -> None:
        beat = min(self._timeouts.gap, self._timeouts.keepalive) / BEATS
        if beat < inf:
            self._rounds = rounds_of(self._loop, beat)
            self._rounds.join(self)

    def _unwatch(self) -> None:
        if self._rounds is not None:
            self._rounds.leave(self)
            self._rounds = None

    def look(self) -> None:
        """Compare what has come with what had come a beat ago."""
        assert self._rounds is not None
        beat = self._rounds.beat
        if self._ended_unread():
            self._resume()
        waits = self._turn is not None and self._turn.waiting
        if self._paused or waits or self._received != self._heard:
            self._heard = self._received
            self._still = self._silent = 0
        else:
            self._still += 1
            self._silent += 1
        # At the first of these beats the bytes may just have been sent: it counts for nothing.
        unacknowledged = is_unacknowledged(self._sock, beat)
        self._unacknowledged = self._unacknowledged + 1 if unacknowledged else 0
        self._judge(beat)
        if self._ration is not None:
            self._press(beat)

    def _judge(self, beat: float) -> None:
        """Cut the connection, or ping the peer, where it is time to."""
        gap, keepalive = self._timeouts.gap, self._timeouts.keepalive
        if (self._unacknowledged - 1) * beat >= keepalive:
            self._cut(f"the connection was lost: nothing was acknowledged for {keepalive:g} s")
        elif self._still * beat >= gap and self._connection.mid_message:
            self.dismiss(
                f"the peer stopped inside a message: nothing came for {gap:g} s (Timeouts.gap)"
            )
        elif self._silent * beat >= keepalive and not self._queued:
            self._silent = 0
            if self._connection.state is OPEN:
                self._post(self._connection.ping())

    def _press(self, beat: float) -> None:
        """Cut a stranger that has taken nothing of what waits for it for long enough.

        If that is little, and no writer waits with it, the stranger only counts as idle.
        """
        ration, gap = self._ration, self._timeouts.gap
        assert ration is not None
        ration.stalled = self._queued > 0 and ration.beats_at(self._place()) * beat >= gap
        if ration.stalled and (ration.held or self._waiters):
            self._cut(
                f"the peer is not trusted and took nothing of what was sent to it for {gap:g} s, "
                f"while {self._queued} bytes waited (Timeouts.gap)"
            )

    def _place(self) -> tuple[int, ...]:
        """Return how far the peer is with what was sent to it.

        All of these change as it reads, but for one that reads a few bytes now and then the last
        alone: a full socket takes more only when a good part of it is free.
        """
        unsent = self._transport.get_write_buffer_size(), self._ahead()
        return self._taken, *unsent, unacknowledged(self._sock)

    def _respond(self, buffers: list[bytes | memoryview]) -> None:
        """Answer a ping, unless so much is unsent that the peer hears of us anyway."""
        if self._queued < ALLOWANCE:
            self._post(buffers)
