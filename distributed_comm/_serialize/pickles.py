"""The one place that pickles and unpickles, and the one gate before it.

Whoever can make us open a pickle can run code here, so a peer is asked for trust before
one is opened; and none is sent to a peer that would refuse it for the same reason.

Pickles are written to and read from a file that is written in Python. It costs a small one
nothing worth mentioning, a long one can be given up halfway, and one that is made or opened
in a thread lets the others run every 64 KiB, where pickle.dumps would hold the GIL throughout.
"""

import copyreg
import pickle
import sys
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle

from .._frames import Buffer, Frames
from ..errors import MessageError, UnserializableError, UntrustedError
from .offload import Lengthy
from .wrappers import Unsendable

__all__ = ["check_trust", "describe", "dumps", "loads"]

HOW_TO_TRUST = (
    "let both sides have the same key (programs of one user do, else key= or "
    "DISTRIBUTED_COMM_KEY), pass trusted=True to connect() and listen() where everybody who can "
    "reach the address may run code in this process, or send plain data: None, bool, int, float, "
    "str, bytes, list, tuple, dict, set"
)

Dump = Callable[..., Any]


def check_trust(trusted: bool, what: str) -> None:
    """Ask the gate: raise UntrustedError unless the peer is trusted."""
    if not trusted:
        raise UntrustedError(f"{what}, and the peer is not trusted; {HOW_TO_TRUST}")


def describe(obj: Any) -> str:
    """Return what an object is, for an error.

    >>> describe(range(3)), describe(2**64)
    ('an object of type builtins.range', 'an integer beyond 64 bits')
    """
    if type(obj) is int and not -(2**63) <= obj < 2**64:
        return "an integer beyond 64 bits"
    return f"an object of type {type(obj).__module__}.{type(obj).__qualname__}"


def dumps(obj: Any, trusted: bool, protocol: int, most: int | None = None) -> tuple[bytes, Frames]:
    """Pickle an object; return the pickle and its out-of-band buffers, as views.

    cloudpickle takes what pickle cannot: lambdas, what ``__main__`` defines, which the
    peer's ``__main__`` does not have, and modules registered to be pickled by value.
    Raises UntrustedError, or UnserializableError, each naming the type; Lengthy where the
    pickle gets longer than ``most`` bytes.
    """
    if isinstance(obj, Unsendable):
        obj.refuse()
    check_trust(trusted, f"{describe(obj)} can only be sent as a pickle")
    if not cloudpickle.list_registry_pickle_by_value():
        try:
            data, buffers = _dumps(pickle.Pickler, obj, protocol, most)
            if b"__main__" not in data:
                return data, buffers
        except Lengthy:
            raise
        except Exception:  # noqa: S110 - anything may come out of a __reduce__
            pass
    try:
        return _dumps(cloudpickle.Pickler, obj, protocol, most)
    except Lengthy:
        raise
    except Exception as exc:
        raise UnserializableError(f"cannot pickle {describe(obj)}: {exc}") from exc


class _Sink:
    """A file to write a pickle to, up to a number of bytes."""

    __slots__ = ("_left", "_pieces")

    def __init__(self, most: int | None) -> None:
        self._left = most
        self._pieces: list[bytes] = []

    def write(self, piece: Any) -> int:
        if self._left is not None:
            self._left -= len(piece)
            if self._left < 0:
                raise Lengthy
        # what is not bytes is a view of memory that is gone afterwards
        self._pieces.append(piece if type(piece) is bytes else bytes(piece))
        return len(piece)

    def joined(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


def _dumps(kind: Dump, obj: Any, protocol: int, most: int | None) -> tuple[bytes, Frames]:
    sink = _Sink(most)
    if protocol < 5:  # no out-of-band buffers
        kind(sink, protocol=protocol).dump(obj)
        return sink.joined(), []
    buffers: list[pickle.PickleBuffer] = []
    pickler = kind(sink, protocol=protocol, buffer_callback=buffers.append)
    if kind is pickle.Pickler and "numpy" in sys.modules:
        pickler.dispatch_table = _reductions()
    pickler.dump(obj)
    return sink.joined(), [buffer.raw() for buffer in buffers]


def _reductions() -> Mapping[type, Callable[[Any], Any]]:
    """Return the registrations of the process, and ours for arrays where there is none."""
    array: Any = getattr(sys.modules["numpy"], "ndarray", None)  # None: it is being imported
    return {array: _reduce_array, **copyreg.dispatch_table}


def _reduce_array(array: Any) -> Any:
    """Have times go out of band as integers; numpy would copy them into the pickle."""
    if array.dtype.kind in "mM" and array.flags.forc:
        return type(array).view, (array.view("i8"), array.dtype)
    return array.__reduce_ex__(5)


class _Source:
    """A file to read a pickle from."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: Any) -> None:
        self._data = memoryview(data)
        self._offset = 0

    def read(self, size: int) -> bytes:
        start = self._offset
        self._offset = start + size
        return bytes(self._data[start : start + size])

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        piece = self._data[self._offset : self._offset + len(view)]
        view[: len(piece)] = piece
        self._offset += len(piece)
        return len(piece)

    def readline(self) -> bytes:  # of the protocols 0 and 1
        rest = bytes(self._data[self._offset :])
        return self.read(rest.find(b"\n") + 1 or len(rest))


#: A pickle from this length on is opened piece by piece.
LONG = 1024 * 1024


def loads(data: Any, buffers: list[Buffer], trusted: bool) -> Any:
    """Undo `dumps`, if the peer is trusted; MessageError for a pickle that fails."""
    check_trust(trusted, "the message holds a pickle")
    try:
        if len(data) < LONG:
            return pickle.loads(data, buffers=buffers)
        return pickle.Unpickler(_Source(data), buffers=buffers).load()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # a CancelledError in a pickle must not cancel its reader
        raise MessageError(
            f"a pickle in the message cannot be opened: {str(exc) or repr(exc)}"
        ) from exc
