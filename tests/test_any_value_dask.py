"""Values to and from Dask's rpc and Server: as that value, as far as Dask can express it."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from calling import LOOPBACK, serve
from hypothesis import example, given, settings
from lying import liar
from test_any_value import get, get_driven, get_later, send
from values import LOOKALIKES, PICKLE, opened, values

import distributed_comm as dc
from distributed_comm._serialize.wrappers import MARKERS

core = pytest.importorskip("distributed.core")

HANDLERS = {"send": send, "get": get, "get_later": get_later, "get_driven": get_driven}
#: Ops that return a value; theirs drives no generator.
OURS, THEIRS = ["get", "get_later", "get_driven"], ["get", "get_later"]
STRANGE = {"status": "uncaught-error", "exception": PICKLE, "exception_text": "a stranger's"}


def plain(value):
    """Return a value as Dask gets it: its lists are tuples."""
    if type(value) in {list, tuple}:
        return tuple(map(plain, value))
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    return value


def expressible(value):
    """Return a value without what Dask lacks: our enums, longer integers, its keys for data."""
    if type(value) in {list, tuple, set, frozenset}:
        return type(value)(map(expressible, value))
    if type(value) is dict:
        items = ((expressible(key), expressible(item)) for key, item in value.items())
        return {key: item for key, item in items if key not in MARKERS}
    if type(value) is int:
        return value if -(2**63) <= value < 2**64 else value % 2**63
    return value.value if isinstance(value, dc.Status) else value


def looks_like_error(value):
    return type(value) is dict and value.get("status") == "uncaught-error"


async def exchange(remote, ops, value):
    await remote.send(key=1, value=value)
    for op in ops:
        assert plain(await getattr(remote, op)(key=1)) == plain(value)


def check_values(check_one):
    @settings(max_examples=40)
    @given(values)
    def check(value):
        check_one(expressible(value))

    for value in LOOKALIKES:
        check = example(value)(check)
    check()


def test_any_value_of_ours_arrives_at_their_rpc_but_for_what_would_be_an_error():
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def set_up():
            server = dc.Server(HANDLERS, trusted=True)
            server.listen(LOOPBACK)
            await stack.enter_async_context(server)
            return await stack.enter_async_context(core.rpc(server.address))

        remote = runner.run(set_up())

        def check(value):
            if not looks_like_error(value):
                runner.run(exchange(remote, OURS, value))
                return
            for op in OURS:
                with pytest.raises(Exception, match="looks like an error, but is not one"):
                    runner.run(exchange(remote, [op], value))

        check_values(check)
        runner.run(stack.aclose())
    assert not opened


def test_any_value_of_theirs_arrives_here_but_for_what_is_an_error_there():
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def set_up():
            their = await stack.enter_async_context(core.Server(HANDLERS))
            await their.listen(LOOPBACK)
            return await stack.enter_async_context(dc.rpc(their.address, trusted=True))

        remote = runner.run(set_up())

        def check(value):
            if not looks_like_error(value):
                runner.run(exchange(remote, THEIRS, value))

        check_values(check)
        runner.run(stack.aclose())
    assert not opened


@pytest.mark.parametrize(
    "value",
    [
        STRANGE,
        dc.to_serialize(STRANGE),
        dc.ToPickle(STRANGE),
        dc.Serialize(dc.ToPickle(STRANGE)),
        type("Dict", (dict,), {})(STRANGE),
        {type("Text", (str,), {})("status"): type("Text", (str,), {})("uncaught-error")},
    ],
    ids=["dict", "Serialize", "ToPickle", "both", "subclass", "subclasses of str"],
)
def test_what_dask_would_take_for_an_error_is_replaced_in_every_wrapper(run, value):
    async def later():
        return value

    async def many():
        yield value
        yield 1

    async def main():
        handlers = {"now": lambda: value, "later": later, "many": many}
        async with serve(handlers, trusted=True) as (server, _), core.rpc(server.address) as their:
            for op in ("now", "later"):
                with pytest.raises(Exception, match=f"{op}: its result looks like an error"):
                    await getattr(their, op)()
            comm = await core.connect(server.address)
            await comm.write({"op": "many"})
            assert "looks like an error" in (await comm.read())["exception_text"]
            assert await comm.read() == 1
            comm.abort()

    run(main())
    assert not opened


def test_it_is_replaced_where_a_relay_did_not_open_it(run):
    """A server that opens nothing keeps a stranger's wrapped object, which Dask would open."""
    store = {}

    async def main():
        handlers = {"put": lambda value: store.update(value=value), "get": lambda: store["value"]}
        async with (
            serve(handlers, deserialize=False) as (server, remote),
            core.rpc(server.address) as their,
        ):
            for value in (STRANGE, {"status": "fine"}, [STRANGE]):
                await remote.put(value=dc.Serialize(value), serializers=["msgpack"])
                assert isinstance(store["value"], dc.Serialized)
                assert await remote.get() == value
                if value is STRANGE:
                    with pytest.raises(Exception, match="looks like an error"):
                        await their.get()
                else:
                    assert plain(await their.get()) == plain(value)

    run(main())
    assert not opened


