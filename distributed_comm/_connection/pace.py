"""How long a task goes on that never has to wait, before others of its loop get their turn.

It gives way once every 64 KiB or 1,000 messages: each message costs its bytes and a toll.
"""

__all__ = ["CREDIT", "TOLL"]

CREDIT = 64 * 1024
TOLL = 65
