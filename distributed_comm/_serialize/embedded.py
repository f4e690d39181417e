"""Objects that frame 0 refers to: their headers, their frames, and the gate before them.

Every number of the peer's is compared with what there is before it is used. What a foreign
peer got wrong is a ValueError here, and a MessageError for the reader.
"""

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from msgpack import Timestamp, unpackb
from msgspec.msgpack import Encoder, Ext

from .._frames import Buffer, Frames
from .._text import brief
from ..errors import MessageError, UnserializableError
from . import pickles
from .compression import TooLongError
from .dask_frames import decompress_all, join_shards
from .families import Family, get_family
from .gate import Gate
from .offload import Lengthy
from .settings import LoadOptions
from .tags import SERIALIZED, SET, TAG_TYPE
from .types.buffers import joined
from .wrappers import Pickled, Serialized

__all__ = ["Opener", "show", "too_large"]

Header = dict[str, Any]

#: What may be decompressed where a message may be of any size: more than there is memory.
NO_CAP = 1 << 62
#: Steps that a stranger's object takes, whatever is in it.
OBJECT = 7_500
COLLECTIONS = {"list": list, "tuple": tuple, "set": set}


def too_large(index: int, frame: Buffer, options: LoadOptions) -> MessageError:
    """Return the error for frame 0, or a header, that takes an untrusted peer past its limit."""
    return MessageError(
        f"frame {index} has {len(frame)} bytes; of an untrusted peer's message at most "
        f"{options.max_header} are decoded"
    )


def _stand_in(obj: Any) -> Any:
    """Return what has the weight of an object that msgpack has no type for."""
    if isinstance(obj, Timestamp):
        return Ext(-1, obj.to_bytes())
    return [TAG, SERIALIZED, bytes(256)]


TAG = Ext(TAG_TYPE, b"")
#: Packs once more what is looked through only when it is decoded; msgpack takes 256 KiB for that.
encode = Encoder(enc_hook=_stand_in).encode


