"""unix://: where the socket is, whose it is, and that a live one is never stolen."""

import asyncio
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from loops import settle
from peers import OUR_HELLO, Raw, check_echo, echo, pack

import distributed_comm as dc
from distributed_comm._transports import unix_sockets

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract names")
as_root = pytest.mark.skipif(getattr(os, "geteuid", int)() != 0, reason="becomes another user")

NAME = f"@distributed_comm-test-{os.getpid()}"


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "socket"


@pytest.fixture(params=["a path", pytest.param("a name", marks=on_linux), "of its own"])
def address(request, path):
    return {"a path": f"unix://{path}", "a name": f"unix://{NAME}", "of its own": "unix://"}[
        request.param
    ]


async def both(address, **kwargs):
    """Return both ends of a connection, and the address that was dialled."""
    served = asyncio.get_running_loop().create_future()
    async with dc.listen(address, served.set_result, **kwargs) as listener:
        client = await dc.connect(listener.contact_address, timeout=5)
        return await served, client, listener.contact_address


# The peer


def test_a_process_of_our_user_is_trusted_without_a_key(run, kernels, address):
    async def main():
        server, client, dialled = await both(address)
        assert dialled.startswith(address)
        for here, there in ((server, client), (client, server)):
            assert here.trusted
            assert here.same_host
            assert here.extra_info["uid"] == os.geteuid()
            assert here.extra_info["pid"] == os.getpid()
            await here.write(Fraction(1, 3))
            assert await there.read() == Fraction(1, 3)
        assert client.peer_address == server.local_address == dialled
        assert client.local_address == server.peer_address == f"unix://pid={os.getpid()}"
        await asyncio.gather(server.close(), client.close())

    run(main())


def test_nobody_is_trusted_where_that_was_said(run, address):
    async def main():
        server, client, _ = await both(address, trusted=False)
        assert not server.trusted
        assert client.trusted
        server.abort()
        client.abort()

    run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_peer_is_known_by_its_process(run, path):
    program = "import sys, socket; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"
    program += "; s.sendall(bytes.fromhex(sys.argv[2])); sys.stdin.read()"

    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(f"unix://{path}", served.set_result):
            command = [sys.executable, "-c", program, str(path), OUR_HELLO.hex()]
            process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE)
            comm = await served
            assert comm.extra_info["pid"] == process.pid
            assert comm.peer_address == f"unix://pid={process.pid}"
            comm.abort()
            await process.communicate(b"")

    run(main())


AS_ANOTHER_USER = """
import asyncio, os, sys
import distributed_comm as dc
import distributed_comm._transports.unix  # now, for the other user may not read it

async def main():
    async with await dc.connect(sys.argv[1], 10, key=sys.argv[2]) as comm:
        print(comm.trusted, comm.extra_info["uid"], await comm.read())
        try:
            await comm.write(sys)
        except dc.UntrustedError:
            print("refused")

os.setresuid(12345, 12345, 12345)
asyncio.run(main())
"""


@as_root
@on_linux
@pytest.mark.parametrize("key", ["", "the same"])
def test_another_user_is_trusted_by_the_key_alone(run, key):
    """Over an abstract name, since nobody else may open the path of a socket of ours."""

    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(f"unix://{NAME}", served.set_result, key="the same") as listener:
            command = [sys.executable, "-c", AS_ANOTHER_USER, listener.contact_address, key]
            process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            async with asyncio.timeout(10):
                comm = await served
            assert comm.extra_info["uid"] == 12345
            assert comm.trusted == bool(key)
            await comm.write("plain")
            said, _ = await process.communicate()
            comm.abort()
        assert said.startswith(f"{bool(key)} {os.geteuid()} plain\n".encode())
        assert (b"refused" in said) == (not key)

    run(main())


