"""python -m distributed_comm: against a server of ours and a live Scheduler of Dask's."""

import asyncio
import os
import re
import signal
import sys
from contextlib import contextmanager

import pytest
from calling import serve
from certificates import ca_text, issue, secure, texts
from scheduling import scheduler

import distributed_comm as dc
from distributed_comm._command import argument


async def command(*args, environment=None):
    """Run it; return its exit status and what it printed, and printed as errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "distributed_comm", *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def give_up():
    raise AssertionError


def break_pipe():
    raise BrokenPipeError("theirs")


def time_out():
    raise TimeoutError


async def wait():
    await asyncio.sleep(3)


FAILING = {"wait": wait, "give_up": give_up, "time_out": time_out}
HANDLERS = {
    "add": lambda x, y: x + y,
    "show": lambda **kwargs: kwargs,
    "fail": lambda: 1 // 0,
    "thing": lambda: range(3),
    "address": lambda: "street",
}


def test_call_prints_what_a_function_returns(run):
    async def main():
        async with serve(HANDLERS) as (server, _):
            assert await command("call", server.address, "add", "x=1", "y=2") == (0, "3\n", "")
            assert (await command("call", server.address, "address"))[:2] == (0, "'street'\n")
            words = "a=[1, 'two']", "b=text", "c=None", "d=x=y", "e="
            status, out, _ = await command("call", server.address, "show", *words)
            expected = {"a": [1, "two"], "b": "text", "c": None, "d": "x=y", "e": ""}
            assert (status, out) == (0, f"{expected}\n")

    run(main())


def test_call_says_what_went_wrong_in_one_line(run):
    async def main():
        async with serve(HANDLERS, trusted=True) as (server, _):
            status, out, err = await command("call", server.address, "fail")
            assert (status, out) == (1, "")
            assert err == "RemoteError: ZeroDivisionError: integer division or modulo by zero\n"
            status, _, err = await command("call", server.address, "thing")
            assert (status, err.splitlines()[0][:14]) == (1, "UntrustedError")
            status, out, _ = await command("call", "--trusted", server.address, "thing")
            assert (status, out) == (0, "range(0, 3)\n")
            status, _, err = await command("call", server.address, "add", "x")
            assert status == 2
            assert "'x', expected name=value" in err

    run(main())


#: How a command ends when it may take half a second: the arguments, what is expected to be said.
FAILURES = {
    "nobody listens": (("identity", "{closed}"), "Connection refused by {bare}"),
    "no such name": (("call", "tcp://name.invalid:1", "add"), "OSError: Timed out .*name"),
    "no answer": (("call", "{address}", "wait"), "TimeoutError: no answer in 0.5 s$"),
    "an error without a text": (("call", "{address}", "give_up"), "^RemoteError: AssertionError$"),
    "its own TimeoutError": (("call", "--trusted", "{address}", "time_out"), "^TimeoutError$"),
    "an argument that there is not": (
        ("call", "{address}", "add", "x=1", "y=2", "op=1"),
        "^RemoteError: TypeError: add: .*'op'$",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_the_reason_is_said_and_not_how_long_it_took(run, failure):
    arguments, expected = FAILURES[failure]

    async def main():
        async with serve({**HANDLERS, **FAILING}, trusted=True) as (server, _):
            closed = dc.listen("tcp://127.0.0.1:0", print)
            closed.bind()
            names = {"closed": closed.contact_address, "address": server.address}
            names["bare"] = closed.contact_address.removeprefix("tcp://")
            closed.stop()
            given = [argument.format(**names) for argument in arguments]
            status, out, err = await command(given[0], "--timeout", "0.5", *given[1:])
            assert (status, out, err.count("\n")) == (1, "", 1)
            assert re.search(expected.format(**names), err.rstrip())

    run(main())


def test_an_op_may_begin_with_an_underscore(run):
    async def main():
        async with serve({"_hid": lambda pool, args: pool + args}) as (server, _):
            status, out, err = await command("call", server.address, "_hid", "pool=1", "args=2")
            assert (status, out, err) == (0, "3\n", "")

    run(main())


def test_a_server_of_tls_is_asked_with_certificates(run, tmp_path):
    paths = {}
    for name, text in {"ca": ca_text(), **texts(issue())}.items():
        paths[name] = str(tmp_path / f"{name}.pem")
        (tmp_path / f"{name}.pem").write_text(text)
    ca = ("--tls-ca-file", paths["ca"])
    own = ("--tls-cert", paths["cert"], "--tls-key", paths["key"])

    async def main():
        async with dc.Server(HANDLERS, security=secure()) as server:
            await server.listen("tls://127.0.0.1:0")
            address = server.address
            assert await command("call", *ca, *own, address, "thing") == (0, "range(0, 3)\n", "")
            assert (await command("ping", "-c1", *ca, *own, address))[0] == 0
            status, _, err = await command("identity", *ca, address)
            assert (status, err[:37]) == (1, "TLSError: the peer wants a certificat")
            status, _, err = await command("identity", *own, address)
            assert status == 2
            assert "--tls-server-hostname need --tls-ca-file" in err
            status, _, err = await command("identity", address)
            assert status == 2
            assert "tls:// needs --tls-ca-file FILE" in err
            assert "Security" not in err
            status, _, err = await command("identity", "--tls-ca-file", "nowhere.pem", address)
            assert (status, err.startswith("FileNotFoundError")) == (1, True)
            assert "nowhere.pem" in err

    run(main())


def test_a_server_with_a_temporary_certificate_is_asked_by_the_name_in_it(run, tmp_path):
    security = dc.Security.temporary()
    for name in ("cert", "key"):
        (tmp_path / name).write_text(getattr(security, name))
    cert, key = str(tmp_path / "cert"), str(tmp_path / "key")
    files = ("--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key)
    name = ("--tls-server-hostname", security.server_hostname)

    async def main():
        async with dc.Server(HANDLERS, security=security) as server:
            await server.listen("tls://127.0.0.1:0")
            asked = "call", server.address, "thing"
            assert await command(*asked, *files, *name) == (0, "range(0, 3)\n", "")
            status, _, err = await command(*asked, *files)
            assert (status, err.count("\n")) == (1, 1)
            assert "pass that as server_hostname=" in err
            status, _, err = await command(*asked, *name)
            assert (status, "need --tls-ca-file" in err) == (2, True)

    run(main())


def test_identity_of_our_server(run):
    async def main():
        async with serve(HANDLERS) as (server, _):
            status, out, err = await command("identity", server.address)
            assert (status, err) == (0, "")
            assert out == f"{{'type': 'Server', 'id': {server.id!r}}}\n"

    run(main())


def test_ping_prints_a_line_for_each_call_and_a_summary(run):
    async def main():
        async with serve(HANDLERS) as (server, _):
            status, out, err = await command("ping", "-c3", "-i0.01", server.address)
            assert (status, err) == (0, "")
            check_ping(out, server.address, 3)
        status, out, _ = await command("ping", "-c1", "--timeout", "0.1", server.address)
        assert status == 1
        assert "seq=1 Timed out" in out
        assert "Connection refused" in out
        assert "1 calls, 0 answered, 100% lost" in out

    run(main())


def check_ping(out, address, count):
    *lines, name, lost, figures = out.splitlines()
    assert [re.sub(r"time=\d+\.\d{3}", "time", line) for line in lines] == [
        f"seq={number} time ms" for number in range(1, count + 1)
    ]
    assert name == f"--- {address} ---"
    assert lost == f"{count} calls, {count} answered, 0% lost"
    assert re.fullmatch(r"min/avg/max = \d+\.\d{3}/\d+\.\d{3}/\d+\.\d{3} ms", figures)


#: No literals, each for a reason of its own.
TEXTS = ["{[1]: 2}", "{1,[2]}", "-" * 5_000 + "1", "-" * 100_000 + "1", "[" * 300, "1_", "f(x)"]


@pytest.mark.parametrize("text", TEXTS, ids=[text[:9] for text in TEXTS])
def test_what_is_no_literal_is_text(text):
    assert argument(f"x={text}") == ("x", text)


def test_a_text_that_looks_like_a_literal_is_sent(run):
    async def main():
        async with serve(HANDLERS) as (server, _):
            given = "x={[1]: 2}", "y=" + "-" * 5_000 + "1"
            status, out, err = await command("call", server.address, "show", *given)
            assert (status, err) == (0, "")
            assert out.startswith("{'x': '{[1]: 2}',\n 'y': '-----")

    run(main())


@contextmanager
def unread_pipe():
    """Yield the end to write to of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


