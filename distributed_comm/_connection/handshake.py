"""From a connected socket to a connection: who the peer is, and whether it may come in."""

import asyncio
import logging
import socket
from collections.abc import Callable

from .._logs import StrangersLog
from .._serialize.compression import choose
from .._trust.trust import REFUSAL, Trust
from .._wire.budget import Budget
from .._wire.connection import Connection
from .._wire.length_framing import LengthFraming
from .._wire.peer_limits import accepted
from .._wire.proof import DIALLER, LISTENER, REMEDY, Proving
from .._wire.sentinel_framing import SentinelFraming
from ..errors import FatalCommClosedError
from ..options import CommOptions
from .channel import Adapter
from .peer import Link
from .polling_channel import PollingAdapter
from .provider import scratch_of

__all__ = ["Framing", "judge", "make_adapter"]

Framing = type[LengthFraming | SentinelFraming]


def make_adapter(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    link: Link,
    trust: Trust,
    options: CommOptions,
    framing: Framing,
    opened: Callable[[Adapter], None],
    lost: Callable[[Adapter], None],
) -> Adapter:
    """Return the protocol of a connected socket, which has to be attached to it."""
    codecs = () if link.same_host else choose(options.compression)
    role = DIALLER if link.dialled else LISTENER
    proving = None
    if trust.key is not None:
        terms = accepted(options.limits)
        proving = Proving(trust.key, role, link.endpoint, codecs, terms)
    connection = Connection(
        scratch_of(loop), options.limits, link.local, link.peer, framing, codecs, proving
    )
    if not options.busy_poll:
        return Adapter(loop, sock, connection, link, options, opened, lost)
    adapter = PollingAdapter(loop, sock, connection, link, options, opened, lost)
    adapter.poll_for(options.busy_poll)
    return adapter


def judge(adapter: Adapter, trust: Trust, budget: Budget, log: StrangersLog) -> bool:
    """Return whether to trust the peer of a connection whose handshake is done.

    If not, it takes turns with others, the memory for its messages is taken from the budget, and
    ``log`` is for what it causes.

    Raises FatalCommClosedError, with one text for every reason, where trust is required of
    the peer and it has none: the caller refuses it.
    """
    link, proven, relayed = adapter.link, adapter.proven, adapter.relayed
    trusted = trust.includes(vouched=link.vouched, proven=proven, relayed=relayed)
    if proven and relayed and not trusted and trust.declared is None:
        log.line(
            logging.WARNING,
            "%s -> %s: the peer holds our key, but one of the two is not where the other one "
            "believes: there is NAT, a tunnel, a proxy, or somebody who listens in. It is not "
            "trusted; CommOptions(relayed=True) trusts it all the same",
            link.local, link.peer,
        )  # fmt: skip
    if not trusted:
        adapter.log = log
        adapter.share(budget)  # also of who is refused, and may go on sending until it hears so
        if trust.required:
            raise FatalCommClosedError(f"{REFUSAL}: {link.local} -> {link.peer}; {REMEDY}")
    else:
        adapter.trust()
    return trusted
