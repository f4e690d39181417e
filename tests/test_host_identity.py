"""An address of a machine to itself means another listener on each machine, and a proof says so."""

import asyncio
import itertools
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
from peers import LOOPBACK

import distributed_comm as dc
from distributed_comm._trust import host_identity

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
KEY = {"key": "that of both machines"}


@pytest.fixture(autouse=True)
def forgetful():
    """Nothing that one test made of this machine is kept for the next."""
    caches = host_identity._digest, host_identity._boot, host_identity._network_of_process
    yield [cache.cache_clear() for cache in caches]
    for cache in caches:
        cache.cache_clear()


def endpoint(host, *, same_host=False):
    with socket.socket() as sock:
        return host_identity.ip_endpoint(sock, (host, 8786), same_host=same_host)


# What it says


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1"])
def test_an_address_of_a_machine_to_itself_says_which_one(host):
    address, _, where = endpoint(host).rpartition(" ")
    assert address == (f"[{host}]:8786" if ":" in host else f"{host}:8786")
    assert len(where) == 16
    assert endpoint(host) == endpoint(host)


def test_an_address_in_both_families_is_one():
    assert endpoint("::ffff:127.0.0.1") == endpoint("127.0.0.1")
    assert endpoint("::ffff:10.0.0.1") == endpoint("10.0.0.1")
    assert endpoint("fe80::1%eth0") == "[fe80::1]:8786"


@pytest.mark.parametrize("host", ["10.0.0.1", "172.17.0.2", "2001:db8::1", "128.0.0.1"])
def test_another_address_says_so_only_where_both_ends_have_it(host):
    assert " " not in endpoint(host)
    assert endpoint(host, same_host=True).partition(" ")[0] == endpoint(host)
    assert " " in endpoint(host, same_host=True)


@on_linux
def test_what_the_machine_is_told_by_cannot_be_read_from_it(monkeypatch):
    said = endpoint("127.0.0.1") + host_identity.unix_endpoint(1)
    assert host_identity._boot().decode() not in said
    assert host_identity._boot().decode().partition("-")[0] not in said
    here = host_identity.unix_endpoint(1)
    host_identity._digest.cache_clear()
    monkeypatch.setattr(host_identity, "_boot", lambda: b"another")
    assert host_identity.unix_endpoint(1) != here
    assert host_identity.unix_endpoint(1).startswith("uid 1 ")


@on_linux
def test_a_kernel_that_does_not_tell_of_sockets_tells_of_processes(monkeypatch):
    monkeypatch.setattr(host_identity, "SO_NETNS_COOKIE", 9999)
    namespace = os.stat("/proc/self/ns/net")
    with socket.socket() as sock:
        assert host_identity._network(sock) == f"{namespace.st_dev} {namespace.st_ino}".encode()


def test_a_system_that_tells_nothing_is_as_good_as_any_other(monkeypatch, run):
    def tells_nothing(*_):
        raise FileNotFoundError

    monkeypatch.setattr(host_identity, "SO_NETNS_COOKIE", 9999)
    monkeypatch.setattr(host_identity, "stat", tells_nothing)
    monkeypatch.setattr(host_identity.Path, "read_bytes", tells_nothing)
    assert run(who_trusts(LOOPBACK)) == (True, True)


# What follows from it


async def who_trusts(address):
    """Return whether a listener and its dialler trust each other."""
    served = asyncio.get_running_loop().create_future()
    async with dc.listen(address, served.set_result, **KEY) as listener:
        client = await dc.connect(listener.contact_address, 5, **KEY)
        server = await served
        client.abort()
        server.abort()
        return server.trusted, client.trusted


FAMILIES = [LOOPBACK, pytest.param("tcp://[::1]:0", marks=pytest.mark.skipif(
    not socket.has_ipv6, reason="needs IPv6"))]  # fmt: skip


@pytest.mark.parametrize("address", FAMILIES)
def test_two_ends_on_two_machines_do_not_believe_each_other_and_say_why(
    run, caplog, monkeypatch, address
):
    assert run(who_trusts(address)) == (True, True)
    assert caplog.records == []
    numbers = itertools.count()
    monkeypatch.setattr(host_identity, "_network", lambda sock: b"%d" % next(numbers))
    assert run(who_trusts(address)) == (False, False)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert all("is not where the other one believes" in text for text in texts)


RELAY = """
import asyncio, socket, sys

async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()

async def join(reader, writer):
    if sys.argv[1] == "near":
        there = await asyncio.open_unix_connection(sys.argv[2])
    else:
        there = await asyncio.open_connection("127.0.0.1", 8786)
    await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

async def main():
    if sys.argv[1] == "near":
        server = await asyncio.start_server(join, "127.0.0.1", 8786)
    else:
        server = await asyncio.start_unix_server(join, sys.argv[2])
    print("ready", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""

LISTENING = """
import asyncio
import distributed_comm as dc

async def handle(comm):
    print(comm.trusted, flush=True)
    await comm.close()

async def main():
    async with dc.listen("tcp://127.0.0.1:8786", handle, key="that of both machines"):
        print("ready", flush=True)
        await asyncio.Event().wait()

dc.run(main())
"""

DIALLING = """
import distributed_comm as dc

async def main():
    async with await dc.connect("tcp://127.0.0.1:8786", 10, key="that of both machines") as comm:
        print(comm.trusted)

dc.run(main())
"""


@pytest.fixture
def machines():
    """Two network namespaces, each with a loopback of its own; the value is their names."""
    names = [f"dc-host-{which}-{os.getpid()}" for which in "ab"]
    with ExitStack() as stack:
        for name in names:
            try:
                subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
                stack.callback(subprocess.run, ["ip", "netns", "del", name], check=True)
                up = ["ip", "-n", name, "link", "set", "lo", "up"]
                subprocess.run(up, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as exc:
                pytest.skip(f"no network namespaces here: {exc}")
        yield names


@pytest.mark.skipif(not shutil.which("ip"), reason="makes network namespaces")
def test_one_who_takes_a_port_here_and_passes_on_to_the_same_port_there_shows(machines, tmp_path):
    """Who does so has both ends see 127.0.0.1:8786, each its own."""
    here, there = machines
    pipe = subprocess.PIPE

    def start(machine, script, *args):
        command = ["ip", "netns", "exec", machine, sys.executable, "-c", script, *args]
        process = stack.enter_context(subprocess.Popen(command, stdout=pipe, text=True))
        stack.callback(process.kill)
        return process

    with ExitStack() as stack:
        listening = start(there, LISTENING)
        assert listening.stdout.readline() == "ready\n"
        for machine, role in ((there, "far"), (here, "near")):
            relay = start(machine, RELAY, role, str(tmp_path / "between"))
            assert relay.stdout.readline() == "ready\n"
        for machine, trusted in ((there, "True\n"), (here, "False\n")):
            said, _ = start(machine, DIALLING).communicate(timeout=30)
            assert said == trusted
            assert listening.stdout.readline() == trusted
