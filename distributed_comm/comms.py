"""A Comm over any Channel: serialization, and the trust that it asks for."""

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .core import Channel, Comm, Receiver
from .errors import CommClosedError
from .frames import Frames
from .options import Limits
from .serialize.decoding import LoadOptions, loads
from .serialize.encoding import DumpOptions, dumps

__all__ = ["ChannelComm"]


class ChannelComm(Comm):
    """Objects over a Channel of frames.

    With ``deserialize=False`` pickles pass through unopened. A comm that is collected
    without having been closed warns, and aborts its channel.
    """

    def __init__(
        self, channel: Channel, *, trusted: bool, deserialize: bool, limits: Limits
    ) -> None:
        self._channel = channel
        self.closed = channel.closed  # type: ignore[method-assign] # one call less
        self._dump_options = DumpOptions(
            trusted=trusted, pickle_protocol=channel.pickle_protocol, max_frames=limits.frames
        )
        self._load_options = LoadOptions(
            trusted=trusted,
            deserialize=deserialize,
            max_header=limits.untrusted_header,
            max_depth=limits.untrusted_depth,
        )

    async def read(self, deserializers: Iterable[str] | None = None) -> Any:
        frames = await self._channel.read()
        options = self._load_options
        if deserializers is not None:
            options = replace(options, deserializers=tuple(deserializers))
        return loads(frames, options)

    async def write(
        self,
        msg: Any,
        serializers: Iterable[str] | None = None,
        on_error: str | None = None,
    ) -> int:
        options = self._dump_options
        if serializers is not None or on_error is not None:
            options = self._chosen(serializers, on_error)
        channel = self._channel
        nbytes = channel.send(dumps(msg, options))
        if channel.full:
            await channel.drain()
        return nbytes

    def push(self, receiver: Receiver | None) -> None:
        channel = self._channel
        if receiver is None:
            channel.push(None)
            return
        # No reference to self: a forgotten comm is collected although its channel lives.
        options, ends = self._load_options, f"{self.local_address} -> {self.peer_address}"

        def receive(frames: Frames | None) -> None:
            if frames is None:
                receiver(None, CommClosedError(f"the connection has ended: {ends}"))
                return
            try:
                message = loads(frames, options)
            except (TypeError, ValueError) as exc:  # what `read` raises for a message
                receiver(_unopened(frames, options), exc)
            else:
                receiver(message, None)

        channel.push(receive)

    def send(self, msg: Any, serializers: Iterable[str] | None = None) -> bool:
        options = self._dump_options if serializers is None else self._chosen(serializers, None)
        channel = self._channel
        channel.send(dumps(msg, options))
        return channel.full

    async def drain(self) -> None:
        await self._channel.drain()

    def _chosen(self, serializers: Iterable[str] | None, on_error: str | None) -> DumpOptions:
        if on_error is None:
            on_error = "raise"
        elif on_error not in {"raise", "message"}:
            raise ValueError(f"on_error={on_error!r}, expected 'raise' or 'message'")
        return replace(
            self._dump_options,
            serializers=None if serializers is None else tuple(serializers),
            on_error=on_error,
        )

    async def close(self) -> None:
        await self._channel.close()

    def abort(self) -> None:
        self._channel.abort()

    def closed(self) -> bool:
        return self._channel.closed()

    @property
    def trusted(self) -> bool:  # type: ignore[override]
        return self._dump_options.trusted

    @property
    def deserialize(self) -> bool:  # type: ignore[override]
        return self._load_options.deserialize

    @property
    def same_host(self) -> bool:  # type: ignore[override]
        return self._channel.same_host

    @property
    def local_address(self) -> str:
        return self._channel.local_address

    @property
    def peer_address(self) -> str:
        return self._channel.peer_address

    @property
    def extra_info(self) -> dict[str, Any]:
        return self._channel.extra_info

    def stats(self) -> dict[str, int]:
        return self._channel.stats()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        # _warn is bound here because at the interpreter's end the module may be empty.
        channel = getattr(self, "_channel", None)
        if channel is not None and not channel.closed():
            text = f"unclosed {self!r}"
            channel.abort()  # first, for the warning may be an error
            _warn(text, ResourceWarning, source=self)


def _unopened(frames: Frames, options: LoadOptions) -> Any:
    """Return a message with its pickles as they came, None where even that fails."""
    try:
        return loads(frames, replace(options, deserialize=False))
    except (TypeError, ValueError):
        return None
