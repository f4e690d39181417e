"""The hot functions: compiled where they could be built, else their pure-Python twins.

All or nothing, so that what was measured is known. ``DISTRIBUTED_COMM_EXTENSIONS``
chooses: ``yes`` (an ImportError where they are not built), ``no``, or ``auto``.
The pure twin of each pair is its specification and what type checkers read.
"""

import os
from typing import TYPE_CHECKING, Literal

__all__ = ["address", "blocks", "frame0", "framing", "kind", "mailbox", "sentinel", "turns"]

kind: Literal["compiled", "pure"]

_choice = os.environ.get("DISTRIBUTED_COMM_EXTENSIONS", "auto")
if _choice not in {"yes", "no", "auto"}:
    raise ImportError(f"DISTRIBUTED_COMM_EXTENSIONS={_choice!r}: expected 'yes', 'no' or 'auto'")

if TYPE_CHECKING or _choice == "no":
    from . import address_py as address
    from . import blocks_py as blocks
    from . import frame0_py as frame0
    from . import framing_py as framing
    from . import mailbox_py as mailbox
    from . import sentinel_py as sentinel
    from . import turns_py as turns

    kind = "pure"
else:
    try:
        from . import address_c as address
        from . import blocks_c as blocks
        from . import frame0_c as frame0
        from . import framing_c as framing
        from . import mailbox_c as mailbox
        from . import sentinel_c as sentinel
        from . import turns_c as turns

        kind = "compiled"
    except ImportError:
        if _choice == "yes":
            raise
        from . import address_py as address
        from . import blocks_py as blocks
        from . import frame0_py as frame0
        from . import framing_py as framing
        from . import mailbox_py as mailbox
        from . import sentinel_py as sentinel
        from . import turns_py as turns

        kind = "pure"
