"""tcp://: the backend over TCP sockets, IPv4 and IPv6."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

from ..addressing import parse_host_port, unparse_host_port
from ..comms import ChannelComm
from ..core import Connector, HandleComm, Listener
from ..options import CommOptions
from ..registry import Backend
from ..serialize.compression import choose
from ..wire.connection import Connection
from ..wire.framing import LengthFraming
from ..wire.sentinel import SentinelFraming
from . import sockets as ip
from .adapter import Adapter
from .listener import SocketListener
from .provider import attach, scratch_of

__all__ = ["TCPBackend"]

SCHEME = "tcp"
WILDCARDS = {"", "0.0.0.0", "::"}  # noqa: S104 - compared with, not bound


def make_adapter(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    options: CommOptions,
    opened: Callable[[Adapter], None],
    lost: Callable[[Adapter], None],
    framing: type[LengthFraming | SentinelFraming],
    scheme: str = SCHEME,
) -> Adapter:
    """Return the protocol of a connected socket; OSError where it is connected no more."""
    local = f"{scheme}://{ip.host_port(sock.getsockname())}"
    peer = f"{scheme}://{ip.host_port(sock.getpeername())}"
    codecs = () if _same_host(local, peer) else choose(options.compression)
    connection = Connection(scratch_of(loop), options.limits, local, peer, framing, codecs)
    return Adapter(loop, sock, connection, options, opened, lost)


def _same_host(local: str, peer: str) -> bool:
    """Whether bytes cross no wire, so that compressing them would be a loss."""
    return local.rpartition(":")[0] == peer.rpartition(":")[0]


class TCPConnector(Connector):
    """Dials tcp addresses."""

    #: What cuts the bytes into messages; a subclass may name another.
    framing: type[LengthFraming | SentinelFraming] = LengthFraming
    scheme = SCHEME

    async def _dial(self, address: str) -> socket.socket:
        host, port = parse_host_port(address)
        if host in WILDCARDS or not port:
            raise ValueError(
                f"cannot connect to {address!r}, which can only be listened on: expected a host "
                f"and a port"
            )
        return await ip.dial(asyncio.get_running_loop(), await ip.lookup(host, port))

    async def connect(  # type: ignore[override]  # takes no other connection_args
        self,
        address: str,
        deserialize: bool = True,
        *,
        trusted: bool | None = None,
        options: CommOptions | None = None,
    ) -> ChannelComm:
        options = options or CommOptions()
        loop = asyncio.get_running_loop()
        sock = await self._dial(address)
        greeted: asyncio.Future[None] = loop.create_future()

        def opened(_: Adapter) -> None:
            if not greeted.done():
                greeted.set_result(None)

        def lost(adapter: Adapter) -> None:
            if not greeted.done():
                greeted.set_exception(adapter.closed_error())

        try:
            adapter = make_adapter(loop, sock, options, opened, lost, self.framing, self.scheme)
        except OSError:  # it has gone already
            sock.close()
            raise
        try:
            await attach(loop, sock, adapter)
            await greeted
        except BaseException:
            greeted.cancel()  # else it may get an exception that nobody retrieves
            adapter.abort()
            raise
        if trusted is None:
            trusted = adapter.vouched
        return ChannelComm(adapter, trusted=trusted, deserialize=deserialize, limits=options.limits)


class TCPListener(SocketListener):
    """Listens on one TCP address, on every one of this machine, or on ``sockets`` it is given.

    Given sockets are bound, by a supervisor for instance, and are the listener's from then
    on; the address says only what to advertise.
    """

    #: As those of the connectors that dial it.
    framing: type[LengthFraming | SentinelFraming] = LengthFraming
    scheme = SCHEME

    def __init__(
        self,
        loc: str,
        handle_comm: HandleComm,
        deserialize: bool,
        *,
        trusted: bool | None = None,
        options: CommOptions | None = None,
        contact_host: str | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        super().__init__(handle_comm, deserialize, trusted, options or CommOptions())
        self._host, self._port = parse_host_port(loc, 0)
        self._contact_host = contact_host
        self._given = list(sockets)

    def _bind(self) -> list[socket.socket]:
        bound = ip.adopt(self._given) if self._given else ip.bind(self._host, self._port)
        self._port = bound[0].getsockname()[1]
        return bound

    def _make_adapter(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> Adapter:
        ip.tune(sock)
        return make_adapter(
            loop, sock, self._options, self._opened, self._lost, self.framing, self.scheme
        )

    @property
    def listen_address(self) -> str:
        return f"{self.scheme}://{unparse_host_port(self._host or '0.0.0.0', self._port)}"  # noqa: S104

    @property
    def contact_address(self) -> str:
        host = self._contact_host or self._host
        if host in WILDCARDS:
            host = ip.get_ip(host)
        return f"{self.scheme}://{unparse_host_port(host, self._port)}"


class TCPBackend(Backend):
    """The scheme ``tcp``."""

    def get_connector(self) -> Connector:
        return TCPConnector()

    def get_listener(
        self, loc: str, handle_comm: HandleComm, deserialize: bool, **connection_args: Any
    ) -> Listener:
        return TCPListener(loc, handle_comm, deserialize, **connection_args)

    def get_address_host(self, loc: str) -> str:
        return parse_host_port(loc, 0)[0]

    def get_address_host_port(self, loc: str) -> tuple[str, int]:
        return parse_host_port(loc)

    def resolve_address(self, loc: str) -> str:
        host, port = parse_host_port(loc)
        return unparse_host_port(ip.resolve(host), port)

    def get_local_address_for(self, loc: str) -> str:
        host, _ = parse_host_port(loc, 0)
        return unparse_host_port(ip.get_ip(ip.resolve(host)))
