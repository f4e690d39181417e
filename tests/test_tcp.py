"""What goes through a tcp comm arrives as it was, and nothing else arrives: data and trust."""

import asyncio
import itertools
import math
import pickle
import random
from fractions import Fraction

import pytest
from loops import LOOPS, settle, until
from peers import OUR_HELLO, dial_raw, frame_up, pack, pair, raw_pair

import distributed_comm as dc

pytestmark = pytest.mark.usefixtures("kernels")

MIB = 1024 * 1024


async def pass_on(sender: dc.Comm, receiver: dc.Comm, message: object) -> object:
    """Write and read at once, for a large message is not sent before it is read."""
    return (await asyncio.gather(receiver.read(), sender.write(message)))[0]


async def round_trip(message: object, **kwargs: object) -> object:
    """Send a message to and fro; return what came back of what had arrived."""
    async with pair(**kwargs) as (client, server):
        there = await pass_on(client, server, message)
        back = await pass_on(server, client, there)
    assert type(there) is type(back)
    return back


PLAIN = [
    None,
    True,
    False,
    *[0, -1, 127, 128, -32, -33, 2**32, 2**63 - 1, 2**64 - 1, -(2**63)],
    *[0.0, -1.5, 1e300, float("inf")],
    *["", "text", "größer ✓ 𝄞", "\0", "x" * 70_000],
    *[b"", b"\0\xff", bytes(70_000)],
    (),
    (1, "two", (b"three", None)),
    {},
    {"a": 1, "b": {"c": (1, 2)}},
    {7: "int", None: "none", 2.5: "float", True: "bool", b"b": "bytes", (1, ("t",)): "tuple"},
    set(),
    {1, "a", (2, 3)},
    {"deep": ({"set": {1, 2}}, {(): {}})},
]


@pytest.mark.parametrize("message", PLAIN, ids=lambda message: f"{message!r:.30}")
def test_plain_types_arrive_as_they_are(run, message):
    back = run(round_trip(message))
    assert back == message
    assert type(back) is type(message)


def test_everything_plain_arrives_as_what_it_is(run):
    message = [1, (2, {"a": [(), frozenset({3}), {(4,)}]}), 2**100, bytearray(b"x")]
    assert run(round_trip(message)) == [*message[:3], b"x"]


def test_nan_arrives(run):
    assert math.isnan(run(round_trip(float("nan"))))


def test_messages_arrive_in_order(run):
    async def main():
        async with pair() as (client, server):

            async def write():
                for number in range(10_000):
                    await client.write((number, "x" * (number % 100)))

            writing = asyncio.create_task(write())
            for number in range(10_000):
                assert await server.read() == (number, "x" * (number % 100))
            await writing

    run(main())


@pytest.mark.parametrize("size", [64 * 1024 - 1, 64 * 1024, MIB, 20 * MIB + 1])
def test_large_bytes_arrive_whole(run, size):
    message = random.Random(size).randbytes(size)
    assert run(round_trip(message, trusted=(True, True))) == message


def test_of_an_untrusted_peer_only_so_much_is_decoded(run):
    async def main():
        async with pair(options=dc.CommOptions(limits=dc.Limits(untrusted_header=MIB))) as ends:
            with pytest.raises(
                dc.MessageError, match=r"accepts at most 1048576 .*Limits.untrusted_header"
            ):
                await ends[0].write(bytes(MIB))
            assert await pass_on(*ends, bytes(MIB - 5)) == bytes(MIB - 5)

    run(main())


def test_small_messages_keep_their_place_around_large_ones(run):
    messages = [x for n in range(20) for x in (n, bytes([n]) * (n * 50_000), str(n))]

    async def main():
        async with pair() as (client, server):
            writing = asyncio.create_task(write_all(client))
            assert [await server.read() for _ in messages] == messages
            await writing

    async def write_all(comm):
        for message in messages:
            await comm.write(message)

    run(main())


def test_a_stream_split_at_every_byte_is_the_same_messages(run):
    messages = [{"a": 1}, b"x" * 300, ""]
    stream = b"".join(map(pack, messages))

    async def main():
        async with raw_pair() as (raw, comm):
            for split in range(1, len(stream)):
                for part in (stream[:split], stream[split:]):
                    before = comm.stats()["bytes_received"]
                    await raw.send(part)
                    arrived = before + len(part)
                    await until(lambda arrived=arrived: comm.stats()["bytes_received"] == arrived)
                assert [await comm.read() for _ in messages] == messages

    run(main())


# Trust


def test_nobody_is_trusted_who_was_not_declared_so(run):
    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen("tcp://127.0.0.1:0", served.set_result) as listener:
            client = await dc.connect(listener.contact_address)
        server = await served
        assert (client.trusted, server.trusted) == (False, False)
        await client.close()
        await server.close()
        async with pair(trusted=(True, False)) as (client, server):
            assert (client.trusted, server.trusted) == (True, False)

    run(main())


