"""What the system knows of a connected socket, and how one is closed.

None of these functions waits. They take sockets of TCP and of Unix; if the system does not tell,
they give the answer that does no harm.
"""

import select
import socket
import struct
import sys
from contextlib import suppress

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]

__all__ = ["drop", "has_left", "has_news", "is_unacknowledged", "shut", "unacknowledged"]

#: The event of `poll` for a peer that sends no more; 0 if it has none: then only a read finds out.
GONE = getattr(select, "POLLRDHUP", 0)
#: Of Linux's struct tcp_info: probes of a closed window that nobody answered, segments that
#: are not acknowledged, and milliseconds since something was.
TCP_INFO = struct.Struct("=3xB20xI28xI")
PROBES = 3


def shut(sock: socket.socket) -> None:
    """End a connection in both directions, if it has not ended.

    Closing alone does so only if no other process has a copy of the descriptor: one that was
    forked by code which Python does not know, for instance.
    """
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def drop(sock: socket.socket) -> None:
    """End a connection that no transport was made for, and close its socket."""
    shut(sock)
    sock.close()


def has_left(sock: socket.socket) -> bool:
    """Return whether all that the peer will ever send has arrived; False if that is not known.

    Unlike a read this sees the end behind bytes that nobody has read.
    """
    if not GONE:
        return False
    poll = select.poll()
    poll.register(sock, GONE)
    return bool(poll.poll(0))


def has_news(sock: socket.socket) -> bool:
    """Return whether anything has arrived that was not taken: bytes, an end, a connection."""
    if sock.fileno() < 0:  # closed in this very turn
        return False
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def is_unacknowledged(sock: socket.socket, seconds: float) -> bool:
    """Return whether bytes are under way and nothing was acknowledged for so many seconds.

    A peer that takes no more bytes, and says so, has nothing under way. False if the
    system does not tell, or the socket is not one of TCP.
    """
    if sys.platform != "linux":
        return False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
    except OSError:
        return False
    probes, segments, silence = TCP_INFO.unpack(info)
    return bool((segments or probes >= PROBES) and silence >= 1000 * seconds)


def unacknowledged(sock: socket.socket) -> int:
    """Return how many bytes the system keeps for the peer: 0 if it does not tell.

    Over unix it tells how much memory they take, which becomes less by whole pieces.
    """
    if sys.platform != "linux":
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):  # it has just gone
        return 0
