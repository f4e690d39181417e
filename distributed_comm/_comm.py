"""A Comm over any Channel: serialization, and the trust that it asks for.

Messages are encoded and decoded where they are written and read, but for those that would
keep the event loop from its work: they are given to a thread. Neither their order nor what a
cancellation promises changes by that.
"""

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ._envelope import as_data, take_head
from ._frames import Frames
from ._logs import Log
from ._loops.threads import STRANGERS, TRUSTED, begin, cancel_again
from ._push import REFUSED, Decoding, Push, name_ends
from ._serialize.decode import loads
from ._serialize.encode import dumps, plain_length
from ._serialize.offload import Lengthy
from ._serialize.settings import DumpOptions, LoadOptions, check_choice
from ._serialize.tags import MARK
from .core import Admit, Channel, Comm, Enveloped, OwnHeads, Receiver, Unsettled
from .errors import CommClosedError, LocalProtocolError, MessageError
from .options import Limits

__all__ = ["ChannelComm"]

# Those of one connection are mostly those of the last one.
_dump_options = lru_cache(64)(DumpOptions)
_load_options = lru_cache(64)(LoadOptions)


def _max_message(limits: Limits, trusted: bool) -> int | None:
    """Return what a message may become where it is decompressed.

    A stranger's no more than it could be without compression: a few kilobytes of his would
    otherwise take half of the memory.
    """
    if trusted or (limits.message is not None and limits.message < limits.untrusted_memory):
        return limits.message
    return limits.untrusted_memory


