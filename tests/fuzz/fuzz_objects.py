"""Plain objects: what was packed is unpacked, by whoever does not trust the sender."""

from collections.abc import Callable
from math import isnan
from struct import unpack
from typing import Any

from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
from distributed_comm.errors import UntrustedError

from .drawing import Draws
from .strangers import open_message

Make = Callable[[Draws, int], Any]


def _integer(draws: Draws, depth: int) -> int:
    return int.from_bytes(draws.take(draws.choice([1, 2, 4, 8, 9, 20])), "little", signed=True)


def _float(draws: Draws, depth: int) -> float:
    (number,) = unpack("<d", draws.take(8).ljust(8, b"\0"))
    return 0.5 if isnan(number) else float(number)


def _text(draws: Draws, depth: int) -> str:
    return draws.piece().decode("utf-8", "replace")


def _items(make: Callable[[list[Any]], Any], kinds: list[Make]) -> Make:
    return lambda draws, depth: make(
        [_draw(draws, kinds, depth + 1) for _ in range(draws.number(6))]
    )


def _map(draws: Draws, depth: int) -> dict[Any, Any]:
    size = draws.number(6)
    return {_draw(draws, KEYS, depth + 1): _draw(draws, ALL, depth + 1) for _ in range(size)}


SCALARS: list[Make] = [
    lambda draws, depth: draws.choice([None, True, False, 0, -1, "", b"", "__Set__"]),
    lambda draws, depth: draws.piece(),
    *[_integer, _float, _text],
]
KEYS: list[Make] = [*SCALARS]
KEYS += [_items(tuple, KEYS), _items(frozenset, KEYS)]
ALL: list[Make] = [*KEYS, _map, _items(set, KEYS)]
ALL += [_items(list, ALL), _items(tuple, ALL), _map]
DEEPEST = 12


def _draw(draws: Draws, kinds: list[Make], depth: int) -> Any:
    return draws.choice(SCALARS if depth > DEEPEST else kinds)(draws, depth)


def form(obj: Any) -> Any:
    """Return what tells one object from another in more than ``==`` does."""
    match obj:
        case list() | tuple():
            return type(obj), tuple(map(form, obj))
        case set() | frozenset():
            return type(obj), frozenset(map(form, obj))
        case dict():
            return dict, tuple((form(key), form(value)) for key, value in obj.items())
    return type(obj), repr(obj) if isinstance(obj, float) else obj


def seeds() -> list[bytes]:
    """Return what each kind of object is made of."""
    every = [bytes([kind]) + bytes(range(1, 60)) for kind in range(len(ALL))]
    return [*every, bytes(range(256)), b"\x07\x05" * 30]


def check(data: bytes) -> None:
    obj = _draw(Draws(data), ALL, 0)
    typed = open_message(dumps(obj, DumpOptions(typed=True)))
    assert form(typed) == form(obj)
    try:
        frames = dumps(obj)
    except (UntrustedError, ValueError):  # Dask's format has no room for it
        return
    assert open_message(frames, LoadOptions()) == _as_tuples(obj)


def _as_tuples(obj: Any) -> Any:
    """Return an object as a Dask peer gets it."""
    match obj:
        case list() | tuple():
            return tuple(map(_as_tuples, obj))
        case dict():
            return {_as_tuples(key): _as_tuples(value) for key, value in obj.items()}
        case set() | frozenset():
            return {*map(_as_tuples, obj)}
    return obj
