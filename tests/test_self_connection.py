"""Dialling a port on which nobody listens, from that very port: TCP connects it to itself."""

import asyncio
import errno
import socket

import pytest
from loops import until

import distributed_comm as dc
from distributed_comm._transports import ip_sockets as sockets

LOOPBACKS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


def unused_port():
    """Return a port that nobody has, over IPv4 and IPv6."""
    for _ in range(100):
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                socket.create_server(("::1", port), family=socket.AF_INET6).close()
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:
                    continue
            return port
    raise AssertionError("no port is free")


@pytest.fixture
def attempts():
    """What was dialled."""
    return []


@pytest.fixture
def port(monkeypatch, attempts):
    """Have sockets dial from the port that they are about to dial, as chance has it."""
    port, tune = unused_port(), sockets.tune
    hosts = dict(LOOPBACKS)

    def tune_and_bind(sock):
        attempts.append(sock.family)
        tune(sock)
        sock.bind((hosts[sock.family], port))

    monkeypatch.setattr(sockets, "tune", tune_and_bind)
    return port


def check_free(port):
    """Check that a server can have the port, even one that does not set SO_REUSEADDR."""
    for family, host in LOOPBACKS:
        with socket.socket(family) as sock:
            sock.bind((host, port))
            sock.listen()


@pytest.mark.parametrize("scheme", ["tcp", "certified", "sentinel"])
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "both.example"])
def test_it_is_refused_and_reset(run, scheme, host, port, certified, monkeypatch):
    found = [(family, (address, port)) for family, address in LOOPBACKS]

    async def lookup(name, port):
        here = dict(zip(["127.0.0.1", "::1"], found, strict=True))
        return [here[name]] if name in here else found

    monkeypatch.setattr(sockets, "lookup", lookup)

    async def main():
        with pytest.raises(OSError, match=r"refused by .*:\d+"):
            await dc.connect(f"{scheme}://{host}:{port}", timeout=0.2)
        check_free(port)

    run(main())


def test_a_call_to_a_server_that_restarts_waits_for_the_server(run, port, attempts, monkeypatch):
    async def main():
        address = f"tcp://127.0.0.1:{port}"
        async with dc.rpc(address, timeout=20) as remote:
            calling = asyncio.ensure_future(remote.identity())
            await until(lambda: len(attempts) == 3)
            assert not calling.done()
            monkeypatch.undo()
            server = dc.Server()
            server.listen(address)
            async with server:
                assert (await calling)["id"] == server.id

    run(main())


def test_a_connection_to_the_same_port_elsewhere_is_none(run, port):
    """Only the two ends of one connection are compared, and not the ports alone."""

    async def main():
        with socket.socket() as there:
            there.bind(("127.0.0.2", port))
            there.listen()
            sock = await sockets.dial(
                asyncio.get_running_loop(), [(socket.AF_INET, ("127.0.0.2", port))]
            )
            assert sock.getsockname() == ("127.0.0.1", port)
            sock.close()

    run(main())
