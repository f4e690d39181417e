"""The interface of the first generation: streams of messages to an ip and a port.

Messages are separated by a sentinel here (see docs/wire-format.md), and everything else is as
in the rest of the library: a stream is a `Comm`, limits and trust are the same, `read` and
`write` may be awaited, or yielded in a Tornado coroutine.

>>> async def add(ip, port):
...     stream = await connect(ip, port)
...     await write(stream, {"op": "add", "x": 1, "y": 2})
...     return await read(stream)
"""

from collections.abc import Mapping
from typing import Any

from ._calls import client, server
from ._calls.pool import Address, address_of
from ._endpoints import connect as connect_comm
from .core import Comm

__all__ = ["Server", "connect", "read", "rpc", "write"]

_SCHEME = "sentinel"
#: Seconds until connecting is given up.
_TIMEOUT = 3


async def connect(ip: str, port: int, timeout: float = _TIMEOUT, **arguments: Any) -> Comm:
    """Open a stream to a server; no ip is this machine. ``arguments`` are those of `connect`."""
    return await connect_comm(address_of((ip, port), None, None, _SCHEME), timeout, **arguments)


async def read(stream: Comm, deserializers: Any = None) -> Any:
    """Read a message from a stream."""
    return await stream.read(deserializers)


async def write(stream: Comm, msg: Any, serializers: Any = None) -> int:
    """Write a message to a stream; return its bytes."""
    return await stream.write(msg, serializers)


class Server(server.Server):
    """A `Server` that is called over such streams: ``Server(handlers).listen(8888)``.

    A second argument by position is ``max_buffer_size``, as it was in that generation.
    """

    _scheme = _SCHEME

    def __init__(
        self,
        handlers: Mapping[str, Any] | None = None,
        max_buffer_size: float | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(handlers, max_buffer_size=max_buffer_size, **arguments)


class rpc(client.rpc):  # noqa: N801 - the name that Dask gave it
    """An `rpc` that calls over such streams: ``rpc(ip="127.0.0.1", port=8888)``."""

    _scheme = _SCHEME

    def __init__(
        self,
        arg: Address | None = None,
        stream: Comm | None = None,
        ip: str | None = None,
        port: int | None = None,
        addr: Address | None = None,
        timeout: float | None = _TIMEOUT,
        **arguments: Any,
    ) -> None:
        super().__init__(
            arg, stream=stream, ip=ip, port=port, addr=addr, timeout=timeout, **arguments
        )
