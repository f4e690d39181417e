"""`run`: on uvloop where there is one, on asyncio where there is none."""

import asyncio
import contextvars

import pytest

import distributed_comm as dc
from distributed_comm import _run


async def name_of_loop() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def test_it_runs_on_uvloop_where_that_is_installed():
    pytest.importorskip("uvloop")
    assert dc.run(name_of_loop()) == "uvloop"


def test_it_runs_on_asyncio_where_uvloop_is_missing(monkeypatch):
    monkeypatch.setattr(_run, "uvloop", None)
    assert dc.run(name_of_loop()) == "asyncio"


def test_result_and_exception_come_out():
    async def fail():
        raise LookupError("on purpose")

    assert dc.run(asyncio.sleep(0, "result")) == "result"
    assert dc.run(name_of_loop) == dc.run(name_of_loop())
    with pytest.raises(LookupError, match="on purpose"):
        dc.run(fail())


@pytest.mark.parametrize("debug", [True, False])
def test_debug_is_passed_on(debug):
    async def is_debug():
        return asyncio.get_running_loop().get_debug()

    assert dc.run(is_debug(), debug=debug) == debug


def test_tasks_left_behind_are_cancelled_and_the_loop_is_closed():
    ends = []

    async def linger():
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("cancelled")

    async def main():
        ends.append(asyncio.create_task(linger()))
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    assert dc.run(main()).is_closed()
    assert ends[0].cancelled()
    assert ends[1:] == ["cancelled"]


def test_it_is_refused_inside_a_running_loop():
    async def main():
        inner = name_of_loop()
        try:
            with pytest.raises(RuntimeError, match="running"):
                dc.run(inner)
        finally:
            inner.close()

    dc.run(main())


def test_only_a_coroutine_is_run():
    with pytest.raises((TypeError, ValueError), match="coroutine"):
        dc.run("no coroutine")


def test_the_callers_context_is_seen():
    variable = contextvars.ContextVar("variable", default="unset")

    async def get():
        return variable.get()

    variable.set("set")
    assert dc.run(get()) == "set"
