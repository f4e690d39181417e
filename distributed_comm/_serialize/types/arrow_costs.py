"""What Arrow would take for a stranger's stream, added up before Arrow decodes any of it.

The bytes of a stream may count many times over: several buffers or views in one place, fields
that share their description, a dictionary that is validated with every batch. And what takes no
bytes, such as a row of nulls, takes memory and time all the same. So the metadata are walked
through as Arrow will do it, and the gate is asked for each step. What cannot be added up is
refused: deltas of dictionaries, streams of the other byte order and of Arrow before 1.0. So is
what Arrow accepts but cannot handle: list views, unions, runs of timestamps.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import pickles
from ..gate import Gate
from .arrow_messages import BYTE, INT, LONG, SHORT, Message, Table, longs

__all__ = ["EXTENSION", "Costs"]

#: How a schema names an extension type, in the metadata of a field.
EXTENSION = b"ARROW:extension:name"
#: The version of the metadata since Arrow 1.0; a body may be compressed unseen in those before.
V5 = 4
#: How deep types may be nested; Arrow reads no batches of deeper ones.
DEEPEST = 64

#: Buffers of an array by its type, of Schema.fbs, which begins with 1; a view's has more.
BUFFERS = bytes([0, 0, 2, 2, 3, 3, 2, 2, 2, 2, 2, 2, 2, 1, 0, 2, 1, 2, 2, 3, 3, 2, 0, 2, 2])
TIMESTAMP, UNION, FIXED_SIZE_BINARY, FIXED_SIZE_LIST, RUNS = 10, 14, 15, 16, 22
VIEWS = {23, 24}
LIST_VIEWS = {25, 26}
#: Types that say more of themselves: a time zone, or a size.
SIZED = {TIMESTAMP, FIXED_SIZE_BINARY, FIXED_SIZE_LIST}
#: Bytes of a name that count with its field.
SHORT_NAME = 64


class Cost(NamedTuple):
    """What one thing takes: steps of any work, of such that keeps the interpreter, and memory."""

    work: int
    keep: int
    make: int


# Measured with pyarrow 26 for the types that cost most, and rounded up. What keeps the interpreter
# is dropping the table in the end.
FIELD = Cost(3600, 400, 1024)
ARRAY = Cost(800, 40, 512)
BUFFER = Cost(100, 25, 128)
VIEW = Cost(3000, 0, 0)
ENTRY = Cost(1000, 0, 256)
MESSAGE = Cost(10000, 100, 1024)


def _of_a_batch(arrays: int, buffers: int) -> Cost:
    return Cost(
        MESSAGE.work + arrays * ARRAY.work + buffers * BUFFER.work,
        MESSAGE.keep + arrays * ARRAY.keep + buffers * BUFFER.keep,
        MESSAGE.make + arrays * ARRAY.make + buffers * BUFFER.make,
    )


def _validation(nbytes: int) -> int:
    """Return the steps of validating so many bytes: 1.5 ns each, as short text takes."""
    return nbytes * 3 // 4


@dataclass(slots=True)
class Shape:
    """The arrays of a batch in their order: how many, and of how many buffers without views'.

    ``views`` has the arrays of views: the number of each, and of its first buffer.
    """

    arrays: int = 0
    buffers: int = 0
    views: list[tuple[int, int]] = field(default_factory=list)


class Costs:
    """Adds up the messages of a stream, which is ``size`` bytes long."""

    def __init__(self, gate: Gate, what: str, size: int) -> None:
        self._gate, self._what, self._size = gate, what, size
        self._columns: Shape | None = None
        self._dictionaries: dict[int, Shape] = {}  # of which their values are
        self._uses: Counter[int] = Counter()  # how many fields refer to a dictionary
        self._largest: Counter[int] = Counter()  # bytes of each dictionary
        self._fields = 0  # of all depths, and of dictionaries …
        self._hidden = 0  # … and those that each batch refers to, and does not have
        self._batches = 0
        self._items = 0  # of all arrays

    def add(self, message: Message) -> None:
        """Count what a message takes on its own."""
        if not message.aligned:
            raise ValueError(f"{self._what} with messages that are not aligned to 8 bytes")
        if message.table.number(0, SHORT) != V5:
            raise ValueError(f"{self._what} in the format of an Arrow before 1.0")
        self._add_metadata(message.table, 4)
        if message.batch is None:
            self._count(1, MESSAGE)
            self._add_schema(message.contents)
        elif self._columns is None:
            raise ValueError(f"{self._what} without a schema")
        elif message.kind == "dictionary":
            self._add_dictionary(message, message.batch)
        else:
            self._batches += 1
            self._add_batch(message, message.batch, self._columns, self._hidden)

    def finish(self) -> None:
        """Count what the messages take together."""
        uses = sum(uses * self._largest[number] for number, uses in self._uses.items())
        self._gate.work(
            _validation(self._batches * uses), f"validating the dictionaries of {self._what}"
        )
        # Eight bools to a byte. What takes no memory counts like what takes a byte, for
        # somebody will look at it.
        extra = self._items - 8 * self._size
        if extra > 0:
            self._gate.make(extra, f"{self._what} of {self._items} items without memory")

    def _count(self, count: int, cost: Cost) -> None:
        self._gate.make(count * cost.make, self._what)
        self._gate.keep(count * cost.keep, self._what)
        self._gate.work(count * cost.work, self._what)

    # -- the schema --------------------------------------------------------------------

    def _add_schema(self, schema: Table) -> None:
        if self._columns is not None:
            raise ValueError(f"{self._what} with two schemas")
        if schema.number(0, SHORT) != (sys.byteorder == "big"):
            raise ValueError(f"{self._what} in the other byte order")
        self._columns = Shape()
        self._add_metadata(schema, 2)
        self._add_fields(schema, 1, self._columns, 1, 0)
        self._hidden = self._fields + self._uses.total() - self._columns.arrays

    def _add_fields(self, table: Table, slot: int, shape: Shape, items: int, depth: int) -> None:
        """Count the fields of a vector; an item of their parent has so many ``items``."""
        start, count = table.vector(slot)
        if not count:
            return
        if depth == DEEPEST:
            raise ValueError(f"{self._what} of types that are nested {depth} levels")
        self._fields += count
        self._count(count, FIELD)
        # Arrow keeps names in a hash table, whose hashes anybody can compute: 13 ns a pair.
        self._gate.work(13 * count * count // 4, f"{self._what} of {count} columns")
        for each in table.tables(start, count):
            self._add_field(each, shape, items, depth)

    def _add_field(self, field: Table, shape: Shape, items: int, depth: int) -> None:
        kind = self._kind(field)
        self._add_text(field, 0)
        self._add_metadata(field, 6, extensions=True)
        encoding = field.table(4)
        if encoding is not None:
            shape.arrays += 1
            shape.buffers += 2
            shape = self._dictionary(encoding.number(0, LONG))
        if kind in VIEWS:
            shape.views.append((shape.arrays, shape.buffers))
        shape.arrays += 1
        shape.buffers += BUFFERS[kind]
        if kind in SIZED:
            items *= self._add_type(kind, field, items)
        self._add_fields(field, 5, shape, items, depth + 1)

    def _kind(self, field: Table) -> int:
        """Return the type of a field, unless Arrow's own code crashes on it."""
        kind = field.number(2, BYTE)
        if kind in LIST_VIEWS:
            raise ValueError(f"{self._what} with list views, which to_pandas() may not survive")
        if kind == UNION:  # of which `nbytes` may not survive an empty one
            pickles.check_trust(self._gate.trusted, f"the message holds {self._what} with unions")
        if not 0 < kind < len(BUFFERS):
            raise ValueError(f"{self._what} with a column of the unknown type {kind}")
        if kind == RUNS and TIMESTAMP in self._kinds(field):
            raise ValueError(f"{self._what} with runs of timestamps, which crash to_pandas()")
        return kind

    def _kinds(self, runs: Table) -> list[int]:
        """Return the types of the ends and of the values of runs."""
        start, count = runs.vector(5)
        return [child.number(2, BYTE) for child in runs.tables(start, min(count, 2))]

    def _dictionary(self, number: int) -> Shape:
        """Return the shape of a dictionary that one more field refers to."""
        self._uses[number] += 1
        self._gate.work(13 * len(self._uses) // 2, f"{self._what} of dictionaries")
        shape = Shape()
        self._dictionaries.setdefault(number, shape)
        return shape

    def _add_type(self, kind: int, field: Table, items: int) -> int:
        """Count what a type says of itself; return how many items of its child an item has."""
        table = field.table(3)
        if table is None:  # which Arrow refuses
            return 1
        if kind == TIMESTAMP:
            self._add_text(table, 1)
            return 1
        size = table.number(0, INT)
        if size < 0:
            raise ValueError(f"{self._what} with items of the size {size}")
        self._gate.make(items * size, f"an item of {self._what}")
        return size if kind == FIXED_SIZE_LIST else 1

    def _add_text(self, table: Table, slot: int) -> None:
        """Count a name, of which Arrow has copies. UnicodeDecodeError where it is no text."""
        start, count = table.vector(slot, 1)
        if count > SHORT_NAME:
            self._gate.make(4 * count, f"the names in {self._what}")
        if count:
            str(table.data[start : start + count], "utf-8")

    def _add_metadata(self, table: Table, slot: int, extensions: bool = False) -> None:
        """Count the metadata that a user has added, of which Arrow has copies."""
        start, count = table.vector(slot)
        if not count:
            return
        self._count(count, ENTRY)
        for entry in table.tables(start, count):
            place, length = entry.vector(0, 1)
            if extensions and entry.data[place : place + length] == EXTENSION:
                raise ValueError(
                    f"{self._what} with extension types, of which the header says nothing"
                )
            self._gate.make(4 * (length + entry.vector(1, 1)[1]), f"the metadata of {self._what}")

    # -- batches and dictionaries ------------------------------------------------------

    def _add_dictionary(self, message: Message, batch: Table) -> None:
        number = message.contents.number(0, LONG)
        if message.contents.number(2, BYTE):
            raise ValueError(f"{self._what} with deltas of dictionaries")
        shape = self._dictionaries.get(number)
        if shape is None:
            raise ValueError(f"{self._what} with a dictionary that no column refers to")
        nbytes = self._add_batch(message, batch, shape)
        self._largest[number] = max(self._largest[number], nbytes)

    def _add_batch(self, message: Message, batch: Table, shape: Shape, hidden: int = 0) -> int:
        """Count the arrays of a message; return how many bytes are validated in them.

        So many ``hidden`` ones, of dictionaries, are resolved and validated again for it.
        """
        data = batch.data
        nodes, arrays = batch.vector(1, 16)
        first, buffers = batch.vector(2, 16)
        work, keep, make = _of_a_batch(arrays, buffers)
        self._gate.make(make, self._what)
        self._gate.keep(keep, self._what)
        self._gate.work(work + hidden * ARRAY.work, self._what)
        variadic, views = batch.vector(4, 8) if shape.views else (0, 0)
        if arrays != shape.arrays or views != len(shape.views):
            raise ValueError(f"{self._what} whose batches have other columns than its schema")
        counts = [count for piece in longs(data, variadic, views) for count in piece]
        if min(counts, default=0) < 0 or buffers != shape.buffers + sum(counts):
            raise ValueError(f"{self._what} with {buffers} buffers in a batch")
        nbytes = self._sum(data, first, buffers, odd=True)
        if nbytes > len(message.body):
            raise ValueError(f"{self._what} whose buffers overlap")
        self._items += batch.number(0, LONG) + self._sum(data, nodes, arrays, odd=False)
        if shape.views:
            nbytes += self._add_views(batch, message.body, shape, counts)
        self._gate.work(_validation(nbytes), f"validating {self._what}")
        return nbytes

    def _sum(self, data: memoryview, start: int, count: int, odd: bool) -> int:
        """Return the sum of the first or of the second numbers of pairs, none of them negative."""
        total = 0
        for piece in longs(data, start, 2 * count):
            numbers = piece[odd::2]
            if min(numbers) < 0:
                raise ValueError(f"{self._what} with an array of the length {min(numbers)}")
            total += sum(numbers)
        return total

    def _add_views(self, batch: Table, body: memoryview, shape: Shape, counts: list[int]) -> int:
        """Count what views refer to, which may all be the same; return how many bytes that is."""
        self._count(len(counts), VIEW)
        nodes, _ = batch.vector(1, 16)
        first, _ = batch.vector(2, 16)
        total = added = 0
        for (array, buffer), count in zip(shape.views, counts, strict=True):
            (items,) = LONG.unpack_from(batch.data, nodes + 16 * array)
            (start,) = LONG.unpack_from(batch.data, first + 16 * (buffer + added + 1))
            added += count
            views = body[max(start, 0) : max(start, 0) + 16 * items]
            self._gate.work(len(views) // 2, f"validating the views of {self._what}")
            total += _sum_of_views(views)
        # Whoever looks at text that is there many times has as many copies.
        self._gate.make(max(0, total - len(body)), f"the text that views of {self._what} repeat")
        return total


def _sum_of_views(views: memoryview) -> int:
    """Return the sum of the lengths of views, which have 16 bytes each; a negative one is huge."""
    numpy: Any = sys.modules.get("numpy")  # which pyarrow imports, if it is there
    whole = len(views) & ~15
    total = 0
    for start in range(0, whole, 2**20):
        numbers = views[start : min(start + 2**20, whole)].cast("I")[::4]
        total += int(numpy.add.reduce(numbers, dtype="u8")) if numpy else sum(numbers)
    return total
