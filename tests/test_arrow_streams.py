"""pyarrow's tables, batches and buffers: whole, to and from Dask, and from strangers."""

import decimal
import struct
from contextlib import suppress
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from gates import TRUSTED, gate_of
from hypothesis import given, settings
from hypothesis import strategies as st
from typed import carry, from_dask, taken, there_and_back, to_dask

from distributed_comm._serialize.type_registry import find, find_named
from distributed_comm.errors import UntrustedError

WORDS = pa.array(["a", "b", None, "größer"])
TABLE = pa.table(
    {
        "numbers": pa.array([1, None, 3, 4]),
        "floats": [1.5, float("nan"), 3, 4],
        "bools": [True, None, False, True],
        "text": WORDS,
        "views": WORDS.cast(pa.string_view()),
        "dictionary": WORDS.dictionary_encode(),
        "lists": [[1], None, [], [2, 3]],
        "structs": [{"x": 1, "y": ["a"]}, None, {"x": 2}, {}],
        "maps": pa.array([[("a", 1)], None, [], []], pa.map_(pa.string(), pa.int8())),
        "decimals": [decimal.Decimal("1.23"), None, None, None],
        "times": pa.array(
            [datetime(2024, 2, 29, tzinfo=UTC)] * 4, pa.timestamp("ns", "Europe/Rome")
        ),
        "nothing": pa.nulls(4),
        "runs": pa.RunEndEncodedArray.from_arrays([3, 4], [1, 2]),
    },
    metadata={"about": "this"},
)
TABLES = {
    "of all types": TABLE,
    "sliced": TABLE.slice(1, 2),
    "in chunks": pa.concat_tables([TABLE, TABLE.slice(2), TABLE]),
    "without rows": TABLE.slice(0, 0),
    "without columns": pa.table({}),
    "batch": TABLE.combine_chunks().to_batches()[0],
    "sliced batch": TABLE.combine_chunks().to_batches()[0].slice(1),
}
WAYS = [there_and_back, to_dask, from_dask]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TABLES)
def test_a_table_arrives_as_it_was(way, name):
    table = TABLES[name]
    arrived = way(table)
    assert type(arrived) is type(table)
    assert arrived.schema.equals(table.schema, check_metadata=True)
    assert arrived.to_pydict().__repr__() == table.to_pydict().__repr__()  # NaN is not NaN


def test_the_columns_lie_in_the_frame():
    table = pa.table({"x": np.arange(1000), "y": [str(n) for n in range(1000)]})
    header, frames = carry(*find(pa.Table).serialize(table))
    frame = np.frombuffer(frames[0], "u1")
    for column in find(pa.Table).deserialize(header, frames, gate_of(stranger=True)).columns:
        for buffer in column.chunk(0).buffers():
            assert buffer is None or np.shares_memory(np.frombuffer(buffer, "u1"), frame)


def test_a_frame_at_an_odd_address_is_read():
    header, (frame,) = carry(*find(pa.Table).serialize(TABLE))
    odd = memoryview(b"x" + frame)[1:]
    assert find(pa.Table).deserialize(header, [odd], gate_of(stranger=True)).schema == TABLE.schema


@pytest.mark.parametrize(
    "buffer", [pa.py_buffer(b"abc"), pa.py_buffer(bytearray(b"abc")), pa.py_buffer(b"")]
)
@pytest.mark.parametrize("memory", [bytes, bytearray])
def test_a_buffer_arrives_and_is_mutable_where_it_was(buffer, memory):
    arrived = there_and_back(buffer, memory)
    assert arrived.equals(buffer)
    assert arrived.is_mutable == buffer.is_mutable or not buffer.size
    assert not find(pa.Buffer).known_to_dask


def test_a_growing_buffer_is_left_to_pickle():
    assert not taken(pa.allocate_buffer(3, resizable=True))


# -- from strangers -------------------------------------------------------------------


def stream_of(table, **options):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("name", ["pyarrow.lib.Table", "pyarrow.lib.RecordBatch"])
@pytest.mark.parametrize("column", ["numbers", "dictionary"])
def test_a_compressed_stream_is_refused(codec, name, column):
    stream = stream_of(TABLE.select([column]), compression=codec)
    with pytest.raises(ValueError, match="that is compressed"):
        find_named(name).deserialize({}, [stream], gate_of(stranger=True))


def test_a_compressed_dictionary_is_refused():
    whole = TABLE.select(["dictionary"])
    schema, compressed, *_ = pa.ipc.MessageReader.open_stream(stream_of(whole, compression="zstd"))
    assert compressed.type == "dictionary"
    stream = schema.serialize().to_pybytes() + compressed.serialize().to_pybytes()
    with pytest.raises(ValueError, match="that is compressed"):
        find(pa.Table).deserialize({}, [stream], gate_of(stranger=True))


class Celsius(pa.ExtensionType):
    opened = 0

    def __init__(self):
        super().__init__(pa.float64(), "tests.celsius")

    def __arrow_ext_serialize__(self):
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        cls.opened += 1
        return cls()


