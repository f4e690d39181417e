"""The programs that the documents show work when they are pasted."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from certificates import ca_text, issue, texts

ROOT = Path(__file__).parents[1]


def programs(name: str) -> list[tuple[str, str]]:
    """Return what a document shows as Python: the file that it is, if any, and its text."""
    text = (ROOT / name).read_text()
    return re.findall(r"^```python ?(?:file=)?(\S*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


SLOW = re.compile(r"Executing <Task .* took \d+\.\d+ seconds$")


def run_pasted(program: str, folder: Path, *args: str) -> str:
    """Run a program strictly in a folder; return what it printed."""
    # not -c: its tracebacks have no source
    file = folder / "pasted.py"
    file.write_text(program)
    command = [sys.executable, "-W", "error", "-X", "dev", str(file), *args]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=50, check=False
    )
    # A loop in debug mode also says what took 100 ms: on a busy machine the imports may.
    assert not [line for line in done.stderr.splitlines() if not SLOW.match(line)]
    assert not done.returncode
    return done.stdout


@pytest.mark.parametrize(
    ("page", "number", "printed"),
    [
        ("README.md", 0, "42\n"),
        ("README.md", 1, "30\n"),
        ("docs/tls.md", 0, "42 TLSv1.3\n"),
        ("docs/tls.md", 1, "30\n"),
    ],
)
def test_a_program_works_when_pasted(page, number, printed, tmp_path):
    ours = texts(issue())
    files = {"ca.pem": ca_text(), "machine.pem": ours["cert"], "machine.key": ours["key"]}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert run_pasted(programs(page)[number][1], tmp_path) == printed


@pytest.mark.parametrize("page", ["README.md", "docs/tls.md"])
def test_a_page_has_no_program_that_is_not_run(page):
    assert len(programs(page)) == 2


# -- the tutorial -----------------------------------------------------------------------------

FIRST, SERVICE, CLIENT, TEST = programs("docs/tutorial.md")

CHANGES = {f"changed: fruit/{n} {n}" for n in range(10)}


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """Run the tutorial's service, whose address is the value; it ends when it is asked to."""
    command = [sys.executable, "-W", "error", "-X", "dev", SERVICE[0]]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        killer = threading.Timer(50, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
            process.terminate()
            _, errors = process.communicate()
        finally:
            process.kill()
            killer.cancel()
    assert process.returncode == 0
    assert "Traceback" not in errors.replace(
        "Traceback", "", errors.count("KeyError: 'fruit/none'")
    )


def test_the_first_program_of_the_tutorial(tmp_path):
    assert run_pasted(FIRST[1], tmp_path) == "30\n"


def commands(name: str) -> list[list[str]]:
    """Return the lines of the blocks of a document that are commands of this Python."""
    text = (ROOT / name).read_text()
    blocks = re.findall(r"^```\n(python .*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line.split() for block in blocks for line in block.splitlines()]


@pytest.mark.skipif(sys.platform == "win32", reason="a signal")
def test_the_commands_of_the_tutorial(tmp_path):
    (tmp_path / "store.py").write_text(SERVICE[1])
    printed = {}
    with service(tmp_path) as address:
        for _, *arguments in commands("docs/tutorial.md"):
            command = [address if "://" in each else each for each in arguments]
            done = subprocess.run(
                [sys.executable, *command],
                capture_output=True, text=True, cwd=tmp_path, timeout=50, check=True,
            )  # fmt: skip
            printed[arguments[2]] = done.stdout
    assert "Store-" in printed["identity"]
    assert printed["call"].strip() == "None"
    assert printed["ping"]
    assert len(printed) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="a signal")
def test_the_service_of_the_tutorial_and_its_client(tmp_path):
    assert (SERVICE[0], CLIENT[0]) == ("store.py", "client.py")
    (tmp_path / "store.py").write_text(SERVICE[1])
    with service(tmp_path) as address:
        lines = run_pasted(CLIENT[1], tmp_path, address).splitlines()
    assert "got: 7" in lines
    assert "error: KeyError: 'fruit/none'" in lines
    assert {*lines} >= CHANGES
    assert lines[-1] == "changed: fruit/end None"
    assert not any("leek" in line for line in lines)


def test_the_service_of_the_tutorial_without_a_network(tmp_path):
    (tmp_path / "store.py").write_text(SERVICE[1])
    assert run_pasted(TEST[1], tmp_path) == ""


def test_the_service_and_its_client_are_short():
    lines = [line for _, text in (SERVICE, CLIENT) for line in text.splitlines() if line.strip()]
    assert len(lines) <= 60
