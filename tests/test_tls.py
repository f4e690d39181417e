"""tls://: who gets in, what is known of the peer, and what stays as on tcp."""

import asyncio
import json
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from certificates import ca_text, issue, secure, texts, without_certificate
from peers import echo, port_of

import distributed_comm as dc

LOOPBACK = "tls://127.0.0.1:0"


@asynccontextmanager
async def pair(ours=None, theirs=None, *, trusted=(None, None), options=None, **kwargs):
    """Yield a connected client and server; both are aborted in the end."""
    served = asyncio.get_running_loop().create_future()
    async with dc.listen(
        LOOPBACK,
        served.set_result,
        security=theirs or secure(),
        trusted=trusted[1],
        options=options,
    ) as here:
        client = await dc.connect(
            here.contact_address,
            security=ours or secure(),
            trusted=trusted[0],
            options=options,
            **kwargs,
        )
        server = await served
    try:
        yield client, server
    finally:
        client.abort()
        server.abort()


# -- who is trusted ------------------------------------------------------------------


@dataclass
class Point:
    x: int


def test_who_showed_a_certificate_is_trusted(run):
    async def main():
        async with pair() as (client, server):
            assert client.trusted
            assert server.trusted
            await client.write(Point(1))
            assert await server.read() == Point(1)
            await server.write({Point})
            assert await client.read() == {Point}

    run(main())


def test_who_showed_none_is_let_in_where_that_is_allowed_and_not_trusted(run):
    async def main():
        async with pair(without_certificate(), secure(mutual=False)) as (client, server):
            assert client.trusted
            assert not server.trusted
            assert server.extra_info["peercert"] is None
            await client.write({"plain": 1})
            assert await server.read() == {"plain": 1}
        async with pair(secure(), secure(mutual=False)) as (_, server):
            assert server.trusted

    run(main())


@pytest.mark.parametrize("trusted", [True, False])
def test_trusted_can_still_be_said(run, trusted):
    async def main():
        async with pair(trusted=(trusted, trusted)) as comms:
            assert [comm.trusted for comm in comms] == [trusted, trusted]

    run(main())


def test_a_context_that_verifies_nobody_trusts_nobody(run):
    async def main():
        blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        blind.check_hostname = False
        blind.verify_mode = ssl.CERT_NONE
        listening = {"ssl_context": secure(mutual=False).listening}
        served = asyncio.get_running_loop().create_future()
        async with (
            dc.listen(LOOPBACK, served.set_result, connection_args=listening) as listener,
            await dc.connect(
                listener.contact_address, connection_args={"ssl_context": blind}
            ) as client,
        ):
            assert not client.trusted
            assert not (await served).trusted
            (await served).abort()

    run(main())


def test_extra_info_has_the_certificate_and_the_cipher(run):
    async def main():
        async with pair() as comms:
            for comm in comms:
                names = dict(comm.extra_info["peercert"]["subjectAltName"])
                assert names == {"DNS": "localhost", "IP Address": "127.0.0.1"}
                assert comm.extra_info["cipher"][1] == "TLSv1.3"
                assert comm.extra_info["peer"].says_goodbye

    run(main())


# -- what is asked for, and how --------------------------------------------------------


def test_the_host_name_that_was_dialled_is_checked(run):
    async def main():
        async with dc.listen(LOOPBACK, echo, security=secure(leaf=issue("localhost"))) as here:
            port = port_of(here)
            async with await dc.connect(f"tls://localhost:{port}", security=secure()):
                pass
            with pytest.raises(dc.TLSError, match=r"certificate is not for '127\.0\.0\.1'"):
                await dc.connect(f"tls://127.0.0.1:{port}", security=secure())
            unchecked = secure(check_hostname=False)
            async with await dc.connect(f"tls://127.0.0.1:{port}", security=unchecked):
                pass

    run(main())


@pytest.mark.parametrize("how", ["security", "connection_args"])
def test_another_host_name_may_be_expected(run, how):
    async def main():
        leaf = issue("worker.example")
        async with dc.listen(LOOPBACK, echo, security=secure(leaf=leaf)) as here:
            if how == "security":
                arguments = {"security": secure(server_hostname="worker.example")}
            else:
                context = secure().connecting
                given = {"ssl_context": context, "server_hostname": "worker.example"}
                arguments = {"connection_args": given}
            async with await dc.connect(here.contact_address, **arguments):
                pass

    run(main())


