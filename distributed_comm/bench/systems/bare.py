"""The bare protocol: uvloop, a length prefix and msgpack, with coroutines on top.

It is what a good engineer writes for one program in an afternoon: no limits, no handshake,
one type of message a connection. What a library costs is its distance to this.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from struct import Struct
from typing import Any, cast

import msgpack
import uvloop

from distributed_comm.bench import certificates, payloads
from distributed_comm.bench.systems import Comm, Handler

TRANSPORTS = frozenset({"tcp", "tls"})
KINDS = frozenset({"small", "bulk"})

LENGTH = Struct("<I")
LONG_LENGTH = Struct("<Q")
NUMBERS = Struct("<QQ")

run = uvloop.run
nbytes = payloads.nbytes


def item(size: int | None) -> Any:
    return payloads.MESSAGE if size is None else payloads.array(size)


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
            self._buffer = payloads.fresh(LONG_LENGTH.unpack(self._header)[0])
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


LINKS: dict[str, type[Small | Bulk]] = {"small": Small, "bulk": Bulk}


@asynccontextmanager
async def listen(transport: str, kind: str, serve: Handler) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    context = certificates.listening(transport)
    server = await loop.create_server(lambda: LINKS[kind](serve), "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"{transport}:{server.sockets[0].getsockname()[1]}"


async def connect(address: str, kind: str) -> Comm:
    loop = asyncio.get_running_loop()
    transport, _, port = address.partition(":")
    context = certificates.connecting(transport)
    host = certificates.HOST if context else None
    link: Small | Bulk
    _, link = await loop.create_connection(
        LINKS[kind], "127.0.0.1", int(port), ssl=context, server_hostname=host
    )
    return link
