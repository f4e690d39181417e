"""The hello: one small message that each side writes first and then reads.

It is Dask's handshake, a msgpack map of ``compression``, ``python`` and
``pickle-protocol``; unknown keys are ignored. Our own capabilities travel under
``distributed_comm``, and a peer without that key is served as plain Dask.
A stranger wrote these bytes: no pickle, no hook, and every type is checked.
"""

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

from .._kernels import frame0 as kernel
from . import peer_limits as limits
from .peer_limits import Terms

__all__ = ["NONCE", "Hello", "decode", "encode", "encode_local", "local_hello"]

OURS = "distributed_comm"
LIMITS = "limits"
#: 2 added refusals, 3 added envelopes, 4 added limits and reasons.
VERSION = 4
TYPES = 1
DEPTH = 8
PICKLE_PROTOCOL = 5
#: Bytes of a nonce.
NONCE = 32


class Hello(NamedTuple):
    """What one side says of itself; ``capabilities`` is None for a plain Dask peer."""

    compression: str | None
    python: tuple[int, ...]
    pickle_protocol: int
    capabilities: dict[str, Any] | None
    #: Its limits for strangers, and for peers that it trusts; None if it does not say.
    terms: tuple[Terms, Terms] | None = None

    @property
    def says_goodbye(self) -> bool:
        """Whether it knows control messages, so that an end without a goodbye is a loss."""
        return self.capabilities is not None

    @property
    def hears_refusals(self) -> bool:
        """Whether it can be told that it is refused; an older one takes that for a mistake."""
        return self._version >= 2

    @property
    def hears_reasons(self) -> bool:
        """Whether it can be told why a connection ends, and asked which limits apply."""
        return self._version >= 4

    @property
    def enveloped(self) -> bool:
        """Whether calls may go in envelopes, which say what a message is apart from its data."""
        return self._version >= 3 and self.typed

    @property
    def _version(self) -> int:
        version = 0 if self.capabilities is None else self.capabilities.get("version")
        return version if type(version) is int else 0

    @property
    def nonce(self) -> bytes | None:
        """The random bytes that a proof has to be made with; None if the side has no key."""
        return None if self.capabilities is None else self.capabilities.get("nonce")

    @property
    def endpoint(self) -> str | None:
        """The address of the listener, as this side sees it."""
        return None if self.capabilities is None else self.capabilities.get("endpoint")

    def without_proof(self) -> "Hello":
        """Return the same without the nonce and the endpoint, which only the handshake needs."""
        if self.capabilities is None:
            return self
        kept = {k: v for k, v in self.capabilities.items() if k not in {"nonce", "endpoint"}}
        return self._replace(capabilities=kept)

    @property
    def typed(self) -> bool:
        """Whether frame 0 may say what msgpack has no type for in our own way."""
        return self.capabilities is not None and self.capabilities.get("types") == TYPES

    def best_codec(self, codecs: Sequence[str]) -> str | None:
        """Return the first of our codecs that this side can decompress; Dask names only one."""
        if self.capabilities is None:
            return self.compression if self.compression in codecs[:1] else None
        theirs = self.capabilities.get("compression")
        if not isinstance(theirs, list):
            return None
        return next((codec for codec in codecs if codec in theirs), None)


def local_hello(
    codecs: Sequence[str] = (),
    nonce: bytes | None = None,
    endpoint: str = "",
    terms: tuple[Terms, Terms] | None = None,
) -> Hello:
    """Return this process's hello; with a nonce if it can prove to hold a key.

    ``codecs`` are those that may compress, the best first; ``terms`` are what is accepted.
    """
    capabilities: dict[str, Any] = {"version": VERSION, "types": TYPES}
    if codecs:
        capabilities["compression"] = list(codecs)
    if nonce is not None:
        capabilities |= {"nonce": nonce, "endpoint": endpoint}
    best = codecs[0] if codecs else None
    return Hello(best, tuple(sys.version_info[:3]), PICKLE_PROTOCOL, capabilities, terms)


def encode(hello: Hello) -> bytes:
    """Return frame 0 of the hello."""
    message: dict[str, object] = {
        "compression": hello.compression,
        "python": hello.python,
        "pickle-protocol": hello.pickle_protocol,
    }
    if hello.capabilities is not None:
        said = {} if hello.terms is None else {LIMITS: limits.encode(hello.terms)}
        message[OURS] = hello.capabilities | said
    return bytes(msgpack.packb(message))


def encode_local(
    codecs: tuple[str, ...], nonce: bytes, endpoint: str, terms: tuple[Terms, Terms] | None = None
) -> bytes:
    """Do what ``encode(local_hello(…))`` does, if only the nonce is new."""
    before, behind = _around_nonce(codecs, endpoint, terms)
    return before + nonce + behind


@lru_cache(256)
def _around_nonce(
    codecs: tuple[str, ...], endpoint: str, terms: tuple[Terms, Terms] | None
) -> tuple[bytes, bytes]:
    blank = bytes(NONCE)
    before, _, behind = encode(local_hello(codecs, blank, endpoint, terms)).partition(blank)
    return before, behind


def decode(frame: bytes) -> Hello:
    """Parse frame 0 of a hello; ValueError says what is wrong with it.

    >>> decode(encode(Hello("lz4", (3, 11, 7), 5, None))).compression
    'lz4'
    """
    kernel.scan(frame, DEPTH)
    try:
        message = msgpack.unpackb(frame, raw=False, strict_map_key=True)
    except Exception as exc:  # msgpack raises its own, ValueError and UnicodeDecodeError
        raise ValueError(f"no msgpack in the hello: {exc}") from exc
    if not isinstance(message, dict):
        raise ValueError(f"the hello is a {type(message).__name__}, expected a map")
    compression = message.get("compression")
    python = message.get("python", [])
    protocol = message.get("pickle-protocol")
    capabilities = message.get(OURS)
    if not (compression is None or isinstance(compression, str)):
        raise ValueError(f"compression {compression!r:.60} in the hello, expected a name or nil")
    if not (isinstance(python, list) and {int}.issuperset(map(type, python))):
        raise ValueError(f"python {python!r:.60} in the hello, expected a list of integers")
    if type(protocol) is not int or not 0 <= protocol <= 255:
        raise ValueError(f"pickle-protocol {protocol!r:.60} in the hello, expected a small integer")
    if not (capabilities is None or isinstance(capabilities, dict)):
        raise ValueError(f"{OURS} {capabilities!r:.60} in the hello, expected a map")
    _check_nonce(capabilities or {})
    terms = None
    if capabilities is not None and LIMITS in capabilities:
        terms = limits.decode(capabilities.pop(LIMITS))  # shared by connections, unlike the rest
    return Hello(compression, tuple(python), min(protocol, PICKLE_PROTOCOL), capabilities, terms)


def _check_nonce(capabilities: dict[str, Any]) -> None:
    nonce, endpoint = capabilities.get("nonce"), capabilities.get("endpoint")
    if nonce is not None and not (isinstance(nonce, bytes) and len(nonce) == NONCE):
        raise ValueError(f"nonce {nonce!r:.60} in the hello, expected {NONCE} bytes")
    if not (endpoint is None or isinstance(endpoint, str)):
        raise ValueError(f"endpoint {endpoint!r:.60} in the hello, expected an address")
