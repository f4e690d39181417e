"""Frames are compressed where it is worth it, as Dask does, and never blow up when read."""

import os
import subprocess
import sys
import zlib
from contextlib import suppress
from functools import cache
from importlib.util import find_spec

import pytest
from gates import TRUSTED
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_comm._serialize import compression
from distributed_comm._serialize.compression import available, compress, decompress

MIB = 1024 * 1024
#: pyproject.toml's extra `compression` brings all of them.
CODECS = ["lz4", "zstd", "snappy", "zlib"]
EASY = b"the same text, again and again; " * 3200
HARD = os.urandom(100_000)

codecs = pytest.mark.parametrize("name", CODECS)


def packed(name, data):
    codec, library = compression._load(name)
    return bytes(codec.compress(library, data))


def test_the_best_codec_that_is_installed_comes_first(monkeypatch):
    assert available() == tuple(CODECS)
    available.cache_clear()
    monkeypatch.setattr(compression, "find_spec", lambda name: name == "zlib" and find_spec(name))
    try:
        assert available() == ("zlib",)
        for call in (lambda: compress("lz4", EASY), lambda: decompress("lz4", EASY, MIB, TRUSTED)):
            with pytest.raises(ValueError, match="compression 'lz4', expected one of zlib"):
                call()
    finally:
        available.cache_clear()


@codecs
@pytest.mark.parametrize("memory", [bytes, bytearray, memoryview])
def test_what_shrinks_is_compressed_and_arrives_writable(name, memory):
    used, frame = compress(name, memory(EASY))
    assert used == name
    assert len(frame) < 0.1 * len(EASY)
    content = decompress(name, memoryview(frame), len(EASY), TRUSTED)
    assert content == EASY
    assert not memoryview(content).readonly


@codecs
@pytest.mark.parametrize("frame", [HARD, EASY[:9_999], b"", HARD[:20_000]])
def test_what_does_not_shrink_or_is_small_is_sent_as_it_is(name, frame):
    used, same = compress(name, frame)
    assert used is None
    assert same is frame


@codecs
def test_samples_decide_before_the_whole_is_compressed(name, monkeypatch):
    calls = []
    codec, _ = compression._load(name)
    counted = compression.Codec(
        codec.library, lambda lib, f: calls.append(len(f)) or codec.compress(lib, f), None
    )
    monkeypatch.setitem(compression.CODECS, name, counted)
    assert compress(name, os.urandom(200_000))[0] is None
    assert calls == [50_000]
    calls.clear()
    assert compress(name, EASY)[0] == name
    assert calls == [50_000, len(EASY)]


@codecs
def test_the_whole_decides_where_the_samples_were_lucky(name):
    frame = bytearray(os.urandom(1_000_000))
    for number in range(5):
        start = (len(frame) - 10_000) * number // 4
        frame[start : start + 10_000] = bytes(10_000)
    assert compress(name, frame)[0] is None


def test_a_frame_of_more_than_two_gib_is_sent_as_it_is(monkeypatch):
    monkeypatch.setattr(compression, "LARGEST", 50_000)
    assert compress("zlib", EASY)[0] is None


# -- Dask -----------------------------------------------------------------------------


@codecs
def test_dask_and_we_read_each_other(name):
    theirs = pytest.importorskip("distributed.protocol.compression")
    used, frame = theirs.maybe_compress(EASY, compression=name)
    assert used == name
    assert decompress(name, frame, len(EASY), TRUSTED) == EASY
    _, frame = compress(name, EASY)
    assert bytes(theirs.compressions[name].decompress(frame)) == EASY


# -- limits and damage ----------------------------------------------------------------


@codecs
@pytest.mark.parametrize("size", [0, 1, 10_000, 100_000])
def test_the_limit_is_exact(name, size):
    frame = packed(name, EASY[:size])
    assert decompress(name, frame, size, TRUSTED) == EASY[:size]
    if size:
        with pytest.raises(ValueError, match="limit of"):
            decompress(name, frame, size - 1, TRUSTED)


