"""tls://: tcp, encrypted, between peers that show certificates."""

import socket
import ssl
from typing import Any

from .._addressing import parse_host_port
from .._comm import ChannelComm
from .._connection.byte_stream import ByteStream
from .._loops.loop_state import LoopState
from .._tls.stream import TLSStream
from ..core import Connector, HandleComm, Listener
from .tcp import TCPBackend, TCPConnector, TCPListener

__all__ = ["TLSBackend"]

SCHEME = "tls"
#: The use of a context; those of the older protocols are for both.
ROLES = {ssl.PROTOCOL_TLS_CLIENT: "dialling", ssl.PROTOCOL_TLS_SERVER: "listening"}


class TLSDialler(TCPConnector):
    """Dials with one context, and expects a certificate for one host."""

    scheme = SCHEME

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._context = context
        self._host = host

    def _stream(self, state: LoopState, sock: socket.socket) -> ByteStream:
        try:
            return TLSStream(sock, self._context, state.ciphertext_block(), self._host)
        except (ssl.SSLError, ValueError, TypeError) as exc:  # of names, before anything was sent
            raise ValueError(f"no TLS with server_hostname={self._host!r:.300}: {exc}") from exc


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

    def _stream(self, state: LoopState, sock: socket.socket) -> ByteStream:
        return TLSStream(sock, self._context, state.ciphertext_block())

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


class TLSBackend(TCPBackend):
    """The scheme ``tls``."""

    tls = private = True

    def get_connector(self) -> Connector:
        return TLSConnector()

    def get_listener(
        self, loc: str, handle_comm: HandleComm, deserialize: bool, **connection_args: Any
    ) -> Listener:
        return TLSListener(loc, handle_comm, deserialize, **connection_args)
