"""Whose something is: the event loop that it was made in, which alone may use it.

For the texts of errors alone; each message asks `mailbox.Switch.runs`.
"""

import asyncio
from asyncio import AbstractEventLoop

__all__ = ["owner"]


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
