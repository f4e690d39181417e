"""The codecs that a frame may be compressed with: Dask's names, and their bytes.

A codec is there if its library is, which is loaded when a frame is first compressed with it.
What a peer says about the size of its data is compared with the limit, with what the codec can
make of so few bytes, and with what the message's gate allows, before anything of that size is
allocated.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .._frames import Buffer
from .._kernels import blocks
from .._text import brief
from .gate import Gate

__all__ = ["DENSEST", "TooLongError", "available", "choose", "compress", "decompress"]

#: Frames of other sizes are not worth it, or more than lz4 takes: 2 GiB less 32 MiB.
SMALLEST, LARGEST = 10_000, 0x7E000000
#: What compresses to more than this share of its size is sent as it is.
WORTHWHILE = 0.7
#: What shrinks to less than a thirtieth is sent to strangers as it is. We may be a stranger to
#: them, and then they refuse what grows much beyond what came (`Limits.untrusted_growth`).
DENSEST = 30
SAMPLES, SAMPLE = 5, 10_000
COMPRESSED = "what was compressed"
#: Bytes that are set to zero at once.
ZEROED = 16 * 1024 * 1024
#: Steps that a block of zstd's takes to be walked over.
BLOCK_STEPS = 400
#: zlib, which does not say how much it will make, is given so much at a time, and makes so much.
STEP, PIECE = 512, 64 * 1024


class TooLongError(ValueError):
    """What a frame holds is longer than it may become."""


@dataclass(frozen=True, slots=True)
class Codec:
    """A compression and its library: ``compress(library, frame)``, and back within a limit."""

    library: str
    compress: Callable[[Any, Buffer], Buffer]
    decompress: Callable[[Any, memoryview, int, Gate], Buffer]
    #: What each byte of input may take, in steps of 2 ns, besides those of output: tables of codes.
    steps: int = 20


@cache
def available() -> tuple[str, ...]:
    """Return the names of the codecs that are installed, the best first."""
    return tuple(name for name in CODECS if find_spec(CODECS[name].library.partition(".")[0]))


def choose(wanted: str | None) -> tuple[str, ...]:
    """Return the codecs that may be used: "auto" all that are fast, None none, or one.

    ValueError for one that is not installed.
    """
    if wanted is None:
        return ()
    if wanted == "auto":
        return tuple(name for name in available() if name != "zlib")  # slower than most networks
    if wanted not in available():
        known = ", ".join(("auto", *available()))
        raise ValueError(f"compression={wanted!r:.40}, expected None or one of: {known}")
    return (wanted,)


def _load(name: str) -> tuple[Codec, Any]:
    """Return a codec and its library; ValueError without one."""
    if name not in available():
        raise ValueError(f"compression {brief(name, 40)}, expected one of {', '.join(available())}")
    codec = CODECS[name]
    return codec, import_module(codec.library)


def compress(name: str, frame: Buffer, densest: int | None = None) -> tuple[str | None, Buffer]:
    """Compress a frame if that saves enough; return the codec's name, or None, and the frame.

    With ``densest``, a frame stays as it is if it would shrink to less than that part of it.
    Samples of a long frame are tried first. ValueError for a codec that is not installed.
    """
    codec, library = _load(name)
    view = memoryview(frame)
    size = view.nbytes
    if not SMALLEST <= size <= LARGEST:
        return None, frame
    if size > SAMPLES * SAMPLE:
        sample = _sample(view)
        if len(codec.compress(library, sample)) > WORTHWHILE * len(sample):
            return None, frame
    compressed = codec.compress(library, view)
    if len(compressed) > WORTHWHILE * size or (densest and densest * len(compressed) < size):
        return None, frame
    return name, compressed


def _sample(view: memoryview) -> bytes:
    """Return pieces from the beginning, from the end, and from between them."""
    last = view.nbytes - SAMPLE
    starts = [last * number // (SAMPLES - 1) for number in range(SAMPLES)]
    return b"".join(view[start : start + SAMPLE] for start in starts)


def decompress(name: str, frame: Buffer, limit: int, gate: Gate) -> Buffer:
    """Return what a frame held, in writable memory of at most ``limit`` bytes.

    Raises TooLongError for more than that, ValueError for data that is damaged, ends early or goes
    on, and for a codec that is not installed.
    """
    codec, library = _load(name)
    if limit < 0:  # which zlib takes for no limit
        raise TooLongError(f"{memoryview(frame).nbytes} bytes, compressed, and no room for any")
    gate.work(codec.steps * memoryview(frame).nbytes, COMPRESSED)
    return codec.decompress(library, memoryview(frame), limit, gate)


def _check(
    size: int,
    frame: memoryview,
    limit: int,
    gate: Gate,
    ratio: int | None = None,
    copies: int = 1,
) -> None:
    """Check the size that a frame says its data has; the library makes so many of that."""
    if size > limit:
        raise TooLongError(f"{size} bytes, compressed, exceed the limit of {limit}")
    if ratio is not None and size > ratio * frame.nbytes:
        raise ValueError(f"{size} bytes cannot be compressed to {frame.nbytes}")
    gate.make(copies * size, COMPRESSED)
    gate.work(copies * size // 2, COMPRESSED)


def _room(size: int) -> bytearray | memoryview:
    """Return writable memory; of much the zeros would take all other threads' time."""
    return bytearray(size) if size <= ZEROED else memoryview(blocks.allocate(size, size))


