"""What a pool hands out: it looks at a comm that was idle, and takes in what lies in the socket."""

import asyncio
import time

import pytest
from calling import LOOPBACK, serve
from loops import until

import distributed_comm as dc
from distributed_comm._connection.channel import ConnectionChannel
from distributed_comm._tls.security import Security

HANDLERS = {"add": lambda x, y: x + y}


@pytest.fixture(params=["tcp", "unix", "tls", "sentinel"])
def where(request, tmp_path):
    """Return an address to listen on, and the arguments of both sides."""
    if request.param == "tls":
        pytest.importorskip("cryptography")
        return "tls://127.0.0.1:0", {"security": Security.temporary()}
    if request.param == "unix":
        return f"unix://{tmp_path}/s", {}
    return f"{request.param}://127.0.0.1:0", {}


@pytest.fixture
def looks(monkeypatch):
    """Count the looks."""
    counted = []
    look = ConnectionChannel.is_sound
    monkeypatch.setattr(
        ConnectionChannel, "is_sound", lambda channel: (counted.append(1), look(channel))[1]
    )
    return counted


def age(remote):
    """Have the idle comms look as if they had carried their last reply long ago."""
    for comms in remote._own._plan.idle.values():
        for comm in comms:
            comm.is_fresh = lambda: False


@pytest.mark.parametrize("trusted", [True, False])
def test_a_call_after_a_restart_of_the_server_dials_anew(run, where, looks, trusted):
    address, arguments = where
    served = []

    class Server(dc.Server):
        def handle_comm(self, comm):
            served.append(comm)
            super().handle_comm(comm)

    async def main():
        server = Server(HANDLERS, trusted=trusted, **arguments)
        server.listen(address)
        async with server, dc.rpc(server.address, trusted=trusted, **arguments) as remote:
            assert await remote.add(x=1, y=2) == 3
            assert not looks
            (old,) = remote._own._plan.members
            age(remote)
            assert await remote.add(x=1, y=2) == 3
            assert len(looks) == 1
            assert [*remote._own._plan.members] == [old]
            # The loop does not look at its sockets meanwhile, so only a look finds goodbye and end.
            closing = asyncio.ensure_future(served[0].close())
            await asyncio.sleep(0)
            assert not old.closed()
            age(remote)
            assert await remote.add(x=1, y=2) == 3
            assert old.closed()
            assert old not in remote._own._plan.members
            await closing

    run(main())


def test_a_comm_is_looked_at_once_a_second_has_passed(run, looks, monkeypatch):
    async def main():
        async with serve(HANDLERS) as (_, remote):
            for _ in range(3):
                await remote.add(x=1, y=2)
            assert not looks
            time.sleep(1.01)  # noqa: ASYNC251 - no timer of the loop may be needed for it
            await remote.add(x=1, y=2)
            assert len(looks) == 1
            await remote.add(x=1, y=2)
            assert len(looks) == 1

    run(main())


@pytest.mark.parametrize("fresh", [True, False])
def test_a_message_that_nobody_asked_for_is_no_reply(run, caplog, fresh):
    comms = []

    async def main():
        async with (
            dc.listen(LOOPBACK, comms.append) as listener,
            dc.rpc(listener.contact_address) as remote,
        ):
            for number in range(2):
                call = asyncio.ensure_future(remote.op())
                await until(lambda number=number: len(comms) > number)
                await comms[number].read()
                await comms[number].write("reply")
                assert await call == "reply"
                await comms[number].write("nobody asked")
                if fresh:
                    (comm,) = remote._own._plan.members
                    await until(comm.unread)
                else:
                    age(remote)
            for comm in comms:
                comm.abort()

    run(main())
    assert "nobody had asked for" in caplog.text
