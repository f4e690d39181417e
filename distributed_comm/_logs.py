"""Log lines about peers: all that trusted ones cause, and few that strangers cause.

Anybody who can connect can cause lines, for instance by requests that are refused. So the strangers
of one listener get 20 lines and 4 KiB in any second, and so do those that one thread has dialled.
Lines above that are only counted, and one line says how many they were. A line that is left out is
not even formatted.

In every line, texts are escaped and shortened: they may quote a peer.
"""

import asyncio
import logging
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable
from time import monotonic

from ._text import describe, is_clean, is_large, printable, sendable, shown_with, trace

__all__ = ["Log", "StrangersLog", "of_dialled", "of_trusted"]

logger = logging.getLogger("distributed_comm")

#: How many lines, and bytes in UTF-8, strangers may cause in any second.
LINES, BYTES = 20, 4096
#: Seconds for which a line counts: a tenth more, because its record is stamped a little later.
WINDOW = 1.1
#: Bytes that are counted for what a log's format puts in front of a line.
PREFIX = 64
#: Bytes that are kept free for the line that says how many were left out.
RESERVED = PREFIX + 200
#: Bytes for which there has to be room, else no line is begun.
LEAST = PREFIX + 200
#: Characters of a line, and of one text in it.
LONGEST, TEXT = 700, 500
#: The longest traceback about a stranger; of a longer one there is only the innermost frame.
TRACEBACK_LINES, TRACEBACK_BYTES = 12, 2_000


class Log:
    """Lines about a trusted peer: all of them."""

    __slots__ = ()

    def line(self, level: int, text: str, *args: object) -> None:
        """Log a line; ``args`` are for the ``%s`` and ``%r`` in its text."""
        if logger.isEnabledFor(level):
            logger.log(level, text, *map(_shown, args), stacklevel=2)

    def failure(self, text: str, *args: object, exc: BaseException) -> None:
        """Log an error with its exception, or with the text of one that no handler could write."""
        if not logger.isEnabledFor(logging.ERROR):
            return
        escaped = _if_not_plain(exc)
        if escaped is None:
            logger.error(text, *map(_shown, args), exc_info=exc, stacklevel=2)
        else:
            logger.error(f"{text}\n%s", *map(_shown, args), escaped, stacklevel=2)

    def report(self, loop: asyncio.AbstractEventLoop, text: str, exc: BaseException) -> None:
        """Tell the loop's exception handler of an error."""
        escaped = _if_not_plain(exc)
        if escaped is None:
            loop.call_exception_handler({"message": text, "exception": exc})
        else:
            loop.call_exception_handler({"message": f"{text}\n{escaped}"})


