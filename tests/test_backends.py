"""Backends of other distributions: found by their entry points, on first use, and no sooner."""

import asyncio
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import distributed_comm as dc
from distributed_comm import registry
from distributed_comm._transports.tcp import TCPBackend

FIRST_USE = """
import sys
import distributed_comm as dc

def loaded():
    return sorted(sys.modules.keys() & {"dc_local", "dc_plain", "importlib.metadata"})

dc.get_address_host("tcp://127.0.0.1:1")
print(loaded())
try:
    dc.listen("nope://", print)
except ValueError as exc:
    print(exc)
print(dc.get_address_host("plain://10.0.0.1:1"))
print(loaded())
"""


def test_a_backend_is_loaded_on_first_use(site):
    command = [sys.executable, "-W", "error", "-c", FIRST_USE]
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "[]",
        "unknown scheme 'nope', expected one of: inproc, local, plain, sentinel, tcp, tls, unix",
        "10.0.0.1",
        "['dc_plain', 'importlib.metadata']",
    ], done.stderr


def test_the_suite_runs_in_a_plain_test_of_its_user(site, tmp_path):
    text = Path(__file__).parents[1].joinpath("docs/backends.md").read_text()
    program = text.rpartition("```python\n")[2].partition("```")[0]
    tmp_path.joinpath("test_it.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-k", "cancelled", tmp_path]
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "4 passed" in done.stdout, done.stdout


@pytest.fixture
def announce(tmp_path, monkeypatch):
    """Announce backends as an installed distribution does."""

    def announce(*lines: str) -> None:
        folder = tmp_path / "announced-1.0.dist-info"
        folder.mkdir()
        content = "\n".join([f"[{registry._GROUP}]", *lines])
        (folder / "entry_points.txt").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)

    registry.get_backend.cache_clear()
    yield announce
    registry.get_backend.cache_clear()


def test_a_scheme_of_ours_cannot_be_taken(announce):
    announce("tcp = nowhere:Backend")
    assert type(registry.get_backend("tcp")) is TCPBackend
    with pytest.raises(
        ValueError, match=r"expected one of: inproc, (local, plain, )?sentinel, tcp, tls, unix$"
    ):
        registry.get_backend("nope")


def test_a_backend_that_cannot_be_loaded_says_why(announce):
    announce("bad = nowhere:Backend", "worse = distributed_comm:Nothing")
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        dc.get_address_host("bad://x")
    with pytest.raises(AttributeError, match="Nothing"):
        dc.get_address_host("worse://x")


def test_a_backend_gets_the_arguments_that_were_given_and_no_others(run, outside, monkeypatch):
    dc.get_address_host("plain://")
    plain = import_module("dc_plain")
    calls = []

    class Recorder(plain.PlainBackend):
        def get_connector(self):
            return self

        async def connect(self, address, deserialize, **connection_args):
            calls.append((address, deserialize, connection_args))

        def get_listener(self, loc, handle_comm, deserialize, **connection_args):
            calls.append((loc, handle_comm, deserialize, connection_args))

    monkeypatch.setattr(registry.get_backend("plain"), "__class__", Recorder)
    run(dc.connect("plain://a:1"))
    run(dc.connect("plain://a:1", deserialize=False, connection_args={"x": 1}, trusted=False))
    dc.listen("plain://a:1", print)
    dc.listen("plain://a:1", print, False, {"x": 1}, contact_host="b")
    assert calls == [
        ("a:1", True, {}),
        ("a:1", False, {"x": 1, "trusted": False}),
        ("a:1", print, True, {}),
        ("a:1", print, False, {"x": 1, "contact_host": "b"}),
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
def test_a_channel_from_outside_comes_with_serialization_and_trust(run, kernels, outside, tmp_path):
    address = f"local://{os.path.relpath(tmp_path)}/socket"

    async def main():
        served = asyncio.Queue()
        async with (
            dc.listen(address, served.put_nowait, trusted=True),
            await dc.connect(address, trusted=True) as client,
            await served.get() as server,
            await dc.connect(address) as stranger,
            await served.get(),
        ):
            await client.write({1, 2, frozenset({3})})
            assert await server.read() == {1, 2, frozenset({3})}
            with pytest.raises(dc.UntrustedError):
                await stranger.write(frozenset())

    run(main())


def test_addresses_of_backends_from_outside(outside):
    assert dc.get_address_host_port("plain://10.0.0.1:1") == ("10.0.0.1", 1)
    assert dc.get_address_host("local:///run/x") == "127.0.0.1"
    assert dc.resolve_address("local:///run/x/../y") == "local:///run/y"
    assert dc.get_local_address_for("local:///run/x") == "local:///run/x.reply"
    with pytest.raises(ValueError, match="no host and port"):
        dc.get_address_host_port("local:///run/x")
