"""How a message is encoded, and how one is decoded."""

from dataclasses import dataclass
from typing import Any

from .._wire.budget import Budget, Hold
from .offload import MOST

__all__ = ["DumpOptions", "LoadOptions", "check_choice"]


def check_choice(
    serializers: Any = None, on_error: str | None = None, deserializers: Any = None
) -> None:
    """Check what a write or a read was told: families as a list of names, and one of two words.

    A str would be taken for the names that its letters are, a TypeError. ValueError for any
    other ``on_error`` than "raise" and "message".
    """
    for what, names in (("serializers", serializers), ("deserializers", deserializers)):
        if isinstance(names, str | bytes):
            raise TypeError(f"{what}={names!r:.60}, expected a list of names: [{names!r:.60}]")
    if on_error not in {None, "raise", "message"}:
        raise ValueError(f"on_error={on_error!r}, expected 'raise' or 'message'")


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions:
    """How a message is encoded.

    ``typed`` for a peer of this library, which gets every type as it is. ``serializers``
    names the families that may be used, None those of Dask. With ``on_error="message"`` the
    reader gets the error of an object that none of them takes. ``max_frames`` is what the
    reader is expected to take; with None somebody else compares. ``most`` bytes are worked on
    before `Lengthy` is raised.
    """

    trusted: bool = False
    typed: bool = False
    pickle_protocol: int = 5
    compression: str | None = None
    serializers: tuple[str, ...] | None = None
    max_frames: int | None = 65_536
    on_error: str = "raise"
    most: int | None = MOST


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a message is decoded.

    Unless ``trusted``, frame 0 and the headers have together at most ``max_header`` bytes
    and each ``max_depth`` levels, and a pickle raises UntrustedError; a message becomes at most
    ``max_growth`` times its bytes, taken from the ``budget``, and keeps the interpreter for
    ``max_work`` steps of 2 ns. ``max_message`` bounds what is decompressed. With
    ``deserialize=False`` pickles arrive as `Pickled`, other objects as `Serialized`.
    """

    trusted: bool = False
    typed: bool = False
    deserialize: bool = True
    deserializers: tuple[str, ...] | None = None
    max_header: int = 16 * 1024 * 1024
    max_depth: int = 512
    max_growth: int = 96
    max_work: int = 10_000_000
    max_message: int | None = None
    most: int | None = MOST
    budget: Budget | Hold | None = None
