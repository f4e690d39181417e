"""The length framing of tcp:// and tls://: bytes in any chunks become messages.

Strategy: bytes are received into a scratch block that all connections of a loop share,
so nothing of it may outlive `receive`. The kernel copies whole messages out of it, which
is all that small messages ever see. What is left at the end of a chunk is one incomplete
message: a short one is carried over to the next chunk, and a long one is put together
frame by frame, a large frame in its own memory, into which the rest is received directly.

No length is believed before it was compared with the limits, and memory for a large frame
grows as its bytes arrive. This file knows no socket, no hello and no role.
"""

from collections.abc import Sequence

from .._kernels import blocks
from .._kernels import framing as kernel

__all__ = ["Buffer", "LengthFraming", "Message", "encode"]

Buffer = bytes | bytearray | memoryview
Message = list[Buffer]

#: Frames below this are copied together with their neighbours when they are sent, and
#: through the scratch block when they are received.
LARGE = 64 * 1024
#: An incomplete message below this is carried over and looked at again when more came.
SHORT = 4 * 1024
#: How much memory an announcement alone obtains.
EAGER = 1024 * 1024


def encode(frames: list[Buffer]) -> list[bytes | memoryview]:
    """Return the bytes of a message as buffers, large frames as views of their own memory."""
    return kernel.pack(frames, LARGE)


