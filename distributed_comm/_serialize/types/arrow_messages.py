"""The messages of an Arrow stream, looked at before Arrow decodes them.

Their metadata are flatbuffers, of Arrow's Schema.fbs and Message.fbs. Nobody has verified these
bytes yet, so any number in them may be wrong. A position outside of them is a struct.error or a
ValueError; Arrow, which verifies them, refuses such a message as well.
"""

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

__all__ = ["BYTE", "INT", "LONG", "SHORT", "Message", "Table", "longs", "messages"]

BYTE, SHORT, INT, LONG = (Struct(f"<{code}") for code in "BHiq")
#: The slots that a vtable begins with, by how many; no table has a later one that matters here.
SLOTS = [Struct(f"<{count}H") for count in range(8)]
#: Integers that are read at once, so that other threads have their turn between.
PIECE = 4096

#: What a message may be: the first three are those of a stream.
KINDS = {1: "schema", 2: "dictionary", 3: "record batch", 4: "tensor", 5: "sparse tensor"}
#: How a stream marks a message; before Arrow 0.15 it did not.
CONTINUATION = -1


class Table:
    """A table of a flatbuffer, any of whose fields may be absent."""

    __slots__ = ("_slots", "data", "position")

    def __init__(self, data: memoryview, position: int) -> None:
        self.data = data
        self.position = position
        vtable = position - INT.unpack_from(data, position)[0]
        if vtable < 0:  # which struct would count from the end
            raise ValueError("a message of an Arrow stream is damaged: a table without fields")
        count = (SHORT.unpack_from(data, vtable)[0] >> 1) - 2
        self._slots = SLOTS[max(0, min(count, 7))].unpack_from(data, vtable + 4)

    def place(self, slot: int) -> int:
        """Return where a field is, 0 if it is absent."""
        if slot >= len(self._slots) or not self._slots[slot]:
            return 0
        place: int = self.position + self._slots[slot]
        return place

    def number(self, slot: int, form: Struct) -> int:
        slots = self._slots
        if slot >= len(slots) or not slots[slot]:
            return 0
        number: int = form.unpack_from(self.data, self.position + slots[slot])[0]
        return number

    def table(self, slot: int) -> "Table | None":
        place = self.place(slot)
        return Table(self.data, follow(self.data, place)) if place else None

    def vector(self, slot: int, size: int = 4) -> tuple[int, int]:
        """Return where the items of a vector or of a string are, and how many."""
        place = self.place(slot)
        if not place:
            return 0, 0
        start = follow(self.data, place)
        (count,) = INT.unpack_from(self.data, start)
        if not 0 <= count * size <= len(self.data) - start - 4:
            raise ValueError(f"a message of an Arrow stream is damaged: a vector of {count} items")
        return start + 4, count

    def tables(self, start: int, count: int) -> Iterator["Table"]:
        """Yield the tables of a vector."""
        for place in range(start, start + 4 * count, 4):
            yield Table(self.data, follow(self.data, place))


def follow(data: memoryview, place: int) -> int:
    """Follow an offset. One of the upper half would lead before the message."""
    target: int = place + INT.unpack_from(data, place)[0]
    if target < place:
        raise ValueError("a message of an Arrow stream is damaged: an offset that leads back")
    return target


def longs(data: memoryview, start: int, count: int) -> Iterator[tuple[int, ...]]:
    """Yield integers of 64 bits, some at a time."""
    while count > 0:
        piece = min(count, PIECE)
        yield Struct(f"<{piece}q").unpack_from(data, start)
        start += 8 * piece
        count -= piece


class Message(NamedTuple):
    """One of the messages.

    ``table`` says of which kind it is, ``contents`` is what it holds. ``batch`` is the RecordBatch
    that describes the body, if there is one.
    """

    kind: str
    table: Table
    contents: Table
    batch: Table | None
    body: memoryview
    aligned: bool


def messages(stream: memoryview) -> Iterator[Message]:
    """Yield the messages up to the end, as Arrow's MessageDecoder finds them."""
    position = 0
    while position < len(stream):
        (length,) = INT.unpack_from(stream, position)
        position += 4
        if length == CONTINUATION:
            (length,) = INT.unpack_from(stream, position)
            position += 4
        if length == 0:
            return
        start, position = position, position + length
        if not start < position <= len(stream):
            raise ValueError(f"an Arrow stream with {length} bytes of metadata, and then an end")
        data = stream[start:position]
        table = Table(data, follow(data, 0))
        body = table.number(3, LONG)
        end = position + body
        if not position <= end <= len(stream):
            raise ValueError(f"an Arrow stream with a body of {body} bytes, and then an end")
        kind = KINDS.get(table.number(1, BYTE), "unknown")
        contents = _present(table.table(2))
        batch = contents if kind == "record batch" else None
        if kind == "dictionary":
            batch = _present(contents.table(1))
        aligned = not (start | position | end) & 7
        yield Message(kind, table, contents, batch, stream[position:end], aligned)
        position = end


def _present(table: Table | None) -> Table:
    if table is None:
        raise ValueError("a message of an Arrow stream has no contents")
    return table
