"""Errors that are hard to tell: texts that are no UTF-8, endless or missing, odd exceptions."""

import asyncio
import logging
import sys

import pytest
from calling import dial, serve
from test_odd_exceptions import at_once, call, coroutine, generator, plain, raising, stream

import distributed_comm as dc
from distributed_comm._calls.remote_errors import LARGE_PICKLE, pack_error, told_briefly
from distributed_comm._comm import ChannelComm
from distributed_comm._envelope import ERROR
from distributed_comm._logs import Log
from distributed_comm._serialize.tags import MARK
from distributed_comm._text import LONG_TEXT

#: What becomes of a file name that is no UTF-8.
NAME = "caf\udce9"
SHOWN = "caf\\udce9"


def noted(exc, *notes):
    exc.__notes__ = list(notes)
    return exc


def caused(exc, cause):
    exc.__cause__ = cause
    return exc


def fail_in_a_file():
    exec(compile(f"raise KeyError({NAME!r})", f"{NAME}.py", "exec"), {})


class Blocked(Exception):
    """One whose parts raise what ends a program."""

    def stop(self, *_):
        raise SystemExit(NAME)

    __notes__ = __context__ = __traceback__ = property(stop)


class Unpicklable(Exception):
    def __reduce_ex__(self, _):
        raise SystemExit(NAME)


class Endless(Exception):
    """One that is pickled for ever."""

    def __reduce_ex__(self, _):
        return list, (), None, iter(int, 1)


def nameless():
    class Meta(type):
        @property
        def __module__(cls):
            raise ValueError(NAME)

    class Nameless(Exception, metaclass=Meta):
        pass

    return Nameless(NAME)


def nested(levels):
    exc = ValueError(NAME)
    for _ in range(levels):
        exc = ExceptionGroup(NAME, [exc, noted(KeyError(NAME), NAME)])
    return exc


#: What is raised, its class at a trusted caller, and what a stranger reads of it.
RAISE = {
    "text": (ValueError(NAME), ValueError, SHOWN),
    "key": (KeyError({NAME: [NAME]}), KeyError, SHOWN),
    "file": (FileNotFoundError(2, "none", NAME), FileNotFoundError, SHOWN),
    "note": (noted(ValueError("x"), NAME), ValueError, SHOWN),
    "notes": (noted(ValueError("x"), NAME, 5, None, b"\xff"), ValueError, SHOWN),
    "cause": (caused(ValueError("x"), KeyError(NAME)), ValueError, "x"),
    "group": (nested(2), ExceptionGroup, SHOWN),
    "deep": (nested(3_000), dc.RemoteError, SHOWN),
    "said": (dc.RemoteError(NAME), dc.RemoteError, SHOWN),
    "blocked": (Blocked(NAME), Blocked, "Blocked"),
    "unpicklable": (Unpicklable(NAME), dc.RemoteError, SHOWN),
    "endless": (Endless(NAME), dc.RemoteError, SHOWN),
    "nameless": (nameless(), dc.RemoteError, SHOWN),
    "source": (fail_in_a_file, KeyError, SHOWN),
}

everywhere = pytest.mark.parametrize(
    "where", ["tcp://127.0.0.1:0", "sentinel://127.0.0.1:0", "unix", "inproc://"]
)


def place(where, folders):
    return where if where != "unix" else f"unix://{folders.mktemp('untold')}/socket"


@pytest.fixture
def written(tmp_path):
    """Have the log written to a file, strictly, and return a function that reads it."""
    failed = []
    handler = logging.FileHandler(tmp_path / "log", encoding="utf-8", errors="strict")
    handler.handleError = failed.append
    logger = logging.getLogger("distributed_comm")
    logger.addHandler(handler)
    try:
        yield (tmp_path / "log").read_text
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert not failed


def with_comm(function):
    async def handler(comm):
        function()

    return handler


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("kind", [plain, coroutine, at_once, stream, generator, with_comm])
@everywhere
def test_every_error_is_told(run, where, kind, trusted, written, tmp_path_factory):
    async def main():
        raised = {op: each if callable(each) else raising(each) for op, (each, *_) in RAISE.items()}
        handlers = {op: kind(function) for op, function in raised.items()}
        address = place(where, tmp_path_factory)
        async with serve(handlers, address, trusted=trusted) as (server, remote):
            for op, (exc, expected, shown) in RAISE.items():
                async with asyncio.timeout(10):
                    with pytest.raises(Exception) as info:  # noqa: PT011
                        await call(remote, op, kind)
                assert await remote.echo(data=op) == op
                if not trusted and where != "inproc://":
                    assert type(info.value) is dc.RemoteError
                    assert shown in str(info.value)
                    continue
                assert type(info.value) is expected
                if expected is dc.RemoteError and op != "said":
                    assert shown in str(info.value)
                elif isinstance(exc, Exception):
                    assert repr(info.value.args) == repr(exc.args)
                    if op != "blocked":
                        assert getattr(info.value, "__notes__", None) == getattr(
                            exc, "__notes__", None
                        )
            if kind is not stream:  # which has a comm of its own
                assert remote._own.open == server.incoming_comms_open == 1

    run(main())
    assert SHOWN in written()


@pytest.mark.parametrize("trusted", [False, True])
def test_a_result_that_cannot_be_encoded_is_an_error_that_says_why(run, trusted):
    async def later():
        return {NAME: 1}

    async def items():
        yield 1
        yield NAME

    async def write(comm):
        await comm.write(NAME)

    async def main():
        handlers = {"plain": lambda: NAME, "later": later, "items": items, "write": write}
        async with serve(handlers, trusted=trusted) as (_, remote):
            for op in handlers:
                with pytest.raises((ValueError, dc.RemoteError), match="surrogates not allowed"):
                    await call(remote, op, stream if op == "items" else plain)
            with pytest.raises(ValueError, match="surrogates not allowed"):
                await remote.echo(data=NAME)
            with pytest.raises(ValueError, match="surrogates not allowed"):
                await remote[NAME]()
            assert await remote.echo(data=1) == 1

    run(main())


