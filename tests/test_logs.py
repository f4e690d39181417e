"""What a peer says in logs, in exceptions and on the command line: printable, short, and seldom."""

import asyncio
import logging
import pickle
import re
import socket
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager

import msgpack
import pytest
from calling import dial, serve
from hypothesis import given
from hypothesis import strategies as st
from loops import LOOPS, until
from lying import liar
from peers import DASK_HELLO, LOOPBACK, dial_raw, frame_up, pack, pair
from test_command import command

import distributed_comm as dc
from distributed_comm._command import Printer
from distributed_comm._envelope import ERROR, REPLY
from distributed_comm._logs import BYTES, LINES, Log, StrangersLog
from distributed_comm._serialize import families
from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.settings import LoadOptions
from distributed_comm._text import LONG, SHORT, brief, is_clean, printable

#: A screen that is cleared, a line that is not ours, and text that runs backwards.
HOSTILE = "\x1b[2J\r\nERROR all is lost\u202e\u2028\x9b31m\x00\ud800"
#: The same, as far as a stranger can send it.
SENT = HOSTILE[:-1]
#: The hello of a peer that knows envelopes.
ENVELOPED = pack(
    {
        "python": (3, 11, 7), "pickle-protocol": 5,
        "distributed_comm": {"version": 3, "types": 1},
    }
)  # fmt: skip


def check(text: str, limit: int) -> None:
    """Fail if a text of a peer's is raw or long."""
    assert text.isprintable(), repr(text)
    assert len(text) <= limit


def check_exception(error: BaseException) -> None:
    """Fail if a peer's text is raw or long anywhere in what is printed of an exception."""
    check(str(error), LONG + SHORT)
    shown = "".join(traceback.format_exception(error))
    assert "\nERROR" not in shown
    for line in shown.split("\n"):
        check(line, LONG + SHORT)


# Texts

anything = st.text(st.characters())  # with surrogates


@given(anything, st.integers(20, 200), st.integers(0, 10))
def test_a_printable_text_is_printable_short_and_stays_as_it_is(text, limit, times):
    text *= times
    shown = printable(text, limit)
    check(shown, limit)
    assert printable(shown, limit) is shown
    if text.isprintable() and len(text) <= limit:
        assert shown is text


@given(anything)
def test_only_what_is_not_printable_is_escaped(text):
    expected = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    assert printable(text, 10 * len(text) + 1) == expected


CONTROLS = (
    "\n\r\t\0\x1b\x7f\x85\x9b\u061c\u200e\u200f\u2028\u2029"
    "\u202a\u202e\u2066\u2069\ufeff\ud800\udfff"
)


@pytest.mark.parametrize("char", CONTROLS, ids=ascii)
def test_what_moves_a_cursor_or_turns_a_line_is_escaped(char):
    check(printable(f"a{char}b"), 20)


@pytest.mark.parametrize("text", ["größer", "日本語", "עברית", "e\u0301", "☃ 🐍", "a\\n"])
def test_ordinary_text_stays(text):
    assert printable(text) == text


def test_what_was_left_out_is_counted():
    assert printable("x" * 3000, 100) == "x" * 84 + "… and 2,916 more"
    assert printable("x" * 50, 100, more=7) == "x" * 50 + "… and 7 more"


def test_a_huge_text_is_not_looked_through():
    huge = "\n" * 50_000_000
    start = time.perf_counter()
    for _ in range(100):
        check(printable(huge, 100), 100)
        check(brief(huge), 60)
    assert time.perf_counter() - start < 0.5  # to look through it once takes 0.1 s or so


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | anything | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.integers(), inner),
        max_leaves=10,
    )
)
def test_plain_data_is_shown_briefly(value):
    check(brief(value), 60)


