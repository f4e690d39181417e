"""The programs that the README and the docs show work when they are pasted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def programs(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("program", "printed"),
    [(programs("README.md")[0], "42\n"), (programs("docs/tls.md")[0], "42 TLSv1.3\n")],
    ids=["README", "tls"],
)
def test_a_program_of_the_docs_works_when_pasted(program, printed, tmp_path):
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False
    )
    assert done.stdout == printed, done.stderr
    assert not done.stderr


def test_the_readme_has_no_program_that_is_not_run():
    assert len(programs("README.md")) == 1
