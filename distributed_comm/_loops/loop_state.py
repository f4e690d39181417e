"""What the library keeps of an event loop: one object for each, made when it is first asked for."""

from asyncio import AbstractEventLoop
from weakref import WeakValueDictionary

from .._kernels import mailbox
from .busy_poll import Poller
from .heartbeat import Heartbeat
from .turns import Turns

__all__ = ["NOWHERE", "LoopState", "state_of"]

#: Bytes received at once, by whichever connection of a loop is being read.
BLOCK = 256 * 1024
#: The switch of what belongs to another process, or to no loop yet: its loop never runs.
NOWHERE = mailbox.Switch(object())  # type: ignore[arg-type]


class LoopState:
    """What connections of one loop share. They keep it, and so do its heartbeats for a while."""

    __slots__ = (
        "__weakref__", "_ciphertext", "_heartbeats", "_received", "loop", "poller", "switch",
        "turns",
    )  # fmt: skip

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        #: Says whether the loop is running here, and runs tasks inside of others.
        self.switch = mailbox.Switch(loop)
        #: Keeps the loop awake.
        self.poller = Poller(loop)
        #: Divides the loop between strangers and trusted peers.
        self.turns = Turns(loop)
        #: By their seconds; members keep them.
        self._heartbeats: WeakValueDictionary[float, Heartbeat] = WeakValueDictionary()
        self._received: memoryview | None = None
        self._ciphertext: memoryview | None = None

    def heartbeat(self, seconds: float) -> Heartbeat:
        """Return what looks at its members once in so many seconds."""
        heartbeat = self._heartbeats.get(seconds)
        if heartbeat is None:
            heartbeat = self._heartbeats[seconds] = Heartbeat(self.loop, seconds, self)
        return heartbeat

    def block(self) -> memoryview:
        """Return the block that all connections of the loop receive into.

        A transport asks for the buffer, reads into it and reports it in one go, so only one
        connection at a time uses the block.
        """
        if self._received is None:
            self._received = memoryview(bytearray(BLOCK))
        return self._received

    def ciphertext_block(self) -> memoryview:
        """Return the block that TLS connections receive into; they decrypt to the other one."""
        if self._ciphertext is None:
            self._ciphertext = memoryview(bytearray(BLOCK))
        return self._ciphertext


#: By the loop's identity, because a key that is the loop would keep it.
_known: WeakValueDictionary[int, LoopState] = WeakValueDictionary()


def state_of(loop: AbstractEventLoop) -> LoopState:
    """Return the state of a loop; a user of any part has to keep the whole."""
    state = _known.get(id(loop))
    if state is None or state.loop is not loop:
        state = _known[id(loop)] = LoopState(loop)
    return state
