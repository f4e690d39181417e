"""The bare protocol: uvloop, a length prefix and msgpack, with coroutines on top.

It is what a good engineer writes for one program in an afternoon: no limits, no handshake,
one type of message a connection. What a library costs is its distance to this.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from struct import Struct
from typing import Any, cast

import msgpack
import uvloop

from distributed_comm.bench import _bare_sockets, _certificate, _payloads
from distributed_comm.bench._systems import Comm, Handler, add

TRANSPORTS = frozenset({"tcp", "tls", "unix"})
KINDS = frozenset({"small", "bulk", "call"})

LENGTH = Struct("<I")
LONG_LENGTH = Struct("<Q")
NUMBERS = Struct("<QQ")

run = uvloop.run
nbytes = _payloads.nbytes


def item(size: int | None) -> Any:
    return _payloads.MESSAGE if size is None else _payloads.array(size)


class Link(asyncio.BaseProtocol):
    """What both protocols share: an inbox to await, and a writer that waits its turn."""

    _transport: asyncio.Transport

    def __init__(self, serve: Handler | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._serve = serve
        self._inbox: deque[Any] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._lost = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self._serve is not None:
            self._task = self._loop.create_task(self._serve(cast("Comm", self)))

    def connection_lost(self, _exc: Exception | None) -> None:
        self._lost = True
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writer = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writer is not None:
            self._writer.set_result(None)
            self._writer = None

    def _wake(self) -> None:
        if self._reader is not None:
            self._reader.set_result(None)
            self._reader = None

    async def read(self) -> Any:
        while not self._inbox:
            if self._lost:
                raise ConnectionResetError("the peer closed the connection")
            self._reader = self._loop.create_future()
            await self._reader
        return self._inbox.popleft()

    async def close(self) -> None:
        self._transport.close()


class Small(Link, asyncio.Protocol):
    """Messages of msgpack."""

    _partial = b""

    def data_received(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        start, end = 0, len(data)
        while end - start >= LENGTH.size:
            body = start + LENGTH.size
            stop = body + LENGTH.unpack_from(data, start)[0]
            if stop > end:
                break
            self._inbox.append(msgpack.unpackb(data[body:stop]))
            start = stop
        self._partial = data[start:]
        self._wake()

    async def write(self, item: Any) -> None:
        body = msgpack.packb(item)
        self._transport.write(LENGTH.pack(len(body)) + body)
        if self._writer is not None:
            await self._writer

    async def tell(self, count: int, size: int) -> None:
        await self.write([count, size])

    async def told(self) -> tuple[int, int]:
        count, size = await self.read()
        return count, size


class Bulk(Link, asyncio.BufferedProtocol):
    """Buffers, each received in place, into memory of its own."""

    def __init__(self, serve: Handler | None = None) -> None:
        super().__init__(serve)
        self._header = bytearray(LONG_LENGTH.size)
        self._buffer: Any = self._header
        self._rest = memoryview(self._header)

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._rest

    def buffer_updated(self, nbytes: int) -> None:
        self._rest = self._rest[nbytes:]
        if self._rest.nbytes:
            return
        if self._buffer is self._header:
            self._buffer = _payloads.fresh(LONG_LENGTH.unpack(self._header)[0])
        else:
            self._inbox.append(self._buffer)
            self._buffer = self._header
            self._wake()
        self._rest = memoryview(self._buffer)

    async def write(self, item: Any) -> None:
        view = memoryview(item)
        self._transport.writelines([LONG_LENGTH.pack(view.nbytes), view])
        if self._writer is not None:
            await self._writer

    async def tell(self, count: int, size: int) -> None:
        await self.write(NUMBERS.pack(count, size))

    async def told(self) -> tuple[int, int]:
        count, size = NUMBERS.unpack(await self.read())
        return count, size


LINKS: dict[str, type[Small | Bulk]] = {"small": Small, "bulk": Bulk, "call": Small}
HANDLERS = {"add": add}


async def answer(link: Any) -> None:
    """Serve calls on one connection, until it is lost."""
    with suppress(ConnectionResetError):
        while True:
            message = await link.read()
            await link.write(HANDLERS[message.pop("op")](**message))


class Caller:
    """A connection for each call that overlaps with others."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._idle: list[Small] = []

    async def add(self, x: int, y: int) -> int:
        link = self._idle.pop() if self._idle else await dial(self._address, "call")
        await link.write({"op": "add", "x": x, "y": y})
        total: int = await link.read()
        self._idle.append(link)
        return total

    async def close(self) -> None:
        for link in self._idle:
            await link.close()


@asynccontextmanager
async def listen(transport: str, kind: str, serve: Handler) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()

    def make() -> Small | Bulk:
        return LINKS[kind](answer if kind == "call" else serve)

    with _bare_sockets.listen(transport) as sock:
        if transport == "unix":
            server = await loop.create_unix_server(make, sock=sock)
        else:
            context = _certificate.listening(transport)
            server = await loop.create_server(make, sock=sock, ssl=context)
        async with server:
            address = _bare_sockets.address(sock)
            yield f"tls:{address}" if transport == "tls" else address


async def connect(address: str, kind: str) -> Any:
    return Caller(address) if kind == "call" else await dial(address, kind)


async def dial(address: str, kind: str) -> Any:
    loop = asyncio.get_running_loop()
    link: Small | Bulk
    transport, _, port = address.rpartition(":")
    if port.isdecimal():
        context = _certificate.connecting(transport)
        host = _certificate.HOST if context else None
        _, link = await loop.create_connection(
            LINKS[kind], "127.0.0.1", int(port), ssl=context, server_hostname=host
        )
    else:
        _, link = await loop.create_unix_connection(LINKS[kind], address)
    return link