def test_an_exception_is_clean_with_all_that_is_shown_with_it():
    raw, clean = ValueError("\n"), ValueError("clean")
    assert is_clean(clean)
    assert is_clean(None)
    assert not is_clean(raw)
    clean.__context__ = raw
    assert not is_clean(clean)
    clean.__suppress_context__ = True
    assert is_clean(clean)
    clean.__cause__ = raw
    assert not is_clean(clean)
    noted = ValueError("clean")
    noted.add_note("\x1b")
    assert not is_clean(noted)
    circular = ValueError("clean")
    circular.__cause__ = circular
    assert not is_clean(circular)


# How many lines


class Recorder(logging.Handler):
    """Keeps what was written, and when; by the clock that a test moves."""

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.lines = []

    def emit(self, record):
        shown = self.format(record)  # with its traceback
        self.lines.append((self.now, shown.count("\n") + 1, len(shown.encode())))
        self.shown = shown

    def clock(self):
        return self.now


@contextmanager
def recording():
    recorder = Recorder()
    logger = logging.getLogger("distributed_comm")
    logger.addHandler(recorder)
    try:
        yield recorder
    finally:
        logger.removeHandler(recorder)


def raised(depth, text):
    try:
        if depth:
            raise raised(depth - 1, text)
        raise ValueError(text)
    except ValueError as exc:
        return exc


steps = st.tuples(
    st.sampled_from([0.0, 0.001, 0.05, 0.3, 1.0, 1.2]),
    st.sampled_from(["line", "failure", "flush"]),
    st.sampled_from([0, 1, 50, 300, 5000]),
    st.sampled_from(["x", "\n", "ü", "🐍"]),
)


@given(st.lists(st.tuples(st.integers(1, 40), steps), max_size=20))
def test_never_more_lines_or_bytes_in_any_second_and_the_rest_is_counted(script):
    with recording() as recorder:
        log = StrangersLog("of a test", recorder.clock)
        wanted = 0
        for times, (pause, what, length, char) in script:
            for _ in range(times):
                recorder.now += pause
                before = len(recorder.lines)
                if what == "line":
                    log.line(logging.WARNING, "said %s", char * length)
                elif what == "failure":
                    log.failure("failed", exc=raised(length % 7, char * length))
                else:
                    log.flush()
                wanted += what != "flush"
                assert len(recorder.lines) - before <= 2
        recorder.now += 5
        log.flush()
        log.flush()
    lines = recorder.lines
    for start, _, _ in lines:
        second = [line for line in lines if start <= line[0] < start + 1]
        assert sum(count for _, count, _ in second) <= LINES
        assert sum(nbytes for _, _, nbytes in second) <= BYTES
    assert log._left_out == 0
    assert len(lines) <= wanted + 1


def test_what_was_left_out_is_said_and_adds_up(caplog):
    now = [0.0]
    log = StrangersLog("of a test", lambda: now[0])
    for _ in range(10_000):
        log.line(logging.WARNING, "said %s", "something")
        now[0] += 0.001
    now[0] += 2
    log.flush()
    texts = [record.getMessage() for record in caplog.records]
    assert len([text for text in texts if text == "said something"]) + counted(texts) == 10_000
    assert len(texts) <= LINES * 11


def counted(texts):
    """Return how many lines other lines say that were left out."""
    found = [
        re.search(r"… ([\d,]+) more lines about untrusted peers .* were left", t) for t in texts
    ]
    return sum(int(match[1].replace(",", "")) for match in found if match)


def test_the_level_is_the_highest_of_those_left_out_and_one_that_is_off_counts_nothing(caplog):
    now = [0.0]
    log = StrangersLog("of a test", lambda: now[0])
    caplog.set_level(logging.WARNING, "distributed_comm")
    for level in [logging.INFO] * 50 + [logging.WARNING] * 30 + [logging.ERROR]:
        log.line(level, "a line")
    now[0] += 2
    log.flush()
    assert caplog.records[-1].levelno == logging.ERROR
    assert counted([caplog.records[-1].getMessage()]) == 31 - (LINES - 1)


