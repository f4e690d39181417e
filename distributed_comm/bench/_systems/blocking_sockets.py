"""The floor: blocking sockets that move the same bytes, encoded beforehand.

Sizes are agreed before a batch, so that there is no header to read. Arrays are received into
fresh memory, because a receiver that hands out objects has to. The methods are coroutines
that never suspend: one more call, and the same workload drives every system.
"""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from struct import Struct
from typing import Any

from distributed_comm.bench import _bare_sockets, _payloads
from distributed_comm.bench._systems import Comm, Handler

TRANSPORTS = frozenset({"tcp", "unix"})
KINDS = frozenset({"small", "bulk"})

NUMBERS = Struct("<QQ")
MESSAGE = _payloads.encode(_payloads.MESSAGE)

run = asyncio.run
nbytes = _payloads.nbytes


def item(size: int | None) -> Any:
    return MESSAGE if size is None else _payloads.array(size)


class Small:
    """Messages of one fixed size; what arrives is received in chunks, as much as there is."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._chunk = b""
        self._start = 0

    async def write(self, item: bytes) -> None:
        self._sock.sendall(item)

    async def read(self) -> bytes:
        return self._take(len(MESSAGE))

    def _take(self, size: int) -> bytes:
        while len(self._chunk) - self._start < size:
            more = self._sock.recv(65536)
            if not more:
                raise ConnectionResetError("the peer closed the connection")
            self._chunk = self._chunk[self._start :] + more
            self._start = 0
        start, self._start = self._start, self._start + size
        return self._chunk[start : self._start]

    async def tell(self, count: int, size: int) -> None:
        self._sock.sendall(NUMBERS.pack(count, size))

    async def told(self) -> tuple[int, int]:
        count, size = NUMBERS.unpack(self._take(NUMBERS.size))
        return count, size

    async def close(self) -> None:
        self._sock.close()


class Bulk:
    """Arrays, all of the size that was told last."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._size = 0

    async def write(self, item: Any) -> None:
        self._sock.sendall(item)

    async def read(self) -> Any:
        return self._fill(_payloads.fresh(self._size))

    def _fill(self, buffer: Any) -> Any:
        view = memoryview(buffer)
        while view.nbytes:
            received = self._sock.recv_into(view)
            if not received:
                raise ConnectionResetError("the peer closed the connection")
            view = view[received:]
        return buffer

    async def tell(self, count: int, size: int) -> None:
        self._sock.sendall(NUMBERS.pack(count, size))

    async def told(self) -> tuple[int, int]:
        count, self._size = NUMBERS.unpack(self._fill(bytearray(NUMBERS.size)))
        return count, self._size

    async def close(self) -> None:
        self._sock.close()


COMMS: dict[str, type[Small | Bulk]] = {"small": Small, "bulk": Bulk}


@asynccontextmanager
async def listen(transport: str, kind: str, serve: Handler) -> AsyncIterator[str]:
    def accept() -> None:
        # One thread a connection: all but one of them wait, so they cost nothing.
        with suppress(OSError):  # the listening socket was closed
            while True:
                sock, _ = listening.accept()
                work = serve(COMMS[kind](_tuned(sock)))
                threading.Thread(target=asyncio.run, args=(work,), daemon=True).start()

    with _bare_sockets.listen(transport) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield _bare_sockets.address(listening)


async def connect(address: str, kind: str) -> Comm:
    return COMMS[kind](_tuned(_bare_sockets.connect(address)))


def _tuned(sock: socket.socket) -> socket.socket:
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
