"""Each check of the conformance suite finds its fault, and says what it expected."""

import asyncio

import pytest
from faults import FAULTS, FaultyBackend, Sound

import distributed_comm as dc
from distributed_comm import registry, testing
from distributed_comm.testing import _expect


@pytest.fixture(autouse=True)
def _faulty(monkeypatch):
    monkeypatch.setitem(registry._BUILT_IN, "faulty", ("faults", "FaultyBackend"))
    yield
    while Sound.made:
        Sound.made.pop().abort()


@pytest.mark.parametrize("check", testing.CHECKS)
def test_without_a_fault_every_check_passes(check, run):
    run(check("faulty://"))


@pytest.mark.parametrize("check", testing.CHECKS)
def test_each_check_finds_its_fault(check, monkeypatch):
    fault, expected = FAULTS[check.__name__]
    monkeypatch.setattr(FaultyBackend, "kind", fault)
    monkeypatch.setattr(_expect, "PATIENCE", 0.4)
    with pytest.raises(AssertionError, match=f"^expected .*{expected}"):
        dc.run(check("faulty://"))


def test_there_is_a_fault_for_each_check():
    assert [check.__name__ for check in testing.CHECKS] == list(FAULTS)


def test_a_check_says_how_long_it_waited(monkeypatch):
    async def main():
        with pytest.raises(AssertionError, match=r"^expected news within 0\.01 s$"):
            await _expect.soon(asyncio.Event().wait(), "news")

    monkeypatch.setattr(_expect, "PATIENCE", 0.01)
    dc.run(main())
