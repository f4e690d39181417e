"""Frames to objects; on an untrusted comm nothing in them runs code.

Hooks cost a Python call for every map or list, so they are used where something needs them
alone: a Dask peer's frame 0 where the bytes of a marker occur in it, ours where it says so.
What a foreign peer got wrong is a MessageError, whatever raised it.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from enum import EnumMeta
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from msgpack import ExtType, unpackb
from msgspec.msgpack import Decoder

from .._frames import Buffer, Frames
from .._kernels import frame0 as kernel
from .._text import is_clean, printable, tidy
from ..errors import MessageError, UnserializableError, UntrustedError
from . import tags
from .embedded import Opener, show, too_large
from .gate import TRUSTED, Gate, StrangersGate
from .gc_pause import collecting_later
from .offload import Lengthy
from .settings import LoadOptions
from .tags import TAG, TAG_TYPE
from .wrappers import ENUM, PICKLED, SERIALIZED, SET

__all__ = ["loads"]

LOAD_DEFAULTS = LoadOptions()

#: Bytes that a message of strangers takes uncounted while it is decoded, on the event loop.
BRIEF = 64 * 1024
#: Steps that finding the member of an enum takes a stranger, besides its names.
LOOKUP = 1_500
#: Decodes plain msgpack, in less than half of the time that `unpackb` takes.
decode = Decoder(ext_hook=lambda number, data: ExtType(number, bytes(data))).decode
#: Does the same where that would go deeper than Python's stack.
decode_deeply = partial(unpackb, strict_map_key=False)
#: Decodes Dask's frame 0.
decode_dasks = partial(unpackb, use_list=False, strict_map_key=False)


def loads(
    frames: Frames, options: LoadOptions = LOAD_DEFAULTS, opened: list[Any] | None = None
) -> Any:
    """Return the message; unless ``options.typed``, lists arrive as tuples.

    Raises MessageError for what is no message, UntrustedError for what only a trusted peer
    may send, UnserializableError where the peer reports one, and Lengthy; after that it is
    called again, with the objects that had been ``opened`` by then.
    """
    try:
        frame = frames[0]
        if not options.trusted:  # look through it first
            if len(frame) > options.max_header:
                raise too_large(0, frame, options)
            scanned = kernel.scan(frame, options.max_depth, 0, options.max_work, BRIEF)
            if scanned is not None:
                return _loads_counted(frames, options, opened, *scanned)
            if not options.typed:
                return decode_dasks(frame)
        elif not options.typed:
            if kernel.marked(frame):
                return _Marked(frames, options, TRUSTED, opened).message()
            return decode_dasks(frame)
        elif kernel.tagged(frame):
            return _Tagged(frames, options, TRUSTED, opened).message()
        try:  # `decode_any`, without the call
            return decode(frame)
        except RecursionError:
            return decode_deeply(frame)
    except (MessageError, UnserializableError, UntrustedError) as exc:
        tidy(exc, options.trusted)
        raise
    except (KeyboardInterrupt, SystemExit, Lengthy):
        raise
    except BaseException as exc:  # of msgpack, of an unhashable key, or of a family
        text = printable(f"the message cannot be decoded: {str(exc) or repr(exc)}")
        raise MessageError(text) from (exc if options.trusted or is_clean(exc) else None)


def _loads_counted(
    frames: Frames,
    options: LoadOptions,
    opened: list[Any] | None,
    steps: int,
    memory: int,
    found: int,
) -> Any:
    """Do the same with a stranger's message that takes much, or has objects, and count that."""
    frame = frames[0]
    gate = StrangersGate(sum(map(len, frames)), options, steps, memory)
    try:
        # in a thread objects may be opened for longer than collecting can wait
        with collecting_later() if options.most is not None else nullcontext():
            if found & (kernel.SPECIAL if options.typed else kernel.MARKED):
                opener = _Tagged if options.typed else _Marked
                return opener(frames, options, gate, opened).message()
            return decode_any(frame) if options.typed else decode_dasks(frame)
    finally:
        gate.release()


def decode_any(frame: Buffer) -> Any:
    """Decode plain msgpack, however deep."""
    try:
        return decode(frame)
    except RecursionError:
        return decode_deeply(frame)


