"""Objects to frames and back, in the bytes of Dask's protocol.

Frame 0 is the message as msgpack. What msgpack cannot encode becomes a map with one of
the `MARKERS` there: a set and an enum member in place, any other object as a pickle in
frames of its own. Decoding looks for markers only where the bytes of one occur, because
msgpack's hook costs a Python call per map.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, EnumMeta
from importlib import import_module
from typing import Any

from msgpack import Packer, packb, unpackb

from .._kernels import framing as kernel
from ..errors import MessageError, UnserializableError, UntrustedError
from ..frames import Buffer, Frames
from . import pickles

__all__ = ["DumpOptions", "LoadOptions", "Pickled", "dumps", "loads"]

SERIALIZED, PICKLED, SET, ENUM = "__Serialized__", "__Pickled__", "__Set__", "__Enum__"
MARKERS = (SERIALIZED, PICKLED, SET, ENUM)

#: An encoder whose buffer has grown past this is not kept.
KEEP = 1024 * 1024
#: Levels of a header, which no user's data is nested in.
MOST_LEVELS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions:
    """How a message is encoded.

    ``serializers`` names the families that may be used, None all of them. With
    ``on_error="message"`` the reader gets the error of an object that none of them takes.
    """

    trusted: bool = False
    pickle_protocol: int = 5
    serializers: tuple[str, ...] | None = None
    on_error: str = "raise"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a message is decoded.

    Unless ``trusted``, frame 0 has at most ``max_header`` bytes and ``max_depth`` levels,
    and a pickle raises UntrustedError. With ``deserialize=False`` pickles arrive as
    `Pickled`.
    """

    trusted: bool = False
    deserialize: bool = True
    deserializers: tuple[str, ...] | None = None
    max_header: int = 16 * 1024 * 1024
    max_depth: int = 512


DUMP_DEFAULTS = DumpOptions()
LOAD_DEFAULTS = LoadOptions()


class Pickled:
    """A pickle that passes through unopened: its header and its frames, as they came."""

    __slots__ = ("frames", "header")

    def __init__(self, header: dict[str, Any], frames: Frames) -> None:
        self.header = header
        self.frames = frames


class _Encoder:
    """A reused Packer, which takes half the time of `msgpack.packb`, and its hook."""

    __slots__ = ("frames", "markers", "options", "pack")

    def __init__(self) -> None:
        self.pack: Callable[[Any], bytes] = Packer(default=self.default).pack
        self.frames: Frames = []
        self.markers = 0  # that stand in frame 0
        self.options = DUMP_DEFAULTS

    def default(self, obj: Any) -> Any:
        """Return what stands in frame 0 for an object that msgpack cannot encode."""
        self.markers += 1
        kind = type(obj)
        if isinstance(obj, set):
            return {SET: True, "as-list": list(obj)}
        if isinstance(obj, Enum) and _can_be_found(obj):
            return {
                ENUM: True,
                "name": obj.name,
                "__module__": kind.__module__,
                "__name__": kind.__qualname__,
            }
        if isinstance(obj, Pickled):
            return {PICKLED: self._append(obj.header, obj.frames)}
        options = self.options
        try:
            if options.serializers is not None and "pickle" not in options.serializers:
                name = f"{kind.__module__}.{kind.__qualname__}"
                raise UnserializableError(f"none of {options.serializers} takes a {name}")
            data, buffers = pickles.dumps(obj, options.trusted, options.pickle_protocol)
        except TypeError as exc:
            if options.on_error == "raise":
                raise
            return {SERIALIZED: self._append({"serializer": "error"}, [str(exc).encode()])}
        header = {"pickled-obj": data, "compression": (None,) * len(buffers)}
        return {PICKLED: self._append(header, list(buffers))}

    def _append(self, header: dict[str, Any], frames: Frames) -> int:
        """Add a header's frame and what belongs to it; return its index."""
        index = len(self.frames) + 1
        self.frames.append(packb({**header, "num-sub-frames": len(frames)}))
        self.frames += frames
        return index


def _can_be_found(member: Enum) -> bool:
    """Whether the peer can find an enum member by names, as Dask does."""
    kind = type(member)
    return (
        isinstance(member.name, str)
        and kind.__module__ != "__main__"
        and "<locals>" not in kind.__qualname__
    )


#: Encoders that nobody uses right now; taking one out and putting it back is atomic.
_idle: list[_Encoder] = []


def dumps(msg: Any, options: DumpOptions = DUMP_DEFAULTS) -> Frames:
    """Return the frames of a message; large buffers are views of the objects' memory.

    Raises UntrustedError for what only goes as a pickle, unless ``options.trusted``;
    TypeError for what cannot be pickled, ValueError for what the format cannot hold.
    """
    encoder = _idle.pop() if _idle else _Encoder()
    encoder.options = options
    try:
        frame = encoder.pack(msg)
    except RecursionError as exc:
        raise ValueError("the message is nested too deeply, or contains itself") from exc
    frames: Frames = [frame]
    if kernel.marked(frame):
        _check_keys(msg, frame, encoder.markers)
        frames += encoder.frames
        encoder.frames = []
        encoder.markers = 0
    if len(frame) <= KEEP:
        _idle.append(encoder)
    return frames


