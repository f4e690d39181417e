"""The one place that pickles and unpickles, and the one gate before it.

Whoever can make us open a pickle can run code here, so a peer is asked for trust before
one is opened; and none is sent to a peer that would refuse it for the same reason.
"""

import pickle
from typing import Any

import cloudpickle

from ..errors import MessageError, UnserializableError, UntrustedError
from ..frames import Buffer

__all__ = ["dumps", "loads"]

HOW_TO_TRUST = (
    "pass trusted=True to connect() and listen() where everybody who can reach the address "
    "may run code in this process, or send plain data: None, bool, int, float, str, bytes, "
    "list, tuple, dict, set"
)


def _check_trust(trusted: bool, what: str) -> None:
    """Ask the gate: raise UntrustedError unless the peer is trusted."""
    if not trusted:
        raise UntrustedError(f"{what}, and the peer is not trusted; {HOW_TO_TRUST}")


def dumps(obj: Any, trusted: bool, protocol: int) -> tuple[bytes, list[memoryview]]:
    """Pickle an object; return the pickle and its out-of-band buffers, as views.

    cloudpickle takes what pickle cannot: lambdas, and what ``__main__`` defines, which the
    peer's ``__main__`` does not have. Raises UntrustedError, or UnserializableError,
    each naming the type.
    """
    kind = type(obj)
    name = f"{kind.__module__}.{kind.__qualname__}"
    _check_trust(trusted, f"an object of type {name} can only be sent as a pickle")
    try:
        data, buffers = _dumps(pickle.dumps, obj, protocol)
        if b"__main__" not in data:
            return data, buffers
    except Exception:  # noqa: S110 - anything may come out of a __reduce__
        pass
    try:
        return _dumps(cloudpickle.dumps, obj, protocol)
    except Exception as exc:
        raise UnserializableError(f"cannot pickle an object of type {name}: {exc}") from exc


def _dumps(dump: Any, obj: Any, protocol: int) -> tuple[bytes, list[memoryview]]:
    if protocol < 5:  # no out-of-band buffers
        return dump(obj, protocol=protocol), []
    buffers: list[pickle.PickleBuffer] = []
    data = dump(obj, protocol=protocol, buffer_callback=buffers.append)
    return data, [buffer.raw() for buffer in buffers]


def loads(data: Buffer, buffers: list[Buffer], trusted: bool) -> Any:
    """Undo `dumps`, if the peer is trusted; MessageError for a pickle that fails."""
    _check_trust(trusted, "the message holds a pickle")
    try:
        return pickle.loads(data, buffers=buffers)
    except Exception as exc:
        raise MessageError(f"a pickle in the message cannot be opened: {exc}") from exc
