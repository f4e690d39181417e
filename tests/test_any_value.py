"""Whatever a handler returns or yields arrives as that value, whatever it looks like."""

import asyncio
import sys
from contextlib import AsyncExitStack

import pytest
from hypothesis import example, given, settings
from loops import LOOPS
from values import LOOKALIKES, opened, values

import distributed_comm as dc

WHERE = ["tcp://127.0.0.1:0", "sentinel://127.0.0.1:0", "certified://127.0.0.1:0", "inproc://"]
if sys.platform == "linux":
    WHERE.append("unix://@distributed_comm-any-value")


def send(key, value):
    STORE[key] = value


def get(key):
    return STORE[key]


async def get_later(key):
    await asyncio.sleep(0)
    return STORE[key]


def get_driven(key):
    yield asyncio.sleep(0)
    return STORE[key]


async def items(key):
    yield STORE[key]
    await asyncio.sleep(0)
    yield [STORE[key]]
    yield STORE[key]


async def write(comm, key):
    """Reply by hand, as a handler may that takes the connection."""
    await comm.write(STORE[key])
    return dc.NO_REPLY


async def write_many(comm, key):
    for _ in range(2):
        await comm.write(STORE[key])
    return dc.Status.dont_reply


STORE = {}
HANDLERS = [send, get, get_later, get_driven, items, write, write_many]


def same(got, sent):
    """Whether two values are equal, and of the same types."""
    if type(got) is not type(sent) or got != sent:
        return False
    if type(got) in {list, tuple}:
        return all(map(same, got, sent))
    if type(got) is dict:
        return all(same(got[key], sent[key]) for key in sent)
    return True


async def exchange(remote, value):
    await remote.send(key=1, value=value)
    assert same(STORE[1], value)  # it arrived as an argument …
    for op in ("get", "get_later", "get_driven", "write"):
        assert same(await remote[op](key=1), value), op
    assert same([item async for item in remote.items.stream(key=1)], [value, [value], value])
    assert same([item async for item in remote.write_many.stream(key=1)], [value, value])
    assert same([item async for item in remote.get.stream(key=1)], [value])
    async with await dc.connect(remote.address, **remote._own._arguments) as comm:
        assert same(await dc.send_recv(comm, op="get", key=1), value)
        await comm.write({"op": "get", "key": 1})  # by hand: nothing of ours looks at the reply
        assert same(await comm.read(), value)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("deserialize", [True, False], ids=["opened", "unopened"])
@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "stranger"])
@pytest.mark.parametrize("where", WHERE, ids=lambda where: where.partition(":")[0])
def test_any_value_arrives_as_that_value(where, trusted, deserialize, loop, certified):
    if where == "inproc://" and not trusted:
        pytest.skip("it is always trusted")
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        stack = AsyncExitStack()

        async def set_up():
            server = dc.Server(HANDLERS, trusted=trusted)
            server.listen(where)
            await stack.enter_async_context(server)
            return await stack.enter_async_context(
                dc.rpc(server.address, trusted=trusted, deserialize=deserialize)
            )

        remote = runner.run(set_up())

        @settings(max_examples=25)
        @given(values)
        def check(value):
            runner.run(asyncio.wait_for(exchange(remote, value), 20))

        for value in LOOKALIKES:
            check = example(value)(check)
        check()
        runner.run(stack.aclose())
    assert not opened
