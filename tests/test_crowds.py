"""Many at once: a storm of connections is served whole."""

import asyncio
import sys

import pytest
from loops import until
from peers import LOOPBACK, echo

import distributed_comm as dc

STORM = 2_000


@pytest.fixture
def descriptors():
    """Allow this process both ends of a storm."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * STORM + 500
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            pytest.skip(f"needs {needed} file descriptors")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("address", [LOOPBACK, "inproc://"])
def test_a_storm_of_connects_is_served_without_a_failure(run, address):
    served = []

    async def handle(comm):
        served.append(comm)
        await echo(comm)

    async def call(address, number):
        async with await dc.connect(address) as comm:
            await comm.write(number)
            answer = await comm.read()
            await asyncio.sleep(0)
            return answer

    async def main():
        async with dc.listen(address, handle) as listener:
            calls = [call(listener.contact_address, number) for number in range(STORM)]
            assert await asyncio.gather(*calls) == list(range(STORM))
            await until(lambda: all(comm.closed() for comm in served))
        assert len(served) == STORM

    run(main())


@pytest.mark.usefixtures("descriptors")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have shorter backlogs")
def test_a_storm_from_another_process_while_the_loop_is_busy(run):
    program = """
import asyncio, sys, distributed_comm as dc

async def call(number):
    async with await dc.connect(sys.argv[1]) as comm:
        await comm.write(number)
        return await comm.read()

async def main():
    numbers = range(int(sys.argv[2]))
    assert await asyncio.gather(*map(call, numbers)) == list(numbers)

dc.run(main())
"""

    async def main():
        async with dc.listen(LOOPBACK, echo) as listener:
            arguments = [listener.contact_address, str(STORM)]
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, *arguments, stderr=asyncio.subprocess.PIPE
            )
            assert (await process.communicate())[1] == b""
            assert process.returncode == 0

    run(main())
