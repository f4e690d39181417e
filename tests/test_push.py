"""Messages that are pushed, and sockets that are passed in."""

import asyncio
import pickle
import socket

import pytest
from loops import until
from peers import LOOPBACK, check_echo, echo, pair

import distributed_comm as dc
from distributed_comm._serialize.encode import dumps


def test_pushed_messages_arrive_in_order_without_a_reader(run, kernels):
    async def main():
        async with pair() as (client, server):
            await client.write(0)
            await client.write(1)
            await until(lambda: server.stats()["messages_received"] == 2)  # they wait
            got = []
            channel = server.channel
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
            channel = server.channel

            def answer(frames):
                channel.send(frames)
                channel.push(None)

            channel.push(answer)
            for number in range(3):
                await client.write(number)
            assert await client.read() == 0
            assert [await server.read(), await server.read()] == [1, 2]

    run(main())


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
def test_a_receiver_that_fails_is_reported_and_ends_the_connection(run, error):
    """A CancelledError, too: it comes from a future that was cancelled."""

    def fail(frames):
        if frames:
            raise error

    async def main():
        reported = []
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        async with pair() as (client, server):
            server.channel.push(fail)
            await client.write("x")
            with pytest.raises(dc.CommClosedError):
                await client.read()
        loop.set_exception_handler(before)
        assert [type(exc) for exc in reported] == [error]

    run(main())


def test_nobody_pushes_under_a_reader(run):
    async def main():
        async with pair() as (client, server):
            reading = asyncio.create_task(server.read())
            await asyncio.sleep(0)
            with pytest.raises(dc.LocalProtocolError):
                server.channel.push(print)
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


# -- messages instead of frames ---------------------------------------------------------------


def test_a_comm_pushes_messages_in_order_and_then_its_end(run, kernels):
    async def main():
        async with pair() as (client, server):
            got = []
            await client.write("before")
            await until(lambda: server.stats()["messages_received"])
            server.push(lambda message, error: got.append(message if error is None else error))
            for number in range(300):
                await client.write({"n": number})
            await until(lambda: len(got) == 301)
            assert got == ["before", *({"n": number} for number in range(300))]
            await client.close()
            await until(lambda: len(got) == 302)
            assert type(got[-1]) is dc.CommClosedError
            server.push(lambda _, error: got.append(error))  # who comes late is told, too
            assert type(got[-1]) is dc.CommClosedError
            assert len(got) == 303

    run(main())


def test_a_message_that_is_not_opened_comes_with_its_error_and_what_is_plain(run):
    async def main():
        async with pair(trusted=(True, False)) as (client, server):
            got = []
            server.push(lambda message, error: got.append((message, error)))
            await client.write({"op": "x", "data": range(3)})
            await client.write("next")
            await until(lambda: len(got) == 2)
            (message, error), second = got
            assert message["op"] == "x"
            assert type(error) is dc.UntrustedError
            assert second == ("next", None)

    run(main())


def test_what_is_decoded_in_a_thread_keeps_its_place(run):
    async def main():
        async with pair(trusted=(True, True)) as (client, server):
            got = []
            server.push(lambda message, error: got.append(message))
            large = Large(bytes(30_000_000))
            for message in ([1, large], 2, [3, large], 4):
                await client.write(message)
            await until(lambda: len(got) == 4)
            assert [each[0] if isinstance(each, list) else each for each in got] == [1, 2, 3, 4]

    run(main())


def test_a_message_under_way_in_a_thread_can_be_read(run):
    async def main():
        async with pair(trusted=(True, True)) as (client, server):
            got = []
            server.push(lambda message, error: got.append(message))
            await client.write([1, Large(bytes(30_000_000))])
            await client.write(2)
            await until(lambda: server._push is not None and server._push._decoding)
            server.push(None)
            assert (await server.read())[0] == 1
            assert await server.read() == 2
            assert not got

    run(main())


class Large:
    """Goes as a pickle that takes long enough to be none of the loop's work."""

    def __init__(self, data):
        self.data = data


def test_sending_returns_what_is_left_to_be_awaited(run):
    async def main():
        async with pair(trusted=(True, True)) as (client, server):
            assert client.send({"small": 1}) is None
            assert await server.read() == {"small": 1}
            data = bytearray(200_000)
            rest = client.send([pickle.PickleBuffer(data)])
            reading = asyncio.ensure_future(server.read())
            await rest
            assert bytes((await reading)[0]) == data
            rest = client.send([1, Large(bytes(30_000_000))])
            reading = asyncio.ensure_future(server.read())
            await rest
            assert len((await reading)[1].data) == 30_000_000

    run(main())


def test_who_takes_one_message_at_a_time_has_the_others_wait_in_the_socket(run):
    async def main():
        async with pair() as (client, server):
            got = []

            def take_one(message, error):
                got.append(message)
                server.push(None)

            async def flood():
                for number in range(400):
                    await client.write({"n": number, "filler": bytes(50_000)})

            flooding = asyncio.ensure_future(flood())
            while len(got) < 20:
                server.push(take_one)
                await asyncio.sleep(0)
            received = -1
            while received != server.stats()["bytes_received"]:  # until it stands still
                received = server.stats()["bytes_received"]
                await asyncio.sleep(0.05)
            assert received < 6_000_000  # twenty messages, and the limit of what may wait
            while len(got) < 400:
                server.push(take_one)
                await asyncio.sleep(0)
            await flooding
            assert [message["n"] for message in got] == list(range(400))

    run(main())
