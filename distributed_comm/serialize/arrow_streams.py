"""pyarrow's tables in Dask's frames: one frame with Arrow's IPC stream, and raw buffers.

The columns that are read lie in the frame. A stream is looked through before Arrow decodes
it: a compressed body would be as large as it says, and an extension type may run code of its
own, so a header has to say that there is one. Then the columns are validated in full, for
Arrow trusts offsets and dictionary indices from there on.
"""

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from ..frames import Buffer
from . import pickles
from .buffers import flat, only_frame, with_writeable
from .gate import Gate
from .registered import Registered, type_name

__all__ = ["registrations"]

#: Rows that take no memory, of nulls, are virtual: so many may be.
MAX_ROWS = 2**30
#: How a schema names an extension type, in the metadata of a field.
EXTENSION = b"ARROW:extension:name"
FAULTS = (pa.ArrowException, OSError, KeyError, TypeError, OverflowError, MemoryError)


# -- writing --------------------------------------------------------------------------


def _serialize(cls: Any, table: Any) -> tuple[dict[str, Any], list[Buffer]]:
    """Return a table or a batch as a stream, in memory of just its size."""
    if type(table) is not cls or not getattr(table, "is_cpu", True):
        raise NotImplementedError(f"{type(table)} is a subclass of {cls}, or on a device")
    try:
        stream = pa.allocate_buffer(_write(pa.MockOutputStream(), table).size())
        _write(pa.FixedSizeBufferWriter(stream), table)
        extensions = EXTENSION in table.schema.serialize().to_pybytes()
    except FAULTS as exc:
        raise NotImplementedError(f"{cls.__name__} is no stream: {exc}") from exc
    return {"extensions": True} if extensions else {}, [flat(stream)]


def _write(sink: Any, table: Any) -> Any:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    return sink


# -- reading --------------------------------------------------------------------------


def _deserialize_table(header: dict[str, Any], frames: list[Buffer], gate: Gate) -> Any:
    stream = _open(header, frames, gate, "a table")
    return _read(stream, "a table", lambda reader: reader.read_all())


def _deserialize_batch(header: dict[str, Any], frames: list[Buffer], gate: Gate) -> Any:
    stream = _open(header, frames, gate, "a record batch")
    batches = sum(message.type == "record batch" for message in _messages(stream))
    if batches != 1:
        raise ValueError(f"{batches} record batches in a stream, expected one")
    return _read(stream, "a record batch", lambda reader: reader.read_next_batch())


def _read(stream: Any, what: str, read: Callable[[Any], Any]) -> Any:
    """Decode a stream and validate what it holds, and the names of the columns."""
    try:
        table = read(pa.ipc.open_stream(stream))
        table.validate(full=True)
        table.schema.names  # noqa: B018 - UnicodeDecodeError where one is no text
    except (*FAULTS, ValueError) as exc:
        raise ValueError(f"{what} that Arrow cannot read: {exc}") from exc
    if table.num_rows > max(MAX_ROWS, 8 * stream.size):  # eight bools to a byte
        raise ValueError(f"{what} of {table.num_rows} rows in {stream.size} bytes")
    return table


def _open(header: dict[str, Any], frames: list[Buffer], gate: Gate, what: str) -> Any:
    """Return the stream in the frame once it is known to be harmless."""
    extensions = bool(header.get("extensions"))
    if extensions:
        pickles.check_trust(gate.trusted, f"the message holds {what} with extension types")
    stream = pa.py_buffer(only_frame(frames, what))
    if stream.address % 8:  # Arrow reads its numbers where they are
        stream = pa.py_buffer(stream.to_pybytes())
    for message in _messages(stream):
        if message.type == "schema":
            if EXTENSION in message.metadata.to_pybytes() and not extensions:
                raise ValueError(f"{what} with extension types, of which the header says nothing")
        elif message.type not in ("record batch", "dictionary"):
            raise ValueError(f"{what} with a message of the type {message.type}")
        elif _is_compressed(message):
            raise ValueError(f"{what} that is compressed, expected plain columns")
    return stream


def _messages(stream: Any) -> Iterator[Any]:
    try:
        yield from pa.ipc.MessageReader.open_stream(stream)
    except FAULTS as exc:
        raise ValueError(f"no Arrow stream: {exc}") from exc


def _is_compressed(message: Any) -> bool:
    """Whether the body is, by Arrow's Message.fbs, whose bytes Arrow has verified."""
    data = message.metadata.to_pybytes()
    try:
        table = _table(data, _at(data, 0), 2)  # Message.header
        if message.type == "dictionary":
            table = _table(data, table, 1)  # DictionaryBatch.data
        return bool(_field(data, table, 3))  # RecordBatch.compression
    except struct.error as exc:
        raise ValueError(f"a message of an Arrow stream is damaged: {exc}") from exc


def _table(data: bytes, table: int, slot: int) -> int:
    """Return where the table is that a field refers to."""
    field = _field(data, table, slot)
    if not field:
        raise ValueError("a message of an Arrow stream has no contents")
    return _at(data, field)


def _at(data: bytes, position: int) -> int:
    """Follow a flatbuffer's offset."""
    offset: int = struct.unpack_from("<I", data, position)[0]
    return position + offset


def _field(data: bytes, table: int, slot: int) -> int:
    """Return where a field of a flatbuffer's table is, 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    place = 4 + 2 * slot
    if place >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset: int = struct.unpack_from("<H", data, vtable + place)[0]
    return offset and table + offset


# -- buffers --------------------------------------------------------------------------


def _serialize_buffer(buffer: Any) -> tuple[dict[str, Any], list[Buffer]]:
    if type(buffer) is not pa.Buffer or not buffer.is_cpu:
        raise NotImplementedError(f"{type(buffer)} is a subclass of pyarrow.Buffer, or on a device")
    return {"writeable": (buffer.is_mutable,)}, [flat(buffer)]


def _deserialize_buffer(header: dict[str, Any], frames: list[Buffer], gate: Gate) -> Any:
    return pa.py_buffer(with_writeable(header, only_frame(frames, "a buffer"), gate))


def registrations() -> Iterator[Registered]:
    for cls, read in ((pa.Table, _deserialize_table), (pa.RecordBatch, _deserialize_batch)):
        yield Registered(type_name(cls), cls, partial(_serialize, cls), read)
    yield Registered(
        type_name(pa.Buffer),
        pa.Buffer,
        _serialize_buffer,
        _deserialize_buffer,
        known_to_dask=False,
    )
