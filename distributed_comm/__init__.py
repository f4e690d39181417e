"""Python objects between processes: addresses, comms, connect and listen.

The communication layer of a distributed program on asyncio and uvloop, which speaks the
wire protocol of Dask. Start with `listen` and `connect`; see docs/design.md for the house.
"""

from ._addressing import (
    normalize_address,
    parse_address,
    parse_host_port,
    unparse_address,
    unparse_host_port,
)
from ._calls.batched import BatchedSend
from ._calls.call import send_recv
from ._calls.client import rpc
from ._calls.handlers import handler
from ._calls.pool import ConnectionPool
from ._calls.remote_errors import Status
from ._calls.server import Server
from ._comm import ChannelComm
from ._endpoints import (
    connect,
    get_address_host,
    get_address_host_port,
    get_local_address_for,
    listen,
    resolve_address,
    resolve_address_async,
)
from ._envelope import NO_REPLY
from ._kernels import kind as kernels
from ._run import run
from ._serialize.families import register_serialization_family
from ._serialize.type_registry import register_serialization, register_serialization_lazy
from ._serialize.wrappers import Pickled, Serialize, Serialized, ToPickle, to_serialize
from ._tls.security import Security
from .core import Channel, Comm, Connector, Listener
from .errors import (
    CommClosedError,
    FatalCommClosedError,
    KeyFileError,
    LocalProtocolError,
    MessageError,
    RemoteError,
    RemoteProtocolError,
    TLSError,
    UnserializableError,
    UntrustedError,
)
from .options import CommOptions, Limits, Timeouts
from .registry import Backend

__version__ = "0.1.0"

__all__ = [
    "NO_REPLY",
    "Backend",
    "BatchedSend",
    "Channel",
    "ChannelComm",
    "Comm",
    "CommClosedError",
    "CommOptions",
    "ConnectionPool",
    "Connector",
    "FatalCommClosedError",
    "KeyFileError",
    "Limits",
    "Listener",
    "LocalProtocolError",
    "MessageError",
    "Pickled",
    "RemoteError",
    "RemoteProtocolError",
    "Security",
    "Serialize",
    "Serialized",
    "Server",
    "Status",
    "TLSError",
    "Timeouts",
    "ToPickle",
    "UnserializableError",
    "UntrustedError",
    "__version__",
    "connect",
    "get_address_host",
    "get_address_host_port",
    "get_local_address_for",
    "handler",
    "kernels",
    "listen",
    "normalize_address",
    "parse_address",
    "parse_host_port",
    "register_serialization",
    "register_serialization_family",
    "register_serialization_lazy",
    "resolve_address",
    "resolve_address_async",
    "rpc",
    "run",
    "send_recv",
    "to_serialize",
    "unparse_address",
    "unparse_host_port",
]
