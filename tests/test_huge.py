"""One message of 3 GiB between two processes: the same bytes, and little memory beside them."""

import json
import subprocess
import sys

import pytest
from certificates import ca_text, issue, texts
from loops import LOOPS, needs_proc

GIB = 1024**3
SIZE = 3 * GIB
BESIDE = 64 * 1024**2

SIDE = """
import asyncio, json, mmap, sys
sys.path.insert(0, {folder!r})
import numpy as np
import distributed_comm as dc
from loops import LOOPS

SIZE, MARKS = {size}, 16
BLOCK = SIZE // 8 // MARKS
ARGUMENTS = {{"trusted": True, "options": dc.CommOptions(limits=dc.Limits(message=None))}}
if fields := {security}:
    ARGUMENTS["security"] = dc.Security(**fields)

def memory(name):
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(name))
    return int(line.split()[1]) * 1024

def marks():
    return [(n * BLOCK, n * BLOCK + 1000 * n, n + 1) for n in range(MARKS)]

async def send(address):
    base = memory("VmRSS")
    # Pages that nobody wrote to take no memory; those with a mark, of 2 MiB, take 32 MiB.
    pages = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(pages, dtype="u8")
    for _, place, number in marks():
        array[place] = number
    async with await dc.connect(address, **ARGUMENTS) as comm:
        await comm.write(array)
        assert await comm.read() == "the same"
    return memory("VmHWM") - base

async def receive():
    base, served = memory("VmRSS"), asyncio.get_running_loop().create_future()
    async with dc.listen({address!r}, served.set_result, **ARGUMENTS) as listener:
        print(json.dumps(listener.contact_address), flush=True)
        comm = await served
    array = await comm.read()
    peak = memory("VmHWM") - base
    assert array.nbytes == SIZE
    for start, place, number in marks():
        assert array[place] == number
        array[place] = 0
        assert not array[start : start + BLOCK].any()
    await comm.write("the same")
    await comm.close()
    return peak

with asyncio.Runner(loop_factory=LOOPS[{loop!r}]) as runner:
    print(json.dumps(runner.run(send(sys.argv[1]) if sys.argv[1:] else receive())))
"""


def available() -> int:
    with open("/proc/meminfo") as info:
        line = next(line for line in info if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


@needs_proc
@pytest.mark.timeout(180)  # it takes 6 s, and more where the machine has no memory ready
@pytest.mark.parametrize(
    ("scheme", "loop"), [*(("tcp", loop) for loop in LOOPS), ("tls", list(LOOPS)[-1])]
)
def test_a_message_of_3_gib_takes_little_more_on_either_side(pytestconfig, scheme, loop):
    pytest.importorskip("numpy")
    if available() < SIZE + GIB:
        pytest.skip("a process with 3 GiB does not fit into this machine")
    script = SIDE.format(
        folder=str(pytestconfig.rootpath / "tests"),
        size=SIZE,
        loop=loop,
        address=f"{scheme}://127.0.0.1:0",
        security={"ca": ca_text(), **texts(issue())} if scheme == "tls" else {},
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        try:
            address = json.loads(receiver.stdout.readline())
            sender = subprocess.run(
                [*command, address], capture_output=True, text=True, check=False
            )
            assert (sender.returncode, sender.stderr) == (0, "")
            sent, received = json.loads(sender.stdout), json.loads(receiver.stdout.readline())
        finally:
            receiver.kill()
    assert sent <= BESIDE  # whose array has a size, and no memory
    assert SIZE < received <= SIZE + BESIDE
