"""The child processes of a run: started together, asked one at a time, never left behind.

They end in one of three ways: by an order at the end, by a kill when something went wrong
here, and by themselves when their stdin closes because this process was killed.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from threading import Timer
from types import TracebackType
from typing import Any

from distributed_comm.bench import _certificate
from distributed_comm.bench._results import Case
from distributed_comm.bench._workloads import Batch, Sample

ANSWER_SECONDS = 120
STOP_SECONDS = 5


class WorkerError(Exception):
    """A child process failed, or did not answer in time."""


class Worker:
    """A child process that takes and gives lines of JSON (see `distributed_comm.bench._worker`)."""

    def __init__(self, role: str, system: str, transport: str, key: str, cpu: int | None) -> None:
        self._name = f"the {role} of {system}"
        command = [sys.executable, "-m", "distributed_comm.bench._worker", role, system]
        command += ["--transport", transport]
        if cpu is not None:
            command += ["--cpu", str(cpu)]
        # A session of its own: Ctrl-C comes to this process alone, which then ends its children.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "DISTRIBUTED_COMM_KEY": key},
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        with self._process:  # closes the pipes, and reaps
            if exc_type is None:
                with suppress(subprocess.TimeoutExpired):
                    self.order(None)
                    self._process.wait(STOP_SECONDS)
            self._process.kill()

    def order(self, order: object) -> None:
        assert self._process.stdin is not None
        line = json.dumps(order).encode() + b"\n"
        with suppress(BrokenPipeError):  # that it died is for answer() to say
            os.write(self._process.stdin.fileno(), line)

    def answer(self) -> Any:
        """Wait for the next answer; `WorkerError` if there is none or it is an error."""
        assert self._process.stdout is not None
        overdue = Timer(ANSWER_SECONDS, self._process.kill)
        overdue.start()
        try:
            line = self._process.stdout.readline()
        finally:
            overdue.cancel()
        if not line:
            raise WorkerError(f"{self._name} died, or gave no answer in {ANSWER_SECONDS} s")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise WorkerError(f"{self._name} failed:\n{answer['error']}")
        return answer


@dataclass(frozen=True)
class Stage:
    """A server and a client process for each system, of which one pair at a time works."""

    clients: Mapping[str, Worker]
    addresses: Mapping[str, Mapping[str, str]]
    """By system and workload; a workload is missing where the system cannot run it."""

    def measure(self, case: Case, count: int) -> Sample:
        """Do one run of ``count`` messages."""
        client = self.clients[case.system]
        batch = Batch(count, case.size, case.concurrency)
        address = self.addresses[case.system][case.workload]
        client.order({"workload": case.workload, "address": address, "batch": asdict(batch)})
        return Sample(**client.answer())


@contextmanager
def start(systems: Sequence[str], transport: str) -> Iterator[Stage]:
    """Start all processes of a run, and end them with the context.

    The servers share one core and the clients another one: who waits disturbs nobody.
    """
    cpus = pinning() or {}
    if transport == "tls":
        _certificate.publish()
    key = secrets.token_hex()  # of this run: arrays go as pickles, and nobody else's are opened
    with ExitStack() as stack:
        servers, clients = (
            {
                system: stack.enter_context(Worker(role, system, transport, key, cpus.get(role)))
                for system in systems
            }
            for role in ("server", "client")
        )
        addresses = {
            system: servers[system].answer() | clients[system].answer() for system in systems
        }
        yield Stage(clients, addresses)


def pinning() -> dict[str, int] | None:
    """The core of each role, None where there is one core or processes cannot be pinned."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cpus = sorted(os.sched_getaffinity(0))
    return {"client": cpus[0], "server": cpus[-1]} if len(cpus) > 1 else None
