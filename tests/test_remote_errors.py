"""An exception of a handler at its caller: the same one with trust, its text without."""

import asyncio
import copyreg
import pickle
import traceback

import pytest
from calling import dial, everywhere, serve
from lying import liar

import distributed_comm as dc
from distributed_comm._calls.remote_errors import LARGE_PICKLE, RemoteTraceback
from distributed_comm._envelope import ERROR
from distributed_comm._text import printable


@pytest.fixture(autouse=True)
def _without_tblib(monkeypatch):
    """Undo what Dask does to the pickles of exceptions, once it is imported in this process."""
    for kind in [kind for kind in copyreg.dispatch_table if issubclass(kind, BaseException)]:
        monkeypatch.delitem(copyreg.dispatch_table, kind)


class Refused(Exception):
    """An exception with a constructor and attributes of its own."""

    def __init__(self, what, *, code=7):
        super().__init__(what)
        self.code = code


class Demanding(Exception):
    """One that cannot be made from its args, as many cannot."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class Locked(Exception):
    def __reduce__(self):
        raise TypeError("no pickle of this")


class Evil(Exception):
    def __reduce__(self):
        return RuntimeError, ("somebody else",)


def refuse(what):
    error = Refused(what, code=404)
    error.add_note("a note")
    try:
        {}["missing"]
    except KeyError as cause:
        raise error from cause


async def refuse_later(what):
    await asyncio.sleep(0)
    refuse(what)


def raising(exc):
    def handler():
        raise exc

    return handler


async def stumble():
    yield 1
    refuse("halfway")


async def caught(call, kind=Exception):
    """Return what a call raises."""
    with pytest.raises(kind) as info:
        await call
    return info.value


@pytest.mark.parametrize("op", ["refuse", "refuse_later"])
@everywhere
def test_it_is_the_same_exception_with_trust(run, where, op, kernels):
    async def main():
        handlers = {"refuse": refuse, "refuse_later": refuse_later}
        async with serve(handlers, where, trusted=True) as (_, remote):
            error = await caught(getattr(remote, op)(what="you"), Refused)
            assert (error.args, error.code, error.__notes__) == (("you",), 404, ["a note"])
            assert repr(error.__cause__) == "KeyError('missing')"
            first = error.__cause__.__cause__
            assert isinstance(first, RemoteTraceback)
            shown = "".join(traceback.format_exception(error))
            assert shown.index("in refuse") < shown.index("KeyError") < shown.index("Refused: you")
            assert "_calls/session.py" not in str(first)
            assert remote._own.open == 1

    run(main())


def test_it_is_its_text_without_trust(run):
    async def main():
        async with serve({"refuse": refuse}) as (server, remote):
            error = await caught(remote.refuse(what="you"), dc.RemoteError)
            assert str(error).endswith(r"Refused: you\na note")  # in one line
            assert error.__cause__ is None  # where in the server's files is not a stranger's
            async with dial(server) as comm:
                await comm.write({"op": "refuse", "what": "you"})
                reply = await comm.read()
                assert reply["exception"] == reply["exception_text"]
                assert printable(reply["exception_text"]) == str(error)
                assert not reply["traceback_text"]

    run(main())


def test_a_pickle_from_a_server_that_is_not_trusted_is_not_opened(run):
    async def main():
        async with (
            serve({"refuse": refuse}, trusted=True) as (server, _),
            dc.rpc(server.address) as remote,
        ):
            error = await caught(remote.refuse(what="you"), dc.RemoteError)
            assert str(error).endswith(r"Refused: you\na note")

    run(main())


def note(what):
    opened.append(what)
    return KeyError(what)


class Opened(Exception):
    def __reduce__(self):
        return note, ("a pickle",)


opened = []


def test_neither_it_nor_its_causes_are_opened_where_nothing_is(run):
    async def main():
        reply = {
            "status": "uncaught-error",
            "exception": pickle.dumps(Opened()),
            "exception_text": "as text",
            "causes": [pickle.dumps(Opened()), pickle.dumps(KeyError(1))],
        }
        async with (
            liar((ERROR, reply)) as listener,
            dc.rpc(listener.contact_address, trusted=True, deserialize=False) as remote,
        ):
            error = await caught(remote.fail(), dc.RemoteError)
            assert (str(error), error.__cause__, opened) == ("as text", None, [])

    run(main())


@pytest.mark.parametrize(
    "error",
    [
        Demanding("this", "that"),
        Locked("closed"),
        Evil("evil"),
        ValueError("x" * LARGE_PICKLE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_one_that_does_not_survive_its_pickle_arrives_as_text(run, error):
    async def main():
        async with serve({"fail": raising(error)}, trusted=True) as (_, remote):
            got = await caught(remote.fail(), dc.RemoteError)
            text = f"{type(error).__name__}: {error}"
            assert text[:100] in str(got)
            assert len(str(got)) < 30_000
            assert isinstance(got.__cause__, RemoteTraceback)
            assert await remote.echo(data=1) == 1

    run(main())


def test_one_of_main_or_of_a_local_class_arrives_too(run):
    class Local(Exception):
        pass

    async def main():
        async with serve({"fail": raising(Local(3))}, trusted=True) as (_, remote):
            error = await caught(remote.fail())
            assert (type(error).__name__, error.args) == ("Local", (3,))

    run(main())


def test_an_exception_that_is_none_of_exception_stays_text(run):
    async def cancelled():
        raise asyncio.CancelledError

    async def main():
        async with serve({"fail": cancelled}, trusted=True) as (_, remote):
            error = await caught(remote.fail(), dc.RemoteError)
            assert str(error) == "fail: cancelled at the server"
            assert await remote.echo(data=1) == 1

    run(main())


class Exits(Exception):
    def __reduce__(self):
        return SystemExit, (3,)


def test_a_reply_does_not_end_the_callers_process(run):
    async def main():
        reply = {
            "status": "uncaught-error",
            "exception": pickle.dumps(Exits()),
            "exception_text": "as text",
        }
        async with (
            liar((ERROR, reply)) as listener,
            dc.rpc(listener.contact_address, trusted=True) as remote,
        ):
            error = await caught(remote.fail(), dc.RemoteError)
            assert str(error) == "as text"

    run(main())


@everywhere
def test_a_stream_that_fails_raises_at_its_reader(run, where):
    async def main():
        async with serve({"stumble": stumble}, where, trusted=True) as (_, remote):
            got = []

            async def follow():
                async for item in remote.stumble.stream():
                    got.append(item)  # noqa: PERF401

            assert (await caught(follow(), Refused)).args == ("halfway",)
            assert got == [1]

    run(main())


def test_an_error_of_a_third_server_is_passed_on(run):
    async def main():
        async with serve({"refuse": refuse}, trusted=True) as (last, _):

            async def forward(what):
                return await middle.rpc(last.address).refuse(what=what)

            async with serve({"forward": forward}, trusted=True) as (middle, remote):
                error = await caught(remote.forward(what="you"), Refused)
                shown = "".join(traceback.format_exception(error))
                assert "in forward" in shown
                assert "in refuse" in shown

    run(main())


def test_a_circle_of_causes_and_a_very_long_text_are_cut(run):
    def circle():
        first, second = ValueError("é" * 100_000), ValueError(2)
        first.__cause__, second.__cause__ = second, first
        raise first

    async def main():
        async with serve({"circle": circle}, trusted=True) as (_, remote):
            error = await caught(remote.circle(), ValueError)
            assert error.args == ("é" * 100_000,)

    run(main())
