"""Compare what an sdist and a wheel hold with what they should: check_dist.py FOLDER."""

import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def files(folder: str, pattern: str) -> set[str]:
    return {file.relative_to(ROOT).as_posix() for file in (ROOT / folder).rglob(pattern)}


def expect_none(names: set[str], what: str) -> None:
    if names:
        sys.exit(f"{what}: {', '.join(sorted(names))}")


(sdist_file,) = Path(sys.argv[1]).glob("*.tar.gz")
(wheel_file,) = Path(sys.argv[1]).glob("*.whl")
with tarfile.open(sdist_file) as archive:
    sdist = {name.partition("/")[2] for name in archive.getnames()}
with zipfile.ZipFile(wheel_file) as archive:
    wheel = {name for name in archive.namelist() if ".dist-info/" not in name}

init = (ROOT / "distributed_comm/__init__.py").read_text()
(version,) = re.findall(r'^__version__ = "(.+)"$', init, re.MULTILINE)
named = {file.name for file in (sdist_file, wheel_file)}
expect_none(
    {name for name in named if not name.startswith(f"distributed_comm-{version}")},
    f"not of version {version}",
)

python = files("distributed_comm", "*.py") | {"distributed_comm/py.typed"}
sources = files("distributed_comm", "*.pyx")
around = files("tests", "*.py") | files("docs", "*.md") | files(".ci", "*")
around |= {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "pyproject.toml"}
expect_none((python | sources | around) - sdist, "missing from the sdist")
expect_none({n for n in sdist if n.endswith((".c", ".pyc", ".so"))}, "built, but in the sdist")

compiled = {re.sub(r"\.cpython-.*\.so$", ".pyx", name) for name in wheel - python}
expect_none(python - wheel, "missing from the wheel")
expect_none(sources - compiled, "not compiled in the wheel")
expect_none(compiled - sources, "superfluous in the wheel")
print(f"{sdist_file.name}: {len(sdist)} entries; {wheel_file.name}: {len(wheel)} files")
