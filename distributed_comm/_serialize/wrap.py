"""Which family takes an object, and what its header and frames are."""

from collections.abc import Iterable
from typing import Any

from ..errors import UnserializableError, UntrustedError
from . import pickles
from . import type_registry as registered
from .compression import DENSEST
from .dask_frames import compress_all
from .families import USUAL, none_takes, serialize
from .offload import Lengthy
from .settings import DumpOptions
from .wrappers import Pickled, Serialize, Serialized, ToPickle, Unopened

__all__ = ["may_pickle", "report", "wrap", "wrap_registered"]


def may_pickle(options: DumpOptions) -> bool:
    """Whether what no other family takes can go as a pickle."""
    names = options.serializers
    return options.trusted and (names is None or "pickle" in names)


def wrap(obj: Any, options: DumpOptions, names: Iterable[str]) -> Unopened:
    """Return the header and frames of any object, by the first of these families that takes it.

    With ``on_error="message"`` those of the error, where none does.
    """
    wrapped = isinstance(obj, Serialize)
    while isinstance(obj, Serialize):
        obj = obj.data
    if isinstance(obj, Unopened):
        return obj if options.typed else _for_dask(obj)
    if options.serializers is not None:
        names = options.serializers
    elif wrapped:
        names = USUAL
    try:
        if isinstance(obj, ToPickle):
            unopened: Unopened = _pickle(obj.data, options)
        elif wrapped:
            unopened = _wrap_alone(obj, options, tuple(names))
        else:
            unopened = _wrap_bare(obj, options, tuple(names))
    except (UnserializableError, UntrustedError) as exc:
        if options.on_error == "raise":
            raise
        return report(exc)
    return unopened if options.compression is None else _compress(unopened, options)


def _for_dask(unopened: Unopened) -> Unopened:
    """Return what was not opened with the class that Dask finds a registered type by.

    Our peers send each other its name alone.
    """
    header = unopened.header
    if header.get("serializer") == "dask" and "type" in header and "type-serialized" not in header:
        pickled = registered.pickled_class(header["type"])
        if pickled is not None:
            return Serialized({**header, "type-serialized": pickled}, unopened.frames)
    return unopened


def wrap_registered(obj: Any, options: DumpOptions) -> Unopened | None:
    """Do so by the object's registered type alone; None where there is none that takes it."""
    names = options.serializers
    if names is not None and "dask" not in names:
        return None
    try:
        found = serialize(obj, options, ("dask",))
    except UnserializableError as exc:
        if options.on_error == "raise":
            raise
        return report(exc)
    if found is None:
        return None
    unopened = Serialized(*found)
    return unopened if options.compression is None else _compress(unopened, options)


def report(exc: TypeError) -> Unopened:
    """Return an error as what the reader gets."""
    return Serialized({"serializer": "error"}, [str(exc).encode(errors="backslashreplace")])


def _wrap_alone(obj: Any, options: DumpOptions, names: tuple[str, ...]) -> Unopened:
    """Do so for an object that was in Serialize."""
    found = serialize(obj, options, names)
    if found is None:
        raise none_takes(obj, names)
    return Serialized(*found)


def _wrap_bare(obj: Any, options: DumpOptions, names: tuple[str, ...]) -> Unopened:
    """Do so for an object in no wrapper, whose pickle belongs to the message."""
    for name in names:
        if name == "pickle":
            return _pickle(obj, options)
        found = serialize(obj, options, (name,))
        if found is not None:
            return Serialized(*found)
    raise none_takes(obj, names)


def _pickle(obj: Any, options: DumpOptions) -> Pickled:
    most = options.most
    if most is not None and _looks_longer(obj, most):
        raise Lengthy
    data, buffers = pickles.dumps(obj, options.trusted, options.pickle_protocol, most)
    return Pickled({"pickled-obj": data}, buffers)


def _looks_longer(obj: Any, most: int) -> bool:
    """Whether an array or a table has more bytes; the rest is measured while it is pickled."""
    try:
        nbytes = getattr(obj, "nbytes", None)
        if type(nbytes) is not int:
            size = getattr(obj, "size", 0)
            nbytes = 8 * size if type(size) is int else 0
    except Exception:  # a property of the user's
        return False
    return nbytes > most


def _compress(unopened: Unopened, options: DumpOptions) -> Unopened:
    codec, most = options.compression, options.most
    assert codec is not None
    if most is not None:
        nbytes = sum(memoryview(frame).nbytes for frame in unopened.frames)
        if nbytes > most:
            raise Lengthy(nbytes=nbytes)
    densest = None if options.trusted else DENSEST
    used, unopened.frames = compress_all(codec, unopened.frames, densest)
    if any(used):
        unopened.header["compression"] = used
    return unopened
