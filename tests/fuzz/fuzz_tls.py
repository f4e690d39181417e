"""Records of TLS from a stranger: plaintext arrives as it was sent, or the connection fails."""

import ssl
from contextlib import suppress
from functools import cache
from typing import Any

from distributed_comm._tls.stream import TLSStream
from distributed_comm.errors import CommClosedError, TLSError

from ..certificates import secure
from ..feeding import SCRATCH
from .costing import spend
from .drawing import Draws, seed

HOST = "localhost"
KIB = 1024
#: Flights of a handshake, at most, and chunks that a flight comes in.
FLIGHTS, MOST_CHUNKS = 8, 40
#: How many buffers plaintext is asked for in: the framings have none of a byte, or not for long.
MOST_BUFFERS = 1_000
#: Characters of why a connection failed, and bytes that are sent to a peer that sends nothing.
LONGEST, MOST_SENT = 500, 32 * KIB
#: What is done to what the peer sends: nothing, some bytes of a flight, or any bytes come instead.
HONEST, CHANGED, RAW = range(3)


class Wire:
    """The transport and the socket below a layer, which take all that is sent."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def send(self, data: bytes) -> int:
        self.sent += bytes(data)
        return len(data)

    write = send

    def sendmsg(self, buffers: Any) -> int:
        return self.send(b"".join(buffers))

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close


class Above:
    """What a connection is to the stream: it gives buffers of some size, and notes what comes."""

    def __init__(self, size: int) -> None:
        self.received = b""
        self.failures: list[tuple[str, type[Exception]]] = []
        self.ended = self.greeted = False
        self._view = memoryview(bytearray(size))

    def connection_made(self, transport: Any) -> None:
        pass

    def count_ahead(self) -> None:
        pass

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        assert not self.failures, "bytes behind the failure"
        assert not self.ended, "bytes behind the end"
        self.received += self._view[:nbytes]

    def identify(self, about: dict[str, Any], *, vouched: bool) -> None:
        assert vouched, "a peer whose certificate has not been verified"
        self.greeted = True

    def fail(self, why: str, cause: Exception | None, kind: type[Exception]) -> None:
        self.failures.append((why, kind))

    def eof_received(self) -> bool:
        self.ended = True
        return False

    def resume_writing(self) -> None:
        pass


class Peer:
    """The other side, by OpenSSL alone."""

    def __init__(self, listens: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = _context(listens).wrap_bio(
            self._incoming, self._outgoing, listens, None if listens else HOST
        )
        self.done = False

    def go_on(self, data: bytes) -> bytes:
        """Take what was sent to it; return what it sends."""
        self._incoming.write(data)
        with suppress(ssl.SSLError):  # it wants more, or was told why not
            if not self.done:
                self.tls.do_handshake()
                self.done = True
            self.tls.read(64 * KIB)
        return self._outgoing.read()

    def say(self, piece: bytes) -> bytes:
        """Return plaintext as records."""
        with suppress(ssl.SSLError):  # it has been told that the connection ends
            if piece:
                self.tls.write(piece)
        return self._outgoing.read()

    def end(self) -> bytes:
        """Return close_notify."""
        with suppress(ssl.SSLError):  # it wants ours
            self.tls.unwrap()
        return self._outgoing.read()


@cache
def _context(listens: bool) -> ssl.SSLContext:
    security = secure()
    return security.listening if listens else security.connecting


def seeds() -> list[bytes]:
    """Return whole conversations, some with each flight changed, and the beginnings of records."""
    talk = seed(2, 0, 9, b"plaintext", 0, 200, bytes(200), 15, 30, bytes(30))
    honest = [seed(side, HONEST, 6, 1, 0, 3, 2, 9, n, talk) for side in (0, 1) for n in (0, 1)]
    changed = [
        seed(side, CHANGED, 6, 1, 1, 200, 3, 2, 9, 1, talk, flight, at, 0, 3, b"\xff\x00\x10")
        for side in (0, 1)
        for flight in range(4)
        for at in (0, 3, 5, 60)
    ]
    raw = [
        b"\x16\x03\x01\x40\x00" + bytes(90),
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"GET / HTTP/1.1\r\n",
    ]
    raw += [b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00", b"\x14\x03\x03\x00\x01\x01" * 40, bytes(30)]
    return [
        *honest,
        *changed,
        *(seed(side, RAW, 6, 1, 0, 3, 2, 9, 1, each) for side in (0, 1) for each in raw),
    ]


def check(data: bytes) -> None:
    draws = Draws(data)
    listens, kind = bool(draws.number(2)), draws.number(3)
    size, chunks = 1 + draws.number(1 << 16), draws.chunks()
    ends = bool(draws.number(2))
    if kind == RAW:
        raw = draws.rest()
        sent, above = spend(len(raw), lambda: _feed_raw(raw, listens, size, chunks))
        assert not above.greeted
        assert len(sent) < MOST_SENT
        return
    pieces = [draws.piece() for _ in range(draws.number(4))]
    change = None if kind == HONEST else (draws.number(FLIGHTS), draws.rest())
    nbytes = 4 * KIB + sum(map(len, pieces))  # the certificates of the peer, and what it says
    size = max(size, nbytes // MOST_BUFFERS)
    above = spend(nbytes, lambda: _converse(listens, size, chunks, pieces, ends, change))
    plaintext = b"".join(pieces)
    assert plaintext.startswith(above.received), "other plaintext than was sent"
    if kind == HONEST:
        assert above.received == plaintext
        assert not above.failures, above.failures
        assert above.ended is ends


def _layer(listens: bool, size: int) -> tuple[TLSStream, Wire, Above]:
    wire, above = Wire(), Above(size)
    layer = TLSStream(wire, _context(listens), SCRATCH, None if listens else HOST)  # type: ignore[arg-type]
    layer.attach(above)  # type: ignore[arg-type]
    layer.connection_made(wire)  # type: ignore[arg-type]
    return layer, wire, above


def _feed(layer: TLSStream, above: Above, data: bytes, chunks: list[int]) -> None:
    """Have a layer receive bytes in chunks of at most these sizes, in turn."""
    least = len(data) // MOST_CHUNKS
    start = turn = 0
    while start < len(data):
        view = layer.get_buffer(-1)
        step = min(max(chunks[turn % len(chunks)], least, 1), len(view), len(data) - start)
        view[:step] = data[start : start + step]
        layer.buffer_updated(step)
        start, turn = start + step, turn + 1
    assert len(above.failures) <= 1, above.failures
    for why, kind in above.failures:
        assert kind in {CommClosedError, TLSError}
        assert len(why) < LONGEST, f"{len(why)} characters: {why[:200]!r}"
        assert why.isprintable(), repr(why)


def _feed_raw(raw: bytes, listens: bool, size: int, chunks: list[int]) -> tuple[bytes, Above]:
    layer, wire, above = _layer(listens, size)
    _feed(layer, above, raw, chunks)
    layer.eof_received()
    assert above.failures, "the end of a handshake that was not done passes for one that was"
    layer.abort()
    return wire.sent, above


def _converse(
    listens: bool,
    size: int,
    chunks: list[int],
    pieces: list[bytes],
    ends: bool,
    change: tuple[int, bytes] | None,
) -> Above:
    """Shake hands and have the peer say something; change one of the flights that it sends."""
    layer, wire, above = _layer(listens, size)
    peer = Peer(not listens)
    for flight in range(FLIGHTS):
        sent, wire.sent = wire.sent, b""
        data = peer.go_on(sent)
        if flight == FLIGHTS - 1 and peer.done:
            data += b"".join(map(peer.say, pieces)) + (peer.end() if ends else b"")
        if change is not None and change[0] == flight:
            data = _changed(data, Draws(change[1]))
        _feed(layer, above, data, chunks)
    return above


def _changed(data: bytes, draws: Draws) -> bytes:
    """Replace some bytes by others, and leave some out."""
    at = draws.number(1 << 16) % (len(data) + 1)
    filling = draws.take(draws.number(16))
    return data[:at] + filling + data[at + draws.choice([len(filling), 0, 1, 8]) :]
