"""What a person sees: a progress bar while it runs, then a table.

Both are rich's where it is installed. The bar appears on a terminal alone and moves between
runs, never during one: drawing it takes time on a core that is being measured.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from distributed_comm.bench._results import Case, Result
from distributed_comm.bench._systems import BARE, FLOOR

try:
    import rich.console
    import rich.progress
    import rich.table
except ImportError:
    rich = None  # type: ignore[assignment]

FIGURES = ("median", "min", "max", "unit", f"/ {FLOOR}", f"/ {BARE}", "p50 µs", "p99 µs")
COLUMNS = ("workload", "system", *FIGURES)
TEXT_COLUMNS = frozenset({"workload", "system", "unit"})

Step = Callable[[Case], None]


def headline(conditions: Mapping[str, Any]) -> str:
    """Return the line above the table: what is measured, for which half of it may be missing.

    >>> versions = {"distributed_comm": "0.1.0", "msgpack": "1.1.2", "uvloop": None}
    >>> headline({"kernels": "pure", "loop": "asyncio", "python": "3.11.7", "versions": versions})
    'distributed_comm 0.1.0, pure kernels, on asyncio; Python 3.11.7, msgpack 1.1.2'
    """
    versions = dict(conditions["versions"])
    ours = versions.pop("distributed_comm")
    present = {"Python": conditions["python"], **versions}
    others = ", ".join(f"{name} {version}" for name, version in present.items() if version)
    loop, kernels = conditions["loop"], conditions["kernels"]
    return f"distributed_comm {ours}, {kernels} kernels, on {loop}; {others}"


@contextmanager
def progress(total: int) -> Iterator[Step]:
    """Show how much is done; the value is called at the beginning of each of the steps."""
    if rich is None or not sys.stderr.isatty():
        yield lambda _case: None
        return
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(console=console, auto_refresh=False, transient=True) as bar:
        task = bar.add_task("", total=total)

        def step(case: Case) -> None:
            bar.update(task, description=f"{label(case)}, {case.system}", refresh=True)
            bar.advance(task)

        yield step


def show(rows: Sequence[Sequence[Result]]) -> None:
    """Print the table, one block of lines for each row of systems that were compared."""
    blocks = [[cells(result, row) for result in row] for row in rows]
    if rich is None:
        _show_plainly(blocks)
        return
    table = rich.table.Table()
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in TEXT_COLUMNS else "right")
    for block in blocks:
        for line in block:
            table.add_row(*line)
        table.add_section()
    # Into a file or a pipe, a table must not be cut to 80 columns.
    rich.console.Console(width=None if sys.stdout.isatty() else 120).print(table)


def _show_plainly(blocks: Sequence[Sequence[Sequence[str]]]) -> None:
    lines = [COLUMNS, *(line for block in blocks for line in block)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        padded = (
            cell.ljust(width) if column in TEXT_COLUMNS else cell.rjust(width)
            for column, cell, width in zip(COLUMNS, line, widths, strict=True)
        )
        print("  ".join(padded).rstrip())


def cells(result: Result, row: Sequence[Result]) -> tuple[str, ...]:
    """One line of the table; ``row`` has the results that it is compared with."""
    medians = {other.case.system: other.median for other in row}
    return (
        label(result.case),
        result.case.system,
        number(result.median),
        number(min(result.runs)),
        number(max(result.runs)),
        result.unit,
        *(ratio(result.median, medians.get(system)) for system in (FLOOR, BARE)),
        *("" if value is None else number(value) for value in (result.p50_us, result.p99_us)),
    )


def label(case: Case) -> str:
    """The name of a row.

    >>> label(Case("bandwidth", "socket", "tcp", size=2**20))
    'bandwidth 1 MiB'
    """
    words = [case.workload]
    if case.size is not None:
        words.append(binary(case.size))
    if case.concurrency > 1:
        words.append(f"x {case.concurrency}")
    return " ".join(words)


def binary(size: int) -> str:
    """A size in the largest unit of which it is a multiple.

    >>> binary(64 * 1024), binary(1500)
    ('64 KiB', '1500 B')
    """
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size % (1 << power) == 0:
            return f"{size >> power} {unit}"
    return f"{size} B"


def number(value: float) -> str:
    """Three digits or more, and no more than make sense.

    >>> number(14203.4), number(1.8249), number(0.05)
    ('14,203', '1.82', '0.05')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(value: float, other: float | None) -> str:
    """The first as a multiple of the second, nothing where there is no second."""
    return f"{value / other:.2f}" if other else ""
