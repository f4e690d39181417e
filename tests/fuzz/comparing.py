"""The compiled kernels beside their twins: alone, in memory of just the size, and in use."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from distributed_comm import _kernels

from ..switching import PURE, places
from ..twins import outcome


def exact(data: bytes) -> memoryview:
    """Return a copy that ends where its memory does; bytes and bytearray have one byte more."""
    size = len(data)
    view = memoryview(_kernels.blocks.allocate(size, size))
    view[:] = data
    return view


def agree(kernel: ModuleType, name: str, *args: Any) -> Any:
    """Check that a function of a kernel does what its twin does; return what.

    That is the result, or the exception: a ValueError or TypeError, and no other.
    """
    return agree_on(lambda twin: outcome(getattr(twin, name), *args), kernel)


def agree_on(call: Callable[[ModuleType], Any], kernel: ModuleType) -> Any:
    """Check that something comes out the same with a kernel and with its twin."""
    found, specified = call(kernel), call(PURE[kernel])
    assert found == specified, f"{found!r:.500} where {specified!r:.500} is specified"
    kind = found[0]
    assert not issubclass(kind, Exception) or kind in {ValueError, TypeError}, found
    return found


_places = cache(lambda: list(places()))


@contextmanager
def pure_kernels() -> Iterator[None]:
    """Have the library use the pure kernels meanwhile."""
    chosen = [(module, name, getattr(module, name)) for module, name, _ in _places()]
    try:
        for module, name, pure in _places():
            setattr(module, name, pure)
        yield
    finally:
        for module, name, kernel in chosen:
            setattr(module, name, kernel)
