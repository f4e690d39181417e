"""Frames to objects; on an untrusted comm nothing in them runs code.

Markers are looked for only where the bytes of one occur, because msgpack's hook costs a
Python call per map. Every number of the peer's is compared with what there is before it
is used, and what a foreign peer got wrong is a MessageError, whatever raised it.
"""

import sys
from dataclasses import dataclass
from enum import EnumMeta
from importlib import import_module
from types import ModuleType
from typing import Any

from msgpack import unpackb

from .._kernels import framing as kernel
from ..errors import MessageError, UnserializableError, UntrustedError
from ..frames import Buffer, Frames
from . import pickles
from .markers import ENUM, PICKLED, SERIALIZED, SET, Pickled, Serialized

__all__ = ["LoadOptions", "loads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a message is decoded.

    Unless ``trusted``, frame 0 and the headers have together at most ``max_header`` bytes
    and each ``max_depth`` levels, and a pickle raises UntrustedError. With
    ``deserialize=False`` pickles arrive as `Pickled`, other objects as `Serialized`.
    """

    trusted: bool = False
    deserialize: bool = True
    deserializers: tuple[str, ...] | None = None
    max_header: int = 16 * 1024 * 1024
    max_depth: int = 512


LOAD_DEFAULTS = LoadOptions()


def loads(frames: Frames, options: LoadOptions = LOAD_DEFAULTS) -> Any:
    """Return the message; lists arrive as tuples.

    Raises MessageError for what is no message, UntrustedError for a pickle, and
    UnserializableError where the peer reports one.
    """
    frame = frames[0]
    try:
        if not options.trusted:
            if len(frame) > options.max_header:
                raise _too_large("frame 0", len(frame), options)
            kernel.scan(frame, options.max_depth)
        if kernel.marked(frame):
            hook = _Decoder(frames, options).hook
            return unpackb(frame, object_hook=hook, use_list=False, strict_map_key=False)
        return unpackb(frame, use_list=False, strict_map_key=False)
    except (MessageError, UnserializableError, UntrustedError):
        raise
    except Exception as exc:  # msgpack's own, ValueError, TypeError for an unhashable key
        raise MessageError(f"the message cannot be decoded: {str(exc) or repr(exc)}") from exc


def _too_large(what: str, nbytes: int, options: LoadOptions) -> MessageError:
    return MessageError(
        f"{what} has {nbytes} bytes; of an untrusted peer's message at most "
        f"{options.max_header} are decoded"
    )


class _Decoder:
    """The hook that msgpack calls for every map, where a marker may be among them."""

    __slots__ = ("allowance", "frames", "next", "options")

    def __init__(self, frames: Frames, options: LoadOptions) -> None:
        self.frames = frames
        self.options = options
        self.next = 1  # the first frame that belongs to no object yet
        self.allowance = options.max_header - len(frames[0])

    def hook(self, obj: dict[Any, Any]) -> Any:
        if SET in obj:
            return _set(obj)
        if ENUM in obj:
            return _enum(obj, self.options.trusted)
        if PICKLED in obj:
            return self._pickled(obj[PICKLED])
        if SERIALIZED in obj:
            return self._serialized(obj[SERIALIZED])
        return obj

    def _pickled(self, index: Any) -> Any:
        """Open the pickle whose header is frame ``index``, or hand it on."""
        if not self.options.deserialize:
            return Pickled(*self._take(index))
        self._permit_pickles()
        header, frames = self._take(index)
        _check_compression(header)
        return pickles.loads(header.get("pickled-obj"), frames, self.options.trusted)

    def _serialized(self, index: Any) -> Any:
        """Open what a peer wrapped in Dask's Serialize, or could not serialize."""
        header, frames = self._take(index)
        if not self.options.deserialize:
            return Serialized(header, frames)
        family = header.get("serializer")
        if family == "pickle":
            self._permit_pickles()
            _check_compression(header)
            data, *buffers = _join_shards(header, frames)
            buffers = _set_writeable(header, buffers)
            return pickles.loads(data, buffers, self.options.trusted)
        if family == "error":
            _check_compression(header)
            lines = [bytes(frame).decode(errors="replace") for frame in frames]
            raise UnserializableError("\n".join(lines))
        if family == "dask" and header.get("type") == "bytes":  # as in its errors
            _check_compression(header)
            return b"".join(frames)
        if "is-collection" in header:
            raise MessageError("the message holds a collection that was serialized item by item")
        raise MessageError(f"the message holds an object of the family {family!r:.40}")

    def _permit_pickles(self) -> None:
        """Ask whether a pickle may be opened before anything is done for it."""
        allowed = self.options.deserializers
        if allowed is not None and "pickle" not in allowed:
            raise MessageError(f"the message holds a pickle, expected one of {allowed}")
        pickles.check_trust(self.options.trusted, "the message holds a pickle")

    def _take(self, index: Any) -> tuple[dict[str, Any], Frames]:
        """Return the header in frame ``index`` and the frames that belong to it.

        Objects refer to their frames in order, and no two to the same: otherwise a small
        frame 0 could have one large header decoded a million times.
        """
        frames, options = self.frames, self.options
        if type(index) is not int or not self.next <= index < len(frames):
            raise MessageError(
                f"a header in frame {_show(index)}, expected one of {self.next} to "
                f"{len(frames) - 1}"
            )
        frame = frames[index]
        if not options.trusted:
            self.allowance -= len(frame)
            if self.allowance < 0:
                raise _too_large(f"the header in frame {index}", len(frame), options)
            kernel.scan(frame, options.max_depth)
        header = unpackb(frame, use_list=False, strict_map_key=False)
        if type(header) is not dict:
            raise MessageError(f"the header in frame {index} is a {_show(header)}, expected a map")
        count = header.get("num-sub-frames")
        if type(count) is not int or not 0 <= count < len(frames) - index:
            raise MessageError(
                f"{_show(count)} frames after the header in frame {index}, of {len(frames)}"
            )
        self.next = index + 1 + count
        return header, frames[index + 1 : self.next]


def _show(value: Any) -> str:
    """Return a number, or else only the type, of what may be a large or nested value."""
    return str(value) if type(value) is int else type(value).__name__


def _set(obj: dict[Any, Any]) -> set[Any]:
    items = obj.get("as-list")
    if type(items) is not tuple:
        raise MessageError(f"a set as a {_show(items)}, expected an array")
    return set(items)


def _enum(obj: dict[Any, Any], trusted: bool) -> Any:
    """Find an enum member; only a trusted peer may have a module imported for it."""
    names = module, kind, name = obj.get("__module__"), obj.get("__name__"), obj.get("name")
    if not all(type(part) is str for part in names):
        raise MessageError("an enum member whose names are no strings")
    if trusted:
        found = getattr(import_module(str(module)), str(kind), None)
    else:
        found = _find_quietly(str(module), str(kind))
    if issubclass(type(found), EnumMeta):
        member = type.__getattribute__(found, "_member_map_").get(name)
        if member is not None:
            return member
    raise MessageError(f"no enum member {module}.{kind}.{name} is known here")


def _find_quietly(module: str, name: str) -> Any:
    """Return what a loaded module has by a name, None without one, and run no code.

    Looking up an attribute in the usual way does, in a module that loads lazily or has a
    ``__getattr__``; so does isinstance() with a proxy.
    """
    home = sys.modules.get(module)
    if not issubclass(type(home), ModuleType):
        return None
    return object.__getattribute__(home, "__dict__").get(name)


def _check_compression(header: dict[str, Any]) -> None:
    compression = header.get("compression")
    if compression and (type(compression) is not tuple or any(compression)):
        raise MessageError("the message is compressed, which was not agreed on")


def _join_shards(header: dict[str, Any], frames: Frames) -> Frames:
    """Undo Dask's cutting of large frames, which copies what was cut."""
    if "split-num-sub-frames" not in header:
        return frames
    joined: Frames = []
    for count, offset in zip(header["split-num-sub-frames"], header["split-offsets"], strict=True):
        shards = frames[offset : offset + count]
        if offset < 0 or len(shards) != count:
            raise MessageError(f"shards {offset} to {offset + count}, of {len(frames)} frames")
        joined.append(shards[0] if count == 1 else bytearray().join(shards))
    return joined


def _set_writeable(header: dict[str, Any], buffers: Frames) -> Frames:
    """Return buffers that can be written to exactly where the sender's could."""
    if "writeable" not in header:
        return buffers
    return [
        _set_one_writeable(buffer, writeable)
        for buffer, writeable in zip(buffers, header["writeable"], strict=True)
    ]


def _set_one_writeable(buffer: Buffer, writeable: bool) -> Buffer:
    view = memoryview(buffer)
    if writeable and view.readonly:
        return bytearray(view)
    return view if writeable else view.toreadonly()