class _Marked(Opener):
    """Dask's frame 0: the hook that msgpack calls for every map, for a marker may be among them."""

    __slots__ = ()

    def message(self) -> Any:
        frame, hook = self.frames[0], self.hook
        return unpackb(frame, object_hook=hook, use_list=False, strict_map_key=False)

    def hook(self, obj: dict[Any, Any]) -> Any:
        if SET in obj:
            return self._set(obj)
        if ENUM in obj:
            self.gate.keep(LOOKUP, "a member of an enum")
            names = obj.get("__module__"), obj.get("__name__"), obj.get("name")
            return find_member(names, self.options.trusted)
        if PICKLED in obj:
            return self.pickled(obj[PICKLED])
        if SERIALIZED in obj:
            return self.serialized(obj[SERIALIZED])
        return obj

    def _set(self, obj: dict[Any, Any]) -> set[Any]:
        items = obj.get("as-list")
        if type(items) is not tuple:
            raise ValueError(f"a set as a {type(items).__name__}, expected an array")
        self.check_hashes(items)
        return set(items)


class _Tagged(Opener):
    """Our own frame 0: the hooks that msgpack calls for every extension and every list."""

    __slots__ = ("tags",)

    def __init__(
        self,
        frames: Frames,
        options: LoadOptions,
        gate: Gate,
        opened: list[Any] | None = None,
    ) -> None:
        super().__init__(frames, options, gate, opened)
        self.tags = 0  # that have come, and whose array has not

    def message(self) -> Any:
        frame, hook = self.frames[0], self.array
        message = unpackb(frame, ext_hook=self.extension, list_hook=hook, strict_map_key=False)
        if self.tags:
            raise ValueError("a tag that no array begins with")
        return message

    def extension(self, number: int, data: bytes) -> Any:
        if number == TAG_TYPE and not data:
            self.tags += 1
            return TAG
        return ExtType(number, data)  # the user's; ValueError for a type that nobody uses

    def array(self, items: list[Any]) -> Any:
        if not items or items[0] is not TAG:
            return items
        self.tags -= 1
        kind = items[1] if len(items) > 1 else None
        make = MAKE.get(kind)
        if make is not None:
            del items[:2]
            return make(items)
        if kind == tags.ENUM:
            self.gate.keep(LOOKUP, "a member of an enum")
            return find_member(tuple(items[2:]), self.options.trusted)
        if len(items) != 3:
            raise ValueError(f"an array of the kind {show(kind)} with {len(items) - 2} items")
        if kind == tags.PICKLED:
            return self.pickled(items[2])
        if kind == tags.SERIALIZED:
            return self.serialized(items[2])
        return self._in_place(kind, items[2])

    def _in_place(self, kind: Any, data: Any) -> Any:
        if type(data) is not bytes:
            raise ValueError(f"an array of the kind {show(kind)} with a {show(data)}")
        if kind == tags.INTEGER:
            return int.from_bytes(data, "little", signed=True)
        if kind == tags.PICKLE:
            return self.open_pickled({"pickled-obj": data, "num-sub-frames": 0}, [])
        if kind == tags.OBJECT:
            return self._object(data)
        raise ValueError(f"an array of the kind {show(kind)}, which nobody knows")

    def _object(self, data: bytes) -> Any:
        """Open an object that stands in place; its frames are copied, to be written to."""
        self.gate.scan(data)
        items = unpackb(data, use_list=False, strict_map_key=False)
        if type(items) is not tuple or not items or type(items[0]) is not dict:
            raise ValueError("an object in place that is no header with frames")
        frames: list[Buffer] = [bytearray(frame) for frame in items[1:] if type(frame) is bytes]
        if len(frames) != len(items) - 1:
            raise ValueError("an object in place with a frame that is no bytes")
        return self.open_serialized(items[0], frames)


#: What makes of its items what was sent.
MAKE: dict[Any, Callable[[list[Any]], Any]] = {
    tags.TUPLE: tuple, tags.SET: set, tags.FROZENSET: frozenset
}  # fmt: skip


def find_member(names: tuple[Any, ...], trusted: bool) -> Any:
    """Find an enum member by module, class and name; for a trusted peer a module is imported."""
    if len(names) != 3 or not all(type(part) is str for part in names):
        raise ValueError("an enum member whose names are no strings")
    module, kind, name = names
    home = import_module(module) if trusted else None
    found = getattr(home, kind, None) if trusted else _find_quietly(module, kind)
    if issubclass(type(found), EnumMeta):
        member = type.__getattribute__(found, "_member_map_").get(name)
        if member is not None:
            return member
    shown = ".".join(printable(part, 60) for part in names)
    raise ValueError(f"no enum member {shown} is known here")


def _find_quietly(module: str, name: str) -> Any:
    """Return what a loaded module has by a name, None without one, and run no code.

    Looking up an attribute in the usual way does, in a module that loads lazily or has a
    ``__getattr__``; so does isinstance() with a proxy.
    """
    home = sys.modules.get(module)
    if not issubclass(type(home), ModuleType):
        return None
    return object.__getattribute__(home, "__dict__").get(name)
