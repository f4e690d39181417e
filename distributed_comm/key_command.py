"""python -m distributed_comm key: where the user's key is; it is made where there is none."""

import argparse
import os
import sys
from collections.abc import Sequence

from .errors import KeyFileError
from .security import VARIABLE, key_file, make_key, read_key

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Say it, and never what the key is; the value is the exit status."""
    argparse.ArgumentParser(prog="python -m distributed_comm key", description=__doc__).parse_args(
        argv
    )
    path = key_file()
    try:
        made = make_key(path)
        read_key(path)
    except (KeyFileError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 1
    print(f"{path}: {'made' if made else 'there'}")
    if VARIABLE in os.environ:
        print(f"{VARIABLE} is set, and goes before the file")
    return 0