def test_a_line_that_is_left_out_is_not_formatted():
    class Text:
        shown = 0

        def __str__(self):
            Text.shown += 1
            return "text"

    log = StrangersLog("of a test", lambda: 1.0)
    for _ in range(1000):
        log.line(logging.WARNING, "%s", Text())
        log.failure("%s", Text(), exc=ValueError(1))
    assert Text.shown < LINES


def test_what_was_left_out_is_said_though_nothing_follows(run, caplog):
    async def main():
        log = StrangersLog("of a test")
        for _ in range(100):
            log.line(logging.WARNING, "a line")
        await until(lambda: counted([record.getMessage() for record in caplog.records]))

    run(main())
    assert counted([record.getMessage() for record in caplog.records]) == 101 - LINES


def test_a_listener_that_stops_says_what_was_left_out(run, caplog):
    async def main():
        async with dc.listen(LOOPBACK, print) as listener:
            for _ in range(100):
                listener._log.line(logging.WARNING, "a line")
        assert f"{101 - LINES} more lines about untrusted peers of <TCPListener tcp" in caplog.text

    run(main())


def test_lines_about_trusted_peers_are_not_limited(caplog):
    for _ in range(500):
        Log().line(logging.WARNING, "a line of %s", HOSTILE * 99)
    assert len(caplog.records) == 500
    check(caplog.records[0].getMessage(), 600)


def test_a_short_clean_traceback_is_shown_and_no_other(caplog):
    log = StrangersLog("of a test", iter(range(0, 1000, 2)).__next__)
    for depth, text in (0, "clean"), (0, "raw\n"), (20, "deep"):
        log.failure("it failed", exc=raised(depth, text))
    log.failure("it failed", exc=RecursionError("deep"))
    shown = [(record.exc_info is not None, record.getMessage()) for record in caplog.records]
    assert shown[0] == (True, "it failed")
    assert not shown[1][0]
    assert re.fullmatch(
        r"it failed: ValueError: raw\\n \(test_logs.py:\d+ in raised\)", shown[1][1]
    )
    assert not shown[2][0]
    assert shown[2][1].startswith("it failed: ValueError: deep")


FLOODED = """
import asyncio, logging, sys
import distributed_comm as dc

form = "%(levelname)s %(name)s %(message)s"
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format=form)

def stop():
    done.set()

def fail(x):
    raise ValueError(x)

async def main():
    global done
    done = asyncio.Event()
    async with dc.Server([stop, fail], trusted=False) as server:
        server.listen("tcp://127.0.0.1:0")
        print(server.address, file=sys.stderr, flush=True)
        await done.wait()
        await asyncio.sleep(1.2)

dc.run(main())
"""

#: Requests that a stranger may flood a server with; each of them causes a line.
FLOODS = {
    "refused": {"op": SENT, "reply": False},
    "failing": {"op": "fail", "x": SENT, "reply": False},
    "unfit": {"op": "fail", SENT: 1, "reply": False},
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_from_another_process_is_a_few_lines(tmp_path, flood):
    message, times = pack(FLOODS[flood]) * 100, 0
    path = tmp_path / "log"
    command = [sys.executable, "-c", FLOODED]
    start = time.monotonic()
    with (
        path.open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.PIPE, text=True) as process,
    ):
        address = dc.get_address_host_port(process.stderr.readline().strip())
        with socket.create_connection(address, timeout=20) as raw:
            raw.sendall(DASK_HELLO)
            begun = time.monotonic()
            while time.monotonic() - begun < 1 and times < 20_000:
                raw.sendall(message)
                times += 100
            raw.sendall(pack({"op": "stop", "reply": False}))
            assert process.wait(20) == 0
        assert process.stderr.read() == ""
    seconds = time.monotonic() - start + 1
    text = path.read_text()
    lines = text.splitlines()
    assert times >= 1000
    assert len(lines) <= LINES * seconds
    assert len(text.encode()) <= BYTES * seconds
    assert all(line.isprintable() for line in lines)
    assert all(re.match(r"(INFO|WARNING|ERROR) distributed_comm ", line) for line in lines)
    others = [line for line in lines if "more lines about untrusted" not in line]
    assert len(others) + counted(lines) == times


