"""sentinel://: tcp, but for what stands between the messages; the transport of `streams`."""

from typing import Any

from .._wire.framing import MakeFraming
from .._wire.sentinel_framing import SentinelFraming
from ..core import Connector, HandleComm, Listener
from .tcp import TCPBackend, TCPConnector, TCPListener

__all__ = ["SentinelBackend"]

SCHEME = "sentinel"


class SentinelConnector(TCPConnector):
    """Dials peers that end each message with the sentinel."""

    framing: MakeFraming = SentinelFraming
    scheme = SCHEME


class SentinelListener(TCPListener):
    """Is dialled by them."""

    framing: MakeFraming = SentinelFraming
    scheme = SCHEME


class SentinelBackend(TCPBackend):
    """The scheme ``sentinel``."""

    def get_connector(self) -> Connector:
        return SentinelConnector()

    def get_listener(
        self, loc: str, handle_comm: HandleComm, deserialize: bool, **connection_args: Any
    ) -> Listener:
        return SentinelListener(loc, handle_comm, deserialize, **connection_args)
