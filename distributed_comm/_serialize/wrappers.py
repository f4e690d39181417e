"""What a user wraps an object in to say how it goes, and what an object is that was not opened.

The names are Dask's, and so are those of the maps that stand for such objects in frame 0 of a
message to a Dask peer: a *marker* is a key that no other map there may have. ``__Set__`` and
``__Enum__`` hold their object in place; ``__Pickled__`` and ``__Serialized__`` hold the index
of a *header*, the frame that says how the frames after it are to be read.
"""

from typing import Any, NoReturn, SupportsIndex

from .._frames import Frames
from ..errors import UnserializableError

__all__ = [
    "ENUM", "MARKERS", "PICKLED", "SERIALIZED", "SET", "Pickled", "Serialize", "Serialized",
    "ToPickle", "Unopened", "Unsendable", "Wrapper", "made", "to_serialize",
]  # fmt: skip

SERIALIZED, PICKLED, SET, ENUM = "__Serialized__", "__Pickled__", "__Set__", "__Enum__"
MARKERS = (SERIALIZED, PICKLED, SET, ENUM)


#: Holds something once this process has a wrapper: until then no message has to be searched.
made: list[bool] = []


class Wrapper:
    """An object that is marked for the way it goes; what arrives is the object."""

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data: Any = data
        if not made:
            made.append(True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.data!r:.60}>"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and bool(self.data == other.data)

    def __hash__(self) -> int:
        return hash((type(self), self.data))


class Serialize(Wrapper):
    """An object that goes through the families, and by itself: frames of its own.

    A peer with ``deserialize=False`` gets it as `Serialized`, and can send it on unopened.
    """

    __slots__ = ()


class ToPickle(Wrapper):
    """An object that goes as a pickle, whatever else could take it."""

    __slots__ = ()


def to_serialize(data: Any) -> Serialize:
    """Mark an object for `Serialize`."""
    return data if isinstance(data, Serialize) else Serialize(data)


class Unopened:
    """A header and its frames as they came, which a write sends on as they are."""

    __slots__ = ("frames", "header")

    def __init__(self, header: dict[str, Any], frames: Frames) -> None:
        self.header: dict[str, Any] = header
        self.frames: Frames = frames
        if not made:
            made.append(True)

    def __repr__(self) -> str:
        family = self.header.get("serializer", "")
        nbytes = sum(memoryview(frame).nbytes for frame in self.frames)
        return f"<{type(self).__name__} {family} {len(self.frames)} frames of {nbytes} bytes>"


class Pickled(Unopened):
    """An unopened pickle; the frames are its out-of-band buffers."""

    __slots__ = ()


class Serialized(Unopened):
    """An unopened object of whatever family its header names."""

    __slots__ = ()


class Unsendable:
    """A signal to this library, which is never part of a message and cannot be pickled."""

    __slots__ = ()

    def refuse(self) -> NoReturn:
        """Raise the error for an attempt to send it."""
        raise UnserializableError(f"{self!r} cannot be sent: it is not data")

    def __reduce_ex__(self, _protocol: SupportsIndex) -> NoReturn:
        self.refuse()