def test_a_pickle_is_refused_where_it_would_be_sent(run):
    async def main():
        async with pair() as (client, server):
            for message in (Fraction(1, 3), {"nested": [range(3)]}):
                with pytest.raises(dc.UntrustedError, match=r"trusted=True to connect\(\) and"):
                    await client.write(message)
            with pytest.raises(dc.UntrustedError, match=r"of type fractions\.Fraction can only"):
                await client.write(Fraction(1, 3))
            await client.write("plain")
            assert await server.read() == "plain"  # and nothing of the refused ones

    run(main())


class Exploit:
    ran = False

    def __reduce__(self):
        return _exploit, ()


def _exploit():
    Exploit.ran = True


def test_a_pickle_is_refused_unopened_where_it_arrives(run):
    Exploit.ran = False

    async def main():
        async with pair(trusted=(True, False)) as (client, server):
            await client.write({"nested": [Exploit()]})
            await client.write("plain")
            with pytest.raises(dc.UntrustedError, match="the message holds a pickle"):
                await server.read()
            assert await server.read() == "plain"
            await server.write("answer")
            assert await client.read() == "answer"

    run(main())
    assert not Exploit.ran


def test_a_pickle_in_the_hello_is_never_opened(run):
    Exploit.ran = False
    header = pack({"num-sub-frames": 0, "pickled-obj": pickle.dumps(Exploit())})[24:]
    hellos = [
        frame_up(pack({"pickle-protocol": {"__Pickled__": 1}})[24:], header),
        pack({"compression": pickle.dumps(Exploit()), "pickle-protocol": 5}),
    ]

    async def main():
        handled = []
        async with dc.listen("tcp://127.0.0.1:0", handled.append, trusted=True) as listener:
            for hello in hellos:
                async with dial_raw(listener) as raw:
                    await raw.send(hello)
                    assert await raw.is_cut()
        assert not handled

    run(main())
    assert not Exploit.ran


def test_any_object_passes_between_those_who_trust_each_other(run):
    message = {"fraction": Fraction(1, 3), "set": frozenset({1}), "error": ValueError("why")}
    back = run(round_trip(message, trusted=(True, True)))
    assert back["fraction"] == Fraction(1, 3)
    assert back["set"] == frozenset({1})
    assert repr(back["error"]) == "ValueError('why')"
    assert run(round_trip(lambda x: x + 1, trusted=(True, True)))(1) == 2


def test_what_cannot_be_pickled_is_said_at_the_writer(run):
    async def main():
        async with pair(trusted=(True, True)) as (client, server):
            with pytest.raises(dc.UnserializableError, match=r"type _thread\.lock"):
                await client.write({"lock": __import__("threading").Lock()})
            await client.write("plain")
            assert await server.read() == "plain"

    run(main())


# numpy

np = pytest.importorskip("numpy")

ARRAYS = {
    "small": np.arange(10),
    "empty": np.zeros((0, 3)),
    "scalar": np.array(5.5),
    "1 MiB": np.arange(MIB // 8, dtype="f8"),
    "20 MiB": np.arange(20 * MIB // 8).reshape(2, -1),
    "fortran": np.asfortranarray(np.arange(60_000).reshape(300, 200)),
    "strided": np.arange(60_000)[::3],
    "big endian": np.arange(20_000, dtype=">i8"),
    "records": np.zeros(10_000, dtype=[("a", "i4"), ("b", "f8", 2)]),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_an_array_arrives_equal_and_writable(run, array):
    back = run(round_trip(array, trusted=(True, True)))
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    back.fill(1)  # writable


def test_two_arrays_of_a_message_share_no_memory(run):
    message = [np.zeros(n, dtype="u1") for n in (10, 10, 70_000, 70_000, 2 * MIB)]
    back = run(round_trip(message, trusted=(True, True)))
    for array in back:
        np.add(array, 1, out=array)
    for one, two in itertools.combinations(back, 2):
        assert not np.shares_memory(one, two)
    assert all((array == 1).all() for array in back)


def test_an_arrived_array_outlives_its_comm_and_what_follows(run):
    async def main():
        async with pair(trusted=(True, True)) as (client, server):
            kept = []
            for number in range(8):
                array = np.full(3 * MIB // 2, number, dtype="u1")
                kept.append(await pass_on(client, server, array))
        await settle()
        return kept

    for number, array in enumerate(run(main())):
        assert (array == number).all()


def test_the_hello_of_this_test_is_taken_for_ours(run):
    """The raw peers elsewhere rely on it."""

    async def main():
        async with raw_pair(OUR_HELLO) as (raw, comm):
            await comm.write({"a": [1]})
            assert await raw.read_message() == {"a": [1]}
            assert comm.extra_info["peer"].says_goodbye

    run(main())


@pytest.mark.parametrize("loop_factory", LOOPS.values(), ids=LOOPS)
def test_what_ends_the_program_ends_it_from_a_reader(loop_factory):
    async def leave(comm):
        await comm.read()
        raise SystemExit(3)

    tasks = []

    async def main():
        async with pair() as (client, server):
            tasks.append(asyncio.create_task(leave(server)))
            await settle()
            await client.write("the end")
            await asyncio.Event().wait()

    with pytest.raises(SystemExit) as caught, asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert caught.value.code == 3
    assert tasks[0].exception() is caught.value
