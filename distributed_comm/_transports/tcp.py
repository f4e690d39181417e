"""tcp://: the backend over TCP sockets, IPv4 and IPv6."""

import asyncio
import errno
import logging
import socket
from collections.abc import Sequence
from typing import Any

from .._addressing import parse_host_port, unparse_host_port
from .._connection.accept import SocketListener
from .._connection.dial import SocketConnector
from .._connection.peer import ConnectionInfo
from .._trust import host_identity
from ..core import Connector, HandleComm, Listener
from ..registry import Backend
from . import ip_sockets as ip

__all__ = ["TCPBackend"]

logger = logging.getLogger("distributed_comm")

SCHEME = "tcp"
WILDCARDS = {"", "0.0.0.0", "::"}  # noqa: S104 - compared with, not bound


def identify(
    sock: socket.socket, theirs: tuple[Any, ...], *, dialled: bool, scheme: str = SCHEME
) -> ConnectionInfo:
    """Prepare a socket that is connected to an address; return its two ends."""
    ours = sock.getsockname()
    same_host = ours[0] == theirs[0]
    if same_host:
        ip.unpace(sock)
    return ConnectionInfo(
        local=f"{scheme}://{ip.host_port(ours)}",
        peer=f"{scheme}://{ip.host_port(theirs)}",
        endpoint=host_identity.ip_endpoint(sock, theirs if dialled else ours, same_host=same_host),
        dialled=dialled,
        same_host=same_host,
    )


class TCPConnector(SocketConnector):
    """Dials tcp addresses."""

    scheme = SCHEME

    async def _dial(self, address: str) -> socket.socket:
        host, port = parse_host_port(address)
        if host in WILDCARDS or not port:
            raise ValueError(
                f"cannot connect to {address!r}, which can only be listened on: expected a host "
                f"and a port"
            )
        return await ip.dial(asyncio.get_running_loop(), await ip.lookup(host, port))

    def _identify(self, sock: socket.socket, address: str) -> ConnectionInfo:  # noqa: ARG002
        return identify(sock, sock.getpeername(), dialled=True, scheme=self.scheme)


class TCPListener(SocketListener):
    """Listens on one TCP address, on every one of this machine, or on ``sockets`` it is given.

    Given sockets are bound, by a supervisor for instance, and are the listener's from then
    on; the address says only what to advertise.
    """

    scheme = SCHEME

    def __init__(
        self,
        loc: str,
        handle_comm: HandleComm,
        deserialize: bool,
        *,
        contact_host: str | None = None,
        sockets: Sequence[socket.socket] = (),
        **trust_and_options: Any,
    ) -> None:
        super().__init__(handle_comm, deserialize, **trust_and_options)
        self._host, self._port = parse_host_port(loc, 0)
        self._contact_host = contact_host
        self._given = list(sockets)

    def _bind(self) -> list[socket.socket]:
        try:
            bound = ip.adopt(self._given) if self._given else ip.bind(self._host, self._port)
        except OSError as exc:  # a gaierror, too, which keeps its own kind
            why = f"cannot listen on {self.listen_address}: {exc.strerror}"
            raise type(exc)(exc.errno, why) from exc
        self._port = bound[0].getsockname()[1]
        if not self._trust.authenticates:
            self._warn_of_wildcards(bound)
        return bound

    def _warn_of_wildcards(self, bound: list[socket.socket]) -> None:
        if any(sock.getsockname()[0] in WILDCARDS for sock in bound):
            run_code = self._trust.declared is True
            logger.warning(
                "%r: everybody who can reach this machine may %s, for there is no authentication; "
                "bind one address, or have peers prove that they hold a key (see docs/security.md)",
                self,
                "run code in this process" if run_code else "connect and send plain data",
            )

    def _identify(self, sock: socket.socket, name: Any) -> ConnectionInfo:
        if not name:  # BSD's accept() has none of who has gone already
            raise OSError(errno.ENOTCONN, "the peer has gone")
        ip.tune_accepted(sock)
        return identify(sock, name, dialled=False, scheme=self.scheme)

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
