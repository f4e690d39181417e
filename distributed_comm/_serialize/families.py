"""The families that an object may go by, in turn: ``dask``, ``pickle``, ``msgpack``, ``error``.

A family turns an object into a header and frames, and back. ``dask`` is that of the
registered types, whose name Dask gave it on the wire. Whether a family may open what an
untrusted peer sent is for its `safe` to say, by the header, before anything is opened.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from msgpack import packb, unpackb

from .._frames import Buffer, Frames
from .._text import LONG, brief, printable
from ..errors import UnserializableError, UntrustedError
from . import pickles
from . import type_registry as registered
from .dask_frames import set_writeable
from .gate import Gate
from .offload import Lengthy
from .settings import DumpOptions, LoadOptions
from .types.buffers import flat

__all__ = ["USUAL", "Family", "get_family", "register_serialization_family", "serialize"]

Header = dict[str, Any]

#: What an object goes by that was wrapped in Serialize, unless a write names others. The last
#: one is for plain data where no pickle may go.
USUAL = ("dask", "pickle", "msgpack")


@dataclass(frozen=True, slots=True)
class Family:
    """One way for any object; ``dumps`` raises NotImplementedError for what it does not take."""

    dumps: Callable[[Any, DumpOptions], tuple[Header, Frames]]
    loads: Callable[[Header, Frames, LoadOptions, Gate], Any]
    safe: Callable[[Header, LoadOptions], bool]


def serialize(obj: Any, options: DumpOptions, names: Iterable[str]) -> tuple[Header, Frames] | None:
    """Return an object's header, with its ``serializer``, and frames; None if no family takes it.

    Raises UnserializableError, naming the type and keeping the cause, where a family fails;
    UntrustedError where only a pickle would do, and the peer is not trusted; ValueError for a
    family that there is not.
    """
    refused = None
    for name in names:
        family = get_family(name)
        try:
            header, frames = family.dumps(obj, options)
            frames = [*map(_flat, frames)]
        except NotImplementedError:
            continue
        except UntrustedError as exc:  # the next one may take it
            refused = exc
            continue
        except (UnserializableError, Lengthy):
            raise
        except Exception as exc:  # of a function that a user has registered
            raise UnserializableError(
                f"the family {name!r} fails on {pickles.describe(obj)}: {exc}"
            ) from exc
        return {**header, "serializer": name}, frames
    if refused is None:
        return None
    try:
        raise refused
    finally:
        del refused  # its traceback refers to this very frame


def _flat(frame: Any) -> Buffer:
    return frame if type(frame) in (bytes, bytearray) else flat(frame)


def none_takes(obj: Any, names: Iterable[str]) -> UnserializableError:
    """Return the error for an object that is nobody's."""
    return UnserializableError(f"none of {tuple(names)} takes {pickles.describe(obj)}")


# -- registered types --------------------------------------------------------------------


def _dumps_registered(obj: Any, options: DumpOptions) -> tuple[Header, Frames]:
    found = registered.find(type(obj))
    if found is None or not (options.typed or found.known_to_dask):
        raise NotImplementedError
    most = options.most
    if most is not None and getattr(obj, "nbytes", 0) > most and not found.writes_at_once(obj):
        raise Lengthy(nbytes=obj.nbytes)
    header, frames = found.serialize(obj)
    if options.typed:
        return {"type": found.name, "sub-header": header}, frames
    return registered.dask_header(found, header), frames


def _find(header: Header, options: LoadOptions) -> registered.Registered:
    """Find a registered type by its name; for a trusted peer, its library is imported.

    Dask also pickles the class, for it may have another name or be a subclass.
    """
    name = header.get("type")
    found = None
    if isinstance(name, str):
        found = registered.find_named(name, imports=options.trusted)
    if found is None and options.trusted and "type-serialized" in header:
        found = registered.find(pickles.loads(header["type-serialized"], [], options.trusted))
    if found is None:
        raise ValueError(f"an object of the type {brief(name)}, which is not registered here")
    return found


def _sub_header(header: Header) -> Header:
    sub_header = header.get("sub-header")
    if type(sub_header) is not dict:
        raise ValueError(f"a sub-header that is a {type(sub_header).__name__}, expected a map")
    return sub_header


