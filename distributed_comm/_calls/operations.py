"""The ops of a server: handlers, inspected once, and the requests that name them.

A request comes in an envelope, or as the dict that Dask's callers send, in which ``op``,
``reply``, ``close`` and ``serializers`` are not arguments. Either way it becomes a `Call`; with
an envelope, this happens before its arguments are decoded.
"""

import inspect
from collections.abc import Awaitable, Callable, Generator, Iterable
from functools import partial
from typing import Any, Protocol

from .._envelope import (
    ITEMS,
    LONGEST,
    NOTHING,
    ONE,
    Request,
    decode_request,
    encode_request,
    is_request,
)
from .._text import SHORT, brief, printable
from .._wire.proof import REMEDY
from ..errors import UntrustedError
from .handlers import bare, requires_trust
from .remote_errors import is_error

__all__ = ["EITHER", "Call", "Operation", "Operations", "drive", "list_names"]

#: First parameters by whose name a handler asks for the connection.
COMM_NAMES = ("comm", "stream")
#: ``wants`` of a request without ``reply``: as many messages as the function gives.
EITHER = 3
#: What stands for a key that is missing.
MISSING = object()
#: The longest head that is cached, and how many heads are.
BRIEF, MANY = 256, 10_000
#: How many ops an error names.
SHOWN = 20

Handler = Callable[..., Any]


class Operation:
    """What a server knows about one op, and counts of it.

    ``seconds`` and ``slowest`` measure from the request's decoding to the function's result.
    """

    __slots__ = (
        "calls", "errors", "function", "handler", "op", "require_trust", "seconds", "slowest",
        "takes_comm", "takes_serializers",
    )  # fmt: skip

    def __init__(self, op: str, handler: Handler, require_trust: bool = False) -> None:
        function = bare(handler)
        parameters = _parameters(function)
        self.op = op
        self.handler = handler
        self.function = function
        self.require_trust = require_trust or requires_trust(handler)
        self.takes_comm = bool(parameters) and parameters[0] in COMM_NAMES
        self.takes_serializers = "serializers" in parameters
        self.calls = 0
        self.errors = 0
        self.seconds = 0.0
        self.slowest = 0.0

    def count(self, seconds: float) -> None:
        """Take note of a call that took so long."""
        self.calls += 1
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)

    def misfit(self, comm: Any, arguments: dict[str, Any]) -> TypeError | None:
        """Return the error where the function does not take these arguments.

        Asked after a TypeError, to tell the caller's mistake from the function's.
        """
        try:
            signature = inspect.signature(self.function)
        except Exception:  # some builtins have none, and odd objects may raise anything
            return None
        try:
            signature.bind(*([comm] if self.takes_comm else ()), **arguments)
        except TypeError as exc:
            return TypeError(printable(f"{self.op}: {exc}", SHORT))  # it quotes a name
        return None

    def stats(self) -> dict[str, float]:
        return {
            "calls": self.calls,
            "errors": self.errors,
            "seconds": self.seconds,
            "slowest": self.slowest,
        }


class Call:
    """A request without its arguments: what is called, and what its caller waits for.

    ``wants`` is NOTHING, ONE, ITEMS or EITHER. ``close`` closes the connection after the answer,
    for which only ``families`` may be used. A Call with a ``refusal`` has no operation. ``head``
    is that of its envelope, None if it came without one. A Call is shared by many requests, and
    never changed.
    """

    __slots__ = ("close", "direct", "families", "head", "operation", "refusal", "wants")

    def __init__(
        self,
        operation: Operation | None,
        wants: int,
        close: bool,
        families: Any,
        head: bytes | None,
        refusal: Exception | None = None,
    ) -> None:
        self.operation: Operation = operation  # type: ignore[assignment] # None beside a refusal
        self.wants = wants
        self.close = close
        self.families = families
        self.head = head
        self.refusal = refusal
        #: Whether a result that was returned only has to be sent as the reply.
        self.direct = not (close or wants == NOTHING or operation is None or operation.takes_comm)


class Owner(Protocol):
    """The attributes of a server that are used here; they may change while it runs."""

    handlers: dict[str, Handler]
    blocked_handlers: list[str]


