"""The table of bench/micro.py: every row runs, and its contenders do the same."""

import logging
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from distributed_comm import _kernels

BENCH = Path(__file__).parents[1] / "bench"
ROWS = runpy.run_path(str(BENCH / "micro_cases.py"))["CASES"]


def result_of(setup, expression):
    """Return the value of an expression, None where it is a statement."""
    namespace = {}
    exec(setup, namespace)
    try:
        code = compile(expression, "<row>", "eval")
    except SyntaxError:
        return exec(expression, namespace)
    return eval(code, namespace)


@pytest.fixture
def logs():
    """Have logs again, which a row may switch off for Dask's."""
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row(row):
    ours = result_of(f"{row.ours_setup}\n{row.values}", row.ours)
    if row.plain:
        result_of(row.values, row.plain)
    if row.dask:
        assert result_of(f"{row.dask_setup}\n{row.values}", row.dask) == ours


def test_rows_have_names_of_their_own():
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.skipif(_kernels.kind == "pure", reason="it compares the compiled kernels")
def test_one_command_prints_the_table():
    pytest.importorskip("pyperf")
    command = [sys.executable, str(BENCH / "micro.py"), "--fast", "--only", "marked, a request"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    *head, row = done.stdout.splitlines()
    assert len(head) == 2
    name, *figures = [cell.strip() for cell in row.strip("|").split("|")]
    assert name == "frame0.marked, a request"
    assert [float(figure.replace(",", "")) > 0 for figure in figures[:-1]] == [True] * 4
    assert figures[-1] == ""  # Dask has no such function
