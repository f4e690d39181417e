"""tls://: tcp, encrypted, between peers that show certificates."""

import asyncio
import socket
import ssl
from typing import Any, cast

from .._addressing import parse_host_port
from .._comm import ChannelComm
from .._connection.provider import ciphertext_of
from .._tls.layer import TLSLayer
from ..core import Connector, HandleComm, Listener
from .ip_sockets import drop
from .tcp import TCPBackend, TCPConnector, TCPListener

__all__ = ["TLSBackend"]

SCHEME = "tls"
#: What a context is for; those of the older protocols are for both.
ROLES = {ssl.PROTOCOL_TLS_CLIENT: "dialling", ssl.PROTOCOL_TLS_SERVER: "listening"}


class TLSDialler(TCPConnector):
    """Dials with one context, and expects a certificate for one host."""

    scheme = SCHEME

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._context = context
        self._host = host

    async def _dial(self, address: str) -> socket.socket:
        return _encrypt(await super()._dial(address), self._context, self._host)


class TLSConnector(Connector):
    """Dials tls addresses, with the ``ssl_context`` that it is given."""

    async def connect(
        self,
        address: str,
        deserialize: bool = True,
        *,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        **others: Any,
    ) -> ChannelComm:
        context = _expect(ssl_context, ssl.PROTOCOL_TLS_CLIENT)
        host = server_hostname or parse_host_port(address)[0].partition("%")[0]
        return await TLSDialler(context, host).connect(address, deserialize, **others)


class TLSListener(TCPListener):
    """Listens on TCP addresses, and speaks TLS with whoever connects."""

    scheme = SCHEME

    def __init__(
        self,
        loc: str,
        handle_comm: HandleComm,
        deserialize: bool,
        *,
        ssl_context: ssl.SSLContext | None = None,
        **others: Any,
    ) -> None:
        self._context = _expect(ssl_context, ssl.PROTOCOL_TLS_SERVER)
        super().__init__(loc, handle_comm, deserialize, **others)

    def _welcome(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, name: Any) -> None:
        super()._welcome(loop, _encrypt(sock, self._context), name)

    def _warn_of_wildcards(self, bound: list[socket.socket]) -> None:
        if self._context.verify_mode is not ssl.CERT_REQUIRED:
            super()._warn_of_wildcards(bound)


def _expect(context: ssl.SSLContext | None, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    """Return a context that is fit for one role; ValueError for one that is for the other."""
    if context is None:
        raise ValueError(f"{SCHEME}:// needs certificates: pass security=Security(ca=…, cert=…)")
    if not isinstance(context, ssl.SSLContext):
        raise ValueError(f"ssl_context={context!r:.60}, expected an ssl.SSLContext")
    if context.protocol != protocol and context.protocol in ROLES:
        raise ValueError(
            f"the ssl_context is for {ROLES[context.protocol]} ({context.protocol.name}): "
            f"{ROLES[protocol]} takes one of {protocol.name}, or security="
        )
    return context


def _encrypt(
    sock: socket.socket, context: ssl.SSLContext, host: str | None = None
) -> socket.socket:
    """Return what is the socket to all that is above TLS; ValueError for an unfit host name."""
    scratch = ciphertext_of(asyncio.get_running_loop())
    try:
        return cast("socket.socket", TLSLayer(sock, context, scratch, host))
    except BaseException as exc:
        drop(sock)
        if isinstance(
            exc, ssl.SSLError | ValueError | TypeError
        ):  # of names, before anything was sent
            raise ValueError(f"no TLS with server_hostname={host!r:.300}: {exc}") from exc
        raise


class TLSBackend(TCPBackend):
    """The scheme ``tls``."""

    tls = private = True

    def get_connector(self) -> Connector:
        return TLSConnector()

    def get_listener(
        self, loc: str, handle_comm: HandleComm, deserialize: bool, **connection_args: Any
    ) -> Listener:
        return TLSListener(loc, handle_comm, deserialize, **connection_args)
