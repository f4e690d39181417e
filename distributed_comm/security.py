"""Whom we trust, and the key by which the processes of one user know each other.

The key is ``key=``, else the environment's DISTRIBUTED_COMM_KEY, else that of the user: a
file that only they can read, made on first use, so that all programs of one user on one
machine, or on a shared home, have the same. It is read once, by the first connect or listen.
"""

import logging
import os
import secrets
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .errors import KeyFileError
from .wire.proof import derive

__all__ = ["VARIABLE", "Trust", "find_key", "key_file", "make_key", "read_key"]

logger = logging.getLogger("distributed_comm")

#: The key itself; empty for none.
VARIABLE = "DISTRIBUTED_COMM_KEY"
#: The key file is shorter.
LONGEST = 4096
REFUSAL = "the peer is not trusted, and require_trust=True was passed"


class Trust(NamedTuple):
    """Whom one side trusts: everybody or nobody where it was ``declared``, else who is proven.

    ``relayed`` believes proofs that came through something in between.
    """

    declared: bool | None = None
    required: bool = False
    relayed: bool = False
    key: bytes | None = None  # of the HMAC; None: nothing can be proven

    @classmethod
    def choose(
        cls,
        trusted: bool | None,
        key: str | bytes | None,
        require_trust: bool,
        relayed: bool,
    ) -> "Trust":
        """Find the key, where one is of use; ValueError for what contradicts itself."""
        if require_trust and trusted is False:
            raise ValueError("require_trust=True and trusted=False: expected one of them")
        found = None if trusted is False else find_key(key)
        return cls(declared=trusted, required=require_trust, relayed=relayed, key=found)

    def includes(self, *, vouched: bool, proven: bool, relayed: bool) -> bool:
        """Whether to trust a peer, by what the transport and the proof say of it."""
        if self.declared is not None:
            return self.declared
        return vouched or (proven and (self.relayed or not relayed))

    @property
    def authenticates(self) -> bool:
        """Whether anybody has to prove something before pickles of theirs are opened."""
        return self.key is not None and self.declared is not True


# -- the key -----------------------------------------------------------------------


def find_key(given: str | bytes | None = None) -> bytes | None:
    """Return the key of the HMAC, None where there is none; KeyFileError for an unsafe file.

    ``given`` goes before the environment, and that before the file. Empty means none.
    """
    secret = os.environ.get(VARIABLE) if given is None else given
    if secret is None:
        return _key_of_user()
    if isinstance(secret, str):
        secret = secret.encode()
    elif not isinstance(secret, bytes):
        raise TypeError(f"key must be str or bytes, not {type(secret).__name__}")
    secret = secret.strip()
    return derive(secret) if secret else None


def key_file() -> Path:
    """Return where the user's key is, or will be."""
    folder = os.environ.get("APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME", "")
    if not os.path.isabs(folder):  # as the XDG specification has it
        folder = os.path.expanduser("~/.config")
    return Path(folder, "distributed_comm", "key")


@cache
def _key_of_user() -> bytes | None:
    """Read the key, or make it; without either say so, once, for the answer is kept."""
    path = key_file()
    try:
        make_key(path)
        return derive(read_key(path))
    except OSError as exc:
        logger.warning(
            "no key in %s (%s): peers of this process cannot prove that they are of the same "
            "user, and are not trusted; set %s, empty if that is meant",
            path, exc, VARIABLE,
        )  # fmt: skip
        return None


def make_key(path: Path) -> bool:
    """Write a new key where there is no file yet; return whether there was none. OSError.

    It appears with all its bytes or not at all, and of two processes one comes first.
    """
    if path.exists():
        return False
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write(f"{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster
            os.link(draft, path)
            return True
        return False
    finally:
        draft.unlink()


def read_key(path: Path) -> bytes:
    """Return the secret in a file that nobody else can read or has written. OSError."""
    if os.name != "nt" and path.stat().st_uid != os.geteuid():  # it may not even be readable
        raise KeyFileError(f"the key file {path} belongs to user {path.stat().st_uid}: {_remedy()}")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # be it a pipe
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"the key file {path} is no regular file")
        if os.name != "nt" and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
            raise KeyFileError(
                f"the key file {path} has mode {stat.S_IMODE(status.st_mode):04o}, others may "
                f"have read or written it: make a new one after `rm {path}`, or, where nobody "
                f"has, `chmod 600 {path}`"
            )
        secret = file.read(LONGEST).strip()
    if not secret:
        raise KeyFileError(f"the key file {path} is empty: `rm {path}`, and a new one is made")
    return secret


def _remedy() -> str:
    return f"expected one of user {os.geteuid()}; set {VARIABLE}, or XDG_CONFIG_HOME"