# What is in a line


def fail(**kwargs):
    raise ValueError(*kwargs.values())


def chain(x):
    try:
        raise RuntimeError(x)
    except RuntimeError as exc:
        raise ValueError("clean") from exc


async def fail_later(x):
    await asyncio.sleep(0)
    raise ValueError(x)


def unsendable(x):
    return type(x, (), {})()


def like_an_error():
    return {"status": "uncaught-error", "exception": SENT}


def guarded():
    return None


HANDLERS = {
    "fail": fail, "chain": chain, "fail_later": fail_later, "unsendable": unsendable,
    "like_an_error": like_an_error, "guarded": guarded,
}  # fmt: skip

#: Bytes of a stranger, and what the server says of them.
REQUESTS = {
    "an op": (pack({"op": SENT}), "refused a request .*no op '"),
    "an op that is a list": (pack({"op": [SENT]}), "refused a request"),
    "a long op": (pack({"op": "x" * 5_000_000}), "refused a request .*no op 'xxx"),
    "no request": (pack([SENT]), "refused a request"),
    "no message": (frame_up(b"\xc1"), "refused a request .*cannot be decoded"),
    "the name of an argument": (
        pack({"op": "chain", "x": 1, SENT: 1}),
        "unexpected keyword argument",
    ),
    "a long name": (
        pack({"op": "chain", "x": 1, "\n" * 9_999_999: 1}),
        "unexpected keyword argument",
    ),
    "an op in an envelope": (frame_up(b"\xc1\x01" + msgpack.packb([SENT]), b"\x80"), "no op '"),
    "a head": (frame_up(b"\xc1\x01" + SENT.encode(), b"\x80"), "head of a request is malformed"),
    "an enum": (
        pack(
            {"op": "fail", "x": {"__Enum__": 1, "__module__": SENT, "__name__": "a", "name": "b"}}
        ),
        "no enum member",
    ),
    "a family": (
        frame_up(
            msgpack.packb({"op": "fail", "x": {"__Serialized__": 1}}),
            msgpack.packb({"serializer": SENT, "num-sub-frames": 0}),
        ),
        "unknown serializer",
    ),
    "an error of its own": (
        frame_up(
            msgpack.packb({"op": "fail", "x": {"__Serialized__": 1}}),
            msgpack.packb({"serializer": "error", "num-sub-frames": 2}),
            SENT.encode(),
            b"\x1b\n" * 5_000_000,
        ),
        "refused a request",
    ),
    "an exception of a handler": (pack({"op": "fail", "x": SENT}), "'fail' failed: ValueError"),
    "a long exception": (pack({"op": "fail", "x": "x" * 5_000_000}), "'fail' failed: ValueError"),
    "a cause": (pack({"op": "chain", "x": SENT}), "'chain' failed"),
    "a late exception": (pack({"op": "fail_later", "x": SENT}), "'fail_later' failed"),
    "a reply that cannot be sent": (pack({"op": "unsendable", "x": SENT[:-1]}), "cannot be sent"),
    "a reply like an error": (pack({"op": "like_an_error"}), "looks like an error"),
    "an odd message in a stream": (
        pack({"op": "connection_stream"}) + pack([{"op": "", SENT: [SENT] * 1000}]),
        "odd message",
    ),
    "an op in a stream": (pack({"op": "connection_stream"}) + pack([{"op": SENT}]), "no op '"),
    "an exception in a stream": (
        pack({"op": "connection_stream"}) + pack([{"op": "fail", "x": SENT}]),
        "'connection_stream' failed: ValueError",
    ),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_what_a_stranger_says_is_one_short_printable_line(run, caplog, case):
    data, expected = REQUESTS[case]

    async def main():
        kwargs = {"stream_handlers": {"fail": fail}, "trusted_ops": ["guarded"]}
        async with serve(HANDLERS, **kwargs) as (server, _), dial_raw(server.listener) as raw:
            await raw.send((ENVELOPED if b"\xc1\x01" in data else DASK_HELLO) + data)
            await until(lambda: caplog.records)

    caplog.set_level(logging.INFO)
    run(main())
    (line,) = [record for record in caplog.records if re.search(expected, record.getMessage())]
    assert line.exc_info is None
    for record in caplog.records:
        check(record.getMessage(), 700)


def test_a_hello_is_quoted_in_one_short_printable_line(run, caplog):
    async def main():
        async with dc.listen(LOOPBACK, print) as listener, dial_raw(listener) as raw:
            await raw.send(pack({"compression": [SENT], "python": [], "pickle-protocol": 5}))
            await until(lambda: caplog.records)

    caplog.set_level(logging.INFO)
    run(main())
    (record,) = caplog.records
    check(record.getMessage(), 400)
    assert "compression" in record.getMessage()


async def raise_it(comm):
    raise ValueError(await comm.read())


def push_it(comm):
    def receive(message, error):
        if not isinstance(error, dc.CommClosedError):
            raise ValueError(message)

    comms.append(comm)  # else it is collected
    comm.push(receive)


comms = []

#: `run` fails when the loop's handler of exceptions is called, which is what these are about.
each_loop = pytest.mark.parametrize("loop", LOOPS)


@pytest.mark.parametrize("handler", [raise_it, push_it])
@pytest.mark.parametrize("size", [1, 100_000])
@each_loop
def test_an_exception_of_what_serves_a_comm_is_one_short_printable_line(
    caplog, handler, size, loop
):
    async def main():
        async with dc.listen(LOOPBACK, handler) as listener, dial_raw(listener) as raw:
            await raw.send(DASK_HELLO + pack(size * SENT))
            await until(lambda: caplog.records)
            assert await raw.is_cut()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
    (record,) = caplog.records
    assert "failed: ValueError: " in record.getMessage()
    assert record.exc_info in (None, False)
    check(record.getMessage(), 700)


@each_loop
def test_a_receiver_that_fails_over_and_over_causes_few_lines(caplog, loop):
    async def main():
        async with dc.listen(LOOPBACK, push_it) as listener:
            for _ in range(60):
                async with dial_raw(listener) as raw:
                    await raw.send(DASK_HELLO + pack(SENT))
                    await raw.is_cut()

    start = time.monotonic()
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
    assert len(caplog.records) < LINES * (2 + time.monotonic() - start)
    texts = [record.getMessage() for record in caplog.records]
    assert counted(texts) + len([t for t in texts if "receiver of messages" in t]) == 60


def test_a_handler_of_a_stranger_that_fails_by_itself_has_its_traceback_in_the_log(run, caplog):
    async def main():
        async with serve({"fail": lambda: 1 // 0}) as (_, remote):
            with pytest.raises(dc.RemoteError):
                await remote.fail()

    run(main())
    (record,) = caplog.records
    assert record.exc_info[0] is ZeroDivisionError


def test_a_batch_to_a_stranger_that_cannot_be_sent_causes_few_lines(run, caplog):
    async def main():
        async with pair() as (_, comm), dc.BatchedSend(0) as batched:
            batched.start(comm)
            for _ in range(100):
                batched.send(object())
            with pytest.raises(dc.UntrustedError):
                await batched.close()

    run(main())
    assert 1 <= len(caplog.records) < LINES
    assert all("leaves out a message" in record.getMessage() for record in caplog.records)


def test_a_name_that_a_stranger_made_up_is_told_to_nobody_at_length(run):
    async def main():
        async with serve(HANDLERS) as (server, _), dial(server) as comm:
            for message in {"op": SENT * 9}, {"op": "chain", "x": 1, SENT * 99_999: 2}:
                await comm.write(message)
                check((await comm.read())["exception_text"], 600)

    run(main())


# Exceptions


#: What a hostile server answers, and what is raised of it.
ERRORS = {
    "a text": {"exception_text": SENT},
    "a long text": {"exception_text": SENT * 200_000},
    "a traceback": {"exception_text": "a", "traceback_text": f"Traceback\n  File {SENT}\n" * 999},
    "not even a text": {"exception_text": [SENT]},
}


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("error", ERRORS)
def test_an_error_of_a_hostile_server_is_short_and_printable(run, error, trusted):
    async def main():
        reply = {"status": "uncaught-error", **ERRORS[error]}
        async with (
            liar((ERROR, reply)) as listener,
            dc.rpc(listener.contact_address, trusted=trusted) as remote,
        ):
            with pytest.raises(dc.RemoteError) as caught:
                await remote.do()
        if trusted:  # as many lines as its own, and each of them printable
            check(str(caught.value), 20_000)
            for line in "".join(traceback.format_exception(caught.value)).split("\n"):
                check(line, 21_000)
        else:
            check_exception(caught.value)

    run(main())


def test_the_traceback_of_a_trusted_server_has_its_lines(run):
    async def main():
        async with serve({"fail": lambda: 1 // 0}, trusted=True) as (_, remote):
            with pytest.raises(ZeroDivisionError) as caught:
                await remote.fail()
            assert str(caught.value.__cause__).count("\n") > 4

    run(main())


ENUM = {"__Enum__": 1, "__module__": SENT * 99_999, "__name__": SENT, "name": "x"}
SERIALIZED = msgpack.packb({"__Serialized__": 1})

#: Messages that cannot be decoded, or report an error.
MESSAGES = {
    "an enum": [msgpack.packb(ENUM)],
    "an error": [
        SERIALIZED,
        msgpack.packb({"serializer": "error", "num-sub-frames": 2}),
        *(SENT.encode(), memoryview(SENT.encode() * 999_999)),
    ],
    "a family": [SERIALIZED, msgpack.packb({"serializer": SENT * 999, "num-sub-frames": 0})],
    "a nested family": [
        SERIALIZED,
        msgpack.packb({"serializer": [[None] * 200_000], "num-sub-frames": 0}),
    ],
    "a type": [
        SERIALIZED,
        msgpack.packb({"serializer": "dask", "type": SENT * 999, "num-sub-frames": 0}),
    ],
    "a collection": [
        SERIALIZED,
        msgpack.packb(
            {
                "is-collection": True,
                "sub-headers": [],
                "frame-lengths": [],
                "type-serialized": SENT * 999,
                "num-sub-frames": 0,
            }
        ),
    ],
    "a compression": [
        SERIALIZED,
        msgpack.packb(
            {"serializer": "msgpack", "compression": [SENT], "num-sub-frames": 1, "split-num": [1]}
        ),
        b"\x80",
    ],
    "a dtype": [
        SERIALIZED,
        msgpack.packb(
            {
                "serializer": "dask", "type": "numpy.ndarray", "num-sub-frames": 1,
                "sub-header": {"dtype": SENT, "shape": [1], "strides": [1]},
            }
        ),
        b"\x80",
    ],
}  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_is_refused_is_quoted_briefly(message):
    start = time.thread_time()
    with pytest.raises((dc.MessageError, dc.UnserializableError)) as caught:
        loads(MESSAGES[message], LoadOptions(most=None))
    check_exception(caught.value)
    assert time.thread_time() - start < 1


@pytest.fixture
def loud():
    """A family that anybody may use, and that fails with what it is given."""

    def fail_on(_, frames):
        raise ValueError(frames[0].decode())

    dc.register_serialization_family("loud", None, fail_on, safe=True)
    yield
    del families._families["loud"]


@pytest.mark.parametrize("trusted", [False, True])
def test_a_cause_that_quotes_a_stranger_is_dropped(loud, trusted):
    for text in SENT, "x" * 100_000, "clean":
        header = msgpack.packb({"serializer": "loud", "num-sub-frames": 1})
        with pytest.raises(dc.MessageError) as caught:
            loads([SERIALIZED, header, text.encode()], LoadOptions(trusted=trusted))
        check(str(caught.value), LONG)
        assert (caught.value.__cause__ is not None) == (trusted or text == "clean")
        if not trusted:
            check_exception(caught.value)


def complain(text):
    raise ValueError(text)


class Complaining:
    def __reduce__(self):
        return complain, (HOSTILE * 9_999,)


def test_a_pickle_that_fails_is_quoted_briefly():
    data = pickle.dumps(Complaining())
    frames = [
        msgpack.packb({"__Pickled__": 1}),
        msgpack.packb({"pickled-obj": data, "num-sub-frames": 0}),
    ]
    with pytest.raises(dc.MessageError) as caught:
        loads(frames, LoadOptions(trusted=True))
    check(str(caught.value), LONG)


def test_a_hello_of_a_hostile_server_is_quoted_briefly(run):
    async def main():
        async def lie(reader, writer):
            writer.write(pack({"compression": [SENT * 20], "python": [], "pickle-protocol": 5}))
            await reader.read()
            writer.close()

        async with await asyncio.start_server(lie, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(dc.RemoteProtocolError) as caught:
                await dc.connect(f"tcp://127.0.0.1:{port}", timeout=5)
        check_exception(caught.value)

    run(main())


@pytest.mark.parametrize(
    "address", ["inproc://{}", "unix:///{}", "tcp://{}", "{}://a", "tls://{}:1"]
)
def test_an_address_from_a_peer_is_quoted_briefly(run, address):
    async def main():
        with pytest.raises((OSError, ValueError)) as caught:
            await dc.connect(address.format(SENT), timeout=0.1)
        check(str(caught.value), 600)

    run(main())


# The command line


@pytest.mark.parametrize("text", [SENT, SENT * 200_000, "ü" * 4_000_000])
@pytest.mark.parametrize("options", [[], ["--trusted"]])
def test_the_command_line_prints_a_hostile_error_in_one_short_line(run, text, options):
    async def main():
        reply = {"status": "uncaught-error", "exception_text": text}
        async with liar((ERROR, reply)) as listener:
            status, out, err = await command("call", *options, listener.contact_address, "do")
            assert (status, out) == (1, "")
            assert err.startswith("RemoteError: ")
            assert err.count("\n") == 1
            assert len(err.encode()) <= 4096
            check(err.rstrip("\n"), 1_000)

    run(main())


@pytest.mark.parametrize(
    "value",
    [SENT, {SENT: [SENT, {SENT}]}, [SENT.encode()], SENT * 99],
    ids=lambda v: type(v).__name__,
)
def test_the_command_line_escapes_what_a_hostile_server_returns(run, value):
    async def main():
        async with liar((REPLY, value)) as listener:
            for what in ["call", "identity"]:
                op = ["do"] if what == "call" else []
                status, out, err = await command(what, listener.contact_address, *op)
                assert (status, err) == (0, "")
                assert "\nERROR" not in out
                assert all(line.isprintable() for line in out.split("\n"))

    run(main())


@pytest.mark.parametrize("trusted", [False, True])
def test_a_hostile_error_is_escaped_in_each_line_of_ping(run, trusted):
    async def main():
        reply = {"status": "uncaught-error", "exception_text": SENT}
        if trusted:  # it is raised as it is
            reply["exception"] = pickle.dumps(OSError(SENT))
        async with liar((ERROR, reply)) as listener:
            options = ["--trusted"] * trusted
            _, out, err = await command("ping", *options, "-c", "1", listener.contact_address)
            assert "ERROR all is lost" in out + err
            assert all(line.isprintable() for line in (out + err).split("\n"))
            assert "\nERROR" not in out + err

    run(main())


class Shown:
    """What a trusted peer may return."""

    def __repr__(self):
        return SENT


def test_only_the_lines_of_arrays_are_printed_as_they_are():
    numpy = pytest.importorskip("numpy")
    shown = Printer().pformat({"a": numpy.eye(2), SENT: [Shown(), {"b": SENT}]})
    assert "'a': array([[1., 0.],\n" in shown
    assert "\nERROR" not in shown
    assert all(line.isprintable() for line in shown.split("\n"))
