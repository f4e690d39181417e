"""The checks; the name of each says what holds."""

import asyncio
import reprlib
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from .._endpoints import connect, listen
from ..core import Comm
from ..errors import CommClosedError, LocalProtocolError
from ._expect import cancel, expect, fails, is_over, settle, soon, stall, start, until, within
from ._pairs import CHECKS, check, check_both_ways, dial

__all__ = ["CHECKS"]

#: Seconds after which dialling a listener that has stopped is given up.
BRIEFLY = 0.1
#: No comm keeps so many messages of one CHUNK that nobody reads.
FAR_TOO_MANY = 4_000
CHUNK = bytes(64 * 1024)
LARGE = bytes(range(256)) * 4096 * 5  # 5 MiB, more than a socket takes at once


async def _write_each(comm: Comm, messages: Iterable[Any]) -> None:
    for message in messages:
        await comm.write(message)


async def _write_chunks(comm: Comm, begun: list[int]) -> None:
    """Write more than anybody keeps; ``begun`` tells how far that has got."""
    for number in range(FAR_TOO_MANY):
        begun.append(number)
        await comm.write([number, CHUNK])


async def _read_numbered(comm: Comm, count: int) -> list[list[int]]:
    """Return number and size of so many messages."""
    arrived = []
    for _ in range(count):
        number, payload = await comm.read()
        arrived.append([number, len(payload)])
    return arrived


def _plain(message: Any) -> Any:
    """Return a message with lists for tuples."""
    if isinstance(message, (list, tuple)):
        return [_plain(item) for item in message]
    if isinstance(message, dict):
        return {key: _plain(value) for key, value in message.items()}
    return message


# -- messages ----------------------------------------------------------------------


@check_both_ways
async def messages_arrive_as_they_were_sent(here: Comm, there: Comm) -> None:
    small = [None, True, 0, -1, 2**63, 0.5, "größer", b"\x00\xff", [1, ["two", {}]], {"k": [3]}]
    for message in [*small, "", b"", [], {}, {"": None}, CHUNK, LARGE, [LARGE, b"", LARGE]]:
        _, arrived = await asyncio.gather(
            soon(here.write(message), "write() to end while the peer reads"),
            soon(there.read(), "what was written to arrive"),
        )
        if _plain(arrived) != message:
            raise AssertionError(f"expected {reprlib.repr(message)}, got {reprlib.repr(arrived)}")


@check_both_ways
async def messages_arrive_in_order(here: Comm, there: Comm) -> None:
    sent = [[number, number % 6 * 100_000] for number in range(120)]
    reading = start(_read_numbered(there, len(sent)))
    await soon(_write_each(here, ([n, bytes(size)] for n, size in sent)), "the writes to end")
    arrived = await soon(reading, "every message to arrive")
    expect(arrived == sent, "numbers and sizes as they were sent", arrived)


@check_both_ways
async def both_sides_may_write_at_once(here: Comm, there: Comm) -> None:
    async def exchange(comm: Comm) -> None:
        writing = start(_write_each(comm, [LARGE] * 3))
        for _ in range(3):
            arrived = await soon(comm.read(), "a large message, while both sides write")
            expect(arrived == LARGE, "the large message", arrived)
        await soon(writing, "large writes to end, while both sides read")

    await asyncio.gather(exchange(here), exchange(there))


@check_both_ways
async def a_second_reader_is_refused(here: Comm, there: Comm) -> None:
    first = start(there.read())
    await settle()
    await fails(there.read(), "a second read, while one waits,", LocalProtocolError)
    await soon(here.write("for the first"), "write() to end")
    arrived = await soon(first, "the first read to get the message")
    expect(arrived == "for the first", "the first read to get the message", arrived)


@check_both_ways
async def a_writer_waits_for_its_reader(here: Comm, there: Comm) -> None:
    begun: list[int] = []
    writing = start(_write_chunks(here, begun))
    await stall(begun)
    expect(not writing.done(), f"write() to wait before {FAR_TOO_MANY} are unread", "no waiting")
    stalled_at = len(begun)
    for expected in range(stalled_at):
        number, _ = await soon(there.read(), "what was written to arrive")
        expect(number == expected, f"message {expected}", number)
    await soon(until(lambda: len(begun) > stalled_at), "a write that waits to go on once read")
    await cancel(writing)


# -- cancellation ------------------------------------------------------------------


@check_both_ways
async def a_cancelled_read_loses_nothing(here: Comm, there: Comm) -> None:
    sent = list(range(60))
    writing = start(_write_each(here, ([n, bytes(n % 3 * 100_000)] for n in sent)))
    arrived: list[int] = []
    while len(arrived) < len(sent):
        reading = start(there.read())
        await settle(len(arrived) % 7)
        if await cancel(reading):
            reading = start(there.read())
        number, _ = await soon(reading, "a read, after a cancelled one, to get its message")
        arrived.append(number)
    expect(arrived == sent, "every message once, in order", arrived)
    await soon(writing, "the writes to end")


@check_both_ways
async def a_cancelled_write_goes_out_whole(here: Comm, there: Comm) -> None:
    sent = [[number, number % 3 * 2_000_000] for number in range(24)]
    reading = start(_read_numbered(there, len(sent)))
    for number, size in sent:
        writing = start(here.write([number, bytes(size)]))
        await settle(1 + number % 4)  # the first turn begins it
        await cancel(writing)
    arrived = await soon(reading, "each message to arrive though its write() was cancelled")
    expect(arrived == sent, "each message once, in order, whole", arrived)


