"""The targets, and inputs for them where there is no fuzzer: their seeds, somewhat changed."""

import random
from collections.abc import Iterator
from pathlib import Path

__all__ = ["NAMES", "inputs"]

#: Each is a module `fuzz_NAME`: ``check(data)`` raises where the library is wrong, and
#: ``seeds()`` returns inputs to begin with.
NAMES = sorted(file.stem.removeprefix("fuzz_") for file in Path(__file__).parent.glob("fuzz_*.py"))


def inputs(seeds: list[bytes], count: int) -> Iterator[bytes]:
    """Yield the seeds, and so many of them damaged or crossed; always the same."""
    yield from seeds
    rng = random.Random(1)
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 5)):
            start = rng.randrange(len(data) + 1)
            stop = start + rng.choice([0, 1, 1, 1, 2, 8, 30])
            data[start:stop] = _filling(rng, seeds)
        yield bytes(data)


def _filling(rng: random.Random, seeds: list[bytes]) -> bytes:
    other = rng.choice(seeds)
    start = rng.randrange(len(other) + 1)
    return rng.choice(
        [b"", rng.randbytes(1), rng.randbytes(8), b"\xff" * 8, other[start : start + 20]]
    )
