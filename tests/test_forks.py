"""Forks: what a child has of its parent's connections, and who hears that the parent is gone."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from certificates import ca_text, issue, secure, texts
from forking import KINDS, forking
from loops import needs_proc, until
from peers import echo, pair, port_of

import distributed_comm as dc
from distributed_comm._loops import forks

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

#: Seconds within which somebody has to hear of an end; timeouts of the library are longer.
PROMPT = 4

each_place = pytest.mark.parametrize("place", ["tcp", "unix", "tls", "sentinel"])
ADDRESSES = ["unix://", *(f"{s}://127.0.0.1:0" for s in ("tcp", "certified", "sentinel"))]
each_address = pytest.mark.parametrize("address", ADDRESSES)


@pytest.fixture
def loop(request, run):
    return request.node.callspec.params["run"]


@pytest.fixture
def certificates(tmp_path):
    path = tmp_path / "certificates"
    path.write_text(json.dumps({"ca": ca_text(), **texts(issue())}))
    return path


def at(place, certificates):
    """Return an address for a scheme, what listen and rpc want there, and the file of it."""
    address = "unix://" if place == "unix" else f"{place}://127.0.0.1:0"
    return (
        (address, {"security": secure()}, certificates) if place == "tls" else (address, {}, None)
    )


def open_sockets():
    """Return the sockets of this process, as the system numbers them, and their descriptors."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # that of the folder itself
            continue
        if target.startswith("socket:"):
            found[target] = int(name)
    return found


def status_of_child(check):
    """Return how a forked child ended that did this: 0 if it did not raise."""
    child = os.fork()
    if not child:
        try:
            check()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


# -- the parent is gone, and its children live ---------------------------------------------

ways = pytest.mark.parametrize(
    ("place", "kind", "threaded"),
    [
        *((place, "fork", False) for place in ("tcp", "unix", "tls", "sentinel")),
        *(("tcp", kind, False) for kind in KINDS if kind != "fork"),
        ("tcp", "fork", True),
        ("unix", "multiprocessing", True),
    ],
)


@ways
def test_the_clients_of_a_killed_server_hear_of_it(run, loop, place, kind, threaded, certificates):
    address, arguments, file = at(place, certificates)
    grandchildren = kind == "fork"

    async def main(process):
        address = (await asyncio.to_thread(process.stdout.readline)).strip()
        async with dc.rpc(address, **arguments) as remote:
            calls = [remote.wait(), remote.fork(kind=kind, threaded=threaded)]
            calls = [asyncio.ensure_future(call) for call in calls]
            await until(lambda: len(family_of(process.pid)) == 1 + grandchildren)
            children = family_of(process.pid)
            process.kill()
            try:
                async with asyncio.timeout(PROMPT):
                    with pytest.raises(dc.CommClosedError):
                        await calls[0]
                    await asyncio.wait(calls)
                calls[1].exception()
                with pytest.raises(OSError, match=r"refused|No such file"):
                    await dc.connect(address, timeout=0.3, **arguments)
                async with dc.listen(address, echo, **arguments):
                    pass
            finally:
                for child in children:
                    os.kill(child, signal.SIGKILL)  # it must be there

    with forking("serve", loop, address, file) as process:
        run(main(process))


def family_of(parent):
    """Return the children of a process, and theirs."""
    found = []
    for thread in os.listdir(f"/proc/{parent}/task"):
        with open(f"/proc/{parent}/task/{thread}/children") as file:
            found += map(int, file.read().split())
    return found + [other for child in found for other in family_of(child)]


@each_place
@pytest.mark.parametrize("how", ["abort", "die"])
def test_a_stream_ends_that_a_client_with_a_child_leaves(run, loop, place, how, certificates):
    address, arguments, file = at(place, certificates)

    async def main():
        ended = asyncio.Event()

        async def ticks():
            try:
                while True:
                    yield 0
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        server = dc.Server({"ticks": ticks})
        await server.listen(address, **arguments)
        async with server:
            with forking("leave", loop, server.address, file) as process:
                await asyncio.to_thread(process.stdout.readline)
                assert not ended.is_set()
                print(how, file=process.stdin, flush=True)
                async with asyncio.timeout(PROMPT):
                    await ended.wait()

    run(main())


@each_place
def test_a_listener_that_was_bound_is_started_in_the_children(run, loop, place, certificates):
    address, arguments, file = at(place, certificates)

    async def main():
        with forking("prefork", loop, address, file) as process:
            address_there = (await asyncio.to_thread(process.stdout.readline)).strip()
            children = set(family_of(process.pid))
            assert len(children) == 3
            process.kill()
            served = set()
            while served < children:
                async with await dc.connect(address_there, timeout=5, **arguments) as comm:
                    child = await comm.read()
                served.add(child)
                os.kill(child, signal.SIGKILL)

    run(main())


# -- in the child --------------------------------------------------------------------------

