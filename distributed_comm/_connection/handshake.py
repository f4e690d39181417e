"""From a connected socket to a connection: who the peer is, and whether it may come in."""

import logging
from collections.abc import Callable

from .._logs import StrangersLog
from .._loops.loop_state import LoopState
from .._serialize.compression import choose
from .._trust.trust import REFUSAL, Trust
from .._wire.budget import Budget
from .._wire.connection import Connection
from .._wire.framing import MakeFraming
from .._wire.peer_limits import accepted
from .._wire.proof import DIALLER, LISTENER, REMEDY, Proving
from ..errors import FatalCommClosedError
from ..options import CommOptions
from .byte_stream import ByteStream
from .channel import BusyChannel, ConnectionChannel
from .peer import ConnectionInfo

__all__ = ["judge", "make_channel"]


def make_channel(
    state: LoopState,
    stream: ByteStream,
    info: ConnectionInfo,
    trust: Trust,
    options: CommOptions,
    framing: MakeFraming,
    opened: Callable[[ConnectionChannel], None],
    lost: Callable[[ConnectionChannel], None],
) -> ConnectionChannel:
    """Return the channel over a stream, which has to be started."""
    codecs = () if info.same_host else choose(options.compression)
    role = DIALLER if info.dialled else LISTENER
    proving = None
    if trust.key is not None:
        terms = accepted(options.limits)
        proving = Proving(trust.key, role, info.endpoint, codecs, terms)
    connection = Connection(
        state.block(), options.limits, info.local, info.peer, framing, codecs, proving
    )
    if not options.busy_poll:
        return ConnectionChannel(state, stream, connection, info, options, opened, lost)
    channel = BusyChannel(state, stream, connection, info, options, opened, lost)
    channel.poll_for(options.busy_poll)
    return channel


def judge(channel: ConnectionChannel, trust: Trust, budget: Budget, log: StrangersLog) -> bool:
    """Return whether to trust the peer of a connection whose handshake is done.

    If not, it takes turns with others, the memory for its messages is taken from the budget, and
    ``log`` is for what it causes.

    Raises FatalCommClosedError, with one text for every reason, if trust is required of the
    peer and it has none: the caller refuses it.
    """
    info, proven, relayed = channel.info, channel.connection.proven, channel.connection.relayed
    trusted = trust.includes(vouched=info.vouched, proven=proven, relayed=relayed)
    if proven and relayed and not trusted and trust.declared is None:
        log.line(
            logging.WARNING,
            "%s -> %s: the peer holds our key, but one of the two is not where the other one "
            "believes: there is NAT, a tunnel, a proxy, or somebody who listens in. It is not "
            "trusted; CommOptions(relayed=True) trusts it all the same",
            info.local, info.peer,
        )  # fmt: skip
    if trusted:
        channel.trust()
        return True
    channel.share(budget, log)  # also if it is refused: until it hears so it may go on sending
    if trust.required:
        raise FatalCommClosedError(f"{REFUSAL}: {info.local} -> {info.peer}; {REMEDY}")
    return False
