"""What Dask does to frames on their way, undone: compressed, cut into shards, made read-only."""

from typing import Any

from .._frames import Buffer, Frames
from . import compression as codecs
from .gate import TRUSTED, Gate
from .types.buffers import integers, joined, show

__all__ = ["compress_all", "decompress_all", "join_shards", "set_writeable"]

#: Steps that decompressing a frame takes, whatever is in it.
FRAME_STEPS = 7_500
#: Letters of a codec's name.
LONGEST_NAME = 40


def compress_all(
    name: str, frames: Frames, densest: int | None = None
) -> tuple[tuple[str | None, ...], Frames]:
    """Return how each frame is compressed, by this codec or not at all, and the frames."""
    pairs = [codecs.compress(name, frame, densest) for frame in frames]
    return tuple(used for used, _ in pairs), [frame for _, frame in pairs]


def decompress_all(header: dict[str, Any], frames: Frames, limit: int, gate: Gate) -> Frames:
    """Undo compression; ValueError where it is not known, or damaged.

    Raises TooLongError where all frames together become more than ``limit`` bytes, before they do.
    """
    compression = header.get("compression")
    if not compression:
        return frames
    if type(compression) is not tuple or len(compression) != len(frames):
        raise ValueError(f"compression of {show(compression)}, and {len(frames)} frames")
    if not any(compression):
        return frames
    decompressed: Frames = []
    pairs = [*zip(compression, frames, strict=True)]
    limit -= sum(memoryview(frame).nbytes for name, frame in pairs if not name)
    for name, frame in pairs:
        if name:
            if type(name) is not str or len(name) > LONGEST_NAME:  # which an error would repeat
                raise ValueError(
                    f"a frame compressed by {show(name)}, expected the name of a codec"
                )
            gate.work(FRAME_STEPS, "a compressed frame")
            frame = codecs.decompress(name, frame, limit, gate)  # noqa: PLW2901
            limit -= memoryview(frame).nbytes
        decompressed.append(frame)
    return decompressed


def join_shards(header: dict[str, Any], frames: Frames, gate: Gate) -> Frames:
    """Undo Dask's cutting of large frames, which copies what was cut."""
    if "split-num-sub-frames" not in header:
        return frames
    counts = integers(header["split-num-sub-frames"], "numbers of shards", limit=None)
    offsets = integers(header.get("split-offsets"), "offsets of shards", limit=None)
    whole: Frames = []
    done = 0
    for count, offset in zip(counts, offsets, strict=True):
        shards = frames[done : done + count]
        # else one frame could be copied again and again, or many be made of none
        if offset != done or len(shards) != count or not shards:
            raise ValueError(f"shards {offset} to {offset + count}, expected some from {done} on")
        whole.append(shards[0] if count == 1 else joined(shards, gate))
        done += count
    return whole


def set_writeable(header: dict[str, Any], buffers: Frames) -> Frames:
    """Return buffers that can be written to exactly where the sender's could."""
    if "writeable" not in header:
        return buffers
    return [
        _set_one_writeable(buffer, writeable)
        for buffer, writeable in zip(buffers, header["writeable"], strict=True)
    ]


def _set_one_writeable(buffer: Buffer, writeable: bool) -> Buffer:
    view = memoryview(buffer)
    if writeable and view.readonly:
        return joined([view], TRUSTED)  # a pickle's
    return view if writeable else view.toreadonly()
