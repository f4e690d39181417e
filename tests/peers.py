"""The other end of a connection: a comm of ours, or a raw socket that plays a peer by hand."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgpack

import distributed_comm as dc

LOOPBACK = "tcp://127.0.0.1:0"


def frame_up(*frames: bytes) -> bytes:
    """Return the bytes of one message, written from the format's description alone."""
    lengths = [len(frame) for frame in frames]
    header = struct.pack(f"<{1 + len(frames)}Q", len(frames), *lengths)
    return struct.pack("<Q", len(header) + sum(lengths)) + header + b"".join(frames)


def pack(message: Any) -> bytes:
    """Return the bytes of a message of plain types."""
    return frame_up(msgpack.packb(message))


#: The hello of a plain Dask peer, of one that says goodbye, and of one that hears reasons.
DASK_HELLO = pack({"compression": None, "python": (3, 11, 7), "pickle-protocol": 5})
OUR_HELLO = pack({"python": (3, 11, 7), "pickle-protocol": 5, "distributed_comm": {"version": 1}})
HEARS_REASONS = pack(
    {"python": (3, 11, 7), "pickle-protocol": 5, "distributed_comm": {"version": 4}}
)
#: What stands in front of a side's first message: the limits for strangers apply.
TERMS = frame_up(bytes.fromhex("c7 02 bc 07 00"))
GOODBYE = frame_up(bytes.fromhex("c7 01 bc 01"))


def port_of(listener: dc.Listener) -> int:
    return dc.get_address_host_port(listener.listen_address)[1]


async def echo(comm: dc.Comm) -> None:
    async with comm:
        async for message in comm:
            await comm.write(message)


async def check_echo(address: str) -> None:
    async with await dc.connect(address, timeout=5) as comm:
        await comm.write("hello")
        assert await comm.read() == "hello"


@asynccontextmanager
async def pair(
    address: str = LOOPBACK,
    *,
    trusted: Any = (False, False),
    options: Any = None,
    deserialize: Any = (True, True),
    key: str | None = None,
    **kwargs: Any,
) -> AsyncIterator[tuple[dc.Comm, dc.Comm]]:
    """Yield a connected client and server; both are aborted in the end.

    ``options`` are those of both, or of each; ``key`` is that of both.
    """
    served: asyncio.Future[dc.Comm] = asyncio.get_running_loop().create_future()
    ours, theirs = options if isinstance(options, tuple) else (options, options)
    async with dc.listen(
        address, served.set_result, deserialize[1], trusted=trusted[1], key=key, options=theirs
    ) as here:
        client = await dc.connect(
            here.contact_address,
            deserialize=deserialize[0],
            trusted=trusted[0],
            key=key,
            options=ours,
            **kwargs,
        )
        server = await served
    try:
        yield client, server
    finally:
        client.abort()
        server.abort()


class Raw:
    """A socket without manners: what it sends and reads is up to the test."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._unread = b""

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def read_exactly(self, size: int) -> bytes:
        data = bytearray(self._unread[:size])
        self._unread = self._unread[size:]
        while len(data) < size:
            piece = await self._loop.sock_recv(self.sock, size - len(data))
            if not piece:
                raise EOFError(f"{len(data)} of {size} bytes")
            data += piece
        return bytes(data)

    def unread(self, data: bytes) -> None:
        """Have bytes read again."""
        self._unread = data

    async def read_frames(self) -> list[bytes]:
        """Return the frames of the next message."""
        _, count = struct.unpack("<QQ", await self.read_exactly(16))
        lengths = struct.unpack(f"<{count}Q", await self.read_exactly(8 * count))
        return [await self.read_exactly(length) for length in lengths]

    async def read_message(self) -> Any:
        """Return the next message of plain types, or the goodbye as its frame."""
        (frame,) = await self.read_frames()
        if frame_up(frame) == GOODBYE:
            return frame
        return msgpack.unpackb(frame, strict_map_key=False)

    async def is_cut(self) -> bool:
        """Read until the other end is gone; whether it went without a goodbye."""
        data = bytearray()
        try:
            while piece := await self._loop.sock_recv(self.sock, 65536):
                data += piece
        except ConnectionResetError:
            pass
        return not data.endswith(GOODBYE)

    def reset(self) -> None:
        """Close with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


@asynccontextmanager
async def dial_raw(address: str | dc.Listener, **socket_options: int) -> AsyncIterator[Raw]:
    """Yield a raw socket connected to a listener of ours."""
    if isinstance(address, dc.Listener):
        address = address.contact_address
    with socket.socket() as sock:
        sock.setblocking(False)
        for name, value in socket_options.items():
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        await asyncio.get_running_loop().sock_connect(sock, dc.get_address_host_port(address))
        yield Raw(sock)


@asynccontextmanager
async def raw_pair(
    hello: bytes = OUR_HELLO,
    *,
    trusted: bool = False,
    options: dc.CommOptions | None = None,
    **socket_options: int,
) -> AsyncIterator[tuple[Raw, dc.Comm]]:
    """Yield a raw dialler that has said hello, and the comm that serves it."""
    served: asyncio.Future[dc.Comm] = asyncio.get_running_loop().create_future()
    async with (
        dc.listen(LOOPBACK, served.set_result, trusted=trusted, options=options) as listener,
        dial_raw(listener, **socket_options) as raw,
    ):
        await raw.send(hello)
        await raw.read_message()
        server = await served
        try:
            yield raw, server
        finally:
            server.abort()
