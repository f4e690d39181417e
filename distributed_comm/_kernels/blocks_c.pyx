# cython: language_level=3, boundscheck=False, wraparound=False
"""Memory for large received frames: recycled when its last view dies.

Large allocations come from the system as pages that fault on their first touch, which
costs more than the copy into them. So a freed block waits in a small pool for the next
frame of its size. The pool is bounded in bytes and in entries and holds no Python object.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc

cdef extern from *:
    """
    #if defined(__linux__)
    #include <stdint.h>
    #include <sys/mman.h>
    static void advise_huge(char *data, Py_ssize_t size) {
        /* Only large blocks gain. All pages of the allocation are advised, with what malloc
           keeps around the block: one that differed would be a mapping of its own, and the
           kernel does not move several at once, so that growing would copy. */
        uintptr_t start = (uintptr_t)data & ~(uintptr_t)4095;
        uintptr_t end = ((uintptr_t)data + (uintptr_t)size + 8 + 4095) & ~(uintptr_t)4095;
        if (size >= (4 << 20))
            (void)madvise((void *)start, end - start, MADV_HUGEPAGE);
    }
    #else
    static void advise_huge(char *data, Py_ssize_t size) { (void)data; (void)size; }
    #endif
    """
    void advise_huge(char *data, Py_ssize_t size) noexcept

cdef enum:
    POOL_BYTES = 65 << 20  # a message of 64 MiB and what is around it, or several smaller ones
    POOL_ENTRIES = 16
    SMALLEST_POOLED = 256 * 1024  # below, malloc recycles well by itself

cdef Py_ssize_t pooled = 0
cdef char* pool_data[POOL_ENTRIES]
cdef Py_ssize_t pool_capacity[POOL_ENTRIES]
cdef int pool_count = 0


cdef char* take(Py_ssize_t size, Py_ssize_t* capacity) noexcept:
    """The smallest pooled memory that holds `size` bytes and wastes at most half, or NULL."""
    global pooled, pool_count
    cdef int i, best = -1
    cdef char* data
    for i in range(pool_count):
        if size <= pool_capacity[i] <= 2 * size and (
            best < 0 or pool_capacity[i] < pool_capacity[best]
        ):
            best = i
    if best < 0:
        return NULL
    data = pool_data[best]
    capacity[0] = pool_capacity[best]
    pooled -= capacity[0]
    pool_count -= 1
    for i in range(best, pool_count):  # the oldest stays first
        pool_data[i] = pool_data[i + 1]
        pool_capacity[i] = pool_capacity[i + 1]
    return data


cdef void give_back(char* data, Py_ssize_t capacity) noexcept:
    """Pool the memory, making room by freeing the oldest, or free it."""
    global pooled, pool_count
    cdef int i
    if capacity < SMALLEST_POOLED or capacity > POOL_BYTES:
        PyMem_RawFree(data)
        return
    while pool_count == POOL_ENTRIES or pooled + capacity > POOL_BYTES:
        PyMem_RawFree(pool_data[0])
        pooled -= pool_capacity[0]
        pool_count -= 1
        for i in range(pool_count):
            pool_data[i] = pool_data[i + 1]
            pool_capacity[i] = pool_capacity[i + 1]
    pool_data[pool_count] = data
    pool_capacity[pool_count] = capacity
    pool_count += 1
    pooled += capacity


cdef class Block:
    """Writable memory that goes back to the pool with its last view."""

    cdef char* data
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity
    cdef int exports

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.exports -= 1

    def __dealloc__(self):
        if self.data != NULL:
            give_back(self.data, self.capacity)


def allocate(Py_ssize_t size, Py_ssize_t eager):
    """See the pure twin; a warm block is handed out whole, for it costs nothing more."""
    if size < 0 or eager < 0:
        raise ValueError("negative count")
    cdef Block block = Block.__new__(Block)
    block.data = take(size, &block.capacity)
    block.size = size
    if block.data == NULL:
        block.size = block.capacity = min(size, eager)
        block.data = <char*>PyMem_RawMalloc(max(block.size, 1))
        if block.data == NULL:
            raise MemoryError()
        advise_huge(block.data, block.size)
    return block


def grow(Block block not None, Py_ssize_t size):
    """See the pure twin."""
    cdef char* data
    if size < block.size:
        raise ValueError("negative count")
    if size == block.size:
        return
    if block.exports:
        raise BufferError("Existing exports of data: object cannot be re-sized")
    if size > block.capacity:
        data = <char*>PyMem_RawRealloc(block.data, size)
        if data == NULL:
            raise MemoryError()
        advise_huge(data, size)
        block.data = data
        block.capacity = size
    block.size = size
