"""Fuzz what parses: make fuzz TIME=600, or TARGETS="hello framing", or INPUT=FILE.

Each target is a process of its own for so many seconds: atheris mutates its inputs, led by
what they reach in our Python and in our kernels, which AddressSanitizer and
UndefinedBehaviorSanitizer watch. It begins with its seeds and what it has collected before,
in ``.fuzz/corpus``. What it stops at, an exception or a report of a sanitizer, is kept in
``.fuzz/findings`` and makes the exit status 1; with INPUT such a file is tried again.
"""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import atheris

from .trying import NAMES

FOLDER = Path(".fuzz")

#: The sanitizers' runtime, with the fuzzer in it, which has to be loaded before Python is.
RUNTIME = Path(atheris.path()) / "asan_with_fuzzer.so"
ENVIRONMENT = {
    # Python frees little at its end; and to remember who allocated what takes most of the time.
    "ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=2",
    "DISTRIBUTED_COMM_EXTENSIONS": "yes",
    "LD_PRELOAD": str(RUNTIME),
    "PYTHONMALLOC": "malloc",  # so that a buffer ends where its memory does
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
#: What an input may take, beside what `costing` says: seconds until it is taken for an endless one,
#: MiB at once and in all; and how long it may be.
LIMITS = ["-timeout=60", "-malloc_limit_mb=256", "-rss_limit_mb=4096", "-max_len=4096"]


def run(name: str, arguments: list[str]) -> None:
    """Fuzz one target, with libFuzzer's arguments; it ends the process."""
    with atheris.instrument_imports(include=["distributed_comm"]):
        target = import_module(f"{__package__}.fuzz_{name}")
        costing = import_module(f"{__package__}.costing")
        seeds = target.seeds()  # which has registered types loaded
    costing.set_slowness(costing.SANITIZED)
    for number, seed in enumerate(seeds):
        (folder("seeds", name) / str(number)).write_bytes(seed)
    atheris.Setup([sys.argv[0], *LIMITS, *arguments], target.check)
    atheris.Fuzz()


def folder(*names: str) -> Path:
    path = FOLDER.joinpath(*names)
    path.mkdir(parents=True, exist_ok=True)
    return path


def start(name: str, *arguments: str) -> bool:
    """Fuzz one target in a process of its own; return whether nothing was found."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", str(__package__), name, *arguments],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    log = FOLDER / f"{name}.log"
    log.write_text(done.stdout)
    if done.returncode:
        print(f"{name}: FOUND\n{excerpt(done.stdout)}\nAll of it is in {log}.", flush=True)
    else:
        figures = re.findall(r"cov: .* corp: \S+|Done .*|Executed .*", done.stdout)
        print(f"{name}: {', '.join(figures[-2:])}", flush=True)
    return not done.returncode


def excerpt(log: str) -> str:
    """Return the beginning of what was reported, and where its input is."""
    begin = re.search(r"^.*(?:Uncaught Python exception|ERROR: |runtime error: )", log, re.M)
    lines = log[begin.start() :].splitlines()[:20] if begin else log.splitlines()[-20:]
    kept = re.search(r"Test unit written to (.*)", log)
    again = [f"Try it again: make fuzz INPUT={kept[1]}"] if kept else []
    return "\n".join([*lines, *again])


def fuzz(name: str, seconds: str) -> bool:
    """Fuzz one target for so long."""
    findings = folder("findings")
    return start(
        name,
        *(str(folder(kind, name)) for kind in ("corpus", "seeds")),
        f"-artifact_prefix={findings}/{name}-",
        f"-max_total_time={seconds}",
    )


def main(first: str, *others: str) -> int:
    """Fuzz for a time; or try files again, whose names begin with their targets'."""
    if first in NAMES:
        run(first, list(others))
    if first.isdigit():
        passed = [fuzz(name, first) for name in others or NAMES]
    else:
        passed = [start(Path(file).name.partition("-")[0], file) for file in (first, *others)]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
