# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled twin of framing_py, which says what each function means."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.memoryview cimport PyMemoryView_Check
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    CONTROL_TYPE = 0xBC
    CONTROL_SIZE = 3 + 255
    ENVELOPE = 0xC1
    LARGE_FRAME = 64 * 1024

CONTROL = CONTROL_TYPE
LARGE = LARGE_FRAME


cdef inline uint64_t load64(const uint8_t* p) noexcept nogil:
    return (
        <uint64_t>p[0] | <uint64_t>p[1] << 8 | <uint64_t>p[2] << 16 | <uint64_t>p[3] << 24
        | <uint64_t>p[4] << 32 | <uint64_t>p[5] << 40 | <uint64_t>p[6] << 48
        | <uint64_t>p[7] << 56
    )


cdef inline void store64(uint8_t* p, uint64_t value) noexcept nogil:
    cdef int i
    for i in range(8):
        p[i] = <uint8_t>(value >> (8 * i))


# ---------------------------------------------------------------------------
# packing

def pack(list frames not None):
    cdef Py_ssize_t count = PyList_GET_SIZE(frames)
    cdef object frame, message, head
    cdef Py_ssize_t length, before
    cdef uint8_t* out
    if count == 1:
        frame = <object>PyList_GET_ITEM(frames, 0)
        if PyBytes_CheckExact(frame) and PyBytes_GET_SIZE(frame) < LARGE_FRAME:
            # nearly every message: one small frame, one allocation
            length = PyBytes_GET_SIZE(frame)
            message = PyBytes_FromStringAndSize(NULL, 24 + length)
            out = <uint8_t*>PyBytes_AS_STRING(message)
            store64(out, <uint64_t>(16 + length))
            store64(out + 8, 1)
            store64(out + 16, <uint64_t>length)
            memcpy(out + 24, PyBytes_AS_STRING(frame), length)
            return [message]
    elif count == 2:
        head = <object>PyList_GET_ITEM(frames, 0)
        frame = <object>PyList_GET_ITEM(frames, 1)
        if (
            PyBytes_CheckExact(head) and PyBytes_GET_SIZE(head) < LARGE_FRAME
            and PyBytes_CheckExact(frame) and PyBytes_GET_SIZE(frame) < LARGE_FRAME
        ):
            # nearly every other message: the head of an envelope and one small frame
            before, length = PyBytes_GET_SIZE(head), PyBytes_GET_SIZE(frame)
            message = PyBytes_FromStringAndSize(NULL, 32 + before + length)
            out = <uint8_t*>PyBytes_AS_STRING(message)
            store64(out, <uint64_t>(24 + before + length))
            store64(out + 8, 2)
            store64(out + 16, <uint64_t>before)
            store64(out + 24, <uint64_t>length)
            memcpy(out + 32, PyBytes_AS_STRING(head), before)
            memcpy(out + 32 + before, PyBytes_AS_STRING(frame), length)
            return [message]
    elif count == 0:
        raise ValueError("a message has at least one frame")
    return pack_many(frames, count)


cdef flat(frame):
    view = memoryview(frame)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


