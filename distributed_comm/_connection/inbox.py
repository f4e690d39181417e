"""What has come: bytes that become messages, and messages until they are read.

Received bytes become messages in the callback that brought them, and wait here until they are
read; nothing in between suspends, so a cancelled read finds its message still there. Or they
are pushed: a function gets each in that callback. A stranger's may have to wait for its turn, and
do so here.

Unread messages take memory. Above a limit the connection stops receiving until all are read. A
stranger's are charged to the budget of all strangers, but for a few kilobytes; a stranger that
would exceed it is cut. They stay charged after the end of the connection, because they can still be
read.
"""

from asyncio import AbstractEventLoop, CancelledError, sleep
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Protocol

from .._frames import Frames
from .._kernels import mailbox
from .._logs import of_trusted
from .._loops.loop_state import NOWHERE
from .._loops.shares import DEAF
from .._loops.turns import Turn
from .._wire.budget import Budget
from .._wire.connection import Connection
from .._wire.states import CLOSED, FAREWELL, MUTE, OPEN, State
from ..errors import LocalProtocolError
from .charge import UnreadCharge
from .misuse import misused
from .pace import CREDIT, TOLL
from .send_queue import SendQueue

__all__ = ["RECEIVER_FAILED", "Inbox", "Receiving"]

#: The messages of an inbox that has none: one list for all, and never added to. A deque of its own
#: takes 760 bytes, an eighth of an idle comm; so several messages are a deque, and one is a list.
EMPTY: list[Frames] = []
RECEIVER_FAILED = "the receiver of messages failed"
#: The states in which a reader waits for the peer's end. One that closed in front of it, right
#: behind the goodbye, would send a goodbye of its own, which nobody needs.
ENDING = frozenset({MUTE, FAREWELL})


class Receiving(Protocol):
    """What an inbox needs of its connection."""

    #: Whether the peer is a stranger, or not known yet, and takes turns with others.
    turn: Turn | None

    def transition(self, messages: list[Frames]) -> list[Frames]:
        """Act on a state that is not plainly open; return the messages that can be read."""

    def pause(self) -> bool:
        """Stop receiving; False if little can come any more."""

    def resume(self) -> None:
        """Receive again."""

    def dismiss(self, why: str, *, unread: bool = True) -> None:
        """Close because of what the peer did."""

    def receiver_failed(self, exc: BaseException) -> None:
        """Act on what the function raised that messages are pushed to."""


class Ended:
    """The owner of the inbox of a connection that has ended."""

    turn: Turn | None = None

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop

    def transition(self, messages: list[Frames]) -> list[Frames]:
        return messages

    def pause(self) -> bool:
        return False

    def resume(self) -> None:
        pass

    def dismiss(self, why: str, *, unread: bool = True) -> None:
        pass

    def receiver_failed(self, exc: BaseException) -> None:
        of_trusted().report(self._loop, RECEIVER_FAILED, exc)


