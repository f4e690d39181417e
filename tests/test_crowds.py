"""A thousand strangers at once, five thousand idle peers, and one who has vanished."""

import asyncio
import gc
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress

import pytest
from loops import LOOPS, until
from peers import OUR_HELLO, check_echo, echo, frame_up

import distributed_comm as dc
from distributed_comm._wire.proof import Proving, Role, derive

resource = pytest.importorskip("resource")  # Windows
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

#: Seconds of a handshake in the test, and how much later than that the last one may be cut.
PATIENCE, GRACE = 2.0, 5.0


@pytest.fixture
def descriptors():
    """Room for a few thousand sockets, where the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4_000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"at most {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def without_a_proof() -> bytes:
    """Return the hello of a peer that says it has a key."""
    return frame_up(Proving(derive(b"none"), Role.DIALLER, "").ours)


#: What a thousand peers send: all of it at once, or a byte now and then.
KINDS = {
    "nothing": (b"", False),
    "a byte now and then": (OUR_HELLO, True),
    "all but the last byte": (OUR_HELLO[:-1], False),
    "a hello, and no proof": (without_a_proof(), False),
}


def test_a_thousand_silent_or_slow_peers_are_cut_in_time_and_disturb_nobody(run, descriptors):
    timeouts = dc.Timeouts(handshake=PATIENCE)
    options = dc.CommOptions(timeouts=timeouts)

    async def main():
        handled = []

        async def handle(comm):
            handled.append(comm)
            await echo(comm)

        async with dc.listen("tcp://127.0.0.1:0", handle, options=options, key="k") as listener:
            address = dc.get_address_host_port(listener.contact_address)
            with ExitStack() as stack:
                crowd = [
                    (dial(stack, address, sent, slow), sent, slow)
                    for sent, slow in list(KINDS.values()) * 250
                ]
                await until(lambda: len(listener._connections) == 1000)
                start = time.monotonic()
                dribbling = asyncio.create_task(dribble(crowd))
                await check_echo(listener.contact_address)
                assert time.monotonic() - start < 1
                assert len(listener._handshakes) == 1000
                await until(lambda: not listener._handshakes)
                assert time.monotonic() - start < PATIENCE + GRACE
                dribbling.cancel()
                assert all(is_cut(sock) for sock, _, _ in crowd)
                assert len(handled) == 1

    run(main())
    gc.collect()


def dial(stack: ExitStack, address, sent: bytes, slow: bool) -> socket.socket:
    sock = stack.enter_context(socket.create_connection(address))
    sock.setblocking(False)
    if not slow:
        sock.sendall(sent)
    return sock


async def dribble(crowd) -> None:
    for number in range(len(OUR_HELLO) - 1):
        for sock, sent, slow in crowd:
            if slow:
                with suppress(OSError):  # it may be cut
                    sock.send(sent[number : number + 1])
        await asyncio.sleep(PATIENCE / 20)


def is_cut(sock: socket.socket) -> bool:
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


# Memory

IDLE = """
import asyncio, gc, resource, sys
from pathlib import Path

role, address, loop, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
sys.path.insert(0, {folder!r})
import distributed_comm as dc
from loops import LOOPS

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def resident():
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def exchange(comms):  # the first message, so that the memory that it takes is counted
    for comm in comms:  # write all before reading: the two sides may have another order
        await comm.write("there")
    for comm in comms:
        await comm.read()


async def listen():
    comms = []
    async with dc.listen(address, comms.append) as listener:
        print(listener.contact_address, flush=True)
        for first, last in ((0, 100), (100, count)):
            while len(comms) < last:
                await asyncio.sleep(0.01)
            await exchange(comms[first:last])
            print(resident(), flush=True)
            await asyncio.to_thread(sys.stdin.readline)


async def dial():
    comms = []
    for number in (100, count):
        opened = [await dc.connect(address) for _ in range(number - len(comms))]
        await exchange(opened)
        comms += opened
        print(resident(), flush=True)
        await asyncio.to_thread(sys.stdin.readline)


with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
    runner.run(listen() if role == "listen" else dial())
"""

MANY = 5_000
#: Bytes that one idle comm may take in each of the two processes.
PLENTY = 6 * 1024
#: What asyncio's own transports take more since Python 3.12: a deque each.
A_DEQUE = 760 if sys.version_info >= (3, 12) else 0


@on_linux
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "unix://"])
def test_five_thousand_idle_comms_take_little_memory(address, loop, pytestconfig):
    """With a hello and a proof each; the key is what a user has."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MANY + 100:
        pytest.skip(f"at most {hard} descriptors")
    script = IDLE.format(folder=str(pytestconfig.rootpath / "tests"))
    environment = os.environ | {"DISTRIBUTED_COMM_KEY": "a key"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}

    def start(role, address):
        command = [sys.executable, "-c", script, role, address, loop, str(MANY)]
        return stack.enter_context(subprocess.Popen(command, env=environment, **pipes))

    with ExitStack() as stack:
        listening = start("listen", address)
        stack.callback(listening.kill)
        dialling = start("dial", listening.stdout.readline().strip())
        stack.callback(dialling.kill)
        sizes = []
        for _ in range(2):
            sizes.append([int(side.stdout.readline()) for side in (listening, dialling)])
            for side in (listening, dialling):
                side.stdin.write("go on\n")
                side.stdin.flush()
        each = [(many - few) / (MANY - 100) for few, many in zip(*sizes, strict=True)]
        print(f"{address} on {loop}: at the listener {each[0]:.0f} bytes, and {each[1]:.0f}")
        assert max(each) <= PLENTY + (A_DEQUE if loop == "asyncio" else 0)