def test_users_without_a_number_do_not_trust_each_other(monkeypatch):
    """In a user namespace all who are not mapped look like this one."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert not unix_sockets.uid_is_ours(65534)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert unix_sockets.uid_is_ours(1000)
    assert not unix_sockets.uid_is_ours(1001)
    assert not unix_sockets.uid_is_ours(None)


# The socket


def test_it_is_this_users_alone_and_goes_with_its_listener(run, tmp_path):
    path = tmp_path / "made" / "socket"

    async def main():
        async with dc.listen(f"unix://{path}", echo) as listener:
            assert listener.listen_address == listener.contact_address == f"unix://{path}"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            await check_echo(f"unix://{path}")
        assert list(path.parent.iterdir()) == []
        listener.stop()

    umask = os.umask(0)
    try:
        run(main())
    finally:
        os.umask(umask)


def test_one_of_its_own_is_new_each_time_and_leaves_nothing(run):
    async def main():
        async with dc.listen("unix://", echo) as one, dc.listen("unix://", echo) as two:
            assert one.contact_address != two.contact_address
            folder = Path(one.contact_address.removeprefix("unix://")).parent
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            await check_echo(one.contact_address)
        assert not folder.exists()

    run(main())


def test_a_live_one_is_never_stolen(run, address):
    async def main():
        async with dc.listen(address, echo) as listener:
            there = listener.contact_address
            for _ in range(2):
                with pytest.raises(OSError, match="in use") as caught:
                    await dc.listen(there, echo)
                assert there in str(caught.value)
            await check_echo(there)
        async with dc.listen(there, echo):
            await check_echo(there)

    run(main())


@pytest.mark.parametrize("full", [False, True])
def test_a_live_one_of_a_program_that_knows_no_lock_is_not_stolen_either(run, path, full):
    async def main():
        with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
            other.bind(str(path))
            other.listen(0)
            if full:
                waiting.connect(str(path))
            with pytest.raises(OSError, match="in use"):
                await dc.listen(f"unix://{path}", echo)
        assert [file.name for file in path.parent.iterdir()] == ["socket"]

    run(main())


LISTENING = """
import asyncio, sys
import distributed_comm as dc

async def main():
    async with dc.listen(sys.argv[1], print):
        print("listening", flush=True)
        await asyncio.Event().wait()

dc.run(main())
"""


def test_one_that_a_killed_process_left_is_cleaned_up(run, path):
    command = [sys.executable, "-c", LISTENING, f"unix://{path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"listening\n"
            with pytest.raises(OSError, match="in use"):
                run(start_and_stop(path))
        finally:
            process.send_signal(signal.SIGKILL)
    assert path.exists()

    async def main():
        async with dc.listen(f"unix://{path}", echo):
            await check_echo(f"unix://{path}")

    run(main())
    assert not path.exists()


async def start_and_stop(path):
    (await dc.listen(f"unix://{path}", echo)).stop()


COMPETING = """
import sys
import distributed_comm as dc

listener = dc.listen(sys.argv[1], print)
sys.stdin.readline()
try:
    listener.bind()
except OSError as exc:
    print(exc, flush=True)
else:
    print("listens", flush=True)
    sys.stdin.readline()
    listener.stop()
