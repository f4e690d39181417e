"""What each byte stream has to pass, and a connection over one that is no socket."""

import asyncio
import inspect
import socket
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops import until

import distributed_comm as dc
from distributed_comm._comm import ChannelComm
from distributed_comm._connection.byte_stream import Informed, SocketStream
from distributed_comm._connection.channel import ConnectionChannel
from distributed_comm._connection.handshake import judge, make_channel
from distributed_comm._connection.peer import ConnectionInfo
from distributed_comm._logs import StrangersLog
from distributed_comm._loops.loop_state import state_of
from distributed_comm._tls.stream import TLSStream
from distributed_comm._trust.trust import Trust
from distributed_comm._wire.budget import Budget
from distributed_comm._wire.length_framing import LengthFraming
from distributed_comm._wire.states import FAREWELL, MUTE

from .certificates import secure
from .pipes import pipe

MIB = 1024 * 1024
SECURITY = secure()


class Recorder(asyncio.BufferedProtocol):
    """Notes what a stream calls it with."""

    def __init__(self):
        self.received = bytearray()
        self.made, self.ended, self.lost, self.resumed, self.shaken = (
            asyncio.Event() for _ in range(5)
        )
        self._block = bytearray(50_000)

    def connection_made(self, transport):
        self.transport = transport
        self.stream.begin(transport)
        self.made.set()

    def get_buffer(self, sizehint):
        return memoryview(self._block)

    def buffer_updated(self, nbytes):
        self.received += self._block[:nbytes]

    def eof_received(self):
        self.ended.set()
        return False

    def resume_writing(self):
        self.resumed.set()

    def connection_lost(self, exc):
        self.lost.set()

    # what a stream may tell, beside: `Informed`

    def identify(self, about, *, vouched):
        self.shaken.set()

    def fail(self, why, cause=None, kind=None):
        raise AssertionError(why)

    def count_ahead(self):
        pass

    async def has(self, nbytes):
        await until(lambda: len(self.received) >= nbytes)


def sockets(family):
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0) if family is socket.AF_INET else "")
        listener.listen()
        near = socket.socket(family, socket.SOCK_STREAM)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
    return near, far


def over_tcp():
    return tuple(map(SocketStream, sockets(socket.AF_INET)))


def over_unix():
    return tuple(map(SocketStream, socket_pair()))


def socket_pair():
    pair = socket.socketpair()
    for sock in pair:
        sock.setblocking(False)
    return pair


def over_tls():
    near, far = sockets(socket.AF_INET)
    block = state_of(asyncio.get_running_loop()).ciphertext_block()
    return (
        TLSStream(near, SECURITY.connecting, block, "localhost"),
        TLSStream(far, SECURITY.listening, block),
    )


def in_memory():
    return pipe()


each_stream = pytest.mark.parametrize("make", [over_tcp, over_unix, over_tls, in_memory])


@pytest.mark.parametrize("listener", [Recorder, ConnectionChannel])
def test_a_connection_understands_what_a_stream_may_tell(listener):
    told = {name: method for name, method in vars(Informed).items() if name[0] != "_"}
    assert told
    for name, method in told.items():
        heard = inspect.signature(getattr(listener, name))
        assert [*heard.parameters] == [*inspect.signature(method).parameters]


async def started(make):
    """Return two streams of a connection, started, and what notes what comes out of them."""
    loop = asyncio.get_running_loop()
    streams, recorders = make(), (Recorder(), Recorder())
    for stream, recorder in zip(streams, recorders, strict=True):
        recorder.stream = stream
        await stream.start(loop, recorder, lambda protocol: protocol)
    if make is over_tls:
        for recorder in recorders:
            await recorder.shaken.wait()
    return streams, recorders


async def close(streams, recorders):
    for stream, recorder in zip(streams, recorders, strict=True):
        stream.abort()
        await recorder.lost.wait()


async def send_all(stream, recorder, data):
    """Send as a queue does: what a full stream does not take is parked, or waits."""
    view = memoryview(data)
    while view:
        try:
            view = view[stream.send(view) :]
        except BlockingIOError:
            recorder.resumed.clear()
            piece, view = bytes(view[:1000]), view[1000:]
            if stream.park(piece):
                assert stream.parked or stream.ahead
                await recorder.resumed.wait()
                assert not stream.parked


@each_stream
def test_bytes_arrive_in_order_both_ways_however_full_it_is(make, run):
    async def main():
        streams, recorders = await started(make)
        data = bytes(range(256)) * 20_000
        await asyncio.gather(
            *(send_all(s, r, data) for s, r in zip(streams, recorders, strict=True)),
            *(r.has(len(data)) for r in recorders),
        )
        assert all(r.received == data for r in recorders)
        await close(streams, recorders)

    run(main())


@each_stream
def test_several_buffers_are_sent_as_if_they_were_one(make, run):
    async def main():
        streams, recorders = await started(make)
        buffers = [b"a", bytearray(b"bc"), memoryview(b"defg"), b"", bytes(20_000)]
        taken = streams[0].send_many(buffers)
        whole = b"".join(buffers)
        assert 0 < taken <= len(whole)
        await recorders[1].has(taken)
        assert recorders[1].received == whole[:taken]
        await close(streams, recorders)

    run(main())


@each_stream
def test_no_memory_is_borrowed(make, run):
    async def main():
        streams, recorders = await started(make)
        mine, sent = bytearray(b"m" * 300_000), 0
        with suppress(BlockingIOError):
            while True:
                sent += streams[0].send(mine)
        mine[:] = b"x" * len(mine)
        await recorders[1].has(sent)
        assert recorders[1].received == b"m" * sent
        await close(streams, recorders)

    run(main())


