"""Certificates, and the TLS contexts that are made of them."""

import os
import ssl
import tempfile
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import import_module
from typing import Any, NoReturn

__all__ = ["TEMPORARY_NAME", "Security"]

#: The host name in temporary certificates. Nobody can have it (RFC 6761): peers may be at any
#: address, and what is checked is that they have this certificate.
TEMPORARY_NAME = "temporary.distributed-comm.invalid"
PEM = "-----BEGIN "


@dataclass(frozen=True, kw_only=True)
class Security:
    """What ``tls://`` needs: each certificate and key as the path of a PEM file, or as PEM text.

    ``ca`` signed the certificates of those we believe; every peer with one of them is trusted,
    so it should be a CA of your own. ``cert`` and ``key`` are shown to the peer; a ``cert`` may
    hold its key and the chain of its CAs, too. Versions of TLS below ``minimum_version`` are
    refused. ``ciphers`` is a list in OpenSSL's format, for TLS 1.2 (those of 1.3 are all fit). A
    listener refuses peers without a certificate, unless ``mutual=False``; a dialler refuses a
    listener whose certificate is not for the host name that was dialled, or for
    ``server_hostname``, unless ``check_hostname=False``. With ``require_encryption`` addresses
    whose bytes others may read are refused.

    The files are read once, by the first `connect` or `listen`. Raises ValueError then for
    a text that is no certificate or key, OSError for a file that cannot be read. No text is shown
    in any error, nor by ``repr``: it may hold a key.
    """

    ca: str | os.PathLike[str]
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    ciphers: str | None = None
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    mutual: bool = True
    check_hostname: bool = True
    server_hostname: str | None = None
    require_encryption: bool = True

    @classmethod
    def temporary(cls, *, days: int = 365) -> "Security":
        """Make a certificate that is its own CA, so that peers are those who have this object.

        It can be pickled, and its texts handed to other processes; everybody with the key is a
        peer. Needs the library ``cryptography``.
        """
        try:
            certificates = import_module(".temporary", __package__)
        except ImportError as exc:
            raise ImportError("Security.temporary() needs the library cryptography") from exc
        cert, key = certificates.make_temporary(TEMPORARY_NAME, days)
        return cls(ca=cert, cert=cert, key=key, server_hostname=TEMPORARY_NAME)

    def connection_args(self) -> dict[str, Any]:
        """Return ``connection_args`` for `connect`."""
        arguments = {
            "ssl_context": self.connecting,
            "require_encryption": self.require_encryption,
        }
        if self.server_hostname is not None:
            arguments["server_hostname"] = self.server_hostname
        return arguments

    def listen_args(self) -> dict[str, Any]:
        """Return ``connection_args`` for `listen`."""
        return {"ssl_context": self.listening, "require_encryption": self.require_encryption}

    @cached_property
    def connecting(self) -> ssl.SSLContext:
        """The context of a side that dials."""
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = self.check_hostname
        return context

    @cached_property
    def listening(self) -> ssl.SSLContext:
        """The context of a side that is dialled."""
        if self.cert is None:
            raise ValueError("to listen with TLS takes a certificate: pass cert= and key=")
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED if self.mutual else ssl.CERT_OPTIONAL
        # Nobody resumes a session: tickets would only cost each handshake, and memory.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        return context

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = self.minimum_version
        context.options |= ssl.OP_NO_RENEGOTIATION
        for name in ("ca", "cert", "key"):
            _expect_pem(name, getattr(self, name))
        try:
            if self.ciphers is not None:
                context.set_ciphers(self.ciphers)
            if _is_text(self.ca):
                context.load_verify_locations(cadata=str(self.ca))
            else:
                context.load_verify_locations(cafile=self.ca)
            if self.cert is not None:
                _load_chain(context, self.cert, self.key)
        except ssl.SSLError as exc:
            raise ValueError(f"no context can be made of {self!r}: {exc}") from exc
        except OSError:
            for path in filter(_is_path, (self.ca, self.cert, self.key)):
                with open(path, "rb"):  # type: ignore[arg-type]  # it says which one it is
                    pass
            raise
        return context

    def __repr__(self) -> str:
        shown = [f"ca={_show(self.ca)}", f"cert={_show(self.cert)}"]
        shown += ["key=<not shown>"] if self.key is not None else []
        others = [item for item in fields(self)[3:] if getattr(self, item.name) != item.default]
        shown += [f"{item.name}={getattr(self, item.name)!r}" for item in others]
        return f"Security({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the contexts, which cannot be pickled."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def _is_text(pem: str | os.PathLike[str]) -> bool:
    return isinstance(pem, str) and PEM in pem


def _is_path(pem: object) -> bool:
    if isinstance(pem, str):
        return PEM not in pem and "\n" not in pem
    return isinstance(pem, os.PathLike)


def _show(pem: object) -> str:
    """Return a path as it is, and of anything else only that it is there."""
    return repr(pem) if pem is None or _is_path(pem) else "<text>"


def _expect_pem(name: str, pem: object) -> None:
    """Raise ValueError for what is neither a path nor a text."""
    if not (pem is None or _is_path(pem) or (isinstance(pem, str) and PEM in pem)):
        raise ValueError(f"{name}= is neither a path nor PEM text, which has a line {PEM!r}…")


def _load_chain(
    context: ssl.SSLContext,
    cert: str | os.PathLike[str],
    key: str | os.PathLike[str] | None,
) -> None:
    """Give the context our certificate; OpenSSL reads it from files alone."""
    with tempfile.TemporaryDirectory() as folder:  # which nobody else can enter
        paths: list[str | os.PathLike[str] | None] = []
        for name, pem in (("cert", cert), ("key", key)):
            path = pem
            if pem is not None and _is_text(pem):
                path = os.path.join(folder, name)
                with open(path, "w", opener=_private) as file:
                    file.write(str(pem))
            paths.append(path)
        assert paths[0] is not None
        context.load_cert_chain(paths[0], paths[1], password=_refuse)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _refuse() -> NoReturn:
    """Stand for the password, which OpenSSL would ask for at the terminal."""
    raise ValueError("the key is encrypted: expected one without a password")
