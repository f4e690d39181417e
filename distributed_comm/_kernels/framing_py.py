"""Length-prefixed messages, the framing of Dask's tcp comms: the specification.

All integers are unsigned 64-bit little-endian::

    F | N | L[0] … L[N-1] | frame 0 … frame N-1

N frames of L[i] bytes each; F counts what follows it up to the end of some frame,
the "first block" that a receiver may read into one allocation. These functions are
coarse (one call a chunk or a message, never a field) and know no connection.
"""

from itertools import accumulate
from struct import Struct, pack_into

from .._frames import Buffer, Frames

__all__ = ["CONTROL", "LARGE", "inspect", "pack", "unpack"]

#: The type byte of a control message: frame 0 is a msgpack "ext 8" of this (negative,
#: so reserved) type, which no packer produces from an object.
CONTROL = 0xBC
#: The bytes of the longest one; a longer frame is none, whatever it begins with.
CONTROL_SIZE = 3 + 255

#: The first byte of an envelope's head, the frame in front of a message's own.
ENVELOPE = b"\xc1"

#: Frames below this are copied together with their neighbours when they are sent, and
#: through a common block when they are received.
LARGE = 64 * 1024

PRELUDE = Struct("<QQ")


def pack(frames: Frames) -> list[bytes | memoryview]:
    """Return the bytes of one message as few buffers, the first of them with the prelude.

    Frames below LARGE are copied together; a longer one is passed on as a view of its
    own memory. The frames are contiguous; ValueError where there are none.
    """
    count = len(frames)
    if not count:
        raise ValueError("a message has at least one frame")
    views = [_flat(frame) for frame in frames]
    lengths = [view.nbytes for view in views]
    head = bytearray(16 + 8 * count)
    pack_into(f"<{count + 2}Q", head, 0, _first_block(frames, lengths), count, *lengths)
    buffers: list[bytes | memoryview] = []
    run = head
    for view, length in zip(views, lengths, strict=True):
        if length < LARGE:
            run += view
        else:
            if run:
                buffers.append(bytes(run))
                run = bytearray()
            buffers.append(view)
    if run:
        buffers.append(bytes(run))
    return buffers


def _flat(frame: Buffer) -> memoryview:
    """Return a view of single bytes, which a writer can slice by what was sent."""
    view = memoryview(frame)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _first_block(frames: Frames, lengths: list[int]) -> int:
    """Return F as Dask chooses it, so that two arrays never share a receiver's memory.

    Memory that no bytes object owns joins the block unless more than a twentieth of it
    (and 2 kB) stands before it, and so do further parts of it; other memory ends the block.
    """
    total = 8 * (1 + len(frames))
    before = 0
    joined: object = None
    for frame, length in zip(frames, lengths, strict=True):
        owner = frame.obj if isinstance(frame, memoryview) else frame
        if not isinstance(owner, bytes):
            if joined is None:
                if before > max(2048, length // 20):
                    break
                joined = owner
            elif joined is not owner:
                break
        before += length
    return total + before


def unpack(
    data: Buffer, start: int, end: int, max_message: int, max_frames: int, max_count: int
) -> tuple[list[Frames], int]:
    """Copy the whole messages out of ``data[start:end]``; return them and where they end.

    Frame 0 of each is bytes, the others are writable memory of their own. If the first of two
    frames begins with ENVELOPE, the second is the message's frame 0, and bytes as well.
    Stops without a word after ``max_count`` messages, and before a message that is
    incomplete, a control message, or not allowed: `inspect` tells which.
    """
    messages: list[Frames] = []
    view = memoryview(data)
    while len(messages) < max_count:
        try:
            lengths = inspect(view, start, end, max_message, max_frames)
        except ValueError:
            break
        if lengths is None:
            break
        offset = start + 16 + 8 * len(lengths)
        stop = offset + sum(lengths)
        if stop > end or _is_control(view, offset, lengths):
            break
        frames: Frames = [bytes(view[offset : offset + lengths[0]])]
        short = len(lengths) == 2 and frames[0][:1] == ENVELOPE
        offset += lengths[0]
        for length in lengths[1:]:
            frame = view[offset : offset + length]
            frames.append(bytes(frame) if short else bytearray(frame))
            offset += length
        messages.append(frames)
        start = stop
    return messages, start


def _is_control(view: memoryview, offset: int, lengths: list[int]) -> bool:
    return (
        len(lengths) == 1
        and 3 <= lengths[0] <= CONTROL_SIZE
        and view[offset] == 0xC7
        and view[offset + 2] == CONTROL
    )


def inspect(
    data: Buffer, start: int, end: int, max_message: int, max_frames: int
) -> list[int] | None:
    """Return the frame lengths of the message at ``start``, or None before all have come.

    Raises ValueError as soon as the bytes at hand cannot begin a message within the
    limits: ``max_message`` bytes in all frames, ``max_frames`` frames.
    """
    if end - start < 16:
        return None
    block, count = PRELUDE.unpack_from(data, start)
    if count == 0:
        raise ValueError("a message of no frames")
    if count > max_frames:
        raise ValueError(f"a message of {count} frames exceeds the limit of {max_frames}")
    header = 8 * (1 + count)
    if block < header:
        raise ValueError(f"a first block of {block} bytes, expected {header} for {count} lengths")
    if block - header > max_message:
        raise ValueError(
            f"a message of at least {block - header} bytes exceeds the limit of {max_message}"
        )
    if end - start < 8 + header:
        return None
    lengths = list(Struct(f"<{count}Q").unpack_from(data, start + 16))
    total = sum(lengths)
    if total > max_message:
        raise ValueError(f"a message of {total} bytes exceeds the limit of {max_message}")
    if block - header not in accumulate(lengths, initial=0):
        raise ValueError(f"a first block of {block} bytes that ends inside a frame")
    return lengths
