"""A peer behind a network that swallows everything, in network namespaces of their own."""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest

NEAR, FAR = "198.18.99.1", "198.18.99.2"  # of the range for tests of networks

LISTENING = """
import asyncio
import distributed_comm as dc

async def main():
    async with dc.listen("tcp://{far}:8786", keep.append, key="theirs"):
        print("listening", flush=True)
        await asyncio.Event().wait()

keep = []
dc.run(main())
"""

DIALLING = """
import asyncio, sys, time
import distributed_comm as dc

async def main():
    options = dc.CommOptions(timeouts=dc.Timeouts(keepalive=0.5))
    comm = await dc.connect("tcp://{far}:8786", 10, key="theirs", options=options)
    print("trusted", comm.trusted, flush=True)
    await asyncio.to_thread(sys.stdin.readline)  # meanwhile the network goes
    start = time.monotonic()
    if sys.argv[1] == "writes":
        await comm.write("into nothing")
    try:
        await comm.read()
    except dc.CommClosedError as exc:
        print(f"{{time.monotonic() - start:.1f}}", exc, flush=True)

dc.run(main())
"""


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


@pytest.fixture
def namespaces():
    """Two network namespaces with a cable between them; the value is their names."""
    near, far = (f"dc-{side}-{os.getpid()}" for side in ("near", "far"))
    with ExitStack() as stack:
        try:
            for name in (near, far):
                ip("netns", "add", name)
                stack.callback(ip, "netns", "del", name)
            cable = ["type", "veth", "peer", "name", "cable", "netns", far]
            ip("-n", near, "link", "add", "cable", *cable)
            for name, address in ((near, NEAR), (far, FAR)):
                ip("-n", name, "addr", "add", f"{address}/30", "dev", "cable")
                ip("-n", name, "link", "set", "cable", "up")
        except (OSError, subprocess.CalledProcessError) as exc:
            pytest.skip(f"no network namespaces here: {exc}")
        yield near, far


@pytest.mark.skipif(not shutil.which("ip"), reason="makes network namespaces")
@pytest.mark.parametrize("what", ["idles", "writes"])
def test_a_peer_that_a_blackhole_swallowed_is_noticed(namespaces, what):
    near, far = namespaces
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}

    def start(name: str, script: str, *args: str) -> "subprocess.Popen[str]":
        command = ["ip", "netns", "exec", name, sys.executable, "-c", script.format(far=FAR), *args]
        process = stack.enter_context(subprocess.Popen(command, **pipes))
        stack.callback(process.kill)
        return process

    with ExitStack() as stack:
        assert start(far, LISTENING).stdout.readline() == "listening\n"
        dialling = start(near, DIALLING, what)
        assert dialling.stdout.readline() == "trusted True\n"
        ip("-n", far, "link", "set", "cable", "down")
        said, _ = dialling.communicate("gone\n", timeout=30)
    seconds, _, text = said.partition(" ")
    assert text.startswith("the connection was lost: nothing was acknowledged for 0.5 s: tcp://")
    assert float(seconds) < 10