class Operations:
    """The ops of one server, and who may call them."""

    def __init__(self, owner: Owner, trusted_ops: frozenset[str]) -> None:
        self._owner = owner
        self._trusted_ops = trusted_ops
        self._known: dict[str, Operation] = {}
        self._calls: dict[bytes, Call] = {}  # by their heads; refused ones are not kept
        #: ``admit[trusted](head)`` returns the Call of a head, perhaps with a refusal.
        self.admit = partial(self._admit, False), partial(self._admit, True)

    # -- requests in envelopes -------------------------------------------------------------

    def _admit(self, trusted: bool, head: bytes) -> Call:
        call = self._calls.get(head) if len(head) <= BRIEF else None
        if call is not None:
            operation = call.operation
            owner, op = self._owner, operation.op
            if (
                owner.handlers.get(op) is operation.handler
                and op not in owner.blocked_handlers
                and (trusted or not operation.require_trust)
            ):
                return call
        return self._read_head(head, trusted)

    def _read_head(self, head: bytes, trusted: bool) -> Call:
        try:
            request = decode_request(head)
        except ValueError as exc:  # answering anything but a request could go on for ever
            answered = ONE if is_request(head) else NOTHING
            return Call(None, answered, True, None, bytes(head[:LONGEST]), _and_ends(exc))
        wants = request.wants
        close = request.close or wants == ITEMS or request.op == "close"
        try:
            operation = self.find(request.op, trusted)
        except Exception as exc:  # an odd object as a handler may raise anything
            return Call(None, wants, close, None, head, exc)
        call = Call(operation, wants, close, request.families, head)
        if len(head) <= BRIEF and len(self._calls) < MANY and _is_usual(request, head):
            self._calls[head] = call
        return call

    # -- requests as dicts -----------------------------------------------------------------

    def read(
        self, message: Any, error: Exception | None, trusted: bool
    ) -> tuple[Call, dict[str, Any]]:
        """Return the Call of a message, and its arguments.

        ``error`` says why the message could not be decoded. It may be given nevertheless, with its
        pickles unopened, to tell whether an answer is wanted.
        """
        if not isinstance(message, dict):
            if error is None:
                kind = type(message).__name__
                error = TypeError(f"a request is a dict with the key 'op', not a {kind}")
                return Call(None, ONE, False, None, None, error), {}
            # Close behind the error: if no reply was wanted, it would be taken for the next one.
            return Call(None, ONE, True, None, None, _and_ends(error)), {}
        # Perhaps another server sent it: the two would answer each other for ever.
        if "op" not in message and is_error(message):
            error = TypeError("an error instead of a request")
            return Call(None, NOTHING, True, None, None, error), {}
        arguments = dict(message)
        op = arguments.pop("op", None)
        reply = arguments.pop("reply", MISSING)
        close = arguments.pop("close", None)
        families = arguments.pop("serializers", None)
        operation = None
        try:
            if error is None:
                operation = self.find(op, trusted)
            wants: int = EITHER if reply is MISSING else ONE if reply else NOTHING
            close = type(op) is str and op == "close" if close is None else bool(close)
        except Exception as exc:  # a value without a truth value, such as an array
            error = exc
            wants, close = int(_is_true(reply, True)), _is_true(close, False)
        return Call(operation, wants, close, families, None, error), arguments

    # -- ops -----------------------------------------------------------------------------------

    def find(self, op: Any, trusted: bool) -> Operation:
        """Return the operation of an op; ValueError or UntrustedError if it may not be called."""
        if not isinstance(op, str):
            raise self._unknown("None" if op is None else f"of the type {type(op).__name__}")
        if op in self._owner.blocked_handlers:
            raise ValueError(f"the op {op!r} is blocked on this {type(self._owner).__name__}")
        handler = self._owner.handlers.get(op, _say_ok if op == "close" else None)
        if handler is None:
            raise self._unknown(brief(op))
        operation = self._known.get(op)
        if operation is None or operation.handler is not handler:
            operation = self._known[op] = Operation(op, handler, op in self._trusted_ops)
        if operation.require_trust and not trusted:
            raise UntrustedError(f"the op {op!r} is for trusted peers: {REMEDY}")
        return operation

    def _unknown(self, what: str) -> ValueError:
        known = list_names(self._owner.handlers)
        return ValueError(f"no op {what} on this {type(self._owner).__name__}, only: {known}")

    def stats(self) -> dict[str, dict[str, float]]:
        """Return the counts of each op that was called."""
        return {op: operation.stats() for op, operation in self._known.items()}


def list_names(names: Iterable[str]) -> str:
    """Return the names of ops for an error, shortened: strangers can cause many errors.

    >>> list_names(["b", "a"]), list_names([])
    ('a, b', 'none at all')
    """
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"{name:.60}" for name in names[:SHOWN]) + more or "none at all"


def _and_ends(error: Exception) -> Exception:
    """Have an error say that its reply is the last."""
    error.args = (f"{error}; the connection ends behind this error: perhaps none was wanted",)
    return error


def _is_usual(request: Request, head: bytes) -> bool:
    """Whether a head is one of the few usual ones of an op; strangers can invent any number."""
    return request.families is None and encode_request(request) == head


def _is_true(value: Any, otherwise: bool) -> bool:
    """Return the truth of a value that may have none, such as an array."""
    try:
        return bool(value)
    except Exception:
        return otherwise


def _say_ok() -> str:
    return "OK"


def _parameters(function: Handler) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


async def drive(generator: Generator[Awaitable[Any], Any, Any]) -> Any:
    """Await what a generator yields, and send it what that gave, as Tornado's coroutines do."""
    step: Callable[[], Any] = partial(next, generator)
    while True:
        try:
            waits_for = step()
        except StopIteration as stop:
            return stop.value
        try:
            step = partial(generator.send, await waits_for)
        except BaseException as exc:
            step = partial(generator.throw, exc)
