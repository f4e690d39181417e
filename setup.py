"""Build the compiled kernels; every other setting is in pyproject.toml.

DISTRIBUTED_COMM_EXTENSIONS=yes|no|auto says what happens where they cannot be built:
with "yes" the build fails, with "auto" (the default) the package is installed without
them, and with "no" they are not built at all.
"""

import os
from pathlib import Path

from setuptools import setup

choice = os.environ.get("DISTRIBUTED_COMM_EXTENSIONS", "auto")
if choice not in {"yes", "no", "auto"}:
    raise SystemExit(f"DISTRIBUTED_COMM_EXTENSIONS={choice!r}: expected 'yes', 'no' or 'auto'")

extensions = []
if choice != "no":
    from Cython.Build import cythonize

    sources = sorted(str(path) for path in Path("distributed_comm/_kernels").glob("*.pyx"))
    extensions = cythonize(sources)
    for extension in extensions:  # cythonize() drops optional=, so it is set afterwards
        extension.optional = choice == "auto"

setup(ext_modules=extensions)
