"""Messages that are pushed, and sockets that are passed in."""

import asyncio
import socket

import pytest
from loops import until
from peers import LOOPBACK, check_echo, echo, pair

import distributed_comm as dc
from distributed_comm.serialize.encoding import dumps


def test_pushed_messages_arrive_in_order_without_a_reader(run, kernels):
    async def main():
        async with pair() as (client, server):
            await client.write(0)
            await client.write(1)
            await until(lambda: server.stats()["messages_received"] == 2)  # they wait
            got = []
            channel = server._channel
            channel.push(got.append)
            assert got == [dumps(0), dumps(1)]
            for number in range(2, 500):
                await client.write(number)
            await until(lambda: len(got) == 500)
            assert got == [dumps(number) for number in range(500)]
            assert server.stats()["messages_received"] == 500
            await client.close()
            await until(lambda: got[-1] is None)
            assert len(got) == 501

    run(main())


def test_a_receiver_can_answer_in_the_callback_and_hand_the_rest_to_a_reader(run):
    async def main():
        async with pair() as (client, server):
            channel = server._channel

            def answer(frames):
                channel.send(frames)
                channel.push(None)

            channel.push(answer)
            for number in range(3):
                await client.write(number)
            assert await client.read() == 0
            assert [await server.read(), await server.read()] == [1, 2]

    run(main())


def test_a_receiver_that_fails_is_reported_and_ends_the_connection(run):
    async def main():
        reported = []
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        async with pair() as (client, server):
            server._channel.push(lambda frames: 1 // 0 if frames else None)
            await client.write("x")
            with pytest.raises(dc.CommClosedError):
                await client.read()
        loop.set_exception_handler(before)
        assert [type(exc) for exc in reported] == [ZeroDivisionError]

    run(main())


def test_nobody_pushes_under_a_reader(run):
    async def main():
        async with pair() as (client, server):
            reading = asyncio.create_task(server.read())
            await asyncio.sleep(0)
            with pytest.raises(dc.LocalProtocolError):
                server._channel.push(print)
            await client.write("unharmed")
            assert await reading == "unharmed"

    run(main())


def test_a_listener_takes_over_sockets_that_are_bound(run):
    async def main():
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        args = {"sockets": [sock]}
        async with dc.listen(LOOPBACK, echo, connection_args=args) as listener:
            assert listener.listen_address == f"tcp://127.0.0.1:{port}"
            await check_echo(listener.contact_address)
        assert sock.fileno() == -1

    run(main())
