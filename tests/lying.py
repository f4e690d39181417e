"""A listener that reads a request and answers it with whatever a test wants."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from calling import LOOPBACK

import distributed_comm as dc


@asynccontextmanager
async def liar(
    *answers: tuple[bytes | None, Any], where: str = LOOPBACK, **kwargs: Any
) -> AsyncIterator[dc.Listener]:
    """Listen; each request gets these messages, in envelopes of these heads or in none."""

    async def answer(comm: dc.Comm) -> None:
        async with comm:
            async for _ in comm:
                for head, message in answers:
                    rest = comm.send(message, None, head)
                    if rest is not None:
                        await rest

    async with dc.listen(where, answer, **kwargs) as listener:
        yield listener
