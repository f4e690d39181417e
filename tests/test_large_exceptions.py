"""Exceptions that are small to raise, and would take long to show."""

import sys

import pytest
from calling import everywhere, serve

import distributed_comm as dc
from distributed_comm._calls.remote_errors import pack_error
from distributed_comm._text import FAMILY, describe, trace


def shared():
    exc = ValueError("a leaf")
    for _ in range(18):
        exc = ExceptionGroup("shared", [exc, exc])
    return exc


def chain():
    exc = None
    for number in range(5_000):
        last, exc = exc, ValueError(f"link {number}")
        exc.__context__ = last
    return exc


def noted():
    exc = ValueError("noted")
    exc.__notes__ = ["a note"] * 100_000
    return exc


LARGE = {
    "shared": shared,
    "chain": chain,
    "crowd": lambda: ExceptionGroup("crowd", [ValueError()] * 100_000),
    "noted": noted,
    "long": lambda: ValueError("y" * 50_000_000),
    "key": lambda: KeyError("y" * 50_000_000),
    "several": lambda: ValueError("several", b"y" * 50_000_000),
    "list": lambda: ValueError([1] * 1_000_000),
    "message": lambda: ExceptionGroup("y" * 50_000_000, [ValueError()]),
    "inner": lambda: ExceptionGroup("inner", [ValueError("y" * 50_000_000)]),
}


@pytest.fixture(params=LARGE)
def large(request):
    try:
        raise LARGE[request.param]()
    except Exception as exc:
        return exc


def test_a_large_exception_is_shown_in_few_steps(large):
    steps = 0

    def count(frame, event, arg):
        nonlocal steps
        steps += 1

    sys.setprofile(count)
    try:
        said, shown, packed = describe(large), trace(large), pack_error(large, True)
    finally:
        sys.setprofile(None)
    assert steps < 100_000
    assert said.startswith(type(large).__name__)
    assert "in large" in shown
    assert "the rest is left out" in shown
    assert packed["exception_text"] == said
    assert len(said) + len(shown) < 50_000


@pytest.mark.parametrize("late", [False, True])
@everywhere
def test_the_next_call_is_answered(run, where, late):
    def fail(kind):
        raise LARGE[kind]()

    async def fail_late(kind):
        raise LARGE[kind]()

    async def main():
        handlers = {"fail": fail_late if late else fail, "ping": lambda: "pong"}
        async with serve(handlers, where, trusted=True) as (_, remote):
            for kind in LARGE:
                with pytest.raises((ValueError, KeyError, ExceptionGroup, dc.RemoteError)):
                    await remote.fail(kind=kind)
                assert await remote.ping() == "pong"

    run(main())


def test_what_is_not_large_is_shown_as_python_does():
    exc = ExceptionGroup("group", [ValueError(number) for number in range(FAMILY - 1)])
    assert "ValueError: 14" in trace(exc)
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert "second" in trace(first)
    late = UnicodeDecodeError("utf-8", b"y" * 100_000, 3, 4, "wrong")
    assert "in position 3: wrong" in describe(late)
