"""What goes wrong with TLS: an error at once that says what to do, and one line of log."""

import asyncio
import logging
import socket
import ssl
from contextlib import asynccontextmanager

import pytest
from certificates import issue, secure, speak_only_tls_1_1, without_certificate
from loops import until
from peers import dial_raw, echo, port_of

import distributed_comm as dc

LOOPBACK = "tls://127.0.0.1:0"
SECONDS = 2


@pytest.fixture
def log(caplog):
    """The lines that the library has logged."""
    caplog.set_level(logging.INFO, "distributed_comm")
    return lambda: [record for record in caplog.records if record.name == "distributed_comm"]


async def refused(address: str, **arguments) -> dc.TLSError:
    """Return how connect fails, for good and in time."""
    async with asyncio.timeout(SECONDS):
        with pytest.raises(dc.FatalCommClosedError) as caught:
            await dc.connect(address, **arguments)
    assert str(caught.value).count("\n") < 3
    return caught.value


def one_line(log) -> str:
    """Return the one that was logged, which says it all."""
    (record,) = log()
    assert record.levelno == logging.INFO
    assert record.exc_info is None
    assert "\n" not in record.getMessage()
    return record.getMessage()


FAILURES = {
    "the listener's certificate is of another CA": (
        {"leaf": issue(by="others")},
        secure,
        (
            "the peer's certificate comes from a CA that this side does not know: pass the one "
            "that signed it as ca="
        ),
        "the peer does not know the CA of our certificate: pass it there as ca=",
    ),
    "ours is of another CA": (
        {},
        lambda: secure(leaf=issue(by="others")),
        "the peer does not know the CA of our certificate: pass it there as ca=",
        (
            "the peer's certificate comes from a CA that this side does not know: pass the one "
            "that signed it as ca="
        ),
    ),
    "we have none": (
        {},
        without_certificate,
        "the peer wants a certificate: pass cert= and key=, signed by its CA",
        "the peer showed no certificate: it has to pass cert= and key=",
    ),
    "the listener's has expired": (
        {"leaf": issue(days=-1)},
        secure,
        "the peer's certificate has expired: the peer needs a new one",
        "our certificate has expired: make a new one",
    ),
    "ours has expired": (
        {},
        lambda: secure(leaf=issue(days=-1)),
        "our certificate has expired: make a new one",
        "the peer's certificate has expired: the peer needs a new one",
    ),
    "the listener's will be valid in a while": (
        {"leaf": issue(days=300)},
        secure,
        "the peer's certificate is not valid yet: compare the clocks",
        "the peer refuses our certificate",
    ),
    "ours will be valid in a while": (
        {},
        lambda: secure(leaf=issue(days=300)),
        "the peer refuses our certificate: it may not be valid yet, by the peer's clock: ",
        "the peer's certificate is not valid yet: compare the clocks",
    ),
    "the listener is another host": (
        {"leaf": issue("elsewhere.example")},
        secure,
        (
            "the peer's certificate is not for '127.0.0.1': dial a name that it is for, or pass "
            "that as server_hostname="
        ),
        (
            "the peer refuses our certificate: it may not be valid yet, by the peer's clock, or "
            "not for the host name that the peer has dialled"
        ),
    ),
    "no cipher in common": (
        {"ciphers": "ECDHE+CHACHA20"},
        lambda: secure(ciphers="ECDHE+AESGCM"),
        (
            "the peer refuses the handshake: it may want a certificate, cert= and key=, or other "
            "ciphers="
        ),
        "the two sides have no cipher in common: compare ciphers=",
    ),
}


@pytest.mark.parametrize(("theirs", "ours", "error", "logged"), FAILURES.values(), ids=FAILURES)
def test_each_side_says_what_to_do(run, log, theirs, ours, error, logged):
    async def main():
        async with dc.listen(LOOPBACK, echo, security=secure(**theirs)) as listener:
            security = ours()
            if "ciphers" in theirs:  # 1.3 has ciphers of its own
                security.connecting.maximum_version = ssl.TLSVersion.TLSv1_2
            caught = await refused(listener.contact_address, security=security)
            await until(log)
        assert type(caught) is dc.TLSError
        assert str(caught).startswith(error)
        assert str(caught).endswith(f" -> {listener.contact_address}")
        assert isinstance(caught.__cause__, ssl.SSLError)
        assert logged in one_line(log)

    run(main())


