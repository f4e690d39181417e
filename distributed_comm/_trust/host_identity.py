"""Which listener an address means: 127.0.0.1 is another one on each machine.

A proof is bound to the listener's address as both ends see it, so that a relay between them
shows. But an address of a machine to itself looks the same on every machine, and in
every network namespace; so an endpoint of that kind says where it is, too. Two ends of a true
connection are told the same by their kernel. Others learn nothing by it: it is hashed.
"""

import socket
import sys
from functools import cache, lru_cache
from hashlib import sha256
from os import stat
from pathlib import Path

from .._addressing import unparse_host_port

__all__ = ["ip_endpoint", "unix_endpoint"]

#: A prefix that is hashed with the numbers of a kernel.
DOMAIN = b"distributed_comm host 1\0"
#: Linux's 5.14 number for what tells the network namespace of a socket from all others since
#: the machine was started. It needs no /proc, and is right for a socket that was handed over.
SO_NETNS_COOKIE = 71
COOKIE = 8


def ip_endpoint(sock: socket.socket, name: tuple[object, ...], *, same_host: bool) -> str:
    """Return the address of a listener as both ends of a connection write it.

    ``name`` is what getsockname or getpeername gave. A scope such as ``%eth0`` means something
    on one machine only, and a socket for both families calls an IPv4 address ``::ffff:1.2.3.4``.
    """
    host = str(name[0])
    if ":" in host:
        host = host.partition("%")[0]
        host = host[7:] if host.startswith("::ffff:") and "." in host else host
    address = unparse_host_port(host, int(str(name[1])))
    if same_host or host == "::1" or host.startswith("127."):
        return f"{address} {_digest(_network(sock))}"
    return address


def unix_endpoint(owner: int | None) -> str:
    """Return the same for a Unix socket: its owner, because it has other names in other mounts.

    Of which machine, and not of which network namespace: a path leads from one to another.
    """
    return f"uid {owner} {_digest(b'')}"


def _network(sock: socket.socket) -> bytes:
    """Return what tells this socket's network from others of one kernel; nothing off Linux."""
    if sys.platform != "linux":
        return b""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, COOKIE)
    except OSError:  # a kernel before 5.14
        return _network_of_process()


@cache
def _network_of_process() -> bytes:
    try:
        namespace = stat("/proc/self/ns/net")
    except OSError:
        return b""
    return f"{namespace.st_dev} {namespace.st_ino}".encode()


@cache
def _boot() -> bytes:
    """Return a number that the kernel drew when the machine was started; nothing off Linux."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b""


@lru_cache(64)
def _digest(network: bytes) -> str:
    """Return where an address is that means this machine, in 16 hexadecimal digits."""
    return sha256(DOMAIN + _boot() + b"\0" + network).hexdigest()[:16]