def _check_keys(msg: Any, frame: bytes, markers: int) -> None:
    """Refuse a user's map with a marker for a key, which would arrive as something else."""
    if sum(frame.count(marker.encode()) for marker in MARKERS) == markers:
        return  # all of them are ours
    pending = [msg]
    while pending:
        obj = pending.pop()
        if isinstance(obj, dict):
            for key in MARKERS:
                if key in obj:
                    raise ValueError(f"a dict with the key {key!r}, which the format reserves")
            pending += obj.values()
        elif isinstance(obj, list | tuple):
            pending += obj


def loads(frames: Frames, options: LoadOptions = LOAD_DEFAULTS) -> Any:
    """Return the message; lists arrive as tuples.

    Raises MessageError for what is no message, UntrustedError for a pickle, and
    UnserializableError where the peer reports one.
    """
    frame = frames[0]
    if not options.trusted:
        if len(frame) > options.max_header:
            raise MessageError(
                f"frame 0 has {len(frame)} bytes, and of an untrusted peer's at most "
                f"{options.max_header} are decoded"
            )
        try:
            kernel.scan(frame, options.max_depth)
        except ValueError as exc:
            raise MessageError(f"frame 0 is not decoded: {exc}") from exc
    try:
        if kernel.marked(frame):
            hook = _Decoder(frames, options).hook
            return unpackb(frame, object_hook=hook, use_list=False, strict_map_key=False)
        return unpackb(frame, use_list=False, strict_map_key=False)
    except (MessageError, UnserializableError, UntrustedError):
        raise
    except Exception as exc:  # msgpack's own, ValueError, TypeError for an unhashable key
        raise MessageError(f"frame 0 cannot be decoded: {exc}") from exc


class _Decoder:
    """The hook that msgpack calls for every map, where a marker may be among them."""

    __slots__ = ("frames", "options")

    def __init__(self, frames: Frames, options: LoadOptions) -> None:
        self.frames = frames
        self.options = options

    def hook(self, obj: dict[Any, Any]) -> Any:
        if SET in obj:
            return set(obj["as-list"])
        if ENUM in obj:
            return self._enum(obj)
        if PICKLED in obj:
            return self._pickled(obj[PICKLED])
        if SERIALIZED in obj:
            return self._serialized(obj[SERIALIZED])
        return obj

    def _enum(self, obj: dict[Any, Any]) -> Any:
        """Find an enum member; only a trusted peer may have a module imported for it."""
        module, name = obj["__module__"], obj["__name__"]
        if self.options.trusted:
            found: Any = import_module(module)
        else:
            found = sys.modules.get(module)
        for part in name.split("."):  # no getattr: a module's __getattr__ is code
            found = getattr(found, "__dict__", {}).get(part)
        if not isinstance(found, EnumMeta):
            raise MessageError(f"no enum {module}.{name} is known here")
        return found[obj["name"]]

    def _pickled(self, index: Any) -> Any:
        """Open the pickle whose header is frame ``index``, or wrap it up."""
        header, frames = self._sub_frames(index)
        if not self.options.deserialize:
            return Pickled(header, frames)
        return self._unpickle(header["pickled-obj"], frames)

    def _serialized(self, index: Any) -> Any:
        """Open what a Dask peer wrapped in Serialize, or could not serialize."""
        header, frames = self._sub_frames(index)
        family = header.get("serializer")
        if family == "error":
            raise UnserializableError(bytes(frames[0]).decode())
        if family == "pickle":
            return self._unpickle(frames[0], frames[1:])
        raise MessageError(f"the message holds an object of the family {family!r:.40}")

    def _unpickle(self, data: Buffer, frames: Frames) -> Any:
        allowed = self.options.deserializers
        if allowed is not None and "pickle" not in allowed:
            raise MessageError(f"the message holds a pickle, expected one of {allowed}")
        return pickles.loads(data, frames, self.options.trusted)

    def _sub_frames(self, index: Any) -> tuple[dict[str, Any], Frames]:
        """Return the header in frame ``index`` and the frames that belong to it."""
        if type(index) is not int or not 0 < index < len(self.frames):
            raise MessageError(f"a header in frame {index!r:.40}, of {len(self.frames)} frames")
        if not self.options.trusted:
            kernel.scan(self.frames[index], MOST_LEVELS)
        header = unpackb(self.frames[index])
        count = header.pop("num-sub-frames")
        if type(count) is not int or not 0 <= count < len(self.frames) - index:
            raise MessageError(f"{count!r:.40} frames after frame {index}, of {len(self.frames)}")
        if self.options.deserialize and any(header.get("compression") or ()):
            raise MessageError("the message is compressed, which was not agreed on")
        return header, self.frames[index + 1 : index + 1 + count]