def test_connection_args_as_dask_documents_them(run):
    async def main():
        listening = {"ssl_context": secure().listening, "require_encryption": True}
        dialling = {"ssl_context": secure().connecting, "require_encryption": True}
        async with (
            dc.listen(LOOPBACK, echo, connection_args=listening) as listener,
            await dc.connect(listener.contact_address, connection_args=dialling) as comm,
        ):
            await comm.write("hello")
            assert await comm.read() == "hello"

    run(main())


def test_where_encryption_is_required_tcp_is_refused(run):
    async def main():
        for arguments in (
            {"security": secure()},
            {"connection_args": {"require_encryption": True}},
        ):
            with pytest.raises(ValueError, match=r"'tcp://127\.0\.0\.1:0' is not encrypted, and"):
                dc.listen("tcp://127.0.0.1:0", echo, **arguments)
            with pytest.raises(ValueError, match=r"'127\.0\.0\.1:1' is not encrypted, and"):
                await dc.connect("127.0.0.1:1", **arguments)

    run(main())


def test_elsewhere_certificates_are_not_in_the_way(run):
    async def main():
        lax = secure(require_encryption=False)
        for address, security in [("tcp://127.0.0.1:0", lax), ("inproc://", secure())]:
            async with (
                dc.listen(address, echo, security=security) as listener,
                await dc.connect(listener.contact_address, security=security) as comm,
            ):
                await comm.write("hello")
                assert await comm.read() == "hello"

    run(main())


def test_without_certificates_the_error_says_what_to_pass(run):
    async def main():
        with pytest.raises(ValueError, match=r"pass security=Security\(ca=…, cert=…"):
            dc.listen(LOOPBACK, echo)
        with pytest.raises(ValueError, match=r"pass security=Security\(ca=…, cert=…"):
            await dc.connect("tls://127.0.0.1:1")

    run(main())


def test_addresses_are_those_of_tcp(run):
    assert dc.get_address_host_port("tls://10.0.0.1:8786") == ("10.0.0.1", 8786)
    assert dc.resolve_address("tls://localhost:8786") == "tls://127.0.0.1:8786"
    assert dc.get_local_address_for("tls://127.0.0.1:8786") == "tls://127.0.0.1"

    async def main():
        async with dc.listen("tls://", echo, security=secure(), contact_host="localhost") as here:
            assert here.listen_address == f"tls://0.0.0.0:{port_of(here)}"
            assert here.contact_address == f"tls://localhost:{port_of(here)}"
            async with await dc.connect(here.contact_address, security=secure()) as comm:
                assert comm.peer_address.startswith("tls://")
                assert comm.same_host

    run(main())


# -- real second processes ----------------------------------------------------------------

PEER = """
import json, sys, distributed_comm as dc

async def main(address, fields):
    security = dc.Security(**fields)
    async with await dc.connect(address, security=security) as comm:
        assert comm.trusted
        await comm.write({"bytes": bytes(5_000_000), "set": {1, 2}})
        assert await comm.read() == {"bytes": bytes(5_000_000), "set": {1, 2}}

dc.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""


@pytest.mark.parametrize("temporary", [True, False])
def test_a_second_process_with_the_same_certificates(run, temporary, tmp_path):
    if temporary:
        security = dc.Security.temporary()
        names = ("ca", "cert", "key", "server_hostname")
        fields = {name: getattr(security, name) for name in names}
    else:  # files this time
        security, fields = secure(), {}
        for name, text in {"ca": ca_text(), **texts(issue())}.items():
            (tmp_path / name).write_text(text)
            fields[name] = str(tmp_path / name)

    async def main():
        async with dc.listen(LOOPBACK, echo, security=security) as listener:
            command = [sys.executable, "-c", PEER, listener.contact_address, json.dumps(fields)]
            process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
            _, errors = await process.communicate()
            assert (process.returncode, errors) == (0, b"")

    run(main())


# -- calls --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["security", "connection_args"])
def test_servers_and_rpc(run, how):
    def add(x, y):
        return Point(x + y)

    async def main():
        security = secure()
        if how == "security":
            listening = dialling = {"security": security}
        else:
            listening = security.listen_args()  # as Dask's are passed
            dialling = {"connection_args": security.connection_args()}
        async with dc.Server({"add": add}, **dialling) as server:
            await server.listen(LOOPBACK, **listening)
            remote = dc.rpc(server.address, **dialling)
            assert await remote.add(x=1, y=2) == Point(3)
            await remote.close_rpc()
            assert await server.rpc(server.address).add(x=1, y=2) == Point(3)

    run(main())
