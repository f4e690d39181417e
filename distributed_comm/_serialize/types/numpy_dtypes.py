"""numpy's dtypes as text or as maps of msgpack's types, which ``numpy.dtype`` takes as they are.

A structured dtype is ``{"names", "formats", "offsets", "itemsize"}``, nested where a format
is structured, too, and a format ``(base, shape)`` is a subarray. What is not said by that,
titles and metadata, or cannot lie in a frame, objects, is left to pickle.
"""

import math
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from ..gate import TRUSTED, Gate
from .buffers import show, sizes

__all__ = ["check_text", "decode_dtype", "encode_dtype", "leaves", "measure"]

#: What `dtype.str` returns for numpy's own types without fields.
TEXT = re.compile(
    r"[<>|](?:b1|[iu][1248]|f(?:2|4|8|12|16)|c(?:8|16|24|32)|[SUV]\d{1,10}"
    r"|[mM]8(?:\[\d{0,10}(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as|generic)\])?)",
    re.ASCII,
)
#: Levels of structures within structures.
MAX_DEPTH = 32
KEYS = {"names", "formats", "offsets", "itemsize"}
#: Steps, see `Gate`, for a structure, for a field or subarray, and for what of that is a single
#: call or is done on the loop, when the dtype is sent back.
STRUCTURE_STEPS, FIELD_STEPS, FIELD_KEEPS = 8_000, 1_000, 1_000
#: Steps to look at all text of one field, or at the text of one item in it.
TEXT_STEPS, ITEM_STEPS = 3_000, 4
#: Bytes of a field or subarray: of numpy's dtype, its entry in a dict, and the name.
FIELD_BYTES = 400
#: A stranger's fields may overlap until they are so many times the item that they lie in. A union
#: of a long integer with its halves, its quarters and its bytes is 4.
MOST_OVERLAP = 4


def encode_dtype(dtype: np.dtype[Any]) -> Any:
    """Return what `decode_dtype` makes the same dtype of, else raise NotImplementedError."""
    if dtype.fields is None and dtype.metadata is None:
        return _as_text(dtype)
    code = _encode(dtype)
    try:
        if decode_dtype(code, TRUSTED) == dtype:
            return code
    except ValueError as exc:
        raise NotImplementedError(f"the dtype {dtype.str}: {exc}") from exc
    raise NotImplementedError(f"the dtype {dtype.str}")


def _encode(dtype: np.dtype[Any]) -> Any:
    if dtype.metadata is not None or dtype.hasobject or not dtype.itemsize:
        raise NotImplementedError(f"the dtype {dtype.str} is of objects, empty, or has metadata")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return _encode(base), shape
    if dtype.fields is None:
        return _as_text(dtype)
    if dtype.type is not np.void or dtype.names is None:
        raise NotImplementedError(f"the dtype {dtype.str} has elements of {dtype.type}")
    if any(len(field) > 2 for field in dtype.fields.values()):
        raise NotImplementedError(f"the dtype {dtype.str} has titles")
    fields = [dtype.fields[name] for name in dtype.names]
    code: dict[str, Any] = {
        "names": dtype.names,
        "formats": tuple(_encode(field[0]) for field in fields),
        "offsets": tuple(field[1] for field in fields),
        "itemsize": dtype.itemsize,
    }
    return {**code, "aligned": True} if dtype.isalignedstruct else code


@lru_cache(1024)
def _as_text(dtype: np.dtype[Any]) -> str:
    """Return numpy's text for a dtype without fields, shape and metadata."""
    text: str = dtype.str
    if dtype.hasobject or not dtype.itemsize or not TEXT.fullmatch(text):
        raise NotImplementedError(f"the dtype {dtype.str} has no text")
    if np.dtype(text).type is not dtype.type:  # "V2", of a type that numpy does not know
        raise NotImplementedError(f"the dtype {dtype.str} is not numpy's own")
    return text


def decode_dtype(code: Any, gate: Gate) -> np.dtype[Any]:
    """Return the dtype, which holds no objects; ValueError for anything that is no code of one."""
    return _decode(code, MAX_DEPTH, gate)


def _decode(code: Any, depth: int, gate: Gate) -> np.dtype[Any]:
    if depth == 0:
        raise ValueError(f"a dtype of more than {MAX_DEPTH} levels")
    if type(code) is str:
        return _from_text(code)
    if type(code) is dict:
        return _structure(code, depth, gate)
    if type(code) is tuple and len(code) == 2:
        if not gate.trusted:
            _count_fields(1, gate)
        return _make((_decode(code[0], depth - 1, gate), sizes(code[1], "a subarray's shape")))
    raise ValueError(f"a dtype of {show(code)}, expected text or a map of fields")


@lru_cache(1024)
def _from_text(code: str) -> np.dtype[Any]:
    if not TEXT.fullmatch(code):
        raise ValueError(f"the dtype {code[:40]!r}, expected a number, a date or text, as '<f8'")
    return _make(code)


