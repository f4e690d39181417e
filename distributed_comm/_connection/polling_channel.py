"""An adapter that polls behind each message, where `CommOptions.busy_poll` asks for it."""

from .._frames import Frames
from .channel import Adapter

__all__ = ["PollingAdapter"]


class PollingAdapter(Adapter):
    """An adapter whose loop stays awake for ``patience`` seconds behind each message.

    A class of its own, so that the others pay nothing for it.
    """

    __slots__ = ("_patience",)

    def poll_for(self, patience: float) -> None:
        """Say for how long; before anything is sent or received."""
        self._patience = patience

    def send(self, frames: Frames) -> int:
        nbytes = super().send(frames)
        self._poller.poll(self._patience)
        return nbytes

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        self._poller.poll(self._patience)
