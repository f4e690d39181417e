"""Dask's comm on uvloop, which suits it better than asyncio's own loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from distributed.comm import connect as connect_comm
from distributed.comm import listen as listen_comm
from distributed.protocol import to_serialize

from distributed_comm.bench import certificates, payloads
from distributed_comm.bench.systems import Comm, Handler, ObjectComm

ADDRESSES = {"tcp": "tcp://127.0.0.1:0", "tls": "tls://127.0.0.1:0", "inproc": "inproc://"}
TRANSPORTS = frozenset(ADDRESSES)
KINDS = frozenset({"small", "bulk"})

run = uvloop.run


def item(size: int | None) -> Any:
    # Without the wrapper an array would be pickled inside the message and copied once more.
    return payloads.MESSAGE if size is None else {"data": to_serialize(payloads.array(size))}


def nbytes(item: Any) -> int:
    return payloads.nbytes(item["data"])


@asynccontextmanager
async def listen(transport: str, _kind: str, serve: Handler) -> AsyncIterator[str]:
    async def handle(comm: Any) -> None:
        await serve(ObjectComm(comm))

    context = certificates.listening(transport)
    listener = await listen_comm(ADDRESSES[transport], handle, ssl_context=context)
    try:
        yield listener.contact_address
    finally:
        listener.stop()


async def connect(address: str, _kind: str) -> Comm:
    context = certificates.connecting(address.partition(":")[0])
    if context is not None:
        context.check_hostname = False  # Dask does not
    return ObjectComm(await connect_comm(address, timeout=600, ssl_context=context))