class StrangersLog(Log):
    """Lines about strangers, at most so many in any second; used by one thread.

    ``about`` says which strangers these are.
    """

    __slots__ = (
        "_clock", "_due", "_full_until", "_left_out", "_level", "_nbytes", "_nlines", "_timer",
        "_window", "about",
    )  # fmt: skip

    def __init__(self, about: object, clock: Callable[[], float] = monotonic) -> None:
        self.about = about
        self._clock = clock
        #: When each line was written, how many it was, and how many bytes.
        self._window: deque[tuple[float, int, int]] = deque()
        self._nlines = self._nbytes = 0  # in the window
        self._full_until = 0.0  # when there may be room again
        self._left_out = 0  # lines of which nothing was said yet …
        self._level = 0  # … and the highest level among them
        self._due = 0.0  # when that is to be said, at the latest with the next line
        self._timer: asyncio.TimerHandle | None = None

    def line(self, level: int, text: str, *args: object) -> None:
        if logger.isEnabledFor(level) and self._has_room(level):
            self._write(level, _fill(text, args))

    def failure(self, text: str, *args: object, exc: BaseException) -> None:
        """Log an error, with its traceback if that is short and nothing in it is raw."""
        if not logger.isEnabledFor(logging.ERROR) or not self._has_room(logging.ERROR):
            return
        text = _fill(text, args)
        size = self._fits(text, exc)
        if size is None:
            self._write(logging.ERROR, f"{text}: {_summary(exc)}")
        else:
            self._write(logging.ERROR, text, exc, size)

    def report(self, loop: asyncio.AbstractEventLoop, text: str, exc: BaseException) -> None:
        if not self._has_room(logging.ERROR):
            return
        size = self._fits(text, exc)
        if size is None:
            text = self._count(f"{text}: {_summary(exc)}")
            loop.call_exception_handler({"message": text})
        else:
            loop.call_exception_handler({"message": self._count(text, size), "exception": exc})

    def flush(self) -> None:
        """Say how many lines were left out, now or as soon as there is room for that."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._left_out:
            return
        now = self._clock()
        self._forget(now)
        text = f"… {self._left_out:,} more lines about untrusted peers {self.about} were left out"
        if self._nlines >= LINES or self._nbytes + RESERVED > BYTES:
            self._remind(now)
            return
        level, self._left_out, self._level = self._level, 0, 0
        logger.log(level, self._count(printable(text, RESERVED - PREFIX), room=RESERVED))

    # -- what there is room for ----------------------------------------------------------

    def _has_room(self, level: int) -> bool:
        """Return whether a line may be written now; count it if not."""
        now = self._clock()
        if now < self._full_until and self._left_out:
            self._left_out += 1
            self._level = max(self._level, level)
            return False
        if self._left_out and now >= self._due:  # no loop has run since, or it is blocked
            self.flush()
        self._forget(now)
        if self._nlines < LINES - 1 and self._room() >= LEAST:
            return True
        self._full_until = self._window[0][0] + WINDOW
        self._left_out += 1
        self._level = max(self._level, level)
        if self._left_out == 1:
            self._remind(now)
        return False

    def _room(self) -> int:
        """Return how many bytes a line may have."""
        return BYTES - RESERVED - self._nbytes

    def _forget(self, now: float) -> None:
        """Give back the room of lines that are old enough."""
        window = self._window
        while window and window[0][0] + WINDOW <= now:
            _, nlines, nbytes = window.popleft()
            self._nlines -= nlines
            self._nbytes -= nbytes

    def _remind(self, now: float) -> None:
        """Have `flush` called when there is room for one more line."""
        self._due = self._window[0][0] + WINDOW
        loop = asyncio._get_running_loop()
        if loop is not None:
            self._timer = loop.call_later(self._due - now, self.flush)

    # -- writing -------------------------------------------------------------------------

    def _write(
        self,
        level: int,
        text: str,
        exc: BaseException | None = None,
        size: tuple[int, int] = (0, 0),
    ) -> None:
        logger.log(level, self._count(text, size), exc_info=exc, stacklevel=3)

    def _count(self, text: str, size: tuple[int, int] = (0, 0), room: int | None = None) -> str:
        """Count a line, and the lines and bytes of what comes with it; return its text, cut."""
        text = printable(text, LONGEST)
        nlines, nbytes = size
        room = (self._room() if room is None else room) - PREFIX - nbytes
        data = text.encode()
        if len(data) > room:
            data = data[: room - 3]
            text = data.decode(errors="ignore") + "…"
            nbytes += 3
        nlines, nbytes = nlines + 1, nbytes + PREFIX + len(data)
        self._window.append((self._clock(), nlines, nbytes))
        self._nlines += nlines
        self._nbytes += nbytes
        return text

    def _fits(self, text: str, exc: BaseException) -> tuple[int, int] | None:
        """Return the lines and bytes of an exception's traceback, or None if it is not shown."""
        if not is_clean(exc) or _depth(exc) > TRACEBACK_LINES:
            return None
        shown = "".join(traceback.format_exception(exc))
        nlines, nbytes = shown.count("\n"), len(shown.encode(errors="replace"))
        if nlines > TRACEBACK_LINES or nbytes > TRACEBACK_BYTES:
            return None
        if not all(line.isprintable() for line in shown.split("\n")):
            return None
        if self._nlines + nlines > LINES - 2 or self._room() < nbytes + PREFIX + 4 * len(text):
            return None
        return nlines, nbytes


_trusted = Log()


def of_trusted() -> Log:
    """Return the log of lines about trusted peers."""
    return _trusted


class _Dialled(threading.local):
    """One log for each thread, because a `StrangersLog` has no lock."""

    def __init__(self) -> None:
        self.log = StrangersLog("that this process has dialled")


_dialled = _Dialled()


def of_dialled() -> StrangersLog:
    """Return the log of this thread for strangers that no listener has let in."""
    return _dialled.log


def _if_not_plain(exc: BaseException) -> str | None:
    """Return the traceback of an exception if it has to be escaped or cut, else None."""
    try:
        if is_large(exc):
            return trace(exc) or describe(exc)
        shown = "".join(traceback.format_exception(exc))
        escaped = sendable(shown)
    except BaseException:  # of its own methods
        return describe(exc)
    return None if shown == escaped else escaped


def _shown(arg: object) -> str:
    """Return what an argument of a line says, fit for the log; it may be of any type."""
    try:
        return printable(str(arg), TEXT)
    except BaseException:  # of a method of its own
        return f"a {printable(type(arg).__name__, TEXT)}, which cannot be shown"


def _fill(text: str, args: tuple[object, ...]) -> str:
    return text % tuple(map(_shown, args)) if args else text


def _summary(exc: BaseException) -> str:
    """Return in one line what an exception says, and where it was raised.

    >>> _summary(ValueError("no such key\\n"))
    'ValueError: no such key\\\\n'
    """
    text = f"{type(exc).__name__}: {_shown(exc)}"
    step = exc.__traceback__
    if step is None:
        return text
    while step.tb_next is not None:
        step = step.tb_next
    code = step.tb_frame.f_code
    return f"{text} ({os.path.basename(code.co_filename)}:{step.tb_lineno} in {code.co_name})"


def _depth(exc: BaseException) -> int:
    """Return how many frames an exception and its causes have passed."""
    count = 0
    for each in shown_with(exc):
        step = each.__traceback__
        while step is not None:
            count, step = count + 1, step.tb_next
    return count
