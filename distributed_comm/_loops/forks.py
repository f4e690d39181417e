"""Connections that a fork leaves behind.

A connection made before a fork belongs to the parent. In the child its socket and its loop's
selector are still the parent's own, so using them would disturb it; and as long as the child has
the descriptor, the system keeps the connection, so whoever waits at its other end would never hear
that the parent was killed. So the child's copies are marked, and its descriptors closed. They are
only closed: a shutdown or a goodbye would end the parent's connection.

A transport of uvloop knows its socket by number, closes that number when it is collected or its
loop is closed, and asks the selector, which the parent shares, to forget it. By then the number
may be another file's. So there the number stays taken in the child, by a descriptor of the null
device. The parent's selector has never seen that, and cannot be made to watch it.
"""

import os
import socket
import threading
from contextlib import suppress
from functools import cache
from typing import Protocol
from weakref import WeakSet

__all__ = ["ELSEWHERE", "entrust", "let_go", "making", "own", "watch"]

#: The thread of a connection that belongs to another process; no thread has this identity.
ELSEWHERE = 0
#: Held while a descriptor is made, until it is owned, so that no other thread forks in between.
making = threading.RLock()


class Forkable(Protocol):
    """An object that has to know, in the child, that it is the parent's."""

    def _forked(self) -> None:
        """Disown what is the parent's; nothing may be touched that both processes share."""


_owned: WeakSet[socket.socket] = WeakSet()
_watched: WeakSet[Forkable] = WeakSet()


def _release() -> None:
    with suppress(RuntimeError):  # this was registered by another thread during the fork
        making.release()


def _after_in_child() -> None:
    _release()
    for sock in _owned:
        let_go(sock)
    for connection in _watched:
        connection._forked()


def let_go(sock: socket.socket) -> None:
    """Close the child's copy of a socket, and do nothing else to it."""
    with suppress(OSError):
        _let_go(sock)


def _let_go(sock: socket.socket) -> None:
    number = sock.fileno()
    sock.close()
    if sock.fileno() >= 0:  # not yet, because a loop goes by the number
        sock.detach()
        os.close(number)  # first: if all are in use, it is the one that `open` gets
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number, inheritable=False)
            os.close(null)


@cache
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=making.acquire, after_in_parent=_release, after_in_child=_after_in_child
        )


def own(sock: socket.socket) -> None:
    """Close the child's copy of a socket when this process forks; call it in ``with making:``."""
    _register()
    _owned.add(sock)


def entrust(sock: socket.socket) -> None:
    """Leave a socket to an object that is watched, and lets it go: an entry takes 150 bytes."""
    _owned.discard(sock)


def watch(connection: Forkable) -> None:
    """Tell the connection, in the child, when this process forks."""
    _register()
    _watched.add(connection)
