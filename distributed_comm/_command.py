"""The command line: ``python -m distributed_comm ping|call|identity|key``."""

import argparse
import ast
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pprint import PrettyPrinter
from time import perf_counter
from typing import Any

from ._calls.pool import ConnectionPool
from ._run import run
from ._text import printable
from ._tls.security import Security
from ._trust import key_command

__all__ = ["main"]

#: As Dask's command line has them.
CERTIFICATES = {
    "--tls-ca-file": "the certificate of the CA that signed the server's",
    "--tls-cert": "the certificate to show, which may hold its key",
    "--tls-key": "its key",
}

#: Characters of what an error says, which may be a peer's text: at most 4 KiB in UTF-8.
LONGEST = 1_000

#: The status of what a signal has ended, as shells have it: 128 and the signal's number.
INTERRUPTED = 128 + 2
UNREAD = 128 + 13

#: Characters, times the levels of what is nested, that are laid out: in 40 ms or so. What a server
#: returns may be nested such that laying it out takes the square of its size.
LAID_OUT = 60_000
CONTAINERS = frozenset({list, tuple, set, frozenset})


class OutputClosedError(Exception):
    """Nobody reads what we print, as behind ``| head``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; the value is the exit status."""
    args = parse(argv)
    if args.command == "key":
        return key_command.main([])
    try:
        return run(COMMANDS[args.command](args))
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputClosedError:
        # The interpreter flushes once more when it ends, and would say that it cannot.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except Exception as exc:
        print(explain(exc), file=sys.stderr)
        return 1


def explain(exc: Exception) -> str:
    r"""Return in one line what an exception says, which may be a peer's.

    >>> explain(ValueError("no such key:\n\x1b[2J")), explain(TimeoutError())
    ('ValueError: no such key:\\n\\x1b[2J', 'TimeoutError')
    """
    try:
        text = str(exc)
    except Exception:  # of a class that a trusted peer has sent
        text = "it cannot be shown"
    return printable(": ".join(filter(None, (type(exc).__name__, text))), LONGEST)


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
    for option, what in CERTIFICATES.items():
        common.add_argument(option, metavar="FILE", help=f"for tls://: {what}, PEM")
    common.add_argument(
        "--tls-server-hostname", metavar="NAME",
        help="for tls://: the name in the server's certificate, where the address has another",
    )  # fmt: skip
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
    args = parser.parse_args(argv)
    if args.command != "key" and not args.tls_ca_file:
        if args.tls_cert or args.tls_key or args.tls_server_hostname:
            parser.error(
                "--tls-cert, --tls-key and --tls-server-hostname need --tls-ca-file, "
                "by which the server is known"
            )
        if args.address.startswith("tls://"):
            parser.error(
                "tls:// needs --tls-ca-file FILE, by which the server is known; most servers "
                "also want --tls-cert FILE and --tls-key FILE"
            )
    return args


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
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return name, value  # these are what literal_eval is documented to raise


def connections(args: argparse.Namespace) -> ConnectionPool:
    # Only what has to be said is, for a backend need not take every argument.
    arguments: dict[str, Any] = {"trusted": True} if args.trusted else {}
    if args.tls_ca_file:
        arguments["security"] = Security(
            ca=args.tls_ca_file, cert=args.tls_cert, key=args.tls_key,
            server_hostname=args.tls_server_hostname,
        )  # fmt: skip
    return ConnectionPool(timeout=args.timeout, **arguments)


async def ask(
    pool: ConnectionPool, args: argparse.Namespace, op: str, arguments: Mapping[str, Any]
) -> Any:
    """Call a function. Connecting, where that is needed, has a time of its own.

    So what is wrong with the connection is said, and not that there was no answer.
    """
    address = pool(args.address).address
    pool.reuse(address, await pool.connect(address))
    try:
        async with asyncio.timeout(args.timeout) as scope:
            return await pool(address)[op].call(arguments)
    except TimeoutError as exc:
        if scope.expired():
            raise TimeoutError(f"no answer in {args.timeout:g} s") from exc
        raise


async def call(args: argparse.Namespace) -> int:
    """Print what a function returns."""
    async with connections(args) as pool:
        show(pretty(await ask(pool, args, args.op, dict(args.arguments))))
    return 0


async def identity(args: argparse.Namespace) -> int:
    """Print what the server says it is."""
    async with connections(args) as pool:
        show(pretty(await ask(pool, args, "identity", {}), sort_dicts=False))
    return 0


async def ping(args: argparse.Namespace) -> int:
    """Call again and again: a line each, and a summary, as ``ping`` does; 1 if none came back."""
    laps: list[float] = []
    sent = 0
    async with connections(args) as pool:
        try:
            while not args.count or sent < args.count:
                if sent:
                    await asyncio.sleep(args.interval)
                sent += 1
                await ping_once(pool, args, sent, laps)
        finally:
            show(summary(args.address, sent, laps))
    return 0 if laps else 1


async def ping_once(
    pool: ConnectionPool, args: argparse.Namespace, number: int, laps: list[float]
) -> None:
    """Call once, print how long it took, and append that; or print why it failed."""
    started = perf_counter()
    try:
        await ask(pool, args, "echo", {"data": number})
    except OSError as exc:  # a TimeoutError, too
        show(f"seq={number} {printable(str(exc), LONGEST)}")
    else:
        laps.append(1e3 * (perf_counter() - started))
        show(f"seq={number} time={laps[-1]:.3f} ms")


class Printer(PrettyPrinter):
    """Prints what a peer has returned, of which only strings escape by themselves."""

    def format(
        self, obj: Any, context: dict[int, int], maxlevels: int, level: int
    ) -> tuple[str, bool, bool]:
        shown, readable, recursive = super().format(obj, context, maxlevels, level)
        kind = type(obj)
        if kind not in (dict, list, tuple) and not shown.isprintable():  # they are made by parts
            lines = shown.split("\n") if kind.__module__ == "numpy" else [shown]
            shown = "\n".join(printable(line, 10 * len(line)) for line in lines)
        return shown, readable, recursive


def pretty(value: Any, *, sort_dicts: bool = True) -> str:
    """Return a value over several lines, or on one where laying it out would take long."""
    text = repr(value)
    if len(text) * depth(value) > LAID_OUT:
        return printable(text, 10 * len(text))
    return Printer(sort_dicts=sort_dicts).pformat(value)


def depth(value: Any) -> int:
    """Return how many levels of containers there are, one at least.

    >>> depth(1), depth([{"a": (1, 2)}])
    (1, 4)
    """
    levels, layer = 0, [value]
    while layer:
        levels += 1
        maps = [item for obj in layer if type(obj) is dict for item in (*obj, *obj.values())]
        layer = maps + [item for obj in layer if type(obj) in CONTAINERS for item in obj]
    return levels


def show(text: str) -> None:
    """Print it at once; OutputClosedError where nobody reads, which is no error of a call."""
    try:
        print(text, flush=True)
    except BrokenPipeError as exc:
        raise OutputClosedError from exc


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
