"""TLS over a socket, as a `ByteStream`: ciphertext below, plaintext above.

Strategy: to the loop's transport the stream is the protocol, and to the connection it is what a
plain socket is. So the connection knows nothing of it, and one over tcp pays nothing.

Received bytes go in small portions through a BIO of OpenSSL's, and are decrypted straight to
where the framing wants them: the shared block, or a large frame's own memory. Until the
TLS handshake is done, the stream is full, so that our hello waits in it.

Sent bytes are encrypted record by record and go to the socket at once. If that is full, the
transport gets the rest, at most AHEAD bytes; until it is gone the stream is full, too. So borrowed
memory is free as soon as it was encrypted.

TLS has no half-close that both sides have to honour. Between our peers the goodbye does that
job, inside of TLS; close_notify is sent behind it, and no peer's is waited for.
"""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from .._connection.byte_stream import GATHERS, Attach, Buffer, Informed, OverSocket, receive
from ..errors import CommClosedError, TLSError
from .errors import explain, is_plaintext

__all__ = ["AHEAD", "TLSStream"]

#: The longest plaintext of a record.
RECORD = 16 * 1024
#: The most that is encrypted before the socket has taken what was encrypted before.
AHEAD = 256 * 1024
#: Bytes that a BIO is given at once, because it never gives its memory back.
PORTION = 32 * 1024
#: In words of TLS, to a peer that speaks something else: a fatal alert, protocol_version.
NOT_PLAIN = bytes.fromhex("15 03 03 00 02 02 46")


class TLSStream(OverSocket, asyncio.BufferedProtocol):
    """One connection's TLS; ``sock`` is connected, and what ``context`` asks for holds.

    ``host`` is the name that a dialler expects in the certificate; None for a listener.
    ``block`` is where ciphertext is received, by all connections of a loop in turn.
    """

    __slots__ = (
        "_block", "_come", "_failure", "_fed", "_full", "_gone", "_host", "_incoming", "_outgoing",
        "_piece", "_protocol", "_shaking", "_tls", "_wanted",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        block: memoryview,
        host: str | None = None,
    ) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=host is None, server_hostname=host
        )
        self._shaking = True  # the TLS handshake is not done
        self._full = True  # nothing can be encrypted now
        self._block = block
        self._host = host
        self._wanted = context.verify_mode
        self._protocol: Any = None  # the connection, which is Informed, too
        self._piece = b""  # plaintext that waits until something can be encrypted
        self._come = self._fed = 0  # bytes in the block, and how many OpenSSL has got
        self._failure: ssl.SSLError | None = None  # close_notify, too
        self._gone = False

    async def start(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BufferedProtocol, attach: Attach
    ) -> None:
        self.attach(protocol)
        await super().start(loop, self, attach)

    def attach(self, protocol: asyncio.BufferedProtocol) -> None:
        """Hand plaintext to this protocol, once there is a transport."""
        self._protocol = protocol

    # -- callbacks of the transport ------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(0)
        self._protocol.connection_made(self)
        self._shake()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        return self._block

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
            if self._piece:
                self._unpark()
            else:  # nothing waits, and what was ahead of the socket is gone
                self._protocol.resume_writing()

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
            informed: Informed = self._protocol
            informed.identify(about, vouched=self._has_verified())
            self._full = self.ahead > 0
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
        informed: Informed = self._protocol
        informed.fail(explain(exc, self._host), exc, TLSError)

    # -- receiving -----------------------------------------------------------------

    def _feed(self) -> bool:
        """Give OpenSSL the next portion of what has come; return whether there was one."""
        start = self._fed
        if start == self._come:
            return False
        self._fed = stop = min(self._come, start + PORTION)
        self._incoming.write(self._block[start:stop])
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
            if self.transport is not None:
                self.transport.close()
        else:
            self._fail(cause)

    def take_in(self, protocol: asyncio.BufferedProtocol) -> bool:  # noqa: ARG002 - it is known
        # The block may be in use: by a connection whose message has led to this very call.
        block, self._block = self._block, memoryview(bytearray(PORTION))
        try:
            return receive(self.sock, self)
        finally:
            self._block = block

    # -- sending -------------------------------------------------------------------

    def begin(self, transport: asyncio.BaseTransport) -> None:
        pass  # that was us

    def send(self, data: Buffer) -> int:
        if self._full:
            raise BlockingIOError
        if len(data) > RECORD:
            return self.send_many([data])
        taken = self._tls.write(data)
        ciphertext = self._outgoing.read()
        try:
            sent = self.sock.send(ciphertext)
        except BlockingIOError:
            sent = 0
        if sent != len(ciphertext):
            self._keep([ciphertext], sent)
        return taken

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        if self._full:
            raise BlockingIOError
        write, read = self._tls.write, self._outgoing.read
        taken, records = 0, []
        for buffer in buffers:
            view = memoryview(buffer)[: AHEAD - taken]
            for start in range(0, len(view), RECORD):
                taken += write(view[start : start + RECORD])
                records.append(read())
        try:
            sent = self.sock.sendmsg(records) if GATHERS else self.sock.send(b"".join(records))
        except BlockingIOError:
            sent = 0
        if sent != sum(map(len, records)):
            self._keep(records, sent)
        return taken

    def send_ahead(self, data: bytes) -> int:  # noqa: ARG002 - it would be a record of its own
        return 0

    @property
    def ahead(self) -> int:
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def _keep(self, records: list[bytes], sent: int) -> None:
        """Have the transport send what the socket did not take; it calls `resume_writing`."""
        assert self.transport is not None
        rest: list[Buffer] = []
        for record in records:
            if sent < len(record):
                rest.append(memoryview(record)[sent:] if sent else record)
            sent = max(0, sent - len(record))
        self._full = True
        # not writelines: asyncio's of Python 3.12 never says when it has sent them
        self.transport.write(b"".join(rest))
        if not self.ahead:  # sent on the spot: no call comes
            self._full = self._shaking
        elif self._protocol is not None:
            self._protocol.count_ahead()

    def _put(self, ciphertext: bytes) -> None:
        """Send what is TLS's own, in its turn."""
        sent = 0
        if not self.ahead:
            with suppress(OSError):  # the transport will notice
                sent = self.sock.send(ciphertext)
        if sent < len(ciphertext):
            self._keep([ciphertext], sent)

    def park(self, piece: bytes) -> bool:
        self._piece = piece
        return True

    @property
    def parked(self) -> int:
        return len(self._piece)

    def _unpark(self) -> None:
        piece, self._piece = self._piece, b""
        if piece:
            with suppress(OSError):  # which the connection meets itself when it goes on
                self.send(piece)
            self._protocol.resume_writing()

    # -- the end -------------------------------------------------------------------

    def end(self) -> None:
        assert self.transport is not None
        with suppress(ssl.SSLError):  # it wants the peer's close_notify, which nobody needs
            self._tls.unwrap()
        self._put(self._outgoing.read())
        self.transport.write_eof()

    def abort(self) -> None:
        self._gone = True
        self.shut()
        if self._protocol is not None and self.transport is not None:
            self.transport.abort()  # not once lost: asyncio's of Python 3.13 has no loop then
