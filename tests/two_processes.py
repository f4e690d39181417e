"""The shortest program of two processes: python tests/two_processes.py [compiled|pure].

The parent listens and echoes, the child connects, sends one message and compares. It needs
nothing but the installed package, so it shows that an installation works; with an argument,
also that it works on these kernels.
"""

import asyncio
import sys

import distributed_comm as dc

MESSAGE = {"text": "größer", "number": -(2**63), "none": None, "bytes": bytes(1_000_000)}


async def echo(comm: dc.Comm) -> None:
    await comm.write(await comm.read())
    await comm.close()


async def parent() -> None:
    async with dc.listen("tcp://127.0.0.1:0", echo) as listener:
        command = [sys.executable, "-I", __file__, listener.contact_address]
        process = await asyncio.create_subprocess_exec(*command)
        if status := await asyncio.wait_for(process.wait(), 30):
            sys.exit(f"the child ended with status {status}")


async def child(address: str) -> None:
    comm = await dc.connect(address, timeout=5)
    await comm.write(MESSAGE)
    if await comm.read() != MESSAGE:
        sys.exit("the message came back changed")
    await comm.close()


if __name__ == "__main__":
    argument = sys.argv[1] if len(sys.argv) > 1 else dc.kernels
    if argument.startswith("tcp://"):
        dc.run(child(argument))
    elif argument != dc.kernels:
        sys.exit(f"the kernels are {dc.kernels}, not {argument}")
    else:
        dc.run(parent())
        print(f"distributed_comm {dc.__version__}, {dc.kernels} kernels: there and back")
