"""Envelopes, and how a peer that sends a wrong one is treated."""

import asyncio
import copy
import pickle

import cloudpickle
import pytest
from calling import dial, everywhere, serve
from hypothesis import given
from hypothesis import strategies as st
from loops import until
from lying import liar, post
from peers import pair
from values import HEADS, Opened, opened, values

import distributed_comm as dc
from distributed_comm import _push
from distributed_comm._envelope import (
    END,
    ERROR,
    ITEM,
    LONGEST,
    NOTHING,
    REPLY,
    Envelope,
    Request,
    as_data,
    decode_request,
    encode_request,
    take_head,
)
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions

FAMILIES = st.none() | st.lists(st.text(max_size=5), max_size=3).map(tuple)
REQUESTS = st.builds(
    Request, st.text(max_size=50), st.sampled_from([0, 1, 2]), st.booleans(), FAMILIES
)


# -- the head ---------------------------------------------------------------------------------


@given(REQUESTS)
def test_a_request_is_what_it_was(request):
    head = encode_request(request)
    assert decode_request(head) == request
    frames = [head, b"\xc0"]
    assert take_head(frames) is head
    assert frames == [b"\xc0"]


@given(st.binary() | st.binary().map(lambda data: b"\xc1\x01" + data))
def test_any_bytes_are_a_request_or_a_value_error(head):
    try:
        request = decode_request(head)
    except ValueError:
        return
    assert decode_request(encode_request(request)) == request


def test_a_head_has_a_limit_on_both_sides():
    with pytest.raises(ValueError, match=f"expected at most {LONGEST}"):
        encode_request(Request("x" * LONGEST))
    with pytest.raises(ValueError, match=f"expected at most {LONGEST}"):
        decode_request(b"\xc1\x01\x91\xda\x20\x00" + b"x" * 0x2000)
    with pytest.raises(ValueError, match="malformed"):
        decode_request(b"\xc1\x01" + b"\x91" * 2000)


def test_later_versions_may_say_more_in_it():
    head = b"\xc1\x01" + bytes.fromhex("96 a1 66 01 c2 c0 81 a1 78 01 cb 3f f0 00 00 00 00 00 00")
    assert decode_request(head) == Request("f")


