"""The length framing of tcp:// and tls://: bytes in any chunks become messages.

Strategy: bytes are received into a scratch block that all connections of a loop share,
so nothing of it may outlive `receive`. The kernel copies whole messages out of it, which
is all that small messages ever see. The rest at the end of a chunk is one incomplete
message: a short one is carried over to the next chunk, and a long one is put together
frame by frame, a large frame in its own memory, into which the rest is received directly.

No length is believed before it was compared with the limits, and memory for a large frame
grows as its bytes arrive. This file knows no socket, no hello and no role.
"""

from collections.abc import Callable, Sequence
from typing import Any

from .._frames import Frames
from .._kernels import blocks
from .._kernels import framing as kernel
from . import budget as strangers
from .budget import OVERHEAD, Budget

__all__ = ["LengthFraming"]

#: An incomplete message below this is carried over and looked at again when more came.
SHORT = 4 * 1024
#: How much memory an announcement alone obtains.
EAGER = 1024 * 1024


class LengthFraming:
    """The receiving half: write into `get_buffer()`, then call `receive`.

    ``scratch`` needs more than 64 KiB. A control message goes to ``on_control``. A wrong
    message goes to ``on_error``, once, and ends the stream; those before it are returned.
    """

    __slots__ = (
        "_block", "_budget", "_carry", "_dropped", "_eager", "_end", "_filled", "_frames", "_held",
        "_kept", "_last", "_lengths", "_max_count", "_max_frames", "_max_message", "_memory",
        "_offset", "_on_control", "_on_error", "_scratch", "_size", "_view", "encode",
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
        self._memory: bytearray = scratch.obj  # type: ignore[assignment] # the kernel gets at it faster without a view
        self._max_message = max_message
        self._max_frames = max_frames
        self._max_count = 1  # the hello is looked at before what follows it
        self._on_control = on_control
        self._on_error = on_error
        self._dropped = False
        self._offset = self._end = 0  # of what is left in the scratch, during `receive`
        self._carry = b""
        self._lengths: Sequence[int] = ()  # of the message under way
        self._frames: Frames = []
        self._block: memoryview | None = None  # of the large frame under way …
        self._size = 0  # … its length …
        self._filled = 0  # … and how much of it has come
        #: Return the bytes of a message's frames as buffers, large frames as they are.
        self.encode = kernel.pack
        self._view: memoryview | None = scratch  # where the next bytes belong
        self._last: memoryview | None = None  # the last view of a block that has to grow
        self._eager = EAGER
        self._kept = 0  # bytes of `_frames`
        self._budget: Budget | None = None  # of a stranger …
        self._held = 0  # … and how much of it this one has
        #: Whether an end of stream would now cut a message.
        self.mid_message = False

    def get_buffer(self, sizehint: int = -1) -> memoryview:  # noqa: ARG002 - asyncio's
        """Return where the next bytes belong; valid until the next `receive`."""
        view = self._view
        # None: the block under way is full and its frame is not. It grows here, because
        # uvloop still holds the last view while it calls `receive`.
        return self._grow() if view is None else view

    @property
    def unread(self) -> bool:
        """During `on_control`: whether bytes have come behind the control message."""
        return self._offset < self._end

    def receive(self, nbytes: int) -> list[Frames]:
        """Return the messages that the ``nbytes`` just written into `get_buffer()` complete."""
        if self.mid_message:
            return self._resume(nbytes)
        messages, offset = kernel.unpack(
            self._memory, 0, nbytes, self._max_message, self._max_frames, self._max_count
        )
        if offset != nbytes:
            self._offset, self._end = offset, nbytes
            self._rest(messages)
            if self._budget is not None:
                self._account()
        return messages

    def _resume(self, nbytes: int) -> list[Frames]:
        """Go on with the message under way."""
        messages: list[Frames] = []
        if self._block is not None:
            self._fill(nbytes, messages)
        else:
            start = len(self._carry)
            self._scratch[:start] = self._carry
            self._carry = b""
            self._view = self._scratch
            self._offset, self._end = 0, start + nbytes
            if self._lengths:
                self._assemble(messages)
            else:
                self._rest(messages)
        if self._budget is not None:
            self._account()
        self.mid_message = bool(self._carry or self._lengths or self._block is not None)
        return messages

    def open(self, max_message: int, max_frames: int) -> list[Frames]:
        """Set the limits that hold after the handshake; return what came right behind it."""
        self.lift(max_message, max_frames)
        return self.go_on()

    def lift(self, max_message: int, max_frames: int) -> None:
        """Set these limits from within ``on_control``: `receive` goes on with them."""
        self._max_message = max_message
        self._max_frames = max_frames
        self._max_count = 1 << 32

    def go_on(self) -> list[Frames]:
        """Return the messages, one at most before `open`, that the last chunk still holds."""
        messages: list[Frames] = []
        self._rest(messages)
        return messages

    def share(self, budget: Budget) -> None:
        """Take memory from this budget from now on, and little on a mere announcement."""
        self._budget = budget
        self._eager = strangers.EAGER
        self._account()

    def _account(self) -> None:
        """Have the budget know what is held, and what is about to be; or give up."""
        held = self._kept + len(self._carry) + OVERHEAD * len(self._lengths)
        if self._block is not None:
            grown = min(2 * self._filled, self._size)
            held += len(self._block) if self._view is not None else grown
        assert self._budget is not None
        try:
            self._budget.change(held - self._held)
        except ValueError as exc:
            self._give_up(exc)
        else:
            self._held = held

    def drop(self) -> None:
        """Give memory back and take no more messages: the connection is gone."""
        self._dropped = True
        self._max_count = 0  # so that `receive` needs no look at `_dropped`
        self._view = self._scratch
        self._block = self._last = None
        self._carry = b""
        self._lengths, self._frames = (), []
        self._kept = 0
        if self._budget is not None:
            self._budget.change(-self._held)
            self._held = 0
        self.mid_message = False
        self._on_control = self._on_error = _ignore

    def _rest(self, messages: list[Frames]) -> None:
        """Take all that the scratch holds from here on."""
        while self._offset < self._end and not self._dropped:
            if self._max_count == 1 and messages:
                return  # the rest is for `open`
            more, self._offset = kernel.unpack(
                self._scratch, self._offset, self._end,
                self._max_message, self._max_frames, self._max_count,
            )  # fmt: skip
            messages += more
            if self._offset < self._end and len(more) < self._max_count:
                self._classify()
        self.mid_message = bool(self._carry or self._lengths or self._block is not None)

    def _classify(self) -> None:
        """Deal with what `unpack` left: a control message, an incomplete or a wrong one."""
        scratch, start, end = self._scratch, self._offset, self._end
        try:
            lengths = kernel.inspect(scratch, start, end, self._max_message, self._max_frames)
        except ValueError as exc:
            self._give_up(exc)
            return
        if lengths is None:
            header = 16
            if end - start >= 16:
                header += 8 * int.from_bytes(scratch[start + 8 : start + 16], "little")
            if header <= SHORT:
                self._carry_over()
            else:  # so many frames that their lengths are received like a large frame
                self._begin(header)
            return
        body = start + 16 + 8 * len(lengths)
        stop = body + sum(lengths)
        if stop <= end:  # complete, and yet not unpacked
            self._offset = stop
            self._on_control(bytes(scratch[body:stop]))
        elif stop - start <= SHORT:
            self._carry_over()
        else:
            self._offset = body
            self._lengths = lengths
            self._assemble([])  # which cannot complete it

    def _give_up(self, error: ValueError) -> None:
        on_error = self._on_error
        self.drop()
        on_error(error)

    def _carry_over(self) -> None:
        """Carry what is left over to the next chunk, in which it comes first."""
        self._carry = bytes(self._scratch[self._offset : self._end])
        self._view = self._scratch[len(self._carry) :]
        self._offset = self._end

    def _assemble(self, messages: list[Frames]) -> None:
        """Go on with the frames of the message under way, then with what follows it."""
        lengths, frames = self._lengths, self._frames
        while len(frames) < len(lengths):
            length = lengths[len(frames)]
            if length > self._end - self._offset:
                if length < kernel.LARGE:
                    self._carry_over()
                else:
                    self._begin(length)
                return
            stop = self._offset + length
            piece = self._scratch[self._offset : stop]
            frames.append(bytearray(piece) if frames else bytes(piece))
            self._kept += length
            self._offset = stop
        self._lengths, self._frames = (), []
        self._kept = 0
        messages.append(frames)
        self._rest(messages)

    def _begin(self, size: int) -> None:
        """Make room for a large frame, or for a large header if no lengths are known."""
        start, end = self._offset, self._end
        filled = end - start
        room = max(2 * filled, self._eager)
        # A stranger gets no warm block whole: it would be charged for what it only announced.
        wanted = size if self._budget is None else min(size, room)
        block = memoryview(blocks.allocate(wanted, room))
        block[:filled] = self._scratch[start:end]
        self._block, self._size, self._filled = block, size, filled
        self._view = block[filled:]
        self._offset = end

    def _fill(self, nbytes: int, messages: list[Frames]) -> None:
        """Count bytes that were received in place, and take the frame once it is complete."""
        block = self._block
        assert block is not None
        self._filled += nbytes
        if self._filled < self._size:
            if self._filled < len(block):
                self._view = block[self._filled :]
            else:
                self._last, self._view = self._view, None
            return
        self._view = self._scratch
        self._block = None
        self._offset = self._end = 0
        if self._lengths:
            self._frames.append(block)
            self._kept += self._size
        else:
            try:
                lengths = kernel.inspect(block, 0, self._size, self._max_message, self._max_frames)
            except ValueError as exc:
                self._give_up(exc)
                return
            assert lengths is not None
            self._lengths = lengths
        self._assemble(messages)

    def _grow(self) -> memoryview:
        """Double the memory of the large frame, up to its length."""
        block, last = self._block, self._last
        assert block is not None
        assert last is not None
        memory: Any = block.obj  # what blocks.allocate gave
        last.release()  # memory that has views cannot grow
        block.release()
        blocks.grow(memory, min(2 * self._filled, self._size))
        self._block = block = memoryview(memory)
        self._last = None
        self._view = view = block[self._filled :]
        return view


def _ignore(_: object) -> None:
    pass
