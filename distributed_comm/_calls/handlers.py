"""Handlers: functions with the options that `handler` sets, and their names as ops."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial, update_wrapper
from inspect import getattr_static
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, overload

__all__ = ["Handler", "bare", "handler", "name_handlers", "requires_trust"]

#: The most wrappers that are looked through; they may form a cycle.
MANY_LAYERS = 100


class Handler:
    """A handler: a function and its options, called like the function. See `handler`."""

    name: str | None
    require_trust: bool
    function: Callable[..., Any]

    def __init__(
        self, function: Callable[..., Any], *, name: str | None, require_trust: bool
    ) -> None:
        if not callable(function) and not isinstance(function, classmethod):
            raise TypeError(f"{function!r:.60} is not a handler: expected a function")
        if isinstance(function, Handler):  # keep its options unless they are replaced
            name = name or function.name
            require_trust = require_trust or function.require_trust
            function = function.function
        update_wrapper(self, function)
        self.function = function
        self.name = name
        self.require_trust = require_trust

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> "Handler":
        """Bind the function if it is a method of a class."""
        bind = getattr(type(self.function), "__get__", None)
        if bind is None:
            return self
        bound = bind(self.function, instance, owner)
        return Handler(bound, name=self.name, require_trust=self.require_trust)

    def __repr__(self) -> str:
        options = ", ".join(
            f"{option}={value!r}"
            for option, value in (("name", self.name), ("require_trust", self.require_trust))
            if value
        )
        return f"<handler {self.function!r}{options and f', {options}'}>"


@overload
def handler(
    function: None = None, *, name: str | None = None, require_trust: bool = False
) -> Callable[[Callable[..., Any]], Handler]: ...
@overload
def handler(
    function: Callable[..., Any], *, name: str | None = None, require_trust: bool = False
) -> Handler: ...
def handler(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    require_trust: bool = False,
) -> Any:
    """Set a function's options as a handler of a `Server`: as a decorator, or by a call.

    ``name`` is its op where the server gets a list of functions, instead of the function's own.
    With ``require_trust=True`` only trusted peers may call it. The result is called like the
    function. The function itself is unchanged, and may have other options as another op. Methods,
    builtins, partials and bound methods may be given options as well.

    >>> @handler(require_trust=True)
    ... def stop():
    ...     pass
    >>> handler(max, name="largest")
    <handler <built-in function max>, name='largest'>
    """
    if function is None:
        return partial(handler, name=name, require_trust=require_trust)
    return Handler(function, name=name, require_trust=require_trust)


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of a handler; its parameters decide how it is called."""
    return function.function if isinstance(function, Handler) else function


def requires_trust(function: Callable[..., Any]) -> bool:
    """Whether only trusted peers may call a handler.

    Wrapping it in a partial, a method or a decorator does not lift the requirement.
    """
    layers: list[Any] = [function]
    for seen in range(MANY_LAYERS):
        if seen == len(layers):
            return False
        layer = layers[seen]
        if isinstance(layer, Handler) and layer.require_trust:
            return True
        layers += [inner for inner in _inside(layer) if inner is not None]
    return True  # too many to look through: assume that it does


def _inside(layer: Any) -> Iterator[Any]:
    """Yield the functions that a callable wraps, and the ``__call__`` of an object.

    A proxy would return something for any name, so attributes are looked up statically.
    """
    if isinstance(layer, Handler):
        yield layer.function
    elif isinstance(layer, partial):
        yield layer.func
        for argument in (*layer.args, *layer.keywords.values()):  # as of asyncio.to_thread
            yield argument if isinstance(argument, Handler | MethodType | partial) else None
    elif isinstance(layer, staticmethod | classmethod):
        yield layer.__func__
    elif isinstance(layer, MethodType):
        yield layer.__func__
        if isinstance(layer.__self__, Handler):  # and this is its __call__
            yield layer.__self__
        return
    elif not isinstance(layer, type | FunctionType | BuiltinFunctionType):
        call = getattr_static(type(layer), "__call__", None)
        yield call if isinstance(call, Handler | FunctionType | partial) else None
    if getattr_static(layer, "__wrapped__", None) is not None:
        with suppress(Exception):  # a property may raise
            yield layer.__wrapped__


def name_handlers(
    handlers: Mapping[str, Callable[..., Any]] | Iterable[Callable[..., Any]],
) -> dict[str, Callable[..., Any]]:
    """Return handlers by their ops; a function's name is its op unless `handler` set another.

    In an iterable, an item that is not a function or has no name raises TypeError, and a duplicate
    name raises ValueError.
    """
    if isinstance(handlers, Mapping):
        return dict(handlers)
    named: dict[str, Callable[..., Any]] = {}
    for function in handlers:
        name = getattr(function, "__name__", None)
        if isinstance(function, Handler) and function.name:
            name = function.name
        if not callable(function) or name in {None, "<lambda>"}:
            raise TypeError(
                f"{function!r:.60} among the handlers has no name: expected a function, "
                f"handler(function, name=...), or a mapping of names to functions"
            )
        if name in named:
            raise ValueError(
                f"two handlers are named {name!r}: {named[name]!r:.60} and {function!r:.60}"
            )
        named[name] = function
    return named
