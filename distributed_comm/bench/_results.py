"""What was measured, and the file in which it is kept."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import distributed_comm
from distributed_comm.bench import _payloads, _workloads
from distributed_comm.bench._workloads import Sample

SCHEMA = 1
"""Raised when a field of the file changes its meaning; new fields do not count."""

LIBRARIES = ("distributed", "msgpack", "numpy", "uvloop")


@dataclass(frozen=True)
class Case:
    """What one figure is about: a workload with all its parameters, on one system."""

    workload: str
    system: str
    transport: str
    size: int | None
    concurrency: int = 1


@dataclass(frozen=True)
class Result:
    """The figures of all rounds of one case, in ``unit``; p50 and p99 where they were measured."""

    case: Case
    unit: str
    runs: tuple[float, ...]
    median: float
    p50_us: float | None
    p99_us: float | None

    @classmethod
    def of(cls, case: Case, samples: Sequence[Sample]) -> "Result":
        """The result of the rounds of one case: the median of each thing measured."""
        runs = tuple(sample.figure for sample in samples)
        return cls(
            case=case,
            unit=_workloads.load(case.workload).SPEC.unit,
            runs=runs,
            median=median(runs),
            p50_us=_median_or_none(sample.p50_us for sample in samples),
            p99_us=_median_or_none(sample.p99_us for sample in samples),
        )

    def to_json(self) -> dict[str, Any]:
        """The flat form of the file; ``runs`` are the figures in the order of the rounds."""
        fields = asdict(self)
        return {**fields.pop("case"), **fields}


def save(path: Path, results: Iterable[Result], pinned: dict[str, int] | None) -> None:
    """Write the file that ``--json`` asks for."""
    document = {
        "schema": SCHEMA,
        "meta": conditions(pinned),
        "results": [result.to_json() for result in results],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def conditions(pinned: dict[str, int] | None) -> dict[str, Any]:
    """Under which conditions the figures hold."""
    versions = {name: _version(name) for name in LIBRARIES}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "pinned": pinned,
        "kernels": distributed_comm.kernels,
        "loop": "uvloop" if versions["uvloop"] else "asyncio",
        "arrays": "bytes" if _payloads.np is None else "numpy",
        "versions": {
            "distributed_comm": distributed_comm.__version__,
            **versions,
        },
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _median_or_none(values: Iterable[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return median(measured) if measured else None