AT_EXIT = """
import asyncio, gc, os, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import distributed_comm as dc
from loops import LOOPS
from peers import check_echo, echo, pair
from test_forks import open_sockets
from distributed_comm import registry

registry._BUILT_IN["certified"] = ("schemes", "CertifiedBackend")
files = []

async def live_on():
    async with dc.listen("tcp://127.0.0.1:0", echo) as listener:
        await check_echo(listener.contact_address)

async def main():
    before = open_sockets()
    async with pair({address!r}) as (client, server):
        reading = asyncio.create_task(server.read())
        await asyncio.sleep(0)
        ours = open_sockets().keys() - before.keys()
        assert len(ours) == 2, ours
        if not os.fork():
            assert not ours & open_sockets().keys()
            assert client.closed() and server.closed()
            files.extend(open(__file__) for _ in range(40))
            with asyncio.Runner(loop_factory=LOOPS[{loop!r}]) as runner:
                runner.run(live_on())
            gc.collect()
            raise SystemExit(0)  # through the parent's Runner: it closes the copy of the loop
        assert os.wait()[1] == 0
        for number in range(3):
            await client.write("unharmed")
            assert await (reading if not number else server.read()) == "unharmed"
            await server.write(bytes(3_000_000))
            assert await client.read() == bytes(3_000_000)
        await client.close()

try:
    with asyncio.Runner(loop_factory=LOOPS[{loop!r}]) as runner:
        runner.run(main())
finally:
    gc.collect()
    assert all(Path(f"/proc/self/fd/{{file.fileno()}}").exists() for file in files)
"""


@needs_proc
@each_address
def test_a_child_that_lives_on_and_ends_does_the_parent_no_harm(
    loop, address, tmp_path, pytestconfig
):
    folder = str(pytestconfig.rootpath / "tests")
    script = tmp_path / "script.py"
    script.write_text(AT_EXIT.format(folder=folder, address=address, loop=loop))
    command = [sys.executable, "-W", "ignore::DeprecationWarning", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def name_of(*socks):
    return {f"socket:[{os.fstat(sock.fileno()).st_ino}]" for sock in socks}


@needs_proc
@pytest.mark.parametrize("scheme", ["tcp", "certified", "sentinel"])
def test_a_child_has_no_copy_of_what_is_being_made(run, scheme, certified):
    async def main():
        before = open_sockets().keys()
        async with dc.listen(f"{scheme}://127.0.0.1:0", echo) as listener:
            with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
                # The first is in its handshake, and the second is not even connected.
                there = f"{scheme}://127.0.0.1:{full.getsockname()[1]}"
                dialling = [asyncio.ensure_future(dc.connect(there)) for _ in "12"]
                with socket.create_connection(("127.0.0.1", port_of(listener))) as silent:
                    await until(lambda: len(open_sockets().keys() - before) == 6)
                    ours = open_sockets().keys() - before - name_of(full, silent)

                    def check():
                        assert not ours & open_sockets().keys()

                    assert status_of_child(check) == 0
                    assert ours <= open_sockets().keys()
                for task in dialling:
                    task.cancel()
                await asyncio.wait(dialling)

    run(main())


@pytest.mark.parametrize("address", [*ADDRESSES, "inproc://"])
def test_what_was_the_parents_says_so_in_the_child(run, address, certified):
    def is_refused(coroutine):
        with pytest.raises(dc.LocalProtocolError, match="the process that this was forked from"):
            coroutine.send(None)
        return True

    async def main():
        listener = await dc.listen(address, echo)
        comm = await dc.connect(listener.contact_address)

        def check():
            assert all(
                map(is_refused, [comm.read(), comm.write(1), comm.close(), listener.start()])
            )
            comm.abort()
            listener.stop()
            assert status_of_child(lambda: is_refused(comm.read())) == 0

        assert status_of_child(check) == 0
        await comm.write("unharmed")
        assert await comm.read() == "unharmed"
        await comm.close()
        listener.stop()

    run(main())


def test_no_thread_forks_while_another_one_makes_a_socket(run):
    making, made = threading.Event(), []

    def make():
        with forks.making:
            making.set()
            time.sleep(0.1)
            made.append("a socket")

    async def main():
        async with pair():  # whoever has made none yet does not wait
            thread = threading.Thread(target=make)
            thread.start()
            making.wait()
            child = os.fork()
            if not child:
                os._exit(0 if made and status_of_child(made.pop) == 0 else 1)
            assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 - it is short
            thread.join()

    run(main())


# -- a copy that nobody knows of -----------------------------------------------------------


@needs_proc
@each_address
@pytest.mark.parametrize("how", ["abort", "close", "closed by the peer"])
def test_who_leaves_ends_a_connection_of_which_there_are_copies(run, address, how, certified):
    """As behind a fork by code that Python does not know."""

    async def main():
        before = open_sockets().keys()
        async with pair(address) as (client, server):
            after = open_sockets()
            copies = [os.dup(after[name]) for name in after.keys() - before]
            assert len(copies) == 2
            try:
                async with asyncio.timeout(PROMPT):
                    if how == "abort":
                        client.abort()
                    else:
                        await (client if how == "close" else server).close()
                    with pytest.raises(dc.CommClosedError):
                        await (client if how == "closed by the peer" else server).read()
            finally:
                for copy in copies:
                    os.close(copy)

    run(main())
