"""A plugin: the fixture `run`, which runs a coroutine on each event loop, and strictly."""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

try:
    import uvloop
except ImportError:  # Windows
    uvloop = None

#: Seconds that one coroutine may take: all that waits in a test waits inside of it.
PATIENCE = 30

LOOPS = {"asyncio": asyncio.new_event_loop}
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop

#: Files of tests that run on a third loop as well, where a task begins inside of `create_task`.
EAGER = {
    "test_batched", "test_cancelling", "test_conformance", "test_drain", "test_inproc",
    "test_odd_exceptions", "test_pool", "test_pool_given_up", "test_rpc", "test_server",
    "test_stream_end", "test_stream_handlers", "test_streams",
}  # fmt: skip


def new_eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # since Python 3.12
    return loop


Run = Callable[[Coroutine[Any, Any, Any]], Any]


def pytest_generate_tests(metafunc):
    if "run" not in metafunc.fixturenames:
        return
    loops = list(LOOPS)
    if sys.version_info >= (3, 12) and metafunc.module.__name__.rpartition(".")[2] in EAGER:
        loops.append("eager")
    metafunc.parametrize("run", loops, indirect=True)


@pytest.fixture
def run(request) -> Run:
    """Run a coroutine to its end on a loop of its own; the test runs on every loop.

    It fails where a callback or a forgotten future raised (what a loop only logs), where a
    task was left running, and, through pytest, where an object was left unclosed.
    """

    def run_strictly(main: Coroutine[Any, Any, Any]) -> Any:
        errors: list[dict[str, Any]] = []
        factory = LOOPS.get(request.param, new_eager_loop)
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: errors.append(context))
            result = runner.run(_alone(main))
            gc.collect(1)  # what was forgotten in the test complains in the test
        assert not errors
        return result

    return run_strictly


async def _alone(main: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        result = await main
        await settle()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"still running: {left}"
    return result


def is_eager() -> bool:
    """Whether tasks begin inside of `create_task`: many end there, and cannot be cancelled."""
    return asyncio.get_running_loop().get_task_factory() is not None


async def settle(turns: int = 10) -> None:
    """Let the loop turn a few times: what needs no more news from outside has happened."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, for that which nothing announces; `run` bounds it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
