"""``distributed_comm`` itself, used as its users use it: what is trusted has proven a key."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import distributed_comm as dc
from distributed_comm.bench import _certificate, _payloads
from distributed_comm.bench._systems import Handler, ObjectComm, add

ADDRESSES = {
    "tcp": "tcp://127.0.0.1:0",
    "tls": "tls://127.0.0.1:0",
    "unix": "unix://",
    "inproc": "inproc://",
}
TRANSPORTS = frozenset(ADDRESSES)
KINDS = frozenset({"small", "bulk", "call"})

run = dc.run


def item(size: int | None) -> Any:
    return _payloads.MESSAGE if size is None else {"data": _payloads.array(size)}


def nbytes(item: Any) -> int:
    return _payloads.nbytes(item["data"])


@asynccontextmanager
async def listen(
    transport: str, kind: str, serve: Handler, options: dc.CommOptions | None = None
) -> AsyncIterator[str]:
    security = _certificate.security() if transport == "tls" else None
    if kind == "call":
        server = dc.Server({"add": add}, security=security, options=options)
        async with server:
            yield (await server.listen(ADDRESSES[transport])).contact_address
        return

    async def handle(comm: dc.Comm) -> None:
        await serve(ObjectComm(comm))

    address = ADDRESSES[transport]
    async with dc.listen(address, handle, security=security, options=options) as listener:
        yield listener.contact_address


async def connect(address: str, kind: str, options: dc.CommOptions | None = None) -> Any:
    # Under callgrind everything takes fifty times as long.
    security = _certificate.security() if address.startswith("tls:") else None
    if kind == "call":
        return Caller(dc.rpc(address, timeout=600, security=security, options=options))
    comm = await dc.connect(address, timeout=600, security=security, options=options)
    return ObjectComm(comm)


class Caller:
    """An rpc with the names of the benchmark."""

    def __init__(self, remote: dc.rpc) -> None:
        self.add = remote.add
        self.close = remote.close_rpc
