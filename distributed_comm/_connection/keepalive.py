"""Whether the peer is still there, and going on.

Strategy: nothing at all is done for a message. A few times in the shortest timeout, at each
beat, the bytes that have come are compared with those at the last one. Beats are counted and
not seconds, so however long a loop was blocked, that is one of them.

Two kinds of peer are cut: one that stopped inside a message, and one whose system is silent, that
is, acknowledges nothing of what was sent. A *process* that is silent is not: its loop may be
blocked, or it pauses reading, as a slow reader has to, and then sees no ping. So a ping is
not there for its answer. It is there to have something acknowledged if nothing else is
sent, and to keep the way open that bytes take, through a firewall for instance. A stranger
whose process takes nothing of its replies is cut all the same: they are in our memory.
"""

from math import inf
from typing import Protocol

from .._loops.heartbeat import Heartbeat  # noqa: TC001 - a block for one import says less
from .._loops.loop_state import LoopState
from ..options import Timeouts
from .byte_stream import ByteStream

__all__ = ["Keepalive", "Watched"]

#: Beats in the shortest timeout; by one of them anybody may be cut too late.
BEATS = 4


class Watched(Protocol):
    """A connection, as its keepalive sees it."""

    @property
    def received(self) -> int:
        """Bytes that have come."""

    def is_receiving(self) -> bool:
        """Return whether bytes would be received if they came."""

    def is_mid_message(self) -> bool:
        """Return whether a message has begun to come, and not ended."""

    def notice_end(self) -> None:
        """Receive again if that was paused and the peer has ended: then little can come."""

    def stuck(self, beats: float) -> int:
        """Return the bytes that wait, if a stranger took none of them for so many beats; else 0."""

    def ping(self) -> bool:
        """Send a ping; False if something else is on its way to the peer."""

    def dismiss(self, why: str) -> None:
        """Close, and tell the peer why."""

    def fail(self, why: str) -> None:
        """Close at once; what has come can be read."""


class Keepalive:
    """Looks after one connection from `start` on, and cuts it if its peer is gone."""

    __slots__ = (
        "_connection", "_heard", "_heartbeat", "_silent", "_still", "_stream", "_timeouts",
        "_unacknowledged",
    )  # fmt: skip

    def __init__(self, connection: Watched, stream: ByteStream, timeouts: Timeouts) -> None:
        self._connection = connection
        self._stream = stream
        self._timeouts = timeouts
        self._heartbeat: Heartbeat | None = None  # while somebody looks
        self._heard = 0  # bytes that had been received at the last beat
        self._still = 0  # beats since nothing has come …
        self._silent = 0  # … and since nothing has come and no ping was sent
        self._unacknowledged = 0  # beats since nothing of what is under way was acknowledged

    def start(self, loop: LoopState) -> None:
        """Look at each beat from now on."""
        beat = min(self._timeouts.gap, self._timeouts.keepalive) / BEATS
        if beat < inf:
            self._heartbeat = loop.heartbeat(beat)
            self._heartbeat.join(self)

    def stop(self) -> None:
        """Look no more; it may have stopped already."""
        if self._heartbeat is not None:
            self._heartbeat.leave(self)
            self._heartbeat = None

    def look(self) -> None:
        """Compare what has come with what had come a beat ago."""
        if self._heartbeat is None:
            return
        connection, beat = self._connection, self._heartbeat.beat
        connection.notice_end()
        if not connection.is_receiving() or connection.received != self._heard:
            self._heard = connection.received
            self._still = self._silent = 0
        else:
            self._still += 1
            self._silent += 1
        # At the first of these beats the bytes may just have been sent: it counts for nothing.
        unacknowledged = self._stream.is_unacknowledged(beat)
        self._unacknowledged = self._unacknowledged + 1 if unacknowledged else 0
        self._act(beat)
        gap = self._timeouts.gap
        waiting = connection.stuck(gap / beat)
        if waiting:
            connection.fail(
                f"the peer is not trusted and took nothing of what was sent to it for {gap:g} s, "
                f"while {waiting} bytes waited (Timeouts.gap)"
            )

    def _act(self, beat: float) -> None:
        """Cut the connection, or ping the peer, if it is time to."""
        gap, keepalive = self._timeouts.gap, self._timeouts.keepalive
        if (self._unacknowledged - 1) * beat >= keepalive:
            self._connection.fail(
                f"the connection was lost: nothing was acknowledged for {keepalive:g} s"
            )
        elif self._still * beat >= gap and self._connection.is_mid_message():
            self._connection.dismiss(
                f"the peer stopped inside a message: nothing came for {gap:g} s (Timeouts.gap)"
            )
        elif self._silent * beat >= keepalive and self._connection.ping():
            self._silent = 0
