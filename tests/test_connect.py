"""Connecting: what is refused at once, what is tried again, and what a cancellation leaves."""

import asyncio
import os
import random
import socket
from contextlib import suppress

import pytest
from loops import needs_proc, settle, until
from peers import LOOPBACK, OUR_HELLO, check_echo, echo, frame_up, pack

import distributed_comm as dc


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


class RawServer:
    """Accepts, sends each connection the same bytes, and counts them; never reads."""

    def __init__(self, answer: bytes = b"") -> None:
        self._answer = answer
        self._socks: list[socket.socket] = []

    async def __aenter__(self) -> "RawServer":
        server = socket.create_server(("127.0.0.1", 0))
        server.setblocking(False)
        self._socks.append(server)
        self.address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        self._task = asyncio.create_task(self._accept(server))
        return self

    @property
    def connections(self) -> int:
        return len(self._socks) - 1

    async def _accept(self, server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(server)
            self._socks.append(sock)
            await loop.sock_sendall(sock, self._answer)

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        for sock in self._socks:
            sock.close()


# What no second attempt would change


@pytest.mark.parametrize(
    "address",
    [
        *["tcp://", "tcp://:80", "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://host:x", ""],
        *["tcp://::1:80", "tcp://[::1", "tcp://a b:80", "1://x:80"],
    ],
)
def test_an_address_that_cannot_be_dialled_is_a_valueerror_at_once(run, address):
    async def main():
        async with asyncio.timeout(1):
            with pytest.raises(ValueError, match=r"expected|needs|cannot|a scheme is"):
                await dc.connect(address, timeout=20)

    run(main())


def test_an_unknown_scheme_names_the_known_ones(run):
    async def main():
        with pytest.raises(ValueError, match=r"unknown scheme 'nope', expected one of: .*tcp"):
            await dc.connect("nope://127.0.0.1:80")

    run(main())


def test_an_unknown_argument_is_refused(run):
    async def main():
        with pytest.raises(TypeError, match="colour"):
            await dc.connect("tcp://127.0.0.1:80", connection_args={"colour": "red"})

    run(main())


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n", pack([1, 2]), frame_up(bytes(5_000)), b"\xff" * 16],
    ids=["http", "no hello", "too large", "ones"],
)
def test_a_server_that_answers_garbage_is_not_asked_again(run, kernels, answer):
    async def main():
        async with RawServer(answer) as server:
            async with asyncio.timeout(1):
                with pytest.raises(dc.RemoteProtocolError, match="protocol") as caught:
                    await dc.connect(server.address, timeout=20)
            assert f"-> {server.address}" in str(caught.value)
            assert server.connections == 1

    run(main())


# What is tried again


def test_nobody_listens(run):
    address = f"tcp://127.0.0.1:{free_port()}"

    async def main():
        clock = asyncio.get_running_loop().time
        start = clock()
        text = rf"^Timed out trying to connect to {address} after 0\.2 s: .*Errno"
        with pytest.raises(OSError, match=text) as caught:
            await dc.connect(address, timeout=0.2)
        assert 0.19 < clock() - start < 2
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)

    run(main())


def test_the_timeout_comes_from_the_options_where_none_is_given(run):
    async def main():
        options = dc.CommOptions(timeouts=dc.Timeouts(connect=0.05))
        with pytest.raises(OSError, match=r"after 0\.05 s"):
            await dc.connect(f"tcp://127.0.0.1:{free_port()}", options=options)

    run(main())


def test_a_server_that_stays_silent_is_tried_again_until_time_is_up(run):
    async def main():
        async with RawServer() as server:
            async with asyncio.timeout(5):
                with pytest.raises(
                    OSError, match=r"after 0\.3 s: it is connected, and no hello came"
                ) as caught:
                    await dc.connect(server.address, timeout=0.3)
            assert isinstance(caught.value.__cause__, TimeoutError)
            assert 2 <= server.connections <= 6

    run(main())


