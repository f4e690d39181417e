"""The exceptions, as a tree::

    OSError
    └── CommClosedError             the connection is closed; the text says by whom and why
        └── FatalCommClosedError    and dialling again would not help
            ├── RemoteProtocolError     the peer sent what the protocol does not allow
            └── TLSError                certificates, host names or versions of TLS do not fit
    RuntimeError
    ├── LocalProtocolError          the caller did what a comm does not allow
    └── RemoteError                 a call failed at the peer, and only the text came back
    TypeError
    ├── UnserializableError         an object that cannot be sent, here or at the peer
    └── UntrustedError              a pickle, to or from a peer that is not trusted
    ValueError
    ├── KeyFileError                a key file that is unsafe or holds no key
    └── MessageError                a message that arrived whole and cannot be decoded, or one
                                    that is too long to send: for what the peer accepts, or to
                                    wait until a stranger has read it

After a CommClosedError the comm is of no more use; after any other the next message can
be read or written. Exceptions of msgpack, pickle and the loop stay the ``__cause__``, unless they
quote an untrusted peer at length or with characters that are not printable.
"""

__all__ = [
    "CommClosedError",
    "FatalCommClosedError",
    "KeyFileError",
    "LocalProtocolError",
    "MessageError",
    "RemoteError",
    "RemoteProtocolError",
    "TLSError",
    "UnserializableError",
    "UntrustedError",
]


class CommClosedError(OSError):
    """The connection is closed; ``clean`` is True where nothing can have been lost."""

    def __init__(self, *args: object, clean: bool = False) -> None:
        super().__init__(*args)
        self.clean = clean


class FatalCommClosedError(CommClosedError):
    """The connection is closed for a reason that another attempt would meet again."""


class RemoteProtocolError(FatalCommClosedError):
    """The peer sent bytes that the protocol or a limit does not allow."""


class TLSError(FatalCommClosedError):
    """TLS could not be agreed on with the peer; the text says what to do."""


class LocalProtocolError(RuntimeError):
    """The caller used a comm as it must not be used: a second reader, another thread."""


class RemoteError(RuntimeError):
    """A call failed at the peer with an exception that cannot be raised here; its text."""


class UnserializableError(TypeError):
    """An object cannot be serialized: raised at the writer, or reported by it to the reader."""


class UntrustedError(TypeError):
    """A message needs a pickle, and the peer is not trusted."""


class KeyFileError(ValueError):
    """The file of the user's key cannot be relied on; the text says what mends it."""


class MessageError(ValueError):
    """A message cannot be decoded, or is too long for its reader, or to wait until that reads."""
