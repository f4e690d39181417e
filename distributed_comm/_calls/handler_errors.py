"""A handler that failed, or a reply that cannot be sent: the log line, and the caller's error.

The exception and the reply may be of any type, and their methods may fail.
"""

import asyncio
import logging
from typing import Any

from .._text import describe
from ..core import Comm
from ..errors import CommClosedError, RemoteError
from .operations import Operation
from .remote_errors import pack_error

__all__ = ["failed", "unsendable"]


def failed(operation: Operation, exc: BaseException, comm: Comm, trusted: bool) -> dict[str, Any]:
    """Count and log a handler's exception; return the error for its caller."""
    operation.errors += 1
    op, log = operation.op, comm.log
    if issubclass(type(exc), asyncio.CancelledError):
        return pack_error(RemoteError(f"{operation.op}: cancelled at the server"), False)
    step = vars(BaseException)["__traceback__"].__get__(exc)
    if step is not None:  # without the line that called it
        BaseException.with_traceback(exc, step.tb_next)
    try:
        ends = f"{comm.local_address} -> {comm.peer_address}"
        lost = issubclass(type(exc), CommClosedError) and comm.closed() and ends in str(exc)
        if lost:
            log.line(logging.INFO, "the handler of %r lost its connection: %s", op, exc)
        else:
            log.failure("the handler of %r failed", op, exc=exc)
    except BaseException:  # its own methods fail, too
        log.line(logging.ERROR, "the handler of %r failed: %s", op, describe(exc))
    return pack_error(exc, trusted)


def unsendable(exc: BaseException, comm: Comm, trusted: bool) -> dict[str, Any]:
    """Log that a reply cannot be serialized; return the error for its caller."""
    text = "a reply to %s cannot be sent: %s"
    comm.log.line(logging.WARNING, text, comm.peer_address, describe(exc))
    if issubclass(type(exc), Exception):
        return pack_error(exc, trusted)
    return pack_error(RemoteError(f"the reply cannot be sent: {describe(exc)}"), False)
