"""rpc: how it is addressed, calls that overlap, and calls that are cancelled."""

import asyncio
import gc
import random

import pytest
from calling import LOOPBACK, everywhere, serve
from loops import until
from lying import liar

import distributed_comm as dc
from distributed_comm._envelope import ERROR


async def slowly(x, turns=1):
    for _ in range(turns):
        await asyncio.sleep(0)
    return x


HANDLERS = {"add": lambda x, y: x + y, "slowly": slowly}


def test_a_server_can_be_named_in_many_ways(run):
    async def main():
        async with serve(HANDLERS) as (server, _):
            bare = server.address.removeprefix("tcp://")
            port = server.port
            async with (
                dc.rpc(bare) as text,
                dc.rpc(server.address, timeout=3) as uri,
                dc.rpc(ip="127.0.0.1", port=port) as ip,
                dc.rpc(addr=server.address) as addr,
                dc.rpc(("127.0.0.1", port)) as pair,
                dc.rpc(addr=("127.0.0.1", port)) as pair_by_name,
            ):
                for remote in text, uri, ip, addr, pair, pair_by_name:
                    assert remote.address == server.address
                    assert await remote.add(x=10, y=20) == 30
        with pytest.raises(TypeError, match="an rpc needs an address"):
            dc.rpc()
        with pytest.raises(ValueError, match="port"):
            await dc.rpc("tcp://127.0.0.1:http").identity()

    run(main())


@pytest.mark.parametrize("name", ["comm", "stream"])
@everywhere
def test_an_open_comm_is_the_only_one_of_its_rpc(run, where, name):
    async def main():
        async with serve(HANDLERS, where) as (server, _):
            comm = await dc.connect(server.address)
            async with dc.rpc(**{name: comm}) as remote:
                calls = [remote.slowly(x=i) for i in range(20)]
                assert await asyncio.gather(*calls) == list(range(20))
                assert server.incoming_comms_open == 1
                comm.abort()
                with pytest.raises(dc.CommClosedError, match="that this rpc was given is closed"):
                    await remote.add(x=1, y=2)

    run(main())


@everywhere
def test_calls_that_overlap_have_a_comm_each_and_leave_it_to_the_next(run, where):
    async def main():
        async with serve(HANDLERS, where) as (server, remote):
            for _ in range(3):
                calls = [remote.slowly(x=i, turns=i % 7) for i in range(50)]
                assert await asyncio.gather(*calls) == list(range(50))
            assert 1 < server.incoming_comms_open <= 50
            assert remote._own.open == server.incoming_comms_open
            assert repr(remote) == f"<rpc to {server.address}, {remote._own.open} comms>"
            await asyncio.gather(*remote.close_streams())
            await until(lambda: not server.incoming_comms_open)
            assert await remote.add(x=1, y=2) == 3

    run(main())


def test_no_more_comms_than_the_limit(run):
    async def main():
        async with serve(HANDLERS) as (server, _), dc.rpc(server.address, limit=3) as remote:
            calls = [remote.slowly(x=i) for i in range(100)]
            assert await asyncio.gather(*calls) == list(range(100))
            assert remote._own.open == 3

    run(main())


def test_after_its_end_there_are_no_calls(run):
    async def main():
        async with serve(HANDLERS) as (_, remote):
            await remote.add(x=1, y=2)
            await remote.close_rpc()
            with pytest.raises(dc.CommClosedError, match="closed"):
                await remote.add(x=1, y=2)

    run(main())


def test_what_is_no_op_is_no_attribute():
    remote = dc.rpc("127.0.0.1:1")
    assert not hasattr(remote, "__deepcopy__")
    assert not hasattr(remote, "_repr_html_")


def test_nobody_there_is_an_oserror_in_time(run):
    async def main():
        async with serve() as (server, _):
            address = server.address
        async with dc.rpc(address, timeout=0.05) as remote:
            with pytest.raises(OSError, match="Timed out trying to connect"):
                await remote.identity()

    run(main())


def test_a_server_that_goes_during_a_call_is_an_error_that_names_the_call(run):
    async def main():
        async with serve({"leave": lambda comm: comm.abort()}) as (server, remote):
            with pytest.raises(dc.CommClosedError) as info:
                await remote.leave()
            assert info.value.__notes__ == [f"while calling 'leave' of {server.address}"]
            assert (await remote.identity())["type"] == "Server"

    run(main())


def test_a_comm_that_the_server_closed_meanwhile_is_not_taken(run):
    async def main():
        async with serve(HANDLERS) as (server, remote):
            await remote.add(x=1, y=2)
            (serving,) = server._servings
            serving.comm.abort()
            (comm,) = remote._own._plan.idle[server.address]
            await until(comm.closed)
            assert await remote.add(x=1, y=2) == 3

    run(main())


