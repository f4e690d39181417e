"""The maps in frame 0 that stand for what msgpack has no type for, and what they refer to.

A marker is a key that no other map may have. ``__Set__`` and ``__Enum__`` hold their
object in place; ``__Pickled__`` and ``__Serialized__`` hold the index of a *header*, the
frame that says how the frames after it are to be read. The names are Dask's.
"""

from typing import Any

from ..frames import Frames

__all__ = ["ENUM", "MARKERS", "PICKLED", "SERIALIZED", "SET", "Pickled", "Serialized", "Unopened"]

SERIALIZED, PICKLED, SET, ENUM = "__Serialized__", "__Pickled__", "__Set__", "__Enum__"
MARKERS = (SERIALIZED, PICKLED, SET, ENUM)


class Unopened:
    """A header and its frames as they came, which a write sends on as they are."""

    __slots__ = ("frames", "header")

    def __init__(self, header: dict[str, Any], frames: Frames) -> None:
        self.header = header
        self.frames = frames

    def __repr__(self) -> str:
        family = self.header.get("serializer", "")
        nbytes = sum(len(frame) for frame in self.frames)
        return f"<{type(self).__name__} {family} {len(self.frames)} frames of {nbytes} bytes>"


class Pickled(Unopened):
    """An unopened pickle; the frames are its out-of-band buffers."""

    __slots__ = ()


class Serialized(Unopened):
    """An unopened object of whatever family its header names."""

    __slots__ = ()
