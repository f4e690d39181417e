"""Listening: addresses, start and stop, handlers, and the limits on who connects."""

import asyncio
import logging
import re
import socket
import subprocess
import sys

import pytest
from loops import LOOPS, settle
from peers import LOOPBACK, OUR_HELLO, check_echo, dial_raw, echo, port_of

import distributed_comm as dc

# Starting and stopping


def test_a_listener_is_returned_unstarted_and_knows_its_port_once_bound(run):
    async def main():
        listener = dc.listen(LOOPBACK, echo)
        assert listener.listen_address == LOOPBACK
        listener.bind()
        port = port_of(listener)
        assert port
        listener.bind()
        assert port_of(listener) == port
        await listener.start()
        assert port_of(listener) == port
        await check_echo(listener.contact_address)
        with pytest.raises(dc.LocalProtocolError, match="was started already"):
            await listener.start()
        listener.stop()

    run(main())


def test_await_and_async_with_start_it(run):
    async def main():
        listener = await dc.listen(LOOPBACK, echo)
        await check_echo(listener.contact_address)
        listener.stop()
        async with dc.listen(LOOPBACK, echo) as listener:
            await check_echo(listener.contact_address)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port_of(listener)))
        listener.stop()

    run(main())


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:x", "tcp://::1", "tcp:// :1", "nope://"])
def test_a_malformed_address_is_refused_at_once(address):
    with pytest.raises(ValueError, match=r"expected|unknown|cannot|needs"):
        dc.listen(address, echo)


@pytest.mark.parametrize("address", ["tcp://", "tcp://:0", ""])
def test_no_host_is_ipv4_and_ipv6_on_one_random_port(run, address):
    async def main():
        async with dc.listen(address, echo) as listener:
            port = port_of(listener)
            await check_echo(f"tcp://127.0.0.1:{port}")
            await check_echo(f"tcp://[::1]:{port}")
            assert listener.listen_address == f"tcp://0.0.0.0:{port}"
            await check_echo(listener.contact_address)

    run(main())


@pytest.mark.parametrize(
    ("address", "listen", "contact"),
    [
        ("tcp://127.0.0.1:0", r"tcp://127\.0\.0\.1:[1-9]\d*", "same"),
        ("tcp://127.0.0.1", r"tcp://127\.0\.0\.1:[1-9]\d*", "same"),
        ("tcp://[::1]:0", r"tcp://\[::1\]:[1-9]\d*", "same"),
        ("tcp://localhost:0", r"tcp://localhost:[1-9]\d*", "same"),
        ("tcp://0.0.0.0:0", r"tcp://0\.0\.0\.0:[1-9]\d*", "other"),
        ("tcp://[::]:0", r"tcp://\[::\]:[1-9]\d*", "other"),
    ],
)
def test_listen_and_contact_addresses(run, address, listen, contact):
    async def main():
        async with dc.listen(address, echo) as listener:
            assert re.fullmatch(listen, listener.listen_address)
            same = listener.contact_address == listener.listen_address
            assert same == (contact == "same")
            await check_echo(listener.contact_address)
            assert listener.listen_address in repr(listener)

    run(main())


def test_contact_host_is_advertised(run):
    async def main():
        async with dc.listen("tcp://0.0.0.0:0", echo, contact_host="node7") as listener:
            assert listener.contact_address == f"tcp://node7:{port_of(listener)}"

    run(main())


def test_a_port_in_use_is_an_oserror(run):
    async def main():
        async with dc.listen(LOOPBACK, echo) as listener:
            for address in (listener.listen_address, f"tcp://:{port_of(listener)}"):
                with pytest.raises(OSError, match="in use"):
                    await dc.listen(address, echo)

    run(main())


def test_stop_leaves_established_comms_and_aborts_handshakes(run):
    async def main():
        listener = await dc.listen(LOOPBACK, echo)
        comm = await dc.connect(listener.contact_address)
        async with dial_raw(listener) as silent, dial_raw(listener) as just_dialled:
            await silent.read_message()  # its hello: the handshake is under way
            listener.stop()
            listener.stop()
            assert await silent.is_cut()
            assert await just_dialled.is_cut()
        await comm.write("goes on")
        assert await comm.read() == "goes on"
        await comm.close()

    run(main())


def test_stop_at_every_turn_after_a_connection_came(run):
    async def main():
        for turns in range(12):
            listener = await dc.listen(LOOPBACK, lambda comm: comm.abort())
            async with dial_raw(listener) as raw:
                await raw.send(OUR_HELLO)
                await settle(turns)
                listener.stop()
                await raw.is_cut()

    run(main())


# Handlers


def test_a_handler_is_a_function_or_a_coroutine_function(run):
    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(LOOPBACK, served.set_result) as listener:
            client = await dc.connect(listener.contact_address)
            await (await served).close()
            assert [message async for message in client] == []
        async with dc.listen(LOOPBACK, echo) as listener:
            await check_echo(listener.contact_address)

    run(main())


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
def test_a_handler_that_raises_is_logged_once_and_its_comm_closed(run, caplog, kind):
    def handle(comm):
        if not others:
            others.append(asyncio.ensure_future(echo(comm)))
        else:
            return fail(comm) if kind == "function" else fail_later(comm)
        return None

    def fail(comm):
        raise LookupError("on purpose")

    async def fail_later(comm):
        await comm.read()
        fail(comm)

    others = []

    async def main():
        async with dc.listen(LOOPBACK, handle) as listener:
            async with await dc.connect(listener.contact_address) as other:
                comm = await dc.connect(listener.contact_address)
                await comm.write(1)
                with pytest.raises(dc.CommClosedError):
                    await comm.read()
                await other.write("unharmed")
                assert await other.read() == "unharmed"
            await asyncio.wait(others)

    run(main())
    (record,) = [r for r in caplog.records if r.levelno > logging.INFO]
    assert record.name == "distributed_comm"
    assert "on purpose" in str(record.exc_info[1])


# After a fork

FORK = """
import asyncio, os, sys
sys.path.insert(0, {folder!r})
import distributed_comm as dc
from loops import LOOPS
from peers import LOOPBACK, check_echo, echo

async def main():
    async with dc.listen(LOOPBACK, echo) as listener:
        child = os.fork()
        if not child:
            try:
                listener.stop()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        await check_echo(listener.contact_address)

with asyncio.Runner(loop_factory=LOOPS[{loop!r}]) as runner:
    runner.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("loop", LOOPS)
def test_a_listener_goes_on_when_a_forked_child_stops_its_copy(loop, pytestconfig):
    script = FORK.format(folder=str(pytestconfig.rootpath / "tests"), loop=loop)
    # From Python 3.12 on a fork beside threads is warned of, and a loop may have some.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stderr) == (0, "")
