"""Dask's comm on uvloop, which suits it better than asyncio's own loop."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from distributed import core
from distributed.comm import connect as connect_comm
from distributed.comm import listen as listen_comm
from distributed.protocol import to_serialize

from distributed_comm.bench import _certificate, _payloads
from distributed_comm.bench._systems import Handler, ObjectComm, add

ADDRESSES = {"tcp": "tcp://127.0.0.1:0", "tls": "tls://127.0.0.1:0", "inproc": "inproc://"}
TRANSPORTS = frozenset(ADDRESSES)
KINDS = frozenset({"small", "bulk", "call"})

run = uvloop.run


def item(size: int | None) -> Any:
    # Without the wrapper an array would be pickled inside the message and copied once more.
    return _payloads.MESSAGE if size is None else {"data": to_serialize(_payloads.array(size))}


def nbytes(item: Any) -> int:
    return _payloads.nbytes(item["data"])


@asynccontextmanager
async def listen(transport: str, kind: str, serve: Handler) -> AsyncIterator[str]:
    context = _certificate.listening(transport)
    if kind == "call":
        async with core.Server({"add": add}, needs_workdir=False) as server:
            await server.listen(ADDRESSES[transport], ssl_context=context)
            yield server.address
        return

    async def handle(comm: Any) -> None:
        await serve(ObjectComm(comm))

    listener = await listen_comm(ADDRESSES[transport], handle, ssl_context=context)
    try:
        yield listener.contact_address
    finally:
        listener.stop()


async def connect(address: str, kind: str) -> Any:
    context = _certificate.connecting(address.partition(":")[0])
    if context is not None:
        context.check_hostname = False  # Dask does not
    if kind == "call":
        return Caller(address, context)
    return ObjectComm(await connect_comm(address, timeout=600, ssl_context=context))


class Caller:
    """A pooled rpc, which at many calls at once is the faster one of Dask's two."""

    def __init__(self, address: str, context: ssl.SSLContext | None) -> None:
        arguments: dict[str, object] = {"ssl_context": context}
        self._pool = core.ConnectionPool(timeout=600, connection_args=arguments)
        self._remote = self._pool(address)
        self.close = self._pool.close

    async def add(self, x: int, y: int) -> int:
        if self._pool.status is not core.Status.running:
            await self._pool.start()
        total: int = await self._remote.add(x=x, y=y)
        return total