@pytest.mark.parametrize("exc", [ValueError, ExceptionGroup], ids=["text", "group"])
def test_the_reply_to_a_huge_error_is_short(exc):
    huge = "é\udce9" * 5_000_000
    error = exc(huge, [KeyError(huge)]) if exc is ExceptionGroup else exc(huge)
    reply = pack_error(caused(noted(error, huge), KeyError(huge)), True)
    assert sum(len(str(value)) for value in reply.values()) < 4 * LONG_TEXT
    causes = pack_error(caused(ValueError(1), chain(16, "x" * 300_000)), True)["causes"]
    assert 1 < len(causes) < 5
    assert sum(map(len, causes)) <= LARGE_PICKLE


def chain(length, text):
    exc = ValueError(text)
    for _ in range(length):
        exc = caused(ValueError(text), exc)
    return exc


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("kind", [plain, coroutine, stream])
def test_an_error_is_never_answered_by_another(run, kind, later, monkeypatch, caplog):
    """A short text is sent instead of an error that cannot be sent, once; then that was all."""
    send = ChannelComm.send
    tried, refused = [], [ERROR]

    def fail_to_send(self, msg, serializers=None, head=None):
        if head not in refused or (len(refused) == 1 and msg == told_briefly(msg)):
            return send(self, msg, serializers, head)
        tried.append(msg)
        if later:
            return fail_late()
        raise ValueError("it cannot be encoded")

    async def fail_late():
        await asyncio.sleep(0)
        raise ValueError("it cannot be encoded")

    async def main():
        async with serve({"fail": kind(raising(KeyError(NAME)))}, trusted=True) as (_, remote):
            monkeypatch.setattr(ChannelComm, "send", fail_to_send)
            with pytest.raises(dc.RemoteError, match=r"^KeyError: .*caf.+udce9"):
                await call(remote, "fail", kind)
            assert await remote.echo(data=1) == 1
            assert len(tried) == 1
            refused.append(None)  # nothing of the kind can be sent
            with pytest.raises(dc.CommClosedError):
                await call(remote, "fail", kind)
            assert len(tried) == 3
            assert await remote.echo(data=2) == 2

    run(main())
    assert "cannot even be told" in caplog.text


def test_an_error_that_is_too_long_for_its_caller_arrives_as_a_short_text(run):
    options = dc.CommOptions(limits=dc.Limits(message=10_000))

    async def main():
        handlers = {"fail": plain(raising(ValueError("on purpose", bytes(100_000))))}
        async with (
            serve(handlers, trusted=True) as (server, _),
            dc.rpc(server.address, trusted=True, options=options) as remote,
        ):
            with pytest.raises(dc.RemoteError, match=r"^ValueError: \('on purpose', b'.*more$"):
                await remote.fail()
            assert await remote.echo(data=1) == 1

    run(main())


def test_a_log_line_of_an_exception_that_is_no_text_is_escaped(caplog, written):
    Log().failure("it failed", exc=caused(ValueError(NAME), KeyError("x" * 1_000_000)))
    Log().line(logging.ERROR, "it %s", noted(ValueError(NAME), NAME))
    assert SHOWN in written()
    assert len(written()) < 2 * LONG_TEXT
    Log().failure("as usual", exc=ValueError("plain"))
    assert [bool(record.exc_info) for record in caplog.records] == [False, False, True]


# -- the end of the connection -------------------------------------------------------------


def deep(levels=600):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
@everywhere
def test_arguments_that_cannot_be_opened_leave_the_connection(run, where, tmp_path_factory):
    async def main():
        async with serve({}, place(where, tmp_path_factory)) as (server, remote):
            for turn in range(5):
                if where == "inproc://":
                    await remote.echo(data=deep())
                else:
                    with pytest.raises(dc.RemoteError, match="nested deeper"):
                        await remote.echo(data=deep())
                assert await remote.echo(data=turn) == turn
                assert remote._own.open == server.incoming_comms_open == 1

    run(main())


@pytest.mark.parametrize("head", [b"", MARK + b"\x01 no request"], ids=["dask", "malformed"])
def test_an_error_behind_which_the_server_closes_says_so(run, head):
    async def main():
        async with serve({}) as (server, _), dial(server) as comm:
            rest = comm.send({"op": "echo", "data": deep()} if not head else {}, None, head)
            assert rest is None
            answered, reply, error = await comm.read_enveloped()
            assert (answered, error) == (ERROR if head else None, None)
            assert "the connection ends behind this error" in reply["exception_text"]
            assert reply["ends"]
            with pytest.raises(dc.CommClosedError):
                await comm.read()

    run(main())


@everywhere
@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
def test_a_comm_whose_server_closes_behind_an_error_does_not_go_back(run, where, tmp_path_factory):
    async def main():
        async def fail():
            began.set()
            await go.wait()
            raise KeyError(1)

        began, go = asyncio.Event(), asyncio.Event()
        async with serve({"fail": fail}, place(where, tmp_path_factory)) as (server, remote):
            failing = asyncio.ensure_future(remote.fail())
            await began.wait()
            closing = asyncio.ensure_future(server.close(grace=20))
            await asyncio.sleep(0)
            go.set()
            with pytest.raises((KeyError, dc.RemoteError), match="1"):
                await failing
            assert remote._own.open == 0
            await closing

    run(main())
