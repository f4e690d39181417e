# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled twin of sentinel_py, which says what each function means, and why.

The search is Horspool's over pairs of bytes: it looks at the last two of where a P may be,
which mostly are no pair of P, and goes on 30 bytes behind them. What began in the chunk
before, and what is left at the end of this one, is matched byte by byte.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy, memmove

cdef enum:
    WHOLE = 31  # bytes of P
    LARGE_BUFFER = 64 * 1024

cdef const uint8_t* S = <const uint8_t*>b"7d629535c4f3a6963f566af7d3e3a2d2"
cdef uint8_t escape = 0

SENTINEL = S[:WHOLE + 1]
ESCAPE = bytes((escape,))

# how far P is at least from a place that ends with a pair of this hash and is no P; 0 where
# no pair of P has this hash
cdef uint8_t skip[256]
# the longest shorter beginning of P that ends as P[:n] ends
cdef uint8_t border[WHOLE]


cdef inline uint8_t pair(const uint8_t* p) noexcept nogil:
    """A hash of two bytes, glibc's; what no P contains may share the hash of what one does."""
    return <uint8_t>(p[1] - (p[0] << 3))


cdef fill_tables():
    cdef int i, n
    prefix = SENTINEL[:WHOLE]
    for i in range(WHOLE - 2):
        skip[pair(S + i)] = WHOLE - 2 - i
    if not skip[pair(S + WHOLE - 2)]:
        skip[pair(S + WHOLE - 2)] = WHOLE - 1
    for n in range(1, WHOLE):
        border[n] = max([k for k in range(n) if prefix[:n].endswith(prefix[:k])])


fill_tables()


cdef inline Py_ssize_t advance(Py_ssize_t matched, uint8_t byte) noexcept nogil:
    """How much of a P ends with this byte, where so much ended before it."""
    while byte != S[matched]:
        if not matched:
            return 0
        matched = border[matched]
    return matched + 1


cdef Py_ssize_t find(const uint8_t* p, Py_ssize_t size, Py_ssize_t* matched) noexcept nogil:
    """Where the first P ends, else `size`; `matched` is how much of a P ends before and there."""
    cdef Py_ssize_t i = 0, state = matched[0], distance
    while i < state < WHOLE and i < size:  # it began before p
        state = advance(state, p[i])
        i += 1
    if state < WHOLE and i < size:
        i -= state
        state = 0
        while size - i >= WHOLE:
            distance = skip[pair(p + i + WHOLE - 2)]
            if not distance:  # a branch, which is predicted, so that the next load waits for
                i += WHOLE - 1  # no table: 3 times as fast as adding what the table says
                continue
            if memcmp(p + i, S, WHOLE) == 0:
                matched[0] = WHOLE
                return i + WHOLE
            i += distance
        while i < size:
            state = advance(state, p[i])
            i += 1
    matched[0] = state
    return i


cdef stuff_one(buffer, Py_ssize_t* matched):
    """The buffer, or a stuffed copy."""
    cdef Py_buffer view
    cdef const uint8_t* p
    cdef const uint8_t* end
    cdef uint8_t* out
    cdef Py_ssize_t before = matched[0], count = 0, size
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        p = <const uint8_t*>view.buf
        end = p + view.len
        p += find(p, view.len, matched)
        while matched[0] == WHOLE:
            count += 1
            matched[0] = 0
            p += find(p, end - p, matched)
        if not count:
            return buffer
        stuffed = PyBytes_FromStringAndSize(NULL, view.len + count)
        out = <uint8_t*>PyBytes_AS_STRING(stuffed)
        p = <const uint8_t*>view.buf
        for _ in range(count):
            size = find(p, end - p, &before)
            memcpy(out, p, size)
            out[size] = escape
            out += size + 1
            p += size
            before = 0
        memcpy(out, p, end - p)
        return stuffed
    finally:
        PyBuffer_Release(&view)


def stuff(list buffers not None):
    cdef Py_ssize_t matched = 0
    cdef list stuffed = [stuff_one(buffer, &matched) for buffer in buffers]
    last = stuffed.pop() if stuffed else b""
    if len(last) < LARGE_BUFFER:
        stuffed.append(b"".join((last, SENTINEL)))
    else:
        stuffed += last, SENTINEL
    return stuffed


def unstuff(data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t matched):
    cdef Py_buffer view
    cdef Py_ssize_t kept
    PyObject_GetBuffer(data, &view, PyBUF_WRITABLE)
    try:
        if not (0 <= start <= end <= view.len and 0 <= matched <= WHOLE):
            raise ValueError(
                f"span {start}:{end} of a buffer of {view.len} bytes, {matched} matched"
            )
        kept = unstuff_at(<uint8_t*>view.buf, &start, end, &matched)
        if kept < 0:
            raise ValueError(
                f"byte 0x{(<uint8_t*>view.buf)[start]:02x} behind all but the end of a sentinel"
            )
    finally:
        PyBuffer_Release(&view)
    return kept, start, matched


cdef Py_ssize_t unstuff_at(
    uint8_t* p, Py_ssize_t* offset, Py_ssize_t end, Py_ssize_t* matched
) noexcept nogil:
    """Where what is kept ends, -1 for a wrong byte; `offset` moves to where the search ended."""
    cdef Py_ssize_t start = offset[0], kept = offset[0], size
    while True:
        size = find(p + start, end - start, matched)
        if kept != start:
            memmove(p + kept, p + start, size)
        kept += size
        start += size
        offset[0] = start
        if matched[0] < WHOLE or start == end:
            return kept
        if p[start] == S[WHOLE]:
            p[kept] = p[start]
            offset[0] = start + 1
            matched[0] = WHOLE + 1
            return kept + 1
        if p[start] != escape:
            return -1
        start += 1
        matched[0] = 0
