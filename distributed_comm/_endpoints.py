"""connect() and listen(), and the address functions that ask a scheme's backend."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from ._addressing import parse_address, unparse_address
from ._loops.deadlines import timeout_at
from ._loops.threads import NAMES, in_thread
from ._text import printable
from ._tls.security import Security
from .core import Comm, Connector, HandleComm, Listener
from .errors import CommClosedError, FatalCommClosedError
from .options import CommOptions, default_options
from .registry import Backend, get_backend

__all__ = [
    "connect",
    "get_address_host",
    "get_address_host_port",
    "get_local_address_for",
    "listen",
    "resolve_address",
    "resolve_address_async",
]

#: The longest pause before the first retry, in seconds; it doubles with each.
BACKOFF = 0.01


async def connect(
    addr: str,
    timeout: float | None = None,
    deserialize: bool = True,
    connection_args: Mapping[str, Any] | None = None,
    *,
    trusted: bool | None = None,
    key: str | bytes | None = None,
    require_trust: bool = False,
    security: Security | None = None,
    options: CommOptions | None = None,
    name: str | None = None,
) -> Comm:
    """Connect to an address such as ``tcp://127.0.0.1:8786``.

    Attempts that fail are repeated until ``timeout`` seconds are over (by default
    ``options.timeouts.connect``); the handshake is part of an attempt. ``security`` has the
    certificates for ``tls://``. Other ``connection_args`` go to the backend.

    Pickles are opened from, and sent to, a peer that is trusted: one that the transport
    knows for ours, or that proved to hold our key (``key``, else $DISTRIBUTED_COMM_KEY, else
    the user's own; empty for none). ``trusted=True`` trusts whoever answers,
    ``trusted=False`` nobody; ``require_trust=True`` refuses a peer that is not trusted.

    Raises ValueError for a malformed address, KeyFileError for an unsafe key file,
    FatalCommClosedError where trying again would not help, and OSError, with the last
    failure as its cause, when time is up.
    """
    scheme, loc = parse_address(addr)
    backend = get_backend(scheme)
    connector = backend.get_connector()
    arguments = _arguments(
        addr,
        backend,
        {**(security.connection_args() if security else {}), **(connection_args or {})},
        trusted=trusted,
        key=key,
        require_trust=require_trust or None,
        options=options,
    )
    if timeout is None:
        timeout = (options or default_options()).timeouts.connect
    comm = await _dial(connector, addr, loc, timeout, deserialize, arguments)
    if name is not None:
        comm.name = name
    return comm


def _arguments(addr: str, backend: Backend, given: dict[str, Any], **own: Any) -> dict[str, Any]:
    """Return what goes to the backend: the mapping, and the arguments that were passed."""
    arguments = given | {key: value for key, value in own.items() if value is not None}
    if arguments.pop("require_encryption", False) and not backend.private:
        raise ValueError(f"{addr!r} is not encrypted, and encryption is required: use tls://")
    if not arguments.get("extra_conn_args", True):
        del arguments["extra_conn_args"]  # what Dask's Security says where it has nothing to say
    if not backend.tls:
        arguments.pop("ssl_context", None)
        arguments.pop("server_hostname", None)
    return arguments


async def _dial(
    connector: Connector,
    addr: str,
    loc: str,
    timeout: float,
    deserialize: bool,
    arguments: dict[str, Any],
) -> Comm:
    """Try until it works or time is up."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout
    cap = timeout / 5  # a first attempt that hangs must not use up everything
    pause = BACKOFF
    cause: OSError = TimeoutError()
    while (now := clock()) < deadline:
        try:
            with timeout_at(min(now + cap, deadline)):
                return await connector.connect(loc, deserialize, **arguments)
        except FatalCommClosedError:
            raise
        except TimeoutError as exc:
            # an attempt that was cut short says less than the others
            if exc.errno is not None or isinstance(cause, TimeoutError):
                cause = exc
        except OSError as exc:
            cause = exc
        left = max(0, deadline - clock())
        await asyncio.sleep(min(left, random.uniform(0, pause)))  # noqa: S311 - jitter
        pause *= 2
        cap *= 1.5
    reason = str(cause) or "no answer"
    if parse_address(addr)[0] == "tcp" and isinstance(cause, CommClosedError):
        reason += "; it may expect tls://, for it has taken the connection and ended it"
    raise OSError(
        f"Timed out trying to connect to {printable(addr)} after {timeout:g} s: {reason}"
    ) from cause


def listen(
    addr: str,
    handle_comm: HandleComm,
    deserialize: bool = True,
    connection_args: Mapping[str, Any] | None = None,
    *,
    trusted: bool | None = None,
    key: str | bytes | None = None,
    require_trust: bool = False,
    security: Security | None = None,
    options: CommOptions | None = None,
    contact_host: str | None = None,
) -> Listener:
    """Return a listener on an address; ``async with`` or ``await`` starts it.

    ``handle_comm``, a function or a coroutine function, is called with the `Comm` of each
    connection once its handshake is done. A port of 0, or none, is chosen when it is
    bound. ``trusted``, ``key`` and ``require_trust`` are those of `connect`, about everybody
    who connects; ``security`` has the certificates for ``tls://``; ``contact_host`` is
    advertised instead of the host that was bound. Other ``connection_args`` go to the
    backend. Raises ValueError for a malformed address, KeyFileError for an unsafe key file.
    """
    scheme, loc = parse_address(addr)
    backend = get_backend(scheme)
    arguments = _arguments(
        addr,
        backend,
        {**(security.listen_args() if security else {}), **(connection_args or {})},
        trusted=trusted,
        key=key,
        require_trust=require_trust or None,
        options=options,
        contact_host=contact_host,
    )
    return backend.get_listener(loc, handle_comm, deserialize, **arguments)


def resolve_address(addr: str) -> str:
    """Replace symbolic names in an address, which may block.

    >>> resolve_address('tcp://localhost:8786')
    'tcp://127.0.0.1:8786'
    """
    scheme, loc = parse_address(addr)
    return unparse_address(scheme, get_backend(scheme).resolve_address(loc))


async def resolve_address_async(addr: str) -> str:
    """Do what `resolve_address` does, without blocking the loop."""
    return await in_thread(NAMES, resolve_address, addr)


def get_address_host(addr: str) -> str:
    """Return the host name or IP address of the machine where an address is.

    >>> get_address_host('tcp://1.2.3.4:80')
    '1.2.3.4'
    """
    scheme, loc = parse_address(addr)
    return get_backend(scheme).get_address_host(loc)


def get_address_host_port(addr: str, strict: bool = False) -> tuple[str, int]:
    """Return host and port; ValueError where the scheme's addresses have none.

    >>> get_address_host_port('tcp://[::1]:80')
    ('::1', 80)
    """
    scheme, loc = parse_address(addr, strict)
    try:
        return get_backend(scheme).get_address_host_port(loc)
    except NotImplementedError:
        raise ValueError(f"{addr!r} has no host and port: {scheme} does not use IP") from None


def get_local_address_for(addr: str) -> str:
    """Return a local address to listen on that is suitable for reaching another.

    >>> get_local_address_for('tcp://127.0.0.1:1234')
    'tcp://127.0.0.1'
    """
    scheme, loc = parse_address(addr)
    return unparse_address(scheme, get_backend(scheme).get_local_address_for(loc))
