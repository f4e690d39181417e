"""The sentinel framing of `streams`: messages of the length framing, ended by a sentinel.

Strategy: bytes are received into a scratch block that all connections of a loop share,
so nothing of it may outlive `receive`. The kernel looks at each received byte once: it
finds the end of a message and takes out, in place, the bytes that kept the sentinel out. So
a message that is whole in a chunk is unpacked where it lies. Of a longer one all that has
to be known is how much of a sentinel the bytes so far end with.

A message states its lengths first. So a wrong one is refused by its first bytes, and a
long one gets memory of its own, into which the rest is received and where it is searched;
that memory grows as bytes arrive. Where a message ends is for the sentinel to say all the
same, and it has to agree. This file knows no socket, no hello and no role.
"""

from collections.abc import Callable
from typing import Any

from .._frames import Frames
from .._kernels import blocks, framing
from .._kernels import sentinel as kernel
from . import budget as strangers
from .budget import OVERHEAD, Budget

__all__ = ["SentinelFraming"]

#: How much memory an announcement alone obtains.
EAGER = 1024 * 1024
#: The numbers in front of a message's frames: F and N.
PRELUDE = 16


class SentinelFraming:
    """The receiving half: write into `get_buffer()`, then call `receive`.

    ``scratch`` is a view of a bytearray. A control message goes to ``on_control``. A wrong
    message goes to ``on_error``, once, and ends the stream; those before it are returned.
    """

    __slots__ = (
        "_block", "_budget", "_carry", "_dropped", "_eager", "_end", "_filled", "_held", "_lead",
        "_lengths", "_matched", "_max_frames", "_max_message", "_memory", "_offset",
        "_on_control", "_on_error", "_opened", "_scratch", "_size", "_stated", "_view",
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
        self._offset = self._end = 0  # of what is left of a chunk, during `receive`
        self._matched = 0  # how much of a sentinel ended the last chunk
        self._stated = 0  # the length of the message under way, once it has said so
        self._lengths: list[int] = []  # … and those of its frames
        self._carry = bytearray()  # what has come of it, unless it has a block …
        self._block: Any = None  # … which is memory of its own …
        self._lead = self._filled = self._size = 0  # … where it begins, is, and ends
        self._view: memoryview | None = None  # the last of the block
        self._eager = EAGER
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
        return self._scratch if self._block is None else self._rest_of_block()

    @property
    def unread(self) -> bool:
        """During `on_control`: whether bytes have come behind the control message."""
        return self._offset < self._end

    def receive(self, nbytes: int) -> list[Frames]:
        """Return the messages that the ``nbytes`` just written into `get_buffer()` complete."""
        self._offset = 0 if self._block is None else self._filled
        self._end = self._offset + nbytes
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
        """Take memory from this budget from now on, and little on a mere announcement."""
        self._budget = budget
        self._eager = strangers.EAGER
        self._account()

    def _account(self) -> None:
        """Have the budget know what is held, and what is about to be; or give up."""
        held = len(self._carry)
        if self._stated:
            held += OVERHEAD * len(self._lengths)
        if self._block is not None:
            full = self._filled == len(self._block)
            held += min(2 * self._filled, self._size) if full else len(self._block)
        assert self._budget is not None
        try:
            self._budget.change(held - self._held)
        except ValueError as exc:
            self._give_up(exc)
        else:
            self._held = held

    def _give_up(self, error: ValueError) -> None:
        on_error = self._on_error
        self.drop()
        on_error(error)

    def drop(self) -> None:
        """Give memory back and take no more messages: the connection is gone."""
        self._dropped = True
        self._carry = bytearray()
        self._stated = 0
        self._block = self._view = None
        if self._budget is not None:
            self._budget.change(-self._held)
            self._held = 0
        self.mid_message = False
        self._on_control = self._on_error = _ignore

    def _rest(self) -> list[Frames]:
        """Take all that has come from here on, but only one message before `open`."""
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
        if self._budget is not None:
            self._account()
        self.mid_message = bool(self._carry) or self._block is not None
        return messages

    def _next(self) -> Frames | bytes | None:
        """Return the next message, a control message as bytes, None before all of it has come."""
        block, start = self._block, self._offset
        memory = self._memory if block is None else block
        kept, self._offset, matched = kernel.unstuff(memory, start, self._end, self._matched)
        whole = matched == len(kernel.SENTINEL)
        self._matched = 0 if whole else matched
        if block is not None:
            self._filled = kept
            self._compare(kept - matched - self._lead, whole)
            return self._take() if whole else None
        if self._carry:
            self._carry += self._scratch[start:kept]
            if whole:
                message, self._carry, self._stated = self._carry, bytearray(), 0
                return self._unpack(message, 0, len(message) - matched)
            self._carry_over(self._carry)
        elif whole:
            return self._unpack(self._memory, start, kept - matched)
        else:
            self._carry_over(self._scratch[start:kept])
        return None

    def _carry_over(self, begun: bytearray | memoryview) -> None:
        """Keep what has come of a message, in a block of its own if it is long."""
        size = len(begun) - self._matched
        if self._stated:
            self._compare(size, whole=False)
        else:
            lengths = framing.inspect(begun, 0, size, self._max_message, self._max_frames)
            if lengths is not None:
                self._lengths = lengths
                self._stated = PRELUDE + 8 * len(lengths) + sum(lengths)
                self._compare(size, whole=False)
                if max(lengths) >= framing.LARGE:
                    self._begin(begun)
                    return
        if begun is not self._carry:
            self._carry += begun

    def _compare(self, size: int, whole: bool) -> None:
        """Raise ValueError if a message is not as long as it states."""
        if size > self._stated or (whole and size < self._stated):
            more = "" if whole else " or more"
            raise ValueError(f"a message of {size} bytes{more} that states {self._stated}")

    def _begin(self, begun: bytearray | memoryview) -> None:
        """Go on in a block, in which the longest frame is aligned as malloc aligns."""
        longest = self._lengths.index(max(self._lengths))
        before = PRELUDE + 8 * len(self._lengths) + sum(self._lengths[:longest])
        self._lead = lead = -before % 16
        self._filled = filled = lead + len(begun)
        self._size = lead + self._stated + len(kernel.SENTINEL)
        room = max(2 * filled, self._eager)
        # A stranger gets no warm block whole, as in the length framing.
        wanted = self._size if self._budget is None else min(self._size, room)
        self._block = blocks.allocate(wanted, room)
        memoryview(self._block)[lead:filled] = begun
        self._carry = bytearray()

    def _rest_of_block(self) -> memoryview:
        """Return room for what is missing; more than that a message cannot need."""
        if self._view is not None:
            self._view.release()  # memory that has views cannot grow
        if self._filled == len(self._block):
            blocks.grow(self._block, min(2 * self._filled, self._size))
        self._view = view = memoryview(self._block)[self._filled :]
        return view

    def _take(self) -> Frames:
        """Return the frames of the message in the block.

        One that is most of it stays where it is; the others get memory of their own, so
        that none keeps much more than itself alive.
        """
        rest = memoryview(self._block)[self._lead + PRELUDE + 8 * len(self._lengths) :]
        frames: Frames = []
        for length in self._lengths:
            piece, rest = rest[:length], rest[length:]
            if 2 * length > self._size:
                frames.append(piece)
            elif length >= framing.LARGE:
                frames.append(_copy(piece))
            else:
                frames.append(bytearray(piece) if frames else bytes(piece))
        self._block = self._view = None
        self._stated = 0
        return frames

    def _unpack(self, data: bytearray, start: int, end: int) -> Frames | bytes:
        """Return the frames of one whole message, or frame 0 of a control message."""
        limits = self._max_message, self._max_frames
        messages, stop = framing.unpack(data, start, end, *limits, 1)
        if stop == end and messages:
            return messages[0]
        lengths = framing.inspect(data, start, end, *limits)
        if lengths is None:
            raise ValueError(f"a message of {end - start} bytes that ends before its lengths do")
        stated = PRELUDE + 8 * len(lengths) + sum(lengths)
        if stated != end - start:
            raise ValueError(f"a message of {end - start} bytes that states {stated}")
        return bytes(data[end - lengths[0] : end])


def _copy(piece: memoryview) -> memoryview:
    """Return a copy in recycled memory."""
    copy = memoryview(blocks.allocate(len(piece), len(piece)))
    copy[:] = piece
    return copy


def _ignore(_: object) -> None:
    pass
