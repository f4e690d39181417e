"""Limits that both sides know, and reasons that whoever is cut is told."""

import asyncio
import errno
import logging
import re
import resource

import numpy as np
import pytest
from calling import serve
from hypothesis import given
from hypothesis import strategies as st
from loops import needs_proc, settle, until
from peers import HEARS_REASONS, LOOPBACK, OUR_HELLO, dial_raw, echo, frame_up, pack, pair, raw_pair

import distributed_comm as dc
from distributed_comm._connection.channel import ConnectionChannel
from distributed_comm._wire import length_framing as framing
from distributed_comm._wire import peer_limits
from distributed_comm._wire.control import Kind
from distributed_comm._wire.peer_limits import Terms, accepted, excess

MIB = 1024 * 1024
LIMITS = dc.Limits(message=3 * MIB, frames=20, untrusted_header=MIB, untrusted_memory=2 * MIB)
OPTIONS = dc.CommOptions(limits=LIMITS)

places = pytest.mark.parametrize(
    "place",
    [LOOPBACK, "unix://", "sentinel://127.0.0.1:0", "certified://127.0.0.1:0"],
    ids=["tcp", "unix", "sentinel", "tls"],
)


def array(nbytes):
    return np.zeros(nbytes, "u1")


async def pass_on(sender, receiver, message):
    return len((await asyncio.gather(receiver.read(), sender.write(message)))[0])


# -- a sender refuses -----------------------------------------------------------------------


@places
@pytest.mark.usefixtures("certified")
@pytest.mark.parametrize("trusted", [False, True], ids=["stranger", "trusted"])
def test_what_the_reader_would_cut_is_not_sent(run, place, trusted):
    """It counts whom the reader trusts, and not whom the writer does."""

    async def main():
        async with pair(place, trusted=(not trusted, trusted), options=OPTIONS) as ends:
            for sender, receiver in (ends, reversed(ends)):
                await pass_on(sender, receiver, "a")
                before = sender.stats()["bytes_sent"]
                most = 3 * MIB if receiver.trusted else 2 * MIB
                for message, limit in [
                    (array(most), rf"bytes, and the peer accepts at most {most}.* Limits\.message"),
                    ([array(5000)] * 10, r"21 frames, and .* at most 20.*raise Limits\.frames"),
                    ("x" * MIB, rf"at most {MIB}.*Limits\.untrusted_header"),
                ]:
                    if receiver.trusted and type(message) is str:
                        continue
                    with pytest.raises(dc.MessageError, match=limit) as caught:
                        await sender.write(message)
                    assert f"{sender.local_address} -> {sender.peer_address}" in str(caught.value)
                assert sender.stats()["bytes_sent"] < before + 100  # it has asked which apply
                assert await pass_on(sender, receiver, "abc") == 3

    run(main())