class Inbox:
    """The messages of one connection that nobody has yet."""

    __slots__ = (
        "_allowance", "_charge", "_connection", "_delivered", "_dispatch", "_due", "_limit",
        "_messages", "_out", "_owner", "_plain", "_reading", "_ready", "_receiver", "_switch",
        "_taken", "_unasked", "_waiter", "ear", "paused", "received",
    )  # fmt: skip

    def __init__(
        self,
        owner: Receiving,
        connection: Connection,
        out: SendQueue,
        switch: mailbox.Switch,
        limit: int,
    ) -> None:
        self._owner = owner
        self._connection = connection
        self._plain: State | None = None  # OPEN, once that was announced
        self._out = out
        self._switch = switch
        self._limit = limit  # unread bytes above which the connection stops receiving …
        self._unasked = limit  # … and above which they are counted
        self._messages: deque[Frames] | list[Frames] = EMPTY
        self._taken = 0  # messages that were handed out, or dropped
        self._receiver: Callable[[Frames | None], None] | None = None  # what they are pushed to
        self._ready: Callable[[], bool] | None = None  # whether that takes the next message
        # Gets messages before they would wait here; returns those that do.
        self._dispatch: Callable[[list[Frames]], list[Frames]] | None = None
        self._reading = False  # a read is under way, and mostly …
        self._waiter = mailbox.Waiter(switch)  # … waits here
        self._allowance = CREDIT  # for reading without a pause, as a sender's credit
        self._delivered = 0  # bytes that had come when the inbox was last empty
        self._due = False  # something is to be done when the inbox is next empty
        self._charge: UnreadCharge | None = None  # of a stranger
        #: Bytes that have come.
        self.received = 0
        #: Where to say that a trusted peer was heard.
        self.ear = DEAF
        #: Whether the connection has stopped receiving, because so much is unread.
        self.paused = False

    # -- messages that come --------------------------------------------------------

    def open(self) -> None:
        """Hand messages out from now on: it was announced that the handshake is done."""
        self._plain = OPEN

    @property
    def is_open(self) -> bool:
        """Whether that was announced."""
        return self._plain is OPEN

    def receive(self, nbytes: int) -> None:
        """Act on bytes that have come: a transport's ``buffer_updated``."""
        connection, out = self._connection, self._out
        messages = connection.receive(nbytes)
        self.received += nbytes
        out.fresh = not out.unsent
        self.ear.heard = True
        if connection.state is not self._plain:
            messages = self._owner.transition(messages)
        if not messages:
            return
        if self._dispatch is not None:
            messages = self._dispatch(messages)
            if not messages:
                return
        if self._messages:
            self._keep(messages)
        else:
            self._messages = messages
        if self._reading:
            try:
                self._waiter.hand_over()  # runs the reader: 2,200 instructions cheaper
            except BaseException as exc:  # SystemExit: uvloop would only log it
                self._waiter.switch.loop.call_soon(_raise, exc)  # also in a child that it forked
            if not self._messages or (self._reading and len(self._messages) == 1):
                return  # a message that is waited for does not wait
        else:
            self._waiter.touch()
        if self.received - self._delivered > self._unasked:
            self._crowd(messages)

    def _crowd(self, messages: list[Frames]) -> None:
        """Act on more unread bytes than may wait unasked, of which these are the last."""
        self._due = True
        unread, refusal = self.received - self._delivered, ""
        if self._charge is not None:
            try:
                unread = self._charge.add(unread, len(messages) + sum(map(len, messages)))
            except ValueError as exc:
                refusal = str(exc)
        if unread > self._limit and not self.paused:
            self._pause()
        if refusal:
            self._owner.dismiss(refusal, unread=False)

    def _keep(self, messages: list[Frames]) -> None:
        """Add messages to those that wait."""
        if not isinstance(self._messages, deque):
            self._messages = deque(self._messages)
        self._messages += messages

    def _take(self) -> Frames:
        """Return the first of several messages that wait, or the only one."""
        waiting = self._messages
        self._taken += 1
        if len(waiting) == 1:
            self._messages = EMPTY
            return waiting[0]
        if not isinstance(waiting, deque):
            self._messages = waiting = deque(waiting)
        return waiting.popleft()

    def _relax(self) -> None:
        """Do what was put off until nothing waits."""
        self._due = False
        if self._charge is not None:
            self._charge.release()
        self.resume()
        if self._connection.state is CLOSED:
            self.part()

    def _pause(self) -> None:
        self.paused = self._owner.pause()

    # -- reading -------------------------------------------------------------------

    async def read(self) -> Frames:
        """Return the next message, as `Channel.read` does."""
        if self._reading:
            raise self._misused()
        waiting = self._messages
        if waiting:
            if not self._switch.runs():
                raise self._misused()
            if self._allowance < 0:
                await self._give_way()
                waiting = self._messages
        while not waiting:
            if self._connection.state is not OPEN and self._connection.state not in ENDING:
                raise self._connection.closed_error()
            self._reading = True
            try:
                await self._waiter
            except RuntimeError as exc:  # that of another loop
                raise self._misused() from exc
            finally:
                self._reading = self._waiter.waiting = False
            waiting = self._messages
        if len(waiting) > 1:
            message = self._take()
            self._allowance -= TOLL + len(message[-1])
            return message
        self._messages = EMPTY  # as `_take` does
        self._taken += 1
        self._delivered = self.received
        if self._due:
            self._relax()
        return waiting[0]

    async def _give_way(self) -> None:
        """Let others run, without letting another reader in."""
        self._allowance = CREDIT
        turn = self._owner.turn
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

    def wake(self) -> None:
        """Let a reader that waits see that the connection's state has changed."""
        if self._waiter.waiting and not self._waiter.switch.loop.is_closed():
            self._waiter.wake()

    # -- pushing -------------------------------------------------------------------

    def push(
        self,
        receiver: Callable[[Frames | None], None] | None,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        """Hand each message to a function, as `Channel.push` does."""
        if self._reading or not self._switch.runs():
            raise self._misused()
        self._receiver = receiver
        self._ready = ready
        turn = self._owner.turn
        if turn is not None:
            self._dispatch = self._take_turns
            if receiver is not None:
                turn.meter(self.go_on)  # behind a message that a thread has decoded, say
            return
        if receiver is None:
            self._dispatch = None
            return
        self._dispatch = self._push_all if ready is None else self._take_turns
        self.go_on()

    def _push_all(self, messages: list[Frames]) -> list[Frames]:
        """Call the receiver with each; return the messages that follow once it is taken away."""
        for index, message in enumerate(messages):
            receiver = self._receiver
            if receiver is None:
                return messages[index:]
            self._taken += 1
            try:  # `_notify`, without the call
                copy_context().run(receiver, message)
            except (Exception, CancelledError) as exc:
                self._owner.receiver_failed(exc)
        self._delivered = self.received
        return []

    def _notify(self, message: Frames | None) -> None:
        assert self._receiver is not None
        try:
            copy_context().run(self._receiver, message)
        except (Exception, CancelledError) as exc:  # that of a future in it: nobody cancels us
            self._owner.receiver_failed(exc)
            self.clear()

    def _is_ready(self) -> bool:
        """Whether the receiver takes the next message; if not, it asks for that later."""
        if self._ready is None or self._ready():
            return True
        self._receiver = None
        return False

    def announce_end(self) -> None:
        """Tell the receiver, once, that nothing more comes; unless messages have to wait for it."""
        receiver = self._receiver
        if receiver is None or self._messages:
            return
        self._notify(None)
        if self._receiver is receiver:
            self._receiver = None

    # -- a stranger's turns --------------------------------------------------------

    def share(self, budget: Budget) -> None:
        """Take turns with all who are not trusted, and the memory from a budget."""
        if self._owner.turn is not None:
            self._dispatch = self._take_turns
            self._allowance = 0
        self._charge = UnreadCharge(budget)
        self._unasked = 0

    def hold_back(self) -> None:
        """Keep messages from a reader that come with the next bytes."""
        if self._dispatch is None:
            self._dispatch = self._take_turns

    def _take_turns(self, messages: list[Frames]) -> list[Frames]:
        """Hand messages out until the turn is over; the others wait."""
        turn, receiver = self._owner.turn, self._receiver
        if (
            receiver is not None
            and len(messages) == 1
            and not (turn is None or turn.lane.closed or self._messages)
            and (self._ready is None or self._ready())
        ):  # nearly always; what follows would do the same
            self._taken += 1
            try:
                copy_context().run(receiver, messages[0])
            except (Exception, CancelledError) as exc:
                self._owner.receiver_failed(exc)
            self._delivered = self.received
            return []
        if self._receiver is None:
            if turn is not None and turn.lane.closed:
                self._wait_in_turn(turn, messages)
                return []
            self._dispatch = None  # until the lane closes
            return messages
        for index, message in enumerate(messages):
            if self._receiver is None:
                return messages[index:]
            over = turn is not None and (turn.is_over() if index else turn.lane.closed)
            if turn is not None and (over or self._messages):
                self._wait_in_turn(turn, messages[index:])
                return []
            if not self._is_ready():
                return messages[index:]
            self._taken += 1
            self._notify(message)
        self._delivered = self.received
        return []

    def _wait_in_turn(self, turn: Turn, messages: list[Frames]) -> None:
        """Have messages wait for their turn."""
        self._keep(messages)
        self._crowd(messages)
        turn.wait()

    def go_on(self) -> None:
        """Hand out messages that have waited, until the turn is over."""
        turn = self._owner.turn
        if self._receiver is None:
            if self._messages and self._reading:
                self._waiter.hand_over()
            return
        while self._messages and self._receiver is not None:
            if turn is not None and turn.is_over():
                turn.wait()
                return
            if not self._is_ready():
                return
            self._notify(self._take())
        if self._messages:
            return
        self._delivered = self.received
        self._relax()
        if self._connection.state is CLOSED:
            self.announce_end()

    # -- what others ask -----------------------------------------------------------

    @property
    def count(self) -> int:
        """How many messages have come."""
        return self._taken + len(self._messages)

    def __len__(self) -> int:
        return len(self._messages)

    def unread(self) -> int:
        """Return how many messages wait."""
        return len(self._messages)

    def is_paused(self) -> bool:
        """Return whether the connection has stopped receiving, because so much is unread."""
        return self.paused

    def is_awaited(self) -> bool:
        """Return whether the next message would be taken at once."""
        return not self._messages and (self._reading or self._receiver is not None)

    def is_fresh(self) -> bool:
        """Return whether a message was handed out within the last second, and nothing waits."""
        return not self._messages and self._waiter.is_fresh()

    # -- the end -------------------------------------------------------------------

    def clear(self) -> None:
        """Drop what waits, which nobody will read, and what still comes."""
        self._taken += len(self._messages)
        self._messages = EMPTY
        self._dispatch = _discard

    def close(self) -> None:
        """Drop what waits, wake a reader, and go on receiving: what still comes is discarded."""
        self.clear()
        self.wake()
        if self._due:
            self._relax()

    def resume(self) -> None:
        """Go on receiving however much is unread."""
        if self.paused:
            self.paused = False
            self._owner.resume()

    def end(self) -> None:
        """Wake a reader, because nothing more comes, and give back memory that nothing needs."""
        if not self._messages and self._charge is not None:
            self._charge.release()
        self.wake()

    def part(self) -> None:
        """Forget the connection, which refers to this, once nothing waits for its turn."""
        if self._owner.turn is None or not (self._messages or self._receiver):
            self._owner = Ended(self._waiter.switch.loop)
        else:
            self._due = True

    def _misused(self) -> LocalProtocolError:
        return misused(self._connection, self._switch)

    def disown(self) -> None:
        """Leave the waiting reader to the process that this one was forked from."""
        self._switch = NOWHERE
        self._reading = True  # so that a read looks no further


def _discard(_: list[Frames]) -> list[Frames]:
    return []


def _raise(exc: BaseException) -> None:
    raise exc
