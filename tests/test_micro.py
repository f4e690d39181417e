"""The table of bench/micro.py: every row runs, and its contenders do the same."""

import runpy
from pathlib import Path

import pytest

ROWS = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "micro_cases.py"))["CASES"]


def result_of(setup, expression):
    """Return the value of an expression, None where it is a statement."""
    namespace = {}
    exec(setup, namespace)
    try:
        code = compile(expression, "<row>", "eval")
    except SyntaxError:
        return exec(expression, namespace)
    return eval(code, namespace)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row(row):
    ours = result_of(f"{row.ours_setup}\n{row.values}", row.ours)
    if row.plain:
        result_of(row.values, row.plain)
    if row.dask:
        assert result_of(f"{row.dask_setup}\n{row.values}", row.dask) == ours


def test_rows_have_names_of_their_own():
    assert len({row.name for row in ROWS}) == len(ROWS)