@pytest.mark.skipif(sys.platform == "win32", reason="a signal's status")
@pytest.mark.parametrize("asked", ["identity", "call", "ping"])
def test_it_ends_without_a_word_where_nobody_reads(run, asked):
    arguments = {"identity": (), "call": ("thing",), "ping": ("-i0.01",)}[asked]

    async def main():
        async with serve(HANDLERS, trusted=True) as (server, _):
            command_line = "-m", "distributed_comm", asked, "--trusted", server.address
            with unread_pipe() as pipe:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, *command_line, *arguments),
                    stdout=pipe,
                    stderr=asyncio.subprocess.PIPE,
                )
            _, err = await process.communicate()
            assert (process.returncode, err) == (128 + signal.SIGPIPE, b"")

    run(main())


def test_a_broken_pipe_of_the_function_is_its_error(run):
    async def main():
        async with serve({"break_pipe": break_pipe}, trusted=True) as (server, _):
            asked = "--trusted", server.address, "break_pipe"
            assert await command("call", *asked) == (1, "", "BrokenPipeError: theirs\n")

    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="a signal")
def test_ping_goes_on_until_it_is_interrupted(run):
    async def main():
        async with serve(HANDLERS) as (server, _):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "distributed_comm", "ping", "-i0.01", server.address),
                stdout=asyncio.subprocess.PIPE,
            )
            for _ in range(3):
                assert (await process.stdout.readline()).startswith(b"seq=")
            process.send_signal(signal.SIGINT)
            out, _ = await process.communicate()
            assert b"min/avg/max" in out
            assert process.returncode == 130

    run(main())


