"""``distributed_comm`` itself, used as its users use it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import distributed_comm as dc
from distributed_comm.bench import certificates, payloads
from distributed_comm.bench.systems import Comm, Handler, ObjectComm

ADDRESSES = {"tcp": "tcp://127.0.0.1:0", "tls": "tls://127.0.0.1:0", "inproc": "inproc://"}
TRANSPORTS = frozenset(ADDRESSES)
KINDS = frozenset({"small", "bulk"})

run = dc.run


def item(size: int | None) -> Any:
    return payloads.MESSAGE if size is None else {"data": payloads.array(size)}


def nbytes(item: Any) -> int:
    return payloads.nbytes(item["data"])


@asynccontextmanager
async def listen(transport: str, _kind: str, serve: Handler) -> AsyncIterator[str]:
    async def handle(comm: dc.Comm) -> None:
        await serve(ObjectComm(comm))

    security = certificates.security() if transport == "tls" else None
    async with dc.listen(ADDRESSES[transport], handle, trusted=True, security=security) as listener:
        yield listener.contact_address


async def connect(address: str, _kind: str) -> Comm:
    # Under callgrind everything takes fifty times as long.
    security = certificates.security() if address.startswith("tls:") else None
    return ObjectComm(await dc.connect(address, timeout=600, trusted=True, security=security))
