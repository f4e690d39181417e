"""The sentinel framing of `streams`: messages of the length framing, ended by a sentinel.

Strategy: bytes are received into a scratch block that all connections of a loop share,
so nothing of it may outlive `receive`. The kernel looks at each received byte once: it
finds the end of a message and takes out, in place, what kept the sentinel out of it. So
a message that is whole in a chunk is unpacked where it lies. A longer one is collected,
and all that has to be known of what was searched is how much of a sentinel it ends with.

Its length is known when it has ended, so the limit is on what was collected. This file
knows no socket, no hello and no role.
"""

from collections.abc import Callable

from .._kernels import framing
from .._kernels import sentinel as kernel
from ..frames import Frames
from .budget import Budget

__all__ = ["SentinelFraming"]


class SentinelFraming:
    """The receiving half: write into `get_buffer()`, then call `receive`.

    ``scratch`` is a view of a bytearray. A control message goes to ``on_control``. A wrong
    message goes to ``on_error``, once, and ends the stream; those before it are returned.
    """

    __slots__ = (
        "_budget", "_collected", "_dropped", "_end", "_held", "_matched", "_max_frames",
        "_max_message", "_memory", "_offset", "_on_control", "_on_error", "_opened", "_scratch",
        "mid_message",
    )  # fmt: skip

    def __init__(
        self,
        scratch: memoryview,
        max_message: int,
        max_frames: int,
        on_control: Callable[[bytes], None],
        on_error: Callable[[ValueError], None],
    ) -> None:
        self._scratch = scratch
        self._memory: bytearray = scratch.obj  # type: ignore[assignment]
        self._max_message = max_message
        self._max_frames = max_frames
        self._on_control = on_control
        self._on_error = on_error
        self._opened = False
        self._dropped = False
        self._offset = self._end = 0  # of what is left in the scratch, during `receive`
        self._collected = bytearray()  # of the message under way, in earlier chunks …
        self._matched = 0  # … and how much of a sentinel stands at its end
        self._budget: Budget | None = None  # of a stranger …
        self._held = 0  # … and how much of it this one has
        #: Whether an end of stream would now cut a message.
        self.mid_message = False

    @staticmethod
    def encode(frames: Frames) -> list[bytes | memoryview]:
        """Return the bytes of a message's frames as buffers, large frames mostly as they are."""
        return kernel.stuff(framing.pack(frames))

    def get_buffer(self, sizehint: int = -1) -> memoryview:  # noqa: ARG002 - asyncio's
        """Return where the next bytes belong; valid until the next `receive`."""
        return self._scratch

    @property
    def unread(self) -> bool:
        """During `on_control`: whether bytes have come behind the control message."""
        return self._offset < self._end

    def receive(self, nbytes: int) -> list[Frames]:
        """Return the messages that the ``nbytes`` just written into `get_buffer()` complete."""
        self._offset, self._end = 0, nbytes
        return self._rest()

    def open(self, max_message: int, max_frames: int) -> list[Frames]:
        """Set the limits that hold after the handshake; return what came right behind it."""
        self.lift(max_message, max_frames)
        return self.go_on()

    def lift(self, max_message: int, max_frames: int) -> None:
        """Set these limits from within ``on_control``: `receive` goes on with them."""
        self._max_message = max_message
        self._max_frames = max_frames
        self._opened = True

    def go_on(self) -> list[Frames]:
        """Return the messages, one at most before `open`, that the last chunk still holds."""
        return self._rest()

    def share(self, budget: Budget) -> None:
        """Take memory from this budget from now on."""
        self._budget = budget
        self._account()

    def _account(self) -> None:
        """Have the budget know what is held; or give up."""
        assert self._budget is not None
        try:
            self._budget.change(len(self._collected) - self._held)
        except ValueError as exc:
            self._give_up(exc)
        else:
            self._held = len(self._collected)

    def _give_up(self, error: ValueError) -> None:
        on_error = self._on_error
        self.drop()
        on_error(error)

    def drop(self) -> None:
        """Give memory back and take no more messages: the connection is gone."""
        self._dropped = True
        self._collected = bytearray()
        if self._budget is not None:
            self._budget.change(-self._held)
            self._held = 0
        self.mid_message = False
        self._on_control = self._on_error = _ignore

    def _rest(self) -> list[Frames]:
        """Take all that the scratch holds from here on, but only one message before `open`."""
        messages: list[Frames] = []
        while self._offset < self._end and not self._dropped and (self._opened or not messages):
            try:
                message = self._next()
            except ValueError as exc:
                self._give_up(exc)
            else:
                if isinstance(message, bytes):
                    self._on_control(message)
                elif message is not None:
                    messages.append(message)
        if self._budget is not None and len(self._collected) != self._held:
            self._account()
        self.mid_message = bool(self._collected)
        return messages

    def _next(self) -> Frames | bytes | None:
        """Return the next message, a control message as bytes, None before all of it has come."""
        start = self._offset
        kept, self._offset, matched = kernel.unstuff(self._memory, start, self._end, self._matched)
        size = len(self._collected) + kept - start - matched
        # with all its lengths the longest message is so long, stuffed as it may have been
        if size > self._max_message + 16 + 8 * self._max_frames:
            raise ValueError(
                f"a message of {size} bytes or more exceeds the limit of {self._max_message} "
                f"in {self._max_frames} frames"
            )
        if matched < len(kernel.SENTINEL):
            self._collected += self._scratch[start:kept]
            self._matched = matched
            return None
        self._matched = 0
        if not self._collected:
            return self._unpack(self._memory, start, start + size)
        message, self._collected = self._collected, bytearray()
        message += self._scratch[start:kept]
        return self._unpack(message, 0, size)

    def _unpack(self, data: bytearray, start: int, end: int) -> Frames | bytes:
        """Return the frames of one whole message, or frame 0 of a control message."""
        limits = self._max_message, self._max_frames
        messages, stop = framing.unpack(data, start, end, *limits, 1)
        if stop == end and messages:
            return messages[0]
        lengths = framing.inspect(data, start, end, *limits)
        if lengths is None:
            raise ValueError(f"a message of {end - start} bytes that ends before its lengths do")
        stated = 16 + 8 * len(lengths) + sum(lengths)
        if stated != end - start:
            raise ValueError(f"a message of {end - start} bytes that states {stated}")
        return bytes(data[end - lengths[0] : end])


def _ignore(_: object) -> None:
    pass
