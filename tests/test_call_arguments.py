"""What a call is given, and what is refused because it would be lost on the way."""

import pytest
from calling import everywhere, serve

import distributed_comm as dc


async def count(n):
    for number in range(n):
        yield number


def kinds(**kwargs):
    return sorted(kwargs)


async def kinds_later(**kwargs):
    yield sorted(kwargs)


HANDLERS = {"kinds": kinds, "kinds_later": kinds_later, "count": count}


@everywhere
def test_an_argument_may_have_any_name(run, where):
    async def main():
        async with serve(HANDLERS, where) as (_, remote):
            assert await remote.kinds(op="x", x=1) == ["op", "x"]
            items = remote.kinds_later.stream(op="x", reply=1, close=2)
            assert [item async for item in items] == [["close", "op", "reply"]]
            mapping = {"op": 1, "reply": 2, "close": 3, "serializers": 4, "self": 5, "": 6}
            assert await remote["kinds"].call(mapping) == sorted(mapping)
            assert await remote["kinds"].call(mapping, reply=False) is None
            assert await remote["kinds"]() == []

    run(main())


def test_arguments_without_names_are_refused(run):
    async def main():
        async with serve(HANDLERS) as (_, remote):
            with pytest.raises(
                TypeError, match=r"^echo\(1, 'two'\): a call takes its arguments by"
            ):
                await remote.echo(1, "two")
            with pytest.raises(TypeError, match=r"count\(3\): a call takes its arguments by name"):
                await anext(remote.count.stream(3))

    run(main())


def test_the_families_of_a_stream_are_those_of_its_rpc_or_its_own(run):
    async def main():
        async with (
            serve(HANDLERS, trusted=True) as (server, remote),
            dc.rpc(server.address, trusted=True, serializers=["msgpack"]) as plain,
        ):
            own = {"serializers": ["msgpack"], "deserializers": ["msgpack", "pickle"]}
            stream = remote.kinds_later.stream(x=1, **own)
            assert [item async for item in stream] == [["x"]]  # they are no arguments
            for stream in (
                plain.count.stream(n=range(3)),
                remote.count.stream(n=range(3), serializers=["msgpack"]),
            ):
                with pytest.raises(dc.UnserializableError, match="msgpack"):
                    await anext(stream)
            stream = plain.kinds_later.stream(x=range(3), serializers=["msgpack", "pickle"])
            assert [item async for item in stream] == [["x"]]
            assert await plain.kinds(x=1) == ["x"]

    run(main())


def test_a_stream_is_answered_and_read_in_the_families_that_were_asked_for(run):
    async def ranges():
        yield range(3)

    async def main():
        async with serve({"ranges": ranges}, trusted=True) as (_, remote):
            assert [item async for item in remote.ranges.stream()] == [range(3)]
            with pytest.raises(TypeError, match="msgpack"):
                await anext(remote.ranges.stream(deserializers=["msgpack"]))

    run(main())


def test_what_is_no_address_is_named():
    for wrong in (8000, ("host", 1, 2)):
        with pytest.raises(TypeError, match="is no address: expected a URI, or"):
            dc.rpc(wrong)


def test_a_closed_rpc_says_whom_it_was_for(run):
    async def main():
        async with serve() as (server, remote):
            await remote.close_rpc()
            with pytest.raises(dc.CommClosedError, match=f"is closed.*{server.address}"):
                await remote.identity()

    run(main())
