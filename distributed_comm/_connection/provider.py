"""What a loop provides to connections: their transports and the block they receive into."""

import asyncio
import socket
from collections.abc import Callable
from weakref import WeakKeyDictionary

from .._tls.layer import TLSLayer
from .._transports.ip_sockets import drop

__all__ = ["attach", "ciphertext_of", "scratch_of"]

#: Bytes received at once, by whichever connection of a loop is being read.
SCRATCH = 256 * 1024

_scratches: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()
_ciphertexts: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def scratch_of(loop: asyncio.AbstractEventLoop) -> memoryview:
    """Return the receive block that all connections of a loop share.

    A transport asks for the buffer, reads into it and reports it in one go, so only one
    connection at a time uses the block.
    """
    scratch = _scratches.get(loop)
    if scratch is None:
        scratch = _scratches[loop] = memoryview(bytearray(SCRATCH))
    return scratch


def ciphertext_of(loop: asyncio.AbstractEventLoop) -> memoryview:
    """Return the block that TLS connections receive into; they decrypt to the other one."""
    block = _ciphertexts.get(loop)
    if block is None:
        block = _ciphertexts[loop] = memoryview(bytearray(SCRATCH))
    return block


async def attach(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket | TLSLayer,
    protocol: asyncio.BaseProtocol,
    attached: Callable[[asyncio.BaseProtocol], asyncio.BaseProtocol],
) -> None:
    """Make a transport over a connected socket: the loop's own, which here is the fastest.

    On plain sockets it only reads, and tells when a full socket takes bytes again; see
    bench/README.md for what another would gain. OSError where it cannot be made. ``attached``
    is called with the protocol, or with the TLS between that and the socket, and returns what
    the transport is to call.
    """
    if isinstance(sock, TLSLayer):
        protocol, sock = sock.below(protocol), sock.sock
    try:
        await loop.connect_accepted_socket(lambda: attached(protocol), sock)
    except OSError:
        drop(sock)
        raise
