"""What the benchmark sends: one small message, and arrays of any size.

Arrays are numpy's where numpy is installed. Without it the senders send ``bytes`` and the
receivers of the bare systems receive into a ``bytearray``, which zeroes its memory first.
"""

import os
from types import ModuleType
from typing import Any

import msgpack

np: ModuleType | None
try:
    import numpy as np
except ImportError:
    np = None

# Shaped like what a worker reports; of bytes, numbers, text and a boolean, nothing is missing
# but a list, which comes back as a tuple from some systems and would not compare equal.
MESSAGE: dict[str, Any] = {"op": "task-finished", "key": "inc-1234", "nbytes": 28, "ok": True}

_SEED_BYTES = 64 * 1024


def encode(message: object) -> bytes:
    """The message as the bare systems frame it: a length of 4 bytes, then msgpack."""
    body: bytes = msgpack.packb(message)
    return len(body).to_bytes(4, "little") + body


def array(size: int) -> Any:
    """An array of random bytes, so that neither compression nor pages of zeros can help."""
    seed = os.urandom(min(size, _SEED_BYTES))
    if np is None:
        return (seed * (size // len(seed) + 1))[:size]
    return np.resize(np.frombuffer(seed, np.uint8), size)


def fresh(size: int) -> Any:
    """Uninitialised memory to receive into, of the kind that a receiver would hand out."""
    return bytearray(size) if np is None else np.empty(size, np.uint8)


def nbytes(buffer: Any) -> int:
    """The size in bytes of anything that has a buffer."""
    return memoryview(buffer).nbytes
