"""What is unsent to a stranger, by itself: whatever happens, as much is counted as there is."""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distributed_comm as dc
from distributed_comm._connection.channel import ConnectionChannel
from distributed_comm._connection.charge import ADVANCE
from distributed_comm._connection.peer import ConnectionInfo
from distributed_comm._connection.send_queue import JOIN
from distributed_comm._logs import StrangersLog
from distributed_comm._loops.loop_state import LoopState
from distributed_comm._wire import hello
from distributed_comm._wire.budget import ALLOWANCE, Budget
from distributed_comm._wire.peer_limits import accepted
from distributed_comm._wire.states import State

from .connecting import OURS, connect
from .hostile import honest

KIB, MIB = 1024, 1024 * 1024
BUDGET = 2 * MIB


class Stream:
    """A stream that takes what it has room for, and says by `ahead` what it has not passed on."""

    unacknowledged = 0

    def __init__(self):
        self.room = self.ahead = 0
        self.piece = b""

    def send(self, data):
        if not self.room:
            raise BlockingIOError
        taken = min(len(data), self.room)
        self.room -= taken
        return taken

    def send_many(self, buffers):
        return self.send(b"".join(map(bytes, buffers)))

    def send_ahead(self, data):
        return 0

    def park(self, piece):
        self.piece += piece
        return True

    @property
    def parked(self):
        return len(self.piece)

    def has_news(self):
        return False

    def abort(self):
        pass


class Loop:
    """Runs what is due when it is told to."""

    def __init__(self):
        self.due = []

    def call_soon(self, callback, *args, context=None):
        self.due.append((callback, args))

    def turn(self):
        due, self.due = self.due, []
        for callback, args in due:
            callback(*args)

    def create_future(self):
        return asyncio.Future(loop=self)

    def get_debug(self):
        return False

    def is_closed(self):
        return False


class Running:
    """What says that the loop runs here."""

    def runs(self):
        return True


class Probe(ConnectionChannel):
    """The channel of a stranger on such a stream and loop."""

    def __init__(self, budget, connection):
        info = ConnectionInfo("here", "there", "", dialled=False, same_host=False)
        state, options = LoopState(Loop()), dc.CommOptions()
        super().__init__(state, Stream(), connection, info, options, ignore, ignore)
        self.turn = None
        self.out._switch = Running()
        self.writers = []
        self.share(budget, StrangersLog("of a test"))

    def write(self, frames):
        """Send a message, and let it be drained, until it has to wait."""
        self.send(frames)
        if self.full:
            drain = self.drain()
            with contextlib.suppress(StopIteration):
                while drain.send(None) is None:  # it gives way
                    self._state.loop.turn()
                self.writers.append(drain)

    def take(self, nbytes):
        """Let the peer take so many bytes, first of what the stream keeps."""
        piece = self.stream.piece
        self.stream.piece = piece[nbytes:]
        if not self.stream.piece:
            self.stream.room += nbytes - len(piece)
            if piece:
                self.resume_writing()

    def memory(self):
        """Return the bytes of what is there, whole."""
        whole = [b.obj if isinstance(b, memoryview) else b for b in self.out._queue]
        return sum(memoryview(b).nbytes for b in whole) + self.stream.parked


def ignore(_channel):
    pass


def probe(budget):
    return Probe(budget, connect(OURS))


def check(budget, probes):
    """Check that as much is counted as there is, but for little."""
    for each in probes:
        held = each.out.held
        assert each.memory() - held <= ALLOWANCE
        # a short buffer that was parked counts until it is sent, and something is held in advance
        assert held <= each.out._kept() + JOIN + ADVANCE
        if not each.out.unsent:
            assert held == 0
    assert budget.used == sum(each.out.held for each in probes) <= BUDGET


SIZES = st.sampled_from([0, 1, 100, 3_000, 5_000, 60_000, 70_000, 300_000, 900_000])
STEPS = st.one_of(
    st.tuples(st.just("write"), SIZES, st.booleans()),
    st.tuples(st.just("take"), st.sampled_from([1, 1_000, 20_000, 100_000, 2_000_000])),
    st.tuples(st.sampled_from(["turn", "fresh", "cancel", "abort"])),
)


@settings(max_examples=120)
@given(st.lists(st.tuples(st.integers(0, 2), STEPS), max_size=60))
def test_whatever_happens_as_much_is_counted_as_waits(steps):
    budget = Budget(BUDGET)
    probes = [probe(budget) for _ in range(3)]
    for who, (what, *args) in steps:
        one = probes[who]
        if what == "write":
            size, borrowed = args
            frames = [b"x", memoryview(bytearray(size)) if borrowed else bytes(size)]
            with contextlib.suppress(dc.MessageError, dc.CommClosedError):
                one.write(frames)
        elif what == "take":
            one.take(*args)
        elif what == "turn":
            one._state.loop.turn()
        elif what == "fresh":  # as a callback that has received something
            one.out.fresh = not one.out.unsent
        elif what == "cancel":
            for writer in one.writers:
                with contextlib.suppress(asyncio.CancelledError, StopIteration, dc.CommClosedError):
                    writer.throw(asyncio.CancelledError)
            one.writers.clear()
        elif what == "abort" and args:
            one.abort()
        check(budget, probes)
    for one in probes:
        one.take(100 * MIB)
        one._state.loop.turn()
        one.take(100 * MIB)
        for writer in one.writers:
            writer.close()
    assert budget.used == 0


