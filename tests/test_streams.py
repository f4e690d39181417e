"""The interface of the first generation, as its document shows it: awaited, and yielded."""

import asyncio

import pytest
from loops import until

import distributed_comm as dc
from distributed_comm._kernels import sentinel_py
from distributed_comm.streams import Server, connect, read, rpc, write

gen = pytest.importorskip("tornado.gen")


# -- awaited --------------------------------------------------------------------------------


def add(stream, x=None, y=None):  # simple handler, just a function
    return x + y


async def stream_data(stream, interval=1):  # complex handler, multiple responses
    data = 0
    while True:
        await asyncio.sleep(interval)
        data += 1
        await write(stream, data)


def pingpong(stream):
    return b"pong"


def test_the_four_examples_awaited(run, kernels):
    async def main():
        async with Server({"add": add, "stream": stream_data, "ping": pingpong}) as s:
            s.listen(0)
            assert s.address.startswith("sentinel://")

            async def f():
                stream = await connect("", s.port)
                await write(stream, {"op": "add", "x": 1, "y": 2})
                result = await read(stream)
                await stream.close()
                return result

            assert await f() == 3

            async def g():
                results = []
                stream = await connect("", s.port)
                await write(stream, {"op": "stream", "interval": 0.001})
                while len(results) < 5:
                    result = await read(stream)
                    results.append(result)
                stream.abort()
                return results

            assert await g() == [1, 2, 3, 4, 5]

            async def h():
                r = rpc(ip="", port=s.port)
                result = await r.add(x=1, y=2)
                assert await r.ping() == b"pong"
                await asyncio.gather(*r.close_streams())
                return result

            assert await h() == 3
            await until(lambda: not s.incoming_comms_open)

    run(main())


# -- yielded --------------------------------------------------------------------------------


@gen.coroutine
def tornado_stream_data(stream, interval=1):
    data = 0
    while True:
        yield gen.sleep(interval)
        data += 1
        yield write(stream, data)


def undecorated_stream_data(stream, interval=1):  # as the document has it
    data = 0
    while True:
        yield gen.sleep(interval)
        data += 1
        yield write(stream, data)


@gen.coroutine
def tornado_wait(stream, x):
    yield gen.sleep(0)
    return x


def catches(stream):
    """A generator that is told what became of what it yielded."""
    try:
        yield connect("", 1, timeout=0.01)
    except OSError as exc:
        return type(exc).__name__, (yield asyncio.sleep(0, "slept"))


@pytest.mark.parametrize("stream_data", [tornado_stream_data, undecorated_stream_data])
def test_the_four_examples_in_tornado_coroutines(run, stream_data):
    @gen.coroutine
    def main():
        handlers = {"add": add, "stream": stream_data, "wait": tornado_wait, "catches": catches}
        s = Server(handlers)
        yield s.listen(("127.0.0.1", 0))

        @gen.coroutine
        def f():
            stream = yield connect("", s.port)
            yield write(stream, {"op": "add", "x": 1, "y": 2})
            result = yield read(stream)
            yield stream.close()
            return result

        assert (yield f()) == 3

        @gen.coroutine
        def g():
            results = []
            stream = yield connect("", s.port)
            yield write(stream, {"op": "stream", "interval": 0.001})
            while len(results) < 5:
                results.append((yield read(stream)))
            stream.abort()
            return results

        assert (yield g()) == [1, 2, 3, 4, 5]

        @gen.coroutine
        def h():
            r = rpc(ip="", port=s.port)
            result = yield r.add(x=1, y=2)
            assert (yield r.wait(x=5)) == 5
            assert (yield r.catches()) == ("OSError", "slept")
            yield r.close_streams()
            return result

        assert (yield h()) == 3
        yield s.close()

    async def awaited():
        await main()

    run(awaited())


def test_the_arguments_of_a_server_keep_their_order(run):
    async def main():
        async with Server({"ping": pingpong}, 100_000.0) as s:
            s.listen(("127.0.0.1", 0))
            async with rpc(s.address) as r:
                assert await r.ping() == b"pong"
                with pytest.raises(dc.MessageError, match="accepts at most 100000"):
                    await r.echo(data=bytes(200_000))
                assert await r.ping() == b"pong"

    run(main())


# -- what holds besides -----------------------------------------------------------------------


def test_a_payload_may_hold_the_sentinel(run, kernels):
    async def main():
        async with Server() as s:
            s.listen(("127.0.0.1", 0))
            async with rpc(s.address) as r, rpc(addr=("127.0.0.1", s.port)) as other:
                for data in (sentinel_py.SENTINEL, sentinel_py.SENTINEL * 9, b"7d6295" * 99):
                    assert await r.echo(data=data) == data
                    assert await other.echo(data=data) == data

    run(main())


def test_a_stream_and_a_comm_do_not_understand_each_other_and_say_so(run):
    async def main():
        options = dc.CommOptions(timeouts=dc.Timeouts(handshake=0.1))
        async with Server(options=options) as s:
            s.listen(("127.0.0.1", 0))
            async with dc.rpc(f"tcp://127.0.0.1:{s.port}") as remote:
                with pytest.raises(dc.CommClosedError, match="protocol error"):
                    await remote.identity()

    run(main())