def _damaged(name: str, why: object) -> ValueError:
    return ValueError(f"{name} data is damaged: {why}")


# -- lz4: a block after its size as 4 bytes, little-endian ----------------------------


def _compress_lz4(library: Any, frame: Buffer) -> Buffer:
    return library.compress(frame)  # type: ignore[no-any-return]


def _decompress_lz4(library: Any, frame: memoryview, limit: int, gate: Gate) -> Buffer:
    if frame.nbytes < 5:
        raise _damaged("lz4", f"{frame.nbytes} bytes are too few")
    _check(int.from_bytes(frame[:4], "little"), frame, limit, gate, ratio=255, copies=2)
    try:
        return library.decompress(frame, return_bytearray=True)  # type: ignore[no-any-return]
    except (library.LZ4BlockError, ValueError, MemoryError) as exc:
        raise _damaged("lz4", exc) from exc


# -- zstd: one frame that says the size of its content --------------------------------


def _compress_zstd(library: Any, frame: Buffer) -> Buffer:
    return library.ZstdCompressor().compress(frame)  # type: ignore[no-any-return]


def _decompress_zstd(library: Any, frame: memoryview, limit: int, gate: Gate) -> Buffer:
    try:
        parameters = library.get_frame_parameters(frame)
        size = library.frame_content_size(frame)
        start = library.frame_header_size(frame)
    except library.ZstdError as exc:
        raise _damaged("zstd", exc) from exc
    if size < 0 or parameters.dict_id:
        raise ValueError("zstd data without the size of its content, or with a dictionary")
    _check(size, frame, limit, gate)
    if _zstd_end(frame, start, gate) + 4 * parameters.has_checksum != frame.nbytes:
        raise _damaged("zstd", "it ends early, or goes on")
    content = _room(size)
    try:
        # The whole frame into memory of its size: zstd then needs no window of its own.
        read = library.ZstdDecompressor().stream_reader(frame).readinto(content)
    except library.ZstdError as exc:
        raise _damaged("zstd", exc) from exc
    if read != size:
        raise _damaged("zstd", f"{read} bytes, not {size}")
    return content


def _zstd_end(frame: memoryview, start: int, gate: Gate) -> int:
    """Walk over the blocks, RFC 8878 section 3.1.1.2; return where they end."""
    last = 0
    while not last:
        gate.work(BLOCK_STEPS, COMPRESSED)
        if start + 3 > frame.nbytes:
            raise _damaged("zstd", "it ends early")
        header = int.from_bytes(frame[start : start + 3], "little")
        last, kind = header & 1, header >> 1 & 3
        start += 3 + (1 if kind == 1 else header >> 3)  # kind 1: one byte, repeated
    return start


# -- snappy: a block that begins with its size ----------------------------------------


def _compress_snappy(library: Any, frame: Buffer) -> Buffer:
    return memoryview(library.snappy.compress_raw(frame)).cast("B")


def _decompress_snappy(library: Any, frame: memoryview, limit: int, gate: Gate) -> Buffer:
    try:
        size = library.snappy.decompress_raw_len(frame)
        _check(size, frame, limit, gate, ratio=22)  # an element of 3 bytes copies up to 64
        content = _room(size)
        read = library.snappy.decompress_raw_into(frame, content)
    except library.DecompressionError as exc:
        raise _damaged("snappy", exc) from exc
    if read != size:
        raise _damaged("snappy", f"{read} bytes, not {size}")
    return content


# -- zlib: a stream that does not say its size ----------------------------------------


def _compress_zlib(library: Any, frame: Buffer) -> Buffer:
    return library.compress(frame)  # type: ignore[no-any-return]


def _decompress_zlib(_library: Any, frame: memoryview, limit: int, gate: Gate) -> Buffer:
    inflater = zlib.decompressobj()
    content = bytearray()  # grows in place, where joining pieces would hold all of it twice
    try:
        for start in range(0, frame.nbytes, STEP):
            rest: Any = frame[start : start + STEP]
            piece = None
            while not inflater.eof and (rest or piece is None or len(piece) == PIECE):
                piece = inflater.decompress(rest, PIECE)
                rest = inflater.unconsumed_tail
                if len(content) + len(piece) > limit:
                    raise TooLongError(f"more bytes, compressed, than the limit of {limit}")
                gate.make(len(piece) + len(piece) // 8 + 1, COMPRESSED)  # a bytearray grows ahead
                gate.work(len(piece), COMPRESSED)
                content += piece
            if inflater.eof:
                break
    except zlib.error as exc:
        raise _damaged("zlib", exc) from exc
    if not inflater.eof or inflater.unused_data or start + STEP < frame.nbytes:
        raise _damaged("zlib", "it ends early, or goes on")
    return content


CODECS = {
    "lz4": Codec("lz4.block", _compress_lz4, _decompress_lz4),
    "zstd": Codec("zstandard", _compress_zstd, _decompress_zstd),
    "snappy": Codec("cramjam", _compress_snappy, _decompress_snappy),
    "zlib": Codec("zlib", _compress_zlib, _decompress_zlib, steps=40),
}
