"""tls:// with Dask itself at the other end, either way round."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest
from certificates import ca_text, issue, secure, texts
from messages import PLAIN, tag
from peers import echo

import distributed_comm as dc

distributed = pytest.importorskip("distributed")
protocol = pytest.importorskip("distributed.protocol")

LOOPBACK = "tls://127.0.0.1:0"


@pytest.fixture
def security(tmp_path):
    """Dask's Security, of the same CA as ours."""
    paths = {}
    for name, text in {"ca": ca_text(), **texts(issue())}.items():
        paths[name] = tmp_path / f"{name}.pem"
        paths[name].write_text(text)
    roles = ("client", "scheduler", "worker")
    certificates = {f"tls_{role}_cert": str(paths["cert"]) for role in roles}
    keys = {f"tls_{role}_key": str(paths["key"]) for role in roles}
    return distributed.Security(
        tls_ca_file=str(paths["ca"]), require_encryption=True, **certificates, **keys
    )


async def dask_echo(comm):
    try:
        while True:
            await comm.write(await comm.read())
    except distributed.comm.CommClosedError:
        await comm.close()
    finally:
        comm.abort()


@asynccontextmanager
async def ours_to_dask(security):
    listening = security.get_listen_args("scheduler")
    async with (
        distributed.comm.listen(LOOPBACK, dask_echo, **listening) as listener,
        await dc.connect(listener.contact_address, security=secure()) as comm,
    ):
        yield comm


@asynccontextmanager
async def dask_to_ours(security):
    async with dc.listen(LOOPBACK, echo, security=secure()) as listener:
        arguments = security.get_connection_args("client")
        comm = await distributed.comm.connect(listener.contact_address, **arguments)
        yield comm
        await comm.close()


@pytest.mark.parametrize("connect", [ours_to_dask, dask_to_ours])
def test_messages_go_there_and_back(run, connect, security):
    async def main():
        async with connect(security) as comm:
            for message in PLAIN:
                await comm.write(message)
                assert tag(await comm.read()) == tag(message)
            array = np.arange(3 << 20)
            if connect is ours_to_dask:
                await comm.write({"array": array})
            else:
                await comm.write({"array": protocol.to_serialize(array)})
            assert np.array_equal((await comm.read())["array"], array)

    run(main())


def test_a_dask_peer_with_a_certificate_is_trusted_and_its_end_is_clean(run, security):
    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(LOOPBACK, served.set_result, security=secure()) as listener:
            arguments = security.get_connection_args("client")
            theirs = await distributed.comm.connect(listener.contact_address, **arguments)
            ours = await served
        assert ours.trusted
        await theirs.write({"set": {1, 2}, "array": protocol.to_serialize(np.arange(3))})
        await theirs.close()
        assert (await ours.read())["set"] == {1, 2}
        assert [message async for message in ours] == []  # no error
        await ours.close()

    run(main())


def test_our_close_is_an_end_to_a_dask_peer(run, security):
    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(LOOPBACK, served.set_result, security=secure()) as listener:
            arguments = security.get_connection_args("client")
            theirs = await distributed.comm.connect(listener.contact_address, **arguments)
            ours = await served
        await ours.write("last")
        closing = asyncio.create_task(ours.close())
        assert await theirs.read() == "last"
        with pytest.raises(distributed.comm.CommClosedError):
            await theirs.read()
        await closing

    run(main())


def test_dasks_own_contexts_can_be_passed(run):
    async def main():
        temporary = distributed.Security.temporary()
        listening = temporary.get_listen_args("worker")
        dialling = temporary.get_connection_args("client")
        async with (
            dc.listen(LOOPBACK, echo, connection_args=listening) as listener,
            await dc.connect(listener.contact_address, connection_args=dialling) as comm,
        ):
            assert comm.trusted
            await comm.write("hello")
            assert await comm.read() == "hello"
        async with dc.Server(connection_args=dialling) as server:
            await server.listen(LOOPBACK, **listening)
            assert await server.rpc(server.address).echo(data={1}) == {1}

    run(main())


def test_plain_to_a_dask_listener_of_tls(run, security):
    async def main():
        listening = security.get_listen_args("scheduler")
        async with distributed.comm.listen(LOOPBACK, dask_echo, **listening) as listener:
            address = listener.contact_address.replace("tls://", "tcp://")
            with pytest.raises(OSError, match=r"Timed out .*; it may expect tls://"):
                await dc.connect(address, timeout=0.5)

    run(main())


def test_a_dask_peer_of_another_ca_is_refused(run, security):
    async def main():
        async with dc.listen(LOOPBACK, echo, security=secure(ca="others")) as listener:
            arguments = security.get_connection_args("client")
            with pytest.raises(OSError, match=r"Timed out|SSL|closed"):
                await distributed.comm.connect(listener.contact_address, timeout=1, **arguments)

    run(main())
