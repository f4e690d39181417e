"""Messages of which none is replied to: each calls the function that its op names."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Set
from inspect import isasyncgenfunction, isawaitable
from typing import Any

from .._text import brief
from ..core import Comm
from ..errors import CommClosedError, MessageError, UnserializableError, UntrustedError
from .handlers import bare, requires_trust
from .operations import drive, list_names

__all__ = ["Streaming", "expect_no_items"]

#: Messages of a batch that are handled before others get their turn.
AT_ONCE = 100
#: What stands for the op of a message that has none.
MISSING = object()

Handlers = Mapping[str, Callable[..., Any]]


def expect_no_items(handlers: Handlers) -> None:
    """Raise a TypeError for an async generator function among stream handlers."""
    for op, function in handlers.items():
        if isasyncgenfunction(bare(function)):
            raise _has_items(op)


class Streaming:
    """The messages of one connection, each of which calls the handler that its op names."""

    def __init__(
        self, comm: Comm, handlers: Handlers, trusted_ops: Set[str], extra: Mapping[str, Any]
    ) -> None:
        self._comm = comm
        self._handlers = handlers
        self._trusted_ops = trusted_ops
        self._extra = extra  # arguments for all of them
        self._guarded: dict[str, tuple[Callable[..., Any], bool]] = {}  # that were asked for

    async def run(self) -> None:
        """Handle each message, or each of a batch, until the peer is done; then close the comm.

        If one cannot be handled, the peer is told, for it may not know of anything else.
        """
        try:
            await self._handle_all()
        except CommClosedError:
            raise
        except Exception as exc:
            self._comm.dismiss(f"a stream handler failed: {type(exc).__name__}", logged=True)
            raise
        finally:
            await self._comm.close()

    async def _handle_all(self) -> None:
        while True:
            try:
                batch = await anext(self._comm)
            except StopAsyncIteration:
                return
            except (MessageError, UnserializableError, UntrustedError) as exc:
                self._comm.dismiss(str(exc))
                return
            messages = batch if isinstance(batch, list | tuple) else (batch,)
            for number, message in enumerate(messages, 1):
                if not await self._handle(message):
                    return
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)

    async def _handle(self, message: Any) -> bool:
        """Handle one message; return whether others may follow."""
        if isinstance(message, str) and message == "OK":
            return True
        arguments = dict(message) if isinstance(message, dict) else {}
        op = arguments.pop("op", MISSING)
        if not op:
            comm, shown = self._comm, brief(message)
            text = "odd message in a stream from %s: %s"
            comm.log.line(logging.ERROR, text, comm.peer_address, shown)
            return True
        if op == "close-stream":
            return False
        function = self._handlers.get(op) if isinstance(op, str) else None
        why = self._refusal(op, function)
        if why is not None or function is None:
            self._comm.dismiss(f"a stream was ended: {why}")
            return False
        result = function(**{**self._extra, **arguments})
        if isinstance(result, AsyncGenerator):  # from a handler added later, or one that hid it
            raise _has_items(op)
        if isinstance(result, Generator):
            result = drive(result)
        if isawaitable(result):
            await result
        return True

    def _refusal(self, op: Any, function: Callable[..., Any] | None) -> str | None:
        """Return why an op cannot be called, None where it can."""
        if function is None:
            what = "a message without an op" if op is MISSING else f"no op {_show(op)}"
            return f"{what}, only: {list_names(self._handlers)}"
        if not self._comm.trusted and self._is_guarded(op, function):
            return f"the op {op!r} is for trusted peers"
        return None

    def _is_guarded(self, op: str, function: Callable[..., Any]) -> bool:
        known, guarded = self._guarded.get(op, (None, False))
        if known is not function:
            guarded = op in self._trusted_ops or requires_trust(function)
            self._guarded[op] = function, guarded
        return guarded


def _show(op: Any) -> str:
    shown = brief(op)
    return f"of the type {type(op).__name__}" if shown[:2] in {"a ", "an"} else shown


def _has_items(op: str) -> TypeError:
    return TypeError(
        f"the stream handler {op!r} is an async generator, and nobody gets its items: write a "
        f"coroutine function, or put it among the handlers"
    )
