"""The contracts: what a Channel, a Comm, a Connector and a Listener promise.

A *Channel* moves lists of frames between two endpoints; byte transports supply one. A
*Comm* moves Python objects; `ChannelComm` makes one out of a Channel, and a backend
whose transport needs no bytes supplies its own. A Channel never refers to its Comm.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any, Protocol, Self

from ._frames import Frames
from ._logs import Log, of_dialled, of_trusted
from ._wire.budget import Budget
from ._wire.peer_limits import Unsettled
from .errors import CommClosedError, MessageError, UnserializableError, UntrustedError

__all__ = [
    "Admission", "Admit", "Channel", "Comm", "ConnectionEnd", "Connector", "Enveloped", "Frames",
    "HandleComm", "Listener", "OwnHeads", "Receiver", "Unsettled",
]  # fmt: skip

#: Called with a message, an exception or None, and perhaps an Admission: see `Comm.push`.
Receiver = Callable[..., None]


class Admission(Protocol):
    """The verdict on a message, by its head alone."""

    @property
    def refusal(self) -> Exception | None:
        """Why the message is refused without decoding it; None if it is not."""


class OwnHeads(Iterator[bytes], Protocol):
    """The heads of what a handler writes itself."""

    def holds(self) -> bool:
        """Whether `close` has to wait until the handler has ended, when its server closes."""


#: Called with the head of a message that is in an envelope.
Admit = Callable[[bytes], Admission]
#: A head or None, a message, and the reason why it could not be opened, or None.
Enveloped = tuple[bytes | None, Any, Exception | None]


class ConnectionEnd(ABC):
    """One end of a connection: what a Channel and a Comm say of it, and how it is closed."""

    __slots__ = ()

    @abstractmethod
    async def close(self) -> None:
        """Send what is unsent, say goodbye, and close; bounded in time, idempotent.

        What the peer still sends is discarded.
        """

    @abstractmethod
    def abort(self) -> None:
        """Close at once, dropping what is unsent; never raises."""

    def dismiss(
        self,
        why: str,  # noqa: ARG002 - for those that can tell
        *,
        unread: bool = True,  # noqa: ARG002
        logged: bool = False,  # noqa: ARG002
    ) -> None:
        """Close because of what the peer did, log the reason, and tell the peer if possible.

        What has arrived can still be read, unless ``unread`` is false. With ``logged``, the caller
        logs it.
        """
        self.abort()

    @abstractmethod
    def closed(self) -> bool:
        """Return whether either side has closed; what arrived before can be read."""

    @property
    def loss(self) -> CommClosedError | None:
        """Why what was sent may not have arrived; None if the connection is open, or ended well."""
        return None

    def unread(self) -> int:
        """Return how many messages have arrived and wait for `read`, as far as is known."""
        return 0

    def expect_here(self) -> None:  # noqa: B027 - for what belongs to a loop
        """Raise LocalProtocolError unless the loop is running here that may use it."""

    def is_fresh(self) -> bool:
        """Return whether a message was handed out within the last second, and nothing waits.

        False if it is not open, or another loop runs here. It makes no system call.
        """
        return False

    def is_sound(self) -> bool:
        """Process what the system has and was not read; return whether it is open and idle then.

        So the end of a peer that has closed is found before a request is sent to it. It takes one
        look that does not block. A transport that knows the end without that need not override it.
        """
        return not self.closed() and not self.unread()

    def ask_before_evicting(self, in_use: Callable[[], bool]) -> None:  # noqa: B027 - may be ignored
        """Call ``in_use`` before a stranger's connection is closed for being idle.

        It returns whether the connection is in use all the same, for example by a call that is
        answered later. A transport that closes no idle connections need not call it.
        """

    @property
    def at_once(self) -> int:
        """About how many bytes of small values the peer is sure to take in one message."""
        return sys.maxsize

    @property
    def extra_info(self) -> dict[str, Any]:
        """Anything else that the transport knows of this connection."""
        return {}

    def stats(self) -> dict[str, int]:
        """Return counters: bytes and messages, sent and received."""
        return {}


class Channel(ConnectionEnd):
    """Moves messages as lists of frames, in order; one reader at a time.

    A frame is bytes or a flat view of bytes. A received frame 0 is bytes, the others are
    writable memory of their own.
    """

    __slots__ = ()

    local_address: str
    peer_address: str
    #: The smaller pickle protocol of both sides.
    pickle_protocol: int
    #: Whether the peer reads our types, or those of Dask alone.
    typed: bool = False
    #: Whether the peer tells calls from data by their envelopes.
    enveloped: bool = False
    #: The codec by which long frames may be compressed, None for as they are.
    compression: str | None = None
    #: Whether `send` compares messages with the limits of the peer, which has told them.
    measures: bool = False
    #: Whether so much was sent that the caller has to await `drain`.
    full: bool
    #: Where to log what its peer causes; None for the log of those that this thread has dialled.
    log: Log | None = None
    #: What the memory for a stranger's messages is taken from; None for a trusted peer.
    budget: Budget | None = None
    #: Whether both ends are known to be on one machine.
    same_host: bool = False

    @abstractmethod
    async def read(self) -> Frames:
        """Return the next message.

        Cancelling it loses nothing. Raises CommClosedError once all that arrived was
        read, LocalProtocolError if another task is reading.
        """

    def push(
        self,
        receiver: Callable[[Frames | None], None] | None,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        """Hand each message to a function, in the callback that received it, from now on.

        What waited for `read` is handed over at once; None follows when the connection has
        ended. ``push(None)`` goes back to `read`, and so does a message for which ``ready``
        returns false. NotImplementedError if a channel can only be read.
        """
        raise NotImplementedError

    def afford(self, frames: Frames) -> None:  # noqa: ARG002 - for channels that count
        """Raise a MessageError if `send` would refuse to have this message wait unsent."""
        return

    def promise(self, nbytes: int) -> None:  # noqa: ARG002 - for channels that count
        """Count a message that is about to be encoded in a thread; a negative number ends that.

        Raises MessageError as `send` would.
        """
        return

    @abstractmethod
    def send(self, frames: Frames) -> int:
        """Send a message, or queue it; return its bytes. Raises CommClosedError.

        Raises MessageError for a message that would wait unsent, and is longer than a stranger
        may leave unread, or than the peer accepts; nothing of it is sent. Raises Unsettled if the
        caller has to await `settled` first. While `full` is then true the caller awaits `drain`
        before it sends again.
        """

    @abstractmethod
    async def drain(self) -> None:
        """Wait until little enough is unsent.

        Once it returned, or was cancelled, the memory of the frames that were sent is not
        used any more, and the messages go out whole. Raises CommClosedError.
        """

    async def settled(self) -> None:
        """Wait until the peer has said which of its limits apply, or the connection has ended."""


class Comm(ConnectionEnd):
    """Moves Python objects to and from one peer, in order; one reader at a time.

    >>> async def double(comm):
    ...     async with comm:
    ...         async for message in comm:  # until the peer closes
    ...             await comm.write(2 * message)
    """

    #: A label for logs, free for use.
    name: str | None = None
    #: Whether pickles from this peer may be opened, and sent to it.
    trusted: bool = False
    #: Whether pickles are opened; else they arrive as they are.
    deserialize: bool = True
    same_host: bool = False
    #: Whether calls go in envelopes, so that no data is mistaken for a part of one. If not, they
    #: use Dask's format: `read_enveloped` finds no heads, and ``head`` and ``admit`` are unused.
    enveloped: bool = False
    #: Returns whether the receiver of pushed messages can take one. Called before a stranger's
    #: message is decoded, because a decoded message that has to wait is counted by nobody. If it
    #: returns False, the comm pushes nothing more, as after ``push(None)``.
    ready: Callable[[], bool] | None = None
    #: Heads for messages that are written without one; a server sets them for a handler that may
    #: write. Enveloped comms set it on the instance: a class attribute costs 230 instructions more.
    own_heads: OwnHeads | None

    @abstractmethod
    async def read(self, deserializers: Any = None) -> Any:
        """Return the next message.

        Cancelling it loses nothing: the next read gets the message. Raises
        CommClosedError once all that arrived was read, MessageError for a message that
        cannot be decoded and UntrustedError for one that needs trust (the next one can
        be read), LocalProtocolError if another task is reading.
        """

    @abstractmethod
    async def write(self, msg: Any, serializers: Any = None, on_error: str | None = None) -> int:
        """Send a message and return its bytes; wait while too much is unsent.

        Once it returned, or was cancelled, the message may be changed without the peer
        noticing, and goes out whole. Raises CommClosedError; TypeError for an object that
        cannot be serialized, UntrustedError for one that only goes to a trusted peer;
        MessageError for a message that is too long for the peer, or to wait unsent for a
        stranger.
        """

    async def read_enveloped(
        self,
        deserializers: Any = None,
        admit: Admit | None = None,  # noqa: ARG002 - for comms that have envelopes
    ) -> Enveloped:
        """Return the head of the next message or None, the message, and why it cannot be opened.

        With ``admit``, a message whose head is refused is not opened. An error that concerns only
        this message is returned; other errors are raised, as by `read`.

        `read` itself returns only data: a request in an envelope becomes Dask's dict, and for any
        other message of a call it raises a MessageError.
        """
        try:
            return None, await self.read(deserializers), None
        except (MessageError, UnserializableError, UntrustedError) as exc:
            return None, None, exc

    def push(self, receiver: Receiver | None, admit: Admit | None = None) -> None:
        """Call ``receiver(message, error)`` for each message, instead of having it read.

        That happens in the callback that received the message. The error is None, or what
        `read` would have raised for this one message, which comes then with its pickles
        unopened, or as None; a CommClosedError follows when the connection has ended.
        ``push(None)`` goes back to `read`, and what has not been handed over waits for it.
        NotImplementedError if a comm can only be read.

        With ``admit``, a message may come in an envelope: ``admit(head)`` is called before the
        message is decoded, and its result is the receiver's third argument. If the result has a
        refusal, the message is not decoded, and the other two arguments are None.
        """
        raise NotImplementedError

    def send(
        self,
        msg: Any,
        serializers: Any = None,
        head: bytes | None = None,  # noqa: ARG002 - for comms that have envelopes
    ) -> Awaitable[Any] | None:
        """Do what `write` does, but return what is left to be awaited, None if nothing is.

        Await it before you write anything else. ``head`` puts the message in an envelope. Comms
        that have envelopes, or can write without waiting, override this method.
        """
        return self.write(msg, serializers)

    @property
    @abstractmethod
    def local_address(self) -> str:
        """The local address, for logs only."""

    @property
    @abstractmethod
    def peer_address(self) -> str:
        """The peer's address, for logs only."""

    @property
    def log(self) -> Log:
        """Where to log what the peer causes."""
        return of_trusted() if self.trusted else of_dialled()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.read()
        except CommClosedError as exc:
            if exc.clean:
                raise StopAsyncIteration from None
            raise

    def __repr__(self) -> str:
        label = f" {self.name}" if self.name else ""
        state = "closed" if self.closed() else "open"
        return f"<{type(self).__name__}{label} {self.local_address} -> {self.peer_address} {state}>"


