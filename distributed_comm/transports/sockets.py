"""TCP sockets: names to addresses, binding, dialling, and the options we set on each."""

import asyncio
import errno
import os
import socket
from collections.abc import Sequence

from ..addressing import unparse_host_port

__all__ = ["bind", "dial", "get_ip", "host_port", "lookup", "resolve", "tune"]

BACKLOG = 2048
#: How often a random port is tried on the second address family.
TRIES = 20
#: Idle seconds before the kernel asks whether the peer is alive, between asking, and how
#: often. Not TCP_USER_TIMEOUT: it also cuts a healthy peer that pushes back for that long.
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6}

AddrInfo = tuple[int, tuple[object, ...]]  # family and socket address


def lookup_now(host: str, port: int, *, numeric: bool) -> list[AddrInfo]:
    """Resolve a host, which blocks unless it is a ``numeric`` address."""
    flags = socket.AI_NUMERICHOST if numeric else 0
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]


async def lookup(host: str, port: int) -> list[AddrInfo]:
    """Resolve a host without blocking the loop; gaierror, an OSError, where it is unknown."""
    try:
        return lookup_now(host, port, numeric=True)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]


def tune(sock: socket.socket) -> None:
    """Set what every connection has: no blocking, no Nagle, keepalive."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def dial(loop: asyncio.AbstractEventLoop, found: Sequence[AddrInfo]) -> socket.socket:
    """Return a socket connected to the first address that answers; OSError names each."""
    errors = []
    for family, address in found:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            tune(sock)
            await loop.sock_connect(sock, address)
        except OSError as exc:
            sock.close()
            reason = exc.strerror if exc.errno is None else os.strerror(exc.errno)
            errors.append(OSError(exc.errno, f"{reason} by {host_port(address)}"))
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    if len(errors) == 1:
        raise errors[0]
    raise OSError("; ".join(map(str, errors)) or "the name has no address")


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
        sock.setblocking(False)
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
    """Return an IP address of a host, IPv4 where it has one; a wildcard stays."""
    if not host:
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