@places
@pytest.mark.usefixtures("certified")
@pytest.mark.parametrize("key", ["one", ""], ids=["key", "no key"])
def test_what_fits_a_trusted_reader_is_sent_before_anything_was_heard_of_it(run, place, key):
    async def main():
        trusted = (None, None) if key else (True, True)
        for first in (0, 1):
            async with pair(place, trusted=trusted, options=OPTIONS, key=key) as ends:
                sender, receiver = ends[first], ends[1 - first]
                assert await pass_on(sender, receiver, array(5 * MIB // 2)) == 5 * MIB // 2
                assert await pass_on(receiver, sender, array(5 * MIB // 2)) == 5 * MIB // 2

    run(main())


def test_messages_wait_behind_one_that_waits_for_the_limits(run):
    async def main():
        async with pair(trusted=(True, True), options=OPTIONS) as (client, server):
            writes = [client.write(array(5 * MIB // 2)), *(client.write(n) for n in range(3))]
            writing = asyncio.gather(*writes)
            assert len(await server.read()) == 5 * MIB // 2
            assert [await server.read() for _ in range(3)] == [0, 1, 2]
            await writing

    run(main())


def test_who_does_not_read_knows_the_limits_all_the_same(run):
    """They came in front of the first message: the answer to a question would not be read."""

    async def main():
        async with pair(trusted=(True, True), options=OPTIONS) as (client, server):
            for number in range(40):
                await server.write(bytes(100_000))
                if number > 20:
                    await settle()
            writing = asyncio.ensure_future(client.write(array(5 * MIB // 2)))
            assert len(await server.read()) == 5 * MIB // 2
            await writing

    run(main())


def test_a_connection_that_ends_ends_the_wait_for_its_limits(run):
    hello = pack({
        "python": (3, 11, 7),
        "pickle-protocol": 5,
        "distributed_comm": {"version": 4, "limits": [[100, 9, 100], [MIB, 9, MIB]]},
    })  # fmt: skip

    async def main():
        async with raw_pair(hello) as (raw, comm):
            writing = asyncio.ensure_future(comm.write(bytes(1000)))
            assert await raw.read_frames() == [bytes.fromhex("c7 02 bc 07 00")]
            assert await raw.read_frames() == [bytes.fromhex("c7 01 bc 06")]
            assert not writing.done()
            raw.close()
            with pytest.raises(dc.CommClosedError):
                await writing
        async with raw_pair(hello) as (raw, comm):
            writing = asyncio.ensure_future(comm.write(bytes(1000)))
            await raw.send(frame_up(bytes.fromhex("c7 02 bc 07 00")))  # those of strangers
            with pytest.raises(dc.MessageError, match="accepts at most 100 from this side"):
                await writing

    run(main())


TELLS_LITTLE = pack({
    "python": (3, 11, 7),
    "pickle-protocol": 5,
    "distributed_comm": {"version": 4, "limits": [[1000, 9, 1000], [2**40, 9, 2**40]]},
})  # fmt: skip


def test_a_peer_that_has_sent_a_message_had_its_chance_to_say_which_limits_apply(run):
    """Nobody waits for its answer, with a reply in memory."""

    async def main():
        async with raw_pair(TELLS_LITTLE) as (raw, comm):
            await raw.send(pack("request"))
            assert await comm.read() == "request"
            with pytest.raises(dc.MessageError, match="accepts at most 1000 from this side"):
                await comm.write(bytes(2000))
            await comm.write("short")
            assert await raw.read_frames() == [bytes.fromhex("c7 02 bc 07 00")]
            assert await raw.read_message() == "short"

    run(main())


def test_a_stranger_that_does_not_say_which_limits_apply_is_cut_and_its_messages_count(run):
    options = dc.CommOptions(
        limits=dc.Limits(untrusted_memory=MIB), timeouts=dc.Timeouts(gap=0.2, close=0.2)
    )

    async def main():
        async with raw_pair(TELLS_LITTLE, options=options) as (_, comm):
            waiting = asyncio.ensure_future(comm.write(bytes(600_000)))
            await settle()
            assert comm.channel.budget.used > 600_000
            with pytest.raises(dc.CommClosedError, match=r"did not say which limits apply"):
                await waiting
            assert comm.channel.budget.used == 0

    run(main())


def test_a_peer_that_accepts_nothing_is_sent_nothing(run):
    hello = pack({
        "python": (3, 11, 7),
        "pickle-protocol": 5,
        "distributed_comm": {"version": 4, "limits": [[0, 0, 0], [0, 0, 0]]},
    })  # fmt: skip

    async def main():
        async with raw_pair(hello) as (_, comm):
            for message in ("x", None, bytes(100_000)):
                with pytest.raises(dc.MessageError, match="accepts at most 0"):
                    await comm.write(message)

    run(main())


def test_who_asks_before_the_first_message_slows_nothing_down(run):
    async def main():
        async with raw_pair(TELLS_LITTLE) as (raw, comm):
            await raw.send(frame_up(bytes.fromhex("c7 01 bc 06")))
            assert await raw.read_frames() == [bytes.fromhex("c7 02 bc 07 00")]
            await comm.write("x")
            assert await raw.read_message() == "x"
            assert comm.channel.out._short == 72  # by the fewest frames

    run(main())


@pytest.mark.parametrize("trusted", [False, True])
def test_a_call_that_is_too_long_leaves_the_connection_alone(run, trusted):
    async def items(nbytes):
        yield 1
        yield array(nbytes)

    async def write(comm, nbytes):
        await comm.write(array(nbytes))
        return dc.NO_REPLY

    handlers = {"give": array, "items": items, "write": write}

    async def main():
        async with (
            serve(handlers, trusted=trusted, options=OPTIONS) as (server, _),
            dc.rpc(server.address, trusted=trusted, options=OPTIONS) as remote,
        ):
            long = 4 * MIB
            error = dc.MessageError if trusted else dc.RemoteError
            for _ in range(2):
                with pytest.raises(dc.MessageError, match=r"nothing was sent"):
                    await remote.echo(data=array(long))
                for call in (remote.give, remote.write):
                    with pytest.raises(error, match=r"accepts at most .*: raise Limits\."):
                        await call(nbytes=long)
                assert await remote.echo(data=1) == 1
            assert server.incoming_comms_open == 1
            with pytest.raises(error, match=r"accepts at most"):
                [item async for item in remote.items.stream(nbytes=long)]

    run(main())


# -- whoever cuts says why ------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["bytes", "frames"])
def test_who_is_cut_is_told_why_and_there_is_one_line_in_the_log(run, caplog, wrong):
    long = frame_up(bytes(4 * MIB)) if wrong == "bytes" else frame_up(*[b"x"] * 22)

    async def main():
        async with raw_pair(HEARS_REASONS, trusted=True, options=OPTIONS) as (raw, comm):
            await raw.send(pack("before") + long[:MIB])
            [reason] = await raw.read_frames()
            assert reason[3] == Kind.REASON
            assert b"exceeds the limit of 3145728 (Limits.message)" in reason or (
                b"22 frames exceeds the limit of 20 (Limits.frames)" in reason
            )
            await raw.send(bytes(3 * MIB))  # which is discarded, and answered by no reset
            assert await raw.is_cut()
            raw.close()
            assert await comm.read() == "before"
            with pytest.raises(dc.RemoteProtocolError, match=rf"Limits\.({wrong}|message)"):
                await comm.read()

    caplog.set_level(logging.INFO, "distributed_comm")
    run(main())
    assert [record.message.startswith("cut a connection: ") for record in caplog.records] == [True]


def test_an_older_peer_is_cut_without_a_word_but_not_without_a_line(run, caplog):
    async def main():
        async with raw_pair(OUR_HELLO, options=OPTIONS) as (raw, _):
            await raw.send(frame_up(bytes(4 * MIB))[:MIB])
            assert await raw.is_cut()

    caplog.set_level(logging.INFO, "distributed_comm")
    run(main())
    assert [record.message.startswith("cut a connection: ") for record in caplog.records] == [True]


async def write_for_ever(comm):
    while True:
        await comm.write(array(40 * MIB))


@places
@pytest.mark.usefixtures("certified")
def test_the_reason_arrives_while_a_message_is_being_sent(run, place, monkeypatch):
    """As where a limit is exceeded that nobody could know: that on the memory of all strangers."""
    monkeypatch.setattr(ConnectionChannel, "check", lambda *_: None)

    async def main():
        async with pair(place, options=OPTIONS) as (client, _):
            with pytest.raises(dc.CommClosedError, match=r"which says: .*Limits\.") as caught:
                await write_for_ever(client)
            assert "reset" not in str(caught.value)

    run(main())


def test_who_is_closed_for_others_is_told_why(run):
    async def main():
        options = dc.CommOptions(limits=dc.Limits(untrusted_connections=2))
        async with dc.listen(LOOPBACK, echo, options=options) as listener:
            address = listener.contact_address
            first = await dc.connect(address)
            others = [await dc.connect(address) for _ in range(3)]
            with pytest.raises(
                dc.CommClosedError, match=r"Limits\.untrusted_connections"
            ) as caught:
                await first.read()
            assert caught.value.clean
            for comm in (first, *others):
                comm.abort()

    run(main())


@places
@pytest.mark.usefixtures("certified")
def test_nothing_follows_the_goodbye_of_who_is_closed_with_messages_unread(run, place):
    async def main():
        async with pair(place) as (client, server):
            await client.write("unread")
            await until(server.unread)
            server.channel.evict("no place")
            with pytest.raises(dc.CommClosedError, match="which says: no place") as caught:
                await client.read()
            assert caught.value.clean

    run(main())


def test_questions_that_were_answered_are_not_answered_again(run):
    async def main():
        async with raw_pair(HEARS_REASONS) as (raw, comm):
            ask = frame_up(bytes.fromhex("c7 01 bc 06"))
            await raw.send(100 * ask + pack("x"))
            assert await comm.read() == "x"
            await comm.write("y")
            assert await raw.read_frames() == [bytes.fromhex("c7 02 bc 07 00")]
            assert await raw.read_message() == "y"

    run(main())


def test_a_reason_is_text_of_a_stranger(run):
    async def main():
        async with raw_pair(HEARS_REASONS) as (raw, comm):
            await raw.send(frame_up(b"\xc7\x07\xbc\x08a\n\x1b[2\xff"))
            raw.close()
            with pytest.raises(dc.CommClosedError, match=r"which says: a\\n\\x1b\[2�: "):
                await comm.read()

    run(main())


# -- at the door ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", r"does not speak this protocol; it began with b'GET"),
        (b"SSH-2", r"does not speak this protocol; it began with b'SSH"),
        (b"\x00" * 16, r"a message of no frames"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 100])
def test_noise_at_the_port_is_named(run, caplog, noise, text, pieces):
    async def main():
        async with dc.listen(LOOPBACK, lambda _: None) as listener, dial_raw(listener) as raw:
            for start in range(0, len(noise), -(-len(noise) // pieces)):
                try:
                    await raw.send(noise[start : start + -(-len(noise) // pieces)])
                except OSError:  # it was cut already
                    break
                await settle()
            await raw.is_cut()
            await until(lambda: caplog.records)

    caplog.set_level(logging.INFO, "distributed_comm")
    run(main())
    [record] = caplog.records
    assert re.search(text, record.message)


def test_what_answers_in_another_protocol_is_named_and_not_dialled_again(run):
    async def speak(_, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def main():
        async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(dc.RemoteProtocolError, match=r"it began with b'HTTP/1\.1 4'"):
                await dc.connect(f"tcp://127.0.0.1:{port}", timeout=20)

    run(main())


def test_a_listener_that_is_full_says_so_once_and_lets_others_wait(run, caplog):
    options = dc.CommOptions(limits=dc.Limits(connections=1))

    async def main():
        async with dc.listen(LOOPBACK, echo, trusted=True, options=options) as listener:
            first = await dc.connect(listener.contact_address)
            for _ in range(2):
                with pytest.raises(OSError, match=r"no hello came; .* \(Limits\.connections\)"):
                    await dc.connect(listener.contact_address, timeout=0.1)
            second = asyncio.ensure_future(dc.connect(listener.contact_address))
            await first.close()
            await (await second).close()

    caplog.set_level(logging.WARNING, "distributed_comm")
    run(main())
    [record] = caplog.records
    assert re.search(r"has 1 connections, .* others wait \(Limits.connections\)", record.message)


@needs_proc
@pytest.mark.parametrize("place", [LOOPBACK, "unix://"], ids=["tcp", "unix"])
def test_who_has_too_many_open_files_blames_nobody_else(run, place):
    async def main():
        async with dc.listen(place, lambda _: None) as listener:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                with pytest.raises(OSError, match="in this process") as caught:
                    await dc.connect(listener.contact_address, timeout=0.1)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert caught.value.__cause__.errno == errno.EMFILE
            assert " by " not in str(caught.value)

    run(main())


# -- the terms ------------------------------------------------------------------------------

sizes = st.integers(0, 30)
frames_of = st.lists(sizes.map(bytes), min_size=1, max_size=8)


@given(frames_of, sizes, st.integers(1, 9))
def test_what_is_not_too_much_is_received(frames, most, count):
    """The framing of the reader and the check of the writer agree on every message."""
    fits = excess(Terms(most, count, most), frames) is None
    data = b"".join(framing.kernel.pack(frames))
    received, _ = framing.kernel.unpack(data, 0, len(data), most, count, 1)
    control = len(frames) == 1 and frames[0][:1] == b"\xc7"
    assert control or bool(received) is (
        fits or (sum(map(len, frames)) <= most and len(frames) <= count)
    )
    if fits:
        assert received == [frames]


@given(frames_of, sizes, st.integers(1, 9), sizes)
def test_a_short_message_is_never_too_much(frames, most, count, header):
    those = Terms(most, count, header)
    nbytes = sum(map(len, framing.kernel.pack(frames)))
    assert nbytes >= those.short or excess(those, frames) is None


@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=9))
def test_anything_is_terms_or_a_value_error(value):
    try:
        told = peer_limits.decode(value)
    except ValueError as exc:
        assert "in the hello, expected" in str(exc)  # noqa: PT017
    else:
        assert peer_limits.decode(peer_limits.encode(told)) == told


@pytest.mark.parametrize("message", [None, float("inf"), 2**70, 1.5e6])
def test_any_limit_of_ours_can_be_told(message):
    told = accepted(dc.Limits(message=message))
    assert peer_limits.decode(peer_limits.encode(told)) == told
