"""Servers whose process forks: what their signals and their handlers do in the child."""

import os
import signal
import subprocess
import sys

import pytest
from loops import LOOPS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
each_loop = pytest.mark.parametrize("loop", list(LOOPS))

PROGRAM = """
import asyncio, os, signal, sys
import distributed_comm as dc

def fork():
    child = os.fork()
    if not child:
        sys.exit(0)
    return child

async def fork_later():
    await asyncio.sleep(0)
    return fork()

def wait():
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        os.write(told, b"x")
        signal.alarm(20)
        signal.pause()
        os._exit(1)
    os.read(ready, 1)
    return child

async def main(op):
    server = dc.Server([fork, fork_later, wait])
    await server.listen("tcp://127.0.0.1:0")
    server.close_on(signal.SIGTERM)
    async with server, dc.rpc(server.address) as remote:
        child = await remote[op]()
        if op == "wait":
            os.kill(child, signal.SIGTERM)
        status = (await asyncio.to_thread(os.waitpid, child, 0))[1]
        await remote.echo()
        print(os.waitstatus_to_exitcode(status), server.status.name)

(dc.run if sys.argv[1] == "uvloop" else asyncio.run)(main(sys.argv[2]))
"""


@each_loop
@pytest.mark.parametrize(
    ("op", "status"), [("fork", 0), ("fork_later", 0), ("wait", -signal.SIGTERM)]
)
def test_a_child_ends_as_it_should_and_its_parent_goes_on(loop, op, status):
    command = [sys.executable, "-c", PROGRAM, loop, op]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=25)
    assert (done.stdout, done.stderr) == (f"{int(status)} running\n", "")
