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
    """Return half of this machine's memory in bytes, or 4 GiB where it cannot be asked."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return 4096 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a connection accepts and keeps, in bytes unless the name says otherwise.

    ``message=None`` means no cap. A peer's numbers are compared with these before
    anything is allocated.
    """

    message: int | None = field(default_factory=_half_the_memory)
    frames: int = 65_536
    hello: int = 4 * _KIB
    untrusted_header: int = 16 * _MIB  # frame 0, whose decoding multiplies its size
    untrusted_depth: int = 512
    untrusted_growth: int = 96  # times the bytes of a message: what may be made of it
    untrusted_work: int = 10_000_000  # steps of about 2 ns for which decoding it may block others
    #: Held for all untrusted peers of a listener together: what they have sent that nobody has
    #: read, what becomes of it while it is decoded, and replies that they have not read.
    untrusted_memory: int = 256 * _MIB
    high_water: int = 1 * _MIB  # unsent bytes above which write() waits …
    low_water: int = 256 * _KIB  # … until they are fewer than this
    undelivered: int = 1 * _MIB  # received and not read; more, and reading pauses
    handshakes: int = 1_024  # connections of one listener in their handshake …
    connections: int = 10_000  # … and in all, above which accepting pauses
    #: Connections of strangers, handshakes included. At this number the one that has been idle
    #: longest is closed for the next one. None means half of ``connections``.
    untrusted_connections: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long things may take, in seconds; ``math.inf`` for as long as they like."""

    connect: float = 30.0  # connect() in all, retries and handshake included
    handshake: float = 10.0  # a listener's patience with a silent dialler
    close: float = 5.0  # flushing and saying goodbye
    #: A message has begun and nothing more comes; or a stranger takes nothing of its replies.
    gap: float = 60.0
    keepalive: float = 20.0  # nothing comes: a ping; nothing is acknowledged: the end
    idle: float = 600.0  # a stranger that dialled in has no call, stream or message under way


@dataclass(frozen=True, slots=True, kw_only=True)
class CommOptions:
    """Everything about a connection that has a default.

    ``compression`` is the codec by which long frames may be compressed on their way to another
    host (``lz4``, ``zstd``, ``snappy`` or ``zlib``, where installed and the peer has it, too),
    "auto" for the best of them, None for none.

    ``relayed=True`` believes the proof of a key that came through NAT, a tunnel or a proxy,
    where it may come through somebody else just as well (see docs/security.md).

    ``busy_poll`` is for how many seconds behind each message sent or received the loop looks
    at its sockets without sleeping, at most 1. Between two idle cores 50e-6 makes round trips
    some times as fast; it takes a core on each side, which has to be there.
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
    """Return the options of who passes none: made once, since making them takes 3 µs."""
    return CommOptions()
