"""A process that reads what strangers send and sends it back takes what is in proportion."""

import asyncio
import json
import subprocess
import sys

import pytest
from hostile_arrays import HOSTILE, message
from loops import needs_proc

import distributed_comm as dc
from distributed_comm import _kernels

MIB = 1024**2

#: A thread, and what malloc keeps.
BESIDE = 4 * MIB

SIDE = """
import asyncio, json, sys, time
from pathlib import Path
import numpy, numpy.ma, scipy.sparse
import distributed_comm as dc

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024

async def serve(comm):
    report = []
    while len(report) < int(sys.argv[1]):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts afresh
        base, begin = memory("VmRSS"), time.process_time()
        try:
            reply = await comm.read()
        except (dc.MessageError, dc.UntrustedError) as exc:
            reply = str(exc)
        await comm.write(reply)
        del reply
        report.append((memory("VmHWM") - base, time.process_time() - begin))
        await comm.read()
    print(json.dumps(report), flush=True)
    await comm.close()

async def main():
    if sys.argv[2:]:
        return await serve(await dc.connect(sys.argv[2], trusted=False))
    served = asyncio.get_running_loop().create_future()
    async with dc.listen("tcp://127.0.0.1:0", served.set_result, trusted=False) as listener:
        print(listener.contact_address, flush=True)
        await serve(await served)

dc.run(main())
"""


async def tell(comm, rounds):
    for _ in range(rounds):
        for name, header, frames, outer in HOSTILE.values():
            whole = {"serializer": "dask", "type": name, "sub-header": header, **(outer or {})}
            await comm.write(dc.Serialized(whole, [*frames]))
            await comm.read()
            await comm.write("next")


async def talk(role, rounds):
    """Play the other side, and return what the process reports."""
    command = [sys.executable, "-c", SIDE, str(rounds * len(HOSTILE))]
    served = asyncio.get_running_loop().create_future()
    async with dc.listen("tcp://127.0.0.1:0", served.set_result, trusted=True) as listener:
        if role == "client":
            command.append(listener.contact_address)
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        try:
            if role == "client":
                comm = await served
            else:
                comm = await dc.connect(
                    (await child.stdout.readline()).decode().strip(), trusted=True
                )
            async with comm:
                await tell(comm, rounds)
                return await child.stdout.readline()
        finally:
            await child.wait()


@needs_proc
@pytest.mark.timeout(120)
@pytest.mark.parametrize("role", ["server", "client"])
def test_a_process_that_reads_and_echoes_stays_small(role, run):
    rounds = 3
    report = json.loads(run(talk(role, rounds)))
    for index, (name, hostile) in enumerate(HOSTILE.items()):
        nbytes = sum(map(len, message(hostile)))
        peaks, times = zip(*report[index :: len(HOSTILE)], strict=True)
        assert min(peaks[1:]) <= 100 * nbytes + BESIDE, name
        if _kernels.kind == "compiled":  # of which the time is promised
            assert min(times) <= 2 * (0.05 + 0.2 * nbytes / MIB), name  # there and back
