"""Crowds of strangers lock no trusted peer out, and use up no descriptors of the program's."""

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
from loops import LOOPS
from peers import DASK_HELLO, LOOPBACK

import distributed_comm as dc
from distributed_comm._connection.dial import SocketConnector
from distributed_comm._loops import descriptors

resource = pytest.importorskip("resource")  # Windows
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="lowers a limit, reads /proc")

#: Descriptors of the server's process, and strangers that dial it again and again.
FEW, MANY = 256, 300
#: What are never all in use: one connection is accepted at the limit, one descriptor counts them.
MOST = FEW - descriptors.RESERVE + 3
KEY = "what trusted peers hold"

SERVER = """
import asyncio, json, logging, os, resource, sys
sys.path.insert(0, {folder!r})
import distributed_comm as dc
from distributed_comm._transports import unix_sockets
from loops import LOOPS

resource.setrlimit(resource.RLIMIT_NOFILE, ({few}, {few}))
logging.basicConfig(level=logging.ERROR)
unix_sockets.uid_is_ours = lambda uid: False  # so that on unix, too, the key alone tells
published = asyncio.Event()


def open_files():
    for file in [open(os.devnull) for _ in range(20)]:
        file.close()
    return len(os.listdir("/proc/self/fd"))


async def subscribe():
    yield "first"
    await published.wait()
    yield "second"


def publish():
    published.set()


async def main():
    arguments = json.loads(sys.argv[1])
    pem = os.environ.get("PEM")
    if pem:
        arguments["security"] = dc.Security(ca=pem, cert=pem, key=None, mutual=False)
    async with dc.Server([open_files, subscribe, publish], **arguments) as server:
        await server.listen(sys.argv[2])
        print(server.listen_address, flush=True)
        await asyncio.Event().wait()


with asyncio.Runner(loop_factory=LOOPS[sys.argv[3]]) as runner:
    runner.run(main())
"""

#: Strangers of three kinds: silent, with a hello and no more, and with a call.
STRANGERS = """
import asyncio, ssl, sys
sys.path.insert(0, {folder!r})
import distributed_comm as dc
from peers import DASK_HELLO, pack

address, count = sys.argv[1], int(sys.argv[2])
KINDS = [b"", DASK_HELLO, DASK_HELLO + pack({{"op": "echo", "data": 1, "reply": True}})]
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CONTEXT.check_hostname, CONTEXT.verify_mode = False, ssl.CERT_NONE
dialled = 0


async def dial():
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix://"))
    host, port = dc.get_address_host_port(address)
    return await asyncio.open_connection(host, port, ssl=CONTEXT if "tls:" in address else None)


async def be_a_stranger(words):
    global dialled
    while True:
        try:
            reader, writer = await dial()
            dialled += 1
            if dialled == 2 * count:
                print("a crowd", flush=True)
            writer.write(words)
            while await reader.read(65536):
                pass
            writer.close()
        except OSError:
            pass
        await asyncio.sleep(0.1 if "tls:" in address else 0)


async def main():
    await asyncio.gather(*(be_a_stranger(KINDS[n % len(KINDS)]) for n in range(count)))


asyncio.run(main())
"""


@pytest.fixture
def dials(monkeypatch):
    """Count the attempts to connect, without those that never left the kernel."""
    made = []
    connect = SocketConnector.connect

    async def counted(*args, **kwargs):
        made.append(args)
        try:
            return await connect(*args, **kwargs)
        except BlockingIOError:  # the backlog of a Unix socket is full: no listener has heard of it
            made.pop()
            raise

    monkeypatch.setattr(SocketConnector, "connect", counted)
    return made


