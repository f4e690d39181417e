"""Files that nobody else can have written, in folders that nobody else can change.

Anyone who can write to a folder can replace everything in it, links too. So every folder that a
path leads through is checked, and so is the owner of every link, which must be this user or root.
On Windows nothing is checked: there the folders of a user are closed to others by default.
"""

import errno
import logging
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from ..errors import KeyFileError

__all__ = ["Rules", "make_folder", "read", "resolve", "write_once"]

logger = logging.getLogger("distributed_comm")

UNIX = os.name != "nt"
#: A longer file is refused, so that a wrong path does not fill the memory.
LONGEST = 4096
#: As many as Linux follows in one path.
MOST_LINKS = 40
#: Neither follow a link that took the file's place, nor wait for the writer of a pipe.
FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Rules(NamedTuple):
    """The requirements for a private file, and the alternatives to it."""

    mounted: bool  # like a secret: it must exist, may be root's, others may read it
    otherwise: str  # what an error suggests besides changing owners and modes

    @property
    def instead(self) -> str:
        """What to do with a file that cannot be mended."""
        return self.otherwise if self.mounted else f"remove it for a new one, or {self.otherwise}"


# -- folders -----------------------------------------------------------------------


def resolve(path: Path, home: Path | None, rules: Rules) -> Path:
    """Return where an absolute path leads, through every link.

    Raises KeyFileError if others can change where it leads, OSError if it cannot be followed.
    For a path below the home, folders above the home are not checked: users do not choose those.
    """
    if not UNIX:
        return path
    if home:
        given, home = home, Path(os.path.realpath(home))
        if path.is_relative_to(given):
            path = home / path.relative_to(given)
    end, passed = _follow(path)
    above = home.parents if home and end.is_relative_to(home) else ()
    for place, status in passed.items():
        if place not in above:
            _check_place(place, status, rules, is_parent=place != end)
    if rules.mounted and end not in passed:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(end))
    return end


def make_folder(folder: Path, home: Path | None, rules: Rules) -> None:
    """Create a resolved folder, and its missing parents, with mode 0700.

    It is checked again, because in a sticky folder another user may have been faster: that is a
    KeyFileError. Raises OSError if a folder cannot be created.
    """
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    for each in reversed(missing):
        _check_again(each, home, rules)
        with suppress(FileExistsError):
            os.mkdir(each, 0o700)
            os.chmod(each, 0o700)  # the umask may have taken the owner's bits, too
    _check_again(folder, home, rules)


def _check_again(path: Path, home: Path | None, rules: Rules) -> None:
    if resolve(path, home, rules) != path:
        raise KeyFileError(f"{path} has just become a link: {rules.otherwise}")


def _follow(path: Path) -> tuple[Path, dict[Path, os.stat_result]]:
    """Return where a path leads, and the status of everything on the way that exists.

    realpath() follows links, too, but does not report them or the folders that they are in.
    """
    here, links = Path(path.anchor), 0
    passed = {here: os.lstat(here)}
    steps = [*reversed(path.parts[1:])]
    while steps:
        step = steps.pop()
        if step == "..":
            here = here.parent
            continue
        there = here / step
        try:
            status = os.lstat(there)
        except FileNotFoundError:
            return Path(os.path.normpath(there.joinpath(*reversed(steps)))), passed
        passed[there] = status
        if not stat.S_ISLNK(status.st_mode):
            here = there
            continue
        links += 1
        if links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = Path(os.readlink(there))
        steps += reversed(target.relative_to(target.anchor).parts)
        here = Path(target.anchor) if target.is_absolute() else here
    return here, passed


def _check_place(place: Path, status: os.stat_result, rules: Rules, *, is_parent: bool) -> None:
    """Raise KeyFileError if others could replace a link, or the contents of a folder."""
    is_link = stat.S_ISLNK(status.st_mode)
    if not is_link and not stat.S_ISDIR(status.st_mode):
        return
    if status.st_uid not in {os.geteuid(), 0}:
        raise KeyFileError(
            f"the {'link' if is_link else 'folder'} {place} belongs to user {status.st_uid}, who "
            f"can change it: expected user {os.geteuid()} or root; {rules.otherwise}"
        )
    # In a sticky folder, such as /tmp, others can add files, but replace only their own.
    sticky = is_parent and status.st_mode & stat.S_ISVTX
    if not is_link and status.st_mode & 0o022 and not sticky:
        raise KeyFileError(
            f"the folder {place} has mode {_mode(status)}, so others can replace what is in it: "
            f"`chmod go-w {quote(str(place))}`, or {rules.otherwise}"
        )


# -- files -------------------------------------------------------------------------


def write_once(path: Path, text: str) -> bool:
    """Create a file of mode 0600 unless there is one; return whether it was created.

    It appears with all its bytes or not at all, and only one of two processes creates it. Raises
    OSError if that fails.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w") as file:
            if UNIX:
                os.fchmod(descriptor, 0o600)  # whatever the umask took
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):  # another process was faster
            os.link(draft, path)
            return True
        return False
    finally:
        draft.unlink()


def read(path: Path, rules: Rules) -> bytes:
    """Return the contents of the file at a resolved path, stripped of white space.

    Raises KeyFileError if it is unsafe or holds no key, OSError if it cannot be read.
    """
    if UNIX:  # before opening it, which may fail, block, or rewind a tape
        _check_file(path, os.lstat(path), rules)
    descriptor = os.open(path, FLAGS)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _check_file(path, status, rules)
        text = file.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise KeyFileError(f"the key file {path} exceeds {LONGEST} bytes: {rules.instead}")
    if not (text := text.strip()):
        raise KeyFileError(f"the key file {path} is empty: {rules.instead}")
    if UNIX and status.st_mode & 0o044:
        logger.warning(
            "the key file %s has mode %s: others who can read it can run code in this process",
            path, _mode(status),
        )  # fmt: skip
    return text


def _check_file(path: Path, status: os.stat_result, rules: Rules) -> None:
    """Raise KeyFileError unless it is a regular file that nobody else can have written."""
    if stat.S_ISLNK(status.st_mode):
        raise KeyFileError(f"the key file {path} is a link: {rules.instead}")
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"the key file {path} is not a regular file: {rules.instead}")
    if not UNIX:
        return
    if status.st_uid != os.geteuid() and not (rules.mounted and status.st_uid == 0):
        raise KeyFileError(
            f"the key file {path} belongs to user {status.st_uid}: expected user "
            f"{os.geteuid()}{' or root' if rules.mounted else ''}; {rules.otherwise}"
        )
    forbidden, mode = (0o022, "go-w") if rules.mounted else (0o077, "600")
    if status.st_mode & forbidden:
        raise KeyFileError(
            f"the key file {path} has mode {_mode(status)}, so others may have read or "
            f"written it: {rules.instead}; if nobody has, `chmod {mode} {quote(str(path))}`"
        )


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"
