"""bench/large.py: one command prints the table, of processes that end."""

import subprocess
import sys
from pathlib import Path

from loops import needs_proc

SCRIPT = Path(__file__).parents[1] / "bench" / "large.py"


@needs_proc
def test_one_command_prints_the_table():
    command = [sys.executable, str(SCRIPT), "--size", "32", "--only", "table of times"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.split("\n")
    ]
    (name, sender, *sent), (_, receiver, *received) = rows[2:4]
    assert (name, sender, receiver) == ("table of times", "sender", "receiver")
    assert float(sent[1]) < 16
    assert 30 < float(received[1]) < 64
