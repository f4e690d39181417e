"""The order in which things are measured: row by row, and within a row the systems take turns.

The machine drifts within minutes, so what is compared is measured within the same second or
two, and the one that begins is another one in each round.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from distributed_comm.bench import _workloads
from distributed_comm.bench._processes import Stage
from distributed_comm.bench._results import Case, Result

GROWTH = 8
ENOUGH = 0.25

Row = Sequence[Case]


@dataclass(frozen=True)
class Effort:
    """How long a run lasts, and how often each case runs."""

    seconds: float
    rounds: int


def plan(stage: Stage, names: Iterable[str], transport: str) -> list[Row]:
    """The rows of a table: in each, the cases that differ in nothing but the system."""
    return [
        [Case(name, system, transport, size, spec.concurrency) for system in able]
        for name in names
        if (able := [system for system in stage.addresses if name in stage.addresses[system]])
        for spec in [_workloads.load(name).SPEC]
        for size in spec.sizes
    ]


def measure(stage: Stage, row: Row, effort: Effort, step: Callable[[Case], None]) -> list[Result]:
    """Measure one row; ``step`` is called before each run."""
    counts = {}
    for case in row:
        step(case)
        counts[case] = calibrate(stage, case, effort.seconds)
    samples: dict[Case, list[_workloads.Sample]] = {case: [] for case in row}
    for turn in range(effort.rounds):
        first = turn % len(row)
        for case in [*row[first:], *row[:first]]:
            step(case)
            samples[case].append(stage.measure(case, counts[case]))
    return [Result.of(case, samples[case]) for case in row]


def calibrate(stage: Stage, case: Case, seconds: float) -> int:
    """The number of messages that take about so many seconds; measuring it warms up, too."""
    fixed = _workloads.load(case.workload).SPEC.count
    if fixed is not None:
        return fixed
    count = 1
    while (sample := stage.measure(case, count)).seconds < seconds * ENOUGH:
        count *= GROWTH
    return max(1, round(count * seconds / sample.seconds))
