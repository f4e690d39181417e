# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled twin of frame0_py, which says what each function means."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

SPECIAL, MARKED = 1, 2

cdef enum:
    MOST_LEVELS = 1024
    MULTIPLE = 96
    AMPLE = 64 * 1024
    MOST_STEPS = 10_000_000
    READY = 10
    NUMBER = 30
    EXTRA = 600
    LIST = 150
    DICT = 100
    PAIR = 45
    TRACKED = 150
    ASCII = 40
    TEXT = 100
    BYTES = 25
    SPECIAL_ = 1
    MARKED_ = 2
    BRIEF = 1024
    OBJECT = 2_000
    EXTENSION = 64


cdef bint is_marker(const char* p, Py_ssize_t size) noexcept nogil:
    """Whether p[:size], which begins with two underscores, begins with a marker."""
    return (
        (size >= 7 and memcmp(p, b"__Set__", 7) == 0)
        or (size >= 8 and memcmp(p, b"__Enum__", 8) == 0)
        or (size >= 11 and memcmp(p, b"__Pickled__", 11) == 0)
        or (size >= 14 and memcmp(p, b"__Serialized__", 14) == 0)
    )


cdef bint find_marker(const char* p, Py_ssize_t size) noexcept nogil:
    cdef const char* end = p + size
    while end - p >= 7:
        p = <const char*>memchr(p, c"_", end - p - 1)
        if p == NULL:
            return False
        if p[1] == c"_" and is_marker(p, end - p):
            return True
        p += 1
    return False


