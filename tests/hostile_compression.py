"""Compressed frames that would take far longer to look through than their bytes."""

import struct
import zlib

import cramjam
import lz4.block
from hostile_arrays import Hostile

__all__ = ["COMPRESSED"]

ZSTD = bytes.fromhex("28b52ffd2000")  # a frame of no bytes, without a checksum
LAST = b"\1\0\0"


def zstd(blocks: int) -> bytes:
    """Return a frame of so many blocks, none of which holds anything (RFC 8878, 3.1.1.2)."""
    return ZSTD + b"\0\0\0" * (blocks - 1) + LAST


def deflated(blocks: int) -> bytes:
    """Return a stream of so many stored blocks without a byte (RFC 1951, 3.2.4)."""
    return b"\x78\x9c" + b"\0\0\0\xff\xff" * (blocks - 1) + b"\1\0\0\xff\xff" + struct.pack(">I", 1)


def frames(codec: str, frame: bytes, count: int = 1) -> Hostile:
    return Hostile("bytes", {}, [frame] * count, {"compression": (codec,) * count})


MANY = 60_000
COMPRESSED = {
    "many frames of zstd": frames("zstd", zstd(1), MANY),
    "many frames of zlib": frames("zlib", zlib.compress(b""), MANY),
    "many frames of lz4": frames("lz4", lz4.block.compress(b""), MANY),
    "many frames of snappy": frames("snappy", bytes(cramjam.snappy.compress_raw(b"")), MANY),
    "many blocks of zstd": frames("zstd", zstd(100_000)),
    "many blocks of zlib": frames("zlib", deflated(400_000)),
    "more blocks of zlib": frames("zlib", deflated(2_000_000)),
}
