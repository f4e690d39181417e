"""The proof that a peer holds our key, without sending it: an HMAC of both hellos.

Each hello carries a nonce, so no proof is worth anything on another connection; and the
address of the listener as that side sees it, so that a relay between two of our connections
shows. The proof of a dialler is not that of a listener, so none can be
sent back to its maker. It says who the peer is, and nothing of the bytes that follow.

    proof = HMAC-SHA256(key, role, length and bytes of the dialler's hello, of the listener's)
"""

import hmac
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from secrets import token_bytes

from . import hello
from .peer_limits import Terms

__all__ = ["DIALLER", "LISTENER", "REMEDY", "SIZE", "Proving", "Role", "derive"]

#: Bytes of a proof.
SIZE = 32
#: What is hashed with a secret, so that its hash is of use for nothing else.
DOMAIN = b"distributed_comm proof 1\0"
#: What to do if a proof is wanted and none was believed. One text for every reason.
REMEDY = (
    "both sides need the same key (key=, $DISTRIBUTED_COMM_KEY, or the key file of one user), "
    "and nothing in between that passes on what they say (see docs/security.md)"
)


class Role(Enum):
    """Which end of a connection."""

    DIALLER = b"dialler\0"
    LISTENER = b"listener"


DIALLER, LISTENER = Role


@lru_cache(16)
def derive(secret: bytes) -> bytes:
    """Return the key of the HMAC; one hash, so it does not make a password a good secret."""
    return sha256(DOMAIN + secret).digest()


class Proving:
    """What one side needs until the peer has proven itself: the key, and both hellos.

    ``endpoint`` is the listener's address as this side sees it; ``codecs`` and ``terms`` are for
    the hello.
    """

    __slots__ = ("_endpoint", "_key", "_role", "_theirs", "ours")

    def __init__(
        self,
        key: bytes,
        role: Role,
        endpoint: str,
        codecs: tuple[str, ...] = (),
        terms: tuple[Terms, Terms] | None = None,
    ) -> None:
        self._key = key
        self._role = role
        self._endpoint = endpoint
        self.ours = hello.encode_local(codecs, token_bytes(hello.NONCE), endpoint, terms)
        self._theirs = b""

    def hear(self, theirs: bytes) -> None:
        """Take the peer's hello, as the bytes that came."""
        self._theirs = theirs

    def prove(self) -> bytes:
        """Return our proof."""
        return self._of(self._role)

    def proves(self, proof: bytes) -> bool:
        """Whether this is what a peer with our key would send."""
        other = LISTENER if self._role is DIALLER else DIALLER
        return hmac.compare_digest(self._of(other), proof)

    def is_relayed(self, endpoint: str | None) -> bool:
        """Whether the peer's hello names another listener than the one that we know."""
        return endpoint != self._endpoint

    def _of(self, role: Role) -> bytes:
        first, second = self.ours, self._theirs
        if self._role is LISTENER:
            first, second = second, first
        proof = _keyed(self._key).copy()  # a third cheaper than making one
        proof.update(
            role.value
            + len(first).to_bytes(8, "little") + first
            + len(second).to_bytes(8, "little") + second
        )  # fmt: skip
        return proof.digest()


@lru_cache(16)
def _keyed(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")
