"""Arguments for TLS that cannot work: said at once, and nothing is left."""

import asyncio
import gc
import os
import ssl
import warnings

import pytest
from certificates import secure
from loops import needs_proc, until
from peers import dial_raw, echo

import distributed_comm as dc
from distributed_comm._tls import security as encryption

LOOPBACK = "tls://127.0.0.1:0"
SECONDS = 2


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@needs_proc
@pytest.mark.parametrize("name", ["a..b", ".example", "a\0b"])
def test_a_host_name_that_is_none_is_said_at_once_and_leaves_no_socket(run, name):
    async def main():
        arguments = {"ssl_context": secure().connecting, "server_hostname": name}
        async with dc.listen(LOOPBACK, echo, security=secure()) as listener:
            gc.collect()
            before = open_files()
            gc.disable()  # which would close what was left
            try:
                async with asyncio.timeout(SECONDS):
                    with pytest.raises(ValueError, match="no TLS with server_hostname=") as info:
                        await dc.connect(listener.contact_address, connection_args=arguments)
                assert repr(name) in str(info.value)
                await until(lambda: open_files() == before)  # the listener's, too
            finally:
                gc.enable()

    run(main())


def test_a_context_for_the_other_role_is_said_at_once(run):
    async def main():
        wrong = {"ssl_context": secure().connecting}
        expected = r"is for dialling \(PROTOCOL_TLS_CLIENT\): listening takes .*PROTOCOL_TLS_SERVER"
        with pytest.raises(ValueError, match=expected):
            dc.listen(LOOPBACK, echo, connection_args=wrong)
        expected = r"is for listening \(PROTOCOL_TLS_SERVER\): dialling takes .*PROTOCOL_TLS_CLIENT"
        with pytest.raises(ValueError, match=expected):  # though nobody is there
            await dc.connect(
                "tls://127.0.0.1:1", connection_args={"ssl_context": secure().listening}
            )
        with pytest.raises(ValueError, match=r"ssl_context='ca\.pem', expected an ssl\.SSLContext"):
            await dc.connect("tls://127.0.0.1:1", connection_args={"ssl_context": "ca.pem"})

    run(main())


def test_an_outdated_context_is_for_both_roles(run):
    async def main():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS)
        arguments = {"ssl_context": context}
        security = secure()
        context.load_verify_locations(cadata=security.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        encryption._load_chain(context, security.cert, security.key)
        async with (
            dc.listen(LOOPBACK, echo, connection_args=arguments) as listener,
            await dc.connect(listener.contact_address, connection_args=arguments) as comm,
        ):
            assert comm.trusted

    run(main())


def test_a_context_of_a_server_is_used_for_the_role_that_it_is_for(run):
    async def main():
        security = secure(server_hostname="localhost")
        listens = dc.Server(connection_args=security.listen_args())
        dials = dc.Server(connection_args=security.connection_args())
        async with listens, dials:
            await listens.listen(LOOPBACK)
            assert await dials.rpc(listens.address).echo(data=1) == 1
            with pytest.raises(ValueError, match="the ssl_context is for listening"):
                await listens.rpc(listens.address).echo(data=1)
            with pytest.raises(ValueError, match="the ssl_context is for dialling"):
                dials.listen(LOOPBACK)
            await dials.listen(LOOPBACK, security=security)
            await dials.listen(LOOPBACK, connection_args=security.listen_args())
            for listener in dials.listeners:
                assert await dials.rpc(listener.contact_address).echo(data=2) == 2
            with pytest.raises(ValueError, match="is not encrypted, and encryption is required"):
                dials.listen("tcp://127.0.0.1:0")
            with pytest.raises(TypeError, match="unheard_of"):
                dials.listen(LOOPBACK, unheard_of=1)

    run(main())


def test_a_context_that_fails_for_who_is_accepted_leaves_no_socket(run, monkeypatch):
    """A context may be changed at any time; the error is the loop's to report."""

    def fail(*_, **__):
        raise ssl.SSLError("no cipher is left")

    async def main():
        loop, reported = asyncio.get_running_loop(), []
        handler = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        async with dc.listen(LOOPBACK, echo, security=secure()) as listener:
            monkeypatch.setattr(ssl.SSLContext, "wrap_bio", fail)
            async with dial_raw(listener) as raw:
                async with asyncio.timeout(SECONDS):
                    assert await raw.is_cut()
            assert [type(each) for each in reported] == [ssl.SSLError]
        loop.set_exception_handler(handler)

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()
