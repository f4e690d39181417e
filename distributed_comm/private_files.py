"""Files that nobody else can have written, in folders that nobody else can change.

Whoever can write to a folder can replace everything in it, links too. So every folder that a
path leads through is checked, and so is the owner of every link: it must be this user or root.
On Windows nothing is checked, for there the folders of a user are closed to others by default.
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

from .errors import KeyFileError

__all__ = ["Rules", "make_folder", "read", "resolve", "write_once"]

logger = logging.getLogger("distributed_comm")

UNIX = os.name != "nt"
#: A longer file is refused, so that a wrong path does not fill the memory.
LONGEST = 4096
#: As many as Linux follows in one path.
MOST_LINKS = 40
#: Not to follow a link that took the file's place, and not to wait for the writer of a pipe.
FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Rules(NamedTuple):
    """What is expected of a private file, and how to do without it."""

    mounted: bool  # as secrets are: it is there, may be root's, and others may read it
    otherwise: str  # what an error suggests besides changing owners and modes

    @property
    def instead(self) -> str:
        """What to do with a file that cannot be mended."""
        return self.otherwise if self.mounted else f"remove it for a new one, or {self.otherwise}"


# -- folders -----------------------------------------------------------------------


def resolve(path: Path, home: Path | None, rules: Rules) -> Path:
    """Return where an absolute path leads, through every link.

    Raises KeyFileError where others can change that, OSError where it cannot be followed.
    Folders above the home are not checked for what is below it: the home is given, not chosen.
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
    """Make a resolved folder, and what is missing above it, all 0700.

    It is checked again, for in a sticky folder somebody may have been faster: then it raises
    KeyFileError. Raises OSError where a folder cannot be made.
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
    """Return where a path leads, and the status of all it leads through, as far as that exists.

    realpath() follows as well; but it does not tell the links, and the folders that they are in.
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
    """Raise KeyFileError if others could put something else in the place of a folder or link."""
    is_link = stat.S_ISLNK(status.st_mode)
    if not is_link and not stat.S_ISDIR(status.st_mode):
        return
    if status.st_uid not in {os.geteuid(), 0}:
        raise KeyFileError(
            f"the {'link' if is_link else 'folder'} {place} belongs to user {status.st_uid}, who "
            f"can change it: expected user {os.geteuid()} or root; {rules.otherwise}"
        )
    # In a sticky folder, /tmp for one, others can add, but not replace what is not theirs.
    sticky = is_parent and status.st_mode & stat.S_ISVTX
    if not is_link and status.st_mode & 0o022 and not sticky:
        raise KeyFileError(
            f"the folder {place} has mode {_mode(status)}, others can replace what is in it: "
            f"`chmod go-w {quote(str(place))}`, or {rules.otherwise}"
        )


# -- files -------------------------------------------------------------------------


def write_once(path: Path, text: str) -> bool:
    """Write a file of mode 0600 where there is none; return whether there was none. OSError.

    It appears with all its bytes or not at all, and of two processes one comes first.
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
    """Return what is in the file at a resolved path, without white space around it.

    Raises KeyFileError where that is unsafe or no key, OSError where it cannot be read.
    """
    if UNIX:  # before opening it, which may be refused, or block, or move a tape
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
            "the key file %s has mode %s: whoever can read it can run code in this process",
            path, _mode(status),
        )  # fmt: skip
    return text


def _check_file(path: Path, status: os.stat_result, rules: Rules) -> None:
    """Raise KeyFileError unless it is a regular file that nobody else can have written."""
    if stat.S_ISLNK(status.st_mode):
        raise KeyFileError(f"the key file {path} is a link: {rules.instead}")
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"the key file {path} is no regular file: {rules.instead}")
    if not UNIX:
        return
    if status.st_uid != os.geteuid() and not (rules.mounted and status.st_uid == 0):
        raise KeyFileError(
            f"the key file {path} belongs to user {status.st_uid}: expected one of user "
            f"{os.geteuid()}{' or root' if rules.mounted else ''}; {rules.otherwise}"
        )
    forbidden, mode = (0o022, "go-w") if rules.mounted else (0o077, "600")
    if status.st_mode & forbidden:
        raise KeyFileError(
            f"the key file {path} has mode {_mode(status)}, others may have read or written it: "
            f"{rules.instead}; where nobody has, `chmod {mode} {quote(str(path))}`"
        )


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"
