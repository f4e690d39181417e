"""Who is trusted: by the key that both hold, by what was declared, and nobody else."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from fractions import Fraction

import pytest
from loops import until
from peers import DASK_HELLO, LOOPBACK, OUR_HELLO, dial_raw, echo, frame_up, pack

import distributed_comm as dc

MINE, ANOTHER = "0123456789abcdef", "fedcba9876543210"
A, B = {"key": MINE}, {"key": ANOTHER}
NONE, EVERYBODY, NOBODY = {"key": ""}, {"trusted": True}, {"trusted": False}

#: What each side passes, the listener first, and whom each then trusts.
PAIRS = {
    "the same key": (A, A, (True, True)),
    "the same key, as bytes": ({"key": MINE.encode()}, {"key": f"{MINE}\n"}, (True, True)),
    "another key": (A, B, (False, False)),
    "no key at one end": (A, NONE, (False, False)),
    "no key at the other": (NONE, A, (False, False)),
    "no key": (NONE, NONE, (False, False)),
    "everybody": (EVERYBODY, EVERYBODY, (True, True)),
    "everybody, and a key": ({**A, **EVERYBODY}, A, (True, True)),
    "everybody at one end alone": (EVERYBODY, A, (True, False)),
    "nobody, for all that is proven": ({**A, **NOBODY}, A, (False, False)),
    "nobody at the other": (A, {**A, **NOBODY}, (False, False)),
}


async def ends(listening, connecting, address=LOOPBACK):
    """Return both ends of a connection."""
    served = asyncio.get_running_loop().create_future()
    async with dc.listen(address, served.set_result, **listening) as listener:
        client = await dc.connect(listener.contact_address, timeout=5, **connecting)
        return await served, client


@pytest.mark.parametrize(("listening", "connecting", "trusted"), PAIRS.values(), ids=PAIRS)
def test_who_trusts_whom(run, listening, connecting, trusted):
    async def main():
        server, client = await ends(listening, connecting)
        assert (server.trusted, client.trusted) == trusted
        for here, there in ((server, client), (client, server)):
            await here.write({"plain": "two"})
            assert await there.read() == {"plain": "two"}
            if here.trusted and there.trusted:
                await here.write(Fraction(1, 3))
                assert await there.read() == Fraction(1, 3)
            elif not here.trusted:
                with pytest.raises(dc.UntrustedError, match=r"fractions\.Fraction"):
                    await here.write(Fraction(1, 3))
        client.abort()
        server.abort()

    run(main())


def test_a_key_in_the_environment(run, monkeypatch):
    async def main():
        server, client = await ends({}, {"key": MINE})
        assert server.trusted
        assert client.trusted
        client.abort()
        server.abort()

    monkeypatch.setenv("DISTRIBUTED_COMM_KEY", MINE)
    run(main())


def test_a_key_of_another_type_is_the_callers_mistake(run):
    async def main():
        with pytest.raises(TypeError, match="key must be str or bytes, not int"):
            await dc.connect("tcp://127.0.0.1:1", key=5)

    run(main())
    with pytest.raises(TypeError, match="key must be str or bytes, not int"):
        dc.listen(LOOPBACK, echo, key=5)


# Where trust is required

REFUSED = (
    "^the peer does not trust this side, and has require_trust=True: both sides need the same key "
    ".*, and nothing in between that passes on what they say .* -> tcp://"
)


async def use_refused(address, use, **kwargs):
    """Dial a listener that refuses this side, which the first of this to come too late hears."""
    client = await dc.connect(address, 20, **kwargs)
    try:
        while use == "write":
            await client.write(bytes(100_000))
        await client.read()
    finally:
        client.abort()


@pytest.mark.parametrize("other", [B, NONE], ids=["another key", "no key"])
def test_a_listener_refuses_who_is_not_trusted(run, caplog, other):
    async def main():
        handled = []
        async with dc.listen(LOOPBACK, handled.append, require_trust=True, **A) as listener:
            for use in ("read", "write"):
                with pytest.raises(dc.FatalCommClosedError, match=REFUSED):
                    await use_refused(listener.contact_address, use, **other)
            async with await dc.connect(listener.contact_address, **A) as client:
                assert client.trusted
            assert len(handled) == 1
            handled[0].abort()

    caplog.set_level(logging.INFO, "distributed_comm")
    run(main())
    (text,) = {record.getMessage().partition(": tcp")[0] for record in caplog.records}
    assert text.endswith("refused a connection: the peer is not trusted, and require_trust=True "
                         "was passed")  # fmt: skip


@pytest.mark.parametrize("hello", [OUR_HELLO, DASK_HELLO], ids=["ours", "dask"])
def test_a_stranger_without_a_proof_is_refused_before_a_message_of_its_is_read(run, hello):
    async def main():
        handled = []
        async with (
            dc.listen(LOOPBACK, handled.append, require_trust=True, **A) as listener,
            dial_raw(listener) as stranger,
        ):
            await stranger.send(hello + pack("let me in"))
            assert await stranger.is_cut()
        assert handled == []

    run(main())


OUR_NEW_HELLO = pack(
    {"python": (3, 11, 7), "pickle-protocol": 5, "distributed_comm": {"version": 2}}
)
REFUSAL = frame_up(bytes.fromhex("c7 01 bc 05"))


def test_who_is_told_that_it_is_refused_may_send_on_in_vain_for_a_while(run):
    """So that no reset overtakes the reason; and it is no longer than any close may take."""

    async def main():
        handled = []
        short = dc.CommOptions(timeouts=dc.Timeouts(close=0.3))
        async with (
            dc.listen(LOOPBACK, handled.append, require_trust=True, options=short, **A) as listener,
            dial_raw(listener) as stranger,
        ):
            await stranger.send(OUR_NEW_HELLO + pack("let me in"))
            await stranger.read_message()
            assert frame_up(*await stranger.read_frames()) == REFUSAL
            await stranger.send(pack("please"))
            with pytest.raises(EOFError):
                await stranger.read_frames()
            await until(lambda: not listener._connections)
        assert handled == []

    run(main())


def test_who_is_refused_takes_no_memory_beyond_that_of_strangers(run):
    async def main():
        few = dc.CommOptions(limits=dc.Limits(untrusted_memory=2**20))
        async with (
            dc.listen(LOOPBACK, echo, require_trust=True, options=few, **A) as listener,
            dial_raw(listener) as stranger,
        ):
            await stranger.send(OUR_NEW_HELLO)
            await stranger.read_message()
            assert frame_up(*await stranger.read_frames()) == REFUSAL
            async with asyncio.timeout(4):  # before it is cut anyhow
                with pytest.raises(OSError):  # noqa: PT011 - a reset, or a broken pipe
                    await stranger.send(frame_up(b"\xc0", bytes(2**26)))
            await until(lambda: not listener._connections)
            assert listener._budget.used == 0

    run(main())


@pytest.mark.parametrize("other", [B, NONE], ids=["another key", "no key"])
def test_a_dialler_refuses_who_is_not_trusted_and_does_not_try_again(run, other):
    async def main():
        async with dc.listen(LOOPBACK, echo, **other) as listener:
            async with asyncio.timeout(5):
                with pytest.raises(dc.FatalCommClosedError) as caught:
                    await dc.connect(listener.contact_address, 20, require_trust=True, **A)
        text = str(caught.value)
        assert text.startswith("the peer is not trusted, and require_trust=True was passed: tcp://")
        assert "; both sides need the same key (key=, $DISTRIBUTED_COMM_KEY" in text

    run(main())


def test_trust_that_is_required_of_nobody_is_the_callers_mistake():
    with pytest.raises(ValueError, match="require_trust=True and trusted=False"):
        dc.listen(LOOPBACK, echo, require_trust=True, trusted=False)


# One who stands in between


async def relay(reader, writer, there):
    """Pass on what two say to each other, as a tunnel would, or an eavesdropper."""
    far_reader, far_writer = await asyncio.open_connection(*there)

    async def copy(source, sink):
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))


@pytest.mark.parametrize("accepted", [False, True])
def test_a_proof_that_was_passed_on_is_not_believed_unless_that_is_asked_for(run, caplog, accepted):
    options = dc.CommOptions(relayed=accepted)

    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(LOOPBACK, served.set_result, options=options, **A) as listener:
            there = dc.get_address_host_port(listener.contact_address)
            between = await asyncio.start_server(lambda r, w: relay(r, w, there), "127.0.0.1", 0)
            async with between:
                address = f"tcp://127.0.0.1:{between.sockets[0].getsockname()[1]}"
                client = await dc.connect(address, options=options, **A)
                server = await served
                assert (client.trusted, server.trusted) == (accepted, accepted)
                await client.write("plain")
                assert await server.read() == "plain"
                await asyncio.gather(client.close(), server.close())

    run(main())
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == (0 if accepted else 2)  # one of each side
    assert all("CommOptions(relayed=True)" in text for text in texts)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_over_every_family_both_ends_know_the_listener_by_one_address(run, family):
    async def main():
        with socket.socket(socket.AF_INET6) as both:
            both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            both.bind(("::", 0))
            host = "127.0.0.1" if family == socket.AF_INET else "[::1]"
            port = both.getsockname()[1]
            served = asyncio.get_running_loop().create_future()
            listening = {"connection_args": {"sockets": [both]}, **A}
            async with dc.listen("tcp://", served.set_result, **listening):
                client = await dc.connect(f"tcp://{host}:{port}", **A)
                server = await served
            assert client.trusted
            assert server.trusted
            client.abort()
            server.abort()

    run(main())


# A wildcard

OPEN = [{"key": ""}, {"trusted": True}, {"trusted": True, "key": MINE}, {"trusted": False}]


@pytest.mark.parametrize("kwargs", OPEN, ids=str)
@pytest.mark.parametrize("address", ["tcp://", "tcp://0.0.0.0:0"])
def test_a_wildcard_without_authentication_is_warned_of_once(run, caplog, address, kwargs):
    async def main():
        async with dc.listen(address, echo, **kwargs) as listener:
            for _ in range(2):
                (await dc.connect(listener.contact_address, **kwargs)).abort()

    run(main())
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    danger = "run code in this process" if "True" in str(kwargs) else "send plain data"
    assert danger in record.getMessage()


@pytest.mark.parametrize("address", ["tcp://", LOOPBACK])
def test_a_key_or_one_address_is_not_warned_of(run, caplog, address):
    async def main():
        async with dc.listen(address, echo, **(A if address == "tcp://" else NONE)):
            pass

    run(main())
    assert caplog.records == []


# Two processes of one user, and one of another

PROGRAM = """
import asyncio, sys
import distributed_comm as dc

class Point:
    def __init__(self, x):
        self.x = x

async def double(comm):
    point = await comm.read()
    point.x *= 2
    await comm.write(point)
    await comm.close()

async def main():
    async with dc.listen("tcp://127.0.0.1:0", double) as listener:
        print(listener.contact_address, flush=True)
        await asyncio.Event().wait()

async def dial(address):
    async with await dc.connect(address, 10) as comm:
        await comm.write(Point(21))
        print((await comm.read()).x)

dc.run(dial(sys.argv[1]) if sys.argv[1:] else main())
"""


def test_two_processes_of_one_user_send_each_other_anything(tmp_path):
    """Nothing was set up, and no argument passed."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    del environment["DISTRIBUTED_COMM_KEY"]
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, text=True) as listening:
        try:
            command.append(listening.stdout.readline().strip())
            dialled = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=30, check=False
            )
            assert dialled.stdout == "42\n", dialled.stderr
            other = {**environment, "XDG_CONFIG_HOME": str(tmp_path / "of another user")}
            refused = subprocess.run(
                command, env=other, capture_output=True, text=True, timeout=30, check=False
            )
            assert "UntrustedError: an object of type __main__.Point" in refused.stderr
        finally:
            listening.kill()
