# ruff: noqa: ARG002 - serializers have no work here, but callers may name them
"""inproc://: objects by reference, between the tasks and the event loops of one process.

Nothing is serialized or copied, so any object can be sent, bytes are not counted, and the
peer is always trusted: it runs in this very process. What was written is shared; a writer
that goes on changing it changes what its reader has. What is wrapped in `Serialize` arrives
without, as everywhere; only the lists and dicts around it are copied for that.
"""

import asyncio
import errno
import itertools
import logging
import os
import warnings
from collections.abc import Awaitable, Iterable
from dataclasses import replace
from functools import cache
from threading import get_ident
from typing import Any

from .._connection.handle_comm import Handling
from .._envelope import NO_REPLY, UNSENDABLE, Envelope, as_data, is_request
from .._kernels import mailbox as kernel
from .._loops import forks
from .._loops.ownership import owner
from .._push import REFUSED, name_ends
from .._serialize.settings import LoadOptions, check_choice
from .._serialize.unwrap import unwrap
from .._serialize.wrappers import made as wrappers_made
from .._text import SHORT, printable
from ..core import Admit, Comm, Connector, Enveloped, HandleComm, Listener
from ..errors import CommClosedError, FatalCommClosedError, LocalProtocolError, MessageError
from ..registry import Backend
from . import ip_sockets as sockets
from .inproc_ends import ABORTED, CLOSED, Departure, End

__all__ = ["InProcBackend"]

SCHEME = "inproc"
EMPTY, NOT_PLAIN = kernel.EMPTY, kernel.NOT_PLAIN
OPENING = LoadOptions(trusted=True, typed=True, most=None)

_numbers = itertools.count(1)
#: Who listens where. No lock: each change is one call of a dict's method, thus atomic.
_listeners: dict[str, "InProcListener"] = {}


@cache
def _host() -> str:
    return sockets.get_ip("")


def _new_location() -> str:
    """Return ``host/pid/n``, which is nobody else's."""
    return f"{_host()}/{os.getpid()}/{next(_numbers)}"


class InProc(Comm):
    """One end of a connection between two tasks; each end belongs to one thread.

    A message is handed over as soon as `write` runs: cancelled while it waits, because
    the peer has 1,000 messages unread, it has been sent.
    """

    trusted = True
    same_host = True
    enveloped = True

    def __init__(self, end: End, deserialize: bool) -> None:
        self._end = end
        self._box = end.box
        self._deserialize = deserialize
        self.own_heads = None

    async def read(self, deserializers: Any = None) -> Any:
        if deserializers is not None:
            check_choice(deserializers=deserializers)
        box = self._box
        while (message := box.take()) is EMPTY:
            try:
                await box
            finally:
                box.reading = box.waiting = False
        if message is NOT_PLAIN:
            message = await self._end.read()
        if type(message) is Envelope:
            try:
                message = as_data(message.head, message.message)
            except MessageError as exc:
                name_ends(exc, self)
                raise
        return self._unwrapped(message, deserializers) if wrappers_made else message

    # Repeats `read`: another coroutine would double the cost.
    async def read_enveloped(
        self, deserializers: Any = None, admit: Admit | None = None
    ) -> Enveloped:
        if deserializers is not None:
            check_choice(deserializers=deserializers)
        box = self._box
        while (message := box.take()) is EMPTY:
            try:
                await box
            finally:
                box.reading = box.waiting = False
        if message is NOT_PLAIN:
            message = await self._end.read()
        head = None
        if type(message) is Envelope:
            head, message = message.head, message.message
        if not wrappers_made:
            return head, message, None
        if head is not None and admit is not None and admit(head).refusal is not None:
            return head, None, None
        try:
            return head, self._unwrapped(message, deserializers), None
        except REFUSED as exc:
            return head, None, exc

    def _unwrapped(self, message: Any, deserializers: Iterable[str] | None) -> Any:
        if not self._deserialize:
            return message
        options = OPENING
        if deserializers is not None:
            options = replace(options, deserializers=tuple(deserializers))
        try:
            return unwrap(message, options)
        except REFUSED as exc:
            name_ends(exc, self)
            raise

    def unread(self) -> int:
        return len(self._box.inbox)

    def is_fresh(self) -> bool:
        return not self._box.inbox and self._box.switch.runs() and self._end.over() is None

    def expect_here(self) -> None:
        self._end.expect_here()

    async def write(self, msg: Any, serializers: Any = None, on_error: str | None = None) -> int:
        if serializers is not None or on_error is not None:
            check_choice(serializers, on_error)
        if msg is NO_REPLY or type(msg) is Envelope:
            msg.refuse()
        if self.own_heads is not None and (head := next(self.own_heads)):
            msg = Envelope(head, msg)
        if not self._box.post(msg):
            await self._end.write(msg)
        return 0

    def send(
        self, msg: Any, serializers: Any = None, head: bytes | None = None
    ) -> Awaitable[Any] | None:
        if head is None:
            return self.write(msg, serializers)
        if serializers is not None:
            check_choice(serializers)
        # Each argument is checked, as a handler may return it; values inside them are not.
        parts = msg.values() if type(msg) is dict and is_request(head) else (msg,)
        if not UNSENDABLE.isdisjoint(map(type, parts)):
            next(part for part in parts if type(part) in UNSENDABLE).refuse()
        return self._post(Envelope(head, msg) if head else msg)

    async def _post(self, msg: Any) -> None:
        if not self._box.post(msg):
            await self._end.write(msg)

    async def close(self) -> None:
        if self.own_heads is not None and self.own_heads.holds():
            return
        self._end.expect_here()
        self._end.leave(CLOSED)

    def abort(self) -> None:
        self._end.leave(ABORTED)

    def dismiss(self, why: str, *, unread: bool = True, logged: bool = False) -> None:
        if not logged:
            ends = f"{self.local_address} -> {self.peer_address}"
            self.log.line(logging.WARNING, "cut a connection: %s: %s", why, ends)
        there = f"ended by the peer, which says: {why}"
        self._end.leave(Departure(why, there, clean=False, readable=unread))

    def closed(self) -> bool:
        return self._end.over() is not None

    @property
    def local_address(self) -> str:
        return self._end.address

    @property
    def peer_address(self) -> str:
        return self._end.peer.address

    @property
    def loss(self) -> CommClosedError | None:
        how = self._end.over()
        return None if how is None or how.clean else self._end.closed_error()

    def stats(self) -> dict[str, int]:
        return {
            "bytes_received": 0,
            "bytes_sent": 0,
            "messages_received": self._end.received(),
            "messages_sent": self._box.sent,
        }

    def __del__(self, _warn: Any = warnings.warn) -> None:
        # _warn is bound here because at the interpreter's end the module may be empty.
        unclosed = None if self.closed() else f"unclosed {self!r}"
        self.abort()  # first: where warnings are errors, the next line raises
        if unclosed:
            _warn(unclosed, ResourceWarning, source=self)