HandleComm = Callable[[Comm], Awaitable[None] | None]


class Connector(ABC):
    """Dials addresses of one scheme."""

    @abstractmethod
    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Comm:
        """Dial a scheme-less address once.

        Raises OSError if the peer cannot be reached now, ValueError for an address
        that is malformed.
        """


class Listener(ABC):
    """Accepts connections and hands each, once its handshake is done, to a callback.

    ``await listener`` and ``async with listener`` start it.
    """

    @property
    @abstractmethod
    def listen_address(self) -> str:
        """The address it listens on, with the port that was bound."""

    @property
    @abstractmethod
    def contact_address(self) -> str:
        """An address that others can dial, also if ``listen_address`` is a wildcard."""

    def bind(self) -> None:
        """Take the address, so that its port is known; `start` does it otherwise.

        There is nothing to do if an address has no port.
        """
        return

    @abstractmethod
    async def start(self) -> None:
        """Start accepting connections."""

    @abstractmethod
    def stop(self) -> None:
        """Stop accepting; established comms go on.

        So does a handshake in which the peer has our hello, because its `connect` may have
        returned: the callback may still get its comm, within `Timeouts.handshake`.
        """

    def __await__(self) -> Generator[Any, None, Self]:
        async def started() -> Self:
            await self.start()
            return self

        return started().__await__()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
