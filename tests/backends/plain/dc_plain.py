"""plain://10.0.0.1:8786: a backend that supplies Comms, with the documented signatures.

Each message is its length and msgpack.
"""

import asyncio
import struct
from contextlib import suppress

import msgpack

from distributed_comm import (
    Backend,
    Comm,
    CommClosedError,
    Connector,
    Listener,
    LocalProtocolError,
    parse_host_port,
    unparse_host_port,
)

#: Bytes of a message; more are not believed.
LIMIT = 100_000_000
PATIENCE = 5  # seconds, for close()


class PlainComm(Comm):
    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer
        self._size = None  # of the message under way, once its length was read
        self._reading = False

    async def read(self, deserializers=None):
        if self._reading:
            raise LocalProtocolError(f"another task is reading from {self.peer_address}")
        if self._writer.is_closing():
            raise CommClosedError(f"closed by this side: {self!r}", clean=True)
        self._reading = True
        try:
            # `readexactly` takes all or, cancelled, nothing; so what it took must be kept.
            if self._size is None:
                (self._size,) = struct.unpack("<I", await self._reader.readexactly(4))
            if self._size > LIMIT:
                self.abort()
                raise CommClosedError(f"{self._size} bytes exceed the limit of {LIMIT}: {self!r}")
            message = await self._reader.readexactly(self._size)
        except asyncio.IncompleteReadError as exc:
            between = self._size is None and not exc.partial
            raise CommClosedError(f"closed by the peer: {self!r}", clean=between) from None
        except ConnectionError as exc:
            raise CommClosedError(f"the connection was lost: {self!r}") from exc
        finally:
            self._reading = False
        self._size = None
        return msgpack.unpackb(message, strict_map_key=False)

    async def write(self, msg, serializers=None, on_error=None):
        message = msgpack.packb(msg)
        if self.closed():
            raise CommClosedError(f"closed: {self!r}")
        self._writer.write(struct.pack("<I", len(message)) + message)
        try:
            await self._writer.drain()
        except ConnectionError as exc:
            raise CommClosedError(f"the connection was lost: {self!r}") from exc
        if self.closed():
            raise CommClosedError(f"closed: {self!r}")
        return 4 + len(message)

    async def close(self):
        self._writer.close()  # flushes
        try:
            async with asyncio.timeout(PATIENCE):
                await self._writer.wait_closed()
        except OSError:  # a TimeoutError, too
            self.abort()

    def abort(self):
        # It never raises: the loop may be closed, and in Python 3.13 the transport without one.
        with suppress(RuntimeError, AttributeError):
            self._writer.transport.abort()

    def closed(self):
        return self._writer.is_closing() or self._reader.at_eof()

    @property
    def local_address(self):
        return address_of(self._writer.get_extra_info("sockname"))

    @property
    def peer_address(self):
        return address_of(self._writer.get_extra_info("peername"))


def address_of(name):
    return f"plain://{unparse_host_port(*name[:2])}" if name else "plain://"


class PlainConnector(Connector):
    async def connect(self, address, deserialize=True, **connection_args):
        return PlainComm(*await asyncio.open_connection(*parse_host_port(address)))


class PlainListener(Listener):
    def __init__(self, loc, handle_comm, deserialize=True, **connection_args):
        self._host, self._port = parse_host_port(loc, 0)
        self._handle_comm = handle_comm

    async def start(self):
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer):
        handling = self._handle_comm(PlainComm(reader, writer))
        if handling is not None:  # it is a coroutine function
            await handling

    def stop(self):
        self._server.close()

    @property
    def listen_address(self):
        return f"plain://{unparse_host_port(self._host, self._port)}"

    contact_address = listen_address


class PlainBackend(Backend):
    def get_connector(self):
        return PlainConnector()

    def get_listener(self, loc, handle_comm, deserialize, **connection_args):
        return PlainListener(loc, handle_comm, deserialize, **connection_args)

    def get_address_host(self, loc):
        return parse_host_port(loc, 0)[0]

    def get_address_host_port(self, loc):
        return parse_host_port(loc)

    def resolve_address(self, loc):
        return loc

    def get_local_address_for(self, loc):
        return parse_host_port(loc, 0)[0]
