"""Whom we trust, and the key by which the processes of one user recognize each other.

The key is ``key=``, else the value of DISTRIBUTED_COMM_KEY, else in the file that
DISTRIBUTED_COMM_KEY_FILE names, else in the user's own file: one that only they can read, created
on first use, so that all programs of one user on one machine, or on a shared home, have the same
key. A file is read once, by the first connect or listen.
"""

import logging
import os
import secrets
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .._wire.proof import derive
from ..errors import KeyFileError
from .private_files import Rules, make_folder, read, resolve, write_once

__all__ = [
    "FILE_VARIABLE",
    "VARIABLE",
    "Trust",
    "find_key",
    "key_file",
    "make_key",
    "read_key",
    "read_named_key",
]

logger = logging.getLogger("distributed_comm")

#: The key itself; empty for none.
VARIABLE = "DISTRIBUTED_COMM_KEY"
#: The absolute path of a file with the key; an empty one counts as unset.
FILE_VARIABLE = "DISTRIBUTED_COMM_KEY_FILE"
#: The rules for the user's own file.
OWN = Rules(mounted=False, otherwise=f"set {VARIABLE}, {FILE_VARIABLE} or XDG_CONFIG_HOME")
REFUSAL = "the peer is not trusted, and require_trust=True was passed"


class Trust(NamedTuple):
    """Whom one side trusts: everybody or nobody if that was ``declared``, else proven peers.

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
        """Find the key, if one is of use; ValueError for arguments that contradict each other."""
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
    """Return the key of the HMAC, None if there is none; KeyFileError for an unsafe file.

    ``given`` goes before the environment, and that before the user's file. Empty means none.
    """
    secret = os.environ.get(VARIABLE) if given is None else given
    if secret is None:
        return _key_of_user(os.environ.get(FILE_VARIABLE, ""))
    if isinstance(secret, str):
        secret = secret.encode()
    elif not isinstance(secret, bytes):
        raise TypeError(f"key must be str or bytes, not {type(secret).__name__}")
    secret = secret.strip()
    return derive(secret) if secret else None


@cache
def _key_of_user(named: str) -> bytes | None:
    """Read the key from the named file, else from the user's own, which is created if missing.

    The result is cached, an error is not. Without a place for the user's own file there is no key,
    and a single warning says so.
    """
    if named:
        return derive(read_named_key(named))
    try:
        path = key_file()
        make_key(path)
        return derive(read_key(path))
    except OSError as exc:
        logger.warning(
            "no key: %s; peers of this process cannot prove that they are of the same user, and "
            "are not trusted; set %s, empty if that is meant",
            exc, VARIABLE,
        )  # fmt: skip
        return None


# -- its file ----------------------------------------------------------------------


def key_file() -> Path:
    """Return the path of the user's own key file, which may not exist yet.

    All links on the way are resolved, so that the path that was checked is the one that is used.
    Raises KeyFileError if the path is unsafe, OSError if there is no place for the file.
    """
    variable, home = "APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME", _home()
    folder = os.environ.get(variable, "")
    if not os.path.isabs(folder):  # unset or relative: ignored, as in the XDG specification
        if home is None:
            given = repr(os.environ["HOME"]) if "HOME" in os.environ else "not set"
            raise FileNotFoundError(
                f"there is no home folder, HOME is {given}: set it, or {variable}, {VARIABLE} or "
                f"{FILE_VARIABLE}"
            )
        folder = str(home / ".config")
    return resolve(Path(folder, "distributed_comm"), home, OWN) / "key"


def make_key(path: Path) -> bool:
    """Create the file of key_file() unless it exists; return whether it was created."""
    make_folder(path.parent, _home(), OWN)
    if os.path.lexists(path):
        return False
    return write_once(path, f"{secrets.token_hex(32)}\n")


def read_key(path: Path) -> bytes:
    """Return the secret in the user's own file; KeyFileError if unsafe, OSError if unreadable."""
    return read(path, OWN)


def read_named_key(named: str) -> bytes:
    """Return the secret in the file that DISTRIBUTED_COMM_KEY_FILE names; else KeyFileError."""
    rules = Rules(mounted=True, otherwise=f"set {FILE_VARIABLE}, now {named}, to another file")
    if not os.path.isabs(named):
        raise KeyFileError(f"{FILE_VARIABLE} is {named}: expected an absolute path")
    try:
        return read(resolve(Path(named), _home(), rules), rules)
    except OSError as exc:
        raise KeyFileError(f"{FILE_VARIABLE} is {named}: {exc}; write a key to it") from exc


def _home() -> Path | None:
    """Return the home if it is a folder; HOME, even a useless one, replaces the entry in passwd."""
    home = os.environ.get("HOME") if os.name != "nt" else None
    if home is None:
        home = os.path.expanduser("~")  # "~" if the user has no entry
    return Path(home) if os.path.isabs(home) and os.path.isdir(home) else None
