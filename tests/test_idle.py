"""bench/idle.py: one command prints the table, of processes that end."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "bench" / "idle.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="raises a limit, pins processes")
@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_one_command_prints_the_table(transport):
    command = [sys.executable, str(SCRIPT), "--transport", transport]
    command += ["--idle", "120", "--count", "200", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    head, _, p50, p99 = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()
    ]
    assert head == [transport, "alone, µs", "beside 120, µs", "ratio"]
    for name, row in (("p50", p50), ("p99", p99)):
        assert row[0] == name
        assert float(row[1]) > 0
        assert float(row[2]) > 0
