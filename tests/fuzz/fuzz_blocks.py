"""Memory for large frames: each block holds what was written to it, and nothing of another."""

from typing import Any

from distributed_comm._kernels import blocks as kernel

from .drawing import Draws

KIB = 1024
#: Below and above what is pooled, and beyond the pool.
SIZES = [0, 1, 100, 64 * KIB, 256 * KIB - 1, 256 * KIB, 300 * KIB, 600 * KIB, 2048 * KIB]
MOST = 8


def seeds() -> list[bytes]:
    """Return runs of the same operation, and a mixture."""
    mixture = bytes(n * 7 % 251 for n in range(90))
    return [mixture, bytes([0, 6, 7, 1] * 12), bytes([1, 5, 6, 2, 0, 0, 5, 6, 9, 1] * 6)]


def check(data: bytes) -> None:
    draws, blocks = Draws(data), []
    for number in range(min(len(data) // 3, 40)):
        what, size = draws.number(3), draws.choice(SIZES)
        if what == 0 or not blocks:
            blocks.append(_allocate(size, draws.choice(SIZES), number % 251))
        elif what == 1:
            _grow(*draws.choice(blocks), size)
        if what == 2 or len(blocks) > MOST:
            _check(*blocks.pop(draws.number(len(blocks))))
    for block, filling in blocks:
        _check(block, filling)


def _allocate(size: int, eager: int, filling: int) -> tuple[Any, int]:
    block = kernel.allocate(size, eager)
    assert min(size, eager) <= len(block) <= size
    _fill(block, 0, filling)
    return block, filling


def _grow(block: Any, filling: int, more: int) -> None:
    start = len(block)
    kernel.grow(block, start + more)
    assert len(block) == start + more
    _fill(block, start, filling)


def _fill(block: Any, start: int, filling: int) -> None:
    with memoryview(block) as view:
        view[start:] = bytes([filling]) * (len(view) - start)


def _check(block: Any, filling: int) -> None:
    with memoryview(block) as view:
        assert view.tobytes().count(filling) == len(view)
