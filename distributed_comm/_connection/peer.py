"""What a transport knows of a connected socket, before the peer has said a word."""

from typing import Any, NamedTuple

__all__ = ["ConnectionInfo"]


class ConnectionInfo(NamedTuple):
    """Both ends of a connection, and what is known of the peer.

    ``endpoint`` is the listener's address as both ends should see it: a proof is bound to
    it. ``vouched`` says that the transport itself knows the peer for one of ours.
    """

    local: str
    peer: str
    endpoint: str
    dialled: bool
    same_host: bool
    vouched: bool = False
    about: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it
