"""Objects to frames: for a Dask peer in the bytes of its protocol, for ours every type as it is.

Frame 0 is the message as msgpack. For what msgpack has no type for, its hook puts something
else there, which either holds the object or refers to frames of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Any

from msgpack import Packer, packb, unpackb

from .._frames import Frames
from .._kernels import frame0 as kernel
from ..errors import UnserializableError
from . import tags
from .families import USUAL
from .offload import Lengthy
from .plain_types import PLAIN, as_base, has_a_name, names_of
from .settings import DumpOptions
from .tags import TAG
from .wrap import may_pickle, report, wrap, wrap_registered
from .wrappers import ENUM, MARKERS, PICKLED, SERIALIZED, SET, Pickled, Unopened

__all__ = ["dumps", "plain_length"]

#: An encoder is not kept whose buffer has grown past this.
KEEP = 1024 * 1024
#: An object that is shorter than this stands in frame 0, for frames cost more than a copy.
SHORT = 4 * 1024

#: What is known of a short pickle that stands there.
IN_PLACE = {"pickled-obj", "num-sub-frames"}

PICKLES_FIRST = ("pickle", "dask")
DUMP_DEFAULTS = DumpOptions()
KINDS: dict[Any, int] = {tuple: tags.TUPLE, set: tags.SET, frozenset: tags.FROZENSET}


class _Encoder(ABC):
    """A reused Packer, which takes half the time of `msgpack.packb`, and its hook."""

    __slots__ = ("calls", "frames", "options", "pack")

    def __init__(self, packer: Callable[..., Packer]) -> None:
        self.pack: Callable[[Any], bytes] = packer(default=self.default).pack
        self.frames: Frames = []  # that objects of this message have
        self.calls = 0  # of the hook
        self.options = DUMP_DEFAULTS

    @abstractmethod
    def default(self, obj: Any) -> Any:
        """Return what stands in frame 0 for an object that msgpack cannot encode."""

    def finish(self, frame: bytes) -> Frames:
        """Return frame 0 and the frames of objects behind it; start afresh."""
        frames = [frame, *self.frames]
        self.frames, self.calls = [], 0
        limit = self.options.max_frames
        if limit is not None and len(frames) > limit:
            raise ValueError(
                f"{len(frames)} frames, one for each long pickle and buffer, exceed the limit "
                f"of {limit}"
            )
        return frames

    @abstractmethod
    def refer(self, unopened: Unopened) -> Any:
        """Return what stands in frame 0 for an object that has a header and frames."""

    def place(self, unopened: Unopened) -> Any:
        """Do so, or for the error where the header is nothing that msgpack can encode."""
        try:
            return self.refer(unopened)
        except UnserializableError as exc:
            if self.options.on_error == "raise":
                raise
            return self.refer(report(exc))

    def append(self, unopened: Unopened) -> int:
        """Add a header's frame and what belongs to it; return its index."""
        index = len(self.frames) + 1
        header = {**unopened.header, "num-sub-frames": len(unopened.frames)}
        self.frames.append(pack_header(header, header))
        self.frames += unopened.frames
        return index

    def discard(self) -> None:
        """Free the Packer and its buffer now: they and the hook refer to each other."""
        del self.pack