@check_both_ways
async def a_cancelled_close_still_closes(here: Comm, there: Comm) -> None:
    closing = start(here.close())
    await settle(1)
    await cancel(closing)
    expect(here.closed(), "closed() once a close() was cancelled", False)
    await fails(there.read(), "a read, once the peer's close() was cancelled,")


@check
async def a_cancelled_connect_leaves_nothing_open(address: str) -> None:
    served: asyncio.Queue[Comm] = asyncio.Queue()
    async with listen(address, served.put_nowait) as listener:
        for turns in range(12):
            connecting = start(dial(listener.contact_address))
            await settle(turns)
            if not await cancel(connecting):
                connecting.result().abort()
        last = await dial(listener.contact_address)
        await last.write("the last")
        arrived = None
        while arrived != "the last":
            comm = await soon(served.get(), "the connection after them to be served")
            with suppress(CommClosedError):
                arrived = await within(
                    comm.read(), "the end of a comm whose connect() was cancelled"
                )
            comm.abort()
        last.abort()


# -- the end -----------------------------------------------------------------------


@check_both_ways
async def close_delivers_what_was_written(here: Comm, there: Comm) -> None:
    reading = start(_read_numbered(there, 100))
    await soon(_write_each(here, ([n, CHUNK] for n in range(100))), "the writes to end")
    await soon(here.close(), "close() to end")
    await soon(here.close(), "a second close() to end")
    expect(here.closed(), "closed() after close()", False)
    arrived = await soon(reading, "what was written before close() to arrive")
    expect([n for n, _ in arrived] == list(range(100)), "all that was written", arrived)
    await is_over(here, "this side has closed")
    await is_over(there, "the peer has closed")


@check_both_ways
async def async_for_ends_when_the_peer_closes(here: Comm, there: Comm) -> None:
    async def read_all() -> list[Any]:
        return [message async for message in there]

    reading = start(read_all())
    await soon(_write_each(here, range(3)), "the writes to end")
    await soon(here.close(), "close() to end")
    arrived = await soon(reading, "`async for` to end once the peer has closed")
    expect(arrived == [0, 1, 2], "the three messages before close()", arrived)


@check_both_ways
async def close_ends_the_reads_of_both_sides(here: Comm, there: Comm) -> None:
    ours, theirs = start(here.read()), start(there.read())
    await settle()
    await soon(here.close(), "close() to end, while both sides read")
    await fails(ours, "a read, when its own side closes,")
    await fails(theirs, "a read, when the peer closes,")


@check_both_ways
async def close_ends_the_writes_of_the_peer(here: Comm, there: Comm) -> None:
    begun: list[int] = []
    writing = start(_write_chunks(there, begun))
    await stall(begun)
    await soon(here.close(), "close() to end, while the peer writes")
    await fails(writing, "write(), when the peer closes,")
    await is_over(there, "the peer has closed")


@check_both_ways
async def closed_is_known_without_a_read(here: Comm, there: Comm) -> None:
    expect(not here.closed() and not there.closed(), "two open comms", (here, there))
    await soon(here.close(), "close() to end")
    await soon(until(there.closed), "closed() once the peer has closed, without a read")


@check_both_ways
async def abort_ends_both_sides(here: Comm, there: Comm) -> None:
    ours, theirs = start(here.read()), start(there.read())
    await settle()
    here.abort()
    here.abort()  # never raises
    expect(here.closed(), "closed() right after abort()", False)
    await fails(ours, "a read, when its own side aborts,")
    await fails(theirs, "a read, when the peer aborts,")
    await is_over(here, "this side has aborted")
    await is_over(there, "the peer has aborted")


@check_both_ways
async def a_waiting_writer_learns_that_its_peer_is_gone(here: Comm, there: Comm) -> None:
    begun: list[int] = []
    writing = start(_write_chunks(here, begun))
    await stall(begun)
    there.abort()
    await fails(writing, "a write that waits, when the peer is gone,")


# -- listeners ---------------------------------------------------------------------


@check
async def a_listener_serves_several_at_once(address: str) -> None:
    ended: list[Comm] = []

    async def echo(comm: Comm) -> None:
        async with comm:
            async for message in comm:
                await comm.write(message)
        ended.append(comm)

    async with listen(address, echo) as listener:
        comms = [await dial(listener.contact_address) for _ in range(3)]
        for number, comm in enumerate(comms):
            await soon(comm.write(number), "write() to end")
        for number, comm in enumerate(comms):
            arrived = await soon(comm.read(), "an answer from a coroutine function")
            expect(arrived == number, "each connection to get its own answer", arrived)
        for comm in comms:
            await soon(comm.close(), "close() to end, while the peer reads")
        await soon(until(lambda: len(ended) == len(comms)), "`async for` to end in each handler")


@check
async def a_stopped_listener_takes_nobody_new(address: str) -> None:
    served: asyncio.Future[Comm] = asyncio.get_running_loop().create_future()
    listener = await listen(address, served.set_result)
    client = await dial(listener.contact_address)
    server = await soon(served, "the listener to serve a connection")
    listener.stop()
    listener.stop()  # never raises
    await soon(client.write("goes on"), "an established comm to go on after stop()")
    await soon(server.read(), "an established comm to go on after stop()")
    client.abort()
    server.abort()

    async def dial_again() -> None:
        (await connect(listener.contact_address, BRIEFLY)).abort()

    await fails(dial_again(), "connect(), after stop(),", OSError)
