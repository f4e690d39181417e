"""Dask's comm as it comes: on asyncio's own loop."""

from asyncio import run

from distributed_comm.bench._systems.dask_comm import (
    KINDS,
    TRANSPORTS,
    connect,
    item,
    listen,
    nbytes,
)

__all__ = ["KINDS", "TRANSPORTS", "connect", "item", "listen", "nbytes", "run"]
