"""The command line: ``python -m distributed_comm ping|call|identity|key``."""

import argparse
import ast
import asyncio
import sys
from collections.abc import Sequence
from pprint import pprint
from time import perf_counter
from typing import Any

from . import key_command
from .client import rpc
from .running import run

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; the value is the exit status."""
    args = parse(argv)
    if args.command == "key":
        return key_command.main([])
    try:
        return run(COMMANDS[args.command](args))
    except KeyboardInterrupt:
        return 130
    except Exception as exc:
        why = str(exc) or f"no answer in {args.timeout:g} s"
        print(f"{type(exc).__name__}: {why}", file=sys.stderr)
        return 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; ``--help`` explains them."""
    parser = argparse.ArgumentParser(prog="python -m distributed_comm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("address", help="of a server, such as tcp://127.0.0.1:8786")
    common.add_argument(
        "--timeout", type=float, default=5, help="for each step, in s (%(default)g)"
    )
    common.add_argument(
        "--trusted", action="store_true", help="open pickles without asking for proof of a key"
    )
    ping = commands.add_parser("ping", parents=[common], help="measure how long a call takes")
    ping.add_argument("-c", "--count", type=int, default=0, help="stop after so many (never)")
    ping.add_argument("-i", "--interval", type=float, default=1, help="in s (%(default)g)")
    call = commands.add_parser("call", parents=[common], help="call a function, print its result")
    call.add_argument("op", help="its name")
    call.add_argument(
        "arguments", nargs="*", type=argument, metavar="name=value",
        help="a Python literal, else text",
    )  # fmt: skip
    commands.add_parser("identity", parents=[common], help="print what the server says it is")
    commands.add_parser("key", help="say where the key is; make it where there is none")
    return parser.parse_args(argv)


def argument(text: str) -> tuple[str, Any]:
    """Return name and value.

    >>> argument("x=1"), argument("who=me"), argument("words=['a', 'b']")
    (('x', 1), ('who', 'me'), ('words', ['a', 'b']))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r}, expected name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def connect(args: argparse.Namespace) -> rpc:
    # Only what has to be said is, for a backend need not take every argument.
    trust: dict[str, Any] = {"trusted": True} if args.trusted else {}
    return rpc(args.address, timeout=args.timeout, **trust)


async def call(args: argparse.Namespace) -> int:
    """Print what a function returns."""
    async with connect(args) as remote, asyncio.timeout(args.timeout):
        method = remote.__getattr__(args.op)  # an op may have the name of an attribute
        pprint(await method(**dict(args.arguments)))
    return 0


async def identity(args: argparse.Namespace) -> int:
    """Print what the server says it is."""
    async with connect(args) as remote, asyncio.timeout(args.timeout):
        pprint(await remote.identity(), sort_dicts=False)
    return 0


async def ping(args: argparse.Namespace) -> int:
    """Call again and again: a line each, and a summary, as ``ping`` does; 1 if none came back."""
    laps: list[float] = []
    sent = 0
    async with connect(args) as remote:
        try:
            while not args.count or sent < args.count:
                if sent:
                    await asyncio.sleep(args.interval)
                sent += 1
                await ping_once(remote, sent, laps, args.timeout)
        finally:
            print(summary(args.address, sent, laps))
    return 0 if laps else 1


async def ping_once(remote: rpc, number: int, laps: list[float], timeout: float) -> None:
    """Call once, print how long it took, and append that; or print why it failed."""
    started = perf_counter()
    try:
        async with asyncio.timeout(timeout):
            await remote.echo(data=number)
    except OSError as exc:  # a TimeoutError, too
        print(f"seq={number} {str(exc) or f'no answer in {timeout:g} s'}", flush=True)
    else:
        laps.append(1e3 * (perf_counter() - started))
        print(f"seq={number} time={laps[-1]:.3f} ms", flush=True)


def summary(address: str, sent: int, laps: list[float]) -> str:
    """Return the last lines.

    >>> print(summary("tcp://10.0.0.1:8786", 3, [1.0, 3.0]))
    --- tcp://10.0.0.1:8786 ---
    3 calls, 2 answered, 33% lost
    min/avg/max = 1.000/2.000/3.000 ms
    """
    lost = round(100 * (sent - len(laps)) / sent) if sent else 0
    lines = [f"--- {address} ---", f"{sent} calls, {len(laps)} answered, {lost}% lost"]
    if laps:
        figures = min(laps), sum(laps) / len(laps), max(laps)
        lines.append("min/avg/max = {:.3f}/{:.3f}/{:.3f} ms".format(*figures))
    return "\n".join(lines)


COMMANDS = {"call": call, "identity": identity, "ping": ping}


if __name__ == "__main__":
    sys.exit(main())