def test_signals_cannot_be_sent_as_data(run):
    for thing in (dc.NO_REPLY, Envelope(REPLY, 1)):
        for copied in (pickle.dumps, cloudpickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be sent"):
                copied(thing)

    async def main(where, trusted):
        async with pair(where, trusted=(trusted, trusted)) as (client, server):
            for thing in (dc.NO_REPLY, Envelope(REPLY, 1)):
                wrapped = [] if where == "inproc://" else [[thing], {"x": thing}]
                wrapped += [] if where == "inproc://" else [dc.ToPickle(thing), dc.Serialize(thing)]
                for message in [thing, *wrapped]:
                    with pytest.raises(TypeError, match="cannot be sent"):
                        await client.write(message)
            await client.write("the next")
            assert await server.read() == "the next"

    for where in ("tcp://127.0.0.1:0", "inproc://"):
        run(main(where, True))
        run(main(where, False))


# -- a peer that is not a server --------------------------------------------------------------


@everywhere
def test_a_plain_reader_gets_a_request_as_dasks_dict(run, where):
    async def main():
        seen = []

        async def serve_by_hand(comm):
            async with comm:
                async for message in comm:
                    seen.append(message)
                    await comm.write(len(seen))

        async with (
            dc.listen(where, serve_by_hand) as listener,
            dc.rpc(listener.contact_address) as remote,
        ):
            assert await remote.add(x=1) == 1
            assert await remote.add(x=2, serializers=["msgpack"], close=True) == 2
            assert await anext(remote.items.stream(n=1)) == 3
        families = {"close": True, "serializers": ("msgpack",)}
        assert seen == [
            {"op": "add", "x": 1, "reply": True},
            {"op": "add", "x": 2, "reply": True, **families},
            {"op": "items", "n": 1, "close": True},
        ]

    run(main())


@everywhere
@pytest.mark.parametrize("pushed", [False, True], ids=["read", "pushed"])
def test_any_other_message_of_a_call_is_an_error_to_a_plain_reader(run, where, pushed):
    if pushed and where == "inproc://":
        pytest.skip("its comms can only be read")

    async def main():
        async with pair(where) as (client, server):
            got = []
            if pushed:
                server.push(lambda message, error: got.append(error or message))

            async def read():
                if pushed:
                    await until(lambda: got)
                    raise got.pop()
                await server.read()

            request = encode_request(Request("f"))
            for head, message in (
                *((head, {"x": 1}) for head in (REPLY, ERROR, ITEM, END)),
                (request, {"op": 1}),
                (request, [1]),
                (request[:-1], {}),
                (b"\xc1", {}),
            ):
                await post(client, head, message)
                with pytest.raises(dc.MessageError, match=f"{client.local_address}"):
                    await read()
            await client.write(REPLY)
            if pushed:
                await until(lambda: got)
                assert got == [REPLY]
            else:
                assert await server.read() == REPLY

    run(main())


def test_arguments_that_have_the_names_of_dasks_keys_are_for_a_server_alone():
    head = encode_request(Request("f"))
    assert as_data(head, {"x": 1}) == {"op": "f", "x": 1, "reply": True}
    for name in ("op", "reply", "close", "serializers"):
        with pytest.raises(dc.MessageError, match="which only a Server can tell"):
            as_data(head, {name: 1})


# -- a peer that lies to a caller -------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("head", [END, ITEM, encode_request(Request("f")), b"\xc1\xff", b"\xc1"])
def test_anything_but_an_answer_ends_the_connection(run, where, head):
    async def main():
        async with (
            liar((head, {"x": 1}), where=where) as listener,
            dc.rpc(listener.contact_address, limit=1) as remote,
        ):
            for _ in range(2):
                with pytest.raises(dc.RemoteProtocolError, match="where a reply was expected"):
                    await remote.f()
                assert remote._own.open == 0
            if head not in {END, ITEM}:
                with pytest.raises(dc.RemoteProtocolError, match="where a reply was expected"):
                    await anext(remote.f.stream())
            async with await dc.connect(listener.contact_address) as comm:
                with pytest.raises(dc.RemoteProtocolError):
                    await dc.send_recv(comm, op="f")
                assert comm.closed()

    run(main())


@pytest.mark.parametrize("trusted", [False, True])
def test_an_error_may_be_of_anything_and_is_never_echoed_at_length(run, trusted):
    texts = [None, 1, 10**5000, b"x" * 100_000, "x" * 1_000_000, ["x"] * 10_000, {"a": 1}, "\n"]
    fields = ["exception", "traceback", "exception_text", "traceback_text", "causes", "status"]
    bodies = [*texts, *({field: text} for field in fields for text in texts)]
    bodies += [dict.fromkeys(fields, text) for text in texts]
    bodies += [{"exception": pickle.dumps(KeyError(1)), "causes": [b"", 1, *texts]}]

    async def main():
        current = []

        async def answer(comm):
            async with comm:
                async for _ in comm:
                    await post(comm, ERROR, current[-1])

        async with (
            dc.listen("tcp://127.0.0.1:0", answer, trusted=trusted) as listener,
            dc.rpc(listener.contact_address, trusted=trusted) as remote,
        ):
            for body in bodies:
                current.append(body)
                with pytest.raises((dc.RemoteError, KeyError)) as info:
                    await asyncio.wait_for(remote.f(), 10)
                error = info.value
                while error is not None:
                    assert len(str(error)) < 25_000
                    error = error.__cause__
                assert remote._own.open == 1

    run(main())


def test_of_causes_without_an_end_only_some_are_opened(run):
    body = {"exception": pickle.dumps(KeyError(0)), "causes": [pickle.dumps(KeyError(1))] * 10_000}

    async def main():
        async with (
            liar((ERROR, body)) as listener,
            dc.rpc(listener.contact_address, trusted=True) as remote,
        ):
            with pytest.raises(KeyError) as info:
                await remote.f()
            causes, error = 0, info.value
            while (error := error.__cause__) is not None:
                causes += 1
            assert 0 < causes <= 16

    run(main())


def test_a_pickle_in_an_error_is_opened_for_trusted_peers_alone(run):
    body = {"exception": pickle.dumps(Opened()), "exception_text": "its text"}

    async def main(trusted):
        async with (
            liar((ERROR, body)) as listener,
            dc.rpc(listener.contact_address, trusted=trusted) as remote,
        ):
            with pytest.raises(dc.RemoteError, match=r"^its text$"):
                await remote.f()
            with pytest.raises(dc.RemoteError, match=r"^its text$"):
                await anext(remote.f.stream())

    run(main(False))
    assert opened == []
    run(main(True))
    assert len(opened) == 2
    opened.clear()


@everywhere
def test_a_reply_by_hand_is_a_value_whatever_follows_it(run, where):
    async def chatty(comm):
        await comm.write({"status": "uncaught-error"})
        await comm.write("for nobody")
        return "for nobody either"

    async def main():
        async with serve({"chatty": chatty}, where) as (_, remote):
            for number in range(3):
                assert await remote.chatty() == {"status": "uncaught-error"}
                assert await remote.echo(data=number) == number
                assert remote._own.open == 1

    run(main())


# -- a peer that lies to a server -------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("head", [*HEADS, b"\xc1\xff", b"\xc1", b"\xc1\x01", b"\xc1\x01\xc0"])
def test_anything_but_a_request_ends_the_connection(run, where, head):
    async def main():
        async with serve({}, where) as (server, remote), dial(server) as comm:
            await post(comm, head, {"x": 1})
            if head[:2] == b"\xc1\x01":  # one that was meant for a request is told why not
                answer, error, _ = await comm.read_enveloped()
                assert answer == ERROR
                assert "malformed" in error["exception_text"]
            with pytest.raises(dc.CommClosedError):  # not answered: that could go on for ever
                await comm.read_enveloped()
            assert await remote.echo(data=1) == 1

    run(main())


def test_a_head_of_any_size_is_refused(run):
    async def main():
        async with serve() as (server, _):
            for size in (LONGEST, 64 * 1024, 1024 * 1024):
                async with dial(server) as comm:
                    comm.channel.send([b"\xc1\x01" + bytes(size), b"\x80"])
                    answer, error, _ = await comm.read_enveloped()
                    assert (answer, "expected at most" in error["exception_text"]) == (ERROR, True)

    run(main())


def test_a_request_is_refused_before_its_arguments_are_decoded(run):
    async def main():
        async with serve() as (server, _), dial(server) as comm:
            no_msgpack = b"\xc1\xc1\xc1"
            comm.channel.send([encode_request(Request("nowhere")), no_msgpack])
            _, error, _ = await comm.read_enveloped()
            assert "no op 'nowhere'" in error["exception_text"]
            comm.channel.send([encode_request(Request("echo")), no_msgpack])
            _, error, _ = await comm.read_enveloped()
            assert "cannot be decoded" in error["exception_text"]
            comm.channel.send([encode_request(Request("nowhere", NOTHING)), no_msgpack])
            comm.channel.send([encode_request(Request("echo")), b"\x81\xa4data\x07"])
            assert await comm.read_enveloped() == (REPLY, 7, None)

    run(main())


def test_what_is_refused_is_not_decoded(run, monkeypatch):
    decoded = []

    def loads(frames, options, *rest):
        decoded.append(frames)
        return pushing_loads(frames, options, *rest)

    pushing_loads = _push.loads
    monkeypatch.setattr(_push, "loads", loads)
    guarded = dc.handler(lambda x: x, require_trust=True)

    async def main():
        async with serve({"guarded": guarded, "open": lambda x: x}) as (_, remote):
            for op in ("guarded", "nowhere"):
                with pytest.raises(dc.RemoteError):
                    await remote[op](x=1)
            assert decoded == []
            await remote.open(x=1)
            assert len(decoded) == 1

    run(main())


@everywhere
def test_the_op_close_closes_as_it_does_in_a_dict(run, where):
    async def main():
        async with serve({}, where) as (server, remote), dial(server) as comm:
            assert await dc.send_recv(comm, op="close") == "OK"
            await until(comm.closed)
            assert await remote.close() == "OK"
            await until(lambda: server.incoming_comms_open == 0)

    run(main())


@pytest.mark.parametrize("arguments", [None, [1], "x", {1: 2}, {"": 1}, {b"data": 1}])
@everywhere
def test_arguments_that_are_none_are_an_error_of_their_call(run, where, arguments):
    async def main():
        async with serve({}, where) as (server, _), dial(server) as comm:
            for _ in range(2):
                await post(comm, encode_request(Request("identity")), arguments)
                answer, error, _ = await comm.read_enveloped()
                assert (answer, "TypeError" in error["exception_text"]) == (ERROR, True)

    run(main())


def test_only_usual_heads_are_remembered(run):
    async def main():
        async with serve() as (server, remote), dial(server) as comm:
            await remote.echo(data=1)
            known = len(server._operations._calls)
            for extra in range(300):
                head = encode_request(Request("echo", families=(f"family {extra}",)))
                await post(comm, head, {})
                await comm.read_enveloped()
                odd = b"\xc1\x01\x96\xa4echo\x01\xc2\xc0\xcd" + extra.to_bytes(2, "big") + b"\x00"
                await post(comm, odd, {})
                assert await comm.read_enveloped() == (REPLY, None, None)
            assert len(server._operations._calls) == known

    run(main())


# -- handlers that take the connection, and those that do not ------------------------------------


@everywhere
def test_only_a_handler_with_the_connection_can_return_no_reply(run, where):
    async def by_hand(comm, reply):
        await comm.write("by hand")
        return reply

    def at_once(stream, reply):
        writing.append(asyncio.ensure_future(stream.write("at once")))
        return reply

    writing = []
    kinds = {"ours": dc.NO_REPLY, "dasks": dc.Status.dont_reply}
    handlers = {
        "by_hand": lambda comm, kind: by_hand(comm, kinds[kind]),
        "at_once": lambda stream, kind: at_once(stream, kinds[kind]),
        "value": lambda kind: kinds[kind],
    }

    async def main():
        async with serve(handlers, where) as (_, remote):
            for kind in kinds:
                assert await remote.by_hand(kind=kind) == "by hand"
                assert await remote.at_once(kind=kind) == "at once"
            assert await remote.value(kind="dasks") is dc.Status.dont_reply
            with pytest.raises((dc.RemoteError, TypeError), match="NO_REPLY cannot be sent"):
                await remote.value(kind="ours")
            assert await remote.echo(data=1) == 1

    run(main())


@everywhere
def test_a_stream_ends_explicitly_and_not_when_its_server_vanishes(run, where):
    cut = asyncio.Event()

    async def items(comm):
        await comm.write("plain")
        return dc.NO_REPLY

    async def endless():
        yield 1
        await cut.wait()

    async def main():
        async with serve({"items": items, "endless": endless}, where) as (server, remote):
            assert [item async for item in remote.items.stream()] == ["plain"]
            stream = remote.endless.stream()
            assert await anext(stream) == 1
            closing = asyncio.ensure_future(server.close(grace=0.01))
            with pytest.raises(dc.RemoteError, match="took longer than the grace"):
                await anext(stream)
            await closing

    run(main())


@everywhere
def test_a_clean_close_does_not_end_a_stream_of_items(run, where):
    async def main():
        async def answer(comm):
            await comm.read()
            await post(comm, ITEM, 1)
            await comm.close()

        async with dc.listen(where, answer) as listener, dc.rpc(listener.contact_address) as remote:
            stream = remote.items.stream()
            assert await anext(stream) == 1
            with pytest.raises(dc.CommClosedError):
                await anext(stream)

    run(main())


@given(values)
def test_no_message_of_a_user_begins_like_an_envelope(value):
    assert dumps(value, DumpOptions(typed=True))[0][:1] != b"\xc1"
