"""Envelopes by hand, and a listener that answers a request with whatever a test wants."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from calling import LOOPBACK

import distributed_comm as dc


async def post(comm: dc.Comm, head: bytes | None, message: Any) -> None:
    """Write a message in an envelope of this head, or in none."""
    rest = comm.send(message, None, head)
    if rest is not None:
        await rest


@asynccontextmanager
async def liar(
    *answers: tuple[bytes | None, Any], where: str = LOOPBACK, **kwargs: Any
) -> AsyncIterator[dc.Listener]:
    """Listen; each request gets these messages, in envelopes of these heads or in none."""

    async def answer(comm: dc.Comm) -> None:
        async with comm:
            async for _ in comm:
                for head, message in answers:
                    await post(comm, head, message)

    async with dc.listen(where, answer, **kwargs) as listener:
        yield listener
