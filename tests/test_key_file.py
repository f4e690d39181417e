"""The user's key: made once, theirs alone, and refused where it may not be."""

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from peers import LOOPBACK, echo

import distributed_comm as dc
from distributed_comm import security
from distributed_comm.security import find_key, key_file, make_key

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes and users of Unix")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The configuration folder of a user without a key, in a process that has read none."""
    monkeypatch.delenv("DISTRIBUTED_COMM_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    security._key_of_user.cache_clear()
    yield tmp_path / "config"
    security._key_of_user.cache_clear()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_on_first_use_for_its_owner_alone(home):
    umask = os.umask(0)
    try:
        key = find_key()
    finally:
        os.umask(umask)
    assert key_file() == home / "distributed_comm" / "key"
    assert mode(key_file()) == 0o600
    assert mode(key_file().parent) == 0o700
    assert [file.name for file in key_file().parent.iterdir()] == ["key"]
    assert len(bytes.fromhex(key_file().read_text())) == 32
    assert find_key() == key
    security._key_of_user.cache_clear()  # as another process
    assert find_key() == key


def test_what_the_file_holds_may_be_passed_by_hand(home, monkeypatch):
    key = find_key()
    text = key_file().read_text()
    assert find_key(text) == find_key(text.encode().strip()) == key
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY", text)
    assert find_key() == key


def test_an_argument_goes_before_the_environment_and_that_before_the_file(home, monkeypatch):
    of_the_file = find_key()
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY", "of the environment")
    of_the_environment = find_key()
    assert len({of_the_file, of_the_environment, find_key("of an argument")}) == 3
    assert find_key("") is None
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY", "")
    assert find_key() is None


def test_importing_and_inproc_need_no_key(home, run):
    async def main():
        async with (
            dc.listen("inproc://", echo) as listener,
            await dc.connect(listener.contact_address) as comm,
        ):
            await comm.write("here")

    run(main())
    assert not home.exists()


def test_who_trusts_nobody_needs_no_key(home):
    dc.listen(LOOPBACK, echo, trusted=False)
    assert not home.exists()


RACE = """
import sys
from distributed_comm.security import find_key
sys.stdin.readline()
print(find_key().hex())
"""


def test_processes_that_make_it_at_once_have_the_same(home):
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home)}
    command = [sys.executable, "-c", RACE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(6)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    keys = {process.communicate()[0] for process in processes}
    assert keys == {f"{find_key().hex()}\n"}
    assert [file.name for file in key_file().parent.iterdir()] == ["key"]


def test_one_that_another_process_has_just_made_stays(home, monkeypatch):
    def link(draft, path):
        path.write_text("the faster one's")
        path.chmod(0o600)
        real(draft, path)

    real = os.link
    monkeypatch.setattr(os, "link", link)
    assert find_key() == find_key("the faster one's")


# What is refused


@pytest.mark.parametrize("wrong", [0o640, 0o604, 0o620, 0o644, 0o660, 0o601])
def test_one_that_others_can_read_or_write_is_refused_with_what_mends_it(home, run, wrong):
    key = find_key()
    security._key_of_user.cache_clear()
    key_file().chmod(wrong)
    with pytest.raises(dc.KeyFileError) as caught:
        dc.listen(LOOPBACK, echo)
    assert str(key_file()) in str(caught.value)
    assert f"mode {wrong:04o}" in str(caught.value)
    command = str(caught.value).rpartition("`")[0].rpartition("`")[2]
    assert command == f"chmod 600 {key_file()}"

    async def main():
        with pytest.raises(dc.KeyFileError):  # at once, and not after all attempts
            await dc.connect("tcp://127.0.0.1:1")

    run(main())
    subprocess.run(command.split(), check=True)
    assert find_key() == key  # the error was not kept


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives a file away")
def test_one_of_another_user_is_refused(home):
    find_key()
    security._key_of_user.cache_clear()
    os.chown(key_file(), 12345, 12345)
    with pytest.raises(dc.KeyFileError, match="belongs to user 12345"):
        find_key()


def test_one_that_is_empty_is_refused(home):
    make_key(key_file())
    key_file().write_text("\n")
    with pytest.raises(dc.KeyFileError, match="is empty"):
        find_key()


def test_a_pipe_in_its_place_is_refused_and_not_waited_for(home):
    key_file().parent.mkdir(parents=True)
    os.mkfifo(key_file(), 0o600)
    with pytest.raises(dc.KeyFileError, match="no regular file"):
        find_key()


# Without a home


@pytest.mark.parametrize("folder", ["/dev/null", "/proc/self/nothing"])
def test_without_a_place_for_it_nobody_is_trusted_and_that_is_said_once(
    home, run, monkeypatch, caplog, folder
):
    monkeypatch.setenv("XDG_CONFIG_HOME", folder)

    async def main():
        served = []
        for _ in range(2):
            async with dc.listen(LOOPBACK, served.append) as listener:
                client = await dc.connect(listener.contact_address)
                assert not client.trusted
                client.abort()
        for server in served:
            server.abort()

    run(main())
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert folder in record.getMessage()
    assert "not trusted; set DISTRIBUTED_COMM_KEY" in record.getMessage()


@pytest.mark.parametrize("folder", ["", "relative/folder"])
def test_a_configuration_folder_that_means_nothing_is_the_usual_one(home, monkeypatch, folder):
    monkeypatch.setenv("XDG_CONFIG_HOME", folder)
    monkeypatch.setenv("HOME", str(home))
    assert key_file() == home / ".config/distributed_comm/key"


# The command


def command(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distributed_comm", *args],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_says_where_it_is_and_makes_one(home):
    first, second = command("key"), command("key")
    assert first.stdout == f"{key_file()}: made\n", first.stderr
    assert second.stdout == f"{key_file()}: there\n"
    assert (first.returncode, second.returncode) == (0, 0)
    secret = key_file().read_text().strip()
    assert secret not in first.stdout + second.stdout


def test_the_command_says_that_the_environment_goes_before(home):
    done = command("key", DISTRIBUTED_COMM_KEY="secret")
    assert "DISTRIBUTED_COMM_KEY is set, and goes before the file" in done.stdout
    assert "secret" not in done.stdout


def test_the_command_says_what_is_wrong(home):
    make_key(key_file())
    key_file().chmod(0o644)
    done = command("key")
    assert done.returncode == 1
    assert f"chmod 600 {key_file()}" in done.stderr
    assert "Traceback" not in done.stderr
    done = command("key", XDG_CONFIG_HOME="/dev/null")
    assert done.returncode == 1
    assert "/dev/null" in done.stderr


def test_a_command_that_there_is_not():
    done = command("kay")
    assert done.returncode == 2
    assert "key" in done.stderr
