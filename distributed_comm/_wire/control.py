"""Control messages between peers of this library: bytes that no object encodes to.

Frame 0 is a msgpack "ext 8" of the reserved type CONTROL: ``c7 length bc kind payload``.
They are answered in the protocol callback and never reach a reader; a plain Dask peer
is never sent one.
"""

from enum import IntEnum

from .._kernels import framing as kernel

__all__ = [
    "ASK", "GOODBYE", "PING", "PONG", "PROOF", "REASON", "REFUSAL", "TERMS", "Kind", "decode",
    "encode", "encode_reason",
]  # fmt: skip


class Kind(IntEnum):
    """What a control message says."""

    GOODBYE = 1  # nothing follows: the end of stream after this lost nothing
    PING = 2  # answered by a pong once it is read, so that bytes go both ways
    PONG = 3
    PROOF = 4  # of holding the key, 32 bytes, right behind the hello (see `proof`)
    REFUSAL = 5  # nothing follows: the sender requires trust in us, and has none
    ASK = 6  # which of the limits in the hello apply to the sender of this
    TERMS = 7  # the answer: one byte, 0 for those of strangers, 1 for those of trusted peers
    REASON = 8  # why the connection is about to end, as text


#: Names of their own, and by number: an enum's own look-ups are slow functions.
GOODBYE, PING, PONG, PROOF, REFUSAL, ASK, TERMS, REASON = Kind
#: Bytes of the longest payload.
LONGEST = 254
KINDS = {kind.value: kind for kind in Kind}


def encode_reason(text: str) -> bytes:
    """Return frame 0 of a REASON, whose text is shortened to what there is room for."""
    return encode(REASON, text.encode(errors="backslashreplace")[:LONGEST])


def encode(kind: Kind, payload: bytes = b"") -> bytes:
    """Return frame 0 of a control message; the payload has at most 254 bytes.

    >>> encode(Kind.GOODBYE).hex(' ')
    'c7 01 bc 01'
    """
    return bytes((0xC7, 1 + len(payload), kernel.CONTROL, kind)) + payload


def decode(frame: bytes) -> tuple[Kind, bytes]:
    """Undo `encode`; ValueError for a kind that we do not know or a wrong length.

    >>> decode(bytes.fromhex('c7 01 bc 01'))
    (<Kind.GOODBYE: 1>, b'')
    """
    if len(frame) < 4 or frame[1] != len(frame) - 3:
        raise ValueError(f"a control message of {len(frame)} bytes that states another length")
    kind = KINDS.get(frame[3])
    if kind is None:
        raise ValueError(f"{frame[3]} is not a valid Kind")
    return kind, bytes(frame[4:])
