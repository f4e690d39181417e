"""TCP sockets: names to addresses, binding, dialling, and the options we set on each."""

import asyncio
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from .._addressing import unparse_host_port
from .._connection.socket_state import drop
from .._loops import forks
from .._loops.threads import NAMES, in_thread

__all__ = [
    "OWN", "adopt", "bind", "blame", "dial", "get_ip", "host_port", "lookup", "resolve",
    "tune_accepted", "unpace",
]  # fmt: skip

BACKLOG = 2048
#: Seconds that one address of a name has before the next one is dialled beside it.
HEAD_START = 0.3
#: How often a random port is tried on the second address family.
TRIES = 20
#: Idle seconds before the kernel asks whether the peer is alive, between asking, and how
#: often. Not TCP_USER_TIMEOUT: it also cuts a healthy peer that pushes back for that long.
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6}
#: What every connection has: no Nagle, keepalive. On Linux an accepted one has it from the
#: socket that listened.
OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in KEEPALIVE.items()
        if hasattr(socket, name)
    ),
]
#: Closing then resets the connection, and leaves nothing of it in the system.
RESET = socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
INHERITS = sys.platform == "linux"
#: A congestion control that does not pace, and that everybody may choose; None off Linux.
UNPACED = (socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno") if sys.platform == "linux" else None
#: Errors of dialling for which the other end is not to blame, and where to look.
OWN = {
    errno.EMFILE: "in this process (see ulimit -n)",
    errno.ENFILE: "on this machine",
    errno.ENOBUFS: "on this machine",
    errno.ENOMEM: "on this machine",
    errno.EADDRNOTAVAIL: "on this machine",
}
#: Errors of connect() for a connection that is not there yet.
UNDER_WAY = {errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK, errno.EINTR}

AddrInfo = tuple[int, tuple[object, ...]]  # family and socket address


def lookup_now(host: str, port: int, *, numeric: bool) -> list[AddrInfo]:
    """Resolve a host, which blocks unless it is a ``numeric`` address.

    Raises gaierror, an OSError, if it is unknown, ValueError if it is no name.
    """
    flags = socket.AI_NUMERICHOST if numeric else 0
    with _names(host):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]


async def lookup(host: str, port: int) -> list[AddrInfo]:
    """Do what `lookup_now` does, without blocking the loop."""
    with suppress(OSError, ValueError):  # 30 times quicker, and nearly always all that is needed
        socket.inet_pton(socket.AF_INET, host)
        return [(socket.AF_INET, (host, port))]
    try:
        return lookup_now(host, port, numeric=True)
    except socket.gaierror:
        return await in_thread(NAMES, partial(lookup_now, host, port, numeric=False))


@contextmanager
def _names(host: str) -> Iterator[None]:
    """Say which host it was that cannot be written in a DNS query."""
    try:
        yield
    except UnicodeError as exc:
        raise ValueError(f"invalid host {host!r:.120}: {exc}") from exc


def tune(sock: socket.socket) -> None:
    """Set what every connection has, and no blocking."""
    sock.setblocking(False)
    for option in OPTIONS:
        sock.setsockopt(*option)


def unpace(sock: socket.socket) -> None:
    """Send without pacing, on a connection within this host.

    Linux's BBR, if it is the system's choice, spaces packets out by timers, for the sake of a
    network. There is none here, and it halves what goes through.
    """
    if UNPACED is not None:
        with suppress(OSError):
            sock.setsockopt(*UNPACED)


def tune_accepted(sock: socket.socket) -> None:
    """Do what `tune` does for a socket that one of `bind` or `adopt` has accepted."""
    if INHERITS:
        sock.setblocking(False)
    else:
        tune(sock)


