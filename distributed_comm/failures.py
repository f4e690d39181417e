"""A handler that failed, or a reply that cannot be sent: the log line, and the caller's error.

The exception and the reply may be of any type, and their methods may fail.
"""

import asyncio
import logging
from typing import Any

from .calls import pack_error
from .core import Comm
from .errors import CommClosedError, RemoteError
from .operations import Operation

__all__ = ["failed", "unsendable"]


def failed(operation: Operation, exc: BaseException, comm: Comm, trusted: bool) -> dict[str, Any]:
    """Count and log a handler's exception; return the error for its caller."""
    operation.errors += 1
    op, log = operation.op, comm.log
    if issubclass(type(exc), asyncio.CancelledError):
        return pack_error(RemoteError(f"{operation.op}: cancelled at the server"), False)
    try:
        if exc.__traceback__ is not None:  # without the line that called it
            BaseException.with_traceback(exc, exc.__traceback__.tb_next)
        ends = f"{comm.local_address} -> {comm.peer_address}"
        if isinstance(exc, CommClosedError) and comm.closed() and ends in str(exc):
            log.line(logging.INFO, "the handler of %r lost its connection: %s", op, exc)
        else:
            log.failure("the handler of %r failed", op, exc=exc)
        return pack_error(exc, trusted)
    except BaseException:  # its own methods fail, too
        error = RemoteError(f"{operation.op}: {type(exc).__name__}, which cannot be shown")
        log.line(logging.ERROR, "the handler of %r failed: %s", op, error)
        return pack_error(error, False)


def unsendable(exc: BaseException, comm: Comm, trusted: bool) -> dict[str, Any]:
    """Log that a reply cannot be serialized; return the error for its caller."""
    try:
        text = "a reply to %s cannot be sent: %s"
        comm.log.line(logging.WARNING, text, comm.peer_address, exc)
        if isinstance(exc, Exception):
            return pack_error(exc, trusted)
        error = RemoteError(f"the reply cannot be sent: {exc!r}")
    except BaseException:  # its own methods fail, too
        error = RemoteError(f"the reply cannot be sent: {type(exc).__name__}")
    return pack_error(error, False)
