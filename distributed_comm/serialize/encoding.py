"""Objects to frames, in the bytes of Dask's protocol.

Frame 0 is the message as msgpack. What msgpack cannot encode becomes a marked map there:
a set and an enum member in place, any other object as a pickle in frames of its own.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from msgpack import Packer, packb, unpackb

from .._kernels import frame0 as kernel
from ..errors import UnserializableError, UntrustedError
from ..frames import Frames
from . import pickles
from .markers import ENUM, MARKERS, PICKLED, SERIALIZED, SET, Pickled, Unopened

__all__ = ["DumpOptions", "dumps"]

#: An encoder is not kept whose buffer has grown past this.
KEEP = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions:
    """How a message is encoded.

    ``serializers`` names the families that may be used, None all of them. With
    ``on_error="message"`` the reader gets the error of an object that none of them takes.
    ``max_frames`` is what the reader is expected to take.
    """

    trusted: bool = False
    pickle_protocol: int = 5
    serializers: tuple[str, ...] | None = None
    max_frames: int = 65_536
    on_error: str = "raise"


DUMP_DEFAULTS = DumpOptions()


class _Encoder:
    """A reused Packer, which takes half the time of `msgpack.packb`, and its hook."""

    __slots__ = ("frames", "markers", "options", "pack")

    def __init__(self) -> None:
        self.pack: Callable[[Any], bytes] = Packer(default=self.default).pack
        self.frames: Frames = []
        self.markers = 0  # that we have put into frame 0
        self.options = DUMP_DEFAULTS

    def default(self, obj: Any) -> Any:
        """Return what stands in frame 0 for an object that msgpack cannot encode."""
        self.markers += 1
        if isinstance(obj, set):
            return {SET: True, "as-list": list(obj)}
        if isinstance(obj, Enum) and _has_a_name(obj):
            kind = type(obj)
            return {
                ENUM: True,
                "name": obj._name_,
                "__module__": kind.__module__,
                "__name__": kind.__name__,
            }
        if isinstance(obj, Unopened):
            marker = PICKLED if isinstance(obj, Pickled) else SERIALIZED
            return {marker: self._append(obj.header, obj.frames)}
        return self._pickle(obj)

    def _pickle(self, obj: Any) -> dict[str, int]:
        options = self.options
        try:
            if options.serializers is not None and "pickle" not in options.serializers:
                raise UnserializableError(
                    f"none of {options.serializers} takes {pickles.describe(obj)}"
                )
            data, buffers = pickles.dumps(obj, options.trusted, options.pickle_protocol)
        except (UnserializableError, UntrustedError) as exc:
            if options.on_error == "raise":
                raise
            text = str(exc).encode(errors="backslashreplace")
            return {SERIALIZED: self._append({"serializer": "error"}, [text])}
        header = {"pickled-obj": data, "compression": (None,) * len(buffers)}
        return {PICKLED: self._append(header, list(buffers))}

    def _append(self, header: dict[str, Any], frames: Frames) -> int:
        """Add a header's frame and what belongs to it; return its index."""
        index = len(self.frames) + 1
        self.frames.append(packb({**header, "num-sub-frames": len(frames)}))
        self.frames += frames
        return index

    def finish(self, frame: bytes) -> Frames:
        """Check the markers in frame 0 and return the frames after it; start afresh."""
        if sum(frame.count(marker.encode()) for marker in MARKERS) != self.markers:
            _check_keys(frame, self.markers)
        frames, self.frames, self.markers = self.frames, [], 0
        return frames

    def discard(self) -> None:
        """Free the Packer and its buffer now: they and the hook refer to each other."""
        del self.pack


def _has_a_name(member: Enum) -> bool:
    """Whether a peer finds an enum member as Dask looks: in a class at the top of a module."""
    kind = type(member)
    module = sys.modules.get(kind.__module__)
    return (
        kind.__module__ != "__main__"
        and getattr(module, kind.__name__, None) is kind
        and kind.__members__.get(member._name_) is member  # no combination of flags is
    )


def _check_keys(frame: bytes, ours: int) -> None:
    """Refuse a map of the user's with a marker for a key: it would arrive as something else.

    The names also occur as text, which is harmless, so the maps themselves are counted.
    """
    keys: list[str] = []

    def note(obj: dict[Any, Any]) -> None:
        keys.extend(marker for marker in MARKERS if marker in obj)

    unpackb(frame, object_hook=note, use_list=False, strict_map_key=False)
    if len(keys) != ours:
        names = " or ".join(map(repr, sorted(set(keys))))
        raise ValueError(f"a dict with the key {names}, which the format reserves")


#: Encoders that nobody uses right now; taking one out and putting it back are atomic, so a
#: message that is encoded meanwhile, in a thread or in a __reduce__, gets another.
_idle: list[_Encoder] = []


def dumps(msg: Any, options: DumpOptions = DUMP_DEFAULTS) -> Frames:
    """Return the frames of a message; large buffers are views of the objects' memory.

    As msgpack and Dask do, an instance of a subclass goes as its base: a namedtuple as a
    tuple, an IntEnum or numpy.float64 as a number, an OrderedDict as a dict; so do bytearray
    and memoryview, as bytes. Sets and the members of importable enums arrive as what they
    are, everything else goes as a pickle, integers beyond 64 bits too.

    Raises UntrustedError for what only goes as a pickle, unless ``options.trusted``;
    UnserializableError for what cannot be pickled; ValueError for what the format cannot
    hold: more levels than msgpack takes (1,024, or 511 before its version 1.2), 4 GiB in one
    bytes or str, a lone surrogate, a memoryview with gaps, a dict with one of the `MARKERS`
    for a key; and for more than ``options.max_frames`` frames.
    """
    try:
        encoder = _idle.pop()
    except IndexError:
        encoder = _Encoder()
    encoder.options = options
    try:
        frame = encoder.pack(msg)
        frames: Frames = [frame]
        if kernel.marked(frame):
            frames += encoder.finish(frame)
            if len(frames) > options.max_frames:
                raise ValueError(
                    f"{len(frames)} frames, one for each pickle and buffer, exceed the limit "
                    f"of {options.max_frames}"
                )
    except BaseException as exc:
        encoder.discard()
        if isinstance(exc, ValueError | BufferError | OverflowError | RecursionError):
            raise ValueError(f"the message cannot be encoded: {exc}") from exc
        raise
    if len(frame) <= KEEP:
        _idle.append(encoder)
    else:
        encoder.discard()
    return frames
