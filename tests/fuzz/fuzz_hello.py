"""The hello of a stranger: it is one, or a ValueError says why not."""

import msgpack

from distributed_comm._wire import hello
from distributed_comm._wire.hello import Hello, decode, encode, local_hello
from distributed_comm._wire.peer_limits import accepted
from distributed_comm.options import Limits

from .comparing import pure_kernels
from .costing import spend


def seeds() -> list[bytes]:
    """Return our hellos, a Dask peer's, and what looks like one."""
    wrong = [{"python": [3, "11"]}, {"pickle-protocol": -1, "compression": ["lz4"]}, ["hello"]]
    return [
        encode(local_hello()),
        encode(local_hello(("lz4", "zstd"), bytes(hello.NONCE), "tcp://127.0.0.1:8786")),
        encode(local_hello(terms=accepted(Limits(message=2**40)))),
        encode(Hello("lz4", (3, 11, 7), 4, None)),
        *map(msgpack.packb, wrong),
        msgpack.packb({"pickle-protocol": 5, hello.OURS: {"nonce": b"", "endpoint": 1}}),
        msgpack.packb({"pickle-protocol": 5, hello.OURS: {"limits": [[1, 2, 3], [1, -2, "3"]]}}),
    ]


def check(data: bytes) -> None:
    heard = spend(len(data), lambda: _outcome(data))
    with pure_kernels():
        assert repr(_outcome(data)) == repr(heard)
    if isinstance(heard, Hello):
        _use(heard)
        again = encode(heard)
        assert repr(decode(again)) == repr(heard)
        assert encode(decode(again)) == again


def _outcome(data: bytes) -> Hello | str:
    try:
        return decode(data)
    except ValueError as exc:
        return str(exc)


def _use(heard: Hello) -> None:
    """Ask all that a connection asks of a hello."""
    assert heard.best_codec(("lz4", "zstd")) in {"lz4", "zstd", None}
    assert heard.nonce is None or len(heard.nonce) == hello.NONCE
    assert heard.endpoint is None or isinstance(heard.endpoint, str)
    assert heard.typed in {True, False}
    assert heard.says_goodbye in {True, False}
    assert 0 <= heard.pickle_protocol <= hello.PICKLE_PROTOCOL
    assert all(0 <= terms.short < 2**63 for terms in heard.terms or ())
