"""pyarrow's tables in Dask's frames: one frame with Arrow's IPC stream, and raw buffers.

The columns that are read lie in the frame. A stream is looked through before Arrow decodes
it: a compressed body would be as large as it says, and an extension type may run code of its
own, so a header has to say that there is one. The costs of a stranger's stream are added up. Then
the columns are validated in full, because Arrow trusts offsets and dictionary indices afterwards.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from ..._frames import Buffer
from .. import pickles
from ..gate import Gate
from ..type_registry import Registered, type_name
from .arrow_costs import EXTENSION, Costs
from .arrow_messages import messages
from .buffers import flat, only_frame, with_writeable

__all__ = ["registrations"]

#: The most rows of a table that take no memory, such as nulls.
MAX_ROWS = 2**30
LIST_VIEWS = {pa.lib.Type_LIST_VIEW, pa.lib.Type_LARGE_LIST_VIEW}
FAULTS = (pa.ArrowException, OSError, KeyError, TypeError, OverflowError, MemoryError)


# -- writing --------------------------------------------------------------------------


def _serialize(cls: Any, table: Any) -> tuple[dict[str, Any], list[Buffer]]:
    """Return a table or a batch as a stream, in memory of just its size."""
    if type(table) is not cls or not getattr(table, "is_cpu", True):
        raise NotImplementedError(f"{type(table)} is a subclass of {cls}, or on a device")
    if _has_list_views(table.schema):
        raise NotImplementedError(f"a {cls.__name__} with list views, which no reader takes")
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
    stream, _ = _open(header, frames, gate, "a table")
    return _read(stream, gate, "a table", lambda reader: reader.read_all())


def _deserialize_batch(header: dict[str, Any], frames: list[Buffer], gate: Gate) -> Any:
    stream, kinds = _open(header, frames, gate, "a record batch")
    batches = kinds["record batch"]
    if batches != 1:
        raise ValueError(f"{batches} record batches in a stream, expected one")
    return _read(stream, gate, "a record batch", lambda reader: reader.read_next_batch())


def _read(stream: Any, gate: Gate, what: str, read: Callable[[Any], Any]) -> Any:
    """Decode a stream and validate what it holds, and the names of the columns."""
    try:
        reader = pa.ipc.open_stream(stream)
        if gate.trusted and _has_list_views(reader.schema):  # a stranger's were refused before
            raise ValueError("it has list views, which to_pandas() may not survive")
        table = read(reader)
        table.validate(full=True)
        table.schema.names  # noqa: B018 - UnicodeDecodeError where one is no text
    except (*FAULTS, ValueError) as exc:
        # Arrow names types in full, and these may be as long as the stream.
        raise ValueError(f"{what} that Arrow cannot read: {exc!s:.1000}") from None
    if table.num_rows > max(MAX_ROWS, 8 * stream.size):  # eight bools to a byte
        raise ValueError(f"{what} of {table.num_rows} rows in {stream.size} bytes")
    return table


def _open(
    header: dict[str, Any], frames: list[Buffer], gate: Gate, what: str
) -> tuple[Any, Counter[str]]:
    """Return the stream in the frame once it is known to be harmless, and its kinds of messages."""
    extensions = bool(header.get("extensions"))
    if extensions:
        pickles.check_trust(gate.trusted, f"the message holds {what} with extension types")
    frame = only_frame(frames, what)
    try:
        kinds = _look_through(frame, extensions, gate, what)
    except struct.error as exc:
        raise ValueError(f"a message of an Arrow stream is damaged: {exc}") from exc
    stream = pa.py_buffer(frame)
    if stream.address % 8:  # Arrow reads its numbers where they are
        gate.make(stream.size, what)
        stream = pa.allocate_buffer(stream.size)
        pa.FixedSizeBufferWriter(stream).write(frame)  # while other threads run
    return stream, kinds


def _look_through(frame: memoryview, extensions: bool, gate: Gate, what: str) -> Counter[str]:
    kinds = Counter[str]()
    costs = None if gate.trusted else Costs(gate, what, len(frame))
    for message in messages(frame):
        kinds[message.kind] += 1
        if message.kind == "schema":
            if costs is None and not extensions and EXTENSION in bytes(message.table.data):
                raise ValueError(f"{what} with extension types, of which the header says nothing")
        elif message.batch is None:
            raise ValueError(f"{what} with a message of the type {message.kind}")
        elif message.batch.place(3):
            raise ValueError(f"{what} that is compressed, expected plain columns")
        if costs is not None:
            costs.add(message)
    if costs is not None:
        costs.finish()
    return kinds


def _has_list_views(schema: Any) -> bool:
    """Whether a type is, or holds, a list view: Arrow may crash in to_pandas() for it."""
    text = schema.to_string(show_field_metadata=False, show_schema_metadata=False)
    return "list_view<" in text and any(map(_is_list_view, schema.types))  # or names have it


def _is_list_view(type_: Any) -> bool:
    inner = [type_.field(index).type for index in range(type_.num_fields)]
    if type_.id == pa.lib.Type_DICTIONARY:
        inner = [type_.value_type]
    elif isinstance(type_, pa.BaseExtensionType):
        inner = [type_.storage_type]
    return type_.id in LIST_VIEWS or any(map(_is_list_view, inner))


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
