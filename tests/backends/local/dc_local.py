"""local:///run/my.sock: a backend that supplies Channels, over asyncio's streams on a Unix socket.

It moves bytes; objects, pickles and trust are `ChannelComm`'s. On the wire a message is
its length, the number of its frames, their lengths, and the frames.
"""

import asyncio
import struct
from contextlib import suppress
from pathlib import Path

from distributed_comm import (
    Backend,
    Channel,
    ChannelComm,
    CommClosedError,
    CommOptions,
    Connector,
    Listener,
    LocalProtocolError,
)


class LocalChannel(Channel):
    pickle_protocol = 5
    same_host = True

    def __init__(self, reader, writer, options, local_address, peer_address):
        self._reader = reader
        self._writer = writer
        self._options = options
        self._size = None  # of the message under way, once its length was read
        self._reading = False
        self.local_address = local_address
        self.peer_address = peer_address

    async def read(self):
        if self._reading:
            raise LocalProtocolError(f"another task is reading from {self.peer_address}")
        if self._writer.is_closing():
            raise self._closed_error("closed by this side", clean=True)
        self._reading = True
        try:
            # `readexactly` takes all or, cancelled, nothing; so what it took must be kept.
            if self._size is None:
                (self._size,) = struct.unpack("<Q", await self._reader.readexactly(8))
            limit = self._options.limits.message
            if limit is not None and self._size > limit:
                self.abort()
                raise self._closed_error(f"{self._size} bytes exceed the limit of {limit}")
            message = await self._reader.readexactly(self._size)
        except asyncio.IncompleteReadError as exc:
            between = self._size is None and not exc.partial
            raise self._closed_error("closed by the peer", clean=between) from None
        except ConnectionError as exc:
            raise self._closed_error("the connection was lost") from exc
        finally:
            self._reading = False
        self._size = None
        return unpack(message)

    def send(self, frames):
        if self.closed():
            raise self._closed_error("closed")
        message = pack(frames)  # a copy: the caller's memory is not used any more
        self._writer.write(message)
        return len(message)

    @property
    def full(self):
        return self._writer.transport.get_write_buffer_size() > 0

    async def drain(self):
        try:
            await self._writer.drain()
        except ConnectionError as exc:
            raise self._closed_error("the connection was lost") from exc
        if self.closed():
            raise self._closed_error("closed")

    async def close(self):
        self._writer.close()  # flushes
        try:
            async with asyncio.timeout(self._options.timeouts.close):
                await self._writer.wait_closed()
        except OSError:  # a TimeoutError, too
            self.abort()

    def abort(self):
        # It never raises: the loop may be closed, and in Python 3.13 the transport without one.
        with suppress(RuntimeError, AttributeError):
            self._writer.transport.abort()

    def closed(self):
        return self._writer.is_closing() or self._reader.at_eof()

    def stats(self):
        return {}

    def _closed_error(self, why, clean=False):
        return CommClosedError(f"{why}: {self.local_address} -> {self.peer_address}", clean=clean)


def pack(frames):
    sizes = [len(frame) for frame in frames]
    header = struct.pack(f"<{2 + len(sizes)}Q", 8 + 8 * len(sizes) + sum(sizes), len(sizes), *sizes)
    return b"".join([header, *frames])


def unpack(message):
    """Return frame 0 as bytes, the others as writable memory of their own."""
    (count,) = struct.unpack_from("<Q", message)
    start, frames = 8 + 8 * count, []
    for size in struct.unpack_from(f"<{count}Q", message, 8):
        frames.append(message[start : start + size])
        start += size
    return [frames[0], *map(bytearray, frames[1:])]


class LocalConnector(Connector):
    async def connect(self, address, deserialize=True, *, trusted=False, options=None):
        options = options or CommOptions()
        reader, writer = await asyncio.open_unix_connection(address)
        channel = LocalChannel(reader, writer, options, "local://", f"local://{address}")
        return ChannelComm(channel, trusted=trusted, deserialize=deserialize, limits=options.limits)


class LocalListener(Listener):
    def __init__(self, loc, handle_comm, deserialize, *, trusted=False, options=None):
        self._loc = loc
        self._handle_comm = handle_comm
        self._deserialize = deserialize
        self._trusted = trusted
        self._options = options or CommOptions()

    async def start(self):
        self._server = await asyncio.start_unix_server(self._serve, self._loc)

    async def _serve(self, reader, writer):
        options = self._options
        channel = LocalChannel(reader, writer, options, self.listen_address, "local://")
        comm = ChannelComm(
            channel, trusted=self._trusted, deserialize=self._deserialize, limits=options.limits
        )
        handling = self._handle_comm(comm)
        if handling is not None:  # it is a coroutine function
            await handling

    def stop(self):
        self._server.close()
        with suppress(FileNotFoundError):
            Path(self._loc).unlink()

    @property
    def listen_address(self):
        return f"local://{self._loc}"

    contact_address = listen_address


class LocalBackend(Backend):
    def get_connector(self):
        return LocalConnector()

    def get_listener(self, loc, handle_comm, deserialize, **connection_args):
        return LocalListener(loc, handle_comm, deserialize, **connection_args)

    def get_address_host(self, loc):
        return "127.0.0.1"

    def resolve_address(self, loc):
        return str(Path(loc).resolve())

    def get_local_address_for(self, loc):
        return f"{loc}.reply"
