"""python -m distributed_comm COMMAND."""

import argparse
import sys

from distributed_comm import key_command

COMMANDS = {"key": key_command.main}


def main() -> int:
    """Run one command with the arguments behind it; the value is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m distributed_comm", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    return COMMANDS[args.command](args.arguments)


if __name__ == "__main__":
    sys.exit(main())
