"""What a peer said, made fit for a log, an exception's text or a terminal.

A peer may send any characters, in any number. Some of them would move a terminal's cursor, begin
a line of their own in a log, or turn the direction of what follows. So whatever is not printable
is escaped, as in Python's `repr`, and what is long is cut. Neither looks at more of a text than
it keeps.
"""

import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import WrapperDescriptorType as SlotWrapper
from typing import Any

__all__ = [
    "LONG", "LONG_TEXT", "SHORT", "brief", "built_in", "describe", "is_clean", "is_large",
    "printable", "sendable", "shorten", "shown_with", "tidy", "trace",
]  # fmt: skip

#: Characters that are kept of a text, and of a quotation within a text.
LONG, SHORT = 2_000, 300
#: Characters of what an exception says, or its traceback, that are sent or logged.
LONG_TEXT = 20_000
#: How many exceptions of a chain `is_clean` looks at. A longer chain is not clean.
CHAIN = 8
#: Exceptions, as often as a traceback shows each, above which only the outermost is shown. It is
#: also the most arguments, and the most notes, of one.
FAMILY = 64
#: Characters, or items, from which on an argument is not formatted as a whole.
HUGE = 2 * LONG_TEXT
#: Types of such arguments, and the methods that make an exception's text from them.
LENGTHY: tuple[Any, ...] = (str, bytes, bytearray, list, tuple, dict, set, frozenset)
FROM_ARGUMENTS = tuple(
    vars(maker)["__str__"] for maker in (BaseException, KeyError, OSError, BaseExceptionGroup)
)
#: Types whose values are shown by `brief`; an integer only if it is below 2 ** 64.
PLAIN = (type(None), bool, float)
#: Types of which `brief` says how many items a value has.
SIZED = (list, tuple, dict, set, frozenset)
#: How many items of a list it shows.
ITEMS = 8


def printable(text: str, limit: int = LONG, more: int = 0) -> str:
    r"""Return a text of at most ``limit`` characters, all of which are printable.

    The rest is left out and counted, together with ``more`` that have been left out before. A text
    that is short and printable is returned as it is, and so is whatever this returns.

    >>> printable("größer"), printable("one\ntwo\x1b[2J\u202e")
    ('größer', 'one\\ntwo\\x1b[2J\\u202e')
    >>> printable("a" * 1000, 20)
    'aaaa… and 996 more'
    """
    if len(text) <= limit and not more and text.isprintable():
        return text
    head = text[:limit]
    kept: Sequence[str] = head
    if not head.isprintable():
        kept = [char if char.isprintable() else _escape(char) for char in head]
    if len(text) <= limit and not more and sum(map(len, kept)) <= limit:
        return "".join(kept)
    # The count has at most as many digits as that of all characters.
    room = limit - len(_rest(len(text) + more))
    used = count = 0
    for shown in kept:
        if used + len(shown) > room:
            break
        used += len(shown)
        count += 1
    return ("".join(kept[:count]) + _rest(len(text) - count + more))[:limit]


def _escape(char: str) -> str:
    code = ord(char)
    if char in "\n\r\t":
        return {"\n": r"\n", "\r": r"\r", "\t": r"\t"}[char]
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _rest(count: int) -> str:
    return f"… and {count:,} more"


def brief(value: Any, limit: int = 60, depth: int = 2) -> str:
    r"""Return a short `repr` of plain data, which may be large or nested, at a small cost.

    >>> brief("a\n"), brief(b"abc" * 1000, 20), brief([[1], {}]), brief(10**30)
    ("'a\\n'", "b'ab… and 2,998 more", '[[1], a dict of 0]', 'an int')
    """
    kind = type(value)
    if kind is str or kind is bytes:
        shown = repr(value[:limit])
        if len(value) <= limit and len(shown) <= limit:
            return shown
        return _cut(value, shown, limit)
    if kind in PLAIN or (kind is int and value.bit_length() <= 64):
        return repr(value)
    if (kind is list or kind is tuple) and depth:
        opening, closing = "[]" if kind is list else "()"
        shown = ", ".join(brief(item, limit, depth - 1) for item in value[:ITEMS])
        rest = _rest(len(value) - ITEMS) if len(value) > ITEMS else ""
        return printable(f"{opening}{shown}{rest}{closing}", limit)
    name = printable(kind.__name__, limit)
    article = "an" if name[0] in "aeiou" else "a"
    size = f" of {len(value)}" if kind in SIZED else ""
    return f"{article} {name}{size}"


