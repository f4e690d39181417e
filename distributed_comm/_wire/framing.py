"""How bytes become messages: what a connection needs of the length or the sentinel framing."""

from collections.abc import Callable
from typing import Protocol

from .._frames import Frames
from .budget import Budget

__all__ = ["Framing", "MakeFraming"]


class Framing(Protocol):
    """The two halves of a stream: messages out of received bytes, and bytes out of messages."""

    #: Whether an end of stream would now cut a message.
    mid_message: bool

    @property
    def encode(self) -> Callable[[Frames], list[bytes | memoryview]]:
        """Return the bytes of a message's frames as buffers, large frames as they are."""

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        """Return where the next bytes belong; valid until the next `receive`."""

    def receive(self, nbytes: int) -> list[Frames]:
        """Return the messages that the ``nbytes`` just written into `get_buffer()` complete."""

    @property
    def unread(self) -> bool:
        """Whether bytes have come behind the control message that is being obeyed."""

    def open(self, max_message: int, max_frames: int) -> list[Frames]:
        """Set the limits that hold after the handshake; return what came right behind it."""

    def lift(self, max_message: int, max_frames: int) -> None:
        """Set these limits while a control message is obeyed; `receive` goes on with them."""

    def go_on(self) -> list[Frames]:
        """Return what the last chunk still holds; before `open` that is one message at most."""

    def share(self, budget: Budget) -> None:
        """Take memory from this budget from now on, and little on a mere announcement."""

    def drop(self) -> None:
        """Give memory back and take no more messages."""


class MakeFraming(Protocol):
    """A class that makes one."""

    def __call__(
        self,
        scratch: memoryview,
        max_message: int,
        max_frames: int,
        on_control: Callable[[bytes], None],
        on_error: Callable[[ValueError], None],
    ) -> Framing:
        """Return one that receives into this block.

        ``on_control`` is called with each control message, and ``on_error``, once, with what is
        wrong.
        """
