"""The reading half of a connection: its inbox, and who is handed what comes into it.

Received bytes become messages in the callback that brought them and wait in the inbox until
they are read; nothing in between suspends, so a cancelled read finds its message still there.
Or they are pushed: a function gets each in that callback. A stranger's may have to wait for its
turn, and do so in the inbox.
"""

from asyncio import AbstractEventLoop, CancelledError, sleep
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from socket import socket

from .._frames import Frames
from .._kernels import mailbox
from .._logs import Log, of_trusted
from .._loops import forks
from .._loops.owners import owner
from .._loops.turns import Turn
from .._wire.connection import Connection
from .._wire.states import CLOSED, MUTE, OPEN
from ..errors import LocalProtocolError
from ..options import CommOptions
from .keepalive import Watcher
from .sender import CREDIT, TOLL

__all__ = ["Reader"]


class Reader(Watcher):
    """Hands out the messages of `_inbox`, which the adapter fills."""

    __slots__ = (
        "_allowance", "_inbox", "_intercept", "_messages_received", "_reading", "_ready",
        "_receiver", "_waiter", "log",
    )  # fmt: skip

    def __init__(
        self, loop: AbstractEventLoop, sock: socket, connection: Connection, options: CommOptions
    ) -> None:
        super().__init__(loop, sock, connection, options)
        # What gets messages before the inbox does: the handshake's end, a pushed receiver.
        self._intercept: Callable[[list[Frames]], list[Frames]] | None = None
        self._receiver: Callable[[Frames | None], None] | None = None
        self._ready: Callable[[], bool] | None = None  # whether that takes the next message
        self._inbox: deque[Frames] = deque()
        self._reading = False  # a read is under way, and mostly …
        self._waiter = mailbox.Waiter(self._switch)  # … waits here
        self._allowance = CREDIT  # for reading without a pause, as _credit is for sending
        self._messages_received = 0
        self.log: Log | None = None  # of its listener, if the peer is a stranger

    async def read(self) -> Frames:
        if self._reading:
            raise self._misused()
        inbox = self._inbox
        if inbox:
            if not self._switch.runs():
                raise self._misused()
            if self._allowance < 0:
                await self._give_way()
        while not inbox:
            if self._connection.state is not OPEN and self._connection.state is not MUTE:
                raise self._connection.closed_error()
            self._reading = True
            try:
                await self._waiter
            except RuntimeError as exc:  # that of another loop
                raise self._misused() from exc
            finally:
                self._reading = self._waiter.waiting = False
        message = inbox.popleft()
        if inbox:
            self._allowance -= TOLL + len(message[-1])
        else:
            self._delivered = self._received
            if self._crowded:
                self._relax()
        return message

    async def _give_way(self) -> None:
        """Let others run, without letting another reader in."""
        self._allowance = CREDIT
        turn = self._turn
        waits = False
        if turn is not None and (turn.contended or turn.lane.closed):
            self._allowance = 0  # look at each message
            if turn.is_metered() and not turn.is_over():
                return
            waits = True
        self._reading = True
        try:
            if turn is not None and waits:
                turn.wait()
                await self._waiter
            else:
                await sleep(0)
        finally:
            self._reading = self._waiter.waiting = False

    def push(
        self,
        receiver: Callable[[Frames | None], None] | None,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        if self._reading or not self._switch.runs():
            raise self._misused()
        self._receiver = receiver
        self._ready = ready
        if self._turn is not None:
            self._intercept = self._take_turns
            if receiver is not None:
                self._turn.meter(self.go_on)  # behind a message that a thread has decoded, say
            return
        if receiver is None:
            self._intercept = None
            return
        self._intercept = self._hand_over if ready is None else self._take_turns
        inbox = self._inbox
        while inbox and self._receiver is not None and self._is_ready():
            self._notify(inbox.popleft())
        if not inbox:
            self._delivered = self._received
            self._relax()
        if self._receiver is not None and self._connection.state is CLOSED:
            self._announce_end()

    def expect_here(self) -> None:
        if not self._switch.runs():
            raise self._misused()

    def unread(self) -> int:
        return len(self._inbox)

    def _has_heard(self) -> bool:
        return self._messages_received > 0

    def _hand_over(self, messages: list[Frames]) -> list[Frames]:
        """Call the pushed receiver; what comes after it was taken away is for the inbox."""
        for index, message in enumerate(messages):
            receiver = self._receiver
            if receiver is None:
                return messages[index:]
            self._messages_received += 1
            try:  # `_notify`, without the call
                copy_context().run(receiver, message)
            except (Exception, CancelledError) as exc:
                self._receiver_failed(exc)
        self._delivered = self._received
        return []

    # -- a stranger's turns --------------------------------------------------------

    def _take_turns(self, messages: list[Frames]) -> list[Frames]:
        """Hand messages out as long as it is the turn of that; the others wait."""
        turn, receiver = self._turn, self._receiver
        if (
            receiver is not None
            and len(messages) == 1
            and not (turn is None or turn.lane.closed or self._inbox)
            and (self._ready is None or self._ready())
        ):  # nearly always; what follows would do the same
            self._messages_received += 1
            try:
                copy_context().run(receiver, messages[0])
            except (Exception, CancelledError) as exc:
                self._receiver_failed(exc)
            self._delivered = self._received
            return []
        if not messages:
            return messages
        if self._receiver is None:
            if turn is not None and turn.lane.closed:
                self._hold_back(turn, messages)
                return []
            self._intercept = None  # until the lane closes
            return messages
        for index, message in enumerate(messages):
            if self._receiver is None:
                return messages[index:]
            over = turn is not None and (turn.is_over() if index else turn.lane.closed)
            if turn is not None and (over or self._inbox):
                self._hold_back(turn, messages[index:])
                return []
            if not self._is_ready():
                return messages[index:]
            self._messages_received += 1
            self._notify(message)
        self._delivered = self._received
        return []

    def hold_back(self) -> None:
        """Keep messages from a reader that come with the next bytes."""
        if self._intercept is None:
            self._intercept = self._take_turns

    def _hold_back(self, turn: Turn, messages: list[Frames]) -> None:
        """Have messages wait for their turn."""
        self._inbox += messages
        self._messages_received += len(messages)
        self._crowd(messages)
        turn.wait()

    def go_on(self) -> None:
        """Hand out what has waited, as long as it is the turn of that."""
        inbox, turn = self._inbox, self._turn
        if self._receiver is None:
            if inbox and self._reading:
                self._waiter.hand_over()
            return
        while inbox and self._receiver is not None:
            if turn is not None and turn.is_over():
                turn.wait()
                return
            if not self._is_ready():
                return
            self._notify(inbox.popleft())
        if inbox:
            return
        self._delivered = self._received
        self._relax()
        if self._receiver is not None and self._connection.state is CLOSED:
            self._announce_end()

    def _is_ready(self) -> bool:
        """Whether the receiver takes the next message; if not, it asks for that later."""
        if self._ready is None or self._ready():
            return True
        self._receiver = None
        return False

    def _notify(self, message: Frames | None) -> None:
        assert self._receiver is not None
        try:
            copy_context().run(self._receiver, message)
        except (Exception, CancelledError) as exc:  # that of a future in it: nobody cancels us
            self._receiver_failed(exc)

    def _receiver_failed(self, exc: BaseException) -> None:
        log = self.log or of_trusted()
        log.report(self._loop, "the receiver of messages failed", exc)
        self.abort("the receiver of messages failed")

    def _announce_end(self) -> None:
        """Tell the receiver, once, that the connection has ended."""
        receiver = self._receiver
        self._notify(None)
        if self._receiver is receiver:
            self._receiver = None

    def _wake(self) -> None:
        """Let a reader that waits see that the state has changed."""
        self._waiter.wake()

    def _misused(self) -> LocalProtocolError:
        ends = f"{self.local_address} -> {self.peer_address}"
        if not self._switch.runs():
            whose = None if self._thread == forks.ELSEWHERE else self._loop
            return LocalProtocolError(f"{ends} belongs to {owner(whose)}")
        return LocalProtocolError(f"another task is reading from {ends}")
