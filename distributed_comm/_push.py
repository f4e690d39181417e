"""Messages that are pushed: decoded, and handed to a function in the callback that brought them."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from ._envelope import as_data
from ._frames import Frames
from ._loops.threads import STRANGERS, TRUSTED, in_thread
from ._serialize.decode import loads
from ._serialize.offload import Lengthy
from ._serialize.settings import LoadOptions
from ._serialize.tags import MARK
from ._wire.budget import Budget, Hold
from .core import Admit, Channel, Comm, Receiver
from .errors import CommClosedError, MessageError, UnserializableError, UntrustedError

__all__ = ["REFUSED", "Decoding", "Push", "name_ends"]

#: Why a message cannot be sent, or opened; the comm goes on.
REFUSED = (UnserializableError, UntrustedError, MessageError)


def name_ends(exc: BaseException, at: Channel | Comm) -> None:
    """Add both ends of the connection to the text of such an error, which knows of none."""
    ends = f"{at.local_address} -> {at.peer_address}"
    if isinstance(exc, REFUSED) and ends not in str(exc):
        exc.args = (f"{exc} ({ends})",)


class Decoding(NamedTuple):
    """A message that is being decoded in a thread, its head, and the memory that it takes."""

    message: "asyncio.Future[Any]"
    head: bytes | None
    hold: Hold | None

    @classmethod
    def begin(
        cls,
        frames: Frames,
        options: LoadOptions,
        lengthy: Lengthy,
        head: bytes | None,
    ) -> "Decoding":
        """Give a message that takes too long for the loop to a thread."""
        options = replace(options, most=None)
        if not isinstance(options.budget, Budget):
            pool = TRUSTED if options.trusted else STRANGERS
            return cls(in_thread(pool, loads, frames, options, lengthy.opened), head, None)
        hold = Hold(options.budget)
        try:  # the frames count, too, for they are no longer in the inbox
            hold.change(sum(map(len, frames)))
        except ValueError as exc:
            refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            refused.set_exception(MessageError(str(exc)))
            refused.exception()  # nobody need wait for it
            return cls(refused, head, hold)
        options = replace(options, budget=hold)
        return cls(in_thread(STRANGERS, loads, frames, options, lengthy.opened), head, hold)

    def release(self) -> None:
        """Give the memory back: somebody has the message."""
        if self.hold is not None:
            self.hold.release()


class Push:
    """Hands on, decoded, what a channel pushes.

    It does not know the comm, which is collected when everybody has forgotten it.
    """

    __slots__ = ("_admit", "_decoding", "_options", "_ready", "_receiver", "channel")

    def __init__(
        self,
        channel: Channel,
        options: LoadOptions,
        receiver: Receiver,
        admit: Admit | None,
        ready: Callable[[], bool] | None,
    ) -> None:
        self.channel = channel
        self._options = options
        self._receiver: Receiver | None = receiver
        self._admit = admit
        self._ready = ready
        self._decoding: Decoding | None = None

    def start(self, decoding: Decoding | None) -> None:
        """Push from now on; first the message that is being decoded, if there is one."""
        if decoding is None:
            self._push()
        else:
            self._wait(decoding, None)

    def stop(self) -> Decoding | None:
        """Hand on nothing more; return the message that is being decoded, if there is one."""
        self._receiver = None
        return self._decoding

    @property
    def decoding(self) -> bool:
        """Whether a message is being decoded in a thread."""
        return self._decoding is not None

    def _push(self) -> None:
        self.channel.push(self._receive, self._ready)

    def _receive(self, frames: Frames | None) -> None:
        receiver = self._receiver
        assert receiver is not None
        if frames is None:
            ends = f"{self.channel.local_address} -> {self.channel.peer_address}"
            receiver(None, CommClosedError(f"the connection has ended: {ends}"))
            return
        head: Any = None
        call = None
        if len(frames) > 1 and frames[0][:1] == MARK:  # see `ChannelComm.read_enveloped`
            head = frames.pop(0)
            call = self._admit and self._admit(head)
            if call is not None and call.refusal is not None:
                receiver(None, None, call)
                return
        try:
            message = loads(frames, self._options)
        except Lengthy as lengthy:
            self.channel.push(None)  # what comes next has to wait
            decoding = Decoding.begin(frames, self._options, lengthy, head)
            self._wait(decoding, frames)
        except (TypeError, ValueError) as exc:  # what `read` raises for a message
            name_ends(exc, self.channel)
            self._hand_on(None if head else self._unopened(frames), exc, head)
        else:
            if call is None:
                self._hand_on(message, None, head) if head else receiver(message, None)
            else:
                receiver(message, None, call)

    def _hand_on(self, message: Any, error: Exception | None, head: bytes | None) -> None:
        """Call the receiver with a message that does not take the fast path in `_receive`."""
        receiver = self._receiver
        assert receiver is not None
        if head is None:
            receiver(message, error)
        elif self._admit is not None:
            receiver(message, error, self._admit(head))
        else:
            try:
                message = as_data(head, message)
            except MessageError as exc:
                name_ends(exc, self.channel)
                message, error = None, error or exc
            receiver(message, error)

    def _wait(self, decoding: Decoding, frames: Frames | None) -> None:
        """Hand a message on once it is decoded, and then what came after it."""
        self._decoding = decoding

        def decoded(done: "asyncio.Future[Any]") -> None:
            self._decoding = None
            if self._receiver is None or done.cancelled():
                return
            decoding.release()
            error, head = done.exception(), decoding.head
            if error is None:
                self._hand_on(done.result(), None, head)
            else:
                if not isinstance(error, Exception):  # SystemExit: in a thread it ends nothing
                    error = MessageError(f"the message cannot be decoded: {error!r}")
                name_ends(error, self.channel)
                message = None if frames is None or head else self._unopened(frames)
                self._hand_on(message, error, head)
            if self._receiver is not None:
                self._push()

        decoding.message.add_done_callback(decoded)

    def _unopened(self, frames: Frames) -> Any:
        """Return a message with its pickles as they came, None where even that fails."""
        try:
            options = replace(self._options, deserialize=False, most=None)
            return loads(frames, options)
        except (TypeError, ValueError):
            return None
