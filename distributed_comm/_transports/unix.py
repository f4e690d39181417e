"""unix://: the backend over Unix sockets, between processes of one machine.

``unix:///path/to/socket`` is in the file system, ``unix://@name`` is Linux's, without a file.
The kernel says whose process the peer is; one of our own user is trusted without a proof.
"""

import os
import socket
import tempfile
from contextlib import suppress
from typing import Any

from .._connection.accept import SocketListener
from .._connection.dial import SocketConnector
from .._connection.peer import ConnectionInfo
from .._trust import host_identity
from ..core import Connector, HandleComm, Listener
from ..registry import Backend
from . import ip_sockets as ip
from . import unix_sockets as unix

__all__ = ["UnixBackend"]

SCHEME = "unix"


def identify(sock: socket.socket, loc: str, *, dialled: bool) -> ConnectionInfo:
    """Return both ends of a connected socket; the dialler's has no name but its process."""
    peer = unix.peer_of(sock)
    listener, us = f"{SCHEME}://{loc}", f"{SCHEME}://pid={os.getpid()}"
    them = f"{SCHEME}://pid={peer.pid}"
    owner = peer.uid if dialled else os.geteuid()
    return ConnectionInfo(
        local=us if dialled else listener,
        peer=listener if dialled else them,
        endpoint=host_identity.unix_endpoint(owner),
        dialled=dialled,
        same_host=True,
        vouched=unix.uid_is_ours(peer.uid),
        about={"uid": peer.uid, "pid": peer.pid},
    )


class UnixConnector(SocketConnector):
    """Dials unix addresses."""

    async def _dial(self, address: str) -> socket.socket:
        return unix.connect(address)

    def _identify(self, sock: socket.socket, address: str) -> ConnectionInfo:
        return identify(sock, address, dialled=True)


class UnixListener(SocketListener):
    """Listens on one path or name; on a path of its own if none is given."""

    def __init__(
        self, loc: str, handle_comm: HandleComm, deserialize: bool, **trust_and_options: Any
    ) -> None:
        super().__init__(handle_comm, deserialize, **trust_and_options)
        if loc:
            unix.encode(loc)
        self._loc = loc
        self._address: unix.ListenAddress | None = None
        self._folder: str | None = None  # ours alone

    def _bind(self) -> list[socket.socket]:
        if not self._loc:
            self._folder = tempfile.mkdtemp(prefix="distributed_comm-")
            self._loc = f"{self._folder}/socket"
        self._address = unix.ListenAddress(self._loc)
        return [self._address.bind()]

    def stop(self) -> None:
        super().stop()
        if self._address is not None:
            self._address.leave()
            self._address = None
            if self._folder is not None:
                with suppress(OSError):
                    os.rmdir(self._folder)

    def _forked(self) -> None:
        super()._forked()
        if self._address is not None:
            self._address.disown()
            self._address = None

    def _identify(self, sock: socket.socket, name: Any) -> ConnectionInfo:  # noqa: ARG002
        sock.setblocking(False)
        return identify(sock, self._loc, dialled=False)

    @property
    def listen_address(self) -> str:
        return f"{SCHEME}://{self._loc}"

    @property
    def contact_address(self) -> str:
        return self.listen_address


class UnixBackend(Backend):
    """The scheme ``unix``."""

    private = True

    def get_connector(self) -> Connector:
        return UnixConnector()

    def get_listener(
        self, loc: str, handle_comm: HandleComm, deserialize: bool, **connection_args: Any
    ) -> Listener:
        return UnixListener(loc, handle_comm, deserialize, **connection_args)

    def get_address_host(self, loc: str) -> str:  # noqa: ARG002 - it is always this one
        return ip.get_ip("")

    def resolve_address(self, loc: str) -> str:
        return loc

    def get_local_address_for(self, loc: str) -> str:  # noqa: ARG002 - any other will do
        return ""  # a path of its own, which is chosen when it is bound
