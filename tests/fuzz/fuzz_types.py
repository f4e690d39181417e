"""A stranger's object of a registered type: it is one, or a documented error says why not."""

from dataclasses import replace
from functools import cache
from typing import Any

from msgpack import packb

from .changing import change, change_all, change_frames
from .directed import directed
from .drawing import Draws, seed
from .samples import OURS, THEIRS, Sample, message, samples
from .strangers import STRANGER, refusal

OF_DASK = replace(STRANGER, typed=False)
#: What is changed: nothing, parts of the type's own header, any part of the header; or the header
#: is another type's, or any bytes.
NOTHING, OWN, ANY, MIXED, RAW = range(5)
KINDS = [NOTHING, OWN, OWN, OWN, ANY, MIXED, RAW]


#: Bytes up to which a sample is changed, too; and of an input that stands for one unchanged.
LIGHT, WHOLE = 20_000, 4


@cache
def templates() -> list[Sample]:
    """Return all samples, those that are to be changed first."""
    every = [*samples(), *directed()]
    return sorted(every, key=_is_heavy)


@cache
def _light() -> int:
    return sum(not _is_heavy(sample) for sample in templates())


def _is_heavy(sample: Sample) -> bool:
    return len(packb(sample.header)) + sum(map(len, sample.frames)) > LIGHT


def seeds() -> list[bytes]:
    """Return each sample unchanged, in turn in each way to send it, and some that are changed."""
    whole = [_seed(n % 3, n, KINDS.index(NOTHING)) for n in range(len(templates()))]
    count = _light()
    parts = [
        _seed(n % 3, n, 1, bytes([1, n, 3, n, 3, 0, n % 16, 1, n, 4, n])) for n in range(count)
    ]
    mixed = [_seed(OURS, n, KINDS.index(MIXED), n + 1, b"\0\0\0") for n in range(count - 1)]
    raw = packb({"serializer": "dask", "type": "bytes", "sub-header": {}, "num-sub-frames": 1})
    return [*whole, *parts, *mixed[::4], _seed(OURS, 0, KINDS.index(RAW), len(raw), 0, raw, b"abc")]


def _seed(how: int, template: int, *rest: int | bytes) -> bytes:
    return seed(how, template.to_bytes(2, "little"), *rest)


def check(data: bytes) -> None:
    draws = Draws(data)
    how = draws.number(3)
    count = len(templates()) if len(data) == WHOLE else _light()
    sample = templates()[draws.number(1 << 16) % count]
    kind = draws.choice(KINDS)
    header, frames = _changed(sample, kind, draws)
    sent = message(header, frames, how)
    if kind == RAW and how == OURS:
        sent = [sent[0], draws.take(draws.number(1 << 16)), draws.rest()]
    refused = refusal(sent, OF_DASK if how == THEIRS else STRANGER)
    if kind == NOTHING and not sample.about:
        assert refused is None, f"{sample.name}: {refused}"


def _changed(sample: Sample, kind: int, draws: Draws) -> tuple[Any, list[bytes]]:
    """Return a whole header and frames."""
    header = sample.whole_header()
    if kind == OWN:
        own, frames = change_all(sample.header, sample.frames, draws)
        return {**header, "sub-header": own}, frames
    if kind == ANY:
        return change(header, draws), change_frames(sample.frames, draws)
    if kind == MIXED:
        other = templates()[draws.number(256) % _light()]
        return {**header, "type": other.name}, change_frames(sample.frames, draws)
    return header, sample.frames
