"""Each promise in docs/security.md names the tests that show it, and they exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/security.md").read_text().split("\n## Each promise, and its test\n")[1]


def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_promise_has_a_test_that_is_there():
    rows = [line.strip("| ") for line in PAGE.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.endswith("shown by")]
    assert len(rows) > 40
    for row in rows:
        promise, _, shown = row.partition(" | ")
        tests = re.findall(r"`(test_\w+\.py)::(test_\w+)`", shown)
        assert tests, f"no test for: {promise}"
        assert not re.sub(r"`test_\w+\.py::test_\w+`|[ ,]", "", shown), f"something else: {shown}"
        for file, test in tests:
            assert test in names_in(file), f"{promise}: there is no {file}::{test}"
