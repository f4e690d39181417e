"""Comms over inproc with one fault each, and the scheme ``faulty`` that supplies them."""

import asyncio
from contextlib import suppress
from typing import Any, ClassVar

from loops import settle

from distributed_comm import Backend, Comm, CommClosedError, Connector, Listener
from distributed_comm._transports.inproc import InProcBackend


class Sound(Comm):
    """No fault: everything is the inner comm's."""

    #: All inner comms, for a check that fails leaves them open.
    made: ClassVar[list[Comm]] = []

    def __init__(self, inner: Comm) -> None:
        self.inner = inner
        self.made.append(inner)

    async def read(self, deserializers=None):
        return await self.inner.read()

    async def write(self, msg, serializers=None, on_error=None):
        return await self.inner.write(msg)

    async def close(self):
        await self.inner.close()

    def abort(self):
        self.inner.abort()

    def closed(self):
        return self.inner.closed()

    @property
    def local_address(self):
        return self.inner.local_address

    @property
    def peer_address(self):
        return self.inner.peer_address

    @classmethod
    async def dial(cls, connecting):
        return await connecting

    @classmethod
    def stop(cls, listener):
        listener.stop()


class SendsNoneForWhatIsEmpty(Sound):
    async def write(self, msg, serializers=None, on_error=None):
        return await super().write(msg or None)


class ReadsTheSecondFirst(Sound):
    kept: Any = None

    async def read(self, deserializers=None):
        if self.kept is None:
            self.kept = await super().read()
            return await super().read()
        message, self.kept = self.kept, None
        return message


class DoesOneThingAtATime(Sound):
    def __init__(self, inner):
        super().__init__(inner)
        self.lock = asyncio.Lock()

    async def read(self, deserializers=None):
        async with self.lock:
            return await super().read()

    async def write(self, msg, serializers=None, on_error=None):
        async with self.lock:
            return await super().write(msg)


class QueuesReaders(Sound):
    def __init__(self, inner):
        super().__init__(inner)
        self.lock = asyncio.Lock()

    async def read(self, deserializers=None):
        async with self.lock:
            return await super().read()


class QueuesWithoutEnd(Sound):
    def __init__(self, inner):
        super().__init__(inner)
        self.writing = set()

    async def write(self, msg, serializers=None, on_error=None):
        self.writing.add(asyncio.ensure_future(self.write_later(msg)))
        return 0

    async def write_later(self, msg):
        with suppress(CommClosedError):
            await super().write(msg)


class TakesAMessageTooEarly(Sound):
    async def read(self, deserializers=None):
        message = await super().read()
        await settle(3)
        return message


class WritesTooLate(Sound):
    async def write(self, msg, serializers=None, on_error=None):
        await settle(3)
        return await super().write(msg)


class ClosesTooLate(Sound):
    async def close(self):
        await settle(3)
        await super().close()


class ConnectsThoughCancelled(Sound):
    @classmethod
    async def dial(cls, connecting):
        async def dial_and_keep():
            Sound.made.append(comm := await connecting)
            return comm

        return await asyncio.shield(dial_and_keep())


class ForgetsTheLastMessage(Sound):
    kept: Any = None

    async def write(self, msg, serializers=None, on_error=None):
        kept, self.kept = self.kept, msg
        return 0 if kept is None else await super().write(kept)


class IsNeverClosedCleanly(Sound):
    async def read(self, deserializers=None):
        try:
            return await super().read()
        except CommClosedError as exc:
            raise CommClosedError(*exc.args) from None


class OnlySaysThatItClosed(Sound):
    said = False

    async def close(self):
        self.said = True

    def closed(self):
        return self.said or super().closed()


class ClosesWhenThePeerHas(Sound):
    async def close(self):
        async for _ in self.inner:
            pass
        await super().close()


class IsClosedOnceReadingFailed(Sound):
    over = False

    async def read(self, deserializers=None):
        try:
            return await super().read()
        except CommClosedError:
            self.over = True
            raise

    def closed(self):
        return self.over


