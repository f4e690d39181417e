"""A server as an object: any attribute is a function of it."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol

from .._envelope import (
    END,
    EXTRA,
    ITEM,
    ITEMS,
    NOTHING,
    ONE,
    OWN,
    REPLY,
    Request,
    encode_request,
)
from ..core import Comm
from ..errors import CommClosedError
from .call import abandon, check_op, choose_families, for_dask, open_answer

__all__ = ["Comms", "Method", "Remote"]


#: Names of options of a call, which are not arguments of the function.
OPTIONS = frozenset({"reply", "close", "serializers", "deserializers"})
FAMILIES = frozenset({"serializers", "deserializers"})


class Comms(Protocol):
    """Where calls get their comms."""

    serializers: Iterable[str] | None
    deserializers: Iterable[str] | None

    @property
    def _take(self) -> Callable[[str], Comm | None]:
        """Returns one that is idle, None where there is none."""

    def reuse(self, addr: str, comm: Comm) -> None:
        """Take one back, open or closed."""

    @property
    def _reuse_sound(self) -> Callable[[str, Comm], None]:
        """Takes one back that has just carried a reply."""

    async def connect(self, addr: str) -> Comm:
        """Return one, when it can be had."""

    def _reason(self, comm: Comm) -> str | None:
        """Return why one in use was given up, None where it was not."""


class Remote:
    """Calls the functions of the server at an address, over the comms of a pool.

    A call, ``await remote.op(x=1)``, takes keyword arguments only, and returns or raises what the
    function did. ``remote.op.stream(...)`` iterates over the messages of a function that sends
    many. ``remote["op"]`` reaches an op of any name, including one that begins with an underscore
    or is the name of an attribute here.

    Four names are options of a call, not arguments: ``reply=False`` waits for no reply,
    ``close=True`` closes the connection after the call, ``serializers=`` and ``deserializers=``
    name the families that may be used, also in a stream. ``remote["op"].call({"reply": 1})``
    passes arguments of any name.
    """

    def __init__(
        self,
        pool: Comms,
        address: str,
        serializers: Iterable[str] | None = None,
        deserializers: Iterable[str] | None = None,
    ) -> None:
        self.address = address
        self._pool = pool
        self._serializers = serializers or pool.serializers
        self._deserializers = deserializers or pool.deserializers

    def __getattr__(self, op: str) -> "Method":
        if op.startswith("_"):
            raise AttributeError(op)
        method = self[op]
        self.__dict__[op] = method  # so that it is looked for only once
        return method

    def __getitem__(self, op: str) -> "Method":
        return Method(op, self.address, self._pool, self._serializers, self._deserializers)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.address}>"


class Method:
    """One op of a server: a call of it is a coroutine."""

    __slots__ = ("_address", "_deserializers", "_head", "_op", "_pool", "_serializers", "_usual")

    def __init__(
        self,
        op: str,
        address: str,
        pool: Comms,
        serializers: Iterable[str] | None,
        deserializers: Iterable[str] | None,
    ) -> None:
        check_op(op)
        self._op = str.__str__(op)
        self._address = address
        self._pool = pool
        self._serializers = serializers
        self._deserializers = deserializers
        self._head = encode_request(Request(self._op))
        self._usual = not (serializers or deserializers)

    def __call__(self, /, *values: Any, **arguments: Any) -> Coroutine[Any, Any, Any]:
        if values:
            raise self._no_name(values)
        if OPTIONS.isdisjoint(arguments):
            if self._usual:
                return self._perform(arguments, self._head)
            return self.call(arguments)
        options = {name: arguments.pop(name) for name in OPTIONS & arguments.keys()}
        return self.call(arguments, **options)

    def call(
        self,
        arguments: Mapping[str, Any],
        /,
        *,
        reply: bool = True,
        close: bool = False,
        serializers: Iterable[str] | None = None,
        deserializers: Iterable[str] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Call the function with the arguments in a mapping, whose keys may be any names.

        The keyword arguments here are the options of a call, as in ``remote.op(...)``.
        """
        serializers = serializers or self._serializers
        deserializers = deserializers or self._deserializers
        families = choose_families(serializers, deserializers)
        head = encode_request(Request(self._op, ONE if reply else NOTHING, bool(close), families))
        return self._perform(dict(arguments), head, reply, close, serializers, families)

    # What `send_recv` does, once more: another coroutine in between took 2,000 instructions.
    async def _perform(
        self,
        arguments: dict[str, Any],
        head: bytes,
        reply: bool = True,
        close: bool = False,
        serializers: Iterable[str] | None = None,
        families: tuple[str, ...] | None = None,
    ) -> Any:
        pool, address = self._pool, self._address
        comm, written = None, False
        answer: bytes | None = None  # the head of the answer
        result = error = None  # its value, and why it could not be opened
        try:
            comm = pool._take(address) or await pool.connect(address)
            if comm.enveloped:
                rest = comm.send(arguments, serializers, head)
            else:
                request = Request(self._op, ONE if reply else NOTHING, bool(close), families)
                rest = comm.send(for_dask(request, arguments), serializers)
            if rest is not None:
                await rest
            written = True
            if reply:
                answer, result, error = await comm.read_enveloped(families)
                while answer == EXTRA:
                    answer, result, error = await comm.read_enveloped(families)
        except BaseException as exc:
            if isinstance(exc, CommClosedError):
                self._note(exc, comm)
            if comm is not None:
                abandon(comm, exc, written)
                pool.reuse(address, comm)
            raise
        if answer == REPLY and error is None and not close:
            pool._reuse_sound(address, comm)
            return result
        try:
            if close:
                await comm.close()
            return open_answer((answer, result, error), comm) if reply else None
        finally:  # cancelled, too: others may use its slot in the pool now
            pool.reuse(address, comm)

    def _note(self, exc: CommClosedError, comm: Comm | None) -> None:
        """Say of which call this is the end, and why the pool gave the comm up, if it did."""
        reason = self._pool._reason(comm) if comm is not None else None
        why = f": {reason}" if reason else ""
        exc.add_note(f"while calling {self._op!r} of {self._address}{why}")

    def _no_name(self, values: tuple[Any, ...]) -> TypeError:
        shown = f"{self._op}({', '.join(map(repr, values)):.60})"
        return TypeError(f"{shown}: a call takes its arguments by name, as in x=1")

    async def stream(self, /, *values: Any, **arguments: Any) -> AsyncIterator[Any]:
        """Iterate over the messages of a stream, on a comm of its own, until the server ends it.

        If the function sends no stream, its result is the only item. ``serializers=`` and
        ``deserializers=`` are as in a call.
        """
        if values:
            raise self._no_name(values)
        chosen = {name: arguments.pop(name) for name in FAMILIES & arguments.keys()}
        serializers = chosen.get("serializers", self._serializers)
        families = choose_families(serializers, chosen.get("deserializers", self._deserializers))
        request = Request(self._op, ITEMS, True, families)
        comm = await self._pool.connect(self._address)
        try:
            if comm.enveloped:
                rest = comm.send(arguments, serializers, encode_request(request))
            else:
                rest = comm.send(for_dask(request, arguments), serializers)
            if rest is not None:
                await rest
            # Our peers say END. Dask's do not, nor do handlers that write and close themselves.
            clean_end = not comm.enveloped
            while True:
                try:
                    head, item, error = await comm.read_enveloped(families)
                except CommClosedError as exc:
                    if exc.clean and clean_end:
                        break
                    self._note(exc, comm)
                    raise
                if head == EXTRA:
                    continue
                if head == END:
                    break
                if head == ITEM and error is not None:
                    raise error
                yield item if head == ITEM else open_answer((head, item, error), comm)
                if head == REPLY:
                    break
                clean_end = head in (None, OWN)
        finally:
            comm.abort()  # what comes after is nobody's
            self._pool.reuse(self._address, comm)
