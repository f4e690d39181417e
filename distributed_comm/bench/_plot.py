"""A picture of the table: each system as a multiple of the floor."""

from collections.abc import Sequence
from pathlib import Path

from distributed_comm.bench._report import label
from distributed_comm.bench._results import Result
from distributed_comm.bench._systems import FLOOR

try:
    from matplotlib.figure import Figure
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True


def save(path: Path, rows: Sequence[Sequence[Result]]) -> None:
    """Draw one group of bars a row; without the floor, its first system counts as 1."""
    figure = Figure(figsize=(2 + 1.5 * len(rows), 4), layout="constrained")
    axes = figure.subplots()
    systems = list(dict.fromkeys(result.case.system for row in rows for result in row))
    width = 0.8 / len(systems)
    for index, system in enumerate(systems):
        bars = {
            place + index * width: result.median / _one(row)
            for place, row in enumerate(rows)
            for result in row
            if result.case.system == system
        }
        axes.bar(list(bars), list(bars.values()), width, label=system)
    middles = [place + 0.4 - width / 2 for place in range(len(rows))]
    axes.set_xticks(middles, [label(row[0].case) for row in rows])
    axes.set_ylabel(f"multiple of {FLOOR}")
    figure.legend(loc="outside upper center", ncols=len(systems))
    figure.savefig(path)


def _one(row: Sequence[Result]) -> float:
    return next((r.median for r in row if r.case.system == FLOOR), row[0].median)