def _loads_registered(header: Header, frames: Frames, options: LoadOptions, gate: Gate) -> Any:
    found, sub_header = _find(header, options), _sub_header(header)
    most = options.most
    if most is not None and sum(map(len, frames)) > most and not found.reads_at_once(sub_header):
        raise Lengthy
    return found.deserialize(sub_header, frames, gate)


def _is_safe_registered(header: Header, options: LoadOptions) -> bool:
    return _find(header, options).safe


# -- the others --------------------------------------------------------------------------


def _dumps_pickle(obj: Any, options: DumpOptions) -> tuple[Header, Frames]:
    data, buffers = pickles.dumps(obj, options.trusted, options.pickle_protocol, options.most)
    writeable = tuple(not memoryview(buffer).readonly for buffer in buffers)
    return {"writeable": writeable}, [data, *buffers]


def _loads_pickle(header: Header, frames: Frames, options: LoadOptions, _gate: Gate) -> Any:
    if not frames:
        raise ValueError("a pickle without frames")
    buffers = set_writeable(header, frames[1:])
    return pickles.loads(frames[0], buffers, options.trusted)


def _dumps_msgpack(obj: Any, options: DumpOptions) -> tuple[Header, Frames]:
    """To a peer of ours only what stays what it is; a Dask peer gets tuples for lists."""
    try:
        return {"lists": True} if options.typed else {}, [packb(obj, strict_types=options.typed)]
    except Exception:
        raise NotImplementedError from None


def _loads_msgpack(header: Header, frames: Frames, _options: LoadOptions, _gate: Gate) -> Any:
    """Decode the one frame, which the opener has joined and looked through."""
    return unpackb(frames[0], use_list=header.get("lists") is True, strict_map_key=False)


def _dumps_error(_obj: Any, _options: DumpOptions) -> tuple[Header, Frames]:
    raise NotImplementedError


def _loads_error(_header: Header, frames: Frames, _options: LoadOptions, _gate: Gate) -> Any:
    text, more = "", sum(map(len, frames))
    for frame in frames:
        part = bytes(frame[: LONG + 1])
        text += ("\n" if text else "") + part.decode(errors="replace")
        more -= len(part)
        if len(part) < len(frame) or len(text) > LONG:
            break
    raise UnserializableError(printable(text, LONG, more))


def _always(_header: Header, _options: LoadOptions) -> bool:
    return True


def _never(_header: Header, _options: LoadOptions) -> bool:
    return False


_families = {
    "dask": Family(_dumps_registered, _loads_registered, _is_safe_registered),
    "pickle": Family(_dumps_pickle, _loads_pickle, _never),
    "msgpack": Family(_dumps_msgpack, _loads_msgpack, _always),
    "error": Family(_dumps_error, _loads_error, _always),
}


def get_family(name: str) -> Family:
    """Return the family of a name; ValueError lists those that there are."""
    family = _families.get(name)
    if family is None:
        known = ", ".join(sorted(_families))
        raise ValueError(f"unknown serializer {brief(name)}, expected one of: {known}")
    return family


def register_serialization_family(
    name: str,
    dumps: Callable[..., tuple[Header, Frames]] | None,
    loads: Callable[[Header, Frames], Any],
    *,
    safe: bool = False,
) -> None:
    """Add a family, for ``serializers=[name]``; both peers must have it.

    ``dumps(obj)``, or ``dumps(obj, context=…)`` as in Dask, returns a header and frames, and
    raises NotImplementedError for what it leaves to the next family; ``loads(header, frames)``
    undoes it. Pass ``safe=True`` where ``loads`` may be given anything that a stranger sends.
    """
    wants_context = dumps is not None and "context" in inspect.signature(dumps).parameters

    def dumps_as_given(obj: Any, options: DumpOptions) -> tuple[Header, Frames]:
        if dumps is None:
            raise NotImplementedError
        if wants_context:
            context = {"pickle-protocol": options.pickle_protocol, "compression": None}
            return dumps(obj, context=context)
        return dumps(obj)

    def loads_as_given(header: Header, frames: Frames, _options: LoadOptions, _gate: Gate) -> Any:
        return loads(header, frames)

    _families[name] = Family(dumps_as_given, loads_as_given, _always if safe else _never)