def marked(data):
    cdef Py_buffer view
    if PyBytes_CheckExact(data):
        return find_marker(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return find_marker(<const char*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef bint find_tag(const uint8_t* p, Py_ssize_t size) noexcept nogil:
    cdef const uint8_t* end = p + size
    while end - p >= 3:
        p = <const uint8_t*>memchr(p, 0xC7, end - p - 2)
        if p == NULL:
            return False
        if p[1] == 0 and p[2] == 0xBD:
            return True
        p += 1
    return False


cdef inline uint64_t load_big(const uint8_t* p, int width) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(width):
        value = value << 8 | p[i]
    return value


cdef bint find_timestamp(const uint8_t* p, Py_ssize_t size) noexcept nogil:
    """Whether there is one; first by its bytes, which the body of anything else may have, too."""
    cdef const uint8_t* start = p
    cdef const uint8_t* end = p + size
    while end - p >= 2:
        p = <const uint8_t*>memchr(p + 1, 0xFF, end - p - 1)
        if p == NULL:
            return False
        if (p - 1)[0] == 0xD6 or (p - 1)[0] == 0xD7 or (p - 1)[0] == 0x0C:
            return holds_timestamp(start, size)
        while end - p >= 2 and (p + 1)[0] == 0xFF:  # none begins within a run of them
            p += 1
    return False


cdef bint holds_timestamp(const uint8_t* p, Py_ssize_t size) noexcept nogil:
    """Walk from item to item, as far as they are msgpack."""
    cdef Py_ssize_t offset = 0
    cdef uint8_t first
    cdef Item item
    while offset < size:
        first = p[offset]
        offset += 1
        if not describe(first, &item) or offset + item.width > size:
            return False
        if item.width:
            item.length += load_big(p + offset, <int>item.width)
            offset += item.width
        if item.container:
            continue
        if item.length > <uint64_t>(size - offset):
            return False
        if is_extension(first) and p[offset] == 0xFF:
            return True
        offset += <Py_ssize_t>item.length
    return False


def tagged(data):
    cdef Py_buffer view
    cdef const uint8_t* p
    cdef Py_ssize_t size
    if PyBytes_CheckExact(data):
        p = <const uint8_t*>PyBytes_AS_STRING(data)
        size = PyBytes_GET_SIZE(data)
        return find_tag(p, size) or find_timestamp(p, size)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        p = <const uint8_t*>view.buf
        return find_tag(p, view.len) or find_timestamp(p, view.len)
    finally:
        PyBuffer_Release(&view)


cdef enum Fault:
    FINE
    TRUNCATED
    TOO_MANY
    TOO_DEEP
    NOT_MSGPACK
    TRAILING
    COSTLY
    TOO_LONG
    TOO_MANY_STEPS


cdef struct Item:
    Py_ssize_t width  # bytes of the length that follows the first byte
    uint64_t length  # bytes of the body
    uint64_t items  # of a container
    bint container


cdef inline bint describe(uint8_t first, Item* item) noexcept nogil:
    """Fill in what the first byte says; False for the one byte that means nothing."""
    item.width = 0
    item.length = 0
    item.items = 0
    item.container = False
    if first < 0x80 or first >= 0xE0 or first == 0xC0 or first == 0xC2 or first == 0xC3:
        return True
    if first < 0xA0:  # fixmap, fixarray
        item.container = True
        item.items = (first & 0x0F) * (2 if first < 0x90 else 1)
    elif first < 0xC0:  # fixstr
        item.length = first & 0x1F
    elif first == 0xC1:
        return False
    elif first <= 0xC6:  # bin
        item.width = 1 << (first - 0xC4)
    elif first <= 0xC9:  # ext
        item.width = 1 << (first - 0xC7)
        item.length = 1  # the type
    elif first <= 0xCB:  # float
        item.length = 4 << (first - 0xCA)
    elif first <= 0xCF:  # uint
        item.length = 1 << (first - 0xCC)
    elif first <= 0xD3:  # int
        item.length = 1 << (first - 0xD0)
    elif first <= 0xD8:  # fixext
        item.length = 1 + (1 << (first - 0xD4))
    elif first <= 0xDB:  # str
        item.width = 1 << (first - 0xD9)
    else:  # array, map
        item.container = True
        item.width = 2 << ((first - 0xDC) & 1)
    return True


cdef inline uint64_t cost_of_map(uint64_t pairs, uint8_t first_key) noexcept nogil:
    if pairs > 5:
        return 96 * pairs
    if not pairs:
        return 64
    return 184 if 0xA0 <= first_key < 0xC0 or 0xD9 <= first_key <= 0xDB else 224


cdef inline bint is_ascii(const uint8_t* p, uint64_t size) noexcept nogil:
    cdef uint64_t word
    while size >= 8:
        memcpy(&word, p, 8)
        if word & 0x8080808080808080ULL:
            return False
        p += 8
        size -= 8
    while size:
        size -= 1
        if p[size] >= 0x80:
            return False
    return True


cdef inline bint is_special(uint8_t first, const uint8_t* body, uint64_t length) noexcept nogil:
    """Whether an extension is a timestamp or a tag; its type is in the body."""
    return body[0] == 0xFF or (first == 0xC7 and length == 1 and body[0] == 0xBD)


cdef inline bint is_name(const uint8_t* p, uint64_t length) noexcept nogil:
    if p[0] != c"_":
        return False
    if length == 7:
        return memcmp(p, b"__Set__", 7) == 0
    if length == 8:
        return memcmp(p, b"__Enum__", 8) == 0
    if length == 11:
        return memcmp(p, b"__Pickled__", 11) == 0
    return length == 14 and memcmp(p, b"__Serialized__", 14) == 0


cdef Fault examine_msgpack(
    const uint8_t* p, Py_ssize_t size, Py_ssize_t max_depth, uint64_t most, Py_ssize_t* stopped,
    uint64_t* cost, uint64_t* steps, bint* hashes, int* replaced
) noexcept nogil:
    """Check it; ``hashes`` is set where there may be a map or a tag."""
    cdef uint64_t levels[MOST_LEVELS]
    cdef bint maps[MOST_LEVELS]
    cdef bint in_map
    cdef Py_ssize_t depth = 0, offset = 0
    cdef uint64_t pending = 1, declared
    cdef uint8_t first
    cdef Item item
    while pending:
        if offset >= size:
            return TRUNCATED
        first = p[offset]
        offset += 1
        if not describe(first, &item):
            return NOT_MSGPACK
        if item.width:
            if offset + item.width > size:
                return TRUNCATED
            declared = load_big(p + offset, <int>item.width)
            offset += item.width
            if item.container:
                item.items = declared * (2 if first >= 0xDE else 1)
            else:
                item.length += declared
                if item.length == 1:  # as that of a tag
                    hashes[0] = True
        pending -= 1
        while depth and not levels[depth - 1]:
            depth -= 1
        in_map = False
        if depth:
            levels[depth - 1] -= 1
            in_map = maps[depth - 1]
        if item.container:
            pending += item.items
            if pending > <uint64_t>(size - offset):
                return TOO_MANY
            if item.items:
                if depth == max_depth:
                    return TOO_DEEP
                levels[depth] = item.items
                maps[depth] = first >= 0xDE or first < 0x90
                depth += 1
            if in_map:
                steps[0] += TRACKED
            if first >= 0xDE or first < 0x90:
                hashes[0] = True
                cost[0] += cost_of_map(item.items // 2, p[offset] if item.items else 0)
                steps[0] += DICT + PAIR * (item.items // 2)
            else:
                cost[0] += 56 + 16 * item.items
                steps[0] += LIST
        else:
            if item.length > <uint64_t>(size - offset):
                return TRUNCATED
            offset += <Py_ssize_t>item.length
            if is_number(first):
                steps[0] += NUMBER if item.length else READY
                if item.length or first >= 0xE0:
                    cost[0] += 32
            elif is_extension(first):
                steps[0] += EXTRA + item.length // 8
                cost[0] += 176 + item.length
                if is_special(first, p + offset - item.length, item.length):
                    replaced[0] |= SPECIAL_
            elif 0xC4 <= first <= 0xC6:
                steps[0] += BYTES + item.length // 4
                if item.length:
                    cost[0] += 56 + item.length
            elif is_ascii(p + offset - item.length, item.length):
                steps[0] += ASCII + item.length // 4
                if item.length:
                    cost[0] += 56 + item.length
                if 7 <= item.length <= 14 and is_name(p + offset - item.length, item.length):
                    replaced[0] |= MARKED_
            else:
                steps[0] += TEXT + item.length
                cost[0] += 56 + 4 * item.length
        if steps[0] > most:
            return TOO_MANY_STEPS
    stopped[0] = offset
    if offset != size:
        return TRAILING
    return COSTLY if cost[0] > MULTIPLE * <uint64_t>size + AMPLE else FINE


cdef enum Kind:
    ARRAY
    MAP
    SET


cdef struct Level:
    uint64_t left
    uint64_t times
    int64_t keys
    uint64_t first
    uint64_t reach
    bint dense  # whether these two mean anything
    Kind kind


cdef inline bint is_bytes(uint8_t first) noexcept nogil:
    return 0xA0 <= first < 0xC0 or 0xC4 <= first <= 0xC6 or 0xD9 <= first <= 0xDB


cdef inline bint is_number(uint8_t first) noexcept nogil:
    return first < 0x80 or first >= 0xE0 or 0xC0 <= first <= 0xC3 or 0xCA <= first <= 0xD3


cdef inline bint is_extension(uint8_t first) noexcept nogil:
    return 0xC7 <= first <= 0xC9 or 0xD4 <= first <= 0xD8


cdef inline bint is_tag(uint8_t first, uint64_t length, const uint8_t* end) noexcept nogil:
    return 0xC7 <= first <= 0xC9 and length == 1 and (end - 1)[0] == 0xBD


cdef inline bint read_integer(uint8_t first, const uint8_t* body, uint64_t* value) noexcept nogil:
    cdef int width
    if first < 0x80:
        value[0] = first
    elif first >= 0xE0:
        value[0] = <uint64_t>(<int64_t>first - 256)
    elif 0xCC <= first <= 0xD3:
        width = 1 << ((first - 0xCC) & 3)
        value[0] = load_big(body, width)
        if first >= 0xD0 and body[0] >= 0x80 and width < 8:
            value[0] |= ~<uint64_t>0 << 8 * width
    else:
        return False
    return True


cdef inline uint64_t compare(Level* level, uint8_t first, const uint8_t* body) noexcept nogil:
    cdef uint64_t value = 0, distance, keys
    cdef bint integer = read_integer(first, body, &value)
    level.keys += 1
    keys = <uint64_t>level.keys
    if keys == 1:
        level.first = value
        level.reach = 0
        level.dense = integer
    elif level.dense:
        distance = value - level.first
        if integer and level.reach < distance < keys + keys // 2:
            level.reach = distance
            return level.times
        level.dense = False
    return max(level.times, <uint64_t>1) * keys


cdef inline uint64_t take_tag(Level* level, uint8_t sort) noexcept nogil:
    if level.kind != ARRAY or sort == 1 or sort == 4 or sort == 5:
        return 0
    level.kind = SET
    if sort == 2 or sort == 3:
        level.keys = -1
        return 0
    return level.times * OBJECT


cdef bint add_steps(
    const uint8_t* p, Py_ssize_t size, uint64_t most, uint64_t* steps, uint64_t* keys
) noexcept nogil:
    """Whether they stay within the most; p is what `examine_msgpack` has found fine."""
    cdef Level levels[MOST_LEVELS + 1]
    cdef Level* level = &levels[0]
    cdef Py_ssize_t offset = 0
    cdef uint64_t times, weight
    cdef uint8_t first
    cdef bint is_map, is_hashed
    cdef Item item
    level[0] = Level(1, 0, 0, 0, 0, False, ARRAY)
    while offset < size:
        first = p[offset]
        offset += 1
        describe(first, &item)
        is_map = item.container and (first < 0x90 or first >= 0xDE)
        if item.width:
            item.length += load_big(p + offset, <int>item.width)
            if item.container:
                item.items = item.length * (2 if is_map else 1)
            offset += item.width
        while not level.left:
            level -= 1
        times = level.times
        is_hashed = level.kind == SET or (level.kind == MAP and level.left % 2 == 0)
        if is_hashed and not is_bytes(first):
            keys[0] += 1
            times = compare(level, first, p + offset)
            if times > most:
                return False
        level.left -= 1
        if item.container:
            steps[0] += times * (OBJECT if is_map else 4)
            if item.items:
                level += 1
                level[0] = Level(item.items, times, 0, 0, 0, False, MAP if is_map else ARRAY)
        else:
            offset += <Py_ssize_t>item.length
            weight = 1 if is_number(first) and not level.times else 4 + item.length
            if is_tag(first, item.length, p + offset):
                if level.left:
                    steps[0] += take_tag(level, p[offset])
            elif is_extension(first):
                weight += EXTENSION
            steps[0] += times * weight
        if steps[0] > most:
            return False
    return True


def scan(
    data, Py_ssize_t max_depth, uint64_t spent=0, uint64_t most=MOST_STEPS, int64_t little=-1
):
    cdef Py_buffer view
    cdef Py_ssize_t stopped = 0, size
    cdef uint64_t cost = 0, keys = 0, steps = spent
    cdef bint hashes = False
    cdef int replaced = 0
    cdef Fault fault
    if not 0 <= max_depth <= MOST_LEVELS:
        raise ValueError(f"a depth of {max_depth}, expected from 0 to {MOST_LEVELS}")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        size = view.len
        fault = examine_msgpack(
            <const uint8_t*>view.buf, size, max_depth, most, &stopped, &cost, &steps, &hashes,
            &replaced,
        )
        if fault == FINE and hashes and (size > BRIEF or spent):
            if not add_steps(<const uint8_t*>view.buf, size, most, &steps, &keys):
                fault = TOO_LONG
    finally:
        PyBuffer_Release(&view)
    if fault == FINE:
        if not replaced and <int64_t>cost <= little:
            return None
        return steps, cost, replaced
    if fault == TRUNCATED:
        raise ValueError("truncated msgpack")
    if fault == TOO_MANY:
        raise ValueError("msgpack declares more items than bytes are left")
    if fault == TOO_DEEP:
        raise ValueError(f"msgpack nested deeper than {max_depth} levels")
    if fault == NOT_MSGPACK:
        raise ValueError("0xc1 is not msgpack")
    if fault == TOO_MANY_STEPS:
        raise ValueError(
            f"msgpack of {size} bytes with so many items that decoding it may take more than "
            f"{most} steps of 2 ns: only a trusted peer may send as many"
        )
    if fault == TOO_LONG:
        raise ValueError(
            f"{keys} keys or items of sets that are neither str nor bytes, which may take more "
            f"than {most} comparisons: only a trusted peer may send as many"
        )
    if fault == COSTLY:
        raise ValueError(f"msgpack of {size} bytes that would take about {cost} in memory")
    raise ValueError(f"{size - stopped} bytes after the msgpack object")
