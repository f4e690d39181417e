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


READER = """
import asyncio, os, sys
import distributed_comm as dc

async def read_and_fork(comm, forked):
    await comm.read()
    child = os.fork()
    if not child:
        sys.exit(7)
    forked.set_result(child)

async def main():
    comms, forked = [], asyncio.get_running_loop().create_future()
    listener = await dc.listen("tcp://127.0.0.1:0", comms.append)
    client = await dc.connect(listener.contact_address)
    while not comms:
        await asyncio.sleep(0)
    reading = asyncio.ensure_future(read_and_fork(comms[0], forked))
    await asyncio.sleep(0)
    await client.write(1)
    child = await forked
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        await asyncio.sleep(0.01)
    print(os.waitstatus_to_exitcode(ended[1]), flush=True)
    os._exit(0)  # the child has closed its copy of the loop, which has this one's selector

(dc.run if sys.argv[1] == "uvloop" else asyncio.run)(main())
"""


@each_loop
def test_a_child_that_a_reader_has_forked_ends_as_it_should(loop):
    """Its message is received, and the reader is run, in one callback."""
    command = [sys.executable, "-c", READER, loop]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=25)
    assert done.stdout == "7\n"
