"""Measure single functions: ``python bench/micro.py``, ``--fast`` for a first look.

Every row of `micro_cases.CASES` on the compiled kernels, on the pure ones, as one would
write it without us, and as Dask has it. Each measurement is a process of its own, pyperf's.
The contenders of a row run one right after the other, all rows so several times, and a
ratio is the median over these passes: so it holds where the machine's speed does not.
"""

import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from contextlib import redirect_stdout
from statistics import median
from timeit import Timer

import pyperf
from micro_cases import CASES, Case

#: How often an expression stands in its loop.
UNROLLED = 10

COMPILED, PURE, PLAIN, DASK = "compiled", "pure", "plain", "Dask"
KERNELS = "import os; os.environ['DISTRIBUTED_COMM_EXTENSIONS'] = {!r}"

#: Row -> contender -> seconds, one a pass.
Times = dict[str, dict[str, list[float]]]


def contenders(case: Case) -> Iterator[tuple[str, str, str]]:
    """Yield who is measured in a row, its expression, and what comes before it."""
    yield COMPILED, case.ours, f"{KERNELS.format('yes')}\n{case.ours_setup}\n{case.values}"
    yield PURE, case.ours, f"{KERNELS.format('no')}\n{case.ours_setup}\n{case.values}"
    if case.plain:
        yield PLAIN, case.plain, case.values
    if case.dask:
        yield DASK, case.dask, f"{case.dask_setup}\n{case.values}"


def elapsed(loops: int, expression: str, setup: str) -> float:
    """Evaluate an expression so often, many times a turn: the loop itself takes 4 ns."""
    return Timer("\n".join([expression] * UNROLLED), setup).timeit(loops)


def measure(runner: pyperf.Runner, cases: list[Case], passes: int) -> Times:
    """Run everything; in a worker of pyperf only its task, which reports by itself."""
    times: Times = defaultdict(lambda: defaultdict(list))
    for number in range(passes):
        for case in cases:
            for contender, expression, setup in contenders(case):
                name = f"{case.name}, {contender}, {number}"
                result = runner.bench_time_func(
                    name, elapsed, expression, setup, inner_loops=case.repeats * UNROLLED
                )
                if result is not None and not runner.args.worker:
                    times[case.name][contender].append(result.median())
    return times


def show(times: Times) -> None:
    """Print the table: nanoseconds, and how many times as long the others take as compiled."""
    print("| | compiled, ns | pure, ns | pure / | plain / | Dask / |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, row in times.items():
        nanoseconds = [f"{median(row[contender]) * 1e9:,.0f}" for contender in (COMPILED, PURE)]
        ratios = [ratio(row, contender) for contender in (PURE, PLAIN, DASK)]
        print("|", " | ".join([name, *nanoseconds, *ratios]), "|")


def ratio(row: dict[str, list[float]], contender: str) -> str:
    """How many times as long as the compiled kernel it takes."""
    if contender not in row:
        return ""
    factor = median(b / a for a, b in zip(row[COMPILED], row[contender], strict=True))
    return f"{factor:.1f}" if factor < 100 else f"{factor:,.0f}"


def forward(command: list[str], args: Namespace) -> None:
    """Let pyperf's workers count the same tasks."""
    command += ["--passes", str(args.passes), "--only", args.only]


def main() -> None:
    runner = pyperf.Runner(values=3, processes=1, min_time=0.02, add_cmdline_args=forward)
    runner.argparser.add_argument("--passes", type=int, default=5, help="(%(default)s)")
    runner.argparser.add_argument("--only", default="", help="rows whose names contain this")
    args = runner.parse_args()
    args.quiet = True
    if args.fast:
        args.passes = args.processes = 1
    with redirect_stdout(sys.stderr):  # where pyperf says what it has measured
        times = measure(runner, [case for case in CASES if args.only in case.name], args.passes)
    if not args.worker:
        show(times)


if __name__ == "__main__":
    main()
