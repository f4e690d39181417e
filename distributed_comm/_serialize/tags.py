"""How frame 0 says between two peers of this library what msgpack has no type for.

It is an array that begins with a *tag*, an empty extension, and a number that says of what
kind the array is:

==============  =================================================================
1 TUPLE         the items
2 SET           the items
3 FROZENSET     the items
4 ENUM          module, class and name of a member
5 INTEGER       an integer beyond 64 bits: two's complement, little-endian
6 PICKLED       the index of a header, and of the frames behind it that belong to it …
7 SERIALIZED    … and the same of an object of a family
8 PICKLE        a short pickle without buffers
9 OBJECT        a short object of a family: msgpack, ``[header, frame, …]``
==============  =================================================================

Extensions of a negative type are reserved in msgpack, and its library makes none for a user,
so nothing that is sent can be mistaken for a tag. And where the three bytes of one do not
occur, a message is plain msgpack, and is decoded without a Python call for each list.
"""

from typing import Any

from msgpack import ExtType

__all__ = [
    "ENUM", "FROZENSET", "INTEGER", "MARK", "OBJECT", "PICKLE", "PICKLED", "SERIALIZED", "SET",
    "TAG", "TAG_TYPE", "TUPLE",
]  # fmt: skip

TUPLE, SET, FROZENSET, ENUM, INTEGER, PICKLED, SERIALIZED, PICKLE, OBJECT = range(1, 10)

#: The type of the extension: 0xBD. (0xBC is that of a control message.)
TAG_TYPE = 0xBD - 0x100
#: What msgpack packs as the tag; the class itself takes no negative type.
TAG: Any = tuple.__new__(ExtType, (TAG_TYPE, b""))

#: A byte that msgpack never uses, so no object's frame 0 begins with it: see `_envelope`.
MARK = b"\xc1"
