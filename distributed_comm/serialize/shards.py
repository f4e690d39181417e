"""What Dask does to frames on their way, undone: compressed, cut into shards, made read-only."""

from typing import Any

from ..frames import Buffer, Frames
from . import compression as codecs
from .gate import Gate

__all__ = ["compress_all", "decompress_all", "join_shards", "set_writeable"]


def compress_all(name: str, frames: Frames) -> tuple[tuple[str | None, ...], Frames]:
    """Return how each frame is compressed, by this codec or not at all, and the frames."""
    pairs = [codecs.compress(name, frame) for frame in frames]
    return tuple(used for used, _ in pairs), [frame for _, frame in pairs]


def decompress_all(header: dict[str, Any], frames: Frames, limit: int, gate: Gate) -> Frames:
    """Undo compression; ValueError where it is not known, or damaged.

    Raises TooLongError where all frames together become more than ``limit`` bytes, before they do.
    """
    compression = header.get("compression")
    if not compression or not any(compression):
        return frames
    if type(compression) is not tuple or len(compression) != len(frames):
        raise ValueError(f"compression {compression!r:.60} of {len(frames)} frames")
    decompressed: Frames = []
    pairs = [*zip(compression, frames, strict=True)]
    limit -= sum(memoryview(frame).nbytes for name, frame in pairs if not name)
    for name, frame in pairs:
        if name:
            frame = codecs.decompress(name, frame, limit, gate)  # noqa: PLW2901
            limit -= memoryview(frame).nbytes
        decompressed.append(frame)
    return decompressed


def join_shards(header: dict[str, Any], frames: Frames, gate: Gate) -> Frames:
    """Undo Dask's cutting of large frames, which copies what was cut."""
    if "split-num-sub-frames" not in header:
        return frames
    joined: Frames = []
    done = 0
    for count, offset in zip(header["split-num-sub-frames"], header["split-offsets"], strict=True):
        shards = frames[done : done + count]
        if offset != done or len(shards) != count:  # else one frame could be copied again and again
            raise ValueError(f"shards {offset} to {offset + count}, expected some from {done} on")
        joined.append(shards[0] if count == 1 else bytearray().join(shards))
        done += count
    return joined


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
        return bytearray(view)
    return view if writeable else view.toreadonly()
