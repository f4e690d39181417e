"""TLS between an adapter and its socket: ciphertext below, plaintext above.

Strategy: to the transport the layer is the protocol, and to the adapter both the transport
and the socket. So neither half of the adapter knows of it, and a tcp connection pays nothing.

What is received goes in small portions through a BIO of OpenSSL's, and is decrypted straight
to where the framing wants it: the shared scratch, or a large frame's own memory. Until the
TLS handshake is done, the layer is a socket that is full, so that our hello waits in it.

TLS has no half-close that both sides have to honour. Between our peers the goodbye does that
job, inside of TLS; close_notify is sent behind it, and no peer's is waited for.
"""

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Any, cast

from ..errors import CommClosedError, TLSError
from .errors import explain, is_plaintext
from .socket import TLSSocket

__all__ = ["TLSLayer"]

#: What a BIO is given at once, for it never gives its memory back.
PORTION = 32 * 1024
#: In words of TLS, to a peer that speaks something else: a fatal alert, protocol_version.
NOT_PLAIN = bytes.fromhex("15 03 03 00 02 02 46")


class TLSLayer(TLSSocket, asyncio.BufferedProtocol):
    """One connection's TLS; ``sock`` is connected, and what ``context`` asks for holds.

    ``host`` is the name that a dialler expects in the certificate; None for a listener.
    ``scratch`` is where ciphertext is received, by all connections of a loop in turn.
    """

    __slots__ = (
        "_come", "_failure", "_fed", "_gone", "_host", "_parked", "_protocol", "_scratch",
        "_wanted",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        scratch: memoryview,
        host: str | None = None,
    ) -> None:
        super().__init__(sock, context, host)
        self._scratch = scratch
        self._host = host
        self._wanted = context.verify_mode
        self._protocol: Any = None  # the adapter
        self._parked = b""  # plaintext that waits until something can be encrypted
        self._come = self._fed = 0  # bytes in the scratch, and how many OpenSSL has got
        self._failure: ssl.SSLError | None = None  # close_notify, too
        self._gone = False

    def below(self, protocol: asyncio.BaseProtocol) -> "TLSLayer":
        """Stand between this protocol and its transport from now on."""
        self._protocol = protocol
        return self

    # -- callbacks of the transport ------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(0)
        self._protocol.connection_made(self)
        self._shake()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        return self._scratch

    def use(self, block: memoryview) -> memoryview:
        """Receive ciphertext into this block from now on; return the one of before."""
        before, self._scratch = self._scratch, block
        return before

    def buffer_updated(self, nbytes: int) -> None:
        self._come, self._fed = nbytes, 0
        self._feed()
        if self._shaking:
            self._shake()
        filled = size = -1
        while filled == size and not self._shaking and not self._gone:
            view = self._protocol.get_buffer(-1)
            size = len(view)
            filled = self._decrypt(view)
            del view  # or the memory of a large frame could not grow
            if filled:
                self._protocol.buffer_updated(filled)
            if self._failure is not None:
                self._end(self._failure)
        if self._outgoing.pending:  # what OpenSSL itself has to say
            self._put(self._outgoing.read())

    def eof_received(self) -> bool:
        if not self._gone:
            self._gone = True
            if self._shaking:
                why = "the peer closed the connection during the TLS handshake, without a reason"
                self._protocol.fail(why, None, CommClosedError)
            else:
                self._protocol.eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None  # which would be a cycle
        self._gone = self._full = True
        protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        if self._full and not self._shaking and not self._gone:
            self._full = False
            if self._parked:
                self._unpark()
            else:  # nothing waits, and what was ahead of the socket is gone
                self._protocol.resume_writing()

    def _hold(self, records: list[bytes], sent: int) -> None:
        super()._hold(records, sent)
        if self._full and self._protocol is not None:
            self._protocol.count_ahead()

    # -- the handshake -------------------------------------------------------------

    def _shake(self) -> None:
        """Go on with the handshake, as far as what has come allows."""
        if self._gone:
            return
        while self._feed():
            pass
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            if self._outgoing.pending:
                self._put(self._outgoing.read())
        except ssl.SSLError as exc:
            self._fail(exc)
        else:
            self._shaking = False
            about = {"peercert": self._tls.getpeercert(), "cipher": self._tls.cipher()}
            self._protocol.identify(about, vouched=self._has_verified())
            self._full = self._transport.get_write_buffer_size() > 0
            if self._full:
                return
            self._unpark()  # our hello, behind the last of the handshake

    def _has_verified(self) -> bool:
        """Whether the peer has shown a certificate; OpenSSL let none pass that is wrong."""
        if self._wanted is ssl.CERT_OPTIONAL:
            return self._tls.getpeercert(binary_form=True) is not None
        return self._wanted is ssl.CERT_REQUIRED

    def _fail(self, exc: ssl.SSLError) -> None:
        """End the connection, and tell the peer why as far as TLS can."""
        self._gone = True
        alert = self._outgoing.read()
        if is_plaintext(exc) and self._host is None and not alert:
            alert = NOT_PLAIN
        if alert:
            self._put(alert)
        self._protocol.fail(explain(exc, self._host), exc, TLSError)

    # -- receiving -----------------------------------------------------------------

    def _feed(self) -> bool:
        """Give OpenSSL the next portion of what has come; return whether there was one."""
        start = self._fed
        if start == self._come:
            return False
        self._fed = stop = min(self._come, start + PORTION)
        self._incoming.write(self._scratch[start:stop])
        return True

    def _decrypt(self, view: memoryview) -> int:
        """Fill a buffer with plaintext, as far as records have come whole; return its bytes."""
        read: Any = self._tls.read
        size, filled = len(view), 0
        while filled < size:
            try:
                got = read(size - filled, view[filled:] if filled else view)
            except ssl.SSLWantReadError:
                if not self._feed():
                    break
                continue
            except ssl.SSLError as exc:
                self._failure = exc
                break
            if not got:
                self._failure = ssl.SSLZeroReturnError()
                break
            filled += got
            if not self._incoming.pending and not self._feed():
                break
        return filled

    def _end(self, cause: ssl.SSLError) -> None:
        """Act on the peer's close_notify, behind which nothing counts, or on what was wrong."""
        self._failure = None
        if isinstance(cause, ssl.SSLZeroReturnError):
            self.eof_received()
            self._transport.close()
        else:
            self._fail(cause)

    # -- what an adapter wants of its transport ----------------------------------------

    def write(self, data: bytes) -> None:
        """Keep a piece until the socket takes bytes again, then call `resume_writing`."""
        self._parked = data

    def get_write_buffer_size(self) -> int:
        return len(self._parked)

    def _unpark(self) -> None:
        piece, self._parked = self._parked, b""
        if piece:
            with suppress(OSError):  # which the adapter meets itself when it goes on
                self.send(piece)
            self._protocol.resume_writing()

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing is asked for: what is sent is bounded by AHEAD."""

    def write_eof(self) -> None:
        """End our half, for TLS and for TCP."""
        with suppress(ssl.SSLError):  # it wants the peer's close_notify, which nobody needs
            self._tls.unwrap()
        self._put(self._outgoing.read())
        self._transport.write_eof()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def abort(self) -> None:
        self._gone = True
        if self._protocol is not None:  # once lost, asyncio's of Python 3.13 has no loop
            self._transport.abort()
