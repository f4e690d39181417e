"""Memory for large received frames: fresh, and grown as bytes arrive.

The compiled twin recycles its blocks, because copying into memory that was never
touched is three times slower than into memory that was; here a bytearray has to do.
"""

__all__ = ["allocate", "grow"]


def allocate(size: int, eager: int) -> bytearray:
    """Return writable memory of ``size`` bytes, or of fewer but at least ``min(size, eager)``.

    A peer has only announced these ``size`` bytes, so what is taken before they
    arrive stays small; the rest comes from `grow`. The contents are arbitrary.
    """
    return bytearray(min(size, eager))


def grow(block: bytearray, size: int) -> None:
    """Enlarge a block in place to ``size`` bytes, keeping its contents.

    Raises BufferError where it would have to move under a view.
    """
    block.extend(bytes(size - len(block)))
