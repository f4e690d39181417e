"""Messages of which none is replied to: each calls the function that its op names."""

import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from inspect import isasyncgenfunction, isawaitable
from typing import Any

from .core import Comm
from .operations import drive

__all__ = ["expect_no_items", "handle_messages"]

logger = logging.getLogger("distributed_comm")

#: What stands for the op of a message that has none.
MISSING = object()

Handlers = Mapping[str, Callable[..., Any]]


def expect_no_items(handlers: Handlers) -> None:
    """Raise a TypeError for an async generator function among stream handlers."""
    for op, function in handlers.items():
        if isasyncgenfunction(function):
            raise _has_items(op)


async def handle_messages(comm: Comm, handlers: Handlers, extra: Mapping[str, Any]) -> None:
    """Handle each message, or each of a batch, until the peer is done; then close the comm."""
    try:
        async for batch in comm:
            for message in batch if isinstance(batch, list | tuple) else (batch,):
                if not await _handle(comm, message, handlers, extra):
                    return
    finally:
        await comm.close()


async def _handle(comm: Comm, message: Any, handlers: Handlers, extra: Mapping[str, Any]) -> bool:
    """Handle one message; return whether others may follow."""
    if isinstance(message, str) and message == "OK":
        return True
    arguments = dict(message) if isinstance(message, dict) else {}
    op = arguments.pop("op", MISSING)
    if not op:
        logger.error("odd message in a stream from %s: %.200r", comm.peer_address, message)
        return True
    if op == "close-stream":
        return False
    function = handlers.get(op) if isinstance(op, str) else None
    if function is None:
        what = "a message without an op" if op is MISSING else f"no op {op!r:.60}"
        known = ", ".join(sorted(handlers)) or "none at all"
        logger.error("ended a stream from %s: %s, only: %s", comm.peer_address, what, known)
        return False
    result = function(**{**extra, **arguments})
    if isinstance(result, AsyncGenerator):  # of a handler that was added later, or hid it
        raise _has_items(op)
    if isinstance(result, Generator):
        result = drive(result)
    if isawaitable(result):
        await result
    return True


def _has_items(op: str) -> TypeError:
    return TypeError(
        f"the stream handler {op!r} is an async generator, and nobody gets its items: write a "
        f"coroutine function, or put it among the handlers"
    )
