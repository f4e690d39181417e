"""Acting as other users, which root can do, in a process that has read no key yet."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from distributed_comm._trust import trust

#: Users without an entry in passwd.
SOMEBODY, STRANGER = 54321, 12345

needs_root = pytest.mark.skipif(
    os.name == "nt" or os.geteuid() != 0, reason="only root can act as another user"
)


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    """Give this process only the rights of a user, for a while."""
    group = os.getegid()
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


@contextmanager
def masking(umask: int) -> Iterator[None]:
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def without_keys(**environment: str) -> Iterator[None]:
    """Have the key come from a file, in a process that has read none."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DISTRIBUTED_COMM_KEY", "DISTRIBUTED_COMM_KEY_FILE", "XDG_CONFIG_HOME"):
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        trust._key_of_user.cache_clear()
        yield
        trust._key_of_user.cache_clear()


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can read; those of pytest are closed."""
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def command(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distributed_comm", *args],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
