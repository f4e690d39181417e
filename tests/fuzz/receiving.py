"""A connection that receives a stream, in whatever chunks, and what a user can see of that."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distributed_comm._frames import Frames
from distributed_comm._kernels import framing_py
from distributed_comm._wire import budget, hello
from distributed_comm._wire.budget import Budget
from distributed_comm._wire.connection import Connection
from distributed_comm._wire.length_framing import EAGER, LengthFraming
from distributed_comm._wire.proof import LISTENER, Proving
from distributed_comm._wire.sentinel_framing import SentinelFraming
from distributed_comm.errors import CommClosedError, RemoteProtocolError
from distributed_comm.options import Limits

from ..connecting import DASKS, LOCAL, OURS, PEER
from ..feeding import FULL, SCRATCH, feed, within
from .comparing import pure_kernels
from .costing import spend
from .drawing import Draws

KIB, MIB = 1024, 1024 * 1024

#: What a byte of a stream may take in memory, mostly for frames of no bytes; and what a
#: connection takes before any has come.
MULTIPLE, AMPLE = 32, 128 * KIB
#: More of them take long and show nothing more.
MOST_CHUNKS = 30
#: The beginnings of a stream: the hello of a peer of ours, of a Dask peer, of one that has a
#: key, or anything.
HAS_KEY = hello.encode(hello.local_hello((), bytes(hello.NONCE), LOCAL))
GREETINGS = [OURS[24:], DASKS[24:], HAS_KEY, b""]
#: What may limit a message; a number beyond all that comes lets a message announce anything.
MOST = [100, 10_000, MIB, None]


class Watched(Budget):
    """A budget that is never exceeded and never given more than was taken."""

    def change(self, by: int) -> None:
        super().change(by)
        assert 0 <= self.used <= self._limit


class Seen(NamedTuple):
    """What came of a stream."""

    messages: list[list[bytes]]
    answers: int
    error: type[CommClosedError]
    clean: bool


@dataclass
class Stream:
    """The bytes that a peer sends and what limits them; the messages in it where they are known."""

    framing: type[LengthFraming | SentinelFraming]
    limits: Limits
    greeting: bytes
    data: bytes
    sizes: list[int]
    proving: bool
    budget: int
    sent: list[list[bytes]] | None = field(default=None)

    def connect(self) -> Connection:
        """Return a connection that has received the greeting."""
        proving = Proving(b"key", LISTENER, LOCAL) if self.proving else None
        connection = Connection(SCRATCH, self.limits, LOCAL, PEER, self.framing, proving=proving)
        if self.greeting:
            assert feed(connection, encode(self.framing, [self.greeting])) == []
        return connection

    def receive(self, sizes: list[int], share: Budget | None = None) -> Seen:
        connection = self.connect()
        if share is not None:
            connection.share(share)
        answers: list[Any] = []
        connection.respond = answers.append
        messages = feed(connection, self.data, sizes)
        firsts = [frames[0] for frames in messages]
        assert all(type(first) is bytes or len(first) >= framing_py.LARGE for first in firsts)
        behind = [frame for frames in messages for frame in frames[_first_of_their_own(frames) :]]
        assert all(not memoryview(frame).readonly for frame in behind)
        connection.end()
        error = connection.closed_error()
        assert type(error) in {CommClosedError, RemoteProtocolError}
        connection.lose("the end")
        assert share is None or share.used == 0
        return Seen(_plain(messages), len(answers), type(error), error.clean)


def draw_stream(
    draws: Draws,
    framing: type[LengthFraming | SentinelFraming],
    frames: Callable[[Draws], list[bytes]] = Draws.frames,
) -> Stream:
    """Make a stream of any bytes, of messages, or of messages with some bytes replaced."""
    limits = Limits(message=draws.choice(MOST), frames=draws.choice([1, 4, 1000, 65_536]))
    greeting = draws.choice(GREETINGS)
    proving, budget = draws.number(4) == 1, draws.choice([KIB, 100 * KIB, MIB])
    kind = draws.number(4)
    if kind == 0:
        sizes = draws.chunks()
        return Stream(framing, limits, greeting, draws.rest(), sizes, proving, budget)
    sent = [frames(draws) for _ in range(1 + draws.number(4))]
    data = b"".join(encode(framing, message) for message in sent)
    stream = Stream(framing, limits, greeting, data, draws.chunks(), proving, budget)
    if kind == 1:
        at, filling = draws.number(1 << 20) % len(data), draws.take(1 + draws.number(16))
        stream.data = data[:at] + filling + data[at + draws.choice([len(filling), 0, 1, 8]) :]
    elif greeting and not proving and not any(map(_is_refused, sent)):
        most = limits.frames + hello.decode(greeting).enveloped  # the head is not counted
        fits = [_fits(message, most, limits) for message in [*sent, []]]
        stream.sent = sent[: fits.index(False)]
    return stream


def encode(framing: type[LengthFraming | SentinelFraming], message: list[bytes]) -> bytes:
    """Return the bytes of a message."""
    if framing is SentinelFraming:
        return b"".join(SentinelFraming.encode(list(message)))
    return b"".join(framing_py.pack(list(message)))


def _is_refused(message: list[bytes]) -> bool:
    """Whether it may be, or be taken for, something that is no message."""
    return len(message) == 1 and message[0][:1] == b"\xc7"


def _fits(message: list[bytes], most: int, limits: Limits) -> bool:
    size = sum(map(len, message))
    return 0 < len(message) <= most and (limits.message is None or size <= limits.message)


def _first_of_their_own(frames: Frames) -> int:
    """Return the index of the first writable frame; the frames before it are decoded."""
    return 2 if bytes(frames[0][:1]) == framing_py.ENVELOPE else 1


def _plain(messages: list[Frames]) -> list[list[bytes]]:
    return [[bytes(frame) for frame in frames] for frames in messages]


def check_stream(stream: Stream) -> None:
    """Check all that is promised of a connection that receives these bytes."""
    whole = spend(len(stream.data), lambda: stream.receive([FULL]))
    if stream.sent is not None:
        assert whole.messages == stream.sent
    sizes = [max(size, len(stream.data) // MOST_CHUNKS) for size in stream.sizes]
    bound = MULTIPLE * len(stream.data) + AMPLE
    chunked = within(bound + EAGER, lambda: stream.receive(sizes))
    assert chunked == whole or (not stream.greeting and _may_be_tls(stream.data))
    with pure_kernels():
        assert stream.receive(sizes) == chunked
    shared = Watched(stream.budget)
    limited = within(bound + budget.EAGER, lambda: stream.receive(sizes, shared))
    assert limited.messages == chunked.messages[: len(limited.messages)]
    assert limited == chunked or limited.error is RemoteProtocolError


def _may_be_tls(data: bytes) -> bool:
    """Whether the first bytes are known for TLS where they come at once."""
    return data[:1] in {b"\x15", b"\x16"} and data[1:2] == b"\x03"
