"""What a stream of messages, of which none is replied to, may hold: as at Dask's server."""

import re

import pytest
from calling import dial, everywhere, serve
from loops import until

SKIPPED = [  # a message, and how often it is called odd
    ("OK", 0),
    ([{"op": "note", "x": 1}, "OK"], 0),
    ({"op": "", "x": 2}, 1),
    ([{"op": None}, {"op": "", "x": "x" * 100_000}], 2),
]
ENDING = [
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
            assert [item async for item in comm] == []
            await until(lambda: caplog.records)
            (record,) = caplog.records
            assert record.levelname == "ERROR"
            assert record.exc_info is None
            line = record.getMessage()
            assert comm.local_address in line
            assert len(line) < 300
            assert re.search(text, line)

    run(main())
