"""Unix sockets: paths and abstract names, binding without stealing, and who the peer is.

A socket in the file system outlives the process that bound it, and nothing about it says
whether somebody still listens. So a lock lies beside it, which the kernel lets go when its
holder ends: only the holder of the lock removes what is there.
"""

import errno
import os
import socket
import stat
import struct
import sys
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from .._loops import forks
from .._text import printable
from .ip_sockets import OWN, blame

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


__all__ = ["ListenAddress", "Peer", "connect", "encode", "peer_of", "uid_is_ours"]

BACKLOG = 2048
#: Bytes of a path, with the zero at its end: sizeof(sun_path).
LONGEST = 108 if sys.platform == "linux" else 104
CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
#: Every user that a user namespace has no number for; in it, strangers look alike.
NOBODY = 65534


class Peer(NamedTuple):
    """The process at the other end, as the kernel knows it; None if it does not say."""

    uid: int | None
    pid: int | None


def encode(loc: str) -> bytes:
    """Return a location as the kernel takes it; ValueError for one that it could not be.

    >>> encode("@name"), encode("/run/sock")
    (b'\\x00name', b'/run/sock')
    """
    if not hasattr(socket, "AF_UNIX"):
        raise ValueError(f"'unix://{loc:.120}': this system has no Unix sockets")
    if not loc.startswith(("/", "@")):
        expected = "expected a path from / on, or on Linux @ and a name"
        raise ValueError(f"invalid address 'unix://{loc:.120}': {expected}")
    name = os.fsencode(loc)
    if b"\0" in name:
        raise ValueError(f"invalid address {f'unix://{loc}'!r:.120}: a zero in it")
    if loc.startswith("@"):
        if sys.platform != "linux":
            raise ValueError(f"'unix://{loc:.120}': only Linux has abstract names")
        name = b"\0" + name[1:]
    if len(name) >= LONGEST:
        raise ValueError(
            f"the path of 'unix://{loc}' has {len(name)} bytes, and the system takes "
            f"{LONGEST - 1} at most"
        )
    return name


def connect(loc: str) -> socket.socket:
    """Return a connected socket; OSError names the address.

    It is connected or refused at once, also if the listener has no room: then the system would
    have a blocking caller wait, and tells no other one when there is.
    """
    name = encode(loc)
    sock = None
    try:
        with forks.making:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            forks.own(sock)
        sock.setblocking(False)
        sock.connect(name)
    except OSError as exc:
        if sock is not None:
            sock.close()
        raise OSError(exc.errno, blame(exc.errno or 0, f"unix://{printable(loc)}")) from exc
    return sock


def peer_of(sock: socket.socket) -> Peer:
    """Return whom the kernel knows at the other end."""
    if not hasattr(socket, "SO_PEERCRED"):
        return Peer(None, None)
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, _ = CREDENTIALS.unpack(data)
    return Peer(uid, pid)


def uid_is_ours(uid: int | None) -> bool:
    """Whether a peer's user is that of this process, and not just nameless as it is."""
    return uid is not None and uid == os.geteuid() and uid != NOBODY


class ListenAddress:
    """The address of one listener: a path with its lock, or an abstract name.

    A folder that does not exist is made, one level, for this user alone.
    """

    def __init__(self, loc: str) -> None:
        self._loc = loc
        self._name = encode(loc)
        self._lock: BinaryIO | None = None
        self._mark: tuple[int, int] | None = None  # of the socket that we made

    def bind(self) -> socket.socket:
        """Return a listening socket, for this user alone; OSError if somebody else listens."""
        if self._name.startswith(b"\0"):
            return self._listen()
        self._make_folder()
        self._lock = self._take_lock()
        try:
            self._clear()
            sock = self._listen()
            found = os.lstat(self._name)
        except BaseException:
            self._release()
            raise
        self._mark = (found.st_dev, found.st_ino)
        return sock

    def _make_folder(self) -> None:
        folder = os.path.dirname(self._loc)
        try:
            os.mkdir(os.fsencode(folder), 0o700)
        except FileExistsError:
            pass
        except OSError as exc:
            remedy = f"its folder cannot be made; make it yourself, by `mkdir -p {folder}`"
            raise self._failed(exc, remedy) from exc

    def _listen(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(self._name)
            if not self._name.startswith(b"\0"):
                os.chmod(self._name, 0o600)  # before anybody can connect
            sock.listen(BACKLOG)
        except OSError as exc:
            sock.close()
            raise self._failed(exc) from exc
        return sock

    def _take_lock(self) -> BinaryIO:
        """Return the file beside the socket, locked."""
        path = self._name + b".lock"
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            except OSError as exc:
                remedy = "" if exc.errno in OWN else "expected a folder that this user can write to"
                raise self._failed(exc, remedy) from exc
            lock = open(descriptor, "r+b")  # noqa: SIM115 - held as long as the address
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # its last holder may have removed it after we opened it
                if os.path.samestat(os.fstat(lock.fileno()), os.lstat(path)):
                    return lock
            except FileNotFoundError:
                pass
            except BlockingIOError:
                lock.close()
                raise self._in_use() from None
            lock.close()

    def _clear(self) -> None:
        """Remove a socket that nobody listens on any more."""
        try:
            found = os.lstat(self._name)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise FileExistsError(errno.EEXIST, f"unix://{self._loc} is there, and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self._name)
            except ConnectionRefusedError:
                os.unlink(self._name)
                return
            except BlockingIOError:  # its backlog is full
                pass
        raise self._in_use()  # by somebody who knows nothing of locks

    def _failed(self, exc: OSError, remedy: str = "") -> OSError:
        """Return the error with the address, and with what to do."""
        text = f"{os.strerror(exc.errno or 0)}: unix://{self._loc}"
        return OSError(exc.errno, f"{text}: {remedy}" if remedy else text)

    def _in_use(self) -> OSError:
        return OSError(errno.EADDRINUSE, f"unix://{self._loc} is in use")

    def leave(self) -> None:
        """Remove the socket and its lock, if they are still ours."""
        if self._lock is not None:
            with suppress(OSError):
                found = os.lstat(self._name)
                if (found.st_dev, found.st_ino) == self._mark:
                    os.unlink(self._name)
            self._release()

    def _release(self) -> None:
        assert self._lock is not None
        with suppress(OSError):
            os.unlink(self._name + b".lock")
        self.disown()

    def disown(self) -> None:
        """Forget the lock without removing anything: a forked child's copy is the parent's."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