class ChannelComm(Comm):
    """Objects over a Channel of frames.

    With ``deserialize=False`` pickles pass through unopened. A comm that is collected
    without having been closed warns, and aborts its channel.
    """

    def __init__(
        self, channel: Channel, *, trusted: bool, deserialize: bool, limits: Limits
    ) -> None:
        self.channel = channel
        self.closed = channel.closed  # type: ignore[method-assign] # one call less
        self.enveloped: bool = channel.enveloped
        self.own_heads: OwnHeads | None = None
        self._dump_options = _dump_options(
            trusted=trusted,
            typed=channel.typed,
            pickle_protocol=channel.pickle_protocol,
            compression=channel.compression,
            max_frames=None if channel.measures else limits.frames,
        )
        self._load_options = _load_options(
            trusted=trusted,
            typed=channel.typed,
            deserialize=deserialize,
            max_header=limits.untrusted_header,
            max_depth=limits.untrusted_depth,
            max_growth=limits.untrusted_growth,
            max_work=limits.untrusted_work,
            budget=None if trusted else channel.budget,
            max_message=_max_message(limits, trusted),
        )
        self._turn: asyncio.Lock | None = None  # held while a message is encoded in a thread …
        self._turns = 0  # … by so many writes, which wait for each other
        self._decoding: Decoding | None = None  # a message, in a thread
        self._awaited = False  # a read waits for that
        self._push: Push | None = None  # what decodes messages that are pushed

    async def read(self, deserializers: Iterable[str] | None = None) -> Any:
        options = self._load_options if deserializers is None else self._opening(deserializers)
        if self._decoding is None:
            frames = await self.channel.read()
            head = None
            try:
                try:
                    return loads(frames, options)
                except REFUSED:  # to look for a head first would cost all others 120 instructions
                    head = take_head(frames)
                    if head is None:
                        raise
                return as_data(head, loads(frames, options))
            except Lengthy as lengthy:
                self._decoding = Decoding.begin(frames, options, lengthy, head)
            except REFUSED as exc:
                name_ends(exc, self.channel)
                raise
        head, message, error = await self._decoded()
        if error is not None:
            raise error
        try:
            return message if head is None else as_data(head, message)
        except MessageError as exc:
            name_ends(exc, self.channel)
            raise

    # Repeats `read`: a coroutine shared by both would cost each message 1,400 instructions.
    async def read_enveloped(
        self,
        deserializers: Iterable[str] | None = None,
        admit: Admit | None = None,
    ) -> Enveloped:
        options = self._load_options if deserializers is None else self._opening(deserializers)
        if self._decoding is None:
            frames = await self.channel.read()
            # `take_head`, inlined: a call costs 120 instructions
            head: Any = frames.pop(0) if len(frames) > 1 and frames[0][:1] == MARK else None
            if admit is not None and head is not None and admit(head).refusal is not None:
                return head, None, None
            try:
                return head, loads(frames, options), None
            except Lengthy as lengthy:
                self._decoding = Decoding.begin(frames, options, lengthy, head)
            except REFUSED as exc:
                name_ends(exc, self.channel)
                return head, None, exc
        return await self._decoded()

    def _opening(self, deserializers: Iterable[str]) -> LoadOptions:
        check_choice(deserializers=deserializers)
        return replace(self._load_options, deserializers=tuple(deserializers))

    async def _decoded(self) -> Enveloped:
        """Wait for a message that is decoded in a thread; cancelled, leave it to the next read."""
        decoding = self._decoding
        assert decoding is not None
        if self._awaited:
            ends = f"{self.local_address} -> {self.peer_address}"
            raise LocalProtocolError(f"another task is reading from {ends}")
        self._awaited = True
        try:
            await asyncio.wait([decoding.message])
        finally:
            self._awaited = False
        self._decoding = None  # not before: a cancellation may come in the turn of the message
        decoding.release()
        try:
            return decoding.head, decoding.message.result(), None
        except REFUSED as exc:
            name_ends(exc, self.channel)
            return decoding.head, None, exc

    async def write(
        self,
        msg: Any,
        serializers: Iterable[str] | None = None,
        on_error: str | None = None,
    ) -> int:
        options = self._dump_options
        if serializers is not None or on_error is not None:
            options = self._chosen(serializers, on_error)
        if self._turn is not None:
            return await self._write_in_turn(msg, options)
        try:
            frames = dumps(msg, options)
        except Lengthy as lengthy:
            return await self._write_in_turn(msg, options, lengthy=lengthy)
        except REFUSED as exc:
            name_ends(exc, self.channel)
            raise
        channel = self.channel
        try:
            if self.own_heads is not None and (head := self._own_head(frames)):
                frames.insert(0, head)
            nbytes = channel.send(frames)
        except Unsettled:
            return await self._write_in_turn(frames, None)
        if channel.full:
            await channel.drain()
        return nbytes

    def send(
        self, msg: Any, serializers: Iterable[str] | None = None, head: bytes | None = None
    ) -> Awaitable[Any] | None:
        options = self._dump_options if serializers is None else self._chosen(serializers, None)
        if self._turn is not None:
            return self._write_in_turn(msg, options, head)
        try:
            frames = dumps(msg, options)
        except Lengthy as lengthy:
            return self._write_in_turn(msg, options, head, lengthy)
        except REFUSED as exc:
            name_ends(exc, self.channel)
            raise
        channel = self.channel
        try:
            if head is None and self.own_heads is not None:
                head = self._own_head(frames)
            if head:
                frames.insert(0, head)
            channel.send(frames)
        except Unsettled:
            return self._write_in_turn(frames, None, b"" if head else None)
        return channel.drain() if channel.full else None

    def push(self, receiver: Receiver | None, admit: Admit | None = None) -> None:
        if self._push is not None:
            self._decoding = self._push.stop()
            self._push = None
        if receiver is None:
            self.channel.push(None)
        elif self._awaited:
            raise LocalProtocolError(f"another task is reading from {self!r}")
        else:
            ready = None if self.trusted else self.ready
            self._push = Push(self.channel, self._load_options, receiver, admit, ready)
            self._push.start(self._decoding)
            self._decoding = None

    def unread(self) -> int:
        decoding = self._decoding is not None or (self._push is not None and self._push.decoding)
        return self.channel.unread() + decoding

    def expect_here(self) -> None:
        self.channel.expect_here()

    def is_fresh(self) -> bool:
        return self.channel.is_fresh()

    def is_sound(self) -> bool:
        return self.channel.is_sound() and self._decoding is None

    def ask_before_evicting(self, in_use: Callable[[], bool]) -> None:
        self.channel.ask_before_evicting(in_use)

    async def _write_in_turn(
        self,
        msg: Any,
        options: DumpOptions | None,
        head: bytes | None = None,
        lengthy: Lengthy | None = None,
    ) -> int:
        """Encode a message in a thread, and send it after those that were there before.

        Cancelled once that has begun, it goes on until the object is not needed any more. Without
        ``options`` the message is frames, for which the limits of the peer have to be known.
        """
        promised = 0
        if options is None:
            promised = sum(map(len, msg))
        elif lengthy is not None and not options.trusted:  # it waits here for a thread
            promised = plain_length(msg, options, lengthy)
        if promised:
            self.channel.promise(promised)
        if self._turn is None:
            self._turn = asyncio.Lock()
        self._turns += 1
        try:
            async with self._turn:
                frames, cancelled = msg, False
                if options is not None:
                    frames, cancelled = await self._encode(msg, options)
                while True:
                    self.channel.promise(-promised)  # for `send` counts it itself
                    promised = 0
                    try:
                        nbytes = self._send_frames(frames, head)
                        break
                    except Unsettled:
                        nbytes = sum(map(len, frames))
                        self.channel.promise(nbytes)
                        promised = nbytes
                        await self.channel.settled()
                if self.channel.full:
                    await self.channel.drain()
                if cancelled:
                    await asyncio.sleep(0)  # where drain did not have to wait
        finally:
            self.channel.promise(-promised)
            self._turns -= 1
            if not self._turns:
                self._turn = None
        return nbytes

    async def _encode(self, msg: Any, options: DumpOptions) -> tuple[Frames, bool]:
        """Encode a message in a thread; return its frames, and whether this was cancelled."""
        pool = TRUSTED if options.trusted else STRANGERS
        encoding = begin(pool, dumps, msg, replace(options, most=None))
        cancelled = await encoding.outlast()
        if cancelled:
            cancel_again()  # then drain only copies what it would have borrowed
        try:
            return encoding.future.result(), cancelled
        except REFUSED as exc:
            name_ends(exc, self.channel)
            raise

    def _send_frames(self, frames: Frames, head: bytes | None) -> int:
        """Send encoded frames, with a head if there is one."""
        if head is None and self.own_heads is not None:
            head = self._own_head(frames)
        return self.channel.send([head, *frames] if head else frames)

    def _own_head(self, frames: Frames) -> bytes:
        """Return the head of a handler's own message, which counts as sent from then on."""
        assert self.own_heads is not None
        self.channel.afford(frames)
        return next(self.own_heads)

    def _chosen(self, serializers: Iterable[str] | None, on_error: str | None) -> DumpOptions:
        check_choice(serializers, on_error)
        return replace(
            self._dump_options,
            serializers=None if serializers is None else tuple(serializers),
            on_error=on_error or "raise",
        )

    async def close(self) -> None:
        if self.own_heads is None or not self.own_heads.holds():
            await self.channel.close()

    def abort(self) -> None:
        self.channel.abort()

    def dismiss(self, why: str, *, unread: bool = True, logged: bool = False) -> None:
        self.channel.dismiss(why, unread=unread, logged=logged)

    @property
    def loss(self) -> CommClosedError | None:
        return self.channel.loss

    @property
    def at_once(self) -> int:
        return self.channel.at_once

    def closed(self) -> bool:
        return self.channel.closed()

    @property
    def trusted(self) -> bool:  # type: ignore[override]
        return self._dump_options.trusted

    @property
    def deserialize(self) -> bool:  # type: ignore[override]
        return self._load_options.deserialize

    @property
    def same_host(self) -> bool:  # type: ignore[override]
        return self.channel.same_host

    @property
    def local_address(self) -> str:
        return self.channel.local_address

    @property
    def peer_address(self) -> str:
        return self.channel.peer_address

    @property
    def extra_info(self) -> dict[str, Any]:
        return self.channel.extra_info

    @property
    def log(self) -> Log:
        return super().log if self.trusted else self.channel.log or super().log

    def stats(self) -> dict[str, int]:
        return self.channel.stats()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        # _warn is bound here because at the interpreter's end the module may be empty.
        channel = getattr(self, "channel", None)
        if channel is not None and not channel.closed():
            text = f"unclosed {self!r}"
            channel.abort()  # first, for the warning may be an error
            _warn(text, ResourceWarning, source=self)