class LengthFraming:
    """The receiving half: write into `get_buffer()`, then call `receive`.

    ``scratch`` needs more than 64 KiB. A wrong message sets `error` and ends the stream;
    the messages before it are still returned.
    """

    __slots__ = (
        "_block", "_carry", "_end", "_filled", "_frames", "_lengths", "_max_count",
        "_max_frames", "_max_message", "_offset", "_scratch", "_size", "_view", "controls", "error",
    )  # fmt: skip

    def __init__(self, scratch: memoryview, max_message: int, max_frames: int) -> None:
        self._scratch = scratch
        self._max_message = max_message
        self._max_frames = max_frames
        self._max_count = 1  # the hello is looked at before what follows it
        self._offset = self._end = 0  # of what is left in the scratch, during `receive`
        self._carry = b""
        self._lengths: Sequence[int] = ()  # of the message under way
        self._frames: Message = []
        self._block: memoryview | None = None  # of the large frame under way …
        self._size = 0  # … its length …
        self._filled = 0  # … and how much of it has come
        self._view = scratch  # where the next bytes belong
        #: Control messages that came, for the caller to take out.
        self.controls: list[bytes] = []
        self.error: ValueError | None = None

    @property
    def mid_message(self) -> bool:
        """Whether an end of stream would now cut a message."""
        return bool(self._carry or self._lengths or self._block is not None)

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        """Return where the next bytes belong; valid until the next `receive`."""
        # The block under way is full and its frame is not. It grows here, because
        # uvloop still holds the last view while it calls `receive`.
        return self._view or self._grow()

    def receive(self, nbytes: int) -> list[Message]:
        """Return the messages that the ``nbytes`` just written into `get_buffer()` complete."""
        if self._block is not None:
            return self._fill(nbytes)
        carry = self._carry
        if carry:
            start = len(carry)
            self._scratch[:start] = carry
            self._carry = b""
            self._view = self._scratch
            nbytes += start
        if not self._lengths:
            messages, offset = kernel.unpack(
                self._scratch, 0, nbytes, self._max_message, self._max_frames, self._max_count
            )
            if offset == nbytes:
                return messages
            self._offset, self._end = offset, nbytes
            return self._rest(messages)
        self._offset, self._end = 0, nbytes
        return self._assemble([])

    def open(self, max_message: int, max_frames: int) -> list[Message]:
        """Set the limits that hold after the hello; return the messages that came with it."""
        self._max_message = max_message
        self._max_frames = max_frames
        self._max_count = 1 << 32
        return self._rest([])

    def _rest(self, messages: list[Message]) -> list[Message]:
        """Take all that the scratch holds from here on."""
        while self._offset < self._end and not self.error:
            if self._max_count == 1 and messages:
                break  # the rest is for `open`
            more, self._offset = kernel.unpack(
                self._scratch, self._offset, self._end,
                self._max_message, self._max_frames, self._max_count,
            )  # fmt: skip
            messages += more
            if self._offset < self._end and len(more) < self._max_count:
                self._classify(messages)
        return messages

    def _classify(self, messages: list[Message]) -> None:
        """Deal with what `unpack` left: a control message, an incomplete or a wrong one."""
        scratch, start, end = self._scratch, self._offset, self._end
        try:
            lengths = kernel.inspect(scratch, start, end, self._max_message, self._max_frames)
        except ValueError as exc:
            self.error = exc
            return
        if lengths is None:
            header = 16
            if end - start >= 16:
                header += 8 * int.from_bytes(scratch[start + 8 : start + 16], "little")
            if header <= SHORT:
                self._hold()
            else:  # so many frames that their lengths are received like a large frame
                self._begin((), header)
            return
        body = start + 16 + 8 * len(lengths)
        total = sum(lengths)
        if body + total <= end:  # complete, and yet not unpacked
            self.controls.append(bytes(scratch[body : body + total]))
            self._offset = body + total
        elif body + total - start <= SHORT:
            self._hold()
        else:
            self._offset = body
            self._lengths = lengths
            self._assemble(messages)

    def _hold(self) -> None:
        """Carry what is left over to the next chunk, in which it comes first."""
        self._carry = bytes(self._scratch[self._offset : self._end])
        self._view = self._scratch[len(self._carry) :]
        self._offset = self._end

    def _assemble(self, messages: list[Message]) -> list[Message]:
        """Go on with the frames of the message under way, then with what follows it."""
        lengths, frames = self._lengths, self._frames
        while len(frames) < len(lengths):
            length = lengths[len(frames)]
            if length > self._end - self._offset:
                if length < LARGE:
                    self._hold()
                else:
                    self._begin(lengths, length)
                return messages
            stop = self._offset + length
            piece = self._scratch[self._offset : stop]
            frames.append(bytearray(piece) if frames else bytes(piece))
            self._offset = stop
        self._lengths, self._frames = (), []
        messages.append(frames)
        return self._rest(messages)

    def _begin(self, lengths: Sequence[int], size: int) -> None:
        """Make room for a large frame (or, without lengths, a large header)."""
        start, end = self._offset, self._end
        filled = end - start
        block = memoryview(blocks.allocate(size, max(filled, EAGER)))
        block[:filled] = self._scratch[start:end]
        self._lengths, self._block, self._size, self._filled = lengths, block, size, filled
        self._view = block[filled:]
        self._offset = end

    def _fill(self, nbytes: int) -> list[Message]:
        """Count bytes that were received in place, and take the frame once it is complete."""
        block = self._block
        assert block is not None
        self._filled += nbytes
        if self._filled < self._size:
            self._view = block[self._filled :]
            return []
        self._view = self._scratch
        self._block = None
        self._offset = self._end = 0
        if self._lengths:
            self._frames.append(block)
            return self._assemble([])
        return self._header(block)

    def _grow(self) -> memoryview:
        """Double the memory of the large frame, up to its length."""
        block = self._block
        assert block is not None
        memory = block.obj
        self._view.release()  # memory that has views cannot grow
        block.release()
        blocks.grow(memory, min(2 * self._filled, self._size))
        self._block = block = memoryview(memory)
        self._view = block[self._filled :]
        return self._view

    def _header(self, block: memoryview) -> list[Message]:
        """Take the lengths out of a header that was too long for the scratch block."""
        try:
            lengths = kernel.inspect(block, 0, len(block), self._max_message, self._max_frames)
        except ValueError as exc:
            self.error = exc
            return []
        assert lengths is not None
        self._lengths = lengths
        return self._assemble([])
