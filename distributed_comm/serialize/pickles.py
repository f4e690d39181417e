"""The one place that pickles and unpickles, and the one gate before it.

Whoever can make us open a pickle can run code here, so a peer is asked for trust before
one is opened; and none is sent to a peer that would refuse it for the same reason.
"""

import pickle
from typing import Any

import cloudpickle

from ..errors import MessageError, UnserializableError, UntrustedError
from ..frames import Buffer

__all__ = ["check_trust", "describe", "dumps", "loads"]

HOW_TO_TRUST = (
    "pass trusted=True to connect() and listen() where everybody who can reach the address "
    "may run code in this process, or send plain data: None, bool, int, float, str, bytes, "
    "list, tuple, dict, set"
)


def check_trust(trusted: bool, what: str) -> None:
    """Ask the gate: raise UntrustedError unless the peer is trusted."""
    if not trusted:
        raise UntrustedError(f"{what}, and the peer is not trusted; {HOW_TO_TRUST}")


def describe(obj: Any) -> str:
    """Return what an object is, for an error.

    >>> describe(range(3)), describe(2**64)
    ('an object of type builtins.range', 'an integer beyond 64 bits')
    """
    if isinstance(obj, int):
        return "an integer beyond 64 bits"
    return f"an object of type {type(obj).__module__}.{type(obj).__qualname__}"


def dumps(obj: Any, trusted: bool, protocol: int) -> tuple[bytes, list[memoryview]]:
    """Pickle an object; return the pickle and its out-of-band buffers, as views.

    cloudpickle takes what pickle cannot: lambdas, what ``__main__`` defines, which the
    peer's ``__main__`` does not have, and modules registered to be pickled by value.
    Raises UntrustedError, or UnserializableError, each naming the type.
    """
    check_trust(trusted, f"{describe(obj)} can only be sent as a pickle")
    if not cloudpickle.list_registry_pickle_by_value():
        try:
            data, buffers = _dumps(pickle.dumps, obj, protocol)
            if b"__main__" not in data:
                return data, buffers
        except Exception:  # noqa: S110 - anything may come out of a __reduce__
            pass
    try:
        return _dumps(cloudpickle.dumps, obj, protocol)
    except Exception as exc:
        raise UnserializableError(f"cannot pickle {describe(obj)}: {exc}") from exc


def _dumps(dump: Any, obj: Any, protocol: int) -> tuple[bytes, list[memoryview]]:
    if protocol < 5:  # no out-of-band buffers
        return dump(obj, protocol=protocol), []
    buffers: list[pickle.PickleBuffer] = []
    data = dump(obj, protocol=protocol, buffer_callback=buffers.append)
    return data, [buffer.raw() for buffer in buffers]


def loads(data: Any, buffers: list[Buffer], trusted: bool) -> Any:
    """Undo `dumps`, if the peer is trusted; MessageError for a pickle that fails."""
    check_trust(trusted, "the message holds a pickle")
    try:
        return pickle.loads(data, buffers=buffers)
    except Exception as exc:
        raise MessageError(
            f"a pickle in the message cannot be opened: {str(exc) or repr(exc)}"
        ) from exc