def test_a_call_without_a_reply_does_not_wait_for_one(run):
    async def main():
        got = []
        handlers = {**HANDLERS, "note": lambda x: got.append(x) or x}
        async with serve(handlers) as (_, remote):
            assert await remote.note(x=1, reply=False) is None
            assert await remote.add(x=1, y=2) == 3
            assert got == [1]
            assert remote._own.open == 1
            assert await remote.add(x=1, y=2, close=True) == 3
            assert remote._own.open == 0

    run(main())


def test_arguments_may_have_any_name(run):
    def names(**kwargs):
        return kwargs

    async def main():
        async with serve({"names": names}) as (_, remote):
            arguments = {"self": 1, "comm": 2, "address": 3, "timeout": 4, "message": 5, "pool": 6}
            assert await remote.names(**arguments) == arguments

    run(main())


def test_a_request_is_what_dask_writes(run):
    async def main():
        seen: asyncio.Future[dc.Comm] = asyncio.get_running_loop().create_future()
        async with (
            dc.listen(LOOPBACK, seen.set_result) as listener,
            dc.rpc(listener.contact_address) as remote,
        ):
            call = asyncio.ensure_future(remote.add(x=1, y=2))
            comm = await seen
            assert await comm.read() == {"op": "add", "x": 1, "y": 2, "reply": True}
            await comm.write(3)
            assert await call == 3
            comm.abort()

    run(main())


# -- cancelled calls --------------------------------------------------------------------------


@everywhere
def test_a_cancelled_call_never_leaves_its_comm_to_the_next(run, where):
    async def main():
        go = asyncio.Event()

        async def wait():
            await go.wait()
            return "late"

        async with serve({**HANDLERS, "wait": wait}, where) as (server, remote):
            call = asyncio.ensure_future(remote.wait())
            await until(lambda: server.incoming_comms_active)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert remote._own.open == 0
            go.set()
            assert await remote.add(x=1, y=2) == 3
            await until(lambda: server.incoming_comms_open == 1)

    run(main())


@everywhere
def test_calls_cancelled_anywhere_never_get_a_wrong_reply_and_leak_nothing(run, where):
    rng = random.Random(5)
    rounds, callers = (100, 25) if where == LOOPBACK else (100, 50)

    async def caller(remote, number, outcomes):
        turns = rng.randrange(4)
        outcomes.append(await remote.slowly(x=number, turns=turns) == number)

    async def main():
        async with serve(HANDLERS, where) as (server, remote):
            outcomes: list[bool] = []
            for _ in range(rounds):
                calls = [
                    asyncio.ensure_future(caller(remote, rng.random(), outcomes))
                    for _ in range(callers)
                ]
                for call in rng.sample(calls, callers // 2):
                    asyncio.get_running_loop().call_later(rng.random() * 0.002, call.cancel)
                await asyncio.wait(calls)
                for call in calls:
                    if not call.cancelled():
                        call.result()  # no other exception
            assert all(outcomes)
            assert len(outcomes) > rounds * callers // 3
            assert remote._own.active == 0
            await until(lambda: server.incoming_comms_open == remote._own.open)
            assert server.incoming_comms_active == 0
        gc.collect()

    run(main())


def test_a_reply_that_came_with_the_cancellation_is_nobody_elses(run):
    async def main():
        comms: list[dc.Comm] = []
        async with (
            dc.listen(LOOPBACK, comms.append) as listener,
            dc.rpc(listener.contact_address) as remote,
        ):
            call = asyncio.ensure_future(remote.first())
            await until(lambda: comms)
            await comms[0].read()
            await comms[0].write("first")
            call.cancel()  # before the loop has brought what is on its way
            with pytest.raises(asyncio.CancelledError):
                await call
            again = asyncio.ensure_future(remote.second())
            await until(lambda: len(comms) == 2)
            await comms[1].read()
            await comms[1].write("second")
            assert await again == "second"
            for comm in comms:
                comm.abort()

    run(main())


def test_an_unopened_reply_leaves_the_comm_in_step(run):
    async def main():
        async with (
            serve({"thing": lambda: range(3), **HANDLERS}, trusted=True) as (server, _),
            dc.rpc(server.address) as remote,
        ):
            with pytest.raises(dc.UntrustedError):
                await remote.thing()
            with pytest.raises(dc.UntrustedError):
                await remote.add(x=range(3), y=1)
            assert await remote.add(x=1, y=2) == 3
            assert remote._own.open == server.incoming_comms_open == 1

    run(main())


def test_a_peer_that_answers_nonsense_is_no_trap(run):
    async def main():
        for reply in ({}, None, {"exception": 3, "causes": 4, "exception_text": 10**5000}):
            async with (
                liar((ERROR, reply)) as listener,
                dc.rpc(listener.contact_address) as remote,
            ):
                with pytest.raises(dc.RemoteError, match="gave no reason"):
                    await remote.anything()
                assert remote._own.open == 1

    run(main())
