"""Within one host nothing is paced; between hosts the system's congestion control stays."""

import socket
import sys

import pytest
from peers import pair

import distributed_comm as dc
from distributed_comm._transports import ip_sockets as sockets

ANY, ELSEWHERE = "tcp://0.0.0.0:0", "127.0.0.2"


@pytest.fixture
def unpaced(monkeypatch):
    """The sockets that are not paced any more."""
    unpaced, unpace = [], sockets.unpace

    def record(sock):
        unpace(sock)
        unpaced.append(sock)

    monkeypatch.setattr(sockets, "unpace", record)
    return unpaced


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_CONGESTION is Linux's")
def test_both_ends_of_one_host(run, unpaced):
    async def main():
        async with pair():
            assert len(unpaced) == 2
            for sock in unpaced:
                control = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                assert control.rstrip(b"\0") == b"reno"

    run(main())


def test_not_between_hosts(run, unpaced):
    async def main():
        async with dc.listen(ANY, lambda comm: comm.abort(), trusted=False) as listener:
            _, port = dc.get_address_host_port(listener.listen_address)
            # the system dials it from 127.0.0.1
            async with await dc.connect(f"tcp://{ELSEWHERE}:{port}", trusted=False) as comm:
                assert not comm.same_host
        assert not unpaced

    run(main())


def test_a_system_that_refuses_is_borne_with(monkeypatch):
    monkeypatch.setattr(sockets, "UNPACED", (socket.IPPROTO_TCP, -1, b"reno"))
    with socket.socket() as sock:
        sockets.unpace(sock)
