"""Backends by scheme, ours and those of other distributions, loaded on first use."""

from abc import ABC, abstractmethod
from functools import cache
from importlib import import_module
from typing import Any

from ._text import brief
from .core import Connector, HandleComm, Listener

__all__ = ["Backend", "get_backend"]

#: The entry points by which a distribution announces a backend: its scheme, and its class.
_GROUP = "distributed_comm.backends"
#: Scheme -> module and class; nobody else can take one of these schemes.
_BUILT_IN = {
    "inproc": ("distributed_comm._transports.inproc", "InProcBackend"),
    "sentinel": ("distributed_comm._transports.sentinel", "SentinelBackend"),
    "tcp": ("distributed_comm._transports.tcp", "TCPBackend"),
    "tls": ("distributed_comm._transports.tls", "TLSBackend"),
    "unix": ("distributed_comm._transports.unix", "UnixBackend"),
}


class Backend(ABC):
    """Everything about one scheme; ``loc`` is an address without its scheme."""

    #: Whether nobody on the way can read or change what is sent: what `require_encryption` asks.
    private: bool = False
    #: Whether it takes ``ssl_context`` and ``server_hostname``; no other is given them.
    tls: bool = False

    @abstractmethod
    def get_connector(self) -> Connector:
        """Return what dials addresses of this scheme."""

    @abstractmethod
    def get_listener(
        self, loc: str, handle_comm: HandleComm, deserialize: bool, **connection_args: Any
    ) -> Listener:
        """Return a listener that is not started yet."""

    @abstractmethod
    def get_address_host(self, loc: str) -> str:
        """Return the host name or IP address of the machine where ``loc`` is."""

    def get_address_host_port(self, loc: str) -> tuple[str, int]:
        """Return host and port; only backends over IP have them."""
        raise NotImplementedError

    @abstractmethod
    def resolve_address(self, loc: str) -> str:
        """Replace symbolic names in ``loc``; it may be returned unchanged."""

    @abstractmethod
    def get_local_address_for(self, loc: str) -> str:
        """Return a local address to listen on that is suitable for reaching ``loc``."""


@cache
def get_backend(scheme: str) -> Backend:
    """Return the backend of a scheme; ValueError lists the known ones."""
    if scheme not in _BUILT_IN:
        return _load_from_outside(scheme)
    module, name = _BUILT_IN[scheme]
    backend: Backend = getattr(import_module(module), name)()
    return backend


def _load_from_outside(scheme: str) -> Backend:
    from importlib.metadata import entry_points  # noqa: PLC0415 - takes 12 ms

    outside = entry_points(group=_GROUP)
    if scheme not in outside.names:
        known = ", ".join(sorted({*_BUILT_IN, *outside.names}))
        raise ValueError(f"unknown scheme {brief(scheme)}, expected one of: {known}")
    backend: Backend = outside[scheme].load()()
    return backend
