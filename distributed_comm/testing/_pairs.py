"""What a check is made of: a coroutine function, most often of two connected comms."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

from .._endpoints import connect, listen
from ..core import Comm
from ._expect import soon

__all__ = ["CHECKS", "check", "check_both_ways", "dial"]

Check = Callable[[str], Coroutine[Any, Any, None]]

#: All checks, in the order in which they are written.
CHECKS: list[Check] = []


def check(of_an_address: Check) -> Check:
    CHECKS.append(of_an_address)
    return of_an_address


def check_both_ways(of_two_comms: Callable[[Comm, Comm], Awaitable[None]]) -> Check:
    """Make a check of what holds for each of two connected comms."""

    @check
    @wraps(of_two_comms)
    async def of_an_address(address: str) -> None:
        async with _pair(address) as (client, server):
            await of_two_comms(client, server)
        async with _pair(address) as (client, server):
            await of_two_comms(server, client)

    return of_an_address


@asynccontextmanager
async def _pair(address: str) -> AsyncIterator[tuple[Comm, Comm]]:
    """Yield a client and its server, which outlive their listener; abort both in the end."""
    served: asyncio.Future[Comm] = asyncio.get_running_loop().create_future()
    async with listen(address, served.set_result) as listener:
        client = await dial(listener.contact_address)
        server = await soon(served, "the listener to serve a connection")
    try:
        yield client, server
    finally:
        client.abort()
        server.abort()


async def dial(address: str) -> Comm:
    return await soon(connect(address), "connect() to succeed")
