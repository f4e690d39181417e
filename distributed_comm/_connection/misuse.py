"""The error for a connection that is used where it does not belong, or by two at once."""

from .._kernels import mailbox
from .._loops.loop_state import NOWHERE
from .._loops.ownership import owner
from .._wire.connection import Connection
from ..errors import LocalProtocolError

__all__ = ["misused"]


def misused(connection: Connection, switch: mailbox.Switch) -> LocalProtocolError:
    """Return the error for a call from another loop or process, or while another task reads."""
    ends = f"{connection.local} -> {connection.peer}"
    if switch is NOWHERE:
        return LocalProtocolError(f"{ends} belongs to {owner(None)}")
    if not switch.runs():
        return LocalProtocolError(f"{ends} belongs to {owner(switch.loop)}")
    return LocalProtocolError(f"another task is reading from {ends}")