def test_a_long_buffer_is_counted_as_long_as_it_is_there():
    """Where little of it is left, that is copied, and the rest is free."""
    budget = Budget(BUDGET)
    one = probe(budget)
    one.send([bytes(MIB)])
    one.take(MIB // 2)
    assert one.out.unsent < 600 * KIB
    assert MIB <= budget.used <= one.memory() + ADVANCE
    one.take(MIB // 2 - 1000)
    assert one.memory() < 2 * KIB
    assert budget.used <= 2 * KIB
    one.take(2000)
    assert budget.used == 0


@pytest.mark.parametrize("size", [10_000, 70_000])
def test_a_message_that_does_not_fit_is_refused_and_a_short_one_behind_it_goes_out(size):
    budget = Budget(BUDGET)
    one = probe(budget)
    one.out.fresh = False
    budget.change(BUDGET)
    one.stream.room = 1
    one.send([b"x" * 100])
    with pytest.raises(dc.MessageError, match=rf"a message of {size}\d\d? bytes|{size + 24} bytes"):
        one.send([bytes(size)])
    one.send([b"so I say"])
    assert one.connection.state is State.OPEN
    assert budget.used == BUDGET


def test_a_message_that_may_be_too_long_for_the_peer_is_refused_where_nothing_is_left():
    """It is compared with what the peer accepts, so it does not go the way of short ones."""
    budget = Budget(BUDGET)
    terms = accepted(dc.Limits(frames=100))
    one = Probe(budget, connect(honest([hello.encode(hello.local_hello(terms=terms))])))
    one.out.expect_terms()
    one.stream.room = 100_000
    budget.change(BUDGET)
    one.send([b"short"])
    one.out.fresh = True  # as in another turn
    many = [bytes(60)] * 90
    with pytest.raises(dc.MessageError, match="all untrusted peers together"):
        one.afford(many)
    with pytest.raises(dc.MessageError, match="all untrusted peers together"):
        one.send(many)
    budget.change(-BUDGET)
    one.afford(many)
    assert one.send(many) > 5_000
    assert one.connection.state is State.OPEN


def test_who_leaves_even_short_messages_unread_is_cut_where_nothing_is_left():
    budget = Budget(BUDGET)
    one = probe(budget)
    budget.change(BUDGET)

    def send_on():
        while True:
            one.send([bytes(100)])

    with pytest.raises(dc.CommClosedError, match="all untrusted peers together"):
        send_on()
    assert one.connection.state is State.CLOSED
    assert budget.used == BUDGET


def test_many_short_messages_of_one_turn_go_out_where_nothing_is_left():
    """They do not have to wait, because the socket takes them."""
    budget = Budget(BUDGET)
    one = probe(budget)
    one.stream.room = 10 * MIB
    budget.change(BUDGET)
    for _ in range(1_000):
        one.send([bytes(100)])
    one.send([bytes(60_000)])
    one._state.loop.turn()
    assert one.stream.room == 10 * MIB - 1_000 * 124 - 60_024
    assert not one.out.unsent


def test_writers_wait_earlier_the_less_is_left_and_nobody_is_cut():
    budget = Budget(16 * MIB)
    unsent, probes = [], []
    for _ in range(3_000):
        probes.append(one := probe(budget))
        one.out.fresh = False
        while not one.writers:
            one.write([bytes(1_000)])
        unsent.append(one.out.unsent)
        one.writers.clear()
    assert unsent[0] >= 64 * KIB
    assert unsent[1_000] < unsent[0] // 10
    assert max(unsent[2_500:]) <= ALLOWANCE
    assert 15 * MIB < budget.used <= 16 * MIB


def test_what_a_layer_below_holds_is_counted():
    budget = Budget(BUDGET)
    one = probe(budget)
    one.stream.room = 50_000
    one.stream.ahead = 50_000
    one.send([bytes(40_000)])
    one.count_ahead()
    assert 50_000 <= budget.used <= 50_000 + ADVANCE
    one.stream.ahead = 0
    one.resume_writing()
    assert budget.used == 0


def test_what_is_being_encoded_is_counted():
    budget = Budget(BUDGET)
    one = probe(budget)
    one.promise(MIB)
    with pytest.raises(dc.MessageError):
        one.promise(MIB + 1)
    assert budget.used == MIB
    one.abort()
    assert budget.used == MIB
    one.promise(-MIB)
    assert budget.used == 0
