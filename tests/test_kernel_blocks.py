"""Memory for large frames: lazy and growing in both kernels, recycled in the compiled one."""

import gc
import tracemalloc
from ctypes import addressof, c_char

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_comm import _kernels
from distributed_comm._kernels import blocks as chosen
from distributed_comm._kernels import blocks_py

from .twins import each_of

MIB = 1024 * 1024

each_kernel = each_of(chosen, blocks_py)
counts = st.one_of(st.integers(0, 100), st.integers(0, MIB))


@each_kernel
@given(counts, counts)
def test_an_announcement_takes_what_is_asked_for(kernel, size, eager):
    block = kernel.allocate(size, eager)
    assert min(size, eager) <= len(block) <= size
    with memoryview(block) as view:
        assert not view.readonly
        assert (view.format, view.ndim, view.nbytes) == ("B", 1, len(block))


@each_kernel
def test_an_announcement_of_a_huge_frame_takes_little(kernel):
    tracemalloc.start()
    try:
        block = kernel.allocate(2**62, MIB)
        assert len(block) == MIB
        assert tracemalloc.get_traced_memory()[1] <= MIB + 4096
    finally:
        tracemalloc.stop()


@each_kernel
@given(st.lists(counts, min_size=1, max_size=4).map(sorted), st.binary(min_size=1, max_size=9))
def test_growing_keeps_the_contents(kernel, sizes, pattern):
    block = kernel.allocate(sizes[-1], sizes[0])
    length = len(block)
    expected = (pattern * length)[:length]
    memoryview(block)[:] = expected
    for size in sizes:
        if size >= length:
            kernel.grow(block, size)
            assert len(block) == size
            assert memoryview(block)[:length] == expected


@each_kernel
def test_a_block_does_not_move_under_a_view(kernel):
    block = kernel.allocate(8 * MIB + 1, 5)
    with memoryview(block), pytest.raises(BufferError):
        kernel.grow(block, 8 * MIB + 1)
    assert len(block) == 5
    kernel.grow(block, 8 * MIB + 1)
    assert len(block) == 8 * MIB + 1


@each_kernel
def test_a_block_does_not_shrink(kernel):
    block = kernel.allocate(10, 10)
    kernel.grow(block, 10)
    with pytest.raises(ValueError, match=r"^negative count$"):
        kernel.grow(block, 9)


@each_kernel
@pytest.mark.parametrize(("size", "eager"), [(-1, 0), (0, -1), (-(2**62), 5)])
def test_a_negative_size_is_refused(kernel, size, eager):
    with pytest.raises(ValueError, match=r"^negative count$"):
        kernel.allocate(size, eager)


@each_kernel
def test_a_size_that_no_machine_has_is_a_memory_error(kernel):
    block = kernel.allocate(2**62, 10)
    with pytest.raises(MemoryError):
        kernel.grow(block, 2**62)
    assert len(block) == 10  # as it was
    with pytest.raises(MemoryError):
        kernel.allocate(2**62, 2**62)


@each_kernel
@pytest.mark.parametrize("size", [10, MIB])
def test_a_view_keeps_the_memory(kernel, size):
    views = []
    for number in range(4):
        block = kernel.allocate(size, size)
        views.append(memoryview(block)[1:])
        views[-1][:] = bytes([number]) * (size - 1)
        del block
        gc.collect()
    assert [bytes(view) == bytes([n]) * (size - 1) for n, view in enumerate(views)] == [True] * 4


class TestRecycling:
    """What a bytearray cannot do."""

    __test__ = _kernels.kind == "compiled"

    @pytest.fixture(autouse=True)
    def an_empty_pool(self):
        """Push everything out of the pool with one block as large as it, then take that."""
        chosen.allocate(65 * MIB, 65 * MIB)
        self.taken = chosen.allocate(65 * MIB, 65 * MIB)  # untouched, so it costs no memory

    @staticmethod
    def address(block):
        return addressof(c_char.from_buffer(block))

    def test_memory_is_used_again_once_its_last_view_is_gone(self):
        block = chosen.allocate(MIB, MIB)
        address = self.address(block)
        view = memoryview(block)[5:]
        del block
        other = chosen.allocate(MIB, MIB)
        assert self.address(other) != address
        view.release()
        assert self.address(chosen.allocate(MIB, MIB)) == address

    def test_recycled_memory_is_given_whole(self):
        chosen.allocate(2 * MIB, 2 * MIB)
        assert len(chosen.allocate(2 * MIB, 10)) == 2 * MIB
        assert len(chosen.allocate(MIB + 5, 10)) == MIB + 5

    def test_a_grown_block_is_recycled_with_all_that_it_grew_to(self):
        block = chosen.allocate(4 * MIB, 10)
        chosen.grow(block, 4 * MIB)
        address = self.address(block)
        del block
        again = chosen.allocate(4 * MIB, 10)
        assert (self.address(again), len(again)) == (address, 4 * MIB)

    def test_at_most_half_of_recycled_memory_is_wasted(self):
        chosen.allocate(2 * MIB + 2, 2 * MIB + 2)
        assert len(chosen.allocate(MIB, 10)) == 10  # fresh
        assert len(chosen.allocate(MIB + 1, 10)) == MIB + 1
        assert len(chosen.allocate(2 * MIB + 3, 10)) == 10  # nor is it too short

    def test_the_smallest_that_fits_is_taken(self):
        blocks = [chosen.allocate(size, size) for size in (600_000, 500_000, 700_000)]
        address = self.address(blocks[1])
        blocks.clear()
        assert self.address(chosen.allocate(450_000, 10)) == address

    def test_a_recycled_block_grows_within_its_memory_and_beyond_it(self):
        chosen.allocate(2 * MIB, 2 * MIB)
        block = chosen.allocate(MIB, 10)
        memoryview(block)[:] = b"x" * MIB
        address = self.address(block)
        chosen.grow(block, 2 * MIB)
        assert self.address(block) == address
        chosen.grow(block, 3 * MIB)
        assert memoryview(block)[:MIB] == b"x" * MIB

    @pytest.mark.parametrize(
        ("size", "count", "kept"),
        [
            (MIB, 100, 16 * MIB),  # by entries
            (5 * MIB, 20, 65 * MIB),  # by bytes
            (65 * MIB, 3, 65 * MIB),
            (65 * MIB + 1, 3, 0),  # too large
            (256 * 1024 - 1, 100, 0),  # and too small
        ],
    )
    def test_the_pool_is_bounded(self, size, count, kept):
        tracemalloc.start()
        try:
            blocks = [chosen.allocate(size, size) for _ in range(count)]
            assert tracemalloc.get_traced_memory()[0] >= size * count
            blocks.clear()
            assert kept <= tracemalloc.get_traced_memory()[0] <= kept + 4096
        finally:
            tracemalloc.stop()

    def test_the_oldest_makes_room(self):
        oldest = chosen.allocate(MIB, MIB)
        newest = chosen.allocate(3 * MIB, 3 * MIB)
        others = [chosen.allocate(300_000, 300_000) for _ in range(15)]
        del oldest, newest
        others.clear()
        assert len(chosen.allocate(MIB, 10)) == 10
        assert len(chosen.allocate(3 * MIB, 10)) == 3 * MIB
