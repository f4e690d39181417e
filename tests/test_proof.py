"""The proof of the key: who shows it is known, who cannot is not, and nobody learns why."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_comm._wire import control, hello
from distributed_comm._wire.connection import Connection
from distributed_comm._wire.proof import Proving, Role, derive
from distributed_comm._wire.sentinel_framing import SentinelFraming
from distributed_comm._wire.states import State
from distributed_comm.errors import FatalCommClosedError, RemoteProtocolError

from .connecting import DASKS, GOODBYE, LIMITS, LOCAL, OURS, PEER, A, B, check_end
from .feeding import FULL, SCRATCH, feed
from .hostile import honest

pytestmark = pytest.mark.usefixtures("kernels")

MINE, ANOTHER = derive(b"mine"), derive(b"another's")
HERE = "127.0.0.1:1"
ANSWERS: list[bytes] = []


def proving(key=MINE, role=Role.LISTENER, endpoint=HERE):
    return Proving(key, role, endpoint)


def connect(its=None, **kwargs):
    """Return a listening connection that can prove something; its answers are in ANSWERS."""
    connection = Connection(SCRATCH, LIMITS, LOCAL, PEER, proving=its or proving(), **kwargs)
    connection.respond = lambda buffers: ANSWERS.append(b"".join(buffers))
    ANSWERS.clear()
    return connection


def proof_of(payload):
    return honest([control.encode(control.Kind.PROOF, payload)])


def answer(peer, connection):
    """Return what a peer sends: its hello, and its proof, for which it has heard ours."""
    peer.hear(hello_of(connection))
    return honest([peer.ours]) + proof_of(peer.prove())


def hello_of(connection):
    return b"".join(connection.hello())[24:]


# -- both hold it -------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
def test_two_with_the_same_key_know_each_other_however_the_bytes_are_split(role):
    other = Role.LISTENER if role is Role.DIALLER else Role.DIALLER
    length = len(answer(proving(role=other), connect())) + len(A) + len(B)
    for split in range(1, length):
        connection = connect(proving(role=role))
        peer = proving(role=other)
        stream = answer(peer, connection) + A + B
        messages = feed(connection, stream, [split, FULL])
        assert messages == [[b"a"], [b"b", b"bb"]]
        assert connection.state is State.OPEN
        assert connection.proven
        assert not connection.relayed
        assert connection.remote == hello.decode(peer.ours).without_proof()
        (ours,) = ANSWERS
        assert peer.proves(ours[28:])


def test_over_the_sentinel_framing_too():
    connection = connect(framing=SentinelFraming)
    peer = proving(role=Role.DIALLER)
    peer.hear(proving_hello := b"".join(connection.hello())[24:-32])
    assert hello.decode(proving_hello)
    encode = SentinelFraming.encode
    frames = [peer.ours], [control.encode(control.Kind.PROOF, peer.prove())], [b"a"]
    stream = b"".join(b"".join(encode(list(frame))) for frame in frames)
    assert feed(connection, stream, [7]) == [[b"a"]]
    assert connection.proven


def test_a_hello_says_nothing_of_the_key_and_is_never_the_same():
    first, second = (hello.decode(proving().ours) for _ in range(2))
    assert first.nonce != second.nonce
    assert len(first.nonce) == 32
    assert proving().ours.replace(first.nonce, b"") != proving(ANOTHER).ours
    assert len(proving().ours) == len(proving(ANOTHER).ours)


def test_the_proof_as_the_description_has_it():
    """Written from the format: HMAC-SHA256 over role and both hellos behind their lengths."""
    key = hashlib.sha256(b"distributed_comm proof 1\0" + b"mine").digest()
    dialler, listener = proving(role=Role.DIALLER), proving()
    dialler.hear(listener.ours)
    listener.hear(dialler.ours)
    both = b"".join(
        len(frame).to_bytes(8, "little") + frame for frame in (dialler.ours, listener.ours)
    )
    assert dialler.prove() == hmac.new(key, b"dialler\0" + both, "sha256").digest()
    assert listener.prove() == hmac.new(key, b"listener" + both, "sha256").digest()


# -- one does not -------------------------------------------------------------------


def by_another_key(connection):
    return answer(proving(ANOTHER, Role.DIALLER), connection)


def replayed(connection):
    """What a peer with the key once sent to another connection."""
    other = Connection(SCRATCH, LIMITS, LOCAL, PEER, proving=proving())
    return answer(proving(role=Role.DIALLER), other)


def of_the_other_role(connection):
    return answer(proving(role=Role.LISTENER), connection)


def of_a_changed_hello(connection):
    peer = proving(role=Role.DIALLER)
    peer.hear(hello_of(connection))
    changed = peer.ours.replace(b"version\x04", b"version\x01")
    assert changed != peer.ours
    return honest([changed]) + proof_of(peer.prove())


def of_zeros(connection):
    return honest([proving(role=Role.DIALLER).ours]) + proof_of(bytes(32))


IMPOSTORS = [by_another_key, replayed, of_the_other_role, of_a_changed_hello, of_zeros]


@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_who_proves_nothing_is_a_stranger_and_cannot_tell_why(impostor):
    connection = connect()
    assert feed(connection, impostor(connection) + A) == [[b"a"]]
    assert connection.state is State.OPEN
    assert not connection.proven
    assert [len(ours) for ours in ANSWERS] == [16 + 8 + 36]  # the answer is the same for each


def test_a_reflected_proof_proves_nothing():
    connection = connect()
    feed(connection, honest([hello_of(connection)]))
    assert feed(connection, ANSWERS[0] + A) == [[b"a"]]
    assert not connection.proven


@pytest.mark.parametrize("greeting", [OURS, DASKS], ids=["ours", "dask"])
def test_who_has_no_key_is_not_waited_for_and_is_sent_no_proof(greeting):
    connection = connect()
    assert feed(connection, greeting + A) == [[b"a"]]
    assert (connection.proven, ANSWERS) == (False, [])


def test_without_a_key_of_ours_a_nonce_is_ignored():
    connection = Connection(SCRATCH, LIMITS, LOCAL, PEER)
    ANSWERS.clear()
    connection.respond = ANSWERS.append
    assert feed(connection, honest([proving().ours]) + A) == [[b"a"]]
    assert (connection.proven, ANSWERS) == (False, [])


def test_one_who_stands_between_two_of_our_connections_shows():
    connection = connect(proving(endpoint="127.0.0.1:1"))
    feed(connection, answer(proving(role=Role.DIALLER, endpoint="127.0.0.1:2"), connection))
    assert connection.proven
    assert connection.relayed


# -- out of order ------------------------------------------------------------------

WRONG = {
    "a message before the proof": lambda connection, hello, proof: hello + A + proof,
    "a proof that was not agreed on": lambda connection, hello, proof: proof + hello,
    "a proof of 31 bytes, expected 32": lambda connection, hello, _: hello + proof_of(bytes(31)),
    "a proof of 33 bytes, expected 32": lambda connection, hello, _: hello + proof_of(bytes(33)),
    "a proof of 0 bytes, expected 32": lambda connection, hello, _: hello + proof_of(b""),
    "a control message that was not agreed on": lambda connection, hello, _: hello + GOODBYE,
    "a message of 2 frames exceeds the limit of 1": lambda connection, hello, _: hello + B,
}


@pytest.mark.parametrize("text", WRONG)
@pytest.mark.parametrize("size", [1, FULL])
def test_what_comes_instead_of_the_proof_ends_the_connection(text, size):
    connection = connect()
    whole = answer(proving(role=Role.DIALLER), connection)
    greeting, proof = whole[:-60], whole[-60:]
    assert feed(connection, WRONG[text](connection, greeting, proof), [size]) == []
    check_end(connection, f"protocol error: {text}", kind=RemoteProtocolError, cause=ValueError)
    assert not connection.proven


def test_a_second_proof_ends_the_connection():
    connection = connect()
    whole = answer(proving(role=Role.DIALLER), connection)
    assert feed(connection, whole + A + whole[-60:] + B) == [[b"a"]]
    text = "protocol error: a proof that was not agreed on"
    check_end(connection, text, kind=RemoteProtocolError, cause=ValueError)


def test_an_end_instead_of_the_proof():
    connection = connect()
    feed(connection, honest([proving(role=Role.DIALLER).ours]))
    assert connection.state is State.EXPECT_PROOF
    connection.end()
    check_end(connection, "the peer closed the connection during the handshake")


@given(st.lists(st.sampled_from(["hello", "proof", "bad", "a", "bye", "cut"]), max_size=5))
def test_only_a_proof_that_came_in_time_proves(parts):
    connection = connect()
    whole = answer(proving(role=Role.DIALLER), connection)
    pieces = {"hello": whole[:-60], "proof": whole[-60:], "bad": proof_of(bytes(32))}
    pieces |= {"a": A, "bye": GOODBYE, "cut": whole[-60:-1]}
    sent = b"".join(pieces[part] for part in parts)
    feed(connection, sent)
    # as a cut one does if what follows begins with the byte that it lacks
    assert connection.proven == sent.startswith(whole)


@pytest.mark.parametrize(
    ("capabilities", "text"),
    [
        ({"nonce": bytes(31)}, "nonce .* in the hello, expected 32 bytes"),
        ({"nonce": "x" * 32}, "nonce .* in the hello, expected 32 bytes"),
        ({"nonce": 5}, "nonce 5 in the hello, expected 32 bytes"),
        ({"nonce": bytes(32), "endpoint": 5}, "endpoint 5 in the hello, expected an address"),
    ],
)
def test_a_nonce_of_the_wrong_shape_is_no_hello(capabilities, text):
    frame = hello.encode(hello.Hello(None, (3, 11, 7), 5, capabilities))
    with pytest.raises(ValueError, match=f"^{text}"):
        hello.decode(frame)


# -- refused -----------------------------------------------------------------------

REFUSAL = honest([b"\xc7\x01\xbc\x05"])


@pytest.mark.parametrize("greeting", [OURS, DASKS], ids=["ours", "dask"])
def test_only_who_understands_it_is_told_that_it_is_refused(greeting):
    connection = Connection(SCRATCH, LIMITS, LOCAL, PEER)
    feed(connection, greeting)
    told = greeting is OURS
    assert b"".join(connection.refuse("no")) == (REFUSAL if told else b"")
    assert connection.state is (State.LEAVING if told else State.CLOSED)
    check_end(connection, "no")


@pytest.mark.parametrize("version", [1, None, True, "2", 2.5])
def test_an_older_peer_is_refused_without_a_word(version):
    capabilities = {} if version is None else {"version": version}
    connection = Connection(SCRATCH, LIMITS, LOCAL, PEER)
    feed(connection, honest([hello.encode(hello.Hello(None, (3, 11, 7), 5, capabilities))]))
    assert connection.refuse("no") == []
    assert connection.state is State.CLOSED


@pytest.mark.parametrize("size", [1, FULL])
def test_a_refusal_is_the_reason_for_the_end(size):
    connection = Connection(SCRATCH, LIMITS, LOCAL, PEER)
    assert feed(connection, OURS + A + REFUSAL, [size]) == [[b"a"]]
    assert connection.refused
    assert connection.state is State.CLOSED
    error = connection.closed_error()
    assert type(error) is FatalCommClosedError
    assert "the peer does not trust this side" in str(error)


def test_a_refusal_with_a_payload_is_none():
    connection = Connection(SCRATCH, LIMITS, LOCAL, PEER)
    feed(connection, OURS + honest([b"\xc7\x02\xbc\x05x"]))
    assert not connection.refused
    text = "protocol error: a refusal with 1 bytes of payload"
    check_end(connection, text, kind=RemoteProtocolError, cause=ValueError)