cdef list pack_many(list frames, Py_ssize_t count):
    cdef list views = [flat(frame) for frame in frames]
    cdef list buffers = []
    cdef Py_ssize_t i, length
    cdef object head = PyBytes_FromStringAndSize(NULL, 16 + 8 * count)
    cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(head)
    cdef uint64_t before = 0, limit
    cdef bint ended = False
    cdef object owner, joined = None
    store64(out + 8, <uint64_t>count)
    for i in range(count):
        length = len(views[i])
        store64(out + 16 + 8 * i, <uint64_t>length)
        if not ended:
            owner = frames[i]
            if PyMemoryView_Check(owner):
                owner = owner.obj
            if not isinstance(owner, bytes):
                if joined is None:
                    limit = max(2048, length // 20)
                    ended = before > limit
                    joined = owner
                else:
                    ended = joined is not owner
        if not ended:
            before += <uint64_t>length
    store64(out, <uint64_t>(8 * (1 + count)) + before)
    parts = [head]
    for i in range(count):
        length = len(views[i])
        if length < LARGE_FRAME:
            parts.append(views[i])
        else:
            append_run(buffers, parts)
            parts = []
            buffers.append(views[i])
    append_run(buffers, parts)
    return buffers


cdef append_run(list buffers, list parts):
    joined = b"".join(parts)
    if joined:
        buffers.append(joined)


# ---------------------------------------------------------------------------
# unpacking

cdef enum Verdict:
    INCOMPLETE
    COMPLETE
    CONTROLLING
    WRONG


cdef struct Limits:
    uint64_t message
    uint64_t frames


cdef Verdict examine(
    const uint8_t* p, Py_ssize_t size, Limits limits, Py_ssize_t* total
) noexcept nogil:
    """What stands at p[:size]; `total` is set for a message that is complete."""
    cdef uint64_t block, count, header, left, acc = 0, length, i
    cdef bint ends
    if size < 16:
        return INCOMPLETE
    block = load64(p)
    count = load64(p + 8)
    if count == 0 or count > limits.frames:
        return WRONG
    if count >= block >> 3:  # the block is shorter than the header; no overflow below
        return WRONG
    header = 8 * (1 + count)
    if block - header > limits.message:
        return WRONG
    if <uint64_t>size - 8 < header:
        return INCOMPLETE
    left = block - header
    ends = left == 0
    for i in range(count):
        length = load64(p + 16 + 8 * i)
        if length > limits.message - acc:
            return WRONG
        acc += length
        ends = ends or acc == left
    if not ends:
        return WRONG
    if acc > <uint64_t>size - 8 - header:
        return INCOMPLETE
    if count == 1 and acc >= 3 and p[24] == 0xC7 and p[26] == CONTROL_TYPE:
        if acc <= CONTROL_SIZE:
            return CONTROLLING
    total[0] = <Py_ssize_t>(8 + header + acc)
    return COMPLETE


cdef list take(const uint8_t* p):
    """The frames of the complete message at p."""
    cdef Py_ssize_t i, length, before, count = <Py_ssize_t>load64(p + 8)
    cdef const uint8_t* body = p + 16 + 8 * count
    length = <Py_ssize_t>load64(p + 16)
    if count == 2 and length and body[0] == ENVELOPE:
        before, length = length, <Py_ssize_t>load64(p + 24)
        return [
            PyBytes_FromStringAndSize(<const char*>body, before),
            PyBytes_FromStringAndSize(<const char*>body + before, length),
        ]
    cdef list frames = [PyBytes_FromStringAndSize(<const char*>body, length)]
    for i in range(1, count):
        body += length
        length = <Py_ssize_t>load64(p + 16 + 8 * i)
        frames.append(PyByteArray_FromStringAndSize(<const char*>body, length))
    return frames


cdef inline check_span(Py_buffer* view, Py_ssize_t start, Py_ssize_t end):
    if not 0 <= start <= end <= view.len:
        raise ValueError(f"span {start}:{end} of a buffer of {view.len} bytes")


def unpack(
    data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t max_message, Py_ssize_t max_frames,
    Py_ssize_t max_count
):
    cdef Py_buffer view
    cdef const uint8_t* p
    cdef Py_ssize_t total = 0
    cdef Limits limits = Limits(max_message, max_frames)
    cdef list messages
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        check_span(&view, start, end)
        p = <const uint8_t*>view.buf
        if max_count > 0 and examine(p + start, end - start, limits, &total) == COMPLETE:
            messages = [take(p + start)]  # not an append: a chunk is mostly one message
            start += total
        else:
            messages = []
        while (
            PyList_GET_SIZE(messages) and PyList_GET_SIZE(messages) < max_count
            and examine(p + start, end - start, limits, &total) == COMPLETE
        ):
            messages.append(take(p + start))
            start += total
    finally:
        PyBuffer_Release(&view)
    return messages, start


def inspect(data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t max_message, Py_ssize_t max_frames):
    cdef Py_buffer view
    cdef const uint8_t* p
    cdef Py_ssize_t total = 0, i
    cdef Limits limits = Limits(max_message, max_frames)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        check_span(&view, start, end)
        p = <const uint8_t*>view.buf + start
        if examine(p, end - start, limits, &total) == WRONG:
            complain(p, end - start, limits)
        if end - start < 16 or <uint64_t>(end - start) - 16 < 8 * load64(p + 8):
            return None
        return [load64(p + 16 + 8 * i) for i in range(<Py_ssize_t>load64(p + 8))]
    finally:
        PyBuffer_Release(&view)


cdef complain(const uint8_t* p, Py_ssize_t size, Limits limits):
    """Raise what the twin raises for the bytes that `examine` found wrong."""
    block, count = load64(p), load64(p + 8)
    if count == 0:
        raise ValueError("a message of no frames")
    if count > limits.frames:
        raise ValueError(f"a message of {count} frames exceeds the limit of {limits.frames}")
    header = 8 * (1 + count)
    if block < header:
        raise ValueError(f"a first block of {block} bytes, expected {header} for {count} lengths")
    if block - header > limits.message:
        raise ValueError(
            f"a message of at least {block - header} bytes exceeds the limit of {limits.message}"
        )
    cdef Py_ssize_t i
    total = sum([load64(p + 16 + 8 * i) for i in range(<Py_ssize_t>load64(p + 8))])
    if total > limits.message:
        raise ValueError(f"a message of {total} bytes exceeds the limit of {limits.message}")
    raise ValueError(f"a first block of {block} bytes that ends inside a frame")
