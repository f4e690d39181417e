"""Wrapped objects out of a message that never became bytes, as if it had."""

from operator import is_
from typing import Any

from .._frames import Frames
from .._text import is_clean, printable, tidy
from ..errors import MessageError, UnserializableError, UntrustedError
from .embedded import Opener
from .gate import TRUSTED, StrangersGate
from .settings import LoadOptions
from .wrappers import Pickled, Serialize, Serialized, ToPickle, Unsendable

__all__ = ["unwrap"]

COLLECTIONS = {list, tuple, set, frozenset}
WRAPPERS = {Serialize, ToPickle, Serialized, Pickled}
#: Whatever else a message is made of holds no wrapper.
CONCERNED = {dict} | COLLECTIONS | WRAPPERS


def unwrap(msg: Any, options: LoadOptions) -> Any:
    """Return a message with what its wrappers hold in their place.

    It is the same object where there is no wrapper in it; otherwise the containers around the
    wrappers are copied, for the writer's stay as they are. Raises what `decode.loads` does.
    """
    try:
        return _unwrap(msg, options)
    except RecursionError:  # it contains itself, or is too deep to go as bytes: no copy can be made
        return msg
    except (MessageError, UnserializableError, UntrustedError) as exc:
        tidy(exc, options.trusted)
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:
        text = printable(f"the message cannot be decoded: {str(exc) or repr(exc)}")
        raise MessageError(text) from (exc if options.trusted or is_clean(exc) else None)


def _unwrap(obj: Any, options: LoadOptions) -> Any:
    cls = type(obj)
    if cls in WRAPPERS:
        return _content(obj, options)
    if cls in COLLECTIONS:
        items = _items(obj, options)
        return obj if items is None else cls(items)
    if cls is dict:
        keys, values = _items(obj, options), _items(obj.values(), options)
        if keys is not None or values is not None:
            return dict(zip(keys or obj, values or obj.values(), strict=True))
    return obj


def _items(objs: Any, options: LoadOptions) -> list[Any] | None:
    """Return what comes out of several objects, None where it is they themselves."""
    if CONCERNED.isdisjoint(map(type, objs)):  # 20 ns an item, less than packing one
        return None
    items = [_unwrap(obj, options) for obj in objs]
    return None if all(map(is_, items, objs)) else items


def _content(obj: Any, options: LoadOptions) -> Any:
    while isinstance(obj, Serialize):
        obj = obj.data
    bare = obj.data if isinstance(obj, ToPickle) else obj
    if isinstance(bare, Unsendable):
        bare.refuse()
    if isinstance(obj, ToPickle):
        return bare
    if isinstance(obj, Pickled):
        return _opener(obj.frames, options).open_pickled(obj.header, obj.frames)
    if isinstance(obj, Serialized):
        return _opener(obj.frames, options).open_serialized(obj.header, obj.frames)
    return obj


def _opener(frames: Frames, options: LoadOptions) -> Opener:
    gate = TRUSTED if options.trusted else StrangersGate(sum(map(len, frames)), options)
    return Opener([b""], options, gate)