def test_a_first_attempt_that_hangs_leaves_time_for_a_second(run):
    """The first connection is to a server that never answers, which is then replaced."""

    async def main():
        async with RawServer() as server:
            connecting = asyncio.create_task(dc.connect(server.address, timeout=5))
            await until(lambda: server.connections)
        async with dc.listen(server.address, echo):
            comm = await connecting
            await comm.close()

    run(main())


def test_a_listener_that_starts_late_is_found(run):
    address = f"tcp://127.0.0.1:{free_port()}"

    async def main():
        connecting = asyncio.create_task(check_echo(address))
        await asyncio.sleep(0.05)  # attempts fail meanwhile
        assert not connecting.done()
        async with dc.listen(address, echo):
            await connecting

    run(main())


def test_an_unknown_host_is_an_oserror_with_its_cause(run):
    async def main():
        with pytest.raises(OSError, match="Timed out trying to connect to tcp://") as caught:
            await dc.connect("tcp://no-such-host.invalid:80", timeout=0.3)
        assert isinstance(caught.value.__cause__, OSError)

    run(main())


# Arguments


def test_arguments_reach_the_comm(run):
    async def main():
        async with dc.listen(LOOPBACK, echo, connection_args={"trusted": True}) as listener:
            address = listener.contact_address
            comms = [
                await dc.connect(address, connection_args={"trusted": True}),
                await dc.connect(address, trusted=True, name="mine"),
                await dc.connect(address, connection_args={"trusted": True}, trusted=False),
                await dc.connect(address.removeprefix("tcp://")),
            ]
            assert [comm.trusted for comm in comms] == [True, True, False, False]
            assert [comm.name for comm in comms] == [None, "mine", None, None]
            await comms[0].write({1, frozenset({2})})
            assert await comms[0].read() == {1, frozenset({2})}
            await asyncio.gather(*(comm.close() for comm in comms))

    run(main())


def test_pickles_pass_through_unopened_where_that_is_wanted(run):
    async def main():
        async with (
            dc.listen(LOOPBACK, echo, deserialize=False, trusted=True) as listener,
            await dc.connect(listener.contact_address, trusted=True) as comm,
        ):
            await comm.write({"set": frozenset({1})})
            assert await comm.read() == {"set": frozenset({1})}

    run(main())


# Cancellation


async def warm_up() -> None:
    """Have a loop open what it keeps, such as libuv's spare descriptor."""
    async with dc.listen(LOOPBACK, echo) as listener:
        await check_echo(listener.contact_address)


@needs_proc
@pytest.mark.parametrize("kind", ["a listener of ours", "a silent server"])
def test_a_connect_cancelled_at_any_turn_leaves_nothing_behind(run, kind):
    chance = random.Random(3)

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def check(address):
        for turns in [*range(25), *(chance.randrange(25) for _ in range(25))]:
            before, tasks = count(), len(asyncio.all_tasks())
            connecting = asyncio.create_task(dc.connect(address))
            await settle(turns)
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await (await connecting).close()  # it was done before
            await until(lambda b=before, t=tasks: count() <= b and len(asyncio.all_tasks()) <= t)

    async def main():
        await warm_up()
        if kind == "a silent server":
            with socket.create_server(("127.0.0.1", 0)) as server:
                await check(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        else:
            async with dc.listen(LOOPBACK, echo) as listener:
                await check(listener.contact_address)
                await check_echo(listener.contact_address)

    run(main())


@needs_proc
def test_a_refused_handshake_leaves_no_socket(run):
    async def main():
        await warm_up()
        async with RawServer(OUR_HELLO[:-1] + b"\xc1") as server:
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(dc.RemoteProtocolError):
                await dc.connect(server.address)
            await settle()
            assert len(os.listdir("/proc/self/fd")) == before + 1  # the server's own end

    run(main())
