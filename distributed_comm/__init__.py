"""Python objects between processes: addresses, comms, connect and listen.

The communication layer of a distributed program on asyncio and uvloop, which speaks the
wire protocol of Dask. Start with `listen` and `connect`; see docs/design.md for the house.
"""

from ._kernels import kind as kernels
from .addressing import (
    normalize_address,
    parse_address,
    parse_host_port,
    unparse_address,
    unparse_host_port,
)
from .batched import BatchedSend
from .calls import Status
from .client import rpc
from .comms import ChannelComm
from .core import Channel, Comm, Connector, Listener
from .encryption import Security
from .endpoints import (
    connect,
    get_address_host,
    get_address_host_port,
    get_local_address_for,
    listen,
    resolve_address,
    resolve_address_async,
)
from .envelope import NO_REPLY
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
from .exchange import send_recv
from .handlers import handler
from .options import CommOptions, Limits, Timeouts
from .pool import ConnectionPool
from .registry import Backend
from .running import run
from .serialize.families import register_serialization_family
from .serialize.markers import Pickled, Serialize, Serialized, ToPickle, to_serialize
from .serialize.registered import register_serialization, register_serialization_lazy
from .server import Server

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
