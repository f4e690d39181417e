"""A handler's exception is an answer, even if it is of a class that means something to us."""

import asyncio
import traceback

import pytest
from calling import everywhere, serve
from loops import until
from test_odd_exceptions import at_once, coroutine, generator, plain, raising, stream

import distributed_comm as dc
from distributed_comm._calls.remote_errors import RemoteTraceback

ERRORS = [
    dc.CommClosedError("mine", clean=True),
    dc.CommClosedError("mine"),
    dc.FatalCommClosedError("mine"),
    dc.RemoteProtocolError("mine"),
    dc.TLSError("mine"),
    dc.LocalProtocolError("mine"),
    dc.RemoteError("mine"),
    dc.UnserializableError("mine"),
    dc.UntrustedError("mine"),
    dc.KeyFileError("mine"),
    dc.MessageError("mine"),
    OSError("mine"),
    ConnectionResetError("mine"),
    BrokenPipeError("mine"),
    BlockingIOError("mine"),
    TimeoutError("mine"),
    EOFError("mine"),
    NotImplementedError("mine"),
    TypeError("mine"),
    ValueError("mine"),
    MemoryError("mine"),
    RecursionError("mine"),
]


def with_comm(function):
    async def handler(comm):
        await asyncio.sleep(0)
        function()

    return handler


KINDS = [plain, coroutine, at_once, stream, generator, with_comm]


def counted(exc, calls):
    def handler():
        calls.append(exc)
        raise exc

    return handler


async def call(remote, op, kind):
    if kind is not stream:
        return await remote[op]()
    return [item async for item in remote[op].stream()]


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "stranger"])
@pytest.mark.parametrize("kind", KINDS)
@everywhere
def test_it_is_raised_as_it_is_and_ends_and_repeats_nothing(run, where, kind, trusted):
    calls = []
    handlers = {str(n): kind(counted(exc, calls)) for n, exc in enumerate(ERRORS)}

    arrives = trusted or where == "inproc://"

    async def main():
        async with serve(handlers, where, trusted=trusted) as (server, remote):
            await remote.identity()
            for op, exc in zip(handlers, ERRORS, strict=True):
                expected = type(exc) if arrives else dc.RemoteError
                with pytest.raises(expected, match="mine") as info:
                    await asyncio.wait_for(call(remote, op, kind), 10)
                assert type(info.value) is expected
                assert calls == [exc]
                calls.clear()
                if arrives:
                    assert info.value.args == exc.args
                    assert getattr(info.value, "__notes__", []) == []
                    shown = "".join(traceback.format_exception(info.value))
                    assert "counted" in shown or "in handler" in shown
                    assert isinstance(info.value.__cause__, RemoteTraceback)
                assert await remote.echo(data=op) == op
            if kind is not stream:  # which has a comm of its own
                assert remote._own.open == server.incoming_comms_open == 1
            failed = server.stats()["ops"]
            assert {failed[op]["errors"] for op in handlers} == {1}

    run(main())


@everywhere
def test_stop_iteration_ends_none_of_our_loops(run, where):
    handlers = {
        "stop": raising(StopIteration(1)),
        "stop_later": raising(StopAsyncIteration(1)),
        "items": stream(raising(ZeroDivisionError("mine"))),
    }

    async def main():
        async with serve(handlers, where, trusted=True) as (_, remote):
            with pytest.raises(RuntimeError):  # as Python has it of any coroutine
                await remote.stop()
            with pytest.raises(StopAsyncIteration):
                await remote.stop_later()
            for op in ("stop", "stop_later"):
                with pytest.raises(RuntimeError):
                    [item async for item in remote[op].stream()]
            with pytest.raises(ZeroDivisionError):
                [item async for item in remote.items.stream()]
            assert remote._own.open <= 1

    run(main())


def test_one_from_another_server_is_passed_on_as_an_answer(run):
    """Its class reports a closed connection, which is that of a server behind this one."""

    async def main():
        async with serve({}, trusted=True) as (behind, _):
            address = behind.address

            async def forward():
                return await front.rpc(address).echo(data=1)

            async with serve({"forward": forward}, trusted=True) as (front, remote):
                assert await remote.forward() == 1
                await front.rpc.close()  # what it calls is closed, and not what is called here
                with pytest.raises(dc.CommClosedError, match=address):
                    await remote.forward()
                assert await remote.echo(data=1) == 1
                assert remote._own.open == front.incoming_comms_open == 1

    run(main())


@everywhere
def test_a_handler_whose_own_connection_has_ended_is_no_error_in_the_log(run, where, caplog):
    async def wait(comm):
        await comm.write("waits")
        await comm.read()

    async def main():
        async with serve({"wait": wait}, where) as (server, _):
            comm = await dc.connect(server.address)
            await comm.write({"op": "wait"})
            assert await comm.read() == "waits"
            comm.abort()
            await until(lambda: server.stats()["ops"]["wait"]["errors"])
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []

    run(main())


class Odd(dict):
    """A result that raises a connection's error while it is encoded."""

    def keys(self):
        raise ConnectionResetError("mine")

    __iter__ = keys

    def __reduce_ex__(self, protocol):
        raise ConnectionResetError("mine")


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "stranger"])
def test_a_result_that_fails_like_a_connection_is_an_error_of_its_call(run, trusted):
    async def later():
        await asyncio.sleep(0)
        return Odd(a=1)

    async def many():
        yield 1
        yield Odd(a=1)

    handlers = {"now": lambda: Odd(a=1), "later": later, "many": many}

    async def main():
        async with serve(handlers, trusted=trusted) as (server, remote):
            for op in ("now", "later"):
                with pytest.raises((dc.RemoteError, TypeError), match="mine"):
                    await asyncio.wait_for(remote[op](), 10)
            with pytest.raises(dc.UnserializableError, match="mine"):
                await remote.echo(data=Odd(a=1))
            assert remote._own.open == server.incoming_comms_open == 1
            stream = remote.many.stream()
            assert await anext(stream) == 1
            with pytest.raises((dc.RemoteError, TypeError), match="mine"):
                await anext(stream)

    run(main())


def test_a_text_that_utf_8_does_not_have_arrives_as_far_as_it_can(run):
    async def main():
        async with serve({"fail": raising(ValueError("lone \ud800"))}) as (_, remote):
            with pytest.raises(dc.RemoteError, match=r"^ValueError: lone \\ud800$"):
                await remote.fail()

    run(main())