class InProcConnector(Connector):
    """Dials inproc addresses; other arguments, which only bytes need, are accepted."""

    async def connect(self, address: str, deserialize: bool = True, **_: Any) -> InProc:
        listener = _find(address)
        loop, thread = asyncio.get_running_loop(), get_ident()
        end = End(loop, thread, f"{SCHEME}://{_new_location()}")
        listener.dialled_by(end)
        comm = InProc(end, deserialize)
        try:
            await comm.read()  # the listener's greeting: its loop runs, and it still listens
        except BaseException:
            comm.abort()
            raise
        return comm


def _find(loc: str) -> "InProcListener":
    """Return who listens; an OSError that is final where it can only be another process."""
    if not loc:
        raise ValueError(f"cannot connect to '{SCHEME}://': expected a location")
    listener = _listeners.get(loc)
    if listener is not None:
        return listener
    host, _, rest = loc.partition("/")
    pid, _, number = rest.partition("/")
    here = f"{_host()}/{os.getpid()}"
    if pid.isdecimal() and number.isdecimal() and f"{host}/{pid}" != here:
        raise FatalCommClosedError(
            f"{SCHEME}://{loc} is in process {pid} of {host}, "
            f"and this is process {os.getpid()} of {_host()}"
        )
    raise ConnectionRefusedError(f"nobody listens on {SCHEME}://{printable(loc, SHORT)}")


class InProcListener(Listener):
    """Listens on one location of this process, an own one where none is given."""

    def __init__(self, loc: str, handle_comm: HandleComm, deserialize: bool) -> None:
        self._loc = loc or _new_location()
        self._deserialize = deserialize
        self._handling = Handling(handle_comm)
        self._loop: asyncio.AbstractEventLoop | None = None  # once started
        self._thread = 0

    async def start(self) -> None:
        if self._loop is not None and self._thread == forks.ELSEWHERE:
            raise LocalProtocolError(f"{self!r} belongs to the process that this was forked from")
        if self._loop is not None:
            raise LocalProtocolError(f"{self!r} was started already, in {owner(self._loop)}")
        loop = asyncio.get_running_loop()
        for other in list(_listeners.values()):
            other.forget_if_dead()
        self._loop, self._thread = loop, get_ident()
        if _listeners.setdefault(self._loc, self) is not self:
            self._loop = None
            raise OSError(errno.EADDRINUSE, f"{self.listen_address} is in use")
        forks.watch(self)

    def stop(self) -> None:
        if _listeners.get(self._loc) is self:
            del _listeners[self._loc]

    def forget_if_dead(self) -> None:
        """Stop where the loop was closed: nobody else would, and the address is free."""
        if self._loop is not None and self._loop.is_closed():
            self.stop()

    def _forked(self) -> None:
        """In the child nobody listens."""
        self.stop()
        self._thread = forks.ELSEWHERE

    def dialled_by(self, client: End) -> None:
        """Give a client, in its thread, its other end; that will greet it in ours."""
        assert self._loop is not None
        end = End(self._loop, self._thread, self.listen_address)
        end.join(client)
        try:
            self._loop.call_soon_threadsafe(self._accept, end, client)
        except RuntimeError:
            self.stop()
            raise ConnectionRefusedError(f"the loop of {self!r} was closed") from None

    def _accept(self, end: End, client: End) -> None:
        if client.left is not None:  # it did not want to wait
            return
        if _listeners.get(self._loc) is not self:
            end.leave(ABORTED)
            return
        client.box.inbox.append(None)
        client.notify()
        self._handling.begin(InProc(end, self._deserialize))

    @property
    def listen_address(self) -> str:
        return f"{SCHEME}://{self._loc}"

    @property
    def contact_address(self) -> str:
        return self.listen_address

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.listen_address}>"


class InProcBackend(Backend):
    """The scheme ``inproc``."""

    private = True

    def get_connector(self) -> Connector:
        return InProcConnector()

    def get_listener(
        self,
        loc: str,
        handle_comm: HandleComm,
        deserialize: bool,
        **_: Any,
    ) -> Listener:
        return InProcListener(loc, handle_comm, deserialize)

    def get_address_host(self, loc: str) -> str:
        host, slash, _ = loc.partition("/")
        return host if slash else _host()

    def resolve_address(self, loc: str) -> str:
        return loc

    def get_local_address_for(self, loc: str) -> str:
        return _new_location()
