"""The address functions that ask a scheme's backend."""

import asyncio
import socket
import time

import pytest

import distributed_comm as dc
from distributed_comm._transports import ip_sockets as sockets

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.mark.parametrize(
    ("address", "resolved"),
    [
        ("tcp://localhost:8786", "tcp://127.0.0.1:8786"),
        ("localhost:8786", "tcp://127.0.0.1:8786"),
        ("tcp://127.0.0.1:8786", "tcp://127.0.0.1:8786"),
        ("tcp://[::1]:8786", "tcp://[::1]:8786"),
        ("tcp://0.0.0.0:8786", "tcp://0.0.0.0:8786"),
        ("tcp://:8786", "tcp://:8786"),
    ],
)
def test_resolve_address(address, resolved, run):
    assert dc.resolve_address(address) == resolved
    assert run(dc.resolve_address_async(address)) == resolved


def test_a_name_resolves_to_ipv4_where_it_has_both(monkeypatch):
    both = [(socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.2", 0))]
    monkeypatch.setattr(sockets, "lookup_now", lambda host, port, numeric: both)
    assert dc.resolve_address("tcp://both:1") == "tcp://127.0.0.2:1"


def test_an_address_is_not_looked_up(monkeypatch):
    monkeypatch.setattr(sockets, "lookup_now", None)
    assert dc.resolve_address("tcp://127.0.0.2:1") == "tcp://127.0.0.2:1"


def test_an_unknown_name_cannot_be_resolved():
    with pytest.raises(OSError, match=r"no-such-host|[Nn]ame|[Nn]o address"):
        dc.resolve_address("tcp://no-such-host.invalid:80")


def test_resolving_leaves_the_loop_running(run, monkeypatch):
    """The look-up goes on until the loop has turned."""
    turned = []

    def slow(addr):
        deadline = time.monotonic() + 10
        while len(turned) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        return f"{addr} after {len(turned)} turns"

    monkeypatch.setattr("distributed_comm._endpoints.resolve_address", slow)

    async def main():
        resolving = asyncio.create_task(dc.resolve_address_async("x"))
        for turn in range(3):
            await asyncio.sleep(0)
            turned.append(turn)
        assert await resolving == "x after 3 turns"

    run(main())


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("tcp://1.2.3.4:80", "1.2.3.4"),
        ("tcp://1.2.3.4", "1.2.3.4"),
        ("1.2.3.4:80", "1.2.3.4"),
        ("tcp://[::1]:80", "::1"),
        ("tcp://[::1]", "::1"),
        ("tcp://[fe80::1%lo]:80", "fe80::1%lo"),
        ("tcp://höst.example:80", "höst.example"),
        ("tcp://0.0.0.0:0", "0.0.0.0"),
        ("tcp://[::]", "::"),
        ("tcp://", ""),
        ("tcp://:80", ""),
        ("", ""),
    ],
)
def test_every_wellformed_address_has_a_host(address, host):
    assert dc.get_address_host(address) == host


@pytest.mark.parametrize(
    ("address", "pair"),
    [
        ("tcp://1.2.3.4:80", ("1.2.3.4", 80)),
        ("1.2.3.4:80", ("1.2.3.4", 80)),
        ("tcp://[::1]:80", ("::1", 80)),
        ("tcp://:0", ("", 0)),
    ],
)
def test_host_and_port(address, pair):
    assert dc.get_address_host_port(address) == pair


def test_host_and_port_of_an_address_without_them():
    with pytest.raises(ValueError, match="port"):
        dc.get_address_host_port("tcp://1.2.3.4")
    with pytest.raises(ValueError, match="has no scheme"):
        dc.get_address_host_port("1.2.3.4:80", strict=True)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("tcp://127.0.0.1:1234", "tcp://127.0.0.1"),
        ("tcp://127.0.0.1", "tcp://127.0.0.1"),
        ("tcp://localhost:1", "tcp://127.0.0.1"),
        ("tcp://[::1]:1234", "tcp://[::1]"),
    ],
)
def test_the_local_address_for_this_machine(address, local):
    assert dc.get_local_address_for(address) == local


@pytest.mark.parametrize("address", ["tcp://", "tcp://0.0.0.0:80", "tcp://[::]:80"])
def test_the_local_address_for_anywhere_is_one_that_can_be_bound(address):
    host = dc.get_address_host(dc.get_local_address_for(address))
    assert host not in {"", "0.0.0.0", "::"}
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((host, 0))


@pytest.mark.parametrize(
    "function",
    [
        *[dc.get_address_host, dc.get_address_host_port, dc.get_local_address_for],
        *[dc.resolve_address],
    ],
)
@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("nope://1.2.3.4:80", r"unknown scheme 'nope', expected one of: .*\btcp\b"),
        ("tcp://::1:80", "IPv6 needs brackets"),
        ("tcp://1.2.3.4:http", "expected a port"),
    ],
)
def test_a_malformed_address_is_refused_by_each(function, address, match):
    with pytest.raises(ValueError, match=match):
        function(address)


def test_a_host_that_no_resolver_takes_is_named():
    with pytest.raises(ValueError, match=r"invalid host 'a\.\.b'"):
        dc.resolve_address("tcp://a..b:80")


# -- addresses that cannot be listened on -------------------------------------------------------


def test_an_address_that_cannot_be_had_is_named(run):
    async def main():
        async with dc.listen("tcp://127.0.0.1:0", print) as listener:
            for address, kind in (
                (listener.listen_address, OSError),  # in use
                ("tcp://192.0.2.1:0", OSError),  # nobody's (RFC 5737)
                ("tcp://name.invalid:0", socket.gaierror),
            ):
                with pytest.raises(kind, match=f"cannot listen on {address}: ") as info:
                    await dc.listen(address, print)
                assert info.value.errno
                with pytest.raises(kind, match=address):
                    dc.Server().listen(address)

    run(main())
