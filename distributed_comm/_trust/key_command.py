"""python -m distributed_comm key: where the user's key is; it is made if there is none."""

import argparse
import os
import sys
from collections.abc import Sequence

from ..errors import KeyFileError
from .trust import FILE_VARIABLE, VARIABLE, key_file, make_key, read_key, read_named_key

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Print where the key is, and never what it is; the value is the exit status."""
    argparse.ArgumentParser(prog="python -m distributed_comm key", description=__doc__).parse_args(
        argv
    )
    try:
        found = _find()
    except (KeyFileError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 1
    print(found)
    if VARIABLE in os.environ:
        print(f"{VARIABLE} is set, and goes before the file")
    return 0


def _find() -> str:
    """Return which file a connect or listen of this user would read, and whether it is new."""
    if named := os.environ.get(FILE_VARIABLE):
        read_named_key(named)
        return f"{named}: there, named by {FILE_VARIABLE}"
    path = key_file()
    made = make_key(path)
    read_key(path)
    return f"{path}: {'made' if made else 'there'}"