class _ForDask(_Encoder):
    """Frame 0 with marked maps, as Dask reads it."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Packer)

    def finish(self, frame: bytes) -> Frames:
        if not kernel.marked(frame):
            return [frame]
        if sum(frame.count(marker.encode()) for marker in MARKERS) != self.calls:
            _check_keys(frame, self.calls)
        return super().finish(frame)

    def default(self, obj: Any) -> Any:
        self.calls += 1
        if isinstance(obj, set):
            return {SET: True, "as-list": list(obj)}
        if isinstance(obj, Enum) and has_a_name(obj):
            module, kind, name = names_of(obj)
            return {ENUM: True, "name": name, "__module__": module, "__name__": kind}
        # a trusted Dask opens a pickle of the message's where it leaves the rest closed
        return self.place(wrap(obj, self.options, PICKLES_FIRST if self.options.trusted else USUAL))

    def refer(self, unopened: Unopened) -> Any:
        marker = PICKLED if isinstance(unopened, Pickled) else SERIALIZED
        return {marker: self.append(unopened)}


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


class _Typed(_Encoder):
    """Frame 0 with our tags: whatever is not exactly of a plain type comes to the hook."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(partial(Packer, strict_types=True))

    def default(self, obj: Any) -> Any:
        self.calls += 1
        cls = type(obj)
        kind = KINDS.get(cls)
        if kind is not None:
            return [TAG, kind, *obj]
        if cls is int:
            nbytes = obj.bit_length() // 8 + 1
            return [TAG, tags.INTEGER, obj.to_bytes(nbytes, "little", signed=True)]
        if isinstance(obj, Enum) and has_a_name(obj):
            return [TAG, tags.ENUM, *names_of(obj)]
        if not isinstance(obj, PLAIN) or may_pickle(self.options):
            return self.place(wrap(obj, self.options, USUAL))
        unopened = wrap_registered(obj, self.options)
        return self._base(as_base(obj)) if unopened is None else self.place(unopened)

    def _base(self, base: Any) -> Any:
        """Return what stands for a base, of which msgpack does not ask again."""
        beyond = type(base) is int and not -(2**63) <= base < 2**64
        return self.default(base) if beyond or type(base) is tuple else base

    def refer(self, unopened: Unopened) -> Any:
        """Return the array that holds a short object, or refers to the frames of a long one."""
        header, frames = unopened.header, unopened.frames
        if isinstance(unopened, Pickled):
            data = header.get("pickled-obj")
            short = type(data) is bytes and len(data) < SHORT and not frames
            if short and header.keys() <= IN_PLACE:  # else all of it is passed on
                return [TAG, tags.PICKLE, data]
            return [TAG, tags.PICKLED, self.append(unopened)]
        if sum(memoryview(frame).nbytes for frame in frames) < SHORT:
            return [TAG, tags.OBJECT, pack_header([header, *frames], header)]
        return [TAG, tags.SERIALIZED, self.append(unopened)]


def pack_header(obj: Any, header: dict[str, Any]) -> bytes:
    """Pack a header, or what begins with it; UnserializableError names whose it is."""
    try:
        packed: bytes = packb(obj)
    except (TypeError, ValueError, OverflowError) as exc:
        of = header.get("type", header.get("serializer"))
        raise UnserializableError(f"the header of an object of the type {of}: {exc}") from exc
    return packed


#: Encoders that nobody uses right now; taking one out and putting it back are atomic, so a
#: message that is encoded meanwhile, in a thread or in a __reduce__, gets another.
_idle: list[_ForDask] = []
_idle_typed: list[_Typed] = []


def dumps(msg: Any, options: DumpOptions = DUMP_DEFAULTS) -> Frames:
    """Return the frames of a message; large buffers are views of the objects' memory.

    To a peer of ours (``options.typed``) everything goes as the type that it is, but that an
    instance of a subclass of a plain type goes as its base where no pickle may be sent. To a
    Dask peer it always does, as with msgpack and Dask: a namedtuple as a tuple, an IntEnum or
    numpy.float64 as a number. bytearray and memoryview go as bytes.

    Raises UntrustedError for what only goes as a pickle, unless ``options.trusted``;
    UnserializableError for what no family takes; ValueError for what the format cannot
    hold: more levels than msgpack takes (1,024, or 511 before its version 1.2), 4 GiB in one
    bytes or str, a lone surrogate, a memoryview with gaps, to a Dask peer a dict with one of
    the `MARKERS` for a key; and for more than ``options.max_frames`` frames. Lengthy is no
    error: what takes so long is to be done again, in a thread and without ``options.most``.
    """
    typed = options.typed
    idle: list[Any] = _idle_typed if typed else _idle
    try:
        encoder = idle.pop()
    except IndexError:
        encoder = _Typed() if typed else _ForDask()
    encoder.options = options
    try:
        frame = encoder.pack(msg)
        frames = [frame] if typed and not encoder.calls else encoder.finish(frame)
    except BaseException as exc:
        encoder.discard()
        if isinstance(exc, ValueError | BufferError | OverflowError | RecursionError):
            raise ValueError(f"the message cannot be encoded: {exc}") from exc
        if isinstance(exc, OSError):  # from the object's own methods; it must not end the comm
            raise UnserializableError(f"the message cannot be encoded: {exc!r}") from exc
        raise
    if len(frame) <= KEEP:
        idle.append(encoder)
    else:
        encoder.discard()
    return frames


def plain_length(msg: Any, options: DumpOptions, lengthy: Lengthy) -> int:
    """Return about how many bytes a message takes, of which `dumps` has said that it is lengthy.

    Most messages are lengthy only because they are compressed; others are as long as it says.
    """
    if options.compression is None:
        return lengthy.nbytes
    try:
        frames = dumps(msg, replace(options, compression=None))
    except Lengthy as exc:
        return exc.nbytes
    return sum(memoryview(frame).nbytes for frame in frames)
