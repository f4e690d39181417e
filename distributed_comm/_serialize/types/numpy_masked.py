"""numpy's masked arrays in Dask's frames: the data and the mask, each as an array.

The header has their two headers, the number of the data's frames, and the fill value, which
is None for the default of the dtype. Dask pickles some fill values; we never do.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..._frames import Buffer
from .. import pickles
from ..gate import Gate
from ..type_registry import Registered
from .buffers import show
from .numpy_arrays import deserialize_ndarray, serialize_ndarray
from .numpy_dtypes import measure

__all__ = ["registrations"]

MaskedArray, MaskedConstant = np.ma.MaskedArray, type(np.ma.masked)

#: Copies of an item that numpy holds while fill values are made or compared, and the bytes of an
#: element of it, which becomes a long integer or text on the way.
FILL_ITEMS, FILL_BYTES = 8, 24
#: Steps, see `Gate`, for a masked array, and for the first field of one.
OBJECT_STEPS, STRUCTURE_STEPS = 5_000, 45_000
#: Steps for the fill value and the mask of each field, and what of that is a single call or is
#: done on the loop, when the array is sent back; for an element of the fill value, and of the mask.
FIELD_STEPS, FIELD_KEEPS, FILL_STEPS, MASK_STEPS = 3_000, 2_000, 20, 8


def _serialize_masked(array: Any) -> tuple[dict[str, Any], list[Buffer]]:
    if type(array) is not MaskedArray:
        raise NotImplementedError(f"{type(array)} is a subclass of numpy.ma.MaskedArray")
    data_header, frames = _serialize_part(array.data)
    header = {
        "data-header": data_header,
        "nframes": len(frames),
        "fill-value": (False, _encode_fill_value(array)),
        "hard-mask": array.hardmask,
    }
    if array.mask is not np.ma.nomask:
        header["mask-header"], mask_frames = _serialize_part(array.mask)
        frames += mask_frames
    return header, frames


def _serialize_part(array: Any) -> tuple[dict[str, Any], list[Buffer]]:
    """Write out what repeats: numpy makes fill values and masks of the size that it looks like."""
    return serialize_ndarray(array if array.flags.forc else np.ascontiguousarray(array))


def _encode_fill_value(array: Any) -> Any:
    value, dtype = array.fill_value, array.dtype
    if value.tobytes() == np.ma.array(np.empty((), dtype)).fill_value.tobytes():
        return None
    plain = value.item() if dtype.kind in "biufSU" else None
    if dtype.kind in "mM":
        plain = value.view("i8").item()
    if not isinstance(plain, bool | int | float | str | bytes):
        raise NotImplementedError(f"a fill value of {dtype.str}")
    return plain


def _deserialize_masked(header: dict[str, Any], frames: list[Buffer], gate: Gate) -> Any:
    pickled, value = _fill_value_entry(header)
    count, hard = header.get("nframes"), header.get("hard-mask", False)
    if type(count) is not int or not 0 < count <= len(frames) or type(hard) is not bool:
        raise ValueError(f"{show(count)} frames for the data of a masked array, of {len(frames)}")
    data = deserialize_ndarray(_header(header, "data-header"), frames[:count], gate, repeats=False)
    if not gate.trusted:
        _count(data, value, gate)
    mask: Any = np.ma.nomask
    if "mask-header" in header:
        inner = _header(header, "mask-header")
        mask = deserialize_ndarray(inner, frames[count:], gate, repeats=False)
        if mask.shape != data.shape or mask.dtype != np.ma.make_mask_descr(data.dtype):
            raise ValueError(
                f"a mask of {mask.shape} {mask.dtype.str} for {data.shape} {data.dtype.str}"
            )
    if pickled:
        value = pickles.loads(value, [], gate.trusted)
    try:
        return np.ma.MaskedArray(data, mask, fill_value=value, hard_mask=hard)
    except (TypeError, ValueError, OverflowError) as exc:
        raise ValueError(
            f"a masked array of {data.dtype.str} with the fill value: {exc!s:.200}"
        ) from exc


def _count(data: np.ndarray[Any, Any], value: Any, gate: Gate) -> None:
    """Count what numpy makes of a stranger's masked array beside the data and the mask that came.

    A fill value is as large as an item, also if there are no items. Each field has one of its
    own, and with fields there are two masks: what came is added to one of zeros.
    """
    dtype, what = data.dtype, "a masked array"
    item = dtype.itemsize + (len(value) if isinstance(value, str | bytes) else 0)
    gate.make(FILL_ITEMS * item, what)
    gate.keep(item // 2, what)
    gate.work(OBJECT_STEPS, what)
    if dtype.names is not None:
        _, elements, fields = measure(dtype)
        gate.make((FILL_BYTES + data.size) * elements, what)
        gate.keep(FIELD_KEEPS * fields + FILL_STEPS * elements, what)
        gate.work(STRUCTURE_STEPS + FIELD_STEPS * fields, what)
        gate.work(MASK_STEPS * elements * data.size, what)


def _fill_value_entry(header: dict[str, Any]) -> tuple[bool, Any]:
    entry = header.get("fill-value")
    if type(entry) is not tuple or len(entry) != 2 or entry[0] not in (0, 1):
        raise ValueError(f"fill-value is {show(entry)}, expected (false, value) or (true, pickle)")
    if not entry[0] and not isinstance(entry[1], bool | int | float | str | bytes | None):
        raise ValueError(f"a fill value of {show(entry[1])}, expected a number or text")
    return bool(entry[0]), entry[1]


def _header(header: dict[str, Any], key: str) -> dict[str, Any]:
    inner = header.get(key)
    if type(inner) is not dict:
        raise ValueError(f"{key} is {show(inner)}, expected a map")
    return inner


def _serialize_constant(_masked: Any) -> tuple[dict[str, Any], list[Buffer]]:
    return {}, []


def _deserialize_constant(_header: dict[str, Any], _frames: list[Buffer], _gate: Gate) -> Any:
    return np.ma.masked


def registrations() -> Iterator[Registered]:
    # The names of some versions of numpy have the module in which a class was written.
    for name in ("numpy.ma.core.MaskedArray", "numpy.ma.MaskedArray"):
        yield Registered(name, MaskedArray, _serialize_masked, _deserialize_masked)
    for name in ("numpy.ma.core.MaskedConstant", "numpy.ma.MaskedConstant"):
        yield Registered(name, MaskedConstant, _serialize_constant, _deserialize_constant)
