"""Arrow streams as nobody should send them: small, and dear to whoever decodes them.

Most are sound as far as Arrow is concerned. What pyarrow's writer would not write is put together
from flatbuffers here, whose parts may be shared by as many others as one likes.
"""

import struct
from collections.abc import Callable
from itertools import islice

import numpy as np
import pyarrow as pa

__all__ = [
    "CRASHING",
    "MIB",
    "READ",
    "STREAMS",
    "deltas",
    "stream_of",
    "streams",
    "unions",
    "views_of",
]

KIB, MIB = 1024, 1024 * 1024

# -- flatbuffers ----------------------------------------------------------------------


class Node:
    """Something in a flatbuffer; ``parts`` are what it refers to, in the order of its offsets."""

    def __init__(self, kind, parts=(), data=b"", count=0):
        self.kind, self.parts, self.data, self.count = kind, parts, data, count


def table(**slots):
    """Return a table of slots, as ``_3=…``: a Node, or a number with the code of its form."""
    return Node("table", [(int(name[1:]), value) for name, value in slots.items()])


def vector(items):
    return Node("vector", list(items))


def string(text):
    return Node("raw", data=text + b"\0", count=len(text))


def raw(form, numbers):
    """Return a vector of numbers, or of structs of ``2q``."""
    data = struct.pack(f"<{len(numbers)}q", *numbers)
    return Node("raw", data=data, count=len(numbers) // (2 if form == "2q" else 1))


def referred(node):
    parts = [value for _, value in node.parts] if node.kind == "table" else node.parts
    return [part for part in parts if isinstance(part, Node)]


def in_order(root):
    """Return what is reached from a node, once each, and behind all that refers to it."""
    order, seen = [], set()

    def visit(node):
        if id(node) not in seen:
            seen.add(id(node))
            for part in referred(node):
                visit(part)
            order.append(node)

    visit(root)
    return order[::-1]


def flatbuffer(root):
    out, places, offsets = bytearray(8), {}, [(0, root)]

    def pad(to):
        out.extend(bytes(-(len(out) + to) % 8))

    for node in in_order(root):
        if node.kind == "table":
            slots = dict(node.parts)
            most = max(slots, default=-1) + 1
            sizes = [8 + 8 * list(slots).index(n) if n in slots else 0 for n in range(most)]
            vtable = struct.pack(f"<{2 + most}H", 4 + 2 * most, 8 + 8 * len(slots), *sizes)
            pad(len(vtable))
            out += vtable
            places[id(node)] = len(out)
            out += struct.pack("<i4x", len(vtable))
            for value in slots.values():
                if isinstance(value, Node):
                    offsets.append((len(out), value))
                    out += bytes(8)
                else:
                    form, number = value
                    out += struct.pack(f"<{form}", number).ljust(8, b"\0")
        else:
            pad(4)
            places[id(node)] = len(out)
            out += struct.pack("<i", node.count or len(node.parts))
            out += node.data
            for part in node.parts:
                offsets.append((len(out), part))
                out += bytes(4)
    for place, node in offsets:
        struct.pack_into("<I", out, place, places[id(node)] - place)
    pad(0)
    return bytes(out)


# -- messages -------------------------------------------------------------------------

NULL, INT, UTF8, LIST, STRUCT, BINARY_WIDTH, LIST_SIZE, VIEW = 1, 2, 5, 12, 13, 15, 16, 24


def message(kind, contents, body=b"", version=4, metadata=None):
    extra = {} if metadata is None else {"_4": metadata}
    root = table(_0=("h", version), _1=("B", kind), _2=contents, _3=("q", len(body)), **extra)
    data = flatbuffer(root)
    return struct.pack("<ii", -1, len(data)) + data + body


def schema(fields, metadata=None, order=0):
    extra = {} if metadata is None else {"_2": metadata}
    return message(1, table(_0=("h", order), _1=vector(fields), **extra))


def field(kind, name=b"x", children=(), type_=None, **extra):
    name = name if isinstance(name, Node) else string(name)
    children = children if isinstance(children, Node) else vector(children)
    type_ = table() if type_ is None else type_
    return table(_0=name, _1=("B", 1), _2=("B", kind), _3=type_, _5=children, **extra)


def batch(length, nodes, buffers, counts=None):
    """Return a RecordBatch; the nodes and the buffers are given as flat lists of numbers."""
    extra = {} if counts is None else {"_4": raw("q", counts)}
    return table(_0=("q", length), _1=raw("2q", nodes), _2=raw("2q", buffers), **extra)


def encoding(number):
    return table(_0=("q", number), _1=table(_0=("i", 8), _1=("B", 1)))


def entries(key, value, count):
    return vector([table(_0=string(key), _1=string(value))] * count)


END = struct.pack("<ii", -1, 0)
INT8 = table(_0=("i", 8), _1=("B", 1))


def stream_of(*batches, **options):
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for each in batches:
            writer.write(each)
    return sink.getvalue().to_pybytes()


def many(stream, count):
    """Return a stream whose last message comes so many times."""
    *first, last = pa.ipc.MessageReader.open_stream(stream)
    first = b"".join(each.serialize().to_pybytes() for each in first)
    return first + last.serialize().to_pybytes() * count + END


# -- the streams ----------------------------------------------------------------------


def views_of(type_, length, count):
    text = b"abcd" * (length // 4)
    views = struct.pack("<i4sii", length, b"abcd", 0, 0) * count
    return pa.Array.from_buffers(type_, count, [None, pa.py_buffer(views), pa.py_buffer(text)])


def one_view(type_):
    return stream_of(pa.table({"x": views_of(type_, 256 * KIB, 20_000)}))


def views_in_lists():
    views = views_of(pa.string_view(), 256 * KIB, 20_000)
    return stream_of(pa.table({"x": pa.ListArray.from_arrays([0, 20_000], views)}))


def views_in_a_dictionary():
    views = views_of(pa.string_view(), 256 * KIB, 20_000)
    column = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), views)
    return many(stream_of(pa.table({"x": column})), 100)


