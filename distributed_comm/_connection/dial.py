"""A Connector over sockets: it dials, and waits until the handshake is done."""

import asyncio
import socket
from abc import abstractmethod

from .._comm import ChannelComm
from .._logs import of_dialled
from .._loops import descriptors
from .._serialize.compression import choose
from .._transports.ip_sockets import drop
from .._trust.trust import REFUSAL, Trust
from .._wire.budget import Budget
from .._wire.length_framing import LengthFraming
from ..core import Connector
from ..errors import FatalCommClosedError
from ..options import CommOptions, default_options
from .channel import Adapter
from .eviction import relieve
from .handshake import Framing, judge, make_adapter
from .peer import Link
from .provider import attach

__all__ = ["SocketConnector"]

NO_HELLO = (
    "it is connected, and no hello came; who listens there may hang, or have as many connections "
    "as it accepts (Limits.connections)"
)


class SocketConnector(Connector):
    """Dials addresses of one kind of socket; subclasses do the dialling."""

    #: What cuts the bytes into messages; a subclass may name another.
    framing: Framing = LengthFraming

    @abstractmethod
    async def _dial(self, address: str) -> socket.socket:
        """Return a connected socket, as `Connector.connect` does a comm."""

    @abstractmethod
    def _identify(self, sock: socket.socket, address: str) -> Link:
        """Return both its ends; OSError where it is connected no more."""

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
        budget = Budget(options.limits.untrusted_memory)
        sock = await self._dial(address)
        if sock.fileno() >= descriptors.ceiling():  # of what is kept for the program
            relieve(loop)
        greeted: asyncio.Future[bool] = loop.create_future()

        def opened(adapter: Adapter) -> None:
            if greeted.done():
                return
            if adapter.refused:  # right behind the handshake; else a read or a write finds it
                greeted.set_exception(adapter.closed_error())
                return
            try:
                greeted.set_result(judge(adapter, trust, budget, of_dialled()))
            except FatalCommClosedError as exc:
                adapter.abort(REFUSAL)
                greeted.set_exception(exc)

        def lost(adapter: Adapter) -> None:
            if not greeted.done():
                greeted.set_exception(adapter.closed_error())

        try:
            link = self._identify(sock, address)
        except OSError:  # it has gone already
            drop(sock)
            raise
        adapter = make_adapter(loop, sock, link, trust, options, self.framing, opened, lost)
        adapter.greet()
        try:
            await attach(loop, sock, adapter, adapter.attached)
            trusted = await greeted
        except BaseException as exc:
            if isinstance(exc, asyncio.CancelledError):
                exc.add_note(NO_HELLO)  # for who has cancelled this because it took too long
            greeted.cancel()  # else it may get an exception that nobody retrieves
            adapter.abort()
            raise
        adapter.hand_over()
        return ChannelComm(adapter, trusted=trusted, deserialize=deserialize, limits=options.limits)
