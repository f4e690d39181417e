"""A connection that has received this and that, and what it says of its end."""

import pytest

from distributed_comm._wire import hello
from distributed_comm._wire.connection import Connection
from distributed_comm._wire.hello import Hello
from distributed_comm._wire.peer_limits import accepted
from distributed_comm.errors import CommClosedError
from distributed_comm.options import Limits

from .feeding import SCRATCH, feed
from .hostile import honest

LOCAL, PEER = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2"
ENDS = f": {LOCAL} -> {PEER}"

DASKS = honest([hello.encode(Hello(None, (3, 11, 7), 4, None))])
GOODBYE = honest([b"\xc7\x01\xbc\x01"])
PING, PONG = honest([b"\xc7\x01\xbc\x02"]), honest([b"\xc7\x01\xbc\x03"])
A, B = honest([b"a"]), honest([b"b", b"bb"])
LIMITS = Limits(message=1000, frames=9)
OURS = honest([hello.encode(hello.local_hello())])
SENT = honest([hello.encode(hello.local_hello(terms=accepted(LIMITS)))])

each_peer = pytest.mark.parametrize("greeting", [OURS, DASKS], ids=["ours", "dask"])


def connect(*received, limits=LIMITS, proving=None):
    """Return a connection that has received this, and no message with it."""
    connection = Connection(SCRATCH, limits, LOCAL, PEER, proving=proving)
    assert feed(connection, b"".join(received)) == []
    return connection


def check_end(connection, text, *, clean=False, kind=CommClosedError, cause=None):
    """Check the exception for whoever uses the connection now."""
    error = connection.closed_error()
    assert type(error) is kind
    assert str(error) == text + ENDS
    assert error.clean is clean
    assert isinstance(error.__cause__, cause or type(None))
    assert connection.closed_error() is not error  # a traceback for everybody who asks
