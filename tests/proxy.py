"""A tcp proxy with faults: late, slow, in pieces, and cut or silent after so many bytes."""

import asyncio
import math
import socket
import struct
from dataclasses import dataclass, field

import distributed_comm as dc


@dataclass(kw_only=True)
class Way:
    """What happens to the bytes of one direction; it may be changed meanwhile."""

    delay: float = 0.0  # seconds that each piece is late
    piece: int = 64 * 1024  # the longest piece
    rate: float = math.inf  # bytes a second
    after: float = math.inf  # bytes that pass before …
    then: str = "reset"  # … an RST to both sides; or "swallow": nothing more is passed on


@dataclass
class Proxy:
    """Listens on a port of its own and passes on what comes, as its two ways say.

    ``out`` is the way from who dials, ``back`` the one to it.
    """

    target: str
    out: Way = field(default_factory=Way)
    back: Way = field(default_factory=Way)

    async def __aenter__(self) -> "Proxy":
        self._socks: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._server.setblocking(False)
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._serving = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._serving.cancel()
        await asyncio.wait([self._serving])
        self._server.close()
        for sock in self._socks:
            sock.close()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as pumps:
            while True:
                near, _ = await loop.sock_accept(self._server)
                far = socket.socket()
                self._socks += near, far
                for sock in (near, far):
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await loop.sock_connect(far, dc.get_address_host_port(self.target))
                pumps.create_task(self._pump(near, far, self.out))
                pumps.create_task(self._pump(far, near, self.back))

    async def _pump(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        loop = asyncio.get_running_loop()
        passed = 0
        try:
            while data := await loop.sock_recv(source, int(min(way.piece, way.after - passed))):
                if way.delay or way.rate < math.inf:
                    await asyncio.sleep(way.delay + len(data) / way.rate)
                await loop.sock_sendall(sink, data)
                passed += len(data)
                if passed >= way.after:
                    await self._fail(source, sink, way.then)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one side has gone, and so goes the other
            reset(source)
            reset(sink)

    async def _fail(self, source: socket.socket, sink: socket.socket, how: str) -> None:
        if how == "reset":
            reset(sink)
            reset(source)
            raise ConnectionResetError
        while await asyncio.get_running_loop().sock_recv(source, 64 * 1024):
            pass


def reset(sock: socket.socket) -> None:
    """Close with an RST."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