def _structure(code: dict[Any, Any], depth: int, gate: Gate) -> np.dtype[Any]:
    aligned = code.get("aligned", False)
    if code.keys() - {"aligned"} != KEYS or type(aligned) is not bool:
        raise ValueError(f"a dtype with fields needs {', '.join(sorted(KEYS))}")
    names, formats = code["names"], code["formats"]
    if not gate.trusted and type(names) is tuple:
        _count_fields(len(names), gate)
    offsets, itemsize = sizes(code["offsets"], "offsets", limit=None), code["itemsize"]
    if type(names) is not tuple or not all(type(name) is str and name for name in names):
        raise ValueError(f"names of {show(names)}, expected an array of text")
    if type(formats) is not tuple or not 0 < len(names) == len(formats) == len(offsets):
        raise ValueError(f"{len(names)} fields need as many formats and offsets, and at least one")
    if type(itemsize) is not int or not 0 < itemsize < 2**31:
        raise ValueError(f"an itemsize of {show(itemsize)}, expected 1 to {2**31 - 1}")
    dtypes = [_decode(form, depth - 1, gate) for form in formats]
    for name, dtype, offset in zip(names, dtypes, offsets, strict=True):
        if offset + dtype.itemsize > itemsize:
            raise ValueError(
                f"the field {name[:40]!r} ends at {offset + dtype.itemsize}, past {itemsize}"
            )
    fields = {"names": names, "formats": dtypes, "offsets": offsets, "itemsize": itemsize}
    dtype = _make({**fields, "aligned": aligned})
    if not gate.trusted and sum(field.itemsize or 1 for field in dtypes) > itemsize:
        _check_overlap(dtype, gate)  # else they add up to no more than those within them do
    return dtype


def _make(spec: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(spec)
        return dtype
    except (TypeError, OverflowError, MemoryError, RecursionError) as exc:
        raise ValueError(f"numpy knows no such dtype: {exc!s:.200}") from exc


def _count_fields(count: int, gate: Gate) -> None:
    what = "a dtype of fields"
    gate.make(FIELD_BYTES * (count + 1), what)
    gate.keep(FIELD_KEEPS * count, what)
    gate.work(STRUCTURE_STEPS + FIELD_STEPS * count, what)


def measure(dtype: np.dtype[Any]) -> tuple[int, int, int]:
    """Return what one item is made of: bytes, elements such as numbers, and fields with subarrays.

    Bytes that fields share are counted for each of them, and an element of no bytes as one.
    """
    if dtype.fields is not None:
        nbytes = elements = fields = 0
        for field in dtype.fields.values():
            inner = measure(field[0])
            nbytes += inner[0]
            elements += inner[1]
            fields += inner[2] + 1
        return nbytes, elements, fields
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        nbytes, elements, fields = measure(base)
        times = math.prod(shape)
        return nbytes * times, elements * times, fields + 1
    return dtype.itemsize or 1, 1, 0


def _check_overlap(dtype: np.dtype[Any], gate: Gate) -> None:
    """Refuse fields that share their memory so that few bytes would have to be looked at often."""
    nbytes, _, fields = measure(dtype)
    gate.keep(FIELD_KEEPS * fields, "a dtype of fields")  # all of them, at each level
    if nbytes > MOST_OVERLAP * dtype.itemsize:
        raise ValueError(
            f"fields of {nbytes} bytes in an item of {dtype.itemsize}; those of an untrusted peer "
            f"may add up to {MOST_OVERLAP} times the item"
        )


def leaves(dtype: np.dtype[Any]) -> Iterator[np.dtype[Any]]:
    """Yield the dtypes without fields and shape that a dtype is made of."""
    if dtype.subdtype is not None:
        yield from leaves(dtype.subdtype[0])
    elif dtype.fields is not None:
        for field in dtype.fields.values():
            yield from leaves(field[0])
    else:
        yield dtype


def check_text(dtype: np.dtype[Any], frame: memoryview, gate: Gate) -> None:
    """Check the code points of text, of which numpy makes str unseen.

    From others come strings that raise SystemError when a letter is looked at, and whose
    UTF-8 is none.
    """
    if dtype.kind in "UV" and any(leaf.kind == "U" for leaf in leaves(dtype)) and frame.nbytes:
        if not gate.trusted:
            _count_text(dtype, frame.nbytes, gate)
        _check_text(dtype, np.frombuffer(frame, _with_numbers(dtype)))


def _count_text(dtype: np.dtype[Any], nbytes: int, gate: Gate) -> None:
    gate.work(nbytes // 16, "text")
    if dtype.fields is not None:  # whose items have gaps, which takes 100 times as long
        _, elements, fields = measure(dtype)
        items = elements * (nbytes // dtype.itemsize)
        gate.work(TEXT_STEPS * fields + ITEM_STEPS * items, "text in fields")


def _check_text(dtype: np.dtype[Any], items: Any) -> None:
    if dtype.subdtype is not None:
        _check_text(dtype.subdtype[0], items)
    elif dtype.fields is not None:
        for name, field in dtype.fields.items():
            _check_text(field[0], items[name])
    elif dtype.kind == "U" and items.size and items.max() > sys.maxunicode:
        raise ValueError(f"text in an array of {dtype.str} with the code point {items.max()}")


def _with_numbers(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype of the same layout with numbers for the letters of text."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return _make((_with_numbers(base), shape))
    if dtype.fields is not None:
        fields = dtype.fields.items()
        layout = {
            "names": [name for name, _ in fields],
            "formats": [_with_numbers(field[0]) for _, field in fields],
            "offsets": [field[1] for _, field in fields],
            "itemsize": dtype.itemsize,
        }
        return _make(layout)
    if dtype.kind == "U":
        return _make((dtype.str[0] + "u4", (dtype.itemsize // 4,)))
    return dtype