@codecs
def test_trailing_and_missing_bytes_are_an_error(name):
    frame = packed(name, EASY)
    longer = [frame + b"\0", frame + b"abc", frame + frame, b"\0" + frame]
    shorter = [frame[:-1], frame[: len(frame) // 2], frame[:3], frame[:1], b""]
    for wrong in longer + shorter:
        with pytest.raises(ValueError, match=r"damaged|cannot be|exceed|without the size"):
            decompress(name, wrong, len(EASY), TRUSTED)


def with_size(name, size, frame):
    """Return the frame with another size in its header."""
    if name == "lz4":
        return size.to_bytes(4, "little") + frame[4:]
    if name == "zstd":  # magic, descriptor, unless in one segment a byte for the window, size
        descriptor = frame[4]
        assert descriptor >> 6 == 2  # a size of 4 bytes
        start = 5 if descriptor & 32 else 6
        return frame[:start] + size.to_bytes(4, "little") + frame[start + 4 :]
    varint = b""
    while frame[0] & 0x80:
        frame = frame[1:]
    while size > 127:
        varint, size = varint + bytes([size & 127 | 128]), size >> 7
    return varint + bytes([size]) + frame[1:]


@pytest.mark.parametrize("name", ["lz4", "zstd", "snappy"])
@pytest.mark.parametrize("size", [0, 1, 99_999, 100_001, MIB, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_size_that_is_not_true_is_an_error(name, size):
    frame = packed(name, EASY[:100_000])
    assert decompress(name, with_size(name, 100_000, frame), MIB, TRUSTED) == EASY[:100_000]
    with pytest.raises(ValueError, match=r"damaged|exceed|cannot be"):
        decompress(name, with_size(name, size, frame), MIB, TRUSTED)


def test_zstd_needs_the_size_and_no_dictionary():
    zstandard = pytest.importorskip("zstandard")
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(EASY)
    words = zstandard.ZstdCompressionDict(EASY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    checked = zstandard.ZstdCompressor(write_checksum=True).compress(EASY)
    with pytest.raises(ValueError, match="without the size"):
        decompress("zstd", unsized, MIB, TRUSTED)
    assert decompress("zstd", checked, MIB, TRUSTED) == EASY
    with pytest.raises(ValueError, match="damaged"):
        decompress("zstd", checked[:-1] + b"x", MIB, TRUSTED)
    with pytest.raises(ValueError, match=r"damaged|dictionary"):
        decompress("zstd", zstandard.ZstdCompressor(dict_data=words).compress(EASY), MIB, TRUSTED)


@cache
def bombs():
    """Return, for each codec, frames of 64 MiB, some of which say that they hold 16."""
    data = bytes(64 * MIB)
    made = {name: [packed(name, data)] for name in ("lz4", "zstd", "snappy")}
    for name, frames in made.items():
        frames.append(with_size(name, 16 * MIB, frames[0]))
    return made | {"zlib": [zlib.compress(data, 1)]}


BOMB = """
import sys
from pathlib import Path
from distributed_comm._serialize.compression import compress, decompress
from distributed_comm._serialize.gate import TRUSTED

def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

name, limit = sys.argv[1], 16 * 1024 * 1024
decompress(name, compress(name, bytes(100_000))[1], limit, TRUSTED)  # loads the library
frame = sys.stdin.buffer.read()
Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts afresh
before = memory("VmRSS")
try:
    decompress(name, frame, limit, TRUSTED)
except ValueError:
    grown = memory("VmHWM") - before
    assert grown <= limit + 1024 * 1024, f"{grown} bytes"
else:
    sys.exit("not refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@codecs
def test_a_bomb_is_refused_in_less_than_the_limit_and_a_mebibyte(name):
    for frame in bombs()[name]:
        command = [sys.executable, "-c", BOMB, name]
        result = subprocess.run(command, input=frame, capture_output=True, timeout=50, check=False)
        assert result.returncode == 0, result.stderr.decode()


@codecs
@settings(max_examples=50)
@given(
    data=st.one_of(
        st.binary(max_size=300), st.binary(min_size=1, max_size=9).map(lambda b: b * 5000)
    )
)
def test_any_bytes_arrive(name, data):
    assert decompress(name, packed(name, data), len(data), TRUSTED) == data
    used, frame = compress(name, data)
    assert frame is data if used is None else decompress(name, frame, len(data), TRUSTED) == data


@codecs
@settings(max_examples=50)
@given(
    data=st.binary(max_size=100).map(lambda b: b * 7),
    damage=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
    cut=st.one_of(st.none(), st.integers(0, 200)),
    more=st.binary(max_size=4),
)
def test_damaged_bytes_give_data_or_a_value_error(name, data, damage, cut, more):
    frame = bytearray(packed(name, data)[:cut] + more)
    for position, value in damage:
        if frame:
            frame[position % len(frame)] = value
    try:
        content = decompress(name, frame, 2000, TRUSTED)
    except ValueError:
        return
    assert len(content) <= 2000


@codecs
@settings(max_examples=50)
@given(frame=st.binary(max_size=50))
def test_random_bytes_give_data_or_a_value_error(name, frame):
    with suppress(ValueError):
        assert len(decompress(name, frame, 1000, TRUSTED)) <= 1000
