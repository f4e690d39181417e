"""Shares of a loop: how much strangers get, computed without a clock or a loop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_comm._loops.shares import (
    GREETINGS,
    HANDSHAKES,
    IDLE,
    IDLE_GREETINGS,
    LATELY,
    LATEST,
    LEISURE,
    LONG,
    MESSAGES,
    QUANTUM,
    SOONEST,
    Lane,
    Shares,
)


class Loop:
    """A loop that strangers keep busy whenever they may, as the clocks see it."""

    def __init__(self) -> None:
        self.processor = self.clock = 0.0
        self.strangers = self.others = self.idle = 0.0
        self.shares = Shares(0.0, 0.0)
        self.call()

    def call(self, seconds: float = 0.0) -> None:
        """Have a trusted peer call."""
        self.shares.ear.heard = True
        self.work(seconds)
        self.settle()

    def work(self, seconds: float) -> None:
        self.processor += seconds
        self.clock += seconds
        self.others += seconds

    def rest(self, seconds: float) -> None:
        self.clock += seconds
        self.idle += seconds

    def send(self, seconds: float, lane: Lane) -> None:
        """Have a stranger take so long, if it may."""
        if not lane.closed:
            self.processor += seconds
            self.clock += seconds
            self.strangers += seconds
            self.shares.charge(lane, seconds)

    def settle(self) -> None:
        self.shares.settle(self.processor, self.clock)


moments = st.floats(0, 0.03)
steps = st.lists(
    st.tuples(st.sampled_from(["call", "rest", "send", "dial", "settle"]), moments), max_size=200
)


@given(steps)
def test_whatever_happens_strangers_use_no_more_than_their_share(steps):
    loop = Loop()
    longest = 0.0
    for what, seconds in steps:
        if what == "call":
            loop.call(seconds)
        elif what == "rest":
            loop.call()  # it goes on calling, and what it does meanwhile is not ours
            loop.rest(seconds)
        elif what == "settle":
            loop.settle()
        else:
            lane = loop.shares.messages if what == "send" else loop.shares.handshakes
            loop.send(seconds, lane)
            longest = max(longest, seconds)
    share = (MESSAGES + HANDSHAKES) * loop.others + (IDLE + IDLE_GREETINGS) * loop.idle
    assert loop.strangers <= share + QUANTUM + GREETINGS + 2 * longest + 1e-9


@given(steps)
def test_whatever_happened_a_lane_opens_again_by_work_or_by_rest(steps):
    for rests in (False, True):
        loop = Loop()
        for what, seconds in steps:
            lane = loop.shares.messages if what == "send" else loop.shares.handshakes
            loop.send(seconds, lane)
        owed = max(loop.shares.messages.debt, loop.shares.handshakes.debt)
        for _ in range(10):
            loop.call(owed) if not rests else loop.rest(LATELY)
            loop.settle()
        assert not loop.shares.messages.closed
        assert not loop.shares.handshakes.closed


def test_who_is_alone_never_waits():
    loop = Loop()
    loop.rest(LATELY)
    loop.settle()
    for _ in range(100):
        loop.send(1.1 * LEISURE, loop.shares.messages)
        assert loop.shares.messages.closed  # for others are to be looked at …
        loop.settle()
        assert not loop.shares.messages.closed  # … and that was all


def test_a_lane_closes_above_its_quantum_and_opens_without_debt():
    loop = Loop()
    lane = loop.shares.messages
    assert not loop.shares.charge(lane, QUANTUM)
    assert loop.shares.charge(lane, QUANTUM)
    assert not loop.shares.charge(lane, QUANTUM)  # it is closed already
    loop.processor = loop.clock = 3 * QUANTUM
    loop.call(2.9 * QUANTUM / MESSAGES)
    assert lane.closed
    loop.call(0.2 * QUANTUM / MESSAGES)
    assert not lane.closed


def test_a_flood_of_messages_leaves_handshakes_their_share():
    loop = Loop()
    loop.send(1.0, loop.shares.messages)
    loop.call()
    assert loop.shares.messages.closed
    assert not loop.shares.handshakes.closed


def test_what_this_side_dials_never_waits():
    loop = Loop()
    loop.send(1.0, loop.shares.own)
    loop.call()
    assert not loop.shares.own.closed


@pytest.mark.parametrize(("worked", "rested"), [(0.0, LATELY), (LONG, 0.0)])
def test_strangers_get_everything_once_no_trusted_peer_was_heard_for_a_while(worked, rested):
    loop = Loop()
    loop.send(1.0, loop.shares.messages)
    loop.call()
    assert loop.shares.contended
    loop.work(worked * 0.9)
    loop.rest(rested * 0.9)
    loop.settle()
    assert loop.shares.contended
    loop.work(worked * 0.2)
    loop.rest(rested * 0.2)
    loop.settle()
    assert not loop.shares.contended
    assert not loop.shares.messages.closed


def test_the_next_look_is_when_a_debt_may_be_paid():
    shares = Shares(0.0, 0.0)
    assert shares.next_look() == SOONEST
    shares.messages.limit = 0.0
    shares.charge(shares.messages, 2 * SOONEST * MESSAGES)
    assert shares.next_look() == pytest.approx(2 * SOONEST)
    shares.charge(shares.messages, 1.0)
    assert shares.next_look() == LATEST
