"""A stranger's message, decoded as a server does it, and within the bounds of what it may cost."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.offload import Lengthy
from distributed_comm._serialize.settings import LoadOptions
from distributed_comm._wire.budget import Hold
from distributed_comm.errors import MessageError, UnserializableError, UntrustedError

from ..unpickling import no_unpickling
from .comparing import exact
from .costing import MIB, spend
from .receiving import Watched

__all__ = ["DOCUMENTED", "STRANGER", "check_error", "open_message", "refusal", "size", "use"]

#: Why a message cannot be opened, as documented.
DOCUMENTED = (MessageError, UntrustedError, UnserializableError)
#: As the default Limits have it, for a peer of ours.
STRANGER = LoadOptions(typed=True, max_message=256 * MIB)
#: Bytes of an object up to which all of it is looked at.
SMALL = 256 * 1024
#: Characters of an error's text, and of one that is the peer's own.
LONGEST, LONGEST_TOLD = 2000, 25_000


def size(frames: Sequence[bytes]) -> int:
    """Return the bytes of a message on the wire, in the length framing."""
    return sum(map(len, frames)) + 8 * (len(frames) + 2)


def open_message(frames: Sequence[bytes], options: LoadOptions = STRANGER) -> Any:
    """Return a message; or raise why it cannot be opened, which is one of DOCUMENTED.

    No pickle is opened, and it takes no more CPU and memory than its bytes allow. What it holds
    of the budget of strangers is given back.
    """
    budget = Watched(options.max_message or 256 * MIB)

    def attempt() -> Any:
        hold = Hold(budget)
        try:
            return _decode(frames, replace(options, budget=hold))
        finally:
            hold.release()

    message = refused = None
    with no_unpickling():  # which looks at its end, unless an exception passes
        try:
            message = spend(size(frames), attempt)
        except DOCUMENTED as exc:
            refused = exc
    assert budget.used == 0
    if refused is not None:
        check_error(refused)
        raise refused
    return message


def refusal(frames: Sequence[bytes], options: LoadOptions = STRANGER) -> Exception | None:
    """Use what a message holds; return why it cannot be opened, None if it can be."""
    try:
        message = open_message(frames, options)
    except DOCUMENTED as exc:
        return exc
    use(message)
    return None


def check_error(exc: Exception) -> None:
    """Check that an error does not echo a message at length, but for what the peer says itself."""
    longest = LONGEST_TOLD if type(exc) is UnserializableError else LONGEST
    text = str(exc)
    assert len(text) < longest, f"an error of {len(text)} characters: {text[:200]!r}"


def _decode(frames: Sequence[bytes], options: LoadOptions) -> Any:
    """Decode a message, in a thread where that takes long, and once more unopened if it fails."""
    copies = [frames[0], *map(exact, frames[1:])]
    try:
        return loads(copies, options)
    except Lengthy as lengthy:
        return loads(copies, replace(options, most=None), lengthy.opened)
    except DOCUMENTED:
        with suppress(*DOCUMENTED):
            loads(copies, replace(options, deserialize=False, most=None))
        raise


# -- what is done with a message -------------------------------------------------------------


def use(message: Any) -> None:
    """Look at all that a message holds; what is wrong inside of a small object may crash."""
    for obj in _leaves(message):
        if hasattr(obj, "to_batches") or hasattr(obj, "to_pylist"):
            _use_arrow(obj)
        elif getattr(obj, "nbytes", 0) <= SMALL:
            # some dates have no text, and numpy.ma.masked no bytes
            with suppress(ValueError, OverflowError, AttributeError):
                repr(obj)
                if hasattr(obj, "tobytes"):
                    obj.tobytes()
                elif hasattr(obj, "tocoo") and math.prod(obj.shape) <= SMALL:
                    obj.tocoo().sum()


def _use_arrow(table: Any) -> None:
    table.validate(full=True)
    if table.num_rows * max(table.num_columns, 1) <= SMALL // 64 and table.nbytes <= SMALL:
        with suppress(ValueError, NotImplementedError, OverflowError):  # dates past year 9999
            table.to_pylist()


def _leaves(obj: Any) -> Iterator[Any]:
    """Yield what is in no container any more."""
    waiting = [obj]
    while waiting:
        obj = waiting.pop()
        if type(obj) is dict:  # a dok_matrix is one, too
            waiting += [*obj, *obj.values()]
        elif type(obj) in {list, tuple, set, frozenset}:
            waiting += obj
        elif type(obj).__module__ != "builtins" or isinstance(obj, memoryview):
            yield obj
