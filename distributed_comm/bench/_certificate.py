"""The certificate of a run, which its processes find in the environment."""

import os
import ssl

from distributed_comm import Security
from distributed_comm._tls.security import TEMPORARY_NAME

__all__ = ["HOST", "connecting", "listening", "publish", "security"]

VARIABLE = "DISTRIBUTED_COMM_BENCH_PEM"
HOST = TEMPORARY_NAME


def publish() -> None:
    """Make one for this process and those that it starts."""
    made = Security.temporary()
    os.environ[VARIABLE] = f"{made.cert}{made.key}"


def security() -> Security:
    """Return what both sides have."""
    pem = os.environ[VARIABLE]
    return Security(ca=pem, cert=pem, server_hostname=HOST)


def connecting(transport: str) -> ssl.SSLContext | None:
    """Return the context of a client, None on a transport without TLS."""
    return security().connecting if transport == "tls" else None


def listening(transport: str) -> ssl.SSLContext | None:
    """Return the context of a server likewise."""
    return security().listening if transport == "tls" else None
