"""A tcp proxy with faults: late, slow, in pieces, and cut or silent after so many bytes."""

import asyncio
import math
import socket
import struct
from dataclasses import dataclass, field

import distributed_comm as dc


@dataclass(kw_only=True)
class Way:
    """What happens to the bytes of one direction; it may be changed at any time."""

    delay: float = 0.0  # seconds that each piece is late
    piece: int = 64 * 1024  # the longest piece
    rate: float = math.inf  # bytes a second
    after: float = math.inf  # bytes that pass before …
    then: str = "reset"  # … an RST to both sides; or "swallow": nothing more is passed on
    passed: int = 0


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
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._serving = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._serving.cancel()
        await asyncio.wait([self._serving])
        for sock in (self._server, *self._socks):
            sock.close()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as links:
            while True:
                near, _ = await loop.sock_accept(self._server)
                far = socket.socket()
                self._socks += near, far
                for sock in (near, far):
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                links.create_task(self._link(near, far))

    async def _link(self, near: socket.socket, far: socket.socket) -> None:
        try:
            address = dc.get_address_host_port(self.target)
            await asyncio.get_running_loop().sock_connect(far, address)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(near, far, self.out))
                pumps.create_task(self._pump(far, near, self.back))
        except* OSError:  # one side has gone, and so goes the other
            for sock in (near, far):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()

    async def _pump(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(source, way.piece):
            if way.delay or way.rate < math.inf:
                await asyncio.sleep(way.delay + len(data) / way.rate)
            data = data[: int(min(len(data), way.after - way.passed))]
            way.passed += len(data)
            await loop.sock_sendall(sink, data)
            if way.passed >= way.after and way.then == "reset":
                raise ConnectionResetError
        sink.shutdown(socket.SHUT_WR)