async def dial(loop: asyncio.AbstractEventLoop, found: Sequence[AddrInfo]) -> socket.socket:
    """Return a socket connected to the first address that answers; OSError names each.

    Each address gets a head start on the next one, so that one which swallows what it is
    sent (IPv6, often) does not hide another that works.
    """
    if len(found) == 1:
        return await _dial(loop, *found[0])
    untried, errors = list(found), []
    trying: set[asyncio.Task[socket.socket]] = set()
    try:
        while untried or trying:
            if untried:
                trying.add(loop.create_task(_dial(loop, *untried.pop(0))))
            patience = HEAD_START if untried else None
            done, trying = await asyncio.wait(
                trying, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            connected = [task.result() for task in done if task.exception() is None]
            for sock in connected[1:]:
                drop(sock)
            if connected:
                return connected[0]
            for task in done:
                exc = task.exception()
                assert exc is not None
                if not isinstance(exc, OSError):
                    raise exc
                errors.append(exc)
    finally:
        for task in trying:
            # Cancelled, it closes its socket; it may be done already, if we were cancelled.
            if not task.cancel() and task.exception() is None:
                drop(task.result())
    raise OSError("; ".join(map(str, errors)) or "the name has no address")


async def _dial(
    loop: asyncio.AbstractEventLoop, family: int, address: tuple[object, ...]
) -> socket.socket:
    """Return a socket connected to one address; OSError names it."""
    sock = None
    try:
        with forks.making:
            sock = socket.socket(family, socket.SOCK_STREAM)
            forks.own(sock)
        tune(sock)
        await _connect(loop, sock, address)
    except BaseException as exc:
        if sock is not None:
            drop(sock)
        if isinstance(exc, OSError) and exc.errno is not None:
            raise OSError(exc.errno, blame(exc.errno, host_port(address))) from exc
        raise
    return sock


def blame(error: int, whom: str) -> str:
    """Return the text of an error of connect(), which says whose doing it is.

    >>> blame(errno.ECONNREFUSED, "127.0.0.1:80"), blame(errno.EMFILE, "127.0.0.1:80")
    ('Connection refused by 127.0.0.1:80', 'Too many open files in this process (see ulimit -n)')
    """
    text = os.strerror(error)
    return f"{text} {OWN[error]}" if error in OWN else f"{text} by {whom}"


async def _connect(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, address: tuple[object, ...]
) -> None:
    """Do what `loop.sock_connect` does, which on uvloop looks the address up in a thread.

    On one host a connection that is begun is there, so asking again is all it takes.
    """
    error = sock.connect_ex(address) and sock.connect_ex(address)
    if error in UNDER_WAY:
        waiter = loop.create_future()
        loop.add_writer(sock, _wake, waiter)
        try:
            await waiter
        finally:
            loop.remove_writer(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error in {0, errno.EISCONN} and _is_itself(sock):
        sock.setsockopt(*RESET)
        sock.close()
        error = errno.ECONNREFUSED
    if error not in {0, errno.EISCONN}:
        raise OSError(error, os.strerror(error))


def _is_itself(sock: socket.socket) -> bool:
    """Return whether a socket is connected to itself.

    TCP makes such a connection if nobody listens and the port that the system chose for our
    end happens to be the one that is dialled. Our own bytes would come back as the peer's,
    and the server that should listen there could not have the port.
    """
    return bool(sock.getsockname()[:2] == sock.getpeername()[:2])


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


def bind(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets; for no host IPv6 and IPv4, with one port for both."""
    if host:
        found = lookup_now(host, port, numeric=False)[:1]
    else:
        found = [(socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104 - asked for by "tcp://"
        if socket.has_ipv6:
            found.append((socket.AF_INET6, ("::", port)))
    for attempt in range(TRIES):
        try:
            return _bind_all(found)
        except OSError as exc:
            # the random port of one family may be taken in the other
            if port or exc.errno != errno.EADDRINUSE or attempt == TRIES - 1:
                raise
    raise AssertionError("unreachable")


def adopt(given: Sequence[socket.socket]) -> list[socket.socket]:
    """Return sockets that somebody else has bound, listening."""
    for sock in given:
        tune(sock)
        sock.listen(BACKLOG)
    return list(given)


def _bind_all(found: Sequence[AddrInfo]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, address in found:
            port = sockets[0].getsockname()[1] if sockets else address[1]
            try:
                sockets.append(_bind(family, (address[0], port, *address[2:])))
            except OSError as exc:
                # a machine without IPv6 still listens on IPv4
                if not sockets or exc.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    raise
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        tune(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def host_port(name: tuple[object, ...]) -> str:
    """Return ``host:port`` of what getsockname or getpeername gave."""
    return unparse_host_port(str(name[0]), int(str(name[1])))


def resolve(host: str) -> str:
    """Return an IP address of a host, IPv4 if it has one; a wildcard stays."""
    if not host:
        return host
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        pass
    else:  # one already, and so written: a fortieth of the time
        return host
    found = sorted(lookup_now(host, 0, numeric=False), key=lambda item: item[0] != socket.AF_INET)
    return str(found[0][1][0])


def get_ip(target: str) -> str:
    """Return our address on the way to an IP address, or to the world from a wildcard.

    Nothing is sent: connecting a UDP socket only looks the way up.
    """
    world = {"": "8.8.8.8", "0.0.0.0": "8.8.8.8", "::": "2001:4860:4860::8888"}  # noqa: S104
    found = lookup_now(world.get(target, target), 9, numeric=True)
    family, address = found[0]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(address)
        except OSError:  # no way there: a machine without a network
            return "127.0.0.1" if family == socket.AF_INET else "::1"
        return str(sock.getsockname()[0])