class Opener:
    """Opens the objects of one message; they refer to their frames in order."""

    __slots__ = ("allowance", "count", "frames", "gate", "made", "next", "opened", "options")

    def __init__(
        self,
        frames: Frames,
        options: LoadOptions,
        gate: Gate,
        opened: list[Any] | None = None,
    ) -> None:
        self.opened = [] if opened is None else opened  # each object once: see `Lengthy`
        self.count = 0
        self.frames = frames
        self.options = options
        self.gate = gate
        self.next = 1  # the first frame that belongs to no object yet
        self.allowance = options.max_header - len(frames[0])
        self.made = 0  # bytes that objects have, which came compressed

    def take(self, index: Any) -> tuple[Header, Frames]:
        """Return the header in frame ``index`` and the frames that belong to it.

        No two objects refer to the same: otherwise a small frame 0 could have one large
        header decoded a million times.
        """
        frames, options = self.frames, self.options
        if type(index) is not int or not self.next <= index < len(frames):
            raise ValueError(
                f"a header in frame {show(index)}, expected one of {self.next} to {len(frames) - 1}"
            )
        frame = frames[index]
        if not options.trusted:
            self.allowance -= len(frame)
            if self.allowance < 0:
                raise too_large(index, frame, options)
            self.gate.scan(frame)
        header = unpackb(frame, use_list=False, strict_map_key=False)
        if type(header) is not dict:
            raise ValueError(f"the header in frame {index} is a {show(header)}, expected a map")
        count = header.get("num-sub-frames")
        if type(count) is not int or not 0 <= count < len(frames) - index:
            raise ValueError(
                f"{show(count)} frames after the header in frame {index}, of {len(frames)}"
            )
        self.next = index + 1 + count
        return header, frames[index + 1 : self.next]

    def check_hashes(self, keys: Iterable[Any]) -> None:
        """Ask whether what is decoded already may become the keys of a dict, or a set."""
        if not self.options.trusted:
            # by its name an enum's member is hashed, and not by its value
            plain = [key.name if isinstance(key, Enum) else key for key in keys]
            self.gate.scan(encode([TAG, SET, *plain]))

    # -- pickles of the message --------------------------------------------------------

    def pickled(self, index: Any) -> Any:
        """Open the pickle whose header is frame ``index``, or hand it on."""
        if self.options.deserialize:
            self._permit_pickles()
        header, frames = self.take(index)
        return self.open_pickled(header, frames)

    def open_pickled(self, header: Header, frames: Frames) -> Any:
        if not self.options.deserialize:
            return Pickled(header, frames)
        self._permit_pickles()
        if header.get("compression"):
            frames = self._decompress(header, frames)
        data = header.get("pickled-obj")
        if not isinstance(data, bytes):
            raise ValueError(f"a pickle that is a {show(data)}, expected bytes")
        self._check_length([data, *frames])
        return self._once(pickles.loads, data, frames, self.options.trusted)

    def _permit_pickles(self) -> None:
        """Ask whether a pickle may be opened before anything is done for it."""
        self._permit("pickle")
        pickles.check_trust(self.options.trusted, "the message holds a pickle")

    def _permit(self, family: Any) -> None:
        allowed = self.options.deserializers
        if allowed is not None and family not in allowed and family != "error":
            raise UnserializableError(
                f"the message holds an object of the family {brief(family)}, expected one of "
                f"{allowed}"
            )

    # -- objects of the families -------------------------------------------------------

    def serialized(self, index: Any) -> Any:
        """Open the object whose header is frame ``index``, or hand it on."""
        return self.open_serialized(*self.take(index))

    def open_serialized(self, header: Header, frames: Frames) -> Any:
        if not self.options.deserialize:
            return Serialized(header, frames)
        if header.get("serializer") == "pickle":
            self._permit_pickles()
        if header.get("compression"):
            self._admit(header, self.options.max_depth)
            frames = self._decompress(header, frames)
        if "split-num-sub-frames" in header:
            self._check_length(frames)
            frames = join_shards(header, frames, self.gate)
        return self._open(header, frames, range(len(frames)), self.options.max_depth)

    def _admit(self, header: Header, depth: int) -> None:
        """Ask of an object and its items, by their headers, what `_open` will ask again.

        What would be refused is not decompressed.
        """
        if "is-collection" not in header:
            self._family(header)
            return
        sub_headers = header.get("sub-headers")
        if type(sub_headers) is not tuple or not depth:
            raise ValueError("a collection that is malformed or nested too deep")
        for sub_header in sub_headers:
            self._admit(sub_header, depth - 1)

    def _family(self, header: Header) -> Family:
        """Return the family of an object, if it may be opened."""
        options, name = self.options, header.get("serializer")
        self._permit(name)
        family = get_family(name)  # type: ignore[arg-type] # which looks at the type, too
        if not options.trusted and not family.safe(header, options):
            pickles.check_trust(options.trusted, _what(name))
        return family

    def _open(self, header: Header, frames: Frames, part: range, depth: int) -> Any:
        """Open what a part of the frames belongs to."""
        if "is-collection" in header:
            return self._open_collection(header, frames, part, depth)
        family, name = self._family(header), header["serializer"]
        frames = frames[part.start : part.stop]
        if name != "dask":  # whose types say themselves what takes long
            self._check_length(frames)
        if name == "msgpack":
            frames = [frames[0] if len(frames) == 1 else joined(frames, self.gate)]
            self.gate.scan(frames[0])
        return self._once(family.loads, header, frames, self.options, self.gate)

    def _open_collection(self, header: Header, frames: Frames, part: range, depth: int) -> Any:
        """Open what Dask has serialized item by item."""
        headers, lengths = header.get("sub-headers"), header.get("frame-lengths")
        if type(headers) is not tuple or type(lengths) is not tuple or not depth:
            raise ValueError("a collection that is malformed or nested too deep")
        items = []
        start = part.start
        for sub_header, length in zip(headers, lengths, strict=True):
            stop = start + length
            if length < 0 or stop > part.stop:
                raise ValueError(f"a collection of more frames than its {len(part)}")
            items.append(self._open(sub_header, frames, range(start, stop), depth - 1))
            start = stop
        kind = header.get("type-serialized")
        if kind == "dict":
            keys = [sub["key"] for sub in headers]
            self.check_hashes(keys)
            return dict(zip(keys, items, strict=True))
        if kind not in COLLECTIONS:
            raise ValueError(f"a collection of the type {brief(kind)}")
        if kind == "set":
            self.check_hashes(items)
        return COLLECTIONS[kind](items)

    # -- both --------------------------------------------------------------------------

    def _once(self, loads: Callable[..., Any], *arguments: Any) -> Any:
        """Open the next object, unless it has been opened when that was tried before."""
        count = self.count
        self.count = count + 1
        if count < len(self.opened):
            return self.opened[count]
        try:
            self.gate.work(OBJECT, "an object")
            obj = loads(*arguments)
        except Lengthy:
            raise Lengthy(self.opened) from None
        self.opened.append(obj)
        return obj

    def _decompress(self, header: Header, frames: Frames) -> Frames:
        """Undo compression; Lengthy, before it is done, where that would make ``most`` bytes."""
        self._check_length(frames)
        options = self.options
        cap = NO_CAP if options.max_message is None else options.max_message
        most = cap if options.most is None else min(cap, options.most)
        try:
            content = decompress_all(header, frames, most - self.made, self.gate)
        except TooLongError as exc:
            if most < cap:
                raise Lengthy(self.opened) from None
            raise ValueError(
                f"{exc}; a message may become {cap} bytes (Limits.message, and of an untrusted "
                f"peer no more than Limits.untrusted_memory)"
            ) from exc
        except Lengthy:
            raise Lengthy(self.opened) from None
        if content is not frames:  # else nothing was compressed
            self.made += sum(memoryview(frame).nbytes for frame in content)
        return content

    def _check_length(self, frames: Frames) -> None:
        most = self.options.most
        if most is not None and sum(map(len, frames)) > most:
            raise Lengthy(self.opened)


def _what(family: Any) -> str:
    if family == "pickle":
        return "the message holds a pickle"
    return f"the message holds an object of the family {brief(family)} that may run code"


def show(value: Any) -> str:
    """Return a number, or else only the type, of what may be a large or nested value."""
    return str(value) if type(value) is int else type(value).__name__
