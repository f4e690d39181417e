"""Check what a program gets from the package: only public modules, every type declared."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "distributed_comm"
ROOT = Path(__file__).parents[1]


def verify() -> dict[str, Any]:
    """Return what basedpyright says of the package in this checkout."""
    python = Path(sys.executable)
    command = [python.with_name("basedpyright"), "--pythonpath", python, "--outputjson"]
    command += ["--verifytypes", PACKAGE, "--ignoreexternal"]
    # It reads sys.path, but does not run the hook by which an editable install is found.
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"basedpyright ended with {done.returncode}: {done.stdout}{done.stderr}")
    if answer["generalDiagnostics"]:
        sys.exit("\n".join(item["message"] for item in answer["generalDiagnostics"]))
    report: dict[str, Any] = answer["typeCompleteness"]
    if Path(report["packageRootDirectory"]) != ROOT / PACKAGE:
        sys.exit(f"checked {report['packageRootDirectory']} instead of {ROOT / PACKAGE}")
    return report


def find_faults(report: dict[str, Any]) -> Iterator[str]:
    """Yield what is public in a private module, and what has no declared type."""
    modules = {module["name"] for module in report["modules"]}
    for symbol in report["symbols"]:
        name, module = symbol["name"], symbol["name"]
        while module not in modules and module:
            module = module.rpartition(".")[0]
        if symbol["isExported"] and "._" in module:
            yield f"{name}: public, in a private module"
        if symbol["isTypeAmbiguous"] or not symbol["isTypeKnown"]:
            why = " ".join(item["message"] for item in symbol["diagnostics"])
            yield f"{name}: {' '.join(why.split()) or 'a part of it has no declared type'}"


report = verify()
faults = sorted(find_faults(report))
score = report["completenessScore"]
if faults or score < 1:
    sys.exit("\n".join([*faults, f"types: {len(faults)} faults, {score:.1%} complete"]))
exported = sum(report["exportedSymbolCounts"].values())
print(f"types: all of {exported} exported symbols, and what they refer to, are declared")