@each_stream
def test_nothing_is_received_while_it_pauses_but_what_is_taken_in(make, run):
    async def main():
        streams, recorders = await started(make)
        near, far = streams
        far.pause()
        assert not far.take_in(recorders[1])
        near.send(b"one")
        await until(far.has_news)
        assert not recorders[1].received
        assert far.take_in(recorders[1])
        assert recorders[1].received == b"one"
        assert not far.has_news()
        near.send(b"two")
        far.resume()
        await recorders[1].has(6)
        assert recorders[1].received == b"onetwo"
        await close(streams, recorders)

    run(main())


@each_stream
def test_the_end_comes_behind_what_was_sent(make, run):
    async def main():
        streams, recorders = await started(make)
        near, _ = streams
        near.send(b"last words")
        near.end()
        await recorders[1].ended.wait()
        assert recorders[1].received == b"last words"
        await recorders[1].lost.wait()
        near.abort()
        await recorders[0].lost.wait()

    run(main())


@each_stream
def test_an_abort_is_lost_at_both_ends_and_takes_no_more_bytes(make, run):
    async def main():
        streams, recorders = await started(make)
        near, far = streams
        near.abort()
        near.abort()
        assert near.is_closing()
        await recorders[0].lost.wait()
        await recorders[1].lost.wait()
        with pytest.raises(OSError):  # noqa: PT011 - the system's text
            far.send(b"too late")
        near.shut()  # which never raises

    run(main())


def test_a_socket_sends_ahead_what_the_next_bytes_take_along(run):
    async def main():
        streams, recorders = await started(over_tcp)
        assert streams[0].send_ahead(b"first, ") == 7
        streams[0].send(b"second")
        await recorders[1].has(13)
        assert recorders[1].received == b"first, second"
        await close(streams, recorders)

    run(main())


# -- a connection over memory ------------------------------------------------------


def connect_over(streams, options=None):
    """Return two comms over two ends of a stream, once their handshake is done."""
    loop = asyncio.get_running_loop()
    state, budget = state_of(loop), Budget(64 * MIB)
    trust = Trust.choose(True, None, False, False)

    async def one(stream, dialled):
        done = loop.create_future()
        info = ConnectionInfo("pipe://here", "pipe://there", "", dialled=dialled, same_host=False)
        channel = make_channel(
            state, stream, info, trust, options or dc.CommOptions(), LengthFraming,
            done.set_result, lambda channel: done.cancelled() or done.done(),
        )  # fmt: skip
        assert isinstance(channel, ConnectionChannel)
        channel.greet()
        await stream.start(loop, channel, channel.attached)
        await done
        trusted = judge(channel, trust, budget, StrangersLog("of a pipe"))
        return ChannelComm(channel, trusted=trusted, deserialize=True, limits=dc.Limits())

    return asyncio.gather(one(streams[0], True), one(streams[1], False))


sizes = st.lists(st.one_of(st.integers(0, 300), st.sampled_from([70_000, 300_000])), max_size=12)


@given(room=st.one_of(st.integers(1, 5_000), st.just(64 * 1024)), sizes=sizes)
def test_any_room_in_the_pipe_gives_the_same_messages(room, sizes):
    room = max(room, sum(sizes) // 2_000)  # for a hundred turns of the loop suffice

    async def main():
        ours, theirs = await connect_over(pipe(room))
        sent = [bytes([i]) * size for i, size in enumerate(sizes)]

        async def write():
            for message in sent:
                await ours.write(message)
            await ours.close()

        writing = asyncio.ensure_future(write())
        assert [message async for message in theirs] == sent
        await theirs.close()
        await writing

    asyncio.run(main())


def test_closing_does_not_wait_where_nothing_can_be_sent_any_more(run):
    """The peer has said goodbye, and takes nothing: nothing has to be sent, and nothing comes."""

    async def main():
        streams = pipe()
        ours, theirs = await connect_over(streams)
        channel = ours.channel
        await theirs.write("so that all is said")
        await ours.read()
        theirs.channel.out.post(theirs.channel.connection.goodbye())
        await until(lambda: channel.connection.state is FAREWELL)
        streams[0].sends = False
        began = time.perf_counter()
        await ours.close()
        assert time.perf_counter() - began < dc.Timeouts().close / 2
        theirs.abort()

    run(main())


def test_who_waits_for_the_limits_goes_on_where_nothing_can_be_sent_any_more(run):
    async def main():
        streams = pipe()
        options = dc.CommOptions(limits=dc.Limits(untrusted_header=1000))
        ours, theirs = await connect_over(streams, options)
        theirs.channel.stream.pause()
        writing = asyncio.ensure_future(ours.write(bytes(2000)))
        await until(lambda: ours.channel._settling)
        ours.channel.send_failed(BrokenPipeError("gone"))
        with pytest.raises(dc.CommClosedError, match="sending failed: gone"):
            await writing
        assert ours.channel.connection.state is MUTE
        ours.abort()
        theirs.abort()

    run(main())


def test_a_slow_reader_of_a_pipe_slows_its_writer(run):
    async def main():
        ours, theirs = await connect_over(pipe())
        writing = asyncio.ensure_future(ours.write(bytes(20 * MIB)))
        more = asyncio.ensure_future(write_behind(ours, writing))
        await theirs.read()
        await until(lambda: ours.channel.out.unsent >= MIB // 2)
        assert not more.done()
        async for _ in theirs:
            pass
        await more
        await theirs.close()

    async def write_behind(comm, first):
        await first
        for _ in range(10):
            await comm.write(bytes(MIB))
        await comm.close()

    run(main())