class Processes:
    """The processes of a test, and what the clients in this one pass to `connect`."""

    def __init__(self, stack, folder, scheme):
        self._stack, self._folder = stack, folder
        self._environment = os.environ | {"DISTRIBUTED_COMM_KEY": KEY}
        self.arguments = {"timeout": 60}
        if scheme == "tls":
            made = dc.Security.temporary()
            self._environment["PEM"] = f"{made.cert}{made.key}"
            self.arguments["security"] = dc.Security(
                ca=made.cert, server_hostname=made.server_hostname
            )

    def start(self, script, *args) -> str:
        """Return the first line that it prints."""
        script = script.format(folder=self._folder, few=FEW)
        process = subprocess.Popen(
            [sys.executable, "-c", script, *args],
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self._stack.callback(process.stdout.close)
        return process.stdout.readline().strip()


LAST = [*LOOPS][-1]  # uvloop, if it is installed
#: Not every combination: each takes some seconds of two cores.
COMBINATIONS = [
    *((LOOPBACK, required, loop) for required in (False, True) for loop in LOOPS),
    ("unix://", False, LAST),
    ("unix://", True, "asyncio"),
    ("tls://127.0.0.1:0", False, "asyncio"),
    ("tls://127.0.0.1:0", True, LAST),
]


@on_linux
@pytest.mark.timeout(180)  # beside others on two cores
@pytest.mark.parametrize(("address", "require_trust", "loop"), COMBINATIONS)
def test_three_hundred_strangers_do_not_keep_trusted_peers_out(
    address, require_trust, loop, dials, pytestconfig
):
    async def main(processes, address):
        arguments = processes.arguments
        async with dc.rpc(address, key=KEY, **arguments) as established:
            await established.open_files()
            stranger = None if require_trust else dc.rpc(address, key="another", **arguments)
            if stranger is not None:
                items = aiter(stranger.subscribe.stream())
                assert await anext(items) == "first"
            assert processes.start(STRANGERS, address, str(MANY)) == "a crowd"
            dials.clear()
            comms = []
            for number in range(20):
                comms.append(await dc.connect(address, key=KEY, **arguments))
                assert len(dials) == number + 1  # at the first attempt
                assert await established.open_files() < MOST  # a handler's open() works
            for comm in comms:  # none of these was closed for a stranger, idle as they were
                assert comm.trusted
                await dc.send_recv(comm, op="open_files")
                await comm.close()
            if stranger is not None:
                await established.publish()  # nor was one who waits for the next item
                assert await anext(items) == "second"
                await items.aclose()
                await stranger.close_rpc()

    with ExitStack() as stack:
        processes = Processes(stack, str(pytestconfig.rootpath / "tests"), address[:3])
        given = json.dumps({"require_trust": require_trust})
        bound = processes.start(SERVER, given, address, loop)
        asyncio.run(asyncio.wait_for(main(processes, bound), 150))


@on_linux
@pytest.mark.parametrize("loop", LOOPS)
def test_the_reserve_is_kept_where_everybody_is_trusted_and_nobody_can_go(loop, pytestconfig):
    async def main(address):
        async with dc.rpc(address, timeout=60) as established:
            await established.open_files()
            with ExitStack() as stack:
                place = dc.get_address_host_port(address)
                for _ in range(MANY):
                    peer = stack.enter_context(socket.create_connection(place))
                    peer.sendall(DASK_HELLO)
                while await established.open_files() < MOST - 3:  # noqa: ASYNC110 - until full
                    await asyncio.sleep(0)
                for _ in range(20):
                    assert await established.open_files() <= MOST
            await (await dc.connect(address, timeout=60)).close()  # accepting goes on

    with ExitStack() as stack:
        processes = Processes(stack, str(pytestconfig.rootpath / "tests"), "tcp")
        address = processes.start(SERVER, json.dumps({"trusted": True}), LOOPBACK, loop)
        asyncio.run(asyncio.wait_for(main(address), 50))


HOG = """
import asyncio, json, logging, os, resource, sys
sys.path.insert(0, {folder!r})
import distributed_comm as dc
from loops import LOOPS

resource.setrlimit(resource.RLIMIT_NOFILE, ({few}, {few}))
logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
files = []


def hog():
    try:
        while True:
            files.append(open(os.devnull))
    except OSError as exc:
        return exc.errno


async def main():
    async with dc.Server([hog]) as server:
        await server.listen("tcp://127.0.0.1:0")
        print(server.listen_address, flush=True)
        await asyncio.Event().wait()


with asyncio.Runner(loop_factory=LOOPS[sys.argv[1]]) as runner:
    runner.run(main())
"""


@on_linux
@pytest.mark.timeout(180)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_program_that_uses_up_its_descriptors_still_gets_its_trusted_peers_in(
    loop, dials, pytestconfig
):
    """Its idle strangers give theirs back, one for one."""

    async def main(address):
        arguments = {"timeout": 60, "key": KEY}
        strangers = [await dc.connect(address, key="another", timeout=60) for _ in range(40)]
        first = await dc.connect(address, **arguments)
        assert await dc.send_recv(first, op="hog") == errno.EMFILE
        dials.clear()
        comms = [await dc.connect(address, **arguments) for _ in range(20)]
        assert len(dials) == 20
        for comm in [first, *comms]:
            assert (await dc.send_recv(comm, op="identity"))["type"] == "Server"
        with pytest.raises(dc.CommClosedError) as ended:  # the one that was idle longest
            await strangers[0].read()
        assert ended.value.clean
        assert not strangers[-1].closed()
        for comm in [first, *comms, *strangers]:
            comm.abort()

    with ExitStack() as stack:
        processes = Processes(stack, str(pytestconfig.rootpath / "tests"), "tcp")
        asyncio.run(asyncio.wait_for(main(processes.start(HOG, loop)), 150))
