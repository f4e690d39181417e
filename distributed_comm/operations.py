"""A handler, looked at once: how it is called, what it returns, and how often it was called."""

import inspect
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

__all__ = ["Operation", "drive"]

#: First parameters by whose name a handler asks for the connection.
COMM_NAMES = ("comm", "stream")


class Operation:
    """What a server knows about one op, and counts of it.

    ``seconds`` and ``slowest`` measure from the request's decoding to the function's result.
    """

    __slots__ = (
        "calls", "errors", "function", "op", "seconds", "slowest", "takes_comm",
        "takes_serializers",
    )  # fmt: skip

    def __init__(self, op: str, function: Callable[..., Any]) -> None:
        parameters = _parameters(function)
        self.op = op
        self.function = function
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
        except (TypeError, ValueError):  # some builtins have none
            return None
        try:
            signature.bind(*([comm] if self.takes_comm else ()), **arguments)
        except TypeError as exc:
            return TypeError(f"{self.op}: {exc}")
        return None

    def stats(self) -> dict[str, float]:
        return {
            "calls": self.calls,
            "errors": self.errors,
            "seconds": self.seconds,
            "slowest": self.slowest,
        }


def _parameters(function: Callable[..., Any]) -> list[str]:
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