"""


def test_of_processes_that_clean_up_at_once_one_listens(path):
    command = [sys.executable, "-c", COMPETING, f"unix://{path}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.communicate()
    assert found.count("listens") == 1
    assert all("in use" in text for text in found if text != "listens")
    assert not path.exists()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_no_socket_is_left_alone(run, path, what):
    path.write_text("precious") if what == "file" else path.mkdir()

    async def main():
        with pytest.raises(FileExistsError, match="is there, and is no socket"):
            await dc.listen(f"unix://{path}", echo)

    run(main())
    assert [file.name for file in path.parent.iterdir()] == ["socket"]


def test_a_socket_that_took_the_place_of_ours_stays(run, path):
    async def main():
        async with dc.listen(f"unix://{path}", echo):
            path.unlink()
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(path))
        assert path.exists()

    run(main())


def test_a_forked_child_removes_nothing(run, path):
    async def main():
        listener = await dc.listen(f"unix://{path}", echo)
        child = os.fork()
        if not child:
            listener.stop()
            os._exit(0)
        os.waitpid(child, 0)  # noqa: ASYNC222 - it is short
        with pytest.raises(OSError, match="in use"):
            await dc.listen(f"unix://{path}", echo)
        await check_echo(f"unix://{path}")
        listener.stop()

    run(main())


# Addresses

WRONG = {
    "unix://relative": "expected a path from / on, or on Linux @ and a name",
    "unix:///a\0b": "a zero in it",
    f"unix:///{'d' * 107}/s": r"has 110 bytes, and the system takes 10[37] at most",
    f"unix://@{'n' * 200}": r"has 201 bytes, and the system takes 10[37] at most",
}


@pytest.mark.parametrize("address", WRONG)
def test_an_address_that_cannot_be_is_refused_by_name(run, address):
    async def main():
        with pytest.raises(ValueError, match=WRONG[address]):
            await dc.connect(address)

    with pytest.raises(ValueError, match=WRONG[address]):
        dc.listen(address, echo)
    run(main())


@on_linux
def test_the_longest_path_works(run, tmp_path):
    address = f"unix://{tmp_path / 's'}"
    address += "s" * (107 - len(os.fsencode(address.removeprefix("unix://"))))

    async def main():
        async with dc.listen(address, echo):
            await check_echo(address)

    run(main())


def test_dialling_needs_a_path(run):
    async def main():
        with pytest.raises(ValueError, match="expected a path"):
            await dc.connect("unix://")

    run(main())


def test_nobody_there_is_tried_again_until_somebody_is(run, path):
    async def main():
        with pytest.raises(OSError, match=f"No such file or directory by unix://{path}"):
            await dc.connect(f"unix://{path}", timeout=0.05)
        dialling = asyncio.create_task(check_echo(f"unix://{path}"))
        await settle()
        async with dc.listen(f"unix://{path}", echo):
            await dialling

    run(main())


def test_the_functions_of_addresses(path):
    address = f"unix://{path}"
    assert dc.parse_address(address) == ("unix", str(path))
    assert dc.resolve_address(address) == address
    assert dc.get_local_address_for(address) == "unix://"
    assert dc.get_address_host(address)
    with pytest.raises(ValueError, match="unix does not use IP"):
        dc.get_address_host_port(address)


# Where Unix sockets are not like TCP's


def test_a_full_backlog_is_waited_for(run, path):
    """A connect that does not block fails there, and the loop would take it for connected."""

    async def main():
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
            listening.bind(str(path))
            listening.listen(0)
            first.connect(str(path))
            dialling = asyncio.create_task(dc.connect(f"unix://{path}", timeout=20))
            await settle(100)
            assert not dialling.done()
            listening.accept()[0].close()
            accepted = await asyncio.to_thread(listening.accept)
            raw = Raw(accepted[0])
            await raw.send(OUR_HELLO + pack("at last"))
            comm = await dialling
            assert await comm.read() == "at last"
            comm.abort()
            raw.close()

    run(main())


def test_a_storm_of_connects(run, address):
    async def main():
        async with dc.listen(address, echo) as listener:
            await asyncio.gather(*(check_echo(listener.contact_address) for _ in range(300)))

    run(main())


def test_a_large_message_to_a_slow_reader_and_an_end_in_the_middle(run, path, caplog):
    async def main():
        server, client, _ = await both(f"unix://{path}")
        writing = asyncio.create_task(client.write(bytes(50_000_000)))
        await settle(100)
        assert not writing.done()
        assert len(await server.read()) == 50_000_000
        await writing
        writing = asyncio.create_task(server.write(bytes(50_000_000)))
        await settle(3)
        client.abort()
        with pytest.raises(dc.CommClosedError):
            await writing
        server.abort()

    caplog.set_level(logging.INFO)
    run(main())
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []


# A folder that cannot be


def test_a_folder_that_cannot_be_made_is_said_with_the_address(run, tmp_path):
    path = tmp_path / "neither" / "nor" / "socket"

    async def main():
        with pytest.raises(FileNotFoundError) as caught:
            await dc.listen(f"unix://{path}", echo)
        text = str(caught.value)
        assert f"unix://{path}: its folder cannot be made" in text
        assert f"`mkdir -p {path.parent}`" in text

    run(main())
    path.parent.mkdir(parents=True)

    async def again():
        async with dc.listen(f"unix://{path}", echo) as listener:
            await check_echo(listener.contact_address)

    run(again())


def test_a_folder_that_is_none_is_said_with_the_address(run, path):
    path.write_text("no folder")

    async def main():
        with pytest.raises(NotADirectoryError, match=f"unix://{path}/socket: expected a folder"):
            await dc.listen(f"unix://{path}/socket", echo)

    run(main())
