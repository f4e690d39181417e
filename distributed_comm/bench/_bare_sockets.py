"""Where the bare systems listen, by transport: a port, or a path of its own.

An address is a number, or the path.
"""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def listen(transport: str) -> Iterator[socket.socket]:
    """A listening socket, closed and cleaned up with the context."""
    if transport != "unix":
        with socket.create_server(("127.0.0.1", 0)) as sock:
            yield sock
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.join(folder, "socket"))
        sock.listen(128)
        yield sock


def address(sock: socket.socket) -> str:
    """What `connect` takes to reach a listening socket."""
    name = sock.getsockname()
    return name if isinstance(name, str) else str(name[1])


def connect(address: str) -> socket.socket:
    """A connected socket."""
    if address.isdecimal():
        return socket.create_connection(("127.0.0.1", int(address)))
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    return sock
