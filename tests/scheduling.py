"""A live Scheduler of Dask's."""

from typing import Any

import pytest


def scheduler() -> Any:
    """Return one to enter; its dashboard has a port of its own, else two at once want 8787."""
    distributed = pytest.importorskip("distributed")
    return distributed.Scheduler(
        host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0"
    )