def test_a_listener_of_tls_1_1_only(run):
    def shake_hands(listening):
        accepted, _ = listening.accept()
        context = speak_only_tls_1_1(secure().listening)
        with accepted, pytest.raises(ssl.SSLError):
            context.wrap_socket(accepted, server_side=True)

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            shaking = asyncio.create_task(asyncio.to_thread(shake_hands, listening))
            port = listening.getsockname()[1]
            caught = await refused(f"tls://127.0.0.1:{port}", security=secure())
            await shaking
        assert "no version of TLS in common" in str(caught)

    run(main())


def test_a_dialler_of_tls_1_1_only(run, log):
    async def main():
        context = speak_only_tls_1_1(secure().connecting)
        async with dc.listen(LOOPBACK, echo, security=secure()) as listener:
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                await asyncio.open_connection("127.0.0.1", port_of(listener), ssl=context)
            await until(log)
        assert "the peer speaks no version of TLS that this side takes" in one_line(log)

    run(main())


def test_plain_to_tls(run, log):
    async def main():
        async with dc.listen(LOOPBACK, echo, security=secure()) as listener:
            address = f"tcp://127.0.0.1:{port_of(listener)}"
            caught = await refused(address)
            await until(lambda: len(log()) == 1)
        assert "the peer speaks TLS, and this side does not: dial tls://" in str(caught)
        assert "the peer does not speak TLS: it has to dial tls://" in one_line(log)

    run(main())


def test_tls_to_plain(run, log):
    async def main():
        async with dc.listen("tcp://127.0.0.1:0", echo) as listener:
            address = f"tls://127.0.0.1:{port_of(listener)}"
            caught = await refused(address, security=secure())
            await until(log)
        assert str(caught).startswith("the peer does not speak TLS: dial tcp://")
        assert "the peer speaks TLS, and this side does not" in one_line(log)

    run(main())


def test_tls_to_a_server_of_something_else(run):
    async def serve(_, writer):
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    async def main():
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            caught = await refused(f"tls://127.0.0.1:{port}", security=secure())
        assert "does not speak TLS" in str(caught)

    run(main())


@asynccontextmanager
async def raw_and_listener(**kwargs):
    async with (
        dc.listen(LOOPBACK, echo, security=secure(), **kwargs) as listener,
        dial_raw(f"tcp://127.0.0.1:{port_of(listener)}") as raw,
    ):
        yield raw


def test_a_silent_dialler_is_cut_at_the_deadline(run, log):
    options = dc.CommOptions(timeouts=dc.Timeouts(handshake=0.05))

    async def main():
        async with raw_and_listener(options=options) as raw:
            assert await raw.is_cut()
            await until(log)
        assert "no hello came in time" in one_line(log)

    run(main())


def test_who_leaves_during_the_handshake(run, log):
    async def main():
        async with raw_and_listener() as raw:
            await raw.send(bytes.fromhex("16 03 01"))
            raw.close()
            await until(log)
        assert "the peer closed the connection during the TLS handshake" in one_line(log)

    run(main())


def test_a_silent_listener_is_dialled_until_time_is_up(run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            with pytest.raises(OSError, match="Timed out trying to connect to tls://"):
                await dc.connect(f"tls://127.0.0.1:{port}", security=secure(), timeout=0.2)

    run(main())


def test_bytes_that_were_changed_end_the_connection(run):
    """A man in the middle changes one byte of a record."""

    async def main():
        served = asyncio.get_running_loop().create_future()
        async with (
            dc.listen(LOOPBACK, served.set_result, security=secure()) as listener,
            meddler(listener) as (address, meddle),
        ):
            client = await dc.connect(address, security=secure())
            server = await served
            meddle()
            await client.write("harmless")
            with pytest.raises(dc.TLSError, match="bytes were changed on their way"):
                await server.read()
            with pytest.raises(dc.CommClosedError):
                await client.read()
            client.abort()

    run(main())


@asynccontextmanager
async def meddler(listener):
    """Yield the address of a relay, and what makes it flip a bit of the next bytes from there."""
    links, flips = [], []

    async def pump(reader, writer, flip):
        while data := await reader.read(65536):
            if flip and flips:
                flips.pop()
                data = data[:-1] + bytes([data[-1] ^ 1])
            writer.write(data)
        writer.close()

    async def link(reader, writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port_of(listener))
        await asyncio.gather(pump(reader, far_writer, True), pump(far_reader, writer, False))

    async def serve(reader, writer):
        links.append(asyncio.create_task(link(reader, writer)))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}", lambda: flips.append(1)
    await asyncio.wait(links)