@pytest.mark.parametrize("nested", [False, True])
def test_an_extension_type_is_for_the_trusted_alone(nested):
    pa.register_extension_type(Celsius())
    try:
        column = pa.ExtensionArray.from_storage(Celsius(), pa.array([20.5]))
        table = pa.table({"t": pa.StructArray.from_arrays([column], ["t"]) if nested else column})
        header, frames = carry(*find(pa.Table).serialize(table))
        reader = find_named("pyarrow.lib.Table")
        Celsius.opened = 0
        with pytest.raises(UntrustedError, match="a table with extension types"):
            reader.deserialize(header, frames, gate_of(stranger=True))
        with pytest.raises(ValueError, match="of which the header says nothing"):
            reader.deserialize({}, frames, TRUSTED)
        assert Celsius.opened == 0
        assert reader.deserialize(header, frames, TRUSTED).equals(table)
        assert Celsius.opened > 0
    finally:
        pa.unregister_extension_type("tests.celsius")


def test_columns_that_lie_about_themselves_are_refused():
    table = pa.table({"text": ["abc", "de"]})
    stream = stream_of(table)
    for wrong in (struct.pack("<3i", 0, 3, 2**30), struct.pack("<3i", 0, 5, 3)):
        lying = stream.replace(struct.pack("<3i", 0, 3, 5), wrong)
        assert lying != stream
        with pytest.raises(ValueError, match="that Arrow cannot read"):
            find(pa.Table).deserialize({}, [lying], gate_of(stranger=True))
    lying = stream.replace(b"abcde", b"ab\xff\xff\xff")
    with pytest.raises(ValueError, match="UTF8"):
        find(pa.Table).deserialize({}, [lying], gate_of(stranger=True))


def test_rows_of_nothing_have_a_limit():
    rows = 2**30 + 1
    for table in (pa.table({"x": pa.nulls(rows - 1)}), pa.table({"x": pa.nulls(rows)})):
        header, frames = carry(*find(pa.Table).serialize(table))
        if table.num_rows < rows:
            assert (
                find(pa.Table).deserialize(header, frames, gate_of(stranger=True)).num_rows
                == rows - 1
            )
        else:
            with pytest.raises(ValueError, match="rows in"):
                find(pa.Table).deserialize(header, frames, gate_of(stranger=True))


def test_a_batch_is_one_batch():
    reader = find(pa.RecordBatch)
    for table in (TABLES["in chunks"], TABLES["without rows"].slice(0, 0)):
        stream = stream_of(table)
        with pytest.raises(ValueError, match="record batches in a stream"):
            reader.deserialize({}, [stream], gate_of(stranger=True))


@pytest.mark.parametrize(("slot", "match"), [(1, "of the type unknown"), (2, "no contents")])
def test_a_message_without_contents_is_refused(slot, match):
    stream = stream_of(TABLE.select(["numbers"]))
    _, batch = pa.ipc.MessageReader.open_stream(stream)
    metadata = bytearray(batch.metadata.to_pybytes())
    (table,) = struct.unpack_from("<I", metadata)
    (back,) = struct.unpack_from("<i", metadata, table)
    struct.pack_into("<H", metadata, table - back + 4 + 2 * slot, 0)  # the field is absent
    with pytest.raises(ValueError, match=match):
        find(pa.Table).deserialize(
            {}, [stream.replace(batch.metadata.to_pybytes(), metadata)], gate_of(stranger=True)
        )


def test_a_name_that_is_no_text_is_refused():
    stream = stream_of(pa.table({"name": [1]}))
    with pytest.raises(ValueError, match="utf-8"):
        find(pa.Table).deserialize(
            {}, [stream.replace(b"name", b"n\xffme")], gate_of(stranger=True)
        )


@pytest.mark.parametrize("frames", [[], [b""], [b"abc"], [bytes(64)], [b"\xff" * 64], [b"", b""]])
@pytest.mark.parametrize("name", ["pyarrow.lib.Table", "pyarrow.lib.RecordBatch"])
def test_what_is_no_stream_is_a_value_error(name, frames):
    with pytest.raises(ValueError, match=r"."):
        find_named(name).deserialize({}, frames, gate_of(stranger=True))


STREAM = stream_of(TABLE)


@settings(max_examples=100)
@given(
    damage=st.lists(st.tuples(st.integers(0, len(STREAM) - 1), st.integers(0, 255)), max_size=4),
    cut=st.one_of(st.none(), st.integers(0, len(STREAM))),
)
@pytest.mark.parametrize("name", ["pyarrow.lib.Table", "pyarrow.lib.RecordBatch"])
def test_a_damaged_stream_gives_a_table_or_a_value_error(name, damage, cut):
    stream = bytearray(STREAM[:cut])
    for position, value in damage:
        stream[position % (len(stream) or 1) : position % (len(stream) or 1) + 1] = bytes([value])
    with suppress(ValueError):
        find_named(name).deserialize({}, [stream], gate_of(stranger=True))