def negative_views():
    views = struct.pack("<i4sii", 2**20, b"abcd", 0, 0) * 9_000
    views += struct.pack("<i4sii", -(2**31), b"abcd", 0, 0) * 5
    text = pa.py_buffer(b"abcd" * (MIB // 4))
    array = pa.Array.from_buffers(pa.string_view(), 9_005, [None, pa.py_buffer(views), text])
    return stream_of(pa.table({"x": array}))


def dictionary_of(nbytes):
    text = pa.array(["é" * 50] * (nbytes // 104))
    return pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), text)


def one_dictionary_in_many_batches():
    return many(stream_of(pa.table({"x": dictionary_of(3 * MIB // 2)})), 8_000)


def nested_dictionary_in_many_batches():
    inner = pa.StructArray.from_arrays([dictionary_of(3 * MIB // 2)], ["inner"])
    outer = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), inner)
    return many(stream_of(pa.table({"x": outer})), 5_000)


def one_dictionary_in_many_columns(columns=4_000):
    text = pa.py_buffer("é".encode() * (MIB // 2))
    shared = encoding(7)
    fields = [field(UTF8, b"%d" % n, _4=shared) for n in range(columns)]
    offsets = struct.pack("<iixxxxxxxx", 0, MIB)
    values = batch(1, [1, 0], [0, 0, 0, 8, 16, MIB])
    places = [number for n in range(columns) for number in (0, 0, 8 * n, 1)]
    indices = batch(1, [1, 0] * columns, places)
    return (
        schema(fields)
        + message(2, table(_0=("q", 7), _1=values), offsets + text.to_pybytes())
        + message(3, indices, bytes(8 * columns))
        + END
    )


def a_dictionary_in_each_batch():
    batches = [pa.table({"x": dictionary_of(1_040)}) for _ in range(1_000)]
    return stream_of(*batches)


def deltas(count=400):
    whole = pa.array(["é" * 50 + str(n) for n in range(count * 20)])
    batches = [
        pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), whole[: 20 * n])
        for n in range(1, count)
    ]
    return stream_of(*[pa.table({"x": each}) for each in batches], emit_dictionary_deltas=True)


def overlapping_buffers(columns=2_000):
    text = "é".encode() * (MIB // 2)
    body = struct.pack("<iixxxxxxxx", 0, MIB) + text
    fields = [field(UTF8, b"%d" % n) for n in range(columns)]
    contents = batch(1, [1, 0] * columns, [0, 0, 0, 8, 16, MIB] * columns)
    return schema(fields) + message(3, contents, body) + END


def one_field_many_times(count=100_000):
    return schema([field(NULL)] * count) + END


def fields_within_fields(count=400):
    leaves = vector([field(NULL)] * count)
    nodes = vector([field(STRUCT, children=leaves)] * count)
    return schema([field(STRUCT, children=nodes)] * count) + bytes(8 * MIB) + END


def one_long_name(count=3_000):
    name = string(b"n" * MIB)
    return schema([field(NULL, name) for _ in range(count)]) + END


def one_long_time_zone(count=3_000):
    zone = table(_1=string(b"z" * MIB))
    return schema([field(10, b"%d" % n, type_=zone) for n in range(count)]) + END


def metadata_of_fields(count=3_000):
    shared = entries(b"key", b"v" * MIB, 10)
    return schema([field(NULL, b"%d" % n, _6=shared) for n in range(count)]) + END


def metadata_of_the_schema():
    return schema([field(NULL)], metadata=entries(b"key", b"v" * MIB, 200_000)) + END


def metadata_of_batches():
    contents = batch(0, [0, 0], [])
    one = message(3, contents, metadata=entries(b"key", b"v" * 100_000, 100_000))
    return schema([field(NULL)]) + one + END


def colliding(count):
    """Return texts of 16 bytes that have one hash, as libstdc++ counts it (MurmurHash64A)."""
    mul, u8 = 0xC6A4A7935BD1E995, np.uint64
    back = pow(mul, -1, 2**64)
    target = u8(12345 * back % 2**64)

    def mix(values):  # which is its own inverse
        return values ^ values >> u8(47)

    digits = [np.arange(200 * count, dtype=u8) // u8(10**n) % u8(10) + u8(48) for n in range(8)]
    first = sum(digit << u8(8 * n) for n, digit in enumerate(digits))
    state = (u8((0xC70F6907 ^ 16 * mul) % 2**64) ^ mix(first * u8(mul)) * u8(mul)) * u8(mul)
    second = mix((state ^ target) * u8(back)) * u8(back)
    joined = np.stack([first, second], 1).tobytes()
    names = (joined[start : start + 16] for start in range(0, len(joined), 16))
    return [*islice(filter(_is_text, names), count)]


def _is_text(name):
    try:
        return bool(name.decode())
    except UnicodeDecodeError:
        return False


def colliding_names(count=8_000):
    names = colliding(count)
    assert len(set(names)) == count
    return schema([field(NULL, name) for name in names]) + END


def colliding_dictionaries(count=10_000):
    step = 15_173  # as many buckets as libstdc++ has for them
    fields = [field(NULL, b"%d" % n, _4=encoding(n * step)) for n in range(count)]
    return schema(fields) + END


def empty_batches_of_many_columns(columns=1_000, batches=500):
    one = message(3, batch(0, [0, 0] * columns, []))
    return schema([field(NULL, b"%d" % n) for n in range(columns)]) + one * batches + END


def batches_of_dictionaries_alone(fields=2_000, batches=2_000):
    """Return batches of one column each, whose dictionary has many."""
    wide = [field(NULL, b"%d" % n) for n in range(fields)]
    values = message(2, table(_0=("q", 1), _1=batch(0, [0, 0] * (fields + 1), [0, 0])))
    one = message(3, batch(0, [0, 0], [0, 0, 0, 0]))
    return schema([field(STRUCT, children=wide, _4=encoding(1))]) + values + one * batches + END


def messages_without_columns(count=8_000):
    return schema([]) + message(3, batch(0, [], [])) * count + END


def unions(mode=1):
    """Return a union without items, on which `nbytes` crashes."""
    column = field(14, children=[field(NULL)], type_=table(_0=("h", mode)))
    buffers = [0, 0] * (1 + mode)
    return schema([column]) + message(3, batch(0, [0, 0, 0, 0], buffers)) + END


def runs_of_timestamps():
    type_ = pa.run_end_encoded(pa.int32(), pa.timestamp("ns", "Europe/Rome"))
    return pa.schema([("x", type_)]).serialize().to_pybytes() + END


def rows_of(kind, rows=2**30, type_=None, columns=1_000, children=(), nodes=(), buffers=()):
    fields = [field(kind, b"%d" % n, children, type_) for n in range(columns)]
    nodes = [rows, rows if kind == NULL else 0, *nodes]
    return schema(fields) + message(3, batch(rows, nodes * columns, [*buffers] * columns)) + END


def rows_without_columns():
    return schema([]) + message(3, batch(2**62, [], [])) + END


def runs(rows=2**40):
    ends = table(_0=("i", 64), _1=("B", 1))
    children = [field(INT, b"run_ends", type_=ends), field(NULL, b"values")]
    column = field(22, children=children)
    contents = batch(rows, [rows, 0, 1, 0, 1, 1], [0, 0, 0, 8])
    return schema([column]) + message(3, contents, struct.pack("<q", rows)) + END


def wide_items(kind):
    type_ = table(_0=("i", 2**31 - 1))
    return schema([field(kind, children=[field(NULL)] * (kind == LIST_SIZE), type_=type_)]) + END


def lists_of_lists():
    inner = field(NULL)
    for _ in range(10):
        inner = field(LIST_SIZE, children=[inner], type_=table(_0=("i", 1_000)))
    return schema([inner]) + END


def negative_lists():
    type_ = table(_0=("i", -(2**31)))
    return schema([field(LIST_SIZE, children=[field(NULL)], type_=type_)]) + END


def nested(levels=100):
    inner = field(NULL)
    for _ in range(levels):
        inner = field(STRUCT, children=[inner])
    return schema([inner]) + END


def list_views(type_=pa.list_view):
    return pa.schema([("x", type_(pa.int8()))]).serialize().to_pybytes() + END


def list_views_within():
    inner = pa.struct([("x", pa.list_(pa.list_view(pa.int8())))])
    return pa.schema([("x", inner)]).serialize().to_pybytes() + END


def other_byte_order():
    return schema([field(INT, type_=INT8)], order=1) + END


def compressed_unseen():
    """Return a body that is compressed as Arrow 0.17 did it, by the metadata of its message."""
    packed = pa.Codec("zstd").compress(bytes(256 * MIB), asbytes=True)
    body = struct.pack("<q", 256 * MIB) + packed
    body += bytes(-len(body) % 8)
    metadata = entries(b"ARROW:experimental_compression", b"ZSTD", 1)
    contents = batch(256 * MIB, [256 * MIB, 0], [0, 0, 0, len(packed) + 8])
    column = field(INT, type_=INT8)
    return schema([column]) + message(3, contents, body, version=3, metadata=metadata) + END


def buffers_without_end(count=200_000):
    contents = batch(0, [0, 0], [0, 0] * (2 + count), [count])
    return schema([field(VIEW)]) + message(3, contents) + END


def wide_schema(columns=20_000):
    return schema([field(NULL, b"%d" % n) for n in range(columns)]) + END


def wrong_batch(nodes, buffers, counts=None, body=bytes(64)):
    column = field(INT, type_=INT8)
    return schema([column]) + message(3, batch(1, nodes, buffers, counts), body) + END


#: Each by its name; what is made of them has to stay within the bounds, whether it is refused
#: or read.
STREAMS: dict[str, Callable[[], bytes]] = {
    "text views of one buffer": lambda: one_view(pa.string_view()),
    "views of one buffer": lambda: one_view(pa.binary_view()),
    "views in lists": views_in_lists,
    "views in a dictionary": views_in_a_dictionary,
    "negative views": negative_views,
    "one dictionary in many batches": one_dictionary_in_many_batches,
    "a nested dictionary in many batches": nested_dictionary_in_many_batches,
    "one dictionary in many columns": one_dictionary_in_many_columns,
    "a dictionary in each batch": a_dictionary_in_each_batch,
    "deltas": deltas,
    "overlapping buffers": overlapping_buffers,
    "one field many times": one_field_many_times,
    "fields within fields": fields_within_fields,
    "one long name": one_long_name,
    "one long time zone": one_long_time_zone,
    "metadata of fields": metadata_of_fields,
    "metadata of the schema": metadata_of_the_schema,
    "metadata of batches": metadata_of_batches,
    "colliding names": colliding_names,
    "colliding dictionaries": colliding_dictionaries,
    "empty batches of many columns": empty_batches_of_many_columns,
    "batches of dictionaries alone": batches_of_dictionaries_alone,
    "messages without columns": messages_without_columns,
    "dense unions": unions,
    "sparse unions": lambda: unions(0),
    "runs of timestamps": runs_of_timestamps,
    "rows of nulls": lambda: rows_of(NULL),
    "one column of nulls": lambda: rows_of(NULL, columns=1),
    "rows of structs without fields": lambda: rows_of(STRUCT, buffers=[0, 0]),
    "rows of no bytes": lambda: rows_of(
        BINARY_WIDTH, type_=table(_0=("i", 0)), buffers=[0, 0, 0, 0]
    ),
    "rows of empty lists": lambda: rows_of(
        LIST_SIZE, type_=table(), children=[field(NULL)], nodes=[0, 0], buffers=[0, 0]
    ),
    "rows without columns": rows_without_columns,
    "a run without end": runs,
    "wide bytes": lambda: wide_items(BINARY_WIDTH),
    "wide lists": lambda: wide_items(LIST_SIZE),
    "lists of lists": lists_of_lists,
    "negative lists": negative_lists,
    "nested types": nested,
    "list views": list_views,
    "large list views": lambda: list_views(pa.large_list_view),
    "list views within": list_views_within,
    "the other byte order": other_byte_order,
    "compressed unseen": compressed_unseen,
    "buffers without end": buffers_without_end,
    "a wide schema": wide_schema,
    "an unknown type": lambda: schema([field(99)]) + END,
    "two schemas": lambda: schema([field(NULL)]) * 2 + END,
    "a batch without a schema": lambda: message(3, batch(0, [], [])) + END,
    "messages without alignment": lambda: (
        schema([field(INT, type_=INT8)]) + message(3, batch(1, [1, 0], [0, 0, 0, 1]), b"x") + END
    ),
    "an unknown dictionary": lambda: (
        schema([field(NULL)]) + message(2, table(_0=("q", 5), _1=batch(0, [0, 0], []))) + END
    ),
    "too few arrays": lambda: wrong_batch([], [0, 0, 0, 1]),
    "too many arrays": lambda: wrong_batch([1, 0, 1, 0], [0, 0, 0, 1]),
    "too few buffers": lambda: wrong_batch([1, 0], [0, 0]),
    "a negative array": lambda: wrong_batch([-1, 0], [0, 0, 0, 1]),
    "a negative buffer": lambda: wrong_batch([1, 0], [0, -(2**40), 0, 64]),
    "a buffer elsewhere": lambda: wrong_batch([1, 0], [0, 0, 2**40, 1]),
    "buffers of views without views": lambda: wrong_batch([1, 0], [0, 0, 0, 1, 0, 8], [1]),
    "a name that is no text": lambda: schema([field(NULL, b"\xff")]) + END,
    "an inner name that is no text": lambda: (
        schema([field(STRUCT, children=[field(NULL, b"\xff")])]) + END
    ),
}
#: Those that pass Arrow's own validation, and end the process later: most in to_pandas().
CRASHING = ["list views", "large list views", "runs of timestamps", "dense unions"]
#: Those of which a table is made.
READ = ["a dictionary in each batch", "messages without columns", "buffers without end"]


def streams() -> list[bytes]:
    """Return all of them."""
    return [make() for make in STREAMS.values()]
