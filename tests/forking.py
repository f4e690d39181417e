"""Programs that fork: python tests/forking.py ROLE LOOP ADDRESS CERTIFICATES

CERTIFICATES is a file, or "-". What the test has to know is printed, a line each. The children do
nothing until they are killed.
"""

import asyncio
import json
import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

from loops import LOOPS

import distributed_comm as dc


def sleep() -> None:
    signal.alarm(60)  # whatever becomes of the test
    signal.pause()


def fork() -> None:
    """Leave a child, and a child of that."""
    if not os.fork():
        os.fork()
        sleep()


def fork_in_pty() -> None:
    if not pty.fork()[0]:
        sleep()


def fork_by_multiprocessing() -> None:
    multiprocessing.get_context("fork").Process(target=sleep, daemon=True).start()


def fork_before_exec() -> None:
    """Leave a child that never comes to run its program."""
    command = [sys.executable, "-c", ""]
    asyncio.get_running_loop().run_in_executor(
        None,
        lambda: subprocess.Popen(command, preexec_fn=sleep),  # noqa: PLW1509 - on purpose
    )


KINDS = {
    "fork": fork,
    "forkpty": fork_in_pty,
    "multiprocessing": fork_by_multiprocessing,
    "preexec_fn": fork_before_exec,
}


async def serve(address: str, security: dc.Security | None) -> None:
    """Serve until killed; ``fork`` leaves children once a call waits."""
    waiting = asyncio.Event()

    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def leave_child(kind: str, threaded: bool) -> None:
        await waiting.wait()
        if threaded:
            await asyncio.to_thread(KINDS[kind])
        else:
            KINDS[kind]()

    server = dc.Server({"wait": wait, "fork": leave_child})
    await server.listen(address, **({} if security is None else {"security": security}))
    async with server:
        print(server.address, flush=True)
        await asyncio.Event().wait()


async def leave_stream(address: str, security: dc.Security | None) -> None:
    """Take an item of a stream, fork, and go as the next line says."""
    async with dc.rpc(address, **({} if security is None else {"security": security})) as remote:
        stream = remote.ticks.stream()
        await anext(stream)
        fork()
        print("forked", flush=True)
        if sys.stdin.readline() == "die\n":
            os.kill(os.getpid(), signal.SIGKILL)
        await stream.aclose()
        await asyncio.Event().wait()


async def say_who(comm: dc.Comm) -> None:
    await comm.write(os.getpid())
    await comm.close()


async def start(listener: dc.Listener) -> None:
    async with listener:
        await asyncio.Event().wait()


def prefork(loop: str, address: str, security: dc.Security | None) -> None:
    """Bind, fork, and start in each of three children."""
    listener = dc.listen(address, say_who, security=security)
    listener.bind()
    for _ in range(3):
        if not os.fork():
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                runner.run(start(listener))
    print(listener.contact_address, flush=True)
    sleep()


ROLES = {"serve": serve, "leave": leave_stream}


@contextmanager
def forking(role: str, loop: str, address: str, certificates: Path | None = None):
    """Yield this program in that role as a process; all that it leaves is killed in the end."""
    command = [sys.executable, __file__, role, loop, address, str(certificates or "-")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def main(role: str, loop: str, address: str, certificates: str) -> None:
    # From Python 3.12 on a fork beside threads is warned of.
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it comes with the end of a terminal
    security = None
    if certificates != "-":
        security = dc.Security(**json.loads(Path(certificates).read_text()))
    if role == "prefork":
        prefork(loop, address, security)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(ROLES[role](address, security))


if __name__ == "__main__":
    main(*sys.argv[1:])
