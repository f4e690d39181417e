"""Whatever a handler raises, of whichever kind it is: its caller hears of it, the comm goes on."""

import asyncio
import dataclasses
import signal
import sys

import numpy as np
import pytest
from calling import dial, everywhere, serve

import distributed_comm as dc
from distributed_comm._calls.remote_errors import pack_error, unpack_error


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int

    def __reduce__(self):
        return Frozen, (self.code,)


class Sealed(Exception):
    def __setattr__(self, name, value):
        raise RuntimeError("nothing can be set")


class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")

    __repr__ = __str__


class Opaque(Exception):
    """One whose very cause cannot be looked at."""

    @property
    def __cause__(self):
        raise ValueError("nobody knows")


def cancelled():
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    future.result()


def raising(exc):
    def handler():
        raise exc

    return handler


RAISE = {
    "frozen": raising(Frozen(3)),
    "sealed": raising(Sealed("sealed")),
    "mute": raising(Mute()),
    "opaque": raising(Opaque()),
    "cancelled": cancelled,
    "exit": raising(GeneratorExit()),
    "base": raising(BaseException("none of the usual")),
}


def plain(function):
    return function


def coroutine(function):
    async def handler():
        await asyncio.sleep(0)
        function()

    return handler


def at_once(function):
    async def handler():
        function()

    return handler


def stream(function):
    async def handler():
        yield "first"
        function()

    return handler


def generator(function):
    def handler():
        yield asyncio.sleep(0)
        function()

    return handler


async def call(remote, op, kind):
    if kind is stream:
        return [item async for item in getattr(remote, op).stream()]
    return await getattr(remote, op)()


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("kind", [plain, coroutine, at_once, stream, generator])
@everywhere
def test_every_exception_is_an_error_of_its_call(run, where, kind, trusted):
    async def main():
        handlers = {op: kind(function) for op, function in RAISE.items()}
        async with serve(handlers, where, trusted=trusted) as (server, remote):
            for op in RAISE:
                async with asyncio.timeout(10):
                    with pytest.raises((dc.RemoteError, Frozen, Sealed, Mute, Opaque)):
                        await call(remote, op, kind)
                assert await remote.echo(data=op) == op
            assert server.stats()["ops"]["frozen"]["errors"] == 1
            if kind is not stream:  # which has a comm of its own
                assert remote._own.open == server.incoming_comms_open == 1

    run(main())


@everywhere
def test_what_was_cancelled_at_the_server_is_said_so(run, where):
    async def main():
        handlers = {"plain": cancelled, "later": coroutine(cancelled)}
        async with serve(handlers, where) as (_, remote):
            for op in handlers:
                with pytest.raises(dc.RemoteError, match=f"{op}: cancelled at the server"):
                    await getattr(remote, op)()

    run(main())


def test_an_exception_that_refuses_attributes_arrives_with_its_causes(run):
    def fail():
        raise Frozen(1) from Frozen(2)

    async def main():
        async with serve({"fail": fail}, trusted=True) as (server, remote):
            with pytest.raises(Frozen) as info:
                await remote.fail()
            assert (info.value.code, info.value.__cause__.code) == (1, 2)
            async with dial(server, trusted=True) as comm:
                reply = pack_error(Frozen(5), True)
                reply["traceback_text"] = "the trace"
                assert "the trace" in str(unpack_error(reply, comm).__cause__)

    run(main())


PROGRAM = """
import asyncio, sys
import distributed_comm as dc

def plain(): raise {0}
async def later(): raise {0}
async def items():
    yield 1
    raise {0}

async def main():
    server = dc.Server({{"plain": plain, "later": later, "items": items}})
    await server.listen(sys.argv[1])
    print(server.address, flush=True)
    if sys.argv[1] == "inproc://":
        remote = dc.rpc(server.address)
        try:
            await getattr(remote, sys.argv[2])()
        except dc.RemoteError as exc:
            print(exc, flush=True)
    await server.finished()

loop = {{"asyncio": asyncio.new_event_loop, "uvloop": None}}[sys.argv[3]]
try:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main()) if loop else dc.run(main())
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a signal")
@pytest.mark.parametrize("exc", ["SystemExit(7)", "KeyboardInterrupt"])
@pytest.mark.parametrize("op", ["plain", "later", "items"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_ends_a_process_does_so_once_its_caller_was_told(op, exc, loop):
    async def main():
        command = [sys.executable, "-c", PROGRAM.format(exc), "tcp://127.0.0.1:0", op, loop]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            address = (await process.stdout.readline()).decode().strip()
            async with dc.rpc(address) as remote, asyncio.timeout(20):
                with pytest.raises(dc.RemoteError, match=exc.partition("(")[0]):
                    await call(remote, op, stream if op == "items" else plain)
                assert await process.wait() == 7
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()

    asyncio.run(main())


class Unsendable:
    """A result whose serializing raises this."""

    def __init__(self, exc):
        self._exc = exc

    def __reduce__(self):
        raise self._exc


@pytest.mark.parametrize(
    "exc", [asyncio.CancelledError(), GeneratorExit(), BaseExceptionGroup("", [SystemExit()])],
    ids=lambda exc: type(exc).__name__,
)  # fmt: skip
def test_a_result_that_cannot_be_sent_is_an_error_of_its_call(run, exc):
    async def later():
        return Unsendable(exc)

    async def main():
        handlers = {"plain": lambda: Unsendable(exc), "later": later}
        async with (
            serve(handlers, trusted=True) as (server, _),
            dial(server, trusted=True) as comm,
        ):
            for op in handlers:
                await comm.write({"op": op, "reply": True})
                await comm.write({"op": "echo", "data": 1, "reply": True})
                assert "cannot be sent" in str(await comm.read())
                assert await comm.read() == 1

    run(main())


class NoTruth:
    def __bool__(self):
        raise ValueError("neither true nor false")

    __eq__ = __hash__ = __repr__ = __bool__


@pytest.mark.parametrize("key", ["op", "reply", "close"])
@pytest.mark.parametrize("value", [np.arange(3), NoTruth()], ids=["array", "object"])
@everywhere
def test_an_envelope_without_truth_is_an_error_at_its_caller(run, where, key, value):
    async def main():
        async with (
            serve({}, where, trusted=True, blocked_handlers=["blocked"]) as (server, _),
            dial(server, trusted=True) as comm,
        ):
            await comm.write({"op": "echo", "data": 1, "reply": True, key: value})
            answer = await comm.read()
            assert answer["status"] == "uncaught-error"
            await comm.write({"op": "echo", "data": 2, "reply": True})
            assert await comm.read() == 2

    run(main())
