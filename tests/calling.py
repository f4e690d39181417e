"""A server and an rpc to it, over whichever transport a test is about."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import distributed_comm as dc

LOOPBACK = "tcp://127.0.0.1:0"

#: One transport whose comms push their messages, and one whose comms have to be read.
everywhere = pytest.mark.parametrize("where", [LOOPBACK, "inproc://"], ids=["tcp", "inproc"])


@asynccontextmanager
async def serve(
    handlers: dict[str, Any] | None = None,
    where: str = LOOPBACK,
    *,
    trusted: bool = False,
    kind: type[dc.Server] = dc.Server,
    **kwargs: Any,
) -> AsyncIterator[tuple[dc.Server, dc.rpc]]:
    """Yield a server and an rpc to it; nothing of either is left in the end."""
    if handlers is not None:
        kwargs["handlers"] = handlers
    server = kind(trusted=trusted, **kwargs)
    server.listen(where)
    async with server, dc.rpc(server.address, trusted=trusted) as remote:
        yield server, remote
    assert server.incoming_comms_open == 0
    assert server.status is dc.Status.closed


@asynccontextmanager
async def dial(server: dc.Server, **kwargs: Any) -> AsyncIterator[dc.Comm]:
    """Yield a comm to a server."""
    async with await dc.connect(server.address, timeout=5, **kwargs) as comm:
        yield comm
