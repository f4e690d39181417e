"""Server: listens, and answers each request with the function that it names."""

import asyncio
import math
import signal
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import suppress
from typing import Any, Self

from .._envelope import NO_REPLY
from .._loops import forks
from .._loops.tasks import start
from ..core import Comm
from .handlers import name_handlers
from .listeners import Listening, limited
from .operations import Operations
from .pool import ConnectionPool
from .remote_errors import Status
from .session import LAST_WORDS, Serving
from .stream_handlers import Streaming, expect_no_items

__all__ = ["Server"]

#: Seconds that a server takes to close, at most.
GRACE = 5.0
#: The part of them in which cancelled handlers clean up: seconds at least, but at most half of all.
CLEAN_UP, LEAST = 0.1, 0.1

Handler = Callable[..., Any]


class Server(Listening):
    """Answers requests on any number of addresses; to be subclassed or used as it is.

    ``handlers`` maps the name of each op to a function, a coroutine function or an async
    generator function (each of its items is a message). It may also be an iterable of functions,
    whose names are the ops. A handler whose first parameter is named ``comm`` or ``stream`` gets
    the connection, and returns NO_REPLY if it has replied itself; the other parameters come from
    the request. ``identity``, ``echo`` and ``connection_stream`` are built in.

    >>> def add(x, y):
    ...     return x + y
    >>> server = Server([add])

    Anyone who can reach the server can call any op except those in ``trusted_ops`` and those of a
    `handler` with ``require_trust=True``, which are for trusted peers. Pass
    ``require_trust=True`` to refuse everybody else altogether.

    ``max_buffer_size`` limits a message in bytes, ``contact_host`` is that of `listen`. Other
    ``arguments``, such as ``trusted=`` and ``options=``, are those of `listen` and, for the
    calls of `rpc`, of `connect`.
    """

    status: Status  # once more: a checker would infer it from what is assigned here

    def __init__(
        self,
        handlers: Mapping[str, Handler] | Iterable[Handler] | None = None,
        blocked_handlers: Iterable[str] | None = None,
        stream_handlers: Mapping[str, Handler] | None = None,
        connection_limit: int = 512,
        deserialize: bool = True,
        serializers: Iterable[str] | None = None,
        deserializers: Iterable[str] | None = None,
        connection_args: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        max_buffer_size: float | None = None,
        *,
        trusted_ops: Iterable[str] = (),
        contact_host: str | None = None,
        **arguments: Any,
    ) -> None:
        self.handlers: dict[str, Handler] = {
            "identity": self.identity,
            "echo": self.echo,
            "connection_stream": self.handle_stream,
            **name_handlers(handlers or {}),
        }
        self.blocked_handlers: list[str] = list(blocked_handlers or ())
        self.stream_handlers: dict[str, Handler] = dict(stream_handlers or {})
        expect_no_items(self.stream_handlers)
        self._trusted_ops = self._check_ops(trusted_ops)
        self.id: str = f"{type(self).__name__}-{uuid.uuid4()}"
        if max_buffer_size is not None:
            arguments["options"] = limited(arguments.get("options"), max_buffer_size)
        arguments["connection_args"] = connection_args
        super().__init__(deserialize, arguments, contact_host)
        #: Calls to other servers: ``await server.rpc(address).add(x=1, y=2)``.
        self.rpc: ConnectionPool = ConnectionPool(
            connection_limit, deserialize, serializers, deserializers, timeout=timeout,
            **arguments,
        )  # fmt: skip
        self._operations = Operations(self, self._trusted_ops)
        self._servings: set[Serving] = set()
        self._past: Counter[str] = Counter()  # what comms that have ended had moved
        self._closing: asyncio.Task[None] | None = None
        self._grace = math.inf  # the seconds that were given for that …
        self._deadline = math.inf  # … and when they are over
        self._expiry: asyncio.TimerHandle | None = None  # ends the calls that run
        self._limit: asyncio.Timeout | None = None  # ends the closing of our own calls
        self._last: asyncio.Task[None] | None = None  # lets the handler finish that has closed
        self._closers: set[asyncio.Task[None]] = set()  # those that a signal began
        self._finished = asyncio.Event()
        self._signals: dict[int, Any] = {}  # those of `close_on`, and who handles them

    def _check_ops(self, names: Iterable[str]) -> frozenset[str]:
        """Return the names as a set; TypeError for a str, ValueError for an unknown op.

        A mistyped name would leave the intended op open to everybody.
        """
        if isinstance(names, str):
            raise TypeError(f"trusted_ops={names!r:.60}, expected a list of names: [{names!r:.60}]")
        ops = frozenset(names)
        unknown = ops - self.handlers.keys() - self.stream_handlers.keys()
        if unknown:
            known = ", ".join(sorted({*self.handlers, *self.stream_handlers}))
            wrong = ", ".join(sorted(map(repr, unknown)))
            raise ValueError(f"trusted_ops names {wrong}, unknown here; this server has: {known}")
        return ops

    @property
    def trusted_ops(self) -> frozenset[str]:
        """The ops that ``trusted_ops=`` reserved for trusted peers."""
        return self._trusted_ops

    # -- life ----------------------------------------------------------------------------

    async def start(self) -> Self:
        """Accept connections on every address of `listen`; ``await server`` does this.

        A subclass that has more to start overrides it, and calls this first.
        """
        if self._closing is not None:
            raise RuntimeError(f"{self!r} was closed")
        for bound in self._bound:
            await bound
        self.status = Status.running
        return self

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.start().__await__()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(
        self, timeout: float | None = None, reason: str = "", *, grace: float = GRACE
    ) -> None:
        """Stop accepting, answer what was received, end the rest: in ``grace`` seconds in all.

        The last tenth of these, at least 0.1 s and at most half, belongs to the clean-up of
        handlers that take longer, and are cancelled. A call that was ended, and a request that
        comes while others are waited for, gets a RemoteError that says so. A call that crosses the
        end of its connection gets a CommClosedError; it has not begun. ``timeout`` is Dask's name
        for ``grace``. To close again waits for the same end, and can only shorten the grace; a
        handler does not wait, for the end would wait for it.
        """
        grace = max(0.0, grace if timeout is None else timeout)
        for bound in self._bound:
            bound.expect_here()
        caller = asyncio.current_task()
        if self._closing is None:
            for bound in self._bound:
                bound.stop()
            self.status = Status.closing
            why = f"{self!r} closed{f' ({reason})' if reason else ''}"
            own = {serving for serving in self._servings if serving.task and serving.task is caller}
            for serving in self._servings - own:
                serving.stop(why)
            self._closing = start(self._drain(own, why))
        else:
            own = {serving for serving in self._servings if serving.task is caller}
            if own:
                self._end_within(grace)
                return
        self._end_within(grace)
        await asyncio.shield(self._closing)
        if not own:
            await self._finished.wait()

    def _end_within(self, grace: float) -> None:
        """End everything in so many seconds, unless it is to end before."""
        now = asyncio.get_running_loop().time()
        if now + grace < self._deadline:
            self._grace, self._deadline = grace, now + grace
            self._end_by(self._servings, now)

    def _end_by(self, servings: Iterable[Serving], soonest: float) -> None:
        """End connections when the grace is over, calls that run a little earlier."""
        if self._deadline == math.inf:
            return
        cleaning = min(max(self._grace * CLEAN_UP, LEAST), self._grace / 2)
        expiry = max(self._deadline - cleaning, soonest)
        ends = max(self._deadline, expiry + LAST_WORDS)
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_at(expiry, self._expire)
        for serving in servings:
            serving.end_by(ends)
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(ends)

    def _expire(self) -> None:
        for serving in list(self._servings):
            serving.expire(f", and this call took longer than the grace of {self._grace:g} s")

    async def _drain(self, own: set[Serving], why: str) -> None:
        try:
            leaving = [start(serving.leave()) for serving in self._servings - own]
            await asyncio.gather(*leaving, return_exceptions=True)
            with suppress(TimeoutError):
                # behind the handlers, who may call others until their end
                async with asyncio.timeout(None) as self._limit:
                    self._end_by((), 0)
                    await self.rpc.close()
        finally:
            self._limit = None
            self.status = Status.closed
            if own:  # a handler closes the server: its reply is the last
                self._last = start(self._leave_last(own, why))
            else:
                self._be_finished()

    async def _leave_last(self, own: set[Serving], why: str) -> None:
        """Let the handler that has closed the server finish."""
        for serving in own:
            serving.stop(why, answering=False)
        self._end_by(own, asyncio.get_running_loop().time() + LAST_WORDS)
        try:
            leaving = [start(serving.leave()) for serving in own]
            await asyncio.gather(*leaving, return_exceptions=True)
        finally:
            self._be_finished()

    def _be_finished(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._finished.set()

    def close_on(self, *signals: int, grace: float = GRACE) -> None:
        """Close when the process gets one of these signals: ``server.close_on(SIGTERM)``.

        ``grace`` is that of `close`. ``await server.finished()`` then returns when that is done.
        """
        loop = asyncio.get_running_loop()
        for number in signals:
            loop.add_signal_handler(number, self._close_soon, grace)
            self._signals[number] = signal.getsignal(number)
        forks.watch(self)

    def _forked(self) -> None:
        """In a child, let the signals of `close_on` end it: they would close its parent's server.

        The loop of the parent hears of signals by a descriptor, which the child shares.
        """
        signals, self._signals = self._signals, {}
        for number, handler in signals.items():
            if signal.getsignal(number) == handler:
                with suppress(ValueError):  # not the main thread of the main interpreter
                    signal.set_wakeup_fd(-1)
                    signal.signal(number, signal.SIG_DFL)

    async def finished(self) -> None:
        """Wait until the server was closed, and the tasks that close it have ended.

        A main that returns behind this would else cancel them. These are not waited for
        longer than GRACE: the `close` of a subclass may itself wait for whoever waits here.
        """
        for bound in self._bound:
            bound.expect_here()
        await self._finished.wait()
        tasks = {*self._closers, self._closing, self._last} - {None, asyncio.current_task()}
        ending = [task for task in tasks if task is not None and not task.done()]
        if ending:
            await asyncio.wait(ending, timeout=GRACE)

    def _close_soon(self, grace: float) -> None:
        closer = start(self.close(grace=grace))
        self._closers.add(closer)
        closer.add_done_callback(self._closers.discard)

    # -- connections ---------------------------------------------------------------------

    def handle_comm(self, comm: Comm) -> Awaitable[None] | None:
        """Serve a connection; what `listen` calls with each."""
        if self._closing is not None:  # its handshake was under way when the listener stopped
            return comm.close()
        if self.status is Status.init:
            self.status = Status.running
        serving = Serving(comm, self._operations, self._forget)
        self._servings.add(serving)
        serving.start()
        return None

    def _forget(self, serving: Serving) -> None:
        """Take note that a connection has ended."""
        if serving in self._servings:
            self._servings.discard(serving)
            self._past.update(serving.comm.stats())

    # -- what is answered by every server --------------------------------------------------

    def identity(self) -> dict[str, str]:
        """Say what this is."""
        return {"type": type(self).__name__, "id": self.id}

    def echo(self, data: Any = None) -> Any:
        """Return what was sent."""
        return data

    async def handle_stream(self, comm: Comm, extra: Mapping[str, Any] | None = None) -> object:
        """Call a stream handler for each message, or each of a batch, until the peer is done.

        What `BatchedSend` sends arrives here. No message is replied to; one that cannot be
        handled ends the stream, so that its sender learns of it. "OK", which older peers send
        first, is skipped, and so is, with a line in the log, a message whose op is empty.
        """
        await Streaming(comm, self.stream_handlers, self._trusted_ops, extra or {}).run()
        return NO_REPLY

    # -- figures -------------------------------------------------------------------------

    @property
    def incoming_comms_open(self) -> int:
        return len(self._servings)

    @property
    def incoming_comms_active(self) -> int:
        """How many connections have a call under way."""
        return sum(serving.call is not None for serving in self._servings)

    @property
    def outgoing_comms_open(self) -> int:
        return self.rpc.open

    @property
    def outgoing_comms_active(self) -> int:
        return self.rpc.active

    def get_connection_counters(self) -> dict[str, int]:
        """Return how many comms are open, and in use, to this server and from it."""
        return {
            "incoming_comms_open": self.incoming_comms_open,
            "incoming_comms_active": self.incoming_comms_active,
            "outgoing_comms_open": self.outgoing_comms_open,
            "outgoing_comms_active": self.outgoing_comms_active,
        }

    def stats(self) -> dict[str, Any]:
        """Return counters: comms, bytes and messages, and by op its calls and their seconds."""
        moved = self._past.copy()
        for serving in self._servings:
            moved.update(serving.comm.stats())
        return {**self.get_connection_counters(), **moved, "ops": self._operations.stats()}

    def __repr__(self) -> str:
        where = self._bound[0].listener.listen_address if self._bound else "nowhere"
        return f"<{type(self).__name__} {where} {self.status.name}>"