@pytest.mark.parametrize("size", [3, 12, 17], ids="{} MiB".format)
def test_it_is_replaced_however_long_it_is(run, size):
    """What takes too long to look at may be one, unless it is no map at all."""
    store = {}

    async def main():
        handlers = {"put": lambda value: store.update(value=value), "get": lambda: store["value"]}
        async with (
            serve(handlers, deserialize=False) as (server, remote),
            core.rpc(server.address) as their,
        ):
            padding = bytes(size * 1024**2)
            for value, fine in (({**STRANGE, "padding": padding}, False), ([1, padding], True)):
                await remote.put(value=dc.Serialize(value), serializers=["msgpack"])
                assert isinstance(store["value"], dc.Serialized)
                if fine:
                    assert plain(await their.get()) == plain(value)
                else:
                    with pytest.raises(Exception, match="looks like an error"):
                        await their.get()

    run(main())
    assert not opened


def test_what_a_peer_without_envelopes_says_is_opened_as_far_as_it_is_trusted(run):
    async def main(trusted):
        async with core.Server({"get": lambda: STRANGE}) as their:
            await their.listen(LOOPBACK)
            async with dc.rpc(their.address, trusted=trusted) as remote:
                with pytest.raises(dc.RemoteError, match="a stranger's"):  # as Dask has it
                    await remote.get()
                with pytest.raises(dc.RemoteError, match="a stranger's"):
                    await anext(remote.get.stream())

    run(main(False))
    assert opened == []
    run(main(True))
    assert opened
    opened.clear()


def test_a_dask_server_takes_no_argument_that_means_something_there(run):
    async def main():
        called = []
        async with core.Server({"f": lambda **kwargs: called.append(kwargs)}) as their:
            await their.listen(LOOPBACK)
            async with dc.rpc(their.address) as remote:
                for name in ("op", "reply", "close", "serializers"):
                    with pytest.raises(TypeError, match=rf"f\({name}=…\): a peer that knows"):
                        await remote["f"].call({"x": 1, name: 1})
                with pytest.raises(TypeError, match="takes no argument of this name"):
                    await anext(remote.f.stream(op=1))
                assert called == []
                await remote["f"].call({"x": 1})
                assert called == [{"x": 1}]
                assert remote._own.open == 1

    run(main())


def test_a_peer_that_says_it_is_of_dask_gets_no_envelope(run):
    """An envelope is sent only to a peer that has offered it in its hello."""

    async def main():
        async with liar((None, {"status": "uncaught-error", "exception_text": "x"})) as listener:
            comm = await core.connect(listener.contact_address)
            await comm.write({"op": "f"})
            assert (await comm.read())["exception_text"] == "x"
            comm.abort()

    run(main())
