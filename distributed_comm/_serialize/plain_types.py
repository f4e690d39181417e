"""Plain types and what is nearly one of them: instances of their subclasses, members of enums."""

import sys
from enum import Enum
from typing import Any

__all__ = ["PLAIN", "as_base", "has_a_name", "names_of"]

#: The types that msgpack has; bool cannot be subclassed, and what makes bytes goes as bytes.
PLAIN = (dict, list, tuple, str, int, float, bytes, bytearray)


def as_base(obj: Any) -> Any:
    """Return what an instance of a subclass of a plain type is without its subclass.

    >>> from collections import OrderedDict
    >>> as_base(OrderedDict(a=1))
    {'a': 1}
    """
    base = next(base for base in PLAIN if isinstance(obj, base))
    return base.__call__(obj) if base in (dict, list, tuple) else _scalar(base, obj)


def _scalar(base: type, obj: Any) -> Any:
    """Do so past what the subclass makes of ``str(obj)`` or ``int(obj)``."""
    if base is str:
        return str.__str__(obj)
    if base is int:
        return int.__int__(obj)
    if base is float:
        return float.__float__(obj)
    return bytes(memoryview(obj))


def has_a_name(member: Enum) -> bool:
    """Whether a peer finds an enum member as Dask looks: in a class at the top of a module."""
    kind = type(member)
    module = sys.modules.get(kind.__module__)
    return (
        kind.__module__ != "__main__"
        and getattr(module, kind.__name__, None) is kind
        and kind.__members__.get(member._name_) is member  # no combination of flags is
    )


def names_of(member: Enum) -> tuple[str, str, str]:
    """Return by what an enum member is found: the module, the class and the name."""
    kind = type(member)
    return kind.__module__, kind.__name__, member._name_