def _cut(value: str | bytes, shown: str, limit: int) -> str:
    """Return as much of a `repr` as there is room for, and how much of the value is left out."""
    room = limit - len(_rest(len(value)))
    count = min(len(value), limit)
    while count and len(shown) - 1 > room:  # without the quote at its end
        count = min(count - 1, count * max(room, 0) // len(shown))
        shown = repr(value[:count])
    return shown[:-1] + _rest(len(value) - count)


# -- exceptions of anybody's making ------------------------------------------------------


def describe(exc: BaseException) -> str:
    r"""Return what Python prints of an exception below its traceback, fit to be encoded.

    It may be of any type, whose methods may raise or return anything: this never fails.

    >>> describe(ValueError("no such key")), describe(ValueError("caf\udce9"))
    ('ValueError: no such key', 'ValueError: caf\\udce9')
    """
    return (
        _attempt(_last_lines, exc)
        or _attempt(_plainly, exc)
        or f"{sendable(_name(exc))}, which cannot be shown"
    )


def trace(exc: BaseException) -> str:
    """Return the traceback of an exception, fit to be encoded; empty if it cannot be had."""
    return _attempt(_lines, exc)


def _attempt(show: Callable[[BaseException], str], exc: BaseException) -> str:
    try:
        return sendable(show(exc))
    except BaseException:  # its own methods may raise anything
        return ""


def _last_lines(exc: BaseException) -> str:
    if is_large(exc):
        return _outline(exc)
    return "".join(traceback.format_exception_only(exc)).strip()


def _lines(exc: BaseException) -> str:
    if is_large(exc):
        steps = "".join(traceback.format_tb(built_in(exc, "__traceback__")))
        return f"Traceback (most recent call last):\n{steps}{_outline(exc)}\n"
    return "".join(traceback.format_exception(exc))


def _plainly(exc: BaseException) -> str:
    return f"{_name(exc)}: {_text(exc)}"


def _outline(exc: BaseException) -> str:
    """Return the text of an exception that `is_large`."""
    return f"{_plainly(exc)}\n(the rest is left out: members, causes or notes are many or long)"


def _text(exc: BaseException) -> str:
    """Return what an exception says; what Python would make of its arguments only if it is short.

    The text of a class of its own is what that class says, however long it is.
    """
    if not _has_huge_arguments(exc):
        return shorten(str.__str__(str(exc)))
    args = built_in(exc, "args")
    one = len(args) == 1 and not issubclass(type(exc), KeyError)
    if type(args[0]) is str and (one or issubclass(type(exc), BaseExceptionGroup)):
        return shorten(args[0])
    return f"({', '.join(brief(arg, LONG) for arg in args[:ITEMS])})"


def built_in(exc: BaseException, name: str) -> Any:
    """Return an attribute that its class may have replaced."""
    return vars(BaseException)[name].__get__(exc)


def is_large(exc: BaseException) -> bool:
    """Whether `traceback` would take long to show an exception.

    It shows a member of two groups twice, so that what is short to write may be endless to read.
    """
    waiting, count = [exc], 0
    seen = {id(exc)}  # as a cause; a member is shown each time
    while waiting and count <= FAMILY:
        each = waiting.pop()
        count += 1
        if _has_huge_arguments(each) or _has_huge_notes(each):
            return True
        if issubclass(type(each), BaseExceptionGroup):
            members = vars(BaseExceptionGroup)["exceptions"].__get__(each)
            waiting += members[: FAMILY + 1]
        linked = built_in(each, "__cause__")
        if linked is None and not built_in(each, "__suppress_context__"):
            linked = built_in(each, "__context__")
        if linked is not None and id(linked) not in seen:  # a chain may be circular
            seen.add(id(linked))
            waiting.append(linked)
    return count > FAMILY


def _has_huge_arguments(exc: BaseException) -> bool:
    """Whether Python makes the text of an exception from arguments that are many or long."""
    says = type.__getattribute__(type(exc), "__str__")
    if type(says) is not SlotWrapper or says not in FROM_ARGUMENTS:
        return False
    args = built_in(exc, "args")
    return len(args) > FAMILY or any(map(_is_huge, args))


def _has_huge_notes(exc: BaseException) -> bool:
    notes = dict.get(built_in(exc, "__dict__"), "__notes__")
    if type(notes) is not list and type(notes) is not tuple:
        return False
    return len(notes) > FAMILY or any(map(_is_huge, notes))


def _is_huge(value: Any) -> bool:
    if not issubclass(type(value), LENGTHY):
        return False
    kind = next(kind for kind in LENGTHY if issubclass(type(value), kind))
    return bool(kind.__len__(value) > HUGE)  # its class may have a length of its own


def _name(exc: BaseException) -> str:
    name: str = vars(type)["__name__"].__get__(type(exc))  # its metaclass may have its own
    return name


def sendable(text: str) -> str:
    """Shorten a text, and escape the surrogates that UTF-8 cannot encode."""
    short = shorten(str.__str__(text))
    return shorten(short.encode(errors="backslashreplace").decode())


def shorten(text: str) -> str:
    """Cut what is long in the middle: the ends say most."""
    if len(text) <= LONG_TEXT:
        return text
    return f"{text[: LONG_TEXT // 2]}\n … \n{text[-LONG_TEXT // 2 :]}"


def shown_with(exc: BaseException | None) -> list[BaseException]:
    """Return an exception and its causes, as a traceback shows them; not many more than CHAIN."""
    chain: list[BaseException] = []
    while exc is not None and len(chain) <= CHAIN:
        chain.append(exc)
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    return chain


def is_clean(exc: BaseException | None) -> bool:
    """Whether whatever a traceback says of an exception and its causes is short and printable."""
    chain = shown_with(exc)
    return len(chain) <= CHAIN and all(map(_is_clean, chain))


def _is_clean(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup | SyntaxError):  # which say more than their text
        return False
    try:
        texts = [str(exc), *getattr(exc, "__notes__", ())]
        return all(len(text) <= LONG and text.isprintable() for text in texts)
    except Exception:  # of its own methods, or a note that is no text
        return False


def tidy(exc: BaseException, trusted: bool) -> None:
    """Escape and shorten the text of an exception that may quote a peer.

    If the peer is not trusted, a cause is dropped that may quote it as well.
    """
    with suppress(Exception):  # of its own methods
        text = str(exc)
        shown = printable(text)
        if shown is not text:
            exc.args = (shown,)
    if not trusted and not is_clean(exc.__cause__ or exc.__context__):
        exc.__cause__ = None
        exc.__context__ = None
