"""Measure this library, the floor and the bare protocol in one run.

A server and a client process, each on a core of its own, on this machine. Absolute figures do
not carry to another machine, nor to another day; the ratios of one run do.
"""

import argparse
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from distributed_comm.bench import (
    _plot,
    _processes,
    _report,
    _results,
    _runner,
    _systems,
    _workloads,
)
from distributed_comm.bench._runner import Effort

NORMAL = Effort(seconds=0.3, rounds=7)
QUICK = Effort(seconds=0.1, rounds=3)
USUAL = [name for name in _workloads.NAMES if _workloads.load(name).SPEC.usual]


def main() -> int:
    """Run the benchmark that the command line asks for; the value is the exit status."""
    args = parse()
    effort = QUICK if args.quick else NORMAL
    effort = Effort(args.seconds or effort.seconds, args.rounds or effort.rounds)
    print(_report.headline(_results.conditions(_processes.pinning())), flush=True)
    try:
        with _processes.start(args.systems, args.transport) as stage:
            rows = _runner.plan(stage, args.workload, args.transport)
            steps = sum(len(row) for row in rows) * (1 + effort.rounds)
            with _report.progress(steps) as step:
                measured = [_runner.measure(stage, row, effort, step) for row in rows]
    except _processes.WorkerError as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    _report.show(measured)
    if args.json:
        _results.save(
            args.json, [result for row in measured for result in row], _processes.pinning()
        )
    if args.plot:
        _plot.save(args.plot, measured)
    return 0


def parse() -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(
        prog="python -m distributed_comm.bench", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--workload",
        type=_some_of(_workloads.NAMES),
        default=USUAL,
        metavar="A,B",
        help=f"some of {', '.join(_workloads.NAMES)} (default: {','.join(USUAL)})",
    )
    add(
        "--systems",
        type=_some_of(_systems.MODULES),
        default=_systems.USUAL,
        metavar="A,B",
        help=f"some of {', '.join(_systems.MODULES)} (default: {','.join(_systems.USUAL)})",
    )
    add("--transport", default="tcp", choices=_systems.TRANSPORTS, help="(default: tcp)")
    add("--quick", action="store_true", help="shorter and fewer runs, for a first impression")
    add("--rounds", type=int, help=f"runs of each case (default: {NORMAL.rounds})")
    add("--seconds", type=float, help=f"duration of a run (default: {NORMAL.seconds})")
    add("--json", type=_new_file, metavar="FILE", help="keep every figure in this file")
    add("--plot", type=_new_file, metavar="FILE.png", help="draw the ratios (with matplotlib)")
    args = parser.parse_args()
    if args.plot and not _plot.AVAILABLE:
        parser.error("--plot needs matplotlib")
    return args


def _some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen).difference(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
        return chosen

    return names


def _new_file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():  # said now, not after a minute of measuring
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path
