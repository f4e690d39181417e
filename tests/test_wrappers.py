"""What is wrapped arrives without its wrapper, wherever it stands and over every transport."""

import numpy as np
import pytest
from messages import Point
from peers import pair

import distributed_comm as dc
from distributed_comm import Pickled, Serialize, Serialized, ToPickle, to_serialize

each_transport = pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "unix://", "inproc://"])
TRUSTED = (True, True)


async def pass_on(sender, receiver, message):
    await sender.write(message)
    return await receiver.read()


PLACES = {
    "alone": lambda wrap, x: (wrap(x), x),
    "in a list": lambda wrap, x: ([1, wrap(x)], [1, x]),
    "in a tuple": lambda wrap, x: ((wrap(x), [2]), (x, [2])),
    "a value": lambda wrap, x: ({"a": {"b": wrap(x)}, "c": [1]}, {"a": {"b": x}, "c": [1]}),
    "a key": lambda wrap, x: ({wrap(x): "x", 1: (2,)}, {x: "x", 1: (2,)}),
    "in a set": lambda wrap, x: ([{wrap(x)}, {1}], [{x}, {1}]),
    "in a frozenset": lambda wrap, x: ({frozenset([wrap(x)]): 1}, {frozenset([x]): 1}),
    "twice": lambda wrap, x: ([wrap(x), {"again": wrap(x)}], [x, {"again": x}]),
}


@each_transport
@pytest.mark.parametrize("wrap", [Serialize, ToPickle, to_serialize])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_wrapped_arrives_bare(run, kernels, address, wrap, place):
    async def main():
        async with pair(address, trusted=TRUSTED) as (client, server):
            for obj in (Point((1, 2)), ("t", (3,)), "text", b"bytes", 2**80, frozenset({4})):
                sent, expected = PLACES[place](wrap, obj)
                for ends in ((client, server), (server, client)):
                    arrived = await pass_on(*ends, sent)
                    assert repr(arrived) == repr(expected)  # which tells lists from tuples
                    assert arrived == expected

    run(main())


@each_transport
@pytest.mark.parametrize(
    "sent", [Serialize(Serialize(Point(1))), Serialize(Serialize(Serialize(Point(1))))]
)
def test_wrapping_twice_is_wrapping_once(run, address, sent):
    async def main():
        async with pair(address, trusted=TRUSTED) as ends:
            assert await pass_on(*ends, [sent]) == [Point(1)]

    run(main())
    assert to_serialize(to_serialize(1)) == Serialize(1) != ToPickle(1)
    assert len({Serialize(1), Serialize(1), ToPickle(1)}) == 2
    assert repr(Serialize([1])) == "<Serialize [1]>"


@each_transport
def test_an_array_in_a_wrapper_arrives(run, address):
    async def main():
        async with pair(address, trusted=TRUSTED) as ends:
            for wrap in (Serialize, ToPickle):
                arrived = await pass_on(*ends, {"op": "put", "data": [wrap(np.arange(9999.0))]})
                assert np.array_equal(arrived["data"][0], np.arange(9999.0))

    run(main())


@each_transport
def test_what_was_passed_on_unopened_is_opened_at_the_end(run, address):
    """Over tcp to one who opens nothing; and from there on, over either transport."""
    message = {"a": Serialize(Point(1)), "b": [ToPickle({2}), range(3)]}

    async def main():
        async with (
            pair(trusted=TRUSTED, deserialize=(True, False)) as (client, middle),
            pair(address, trusted=TRUSTED) as (onward, last),
            pair(address, trusted=TRUSTED, deserialize=(True, False)) as (aside, closed),
        ):
            unopened = await pass_on(client, middle, message)
            kinds = [type(unopened["a"]), *map(type, unopened["b"])]
            assert kinds == [Serialized, Pickled, Pickled]
            assert await pass_on(onward, last, unopened) == {"a": Point(1), "b": [{2}, range(3)]}
            again = await pass_on(aside, closed, unopened)
            assert [type(again["a"]), *map(type, again["b"])] == kinds

    run(main())


@each_transport
def test_an_unopened_object_of_a_family_that_is_not_wanted_or_known(run, address):
    async def main():
        async with pair(address, trusted=TRUSTED) as (client, server):
            await client.write(Serialized({"serializer": "new"}, []))
            with pytest.raises(dc.MessageError, match="unknown serializer 'new'"):
                await server.read()
            await client.write(Serialized({"serializer": "error"}, [b"it failed", b"there"]))
            with pytest.raises(dc.UnserializableError, match=r"it failed\\nthere"):
                await server.read(deserializers=["dask"])
            await client.write([Serialized({"serializer": "pickle"}, [b"N."])])
            with pytest.raises(dc.UnserializableError, match=r"'pickle', expected one of .'dask'"):
                await server.read(deserializers=["dask"])
            await client.write("next")
            assert await server.read() == "next"

    run(main())


# -- inproc hands over the very object --------------------------------------------------


def containing_itself():
    message = [Serialize(1)]
    message.append(message)
    return message


def test_inproc_copies_what_is_around_a_wrapper_and_nothing_else(run):
    inner, obj = [1, {"a": (2,)}], object()
    message = {"inner": inner, "deep": [{"x": Serialize(obj), "inner": inner}]}

    async def main():
        async with pair("inproc://") as ends:
            arrived = await pass_on(*ends, message)
            assert arrived["inner"] is arrived["deep"][0]["inner"] is inner
            assert arrived["deep"][0]["x"] is obj
            assert message["deep"][0]["x"] == Serialize(obj)  # the writer's stays as it is
            for same in (inner, obj, {1: {2}}, [[[]]], containing_itself(), "text", frozenset()):
                assert await pass_on(*ends, same) is same

    run(main())
