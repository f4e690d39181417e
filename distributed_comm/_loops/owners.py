"""Whose something is: the event loop that it was made in, which alone may use it.

The names here are for errors. For each message, `mailbox.Switch.runs` is asked instead.
"""

import asyncio
from asyncio import AbstractEventLoop
from weakref import WeakValueDictionary

from .._kernels import mailbox

__all__ = ["NOWHERE", "owner", "switch_of"]

#: The switch of what belongs to another process, or to no loop yet: its loop never runs.
NOWHERE = mailbox.Switch(object())  # type: ignore[arg-type]

#: By the loop's identity, for a switch refers to its loop, and would keep it; waiters keep it.
_switches: WeakValueDictionary[int, mailbox.Switch] = WeakValueDictionary()


def switch_of(loop: asyncio.AbstractEventLoop) -> mailbox.Switch:
    """Return what the tasks of a loop share that are run from inside each other."""
    switch = _switches.get(id(loop))
    if switch is None or switch.loop is not loop:
        switch = _switches[id(loop)] = mailbox.Switch(loop)
    return switch


def owner(loop: AbstractEventLoop | None) -> str:
    """Name the owner of something that is used elsewhere; no loop is that of another process."""
    if loop is None:
        return "the process that this was forked from"
    if loop is asyncio._get_running_loop():
        return "this event loop"
    if loop.is_closed():
        return "an event loop that is closed"
    if loop.is_running():
        return "an event loop that runs in another thread"
    return "an event loop that is not running"
