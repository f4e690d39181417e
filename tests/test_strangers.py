"""Strangers at the door: garbage, silence, and too many at once."""

import asyncio
import logging
import socket
import subprocess
import sys
import time

import msgpack
import pytest
from loops import LOOPS, settle, until
from peers import (
    DASK_HELLO,
    LOOPBACK,
    OUR_HELLO,
    check_echo,
    dial_raw,
    echo,
    frame_up,
    pack,
    port_of,
)

import distributed_comm as dc


def options(**kwargs: float) -> dc.CommOptions:
    timeouts = {k: kwargs.pop(k) for k in ("handshake", "close") if k in kwargs}
    return dc.CommOptions(limits=dc.Limits(**kwargs), timeouts=dc.Timeouts(**timeouts))


# Before the hello

GARBAGE = {
    "zeros": bytes(16),
    "ones": b"\xff" * 16,
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "too large a hello": frame_up(bytes(5_000)),
    "two frames": frame_up(b"\x80", b""),
    "no map": pack([1, 2]),
    "no protocol": pack({"python": [3, 11, 7]}),
    "no msgpack": frame_up(b"\xc1"),
    "a pickle": frame_up(b"\x80\x05K\x01."),
    "a control message": frame_up(bytes.fromhex("c7 01 bc 01")),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_disconnected_and_disturbs_nobody(run, kernels, caplog, data):
    handled = []

    async def handle(comm):
        handled.append(comm)
        await echo(comm)

    async def main():
        async with dc.listen(LOOPBACK, handle) as listener, dial_raw(listener) as stranger:
            async with await dc.connect(listener.contact_address) as comm:
                await stranger.send(data)
                async with asyncio.timeout(1):
                    assert await stranger.is_cut()
                await comm.write("undisturbed")
                assert await comm.read() == "undisturbed"
            await check_echo(listener.contact_address)
        assert len(handled) == 2

    caplog.set_level(logging.INFO, "distributed_comm")
    run(main())
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "a handshake failed: " in record.getMessage()
    assert "protocol" in record.getMessage()


def test_a_silent_dialler_is_cut_in_time_and_others_still_connect(run, caplog):
    async def main():
        async with dc.listen(LOOPBACK, echo, options=options(handshake=0.1)) as listener:
            async with dial_raw(listener) as silent, dial_raw(listener) as slow:
                await slow.send(OUR_HELLO[:-1])
                await check_echo(listener.contact_address)
                async with asyncio.timeout(1):
                    assert await silent.is_cut()
                    assert await slow.is_cut()
            async with await dc.connect(listener.contact_address) as comm:
                await asyncio.sleep(0.15)  # the deadline is the handshake's alone
                await comm.write("still here")
                assert await comm.read() == "still here"

    caplog.set_level(logging.INFO, "distributed_comm")
    run(main())
    assert [r.levelno for r in caplog.records] == [logging.INFO] * 2
    assert all("no hello came in time" in r.getMessage() for r in caplog.records)


def test_a_connection_that_is_reset_under_its_handler_is_no_error(run, caplog):
    async def main():
        async with dc.listen(LOOPBACK, echo) as listener, dial_raw(listener) as raw:
            await raw.send(OUR_HELLO + pack(1))
            await raw.read_message()
            assert await raw.read_message() == 1
            raw.reset()
            await until(lambda: len(asyncio.all_tasks()) == 1)

    run(main())
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []


def test_a_hello_split_at_every_byte(run, kernels):
    hello = OUR_HELLO + pack("first")

    async def main():
        async with dc.listen(LOOPBACK, echo) as listener:
            for split in range(1, len(hello)):
                async with dial_raw(listener) as raw:
                    await raw.send(hello[:split])
                    await settle(5)
                    await raw.send(hello[split:])
                    await raw.read_message()
                    assert await raw.read_message() == "first"

    run(main())


# Limits


BREACHES = {
    "too deep": pack([[[[[[1]]]]]]),
    "too long": pack("x" * 100),
    "items that are not there": frame_up(b"\xdc\x00\x09"),
    "a pickle": frame_up(
        msgpack.packb({"__Pickled__": 1}),
        msgpack.packb({"pickled-obj": b"N.", "num-sub-frames": 0}),
    ),
}


@pytest.mark.parametrize("data", BREACHES.values(), ids=BREACHES)
def test_a_message_that_breaks_a_rule_is_an_error_of_its_read_and_the_comm_goes_on(
    run, kernels, data
):
    served = []

    async def main():
        limited = options(untrusted_depth=4, untrusted_header=64)
        async with (
            dc.listen(LOOPBACK, served.append, options=limited) as listener,
            dial_raw(listener) as raw,
        ):
            await raw.send(DASK_HELLO + data + pack("next"))
            await until(lambda: served)
            with pytest.raises((dc.MessageError, dc.UntrustedError)):
                await served[0].read()
            assert await served[0].read() == "next"
            served[0].abort()

    run(main())


def test_connections_above_the_limit_wait_until_there_is_room(run):
    comms = []

    async def main():
        limited = options(connections=2, close=0.1)
        async with dc.listen(LOOPBACK, comms.append, trusted=True, options=limited) as listener:
            first, second = [await dc.connect(listener.contact_address) for _ in range(2)]
            third = asyncio.create_task(dc.connect(listener.contact_address))
            await settle(100)
            assert len(comms) == 2
            assert not third.done()
            await asyncio.gather(first.close(), *(comm.close() for comm in comms))
            third = await third
            assert len(comms) == 3
            await asyncio.gather(*(comm.close() for comm in (second, third, comms[2])))

    run(main())


def test_handshakes_above_the_limit_wait_until_there_is_room(run):
    async def main():
        async with (
            dc.listen(LOOPBACK, echo, trusted=True, options=options(handshakes=2)) as listener,
            dial_raw(listener) as one,
            dial_raw(listener) as two,
        ):
            await one.read_message()
            await two.read_message()
            third = asyncio.create_task(check_echo(listener.contact_address))
            await settle(100)
            assert not third.done()
            one.close()  # a failed handshake makes room
            await third
            async with dial_raw(listener) as four:
                await four.read_message()
                fifth = asyncio.create_task(check_echo(listener.contact_address))
                await settle(100)
                assert not fifth.done()
                await two.send(DASK_HELLO)  # and so does one that is done
                await fifth

    run(main())


DESCRIPTORS = """
import asyncio, logging, resource, sys
sys.path.insert(0, {folder!r})
import distributed_comm as dc
from distributed_comm._loops import descriptors
from loops import LOOPS
from peers import LOOPBACK, echo

descriptors.SILENCE = 0.0
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
logging.basicConfig(stream=sys.stdout, format="%(created)f %(message)s")
logging.getLogger("distributed_comm").addFilter(lambda record: "short of" in record.msg)

async def main():
    async with dc.listen(LOOPBACK, echo, trusted=True) as listener:
        print(listener.contact_address, flush=True)
        await asyncio.Event().wait()

with asyncio.Runner(loop_factory=LOOPS[{loop!r}]) as runner:
    runner.run(main())
"""


def processor_time(pid: int) -> float:
    """Return the seconds that a process has worked."""
    with open(f"/proc/{pid}/schedstat") as stat:
        return int(stat.read().split()[0]) / 1e9


@pytest.mark.skipif(sys.platform != "linux", reason="lowers a limit")
@pytest.mark.parametrize("loop", LOOPS)
def test_without_descriptors_accepting_pauses_without_spinning_and_recovers(loop, pytestconfig):
    def dial():
        sock = socket.create_connection(address, timeout=10)
        sock.sendall(DASK_HELLO)
        return sock

    script = DESCRIPTORS.format(folder=str(pytestconfig.rootpath / "tests"), loop=loop)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = dc.get_address_host_port(process.stdout.readline().strip())
            crowd = [dial() for _ in range(80)]
            times, worked = [], 0.0
            while not times or times[-1] - times[0] < 1:
                created, _, message = process.stdout.readline().partition(" ")
                times += [float(created)] * ("short of file descriptors" in message)
                worked = worked or processor_time(process.pid)
            worked = processor_time(process.pid) - worked
            for sock in crowd:
                sock.close()
            start = time.monotonic()
            with dial() as sock:
                assert sock.recv(1)
            assert time.monotonic() - start < 3
            assert len(times) <= 80  # it tried again, and not all the time
            assert worked < 0.3
        finally:
            process.kill()


# The time it takes


def test_a_handshake_takes_few_turns_of_the_loop_however_long_they_are(run):
    """It is answered where the bytes arrive: no task has to be woken for it."""

    async def main():
        turns, handled = [0], []

        def tick():
            turns[0] += 1
            time.sleep(0.005)  # whatever has been sent has arrived by the next turn
            if not handled:
                asyncio.get_running_loop().call_soon(tick)

        def handle(comm):
            handled.append(turns[0])
            comm.abort()

        async with dc.listen(LOOPBACK, handle) as listener:
            with socket.create_connection(("127.0.0.1", port_of(listener))) as sock:
                sock.sendall(OUR_HELLO)
                tick()
                await until(lambda: handled)
        assert handled[0] <= 6

    run(main())


def test_a_dialler_is_not_cut_because_the_loop_was_blocked_past_the_deadline(run):
    handled = []

    async def main():
        patient = options(handshake=0.05)
        async with (
            dc.listen(LOOPBACK, handled.append, options=patient) as listener,
            dial_raw(listener) as raw,
        ):
            await raw.read_message()  # its hello: the clock runs
            raw.sock.send(DASK_HELLO)
            time.sleep(0.1)  # noqa: ASYNC251 - this is the point
            await until(lambda: handled)
            await handled[0].write("served")
            assert await raw.read_message() == "served"
            handled[0].abort()

    run(main())
