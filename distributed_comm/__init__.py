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
from .errors import (
    CommClosedError,
    FatalCommClosedError,
    LocalProtocolError,
    MessageError,
    RemoteProtocolError,
    TLSError,
    UnserializableError,
    UntrustedError,
)
from .options import CommOptions, Limits, Timeouts
from .registry import Backend
from .running import run

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "Channel",
    "ChannelComm",
    "Comm",
    "CommClosedError",
    "CommOptions",
    "Connector",
    "FatalCommClosedError",
    "Limits",
    "Listener",
    "LocalProtocolError",
    "MessageError",
    "RemoteProtocolError",
    "Security",
    "TLSError",
    "Timeouts",
    "UnserializableError",
    "UntrustedError",
    "__version__",
    "connect",
    "get_address_host",
    "get_address_host_port",
    "get_local_address_for",
    "kernels",
    "listen",
    "normalize_address",
    "parse_address",
    "parse_host_port",
    "resolve_address",
    "resolve_address_async",
    "run",
    "unparse_address",
    "unparse_host_port",
]
