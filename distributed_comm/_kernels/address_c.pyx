# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled twin of ``address_py``: the straight way through a well-formed ASCII address.

Only accepting is done here. Whatever else (malformed, beyond ASCII, of another type) goes to
the twin, which answers or raises; so the two can only differ where this one accepts too much.

What was accepted is remembered for a while: the address of a peer is taken apart over and over,
and it is mostly the same object.
"""

from functools import update_wrapper

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uintptr_t
from libc.string cimport memcmp, memcpy

from . import address_py as twin

__all__ = twin.__all__

cdef str DEFAULT_SCHEME = twin.DEFAULT_SCHEME

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object)
    const unsigned char* PyUnicode_1BYTE_DATA(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    str PyUnicode_New(Py_ssize_t, Py_UCS4)
    long PyLong_AsLongAndOverflow(object, int*) noexcept

cdef enum:
    REFUSED = -1
    MAX_PORT = 65535

    ENTRIES = 256  # of a Memo
    LONGEST = 128  # characters: what is longer is not remembered, whoever sent it

    LETTER = 1  # the first of a scheme
    SCHEME = 2
    NAME = 4
    IPV6 = 8

cdef unsigned char CLASSES[128]

for _code in range(128):
    _character = chr(_code)
    CLASSES[_code] = (
        (LETTER if twin.is_scheme(_character) else 0)
        | (SCHEME if twin.is_scheme("a" + _character) else 0)
        | (NAME if twin.is_host(_character) and _character.isprintable() else 0)
        | (IPV6 if twin.is_host(f"[::{_character}]") else 0)
    )


@cython.final
cdef class Memo:
    """The last results by the identity of what they were made of: no hash, no comparison.

    A newer result takes the place of an older one. What an entry refers to stays alive, so
    no other object can be taken for it; it is of an exact type, so it does not change.
    """

    cdef list keys, others, results

    def __cinit__(self):
        self.keys = [None] * ENTRIES
        self.others = [None] * ENTRIES
        self.results = [None] * ENTRIES

    cdef inline object find(self, object key, object other):
        cdef Py_ssize_t i = (<uintptr_t> <PyObject*> key >> 4) % ENTRIES
        if self.keys[i] is key and self.others[i] is other:
            return self.results[i]
        return None

    cdef inline object keep(self, object key, object other, object result, Py_ssize_t size):
        """Remember the result of so many characters, and return it."""
        cdef Py_ssize_t i = (<uintptr_t> <PyObject*> key >> 4) % ENTRIES
        if size <= LONGEST:
            self.keys[i] = key
            self.others[i] = other
            self.results[i] = result
        return result


cdef Memo parsed = Memo(), unparsed = Memo(), split = Memo(), joined = Memo()


cdef inline const unsigned char* ascii_of(object value) noexcept:
    """The characters of an ASCII str, NULL for anything else."""
    if type(value) is str and PyUnicode_IS_ASCII(value):
        return PyUnicode_1BYTE_DATA(value)
    return NULL


cdef inline str new_str(const unsigned char* text, Py_ssize_t size):
    # 12 ns less than a slice, which first looks for the largest character.
    cdef str value = PyUnicode_New(size, 127)
    memcpy(<void*> PyUnicode_1BYTE_DATA(value), text, size)
    return value


cdef inline str new_scheme(const unsigned char* text, Py_ssize_t size):
    # The usual one is never built, 13 ns less, nor has its hash to be computed again.
    if (
        size == PyUnicode_GET_LENGTH(DEFAULT_SCHEME)
        and memcmp(text, PyUnicode_1BYTE_DATA(DEFAULT_SCHEME), size) == 0
    ):
        return DEFAULT_SCHEME
    return new_str(text, size)


cdef inline Py_ssize_t scheme_length(const unsigned char* text, Py_ssize_t size) noexcept:
    """The length of the scheme before the first "://", 0 without a "://"."""
    cdef Py_ssize_t i
    cdef bint valid = size > 0 and CLASSES[text[0]] & LETTER
    for i in range(size - 2):
        if text[i] == c":" and text[i + 1] == c"/" and text[i + 2] == c"/":
            return i if valid else REFUSED
        valid = valid and CLASSES[text[i]] & SCHEME
    return 0


cdef inline Py_ssize_t name_end(
    const unsigned char* text, Py_ssize_t i, Py_ssize_t size
) noexcept:
    """The index behind the name, possibly empty, at *i*."""
    while i < size and CLASSES[text[i]] & NAME:
        i += 1
    return i


cdef inline Py_ssize_t ipv6_end(
    const unsigned char* text, Py_ssize_t i, Py_ssize_t size
) noexcept:
    """The index behind the IPv6 address, and its scope, at *i*."""
    cdef int colons = 0
    cdef Py_ssize_t scope
    while i < size and CLASSES[text[i]] & IPV6:
        colons += text[i] == c":"
        i += 1
    if i < size and text[i] == c"%":
        scope = i + 1
        i = name_end(text, scope, size)
        if i == scope:
            return REFUSED
    return i if colons >= 2 else REFUSED


cdef inline Py_ssize_t host_end(
    const unsigned char* text, Py_ssize_t i, Py_ssize_t size
) noexcept:
    """The index behind the host at *i*, its brackets included."""
    if i == size or text[i] != c"[":
        return name_end(text, i, size)
    i = ipv6_end(text, i + 1, size)
    return i + 1 if 0 < i < size and text[i] == c"]" else REFUSED


cdef inline int port_at(const unsigned char* text, Py_ssize_t i, Py_ssize_t size) noexcept:
    """The port of the ":port" that fills the text from *i* to its end."""
    cdef int port = 0
    if text[i] != c":" or not 2 <= size - i <= 6:
        return REFUSED
    for i in range(i + 1, size):
        if not c"0" <= text[i] <= c"9":
            return REFUSED
        port = port * 10 + text[i] - c"0"
    return port if port <= MAX_PORT else REFUSED


cdef inline int port_of(object value) noexcept:
    """The port that an int is."""
    cdef int overflow = 0
    cdef long port
    if type(value) is not int:
        return REFUSED
    port = PyLong_AsLongAndOverflow(value, &overflow)  # REFUSED, too, when it overflows
    return <int> port if 0 <= port <= MAX_PORT else REFUSED


cdef inline tuple split_host_port(address, default_port):
    """(host, port), or None where that is for the twin to say."""
    cdef const unsigned char* text = ascii_of(address)
    cdef Py_ssize_t start, stop, size
    cdef int port = REFUSED
    cdef tuple parts
    if default_port is not None:
        port = port_of(default_port)
        if port == REFUSED:
            return None
    parts = split.find(address, None)
    if parts is not None or text is NULL:
        return parts
    size = PyUnicode_GET_LENGTH(address)
    start = scheme_length(text, size)
    if start == REFUSED:
        return None
    if start:
        start += 3
    stop = host_end(text, start, size)
    if stop == REFUSED:
        return None
    if stop < size:
        port = port_at(text, stop, size)
    if port == REFUSED:
        return None
    if start < stop and text[start] == c"[":
        parts = new_str(text + start + 1, stop - start - 2), port
    else:
        parts = new_str(text + start, stop - start), port
    return parts if stop == size else split.keep(address, None, parts, size)


cdef inline str bracketed(host):
    """The host as it stands in an address, or None where that is for the twin to say."""
    cdef const unsigned char* text = ascii_of(host)
    cdef Py_ssize_t size
    if text is NULL:
        return None
    size = PyUnicode_GET_LENGTH(host)
    if host_end(text, 0, size) == size:
        return host
    return f"[{<str> host}]" if ipv6_end(text, 0, size) == size else None


def parse_address(addr, strict=False):
    cdef const unsigned char* text
    cdef Py_ssize_t length, size
    parts = parsed.find(addr, None)
    if parts is not None:
        return parts
    text = ascii_of(addr)
    if text is not NULL:
        size = PyUnicode_GET_LENGTH(addr)
        length = scheme_length(text, size)
        if length > 0:
            parts = new_scheme(text, length), new_str(text + length + 3, size - length - 3)
            return parsed.keep(addr, None, parts, size)
        if length == 0 and not strict:
            return DEFAULT_SCHEME, addr
    return twin.parse_address(addr, strict)


def unparse_address(scheme, loc):
    cdef const unsigned char* text
    cdef Py_ssize_t i = 0, size
    addr = unparsed.find(loc, scheme)
    if addr is not None:
        return addr
    text = ascii_of(scheme)
    if text is not NULL and type(loc) is str:
        size = PyUnicode_GET_LENGTH(scheme)
        while i < size and CLASSES[text[i]] & SCHEME:
            i += 1
        if 0 < i == size and CLASSES[text[0]] & LETTER:
            addr = f"{<str> scheme}://{<str> loc}"
            return unparsed.keep(loc, scheme, addr, PyUnicode_GET_LENGTH(addr))
    return twin.unparse_address(scheme, loc)


def normalize_address(addr):
    cdef const unsigned char* text = ascii_of(addr)
    cdef Py_ssize_t length
    if text is not NULL:
        length = scheme_length(text, PyUnicode_GET_LENGTH(addr))
        if length > 0:
            return addr
        if length == 0:
            return f"{<str> DEFAULT_SCHEME}://{<str> addr}"
    return twin.normalize_address(addr)


def parse_host_port(address, default_port=None):
    parts = split_host_port(address, default_port)
    return twin.parse_host_port(address, default_port) if parts is None else parts


def unparse_host_port(host, port=None):
    cdef int number
    text = joined.find(host, port)
    if text is not None:
        return text
    text = bracketed(host)
    if text is not None:
        if port is None:
            return text
        number = port_of(port)
        if number != REFUSED:
            text = f"{text}:{number}"
            return joined.keep(host, port, text, PyUnicode_GET_LENGTH(text))
    return twin.unparse_host_port(host, port)


for _name in __all__:
    # Read the same, too: docstring, annotations, signature.
    update_wrapper(
        globals()[_name], getattr(twin, _name), assigned=("__doc__", "__annotations__"), updated=()
    )
