"""The sending half of TLS: what a Sender calls as its socket takes plaintext.

Bytes are encrypted record by record and go to the socket at once. Where that is full, the
transport gets the rest, at most AHEAD bytes; until it is gone this is a socket that is full,
too. So borrowed memory is free as soon as it was encrypted.
"""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .._connection.sender import GATHERS

__all__ = ["AHEAD", "TLSSocket"]

#: The longest plaintext of a record.
RECORD = 16 * 1024
#: The most that is encrypted before the socket has taken what was encrypted before.
AHEAD = 256 * 1024

Buffer = bytes | bytearray | memoryview


class TLSSocket:
    """A connected socket and the TLS on it; ``host`` is who is dialled, None for a listener."""

    __slots__ = ("_full", "_incoming", "_outgoing", "_shaking", "_tls", "_transport", "sock")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str | None) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=host is None, server_hostname=host
        )
        self._transport: asyncio.Transport  # comes with connection_made
        self._shaking = True  # the TLS handshake is not done
        self._full = True  # nothing can be encrypted now

    def send(self, data: Buffer) -> int:
        """Encrypt and send; return how many bytes were taken, which then are not needed."""
        if self._full:
            raise BlockingIOError
        if len(data) > RECORD:
            return self.sendmsg([data])
        taken = self._tls.write(data)
        ciphertext = self._outgoing.read()
        try:
            sent = self.sock.send(ciphertext)
        except BlockingIOError:
            sent = 0
        if sent != len(ciphertext):
            self._hold([ciphertext], sent)
        return taken

    def sendmsg(self, buffers: Sequence[Buffer]) -> int:
        """Do the same with several buffers, up to AHEAD."""
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
            self._hold(records, sent)
        return taken

    def recv_into(self, buffer: memoryview) -> int:
        """Receive ciphertext, for the layer to process."""
        return self.sock.recv_into(buffer)

    @property
    def ahead(self) -> int:
        """How many bytes were encrypted that the socket has not taken."""
        return self._transport.get_write_buffer_size()

    def _hold(self, records: list[bytes], sent: int) -> None:
        """Have the transport send what the socket did not take; it calls `resume_writing`."""
        rest: list[Buffer] = []
        for record in records:
            if sent < len(record):
                rest.append(memoryview(record)[sent:] if sent else record)
            sent = max(0, sent - len(record))
        self._full = True
        # not writelines: asyncio's of Python 3.12 never says when it has sent them
        self._transport.write(b"".join(rest))
        if not self._transport.get_write_buffer_size():  # sent on the spot: no call comes
            self._full = self._shaking

    def _put(self, ciphertext: bytes) -> None:
        """Send what is not the adapter's, in its turn."""
        sent = 0
        if not self._transport.get_write_buffer_size():
            with suppress(OSError):  # the transport will notice
                sent = self.sock.send(ciphertext)
        if sent < len(ciphertext):
            self._hold([ciphertext], sent)

    # What is not about bytes is the socket's. By `__getattr__` each attribute would cost more.

    def fileno(self) -> int:
        return self.sock.fileno()

    def getsockname(self) -> Any:
        return self.sock.getsockname()

    def getpeername(self) -> Any:
        return self.sock.getpeername()

    def getsockopt(self, *option: int) -> Any:
        return self.sock.getsockopt(*option)

    def setsockopt(self, *option: Any) -> None:
        self.sock.setsockopt(*option)

    def setblocking(self, flag: bool) -> None:
        self.sock.setblocking(flag)

    def shutdown(self, how: int) -> None:
        self.sock.shutdown(how)

    def close(self) -> None:
        self.sock.close()