class AbortsTooLate(Sound):
    def abort(self):
        asyncio.get_running_loop().call_soon(self.inner.abort)


class WritesToNobody(Sound):
    async def write(self, msg, serializers=None, on_error=None):
        try:
            return await super().write(msg)
        except CommClosedError:
            await asyncio.Event().wait()


class MixesUpConnections(Sound):
    latest: ClassVar[list[Any]] = [None]

    async def write(self, msg, serializers=None, on_error=None):
        self.latest[0] = msg
        return await super().write(msg)

    async def read(self, deserializers=None):
        await super().read()
        return self.latest[0]


class CannotBeStopped(Sound):
    @classmethod
    def stop(cls, listener):
        pass


#: The check that finds it, the fault, and what the check has expected.
FAULTS = {
    "messages_arrive_as_they_were_sent": (SendsNoneForWhatIsEmpty, "0, got None"),
    "messages_arrive_in_order": (ReadsTheSecondFirst, "numbers and sizes as they were sent"),
    "both_sides_may_write_at_once": (DoesOneThingAtATime, "while both sides write within"),
    "a_second_reader_is_refused": (QueuesReaders, "a second read, while one waits, to raise"),
    "a_writer_waits_for_its_reader": (QueuesWithoutEnd, "to wait before 4000 are unread"),
    "a_cancelled_read_loses_nothing": (TakesAMessageTooEarly, "to get its message within"),
    "a_cancelled_write_goes_out_whole": (WritesTooLate, "though its write.. was cancelled"),
    "a_cancelled_close_still_closes": (ClosesTooLate, "closed.. once a close.. was cancelled"),
    "a_cancelled_connect_leaves_nothing_open": (ConnectsThoughCancelled, "the end of a comm whose"),
    "close_delivers_what_was_written": (ForgetsTheLastMessage, "what was written before close"),
    "async_for_ends_when_the_peer_closes": (IsNeverClosedCleanly, "`async for` to end once"),
    "close_ends_the_reads_of_both_sides": (OnlySaysThatItClosed, "when its own side closes"),
    "close_ends_the_writes_of_the_peer": (ClosesWhenThePeerHas, "while the peer writes within"),
    "closed_is_known_without_a_read": (IsClosedOnceReadingFailed, "without a read within"),
    "abort_ends_both_sides": (AbortsTooLate, "closed.. right after abort.., got False"),
    "a_waiting_writer_learns_that_its_peer_is_gone": (WritesToNobody, "when the peer is gone"),
    "a_listener_serves_several_at_once": (MixesUpConnections, "to get its own answer, got 2"),
    "a_stopped_listener_takes_nobody_new": (CannotBeStopped, "after stop.., to raise OSError"),
}


class FaultyConnector(Connector):
    async def connect(self, address, deserialize=True):
        connecting = InProcBackend().get_connector().connect(address)
        return FaultyBackend.kind(await FaultyBackend.kind.dial(connecting))


class FaultyListener(Listener):
    def __init__(self, loc, handle_comm):
        def wrap(comm):
            return handle_comm(FaultyBackend.kind(comm))

        self.inner = InProcBackend().get_listener(loc, wrap, True)

    async def start(self):
        await self.inner.start()

    def stop(self):
        FaultyBackend.kind.stop(self.inner)

    @property
    def listen_address(self):
        return self.inner.listen_address.replace("inproc", "faulty")

    contact_address = listen_address


class FaultyBackend(Backend):
    kind: ClassVar[type[Sound]] = Sound

    def get_connector(self):
        return FaultyConnector()

    def get_listener(self, loc, handle_comm, deserialize):
        return FaultyListener(loc, handle_comm)

    def get_address_host(self, loc):
        return loc

    def resolve_address(self, loc):
        return loc

    def get_local_address_for(self, loc):
        return loc
