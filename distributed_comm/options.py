"""Limits, timeouts and options of a connection: frozen, handed down, never global."""

import os
from dataclasses import dataclass, field
from functools import cache

__all__ = ["CommOptions", "Limits", "Timeouts", "default_options"]

#: Seconds; a loop that polls takes all of a core.
_LONGEST_POLL = 1.0

_KIB = 1024
_MIB = 1024 * _KIB


@cache
def _half_the_memory() -> int:
    """Return half of this machine's memory in bytes, or 4 GiB if that is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return 4096 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a connection accepts and keeps, in bytes unless a field says otherwise.

    What a peer announces is compared with these before anything is allocated. The fields that
    begin with ``untrusted_`` are for peers that are not trusted; the others are for everybody.

    One message:

    ``message``
        The longest message, also after decompression. A longer one closes the connection with a
        RemoteProtocolError; one that only decompression makes longer is a MessageError of its
        `read`. Half of this machine's memory by default, None for no limit.
    ``frames``
        How many frames a message may have; more close the connection. 65,536 by default.
    ``hello``
        The longest message of a handshake; a longer one closes the connection. 4 KiB by default.

    One message of an untrusted peer; one that exceeds these is a MessageError of its `read`, and
    the connection stays open:

    ``untrusted_header``
        The length of its frame 0 and of the headers of its objects, together. Decoding multiplies
        their size. 16 MiB by default.
    ``untrusted_depth``
        How many levels of containers may be nested. 512 by default.
    ``untrusted_growth``
        How many times its own bytes it may take in memory once decoded, and 0.75 MiB more.
        96 by default, which is msgpack's worst case.
    ``untrusted_work``
        For how many steps, of about 2 ns each, decoding may keep other threads from running.
        10 million by default, about 20 ms.

    All untrusted peers of one listener together; a comm that was dialled counts for itself:

    ``untrusted_memory``
        Memory for messages of theirs that nobody has read, for what these become while they are
        decoded, and for replies that they have not read. A connection whose messages would exceed
        it is closed; a reply that would is refused with a MessageError. 256 MiB by default.

    What waits on one connection:

    ``high_water``, ``low_water``
        `write` waits if more bytes than ``high_water`` are unsent, until no more than
        ``low_water`` are. 1 MiB and 256 KiB by default.
    ``undelivered``
        Above so many bytes that were received and not read, nothing more is received until the
        reader has caught up, so the peer has to wait. 1 MiB by default.

    Numbers of connections of one listener:

    ``handshakes``
        How many may be in their handshake. At this number the one that has taken longest is
        closed for the next one. 1,024 by default.
    ``connections``
        How many there may be. At this number an untrusted one that is idle is closed for the next
        one; if there is none, accepting pauses, and new ones wait in the system's backlog. 10,000
        by default.
    ``untrusted_connections``
        How many there may be of untrusted peers, handshakes included. At this number the one that
        has been idle longest is closed for the next one. None, the default, is half of
        ``connections``.
    """

    message: int | None = field(default_factory=_half_the_memory)
    frames: int = 65_536
    hello: int = 4 * _KIB
    untrusted_header: int = 16 * _MIB
    untrusted_depth: int = 512
    untrusted_growth: int = 96
    untrusted_work: int = 10_000_000
    untrusted_memory: int = 256 * _MIB
    high_water: int = 1 * _MIB
    low_water: int = 256 * _KIB
    undelivered: int = 1 * _MIB
    handshakes: int = 1_024
    connections: int = 10_000
    untrusted_connections: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long things may take, in seconds; ``math.inf`` for as long as they like.

    ``connect``
        `connect` in all, with its retries and handshakes; then it raises an OSError that says why
        the last attempt failed. 30 s by default.
    ``handshake``
        The handshake of a connection that a listener has accepted; then it is closed. 10 s by
        default.
    ``close``
        What `close` takes to send what is unsent and to say goodbye; then what is left is
        dropped. 5 s by default.
    ``gap``
        A peer that sends nothing inside a message for so long is disconnected. So is an untrusted
        one that takes nothing of its replies, or does not say which of its limits apply. 60 s by
        default.
    ``keepalive``
        If nothing has come for so long, a ping is sent. If the peer's system has acknowledged
        nothing of what was sent for so long (known on Linux), the connection is closed as lost.
        20 s by default.
    ``idle``
        An untrusted peer that has dialled in, and has no call, stream or message under way for so
        long, is disconnected. 600 s by default.
    """

    connect: float = 30.0
    handshake: float = 10.0
    close: float = 5.0
    gap: float = 60.0
    keepalive: float = 20.0
    idle: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommOptions:
    """Everything about a connection that has a default.

    ``compression``
        The codec by which long frames may be compressed on their way to another host: ``lz4``,
        ``zstd``, ``snappy`` or ``zlib``, if it is installed here and the peer has it, too. "auto",
        the default, is the best of them; None is for no compression.
    ``limits``, ``timeouts``
        A `Limits` and a `Timeouts`; their defaults by default.
    ``relayed``
        Whether to believe the proof of a key that came through NAT, a tunnel or a proxy. It may
        come through somebody else just as well (see docs/security.md), so the default is False.
    ``busy_poll``
        For how many seconds after each message the loop looks at its sockets without sleeping, at
        most 1. Between two idle cores 50e-6 makes round trips some times as fast; it takes a core
        on each side, which has to be there. 0, the default, is not at all.
    """

    compression: str | None = "auto"
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    relayed: bool = False
    busy_poll: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.busy_poll <= _LONGEST_POLL:
            raise ValueError(
                f"busy_poll={self.busy_poll!r}, expected seconds, from 0 to {_LONGEST_POLL}"
            )


@cache
def default_options() -> CommOptions:
    """Return the options of callers that pass none: made once, since making them takes 3 µs."""
    return CommOptions()
