"""What a stream of messages, of which none is replied to, may hold: as at Dask's server."""

import asyncio
import re
from functools import partial

import pytest
from calling import dial, everywhere, serve
from loops import until

import distributed_comm as dc

SKIPPED = [  # a message, and how often it is called odd
    ("OK", 0),
    ([{"op": "note", "x": 1}, "OK"], 0),
    ({"op": "", "x": 2}, 1),
    ([{"op": None}, {"op": "", "x": "x" * 100_000}], 2),
]
ENDING = [
    ([{"op": 10**5000}], "no op of the type int"),
    ([{"op": "nosuch"}], "no op 'nosuch', only: note"),
    ([{"op": "n" * 100_000}], "no op 'nnn"),
    ([{"op": [1]}], r"no op [\[(]1"),
    ([{"x": 1}], "a message without an op, only: note"),
    (5, "a message without an op, only: note"),
]


@pytest.mark.parametrize(("message", "odd"), SKIPPED, ids=["ok", "batch", "empty", "none"])
@everywhere
def test_a_stream_goes_on_behind_what_is_skipped(run, where, message, odd, caplog):
    async def main():
        got = []
        handlers = {"note": lambda *, x: got.append(x)}
        async with serve({}, where, stream_handlers=handlers) as (server, _), dial(server) as comm:
            await comm.write({"op": "connection_stream", "reply": False})
            await comm.write(message)
            await comm.write([{"op": "note", "x": 99}])
            await until(lambda: got[-1:] == [99])
            lines = [record.getMessage() for record in caplog.records]
            assert len(lines) == odd
            assert all("odd message in a stream" in line and len(line) < 400 for line in lines)

    run(main())


@pytest.mark.parametrize(("message", "text"), ENDING, ids=[text for _, text in ENDING])
@everywhere
def test_what_no_handler_takes_ends_the_stream_with_one_line(run, where, message, text, caplog):
    async def main():
        handlers = {"note": lambda **_: None}
        async with serve({}, where, stream_handlers=handlers) as (server, _), dial(server) as comm:
            await comm.write({"op": "connection_stream", "reply": False})
            await comm.write(message)
            with pytest.raises(
                dc.CommClosedError, match="which says: a stream was ended: "
            ) as caught:
                await comm.read()
            assert re.search(text, str(caught.value))
            (record,) = caplog.records
            assert record.levelname == "WARNING"
            assert record.exc_info is None
            line = record.getMessage()
            assert comm.local_address in line
            assert len(line) < 400
            assert re.search(text, line)

    run(main())


@everywhere
def test_a_generator_is_driven_before_the_next_message_is_handled(run, where):
    async def main():
        got = []

        def note(x):
            slept = yield asyncio.sleep(0, result=x)
            try:
                yield fail()
            except ZeroDivisionError:
                got.append(slept)

        async def fail():
            await asyncio.sleep(0)
            return 1 // 0

        handlers = {"note": note, "plain": lambda *, x: got.append(x)}
        async with serve({}, where, stream_handlers=handlers) as (server, _), dial(server) as comm:
            await comm.write({"op": "connection_stream", "reply": False})
            await comm.write([{"op": ("note", "plain")[x % 2], "x": x} for x in range(10)])
            await until(lambda: got == [*range(10)])

    run(main())


async def items(x=0):
    yield x


@pytest.mark.parametrize("handler", [items, partial(items, 1)], ids=["function", "partial"])
def test_an_async_generator_is_refused_where_nobody_gets_its_items(handler):
    with pytest.raises(TypeError, match="stream handler 'later' is an async generator"):
        dc.Server(stream_handlers={"now": print, "later": handler})


@everywhere
def test_an_async_generator_that_was_added_later_ends_the_stream(run, where, caplog):
    async def main():
        async with serve({}, where) as (server, _), dial(server) as comm:
            server.stream_handlers["later"] = items
            await comm.write({"op": "connection_stream", "reply": False})
            await comm.write([{"op": "later", "x": 1}])
            with pytest.raises(
                dc.CommClosedError, match="says: a stream handler failed: TypeError"
            ):
                await comm.read()
            await until(lambda: caplog.records)
            (record,) = caplog.records
            assert record.levelname == "ERROR"
            assert "stream handler 'later' is an async generator" in str(record.exc_info[1])

    run(main())
