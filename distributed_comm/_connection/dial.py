"""A Connector over sockets: it dials, and waits until the handshake is done."""

import asyncio
import socket
from abc import abstractmethod

from .._comm import ChannelComm
from .._logs import of_dialled
from .._loops import descriptors, forks
from .._loops.loop_state import LoopState, state_of
from .._serialize.compression import choose
from .._trust.trust import REFUSAL, Trust
from .._wire.budget import Budget
from .._wire.framing import MakeFraming
from .._wire.length_framing import LengthFraming
from ..core import Connector
from ..errors import FatalCommClosedError
from ..options import CommOptions, default_options
from .byte_stream import ByteStream, SocketStream
from .channel import ConnectionChannel
from .eviction import relieve
from .handshake import judge, make_channel
from .peer import ConnectionInfo
from .socket_state import drop

__all__ = ["SocketConnector"]

NO_HELLO = (
    "it is connected, and no hello came; the listener may hang, or have as many connections "
    "as it accepts (Limits.connections)"
)


class SocketConnector(Connector):
    """Dials addresses of one kind of socket; subclasses do the dialling."""

    #: The framing, which cuts bytes into messages; a subclass may name another.
    framing: MakeFraming = LengthFraming

    @abstractmethod
    async def _dial(self, address: str) -> socket.socket:
        """Return a connected socket, as `Connector.connect` does a comm."""

    def _stream(self, state: LoopState, sock: socket.socket) -> ByteStream:  # noqa: ARG002
        """Return what the connection sends into; a subclass may have another one."""
        return SocketStream(sock)

    @abstractmethod
    def _identify(self, sock: socket.socket, address: str) -> ConnectionInfo:
        """Return its two ends; OSError if it is not connected any more."""

    async def connect(  # type: ignore[override]  # takes no other connection_args
        self,
        address: str,
        deserialize: bool = True,
        *,
        trusted: bool | None = None,
        key: str | bytes | None = None,
        require_trust: bool = False,
        options: CommOptions | None = None,
    ) -> ChannelComm:
        options = options or default_options()
        choose(options.compression)  # ValueError before there is a socket
        trust = Trust.choose(trusted, key, require_trust, options.relayed)
        loop = asyncio.get_running_loop()
        state = state_of(loop)
        budget = Budget(options.limits.untrusted_memory)
        sock = await self._dial(address)
        if sock.fileno() >= descriptors.ceiling():  # of what is kept for the program
            relieve(loop)
        greeted: asyncio.Future[bool] = loop.create_future()

        def opened(channel: ConnectionChannel) -> None:
            if greeted.done():
                return
            if channel.connection.refused:  # right behind the handshake; else a read finds out
                greeted.set_exception(channel.closed_error())
                return
            try:
                greeted.set_result(judge(channel, trust, budget, of_dialled()))
            except FatalCommClosedError as exc:
                channel.abort(REFUSAL)
                greeted.set_exception(exc)

        def lost(channel: ConnectionChannel) -> None:
            if not greeted.done():
                greeted.set_exception(channel.closed_error())

        try:
            info = self._identify(sock, address)
            stream = self._stream(state, sock)
        except BaseException:  # OSError: it has gone already
            drop(sock)
            raise
        channel = make_channel(state, stream, info, trust, options, self.framing, opened, lost)
        forks.entrust(sock)
        channel.greet()
        try:
            await stream.start(loop, channel, channel.attached)
            trusted = await greeted
        except BaseException as exc:
            if isinstance(exc, asyncio.CancelledError):
                exc.add_note(NO_HELLO)  # it was cancelled because it took too long, say
            greeted.cancel()  # else it may get an exception that nobody retrieves
            channel.abort()
            raise
        channel.forget_maker()
        return ChannelComm(channel, trusted=trusted, deserialize=deserialize, limits=options.limits)
