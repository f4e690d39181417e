"""grpc.aio: one unary method whose messages are msgpack, on the loop that it is made for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import msgpack

from distributed_comm.bench._systems import Handler, add

TRANSPORTS = frozenset({"tcp"})
KINDS = frozenset({"call"})

METHOD = "/bench.Calculator/Add"

run = asyncio.run


def item(_size: int | None) -> Any:
    raise NotImplementedError


def nbytes(_item: Any) -> int:
    raise NotImplementedError


class Calculator(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The service, without generated code, which would do the same."""

    def service(self, details: Any) -> Any:
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self.add, request_deserializer=msgpack.unpackb, response_serializer=msgpack.packb
        )

    async def add(self, request: dict[str, int], _context: Any) -> int:
        return add(**request)


@asynccontextmanager
async def listen(_transport: str, _kind: str, _serve: Handler) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Calculator(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def connect(address: str, _kind: str) -> Any:
    return Caller(address)


class Caller:
    """A channel, on which calls overlap as they like."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self._call = self.channel.unary_unary(
            METHOD, request_serializer=msgpack.packb, response_deserializer=msgpack.unpackb
        )
        self.close = self.channel.close

    async def add(self, x: int, y: int) -> int:
        total: int = await self._call({"x": x, "y": y})
        return total