def test_a_live_scheduler_is_asked(run):
    async def main():
        async with scheduler() as their:
            status, out, err = await command("identity", their.address)
            assert (status, err) == (0, "")
            assert "'type': 'Scheduler'" in out
            status, out, _ = await command("ping", "-c2", "-i0", their.address)
            assert status == 0
            check_ping(out, their.address, 2)
            status, out, _ = await command("call", their.address, "echo", "data={'a': 1}")
            assert (status, out) == (0, "{'a': 1}\n")

    run(main())


def paint():
    raise RuntimeError("\x1b[2J\u202e is no\nsecret")


def nest():
    inner = []
    for _ in range(300):
        inner = [1, inner]
    return inner


def test_what_a_terminal_would_act_on_is_escaped(run):
    async def main():
        async with serve({"paint": paint, "colour": lambda: {"\x1b[31m": "ä\x9b"}}) as (server, _):
            status, out, err = await command("call", server.address, "paint")
            assert (status, out) == (1, "")
            assert err == "RemoteError: RuntimeError: \\x1b[2J\\u202e is no\\nsecret\n"
            status, out, err = await command("call", server.address, "colour")
            assert (status, out, err) == (0, "{'\\x1b[31m': 'ä\\x9b'}\n", "")

    run(main())


@pytest.mark.parametrize("op", ["nest", "many"])
def test_what_would_take_long_to_lay_out_is_printed_on_one_line(run, op):
    async def main():
        async with serve({"nest": nest, "many": lambda: [*range(30_000)]}) as (server, _):
            status, out, err = await command("call", server.address, op)
            assert (status, err) == (0, "")
            assert out.count("\n") == 1

    run(main())


def test_help_names_the_commands(run):
    async def main():
        status, out, _ = await command("--help")
        assert status == 0
        assert all(name in out for name in ("ping", "call", "identity"))
        assert (await command())[0] == 2

    run(main())
